//! `pgbench`, with its own tables and scripts.

use super::{Theatre, program};
use crate::support::{Database, postgres};

fn pgbench(database: &Database, arguments: &[&str]) {
    let mut command = program("pgbench", database);
    command.args(arguments);
    let output = crate::support::lifetime::run(&command);
    assert!(output.status.success(), "pgbench {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes tables with these options, runs all three scripts, and compares.
async fn rebuilt(initialise: &'static [&'static str], transactions: &'static str) {
    let database = postgres().database().await;
    database.execute(include_str!("track.sql")).await;
    let mut theatre = Theatre::open(database.clone(), "foreign_test").await;
    let work = move || {
        pgbench(&database, &[&["-i", "-q", "-s", "1"], initialise].concat());
        for script in ["tpcb-like", "simple-update", "select-only"] {
            pgbench(&database, &["-n", "-b", script, "-c", "4", "-j", "2", "-t", transactions]);
        }
    };
    theatre.play(3, work).await;
    let (tables, rows) = theatre.compare(&[]).await;
    let history = 2 * 4 * transactions.parse::<usize>().expect("a number");
    assert_eq!(rows, 1 + 10 + 100_000 + history, "branches, tellers, accounts and history");
    println!("{tables} tables, {rows} rows; {:?}, {} repeated", theatre.mirror.ops(), theatre.mirror.repeated());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pgbench_with_foreign_keys_is_rebuilt_from_its_events() {
    rebuilt(&["--foreign-keys"], "250").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pgbench_with_partitions_is_rebuilt_from_its_events() {
    rebuilt(&["--partitions=5", "--partition-method=hash", "--foreign-keys"], "100").await;
}

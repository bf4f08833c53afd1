//! PostgreSQL's own regression suite, as `scripts/lib/regression-suite` gets it: what of it writes, statements of every kind.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Theatre, program};
use crate::support::{Database, PostgresServer};

/// Scripts that are about something else than one database's tables, would take our event trigger or publication away, or
/// read large tables rather than write.
#[rustfmt::skip]
const LEFT_OUT: &[&str] = &[
    "tablespace", "publication", "subscription", "event_trigger", "infinite_recurse", "database", "vacuum_parallel",
    "maintain_every", "aggregates", "collate", "collate.icu.utf8", "collate.linux.utf8", "incremental_sort", "join", "join_hash",
    "partition_join", "partition_prune", "psql", "stats", "stats_ext", "subselect",
];

/// A script with fewer lines that write is left out, too.
const WRITES_MIN: usize = 8;

/// Tables whose rows PostgreSQL shows in another way than when they were written, with no statement about the table: of the
/// column's composite type, an attribute was dropped and another one added.
const EXCUSED: &[&str] = &[r#"["public", "test_tbl3"]"#];

/// The suite of the newest version that is there; that of the system's server.
fn suite() -> PathBuf {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/regress");
    let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let versions = fs::read_dir(&all).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let newest = versions.filter(|path| path.join("parallel_schedule").exists()).max_by_key(version);
    newest.unwrap_or_else(|| panic!("no suite in {}: run scripts/lib/regression-suite", all.display()))
}

/// The scripts in their order.
fn scripts(suite: &Path) -> Vec<PathBuf> {
    let schedule = fs::read_to_string(suite.join("parallel_schedule")).expect("the schedule");
    let groups = schedule.lines().filter_map(|line| line.strip_prefix("test: "));
    let names = groups.flat_map(str::split_whitespace).filter(|name| !LEFT_OUT.contains(name));
    let scripts = names.map(|name| suite.join("sql").join(format!("{name}.sql")));
    scripts.filter(|script| writes(script) >= WRITES_MIN).collect()
}

fn writes(script: &Path) -> usize {
    const WORDS: [&str; 6] = ["insert", "update", "delete", "copy", "truncate", "merge"];
    let text = fs::read(script).unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    let text = String::from_utf8_lossy(&text).to_lowercase();
    let is_write = |line: &&str| WORDS.contains(&line.split_whitespace().next().unwrap_or_default());
    text.lines().filter(is_write).count()
}

/// Runs all scripts, whose statements fail where they should, and some where the suite's C library is missing.
fn apply(database: &Database, suite: &Path) {
    // The server reads the data: what it may read is beside its own files.
    let data = crate::support::folder("regress");
    let copied = std::process::Command::new("cp").arg("-r").arg(suite.join("data")).arg(&data).status();
    assert!(copied.expect("run cp").success());
    fs::create_dir(data.join("results")).expect("a folder");
    std::process::Command::new("chmod").args(["-R", "a+rwX"]).arg(&data).status().expect("run chmod");
    for script in scripts(suite) {
        let mut psql = program("psql", database);
        psql.args(["-X", "-q", "-f"]).arg(&script);
        psql.env("PG_ABS_SRCDIR", &data)
            .env("PG_ABS_BUILDDIR", &data)
            .env("PG_LIBDIR", &data)
            .env("PG_DLSUFFIX", ".so");
        psql.env("PGTZ", "PST8PDT").env("PGDATESTYLE", "Postgres, MDY").current_dir(&data);
        let start = std::time::Instant::now();
        let output = crate::support::lifetime::run(&psql);
        println!("{} in {:?}", script.display(), start.elapsed());
        let what = || format!("{}: {}", script.display(), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}", what());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_table_of_the_regression_suite_is_rebuilt_from_its_events() {
    let suite = suite();
    let settings = [("max_prepared_transactions", "2"), ("max_wal_size", "4GB")];
    let postgres = PostgresServer::private(&settings);
    let database = postgres.database().await;
    database.execute(include_str!("track.sql")).await;
    let settings = format!("ALTER DATABASE {} SET bytea_output = hex", database.name());
    database.execute(&settings).await;
    let mut theatre = Theatre::open(database.clone(), "foreign_test").await;
    theatre.play(4, move || apply(&database, &suite)).await;
    let (tables, rows) = theatre.compare(EXCUSED).await;
    println!("{tables} tables, {rows} rows; {:?}, {} repeated", theatre.mirror.ops(), theatre.mirror.repeated());
    assert!(tables > 300 && rows > 100_000, "{tables} tables, {rows} rows");
    assert!(
        ["update", "delete", "truncate"].iter().all(|op| theatre.mirror.ops()[*op] > 10),
        "{:?}",
        theatre.mirror.ops()
    );
}

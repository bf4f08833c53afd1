//! Writes a workload's rows, as fast as the server takes them; or in step with the clock.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::rows::Row;
use super::tables::TABLES;
use super::{TRANSACTION_ROWS, Workload};
use crate::support::Database;
use crate::wire::postgres::{Address, Connection};

/// Writes so many rows; two connections at a time where there are many transactions.
pub(crate) async fn generate(database: &Database, workload: Workload, rows: u64) {
    let client = database.client().await;
    let execute = async |sql: String| {
        let client = database.client().await;
        let done = client.batch_execute(&format!("SET synchronous_commit = off; {sql}")).await;
        done.unwrap_or_else(|error| panic!("{error}: {:?}", error.as_db_error()));
    };
    let (from, to) = ("1".to_owned(), rows.to_string());
    let middle = (rows / 2 / TRANSACTION_ROWS * TRANSACTION_ROWS).max(1);
    let halves = [(1, middle), (middle + 1, rows)];
    let both = async |sql: &dyn Fn(u64, u64) -> String| {
        // Each on a connection of its own; a statement with a COMMIT in it must be alone in its query.
        let [first, second] = halves.map(|(from, to)| transactions(database, sql(from, to)));
        futures_util::future::join(first, second).await;
    };
    match workload {
        Workload::OneRow => {
            let values = Row::order().values();
            both(&|from, to| looped(from, to, 1, &format!("INSERT INTO load SELECT {values} FROM (VALUES (f)) v(i);")))
                .await;
        }
        Workload::Thousand | Workload::Wide | Workload::Outbox | Workload::Restart => {
            let (table, row) = match workload {
                Workload::Wide => ("load", Row::wide()),
                Workload::Outbox => ("outbox", Row::outbox()),
                _ => ("load", Row::order()),
            };
            let values = row.values();
            let insert = format!("INSERT INTO {table} SELECT {values} FROM generate_series(f, least(t, f + 999)) i;");
            both(&|from, to| looped(from, to, TRANSACTION_ROWS, &insert)).await;
        }
        Workload::FullUpdates => {
            let update =
                "UPDATE load SET status = 'shipped', is_gift = NOT is_gift WHERE id BETWEEN f AND least(t, f + 999);";
            both(&|from, to| looped(from, to, TRANSACTION_ROWS, update)).await;
        }
        Workload::Giant => {
            let values = Row::order().values();
            execute(format!("INSERT INTO load SELECT {values} FROM generate_series({from}, {to}::bigint) i")).await;
        }
        Workload::FanOut => {
            let values = Row::order().values();
            let insert = |index| format!("INSERT INTO fan_{index:04} SELECT {values};");
            let inserts: String = (0..TABLES).map(insert).collect();
            let create = format!("CREATE PROCEDURE fill(i bigint) LANGUAGE plpgsql AS $p$ BEGIN {inserts} END $p$");
            client.batch_execute(&create).await.expect("create a procedure");
            transactions(database, looped(1, rows, TRANSACTION_ROWS, "CALL fill(f);")).await;
        }
        Workload::Latency | Workload::Outage => {}
    }
}

async fn transactions(database: &Database, sql: String) {
    let client = database.client().await;
    client.batch_execute("SET synchronous_commit = off").await.expect("set");
    let done = client.batch_execute(&sql).await;
    done.unwrap_or_else(|error| panic!("{error}: {:?}", error.as_db_error()));
}

/// A transaction for each step; `f` is where it begins, `t` the last row of all.
fn looped(from: u64, to: u64, step: u64, body: &str) -> String {
    format!(
        "DO $$ DECLARE f bigint := {from}; t bigint := {to}; BEGIN
         WHILE f <= t LOOP {body} COMMIT; f := f + {step}; END LOOP; END $$"
    )
}

/// Commits transactions of `rows` rows at a fixed rate until `stop`, from this id on; `committed` is told of each, with
/// its ids and when its commit was acknowledged. Returns how far it fell behind the clock at worst.
pub(crate) fn commit_paced(
    address: &Address,
    database: &str,
    rows: u64,
    every: Duration,
    (stop, last): (&AtomicBool, &AtomicU64),
    mut committed: impl FnMut(std::ops::RangeInclusive<u64>, Instant),
) -> std::io::Result<Duration> {
    let mut connection = Connection::open(address, database, None)?;
    // Else the WAL writer decides when what was committed can be read: every 200 ms.
    connection.execute("SET synchronous_commit = on")?;
    let values = Row::order().values();
    let prepare =
        format!("PREPARE load(bigint, bigint) AS INSERT INTO load SELECT {values} FROM generate_series($1, $2) i");
    connection.execute(&prepare)?;
    let begin = Instant::now();
    let mut behind = Duration::ZERO;
    for turn in 0_u32.. {
        let due = begin + every * turn;
        let now = Instant::now();
        behind = behind.max(now.saturating_duration_since(due));
        std::thread::sleep(due.saturating_duration_since(now));
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let first = last.load(Ordering::Relaxed) + 1;
        let through = first + rows - 1;
        connection.execute(&format!("EXECUTE load({first}, {through})"))?;
        last.store(through, Ordering::Relaxed);
        committed(first..=through, Instant::now());
    }
    Ok(behind)
}

//! A load on the ledger that goes on whatever happens to the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use super::Database;

/// How long a server may be away.
const PATIENCE: Duration = Duration::from_mins(2);

/// Small and middling transactions, some with savepoints, some rolled back, until it is stopped. One that fails with
/// its connection may have been committed or not: the ledger knows.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    /// As fast as the server takes them.
    pub(crate) fn start(database: &Database) -> Self {
        Self::paced(database, Duration::ZERO)
    }

    /// One that leaves time for other things: each writer begins a transaction at most so often.
    pub(crate) fn paced(database: &Database, every: Duration) -> Self {
        Self::paced_at(&database.url(), every)
    }

    /// [`Self::paced`] on several hosts: the one that takes writes is found, again and again.
    pub(crate) fn paced_at(url: &str, every: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let writers = (0..3).map(|writer| {
            let (stop, url) = (Arc::clone(&stop), url.to_owned());
            tokio::spawn(async move {
                while let Some(client) = connect(&url, &stop).await {
                    write(&client, writer, every, &stop).await;
                }
            })
        });
        Self { writers: writers.collect(), stop }
    }

    pub(crate) async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.expect("a writer of the load");
        }
    }
}

/// None once the load is to stop.
async fn connect(url: &str, stop: &AtomicBool) -> Option<Client> {
    let separator = if url.contains('?') { '&' } else { '?' };
    let url = format!("{url}{separator}target_session_attrs=read-write");
    let end = Instant::now() + PATIENCE;
    while !stop.load(Ordering::Relaxed) {
        match tokio_postgres::connect(&url, NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return Some(client);
            }
            Err(error) => assert!(Instant::now() < end, "no server takes writes: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    None
}

/// Returns when a transaction has failed, or the load is to stop.
async fn write(client: &Client, writer: u64, every: Duration, stop: &AtomicBool) {
    for turn in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let rows = if turn % 10 == 0 { 200 } else { 1 + turn % 7 };
        let end = if turn % 5 == writer { "ROLLBACK" } else { "COMMIT" };
        let sql = format!(
            "BEGIN; INSERT INTO ledger (filler) SELECT 'kept' FROM generate_series(1, {rows});
             SAVEPOINT s; INSERT INTO ledger (filler) SELECT 'undone' FROM generate_series(1, {rows});
             ROLLBACK TO s; INSERT INTO ledger (filler) VALUES ('kept'); {end}"
        );
        let pace = tokio::time::sleep(every);
        if client.batch_execute(&sql).await.is_err() {
            return;
        }
        pace.await;
    }
}

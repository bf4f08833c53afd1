//! Cancels orders that have waited for the inventory until their deadline: the time limit on an answer that never comes.
//!
//! The deadline is in the order's row, so it outlives this process; any number of instances may sweep.

use std::convert::Infallible;
use std::time::Duration;

use messaging::Pool;
use messaging::failure::Backoff;
use tracing::{info, warn};
use uuid::Uuid;

use crate::commands::{self, TIMED_OUT};

/// How many orders are cancelled in one transaction.
const BATCH: usize = 100;

/// Sweeps for ever.
pub async fn run(pool: &Pool, lock_timeout: Duration) -> Infallible {
    let pause = (lock_timeout / 10).clamp(Duration::from_millis(20), Duration::from_secs(1));
    let mut backoff = Backoff::new();
    loop {
        match sweep(pool).await {
            Ok(cancelled) => {
                backoff = Backoff::new();
                if cancelled > 0 {
                    info!(cancelled, "orders have timed out");
                }
                if cancelled < BATCH {
                    tokio::time::sleep(pause).await;
                }
            }
            Err(error) => {
                warn!("the sweeper waits for the database: {error:#}");
                backoff.wait().await;
            }
        }
    }
}

/// Cancels some of the orders that are past their deadline. Gives how many.
///
/// # Errors
/// The database's.
pub async fn sweep(pool: &Pool) -> anyhow::Result<usize> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    // Those that are locked are just being decided.
    let sql = "SELECT id FROM orders WHERE status = 'placed' AND deadline < now()
        ORDER BY deadline LIMIT $1 FOR UPDATE SKIP LOCKED";
    let late = transaction.query(sql, &[&i64::try_from(BATCH)?]).await?;
    for row in &late {
        commands::cancel(&transaction, row.get::<_, Uuid>(0), TIMED_OUT).await?;
    }
    transaction.commit().await?;
    Ok(late.len())
}

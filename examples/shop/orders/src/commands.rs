//! What can be done with orders. Each function is a part of the caller's transaction, with the event in it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use messaging::outbox::{self, Aggregate};
use serde::Serialize;
use tokio_postgres::Transaction;
use uuid::Uuid;

use crate::events::{AGGREGATE, Line, OrderCancelled, OrderConfirmed, OrderCreated};

/// Why the member's own cancellation is one.
pub const BY_THE_MEMBER: &str = "cancelled by the member";
/// Why the sweeper's is one.
pub const TIMED_OUT: &str = "timed out";

/// How far an order is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Waits for the inventory.
    Placed,
    /// Holds.
    Confirmed,
    /// Holds no longer.
    Cancelled {
        /// Why.
        reason: String,
    },
}

/// What became of a wish to place an order.
#[derive(Debug, PartialEq, Eq)]
pub enum Placed {
    /// It is there now.
    New,
    /// It was there before, and is left as it is.
    Before,
}

/// Places an order, unless there is one of this id.
///
/// # Errors
/// The database's; a member that is not there is a violated foreign key.
pub async fn place(
    transaction: &Transaction<'_>,
    order: Uuid,
    member: i64,
    lines: &[Line],
    lock_timeout: Duration,
) -> anyhow::Result<Placed> {
    let sql =
        "INSERT INTO orders (id, member_id, status, deadline) VALUES ($1, $2, 'placed', now() + $3 * interval '1 s')
        ON CONFLICT (id) DO NOTHING RETURNING placed_at";
    let Some(row) = transaction.query_opt(sql, &[&order, &member, &lock_timeout.as_secs_f64()]).await? else {
        return Ok(Placed::Before);
    };
    let placed_at: DateTime<Utc> = row.get(0);
    let (products, quantities): (Vec<i64>, Vec<i32>) = lines.iter().map(|line| (line.product, line.quantity)).unzip();
    let sql =
        "INSERT INTO order_lines (order_id, product_id, quantity) SELECT $1, * FROM unnest($2::bigint[], $3::int[])";
    transaction.execute(sql, &[&order, &products, &quantities]).await?;
    // Known only if all prices are: a sum with a null in it would leave that line out.
    let sql = "UPDATE orders SET total = (SELECT CASE WHEN count(price) = count(*) THEN sum(price * quantity) END
        FROM order_lines LEFT JOIN product_prices USING (product_id) WHERE order_id = $1) WHERE id = $1";
    transaction.execute(sql, &[&order]).await?;
    tell(transaction, order, "OrderCreated", &OrderCreated { order, member, lines: lines.to_vec(), placed_at }).await?;
    Ok(Placed::New)
}

/// How far an order is, which nobody changes before the transaction ends. None if there is no such order.
///
/// # Errors
/// The database's.
pub async fn lock(transaction: &Transaction<'_>, order: Uuid) -> anyhow::Result<Option<Status>> {
    let sql = "SELECT status, reason FROM orders WHERE id = $1 FOR UPDATE";
    let row = transaction.query_opt(sql, &[&order]).await?;
    Ok(row.map(|row| match (row.get(0), row.get(1)) {
        (_, Some(reason)) => Status::Cancelled { reason },
        ("placed", None) => Status::Placed,
        (_, None) => Status::Confirmed,
    }))
}

/// Confirms an order that is [locked](lock) and placed.
///
/// # Errors
/// The database's.
pub async fn confirm(transaction: &Transaction<'_>, order: Uuid) -> anyhow::Result<()> {
    transaction.execute("UPDATE orders SET status = 'confirmed' WHERE id = $1", &[&order]).await?;
    tell(transaction, order, "OrderConfirmed", &OrderConfirmed { order }).await
}

/// Cancels an order that is [locked](lock) and not cancelled.
///
/// # Errors
/// The database's.
pub async fn cancel(transaction: &Transaction<'_>, order: Uuid, reason: &str) -> anyhow::Result<()> {
    let sql = "UPDATE orders SET status = 'cancelled', reason = $2 WHERE id = $1";
    transaction.execute(sql, &[&order, &reason]).await?;
    tell(transaction, order, "OrderCancelled", &OrderCancelled { order, reason: reason.to_owned() }).await
}

async fn tell(
    transaction: &Transaction<'_>,
    order: Uuid,
    event_type: &str,
    payload: &(impl Serialize + Sync),
) -> anyhow::Result<()> {
    outbox::append(transaction, Aggregate { kind: AGGREGATE, id: order }, event_type, payload).await?;
    Ok(())
}

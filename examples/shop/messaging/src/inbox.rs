//! The inbox: which messages were handled. What makes once out of at least once.
//!
//! The row is in the transaction of the effect, so either both are there or neither. A repeat that comes while the first one
//! is being handled, elsewhere, waits for the outcome: `INSERT` waits for the other transaction.
//!
//! Rows may be deleted when no repeat can come any more: older than the longest replay that you mean to make.

use tokio_postgres::Transaction;

use crate::Migration;

/// The table, for the service's list of migrations.
pub const MIGRATION: Migration = Migration { name: "messaging inbox", sql: include_str!("../migrations/inbox.sql") };

/// Notes a message that came by a queue. False if it was handled before: then there is nothing to do.
///
/// # Errors
/// The database's.
pub async fn is_new(
    transaction: &Transaction<'_>,
    queue: &str,
    message_id: &str,
) -> Result<bool, tokio_postgres::Error> {
    let sql = "INSERT INTO inbox (queue, message_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    Ok(transaction.execute(sql, &[&queue, &message_id]).await? == 1)
}

//! The outbox: an event that is committed together with the change that it tells of.
//!
//! There is nothing else to it. Nobody polls the table: pgsluice reads the insert out of the write-ahead log, and publishes
//! it with the row's id as `message_id`, whenever it has to be sent again, too.

use anyhow::Context as _;
use serde::Serialize;
use tokio_postgres::Transaction;
use uuid::Uuid;

use crate::Migration;

/// The table, for the service's list of migrations.
pub const MIGRATION: Migration = Migration { name: "messaging outbox", sql: include_str!("../migrations/outbox.sql") };

/// What an event is about: the routing key is `{kind}.{type of the event}`, and events of the same one are in order.
#[derive(Debug, Clone, Copy)]
pub struct Aggregate<'a> {
    /// As `order`.
    pub kind: &'a str,
    /// Which one.
    pub id: Uuid,
}

/// Adds an event to the transaction. It is told if, and only if, that commits. Gives the `message_id`.
///
/// # Errors
/// The database's, and a payload that is no JSON.
pub async fn append(
    transaction: &Transaction<'_>,
    aggregate: Aggregate<'_>,
    event_type: &str,
    payload: &(impl Serialize + Sync),
) -> anyhow::Result<Uuid> {
    let id = Uuid::new_v4();
    let payload = serde_json::to_value(payload).context("the payload of an event")?;
    let sql = "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) VALUES ($1, $2, $3, $4, $5)";
    let aggregate_id = aggregate.id.to_string();
    transaction.execute(sql, &[&id, &aggregate.kind, &aggregate_id, &event_type, &payload]).await?;
    Ok(id)
}

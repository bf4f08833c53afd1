//! The event store of the orders, and what is folded from it.
//!
//! Each event is kept as it came, and the order's row in the view is folded anew from all that it has, in the same
//! transaction. So the view can't drift from the history: drop the one, and the other tells it again.

use anyhow::Context as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_postgres::GenericClient;
use uuid::Uuid;

use crate::order::{Order, OrderEvent, fold};

/// An event of an order, as it arrived.
#[derive(Debug)]
pub struct Record {
    /// `message_id`: the id of the outbox row.
    pub message_id: String,
    /// Its type.
    pub kind: String,
    /// Its body.
    pub payload: Value,
}

/// What every event of an order says.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct About {
    /// Which order.
    pub order: Uuid,
}

/// Stores an event, and brings the order's row up to date.
///
/// # Errors
/// The body is not what its type promises, or the database's.
pub async fn take(transaction: &impl GenericClient, record: &Record) -> anyhow::Result<()> {
    let Some(event) = OrderEvent::read(&record.kind, &record.payload)? else {
        tracing::debug!(kind = record.kind, "not for the view");
        return Ok(());
    };
    let About { order } = About::deserialize(&record.payload).context("which order")?;
    lock(transaction, order).await?;
    let insert = "INSERT INTO history (order_id, message_id, type, payload) VALUES ($1, $2, $3, $4)
                  ON CONFLICT DO NOTHING";
    transaction.execute(insert, &[&order, &record.message_id, &record.kind, &record.payload]).await?;
    let state = fold(&events(&load(transaction, order).await?)?);
    store(transaction, order, &state).await?;
    if let OrderEvent::OrderCreated(placed) = event {
        let insert = "INSERT INTO view_order_lines (order_id, product_id, quantity) VALUES ($1, $2, $3)
                      ON CONFLICT DO NOTHING";
        for line in placed.lines {
            transaction.execute(insert, &[&order, &line.product, &line.quantity]).await?;
        }
    }
    Ok(())
}

/// Another event of the same order waits here until this transaction has ended, and then sees what it has stored.
async fn lock(transaction: &impl GenericClient, order: Uuid) -> anyhow::Result<()> {
    let upsert = "INSERT INTO view_orders (order_id, status, stock) VALUES ($1, 'placed', 'asked')
                  ON CONFLICT (order_id) DO UPDATE SET order_id = excluded.order_id";
    transaction.execute(upsert, &[&order]).await?;
    Ok(())
}

async fn store(transaction: &impl GenericClient, order: Uuid, state: &Order) -> anyhow::Result<()> {
    let update = "UPDATE view_orders SET member_id = $2, status = $3, reason = $4, stock = $5, placed_at = $6
                  WHERE order_id = $1";
    let (member, placed_at) = state.placed.as_ref().map(|placed| (placed.member, placed.placed_at)).unzip();
    let (status, reason) = state.status.parts();
    transaction.execute(update, &[&order, &member, &status, &reason, &state.stock.name(), &placed_at]).await?;
    Ok(())
}

/// All that has arrived of an order.
///
/// # Errors
/// The database's.
pub async fn load(client: &impl GenericClient, order: Uuid) -> anyhow::Result<Vec<Record>> {
    let query = "SELECT message_id, type, payload FROM history WHERE order_id = $1 ORDER BY message_id";
    let rows = client.query(query, &[&order]).await?;
    Ok(rows.iter().map(|row| Record { message_id: row.get(0), kind: row.get(1), payload: row.get(2) }).collect())
}

/// An order's story, for a reader: its events as they follow from each other, and the state that they fold to. None of
/// an order of which nothing was heard.
///
/// # Errors
/// The database's.
pub async fn tell(client: &impl GenericClient, order: Uuid) -> anyhow::Result<Option<Value>> {
    let records = load(client, order).await?;
    if records.is_empty() {
        return Ok(None);
    }
    let events = events(&records)?;
    let mut told: Vec<(u8, Value)> = std::iter::zip(&events, &records)
        .map(|(event, record)| {
            let Record { message_id, kind, payload } = record;
            (event.step(), json!({"id": message_id, "type": kind, "payload": payload}))
        })
        .collect();
    told.sort_by_key(|(step, _)| *step);
    let told: Vec<Value> = told.into_iter().map(|(_, event)| event).collect();
    Ok(Some(json!({"order": order, "events": told, "state": fold(&events)})))
}

fn events(records: &[Record]) -> anyhow::Result<Vec<OrderEvent>> {
    let known = records.iter().map(|record| OrderEvent::read(&record.kind, &record.payload));
    Ok(known.collect::<serde_json::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

//! What becomes of the stock when the orders tell something.
//!
//! Right in any order: a cancellation that comes before the order is remembered, so that the order doesn't lock any more; a
//! confirmation that comes after the cancellation changes nothing.

use anyhow::{bail, ensure};
use messaging::{Event, Handler};
use tokio_postgres::Transaction;

use crate::events::{OrderCreated, OrderDecided};
use crate::stock::{self, State};

/// Handles what the orders tell.
#[derive(Debug, Clone, Copy)]
pub struct Saga;

impl Handler for Saga {
    async fn handle(&self, transaction: &Transaction<'_>, event: &Event) -> anyhow::Result<()> {
        match event.event_type.as_str() {
            "OrderCreated" => created(transaction, event.payload()?).await,
            "OrderConfirmed" => confirmed(transaction, event.payload()?).await,
            "OrderCancelled" => cancelled(transaction, event.payload()?).await,
            _ => Ok(()),
        }
    }
}

async fn created(transaction: &Transaction<'_>, event: OrderCreated) -> anyhow::Result<()> {
    ensure!(event.lines.iter().all(|line| line.quantity > 0), "a quantity is below 1");
    if stock::begin(transaction, event.order, State::Locked).await? {
        stock::lock(transaction, event.order, &event.lines).await?;
    }
    Ok(())
}

async fn confirmed(transaction: &Transaction<'_>, event: OrderDecided) -> anyhow::Result<()> {
    match stock::state(transaction, event.order).await? {
        Some(State::Locked) => stock::set(transaction, event.order, State::Confirmed).await,
        // It was cancelled after the confirmation, and that was heard of first.
        Some(State::Released | State::Confirmed) => Ok(()),
        Some(State::Failed) | None => bail!("the order {} is confirmed, and was never locked", event.order),
    }
}

async fn cancelled(transaction: &Transaction<'_>, event: OrderDecided) -> anyhow::Result<()> {
    if stock::begin(transaction, event.order, State::Released).await? {
        return Ok(()); // the order itself is still to come
    }
    match stock::state(transaction, event.order).await? {
        Some(State::Locked | State::Confirmed) => stock::release(transaction, event.order).await,
        Some(State::Released | State::Failed) | None => Ok(()),
    }
}

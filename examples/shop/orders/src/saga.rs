//! The saga's answers: what the inventory says about an order decides whether it is confirmed or cancelled.
//!
//! Right in any order and at any time: an answer to what is decided already changes nothing.

use anyhow::bail;
use messaging::{Event, Handler};
use tokio_postgres::Transaction;
use uuid::Uuid;

use crate::commands::{self, Status};
use crate::events::{InventoryLocked, LockFailed};

/// Handles what the inventory tells about orders.
#[derive(Debug, Clone, Copy)]
pub struct Saga;

impl Handler for Saga {
    async fn handle(&self, transaction: &Transaction<'_>, event: &Event) -> anyhow::Result<()> {
        match event.event_type.as_str() {
            "InventoryLocked" => {
                let InventoryLocked { order } = event.payload()?;
                if is_waiting(transaction, order).await? {
                    commands::confirm(transaction, order).await?;
                }
            }
            "LockFailed" => {
                let LockFailed { order, reason } = event.payload()?;
                if is_waiting(transaction, order).await? {
                    commands::cancel(transaction, order, &reason).await?;
                }
            }
            // Such as InventoryReleased, which is an answer to a cancellation of ours.
            _ => {}
        }
        Ok(())
    }
}

async fn is_waiting(transaction: &Transaction<'_>, order: Uuid) -> anyhow::Result<bool> {
    match commands::lock(transaction, order).await? {
        Some(Status::Placed) => Ok(true),
        // Confirmed: said twice. Cancelled: the lock came too late, and is released by the event of the cancellation.
        Some(Status::Confirmed | Status::Cancelled { .. }) => Ok(false),
        None => bail!("an answer about the order {order}, which nobody has placed"),
    }
}

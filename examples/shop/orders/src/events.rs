//! What the order service tells (its contract: [`schemas`]), and what it takes from what others tell.
//!
//! The types of what is taken are this service's own: each consumer has a type with the fields that it needs, and shares no
//! code with the producer. `tests/shop/contracts.rs` holds them against the producer's contract.

use chrono::{DateTime, Utc};
use schemars::{JsonSchema, schema_for};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

/// What the events are about: the first half of their routing key.
pub const AGGREGATE: &str = "order";

/// An order was placed; it waits for the inventory.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct OrderCreated {
    /// Its id.
    pub order: Uuid,
    /// Who has placed it.
    pub member: i64,
    /// What is ordered; each product once.
    pub lines: Vec<Line>,
    /// When it was placed.
    pub placed_at: DateTime<Utc>,
}

/// How many of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Line {
    /// The product's id.
    pub product: i64,
    /// At least 1.
    #[schemars(range(min = 1))]
    pub quantity: i32,
}

/// The inventory has locked all of the order, and it holds.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct OrderConfirmed {
    /// Its id.
    pub order: Uuid,
}

/// The order holds no longer: what the inventory has locked for it, or locks later, is to be released.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct OrderCancelled {
    /// Its id.
    pub order: Uuid,
    /// `timed out`, `cancelled by the member`, or why the inventory could not lock it: `out of stock`, `unknown product`.
    pub reason: String,
}

/// The payloads in the outbox, by the event's type, as JSON Schema. The document (`asyncapi.json`) that pgsluice makes of the tables has
/// all but these: for the database they are any JSON.
#[must_use]
pub fn schemas() -> Value {
    json!({
        "OrderCreated": schema_for!(OrderCreated),
        "OrderConfirmed": schema_for!(OrderConfirmed),
        "OrderCancelled": schema_for!(OrderCancelled),
    })
}

/// Taken from the inventory.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct InventoryLocked {
    /// Which order.
    pub order: Uuid,
}

/// Taken from the inventory.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct LockFailed {
    /// Which order.
    pub order: Uuid,
    /// What becomes the reason of the cancellation.
    pub reason: String,
}

/// Taken from the inventory's products.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ProductPrice {
    /// The product.
    pub id: i64,
    /// A decimal, as text, which keeps its digits.
    pub price: String,
}

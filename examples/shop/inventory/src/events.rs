//! What the inventory service tells (its contract: [`schemas`]), and what it takes from what others tell.
//!
//! The types of what is taken are this service's own: each consumer has a type with the fields that it needs, and shares no
//! code with the producer. `tests/shop/contracts.rs` holds them against the producer's contract.

use schemars::{JsonSchema, schema_for};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

/// What the events are about: the first half of their routing key.
pub const AGGREGATE: &str = "order";

/// All of the order's products are taken off the stock.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct InventoryLocked {
    /// The order's id.
    pub order: Uuid,
}

/// The order can't be had; nothing was taken off the stock.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct LockFailed {
    /// The order's id.
    pub order: Uuid,
    /// `out of stock`, `unknown product`
    pub reason: String,
}

/// What the order held is back in the stock.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct InventoryReleased {
    /// The order's id.
    pub order: Uuid,
}

/// The payloads in the outbox, by the event's type, as JSON Schema. The document (`asyncapi.json`) that pgsluice makes of the tables has
/// all but these: for the database they are any JSON.
#[must_use]
pub fn schemas() -> Value {
    json!({
        "InventoryLocked": schema_for!(InventoryLocked),
        "LockFailed": schema_for!(LockFailed),
        "InventoryReleased": schema_for!(InventoryReleased),
    })
}

/// Taken from the orders.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct OrderCreated {
    /// Which order.
    pub order: Uuid,
    /// What to lock.
    pub lines: Vec<Line>,
}

/// How many of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub struct Line {
    /// The product's id.
    pub product: i64,
    /// At least 1.
    pub quantity: i64,
}

/// Taken from the orders: of a confirmation and of a cancellation only which order it is about.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct OrderDecided {
    /// Which order.
    pub order: Uuid,
}

/// Taken from the orders' members: that there is one, and where it lives.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct MemberAddress {
    /// The member.
    pub id: i64,
    /// Where to send things to.
    pub address: String,
}

/// Taken from the orders' members: that there is one no longer.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct MemberDeleted {
    /// The member.
    pub id: i64,
}

//! The inventory service: reserves stock for orders, and releases it.
//!
//! ```text
//!   OrderCreated ──▶ locked ──OrderConfirmed──▶ confirmed
//!        │             └──── OrderCancelled ────────┴──▶ released
//!        │ not enough                                       ▲
//!        └──▶ failed          OrderCancelled, which came first
//! ```
//!
//! Each arrow is one transaction, with an event in the outbox where somebody waits for one. What an order holds is taken off the
//! stock when it is locked, so stock can't be promised twice; `CHECK (on_hand >= 0)` would refuse it.

pub mod events;
mod http;
pub mod saga;
pub mod ship_to;
pub mod stock;

use clap::Parser;
use messaging::{Migration, inbox, outbox, service};

/// The tables, in the order in which they came to be.
pub const MIGRATIONS: &[Migration] = &[
    inbox::MIGRATION,
    outbox::MIGRATION,
    Migration { name: "0001 inventory", sql: include_str!("../migrations/0001_inventory.sql") },
];

/// What the command line says.
#[derive(Debug, Clone, Parser)]
#[command(name = "inventory", about = "The inventory service of the shop: reserves and releases stock")]
pub struct Options {
    /// The database, the broker, the address.
    #[command(flatten)]
    pub service: service::Options,
}

/// Runs the service until the future is dropped.
///
/// # Errors
/// When it can't listen, or its database is another one's.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let pool = service::database(&options.service.database, MIGRATIONS).await?;
    let broker = options.service.broker.as_str();
    let saga = options.service.consumer("inventory.saga").bind("orders.events", "order.*");
    let members = options.service.consumer("inventory.members").bind("members", "member.for_inventory");
    tokio::select! {
        result = service::serve(options.service.listen, http::router(pool.clone())) => result,
        never = saga.run(broker, &pool, &saga::Saga) => match never {},
        never = members.run(broker, &pool, &ship_to::ShipTo) => match never {},
    }
}

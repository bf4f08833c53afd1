//! The order service: places, cancels and confirms orders.
//!
//! ```text
//!  POST /orders ──▶ placed ──InventoryLocked──▶ confirmed
//!                     │                             │ the member cancels
//!                     └─ LockFailed, the deadline, ─┴─▶ cancelled
//!                        or the member cancels
//! ```
//!
//! Each arrow is one transaction, with an event in the outbox. The order's row is locked for it, so of two that meet the
//! second one sees what the first one did. A lock that comes too late changes nothing here: the inventory has been told of the
//! cancellation, and releases it.

pub mod commands;
pub mod events;
mod http;
pub mod prices;
pub mod saga;
pub mod sweeper;

use std::time::Duration;

use clap::Parser;
use messaging::{Migration, inbox, outbox, service};

/// The tables, in the order in which they came to be.
pub const MIGRATIONS: &[Migration] = &[
    inbox::MIGRATION,
    outbox::MIGRATION,
    Migration { name: "0001 orders", sql: include_str!("../migrations/0001_orders.sql") },
];

/// What the command line says.
#[derive(Debug, Clone, Parser)]
#[command(name = "orders", about = "The order service of the shop: places, cancels and confirms orders")]
pub struct Options {
    /// The database, the broker, the address.
    #[command(flatten)]
    pub service: service::Options,

    /// How long an order waits for the inventory before it is cancelled
    #[arg(long, env = "LOCK_TIMEOUT_MS", default_value_t = 30_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub lock_timeout_ms: u32,
}

/// Runs the service until the future is dropped.
///
/// # Errors
/// When it can't listen, or its database is another one's.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let pool = service::database(&options.service.database, MIGRATIONS).await?;
    let broker = options.service.broker.as_str();
    let lock_timeout = Duration::from_millis(options.lock_timeout_ms.into());
    // All of what the inventory tells, also what is ignored: pgsluice waits for a queue that takes an event.
    let saga = options.service.consumer("orders.saga").bind("inventory.events", "order.*");
    let products = options.service.consumer("orders.products").bind("products", "product.for_orders");
    let http = http::router(http::State { pool: pool.clone(), lock_timeout });
    tokio::select! {
        result = service::serve(options.service.listen, http) => result,
        never = saga.run(broker, &pool, &saga::Saga) => match never {},
        never = products.run(broker, &pool, &prices::Prices) => match never {},
        never = sweeper::run(&pool, lock_timeout) => match never {},
    }
}

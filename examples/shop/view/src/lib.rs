//! Answers queries from what the other services tell: orders with their members' and products' names, and the stock.
//!
//! ```text
//!  orders.events ────┐
//!  inventory.events ─┼─▶ view.orders ───▶ history ──fold──▶ view_orders, view_order_lines ─┐
//!  products ────────────▶ view.products ─▶ view_products ──────────────────────────────────┼─▶ GET /orders
//!  members ─────────────▶ view.members ──▶ view_members ───────────────────────────────────┘
//! ```
//!
//! Commands and queries are separate models: nothing is decided here, and no other service is asked. The database holds
//! nothing that the events don't tell, so it may be dropped, and told again by `pgsluice replay`: to the exchanges that all
//! listen to, or to [`REBUILD`], to which this service alone does.

pub mod api;
pub mod base_data;
pub mod history;
pub mod order;
pub mod query;

use anyhow::Context as _;
use base_data::Change;
use clap::Parser;
use messaging::{Consumer, Event, Handler, Migration, inbox, service};
use tokio_postgres::Transaction;

use history::Record;

/// An exchange for this service alone: `pgsluice replay --exchange view.rebuild`.
pub const REBUILD: &str = "view.rebuild";

/// The tables, in the order in which they came to be.
pub const MIGRATIONS: [Migration; 2] =
    [inbox::MIGRATION, Migration { name: "view", sql: include_str!("../migrations/0001_view.sql") }];

/// What the command line says.
#[derive(Debug, Clone, Parser)]
#[command(name = "view", about = "Answers queries from what the other services tell")]
pub struct Options {
    /// The database, the broker, the address.
    #[command(flatten)]
    pub service: service::Options,
}

/// Runs the service until the future is dropped.
///
/// # Errors
/// When it can't listen.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let service::Options { database, broker, listen, .. } = &options.service;
    let pool = service::database(database, &MIGRATIONS).await?;
    let [orders, products, members] = consumers(&options.service);
    tokio::select! {
        result = service::serve(*listen, api::router(pool.clone())) => result,
        never = orders.run(broker, &pool, &Orders) => match never {},
        never = products.run(broker, &pool, &Products) => match never {},
        never = members.run(broker, &pool, &Members) => match never {},
    }
}

/// What it listens to: orders, products, members.
fn consumers(options: &service::Options) -> [Consumer; 3] {
    [
        options
            .consumer("view.orders")
            .bind("orders.events", "order.*")
            .bind("inventory.events", "order.*")
            .bind(REBUILD, "order.*"),
        options.consumer("view.products").bind("products", "product.for_view").bind(REBUILD, "product.for_view"),
        options.consumer("view.members").bind("members", "member.for_view").bind(REBUILD, "member.for_view"),
    ]
}

struct Orders;

impl Handler for Orders {
    async fn handle(&self, transaction: &Transaction<'_>, event: &Event) -> anyhow::Result<()> {
        let Event { message_id, event_type, .. } = event.clone();
        let record = Record { message_id, kind: event_type, payload: event.payload()? };
        history::take(transaction, &record).await
    }
}

struct Products;

impl Handler for Products {
    async fn handle(&self, transaction: &Transaction<'_>, event: &Event) -> anyhow::Result<()> {
        let change = change(event, "ProductDeleted")?;
        base_data::product(transaction, event.position.context("no position")?, &change).await
    }
}

struct Members;

impl Handler for Members {
    async fn handle(&self, transaction: &Transaction<'_>, event: &Event) -> anyhow::Result<()> {
        let change = change(event, "MemberDeleted")?;
        base_data::member(transaction, event.position.context("no position")?, &change).await
    }
}

fn change<T: serde::de::DeserializeOwned>(event: &Event, deletion: &str) -> anyhow::Result<Change<T>> {
    if event.event_type == deletion { event.payload().map(Change::Gone) } else { event.payload().map(Change::Is) }
}

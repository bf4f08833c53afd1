//! Places, cancels and confirms orders.

use clap::Parser;
use messaging::service;

/// What the command line says.
#[derive(Debug, Clone, Parser)]
#[command(name = "orders", about = "Places, cancels and confirms orders")]
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
    let router = axum::Router::new();
    service::serve(options.service.listen, router).await
}

//! Answers queries from what the other services tell.

use clap::Parser;
use messaging::service;

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
    let router = axum::Router::new();
    service::serve(options.service.listen, router).await
}

//! stub

use crate::config::Settings;
use crate::failure::Definite;

/// stub
pub async fn run(settings: Settings, shutdown: impl Future<Output = ()>) -> Result<(), Definite> {
    tracing::info!(name = settings.name, "ready");
    shutdown.await;
    Ok(())
}

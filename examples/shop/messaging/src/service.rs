//! Start, stop, the database and HTTP: what every service does the same way.
//!
//! A service may be killed at any moment, so there is nothing to be done at its end: SIGTERM drops what is in hand. A
//! transaction that was not committed is undone, and a message that was not acked comes again.

use std::future::Future;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::routing::get;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio_postgres::NoTls;
use tracing::{error, info, warn};

use crate::failure::{Backoff, passes};
use crate::{Consumer, Migration, migrations};

/// How long to wait for the database, where somebody waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
const CONNECTIONS_MAX: usize = 16;

/// What every service is told on its command line, or in its environment.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Options {
    /// URL of the service's own database
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database: String,

    /// URL of the broker, with the virtual host
    #[arg(long, env = "BROKER_URL", hide_env_values = true)]
    pub broker: String,

    /// Where it answers HTTP
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// How long a message that failed waits for its next attempt
    #[arg(long, env = "RETRY_DELAY_MS", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    pub retry_delay_ms: u32,

    /// After how many failures a message is put aside, for a human
    #[arg(long, env = "ATTEMPTS_MAX", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub attempts_max: u32,
}

impl Options {
    /// Of a queue, with the settings of the command line.
    #[must_use]
    pub fn consumer(&self, queue: &str) -> Consumer {
        let delay = Duration::from_millis(self.retry_delay_ms.into());
        Consumer::of(queue).retry_delay(delay).attempts_max(self.attempts_max)
    }
}

/// Runs a service until SIGTERM or SIGINT (exit code 0), or until it fails (1). Logs to stderr, as `RUST_LOG` says.
pub fn main(service: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match until_stopped(service) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn until_stopped(service: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(async {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            result = service => result,
        }
    });
    // Not for what blocks.
    runtime.shutdown_background();
    result
}

/// Connections to the database, opened when they are asked for, and replaced when they are lost.
///
/// # Errors
/// When the URL is none.
pub fn pool(url: &str) -> anyhow::Result<Pool> {
    let mut config: tokio_postgres::Config = url.parse().context("the database's URL")?;
    // A server that falls silent is noticed by TCP, not by whoever waits.
    config.connect_timeout(PATIENCE).tcp_user_timeout(2 * PATIENCE).keepalives_idle(PATIENCE);
    // Asked before it is given away: a connection may have died while it was not used.
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Verified };
    // Without TLS, for the example's sake: this is the place for `tokio_postgres_rustls`.
    let pool = Pool::builder(Manager::from_config(config, NoTls, recycling))
        .max_size(CONNECTIONS_MAX)
        .wait_timeout(Some(PATIENCE))
        .create_timeout(Some(PATIENCE))
        .recycle_timeout(Some(PATIENCE))
        .runtime(Runtime::Tokio1);
    Ok(pool.build()?)
}

/// [`pool`], once the migrations are applied. Waits for a database that is away or refuses it, for as long as it takes.
///
/// # Errors
/// When the URL is none, or a migration is refused.
pub async fn database(url: &str, migrations: &[Migration]) -> anyhow::Result<Pool> {
    let pool = pool(url)?;
    let mut backoff = Backoff::new();
    loop {
        match migrations::apply(&pool, migrations).await {
            Ok(applied) => {
                info!(applied, "the database is there");
                return Ok(pool);
            }
            Err(error) if passes(&error) => warn!("waiting for the database: {error:#}"),
            Err(error) => return Err(error),
        }
        backoff.wait().await;
    }
}

/// Answers HTTP, `GET /healthz` too, until the future is dropped.
///
/// # Errors
/// When it can't listen.
pub async fn serve(listen: SocketAddr, router: Router) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
    info!(listen = %listener.local_addr()?, "answering HTTP");
    axum::serve(listener, router.route("/healthz", get(|| async { "ok\n" }))).await?;
    Ok(())
}

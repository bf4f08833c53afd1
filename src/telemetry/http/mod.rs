//! What the process answers: `/healthz`, `/readyz`, `/metrics`, `/status`, `/history`, `/check`, pause and resume, and the page.
//!
//! On the pipeline's own thread, so that an answer says that this lives; of several, on a thread of nobody's, and `/healthz` asks
//! theirs. [`served`] has the pipelines; whom it answers is decided in [`access`]; `tls` and
//! [`serve`] bound how many are served at a time and how long one may take to ask.

pub mod access;
mod answers;
pub mod client;
pub mod served;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::metrics::history::SAMPLE_EVERY;
use super::report::Report;
use crate::config::HttpSettings;
use crate::failure::{Definite, Kind};
use access::Access;
pub use answers::Findings;
use served::Served;

/// So many connections are served at a time; who comes then waits.
const CONNECTIONS_MAX: usize = 64;
/// To negotiate TLS, and to send a request's headers.
const PATIENCE: Duration = Duration::from_secs(10);
/// After an accept that failed for want of descriptors.
const BREATH: Duration = Duration::from_millis(100);

/// Listens, and answers on tasks of its own for as long as the process lives.
///
/// # Errors
/// The address can't be listened on, or the certificate not used.
pub async fn serve(settings: &HttpSettings, served: Served) -> Result<(), Definite> {
    let address = settings.listen;
    let tls = settings.tls.as_ref().map(tls::acceptor).transpose()?;
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    let bound: std::io::Result<_> = bound.await;
    let (listener, address) = bound.with_context(|| format!("can't listen on {address}")).map_err(|error| {
        Definite::new(Kind::Process, error, "set http.listen to an address of this machine and a port that is free")
    })?;
    let access = Access::new(settings.token.as_ref(), address.ip());
    tracing::info!(%address, tls = tls.is_some(), token = access.wants_token(), "answering /readyz, /metrics, /status and the page at /");
    if access.is_exposed() {
        tracing::warn!(
            %address,
            "others than this machine can read the status; pause and resume are refused until http.token is set"
        );
    }
    for pipeline in served.all() {
        tokio::spawn(sample(pipeline.report.clone()));
    }
    let router = answers::router(served, access);
    tokio::spawn(accept(listener, tls, router));
    Ok(())
}

/// For the plots and the rates.
async fn sample(report: Report) {
    let mut timer = tokio::time::interval(SAMPLE_EVERY);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        let metrics = report.metrics();
        metrics.recent().refill();
        let sample = metrics.sample();
        metrics.history().push(sample);
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, router: axum::Router) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(BREATH).await;
            continue;
        };
        let (tls, router) = (tls.clone(), router.clone());
        tokio::spawn(async move {
            let _place = place;
            converse(stream, tls, router).await;
        });
    }
}

async fn converse(stream: TcpStream, tls: Option<TlsAcceptor>, router: axum::Router) {
    match tls {
        None => answer(stream, router).await,
        // Whoever can't agree on TLS is not worth a line.
        Some(tls) => {
            if let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, tls.accept(stream)).await {
                answer(stream, router).await;
            }
        }
    }
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: axum::Router) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(64 << 10);
    let service = TowerToHyperService::new(router);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "an HTTP connection ended");
    }
}

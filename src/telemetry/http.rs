//! `/readyz`: whether changes flow, and if not, which part holds them up.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use serde::Serialize;
use tokio::net::TcpListener;

use super::health::{Health, State};
use crate::failure::{Definite, Kind};

#[derive(Serialize)]
struct Answer {
    ready: bool,
    #[serde(flatten)]
    state: State,
}

/// Listens, and answers on a task of its own for as long as the process lives.
///
/// # Errors
/// The address can't be listened on.
pub async fn serve(address: SocketAddr, health: Health) -> Result<(), Definite> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    let bound: std::io::Result<_> = bound.await;
    let (listener, address) = bound.with_context(|| format!("can't listen on {address}")).map_err(|error| {
        Definite::new(Kind::Process, error, "set http.listen to an address of this machine and a port that is free")
    })?;
    tracing::info!(%address, "answering /readyz");
    let app = Router::new().route("/readyz", get(async move || ready(&health)));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(%error, "/readyz is not answered any more");
        }
    });
    Ok(())
}

fn ready(health: &Health) -> impl IntoResponse + use<> {
    let state = health.state();
    let status = if state.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let answer = Answer { ready: state.is_ready(), state };
    let body = serde_json::to_string(&answer).expect("enums and a boolean always serialize");
    (status, [(header::CONTENT_TYPE, "application/json")], body)
}

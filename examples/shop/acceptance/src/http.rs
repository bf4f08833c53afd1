//! The least of an HTTP client: JSON in, JSON out, and again until somebody answers.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::wait::{Look, until};

/// One request may take so long.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// A service is away for less.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(90);

/// Asks until there is an answer that is none of the server's failures. So a request may be carried out more than once.
pub(crate) async fn insist(
    to: SocketAddr,
    method: Method,
    path: &str,
    body: &Value,
) -> anyhow::Result<(StatusCode, Value)> {
    let what = format!("an answer to {method} {path}");
    until(&what, COMES_BACK_WITHIN, async || {
        Ok(match ask(to, &method, path, body).await {
            Ok((status, value)) if !status.is_server_error() => Look::Done((status, value)),
            Ok(_) | Err(_) => Look::NotYet(()),
        })
    })
    .await
}

/// Asks once.
pub(crate) async fn ask(
    to: SocketAddr,
    method: &Method,
    path: &str,
    body: &Value,
) -> anyhow::Result<(StatusCode, Value)> {
    tokio::time::timeout(ANSWERS_WITHIN, exchange(to, method, path, body)).await?
}

async fn exchange(to: SocketAddr, method: &Method, path: &str, body: &Value) -> anyhow::Result<(StatusCode, Value)> {
    let stream = TcpStream::connect(to).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(serde_json::to_vec(body)?) };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", to.to_string())
        .header("content-type", "application/json")
        .header("connection", "close")
        .body(Full::new(body))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let bytes = response.into_body().collect().await?.to_bytes();
    connection.abort();
    let value = serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into());
    Ok((status, value))
}

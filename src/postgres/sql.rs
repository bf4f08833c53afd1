//! Ordinary SQL by `tokio-postgres`: the same hosts, TLS, login and pinned settings as [`super::client`].
//!
//! The dialling is done there; `tokio-postgres` gets a stream on which TLS is already settled.

use tokio_postgres::config::{ChannelBinding as Binding, SslMode, SslNegotiation};
use tokio_postgres::{Client, Config, SimpleQueryMessage};

use super::client::dial::{Candidate, Search};
use super::client::stream::{AlreadyNegotiated, Stream};
use super::client::{AuthError, ClientError, ProtocolError, Purpose, ServerError, startup_options, within};
use super::conninfo::{ChannelBinding, Conninfo, Target};
use super::tls::{TlsError, decided_by_tls};
use crate::failure::Failure;

/// Connects to the first host that will do. The connection lives on a task of its own, until the client is dropped.
///
/// # Errors
/// Classified by SQLSTATE, like those of the replication connection.
pub async fn connect(conninfo: &Conninfo) -> Result<Client, Failure> {
    Ok(first(conninfo).await?)
}

/// What an error of `tokio-postgres` means: try again, or stop.
#[must_use]
pub fn failure(error: &tokio_postgres::Error) -> Failure {
    client_error(error).into()
}

pub(super) async fn first(conninfo: &Conninfo) -> Result<Client, ClientError> {
    let mut search = Search::new(conninfo)?;
    while let Some(mut candidate) = search.next().await {
        let opening = async {
            let stream = search.dial(&mut candidate, Purpose::Queries).await?;
            open(stream, conninfo, &candidate).await
        };
        match within(conninfo.connect_timeout(), "connecting", opening).await {
            Ok(client) => return Ok(client),
            Err(error) => search.failed(candidate, error),
        }
    }
    Err(search.exhausted())
}

async fn open(stream: Stream, conninfo: &Conninfo, candidate: &Candidate) -> Result<Client, ClientError> {
    let mut config = Config::new();
    config
        .user(conninfo.user())
        .dbname(conninfo.dbname())
        .application_name(conninfo.application_name())
        .options(startup_options(conninfo))
        // "Direct" and "require" make it take the stream as it is; it may well be a plain one.
        .ssl_negotiation(SslNegotiation::Direct)
        .ssl_mode(SslMode::Require)
        .channel_binding(match conninfo.channel_binding() {
            ChannelBinding::Disable => Binding::Disable,
            ChannelBinding::Prefer => Binding::Prefer,
            ChannelBinding::Require => Binding::Require,
        });
    let password = conninfo.password_for(&candidate.host);
    if let Some(password) = &password {
        config.password(password.as_bytes());
    }
    let connected = config.connect_raw(stream, AlreadyNegotiated).await;
    let (client, connection) = connected.map_err(|error| match client_error(&error) {
        ClientError::Protocol(ProtocolError::Other(text)) if text.contains("password missing") => {
            AuthError::NoPassword { user: conninfo.user().to_owned() }.into()
        }
        error => error,
    })?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = %client_error(&error), "a connection to PostgreSQL ended");
        }
    });
    match conninfo.target() {
        Target::Primary if is_standby(&client).await? => Err(ClientError::Standby),
        Target::Primary | Target::Any => Ok(client),
    }
}

async fn is_standby(client: &Client) -> Result<bool, ClientError> {
    let answer = client.simple_query("SELECT pg_catalog.pg_is_in_recovery()").await;
    let standby = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => row.get(0) == Some("t"),
        _ => false,
    };
    Ok(answer.map_err(|error| client_error(&error))?.iter().any(standby))
}

/// The same error in our own types, so that one place decides about it.
fn client_error(error: &tokio_postgres::Error) -> ClientError {
    if let Some(db) = error.as_db_error() {
        let position = match db.position() {
            Some(tokio_postgres::error::ErrorPosition::Original(position)) => Some(*position),
            _ => None,
        };
        return ClientError::from(Box::new(ServerError {
            severity: db.severity().to_owned(),
            code: db.code().code().to_owned(),
            message: db.message().to_owned(),
            detail: db.detail().map(str::to_owned),
            hint: db.hint().map(str::to_owned),
            position,
            context: db.where_().map(str::to_owned),
            routine: db.routine().map(str::to_owned),
        }));
    }
    if error.is_closed() {
        return std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the server closed the connection").into();
    }
    let source = std::error::Error::source(error);
    if let Some(io) = source.and_then(|source| source.downcast_ref::<std::io::Error>()) {
        return match decided_by_tls(io) {
            Some(decision) => TlsError::Handshake(decision).into(),
            None => std::io::Error::new(io.kind(), io.to_string()).into(),
        };
    }
    let text = source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
    match text {
        text if text.contains("channel binding") => AuthError::NoChannelBinding.into(),
        text => ProtocolError::Other(text).into(),
    }
}

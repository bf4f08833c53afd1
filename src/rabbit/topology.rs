//! The exchanges that events go to: declared, or only looked for, whenever a channel opens.
//!
//! Through a short-lived connection of lapin's, to the host and with the login and the TLS of the publishing
//! connection, which waits meanwhile: an exchange that was deleted under load is there again before anything is
//! published again. `handshake` calls this once the host has let the publishing connection in: lapin's parser, which
//! takes tables of any depth, meets only hosts that speak AMQP; a login or a certificate that is refused was found there.

use std::net::Shutdown;
use std::sync::{Arc, Mutex, PoisonError};

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::tcp::RustlsConnector;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties, Error, ErrorKind, ExchangeKind};
use rustls::ClientConfig;
use socket2::{SockRef, Socket};

use super::handshake::{self, CLOSE_LIMIT, Plan};
use super::refusal::{self, Stage};
use super::tls;
use super::uri::{BrokerUri, Mechanism};
use crate::config::ParkingSettings;
use crate::failure::{Failure, Kind, within};

/// The largest frame, in bytes: the least that RabbitMQ takes since 4.1. lapin keeps room for 64 of them, and agrees to
/// any size unless told.
const FRAME_MAX: u32 = 8192;

/// Declares every exchange of the plan, durable, or asks whether it is there.
pub(super) async fn declare(
    plan: &Plan,
    host: &str,
    port: u16,
    secure: Option<&Arc<ClientConfig>>,
) -> Result<(), Failure> {
    // The default exchange always exists and can't be declared.
    let exchanges: Vec<_> = plan.exchanges.iter().filter(|exchange| !exchange.is_empty()).collect();
    if exchanges.is_empty() && plan.parking.is_none() {
        return Ok(());
    }
    let (connection, _hang_up) = connect(plan, host, port, secure, FRAME_MAX).await?;
    let declared = declare_all(&connection, plan, &exchanges).await;
    let goodbye = async { connection.close(200, "bye".into()).await.map_err(Failure::transient) };
    if let Err(failure) = within(CLOSE_LIMIT, "closing the topology connection", goodbye).await {
        tracing::debug!(%failure, "RabbitMQ did not say goodbye");
    }
    declared
}

/// A connection of lapin's, for who takes messages as well.
pub(crate) struct Session {
    connection: Connection,
    _hang_up: HangUp,
}

impl Session {
    pub(super) async fn open(plan: &Plan, host: &str, port: u16) -> Result<Self, Failure> {
        let secure = match &plan.uri.tls {
            Some(options) => Some(tls::config(options.clone()).await?),
            None => None,
        };
        // Headers come in one frame, and are as large as those that were published.
        let frame_max = handshake::FRAME_MAX;
        let (connection, hang_up) = connect(plan, host, port, secure.as_ref(), frame_max).await?;
        Ok(Self { connection, _hang_up: hang_up })
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(crate) async fn close(self) {
        let goodbye = async { self.connection.close(200, "bye".into()).await.map_err(Failure::transient) };
        if let Err(failure) = within(CLOSE_LIMIT, "closing", goodbye).await {
            tracing::debug!(%failure, "RabbitMQ did not say goodbye");
        }
    }
}

async fn declare_all(connection: &Connection, plan: &Plan, exchanges: &[&String]) -> Result<(), Failure> {
    let (uri, limit) = (&plan.uri, plan.uri.connection_timeout);
    let refused = |error| sort(error, Stage::Publishing { declared: &[] }, uri);
    let opening = async { connection.create_channel().await.map_err(refused) };
    let channel = within(limit, "opening a channel for the topology", opening).await?;
    let options = ExchangeDeclareOptions { passive: !plan.declare, durable: true, ..Default::default() };
    for exchange in exchanges {
        let stage = Stage::Topology { exchange, declare: plan.declare };
        let declaring = async {
            let (name, kind) = (short(exchange)?, ExchangeKind::Custom(short(&plan.exchange_type)?.to_string()));
            let declared = channel.exchange_declare(name, kind, options, FieldTable::default()).await;
            declared.map_err(|error| sort(error, stage, uri))
        };
        within(limit, &format!("declaring exchange '{exchange}'"), declaring).await?;
    }
    match &plan.parking {
        Some(parking) => within(limit, "declaring the parking queue", declare_parking(&channel, plan, parking)).await,
        None => Ok(()),
    }
}

/// Where events are parked: an exchange, and a queue that gets everything.
async fn declare_parking(
    channel: &lapin::Channel,
    plan: &Plan,
    ParkingSettings { exchange, queue }: &ParkingSettings,
) -> Result<(), Failure> {
    let refused = |error| sort(error, Stage::Topology { exchange, declare: plan.declare }, &plan.uri);
    let options = ExchangeDeclareOptions { passive: !plan.declare, durable: true, ..Default::default() };
    let nothing = FieldTable::default;
    channel.exchange_declare(short(exchange)?, ExchangeKind::Fanout, options, nothing()).await.map_err(refused)?;
    if !plan.declare {
        return Ok(());
    }
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    // Whoever looks at what is parked gives it back: by default, RabbitMQ from 4.0 on drops what came back 20 times.
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(i32::MAX));
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(short(queue)?, options, arguments).await.map_err(refused)?;
    let options = QueueBindOptions::default();
    channel.queue_bind(short(queue)?, short(exchange)?, "".into(), options, nothing()).await.map_err(refused)
}

fn short(name: &str) -> Result<ShortString, Failure> {
    ShortString::try_new(name).map_err(|error| Failure::definite(Kind::Usage, error, "use a shorter name"))
}

/// Cuts the connection when dropped, however it comes to that: lapin reads in a thread of its own, which ends when the
/// connection does, and would outlive a time limit or a cancelled future.
struct HangUp(Socket);

impl Drop for HangUp {
    fn drop(&mut self) {
        // It fails when the connection is gone already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

async fn connect(
    plan: &Plan,
    host: &str,
    port: u16,
    secure: Option<&Arc<ClientConfig>>,
    frame_max: u32,
) -> Result<(Connection, HangUp), Failure> {
    let limit = plan.uri.connection_timeout;
    let runtime = lapin::runtime::default_runtime().map_err(Failure::transient)?;
    let dialling = async {
        let tcp = AsyncTcpStream::connect(&runtime, runtime.to_socket_addrs((host.to_owned(), port))).await?;
        let AsyncTcpStream::Plain(socket) = &tcp else { unreachable!("nothing was encrypted yet") };
        let hang_up = HangUp(SockRef::from(socket.get_ref()).try_clone()?);
        let stream = match secure {
            Some(config) => {
                tcp.into_rustls(&RustlsConnector::from(Arc::clone(config)), host).await.map_err(tls::refused)?
            }
            None => tcp,
        };
        Ok((stream, hang_up))
    };
    let (stream, hang_up) = within(limit, "connecting for the topology", dialling).await?;
    // Asked for once: lapin does not reconnect unless it is told to.
    let stream = Mutex::new(Some(stream));
    let hand_over = async move |_, _| {
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        stream.ok_or_else(|| Error::from(std::io::Error::from(std::io::ErrorKind::NotConnected)))
    };
    let opening = async {
        let opened = Connection::connector(
            address(&plan.uri, host, port, frame_max),
            runtime,
            hand_over,
            properties(&plan.name),
        );
        opened.await.map_err(|error| sort(error, Stage::Login, &plan.uri))
    };
    Ok((within(limit, "login for the topology", opening).await?, hang_up))
}

/// What lapin needs to know of the URI; it never sees the query, which means other things there.
fn address(uri: &BrokerUri, host: &str, port: u16, frame_max: u32) -> AMQPUri {
    AMQPUri {
        scheme: if uri.tls.is_some() { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username: uri.user.clone(), password: uri.password().to_owned() },
            host: host.to_owned(),
            port,
        },
        vhost: uri.vhost.clone(),
        query: AMQPQueryString {
            frame_max: Some(frame_max),
            heartbeat: Some(u16::try_from(uri.heartbeat.as_secs()).unwrap_or(u16::MAX)),
            auth_mechanism: Some(match uri.mechanism {
                Mechanism::Plain => SASLMechanism::Plain,
                Mechanism::External => SASLMechanism::External,
            }),
            ..Default::default()
        },
    }
}

fn properties(name: &str) -> ConnectionProperties {
    ConnectionProperties::default()
        .with_client_property("product".into(), "pgsluice".into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into())
        .with_connection_name(format!("pgsluice {name} topology").into())
}

/// A close by the broker means what it means on our own connection; anything else is a broken connection.
fn sort(error: Error, stage: Stage<'_>, uri: &BrokerUri) -> Failure {
    match error.kind() {
        ErrorKind::ProtocolError(close) => refusal::closed(close.get_id(), close.get_message().as_str(), stage, uri),
        _ => Failure::transient(error),
    }
}

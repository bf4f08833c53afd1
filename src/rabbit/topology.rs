//! Exchanges, queues and bindings: declared, or only looked for, whenever a channel opens.
//!
//! Through a short-lived connection of lapin's, to the host and with the login and the TLS of the publishing
//! connection, which waits meanwhile: an exchange that was deleted under load is there again, with its bindings, before
//! anything is published again. `handshake` calls this once the host has let the publishing connection in: lapin's parser, which
//! takes tables of any depth, meets only hosts that speak AMQP; a login or a certificate that is refused was found there.

use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use lapin::options::{ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::tcp::RustlsConnector;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism};
use lapin::{AsyncTcpStream, Channel, Connection, ConnectionProperties, Error, ErrorKind, ExchangeKind};
use rustls::ClientConfig;
use socket2::{SockRef, Socket};
use toml::{Table, Value};

use super::handshake::{self, CLOSE_LIMIT, Plan};
use super::refusal::{self, Stage};
use super::steps::{By, Item, Step, steps};
use super::tls;
use super::uri::{BrokerUri, Mechanism};
use crate::config::topology::{Binding, Bound, Exchange, Queue};
use crate::failure::{Failure, Kind, within};

/// The largest frame, in bytes: the least that RabbitMQ takes since 4.1. lapin keeps room for 64 of them, and agrees to
/// any size unless told.
const FRAME_MAX: u32 = 8192;

/// Declares what the plan has, or asks whether it is there.
pub(super) async fn declare(
    plan: &Plan,
    host: &str,
    port: u16,
    secure: Option<&Arc<ClientConfig>>,
) -> Result<(), Failure> {
    let steps = steps(&plan.topology, plan.declare);
    if steps.is_empty() {
        return Ok(());
    }
    let lapin = Lapin::connect(plan, host, port, secure).await?;
    let declared = declare_all(&lapin, &steps).await;
    lapin.close().await;
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

async fn declare_all(lapin: &Lapin<'_>, steps: &[Step<'_>]) -> Result<(), Failure> {
    let channel = lapin.channel().await?;
    for step in steps {
        lapin.carry_out(&channel, *step).await?;
    }
    Ok(())
}

/// A short-lived connection of lapin's.
pub(super) struct Lapin<'p> {
    connection: Connection,
    plan: &'p Plan,
    _hang_up: HangUp,
}

impl<'p> Lapin<'p> {
    pub(super) async fn connect(
        plan: &'p Plan,
        host: &str,
        port: u16,
        secure: Option<&Arc<ClientConfig>>,
    ) -> Result<Self, Failure> {
        let (connection, hang_up) = connect(plan, host, port, secure, FRAME_MAX).await?;
        Ok(Self { connection, plan, _hang_up: hang_up })
    }

    pub(super) async fn channel(&self) -> Result<Channel, Failure> {
        let refused = |error| sort(error, Stage::Publishing(&self.plan.topology), &self.plan.uri);
        let opening = async { self.connection.create_channel().await.map_err(refused) };
        within(self.plan.uri.connection_timeout, "opening a channel for the topology", opening).await
    }

    /// A refusal closes the channel.
    pub(super) async fn carry_out(&self, channel: &Channel, step: Step<'_>) -> Result<(), Failure> {
        self.ask(channel, step).await?.map_err(|error| self.refused(error, step))
    }

    /// On a channel of its own, which a "no" closes.
    pub(super) async fn is_there(&self, item: Item<'_>) -> Result<bool, Failure> {
        let step = Step::Expect { item, by: By::Topology };
        match self.ask(&self.channel().await?, step).await? {
            Ok(()) => Ok(true),
            Err(error) if is_not_found(&error) => Ok(false),
            Err(error) => Err(self.refused(error, step)),
        }
    }

    async fn ask(&self, channel: &Channel, step: Step<'_>) -> Result<Result<(), Error>, Failure> {
        let doing = match step {
            Step::Expect { .. } => "looking for",
            Step::Exchange(_) | Step::Queue(_) | Step::Bind(_) => "declaring",
        };
        within(self.plan.uri.connection_timeout, &format!("{doing} {step}"), ask(channel, step)).await
    }

    fn refused(&self, error: Error, step: Step<'_>) -> Failure {
        let is_first = !self.plan.opened.load(Ordering::Relaxed);
        match sort(error, Stage::Topology { step, is_first }, &self.plan.uri) {
            // The others say it themselves.
            Failure::Transient(error) => Failure::Transient(error.context(step.to_string())),
            definite @ Failure::Definite(_) => definite,
        }
    }

    pub(super) async fn close(self) {
        let goodbye = async { self.connection.close(200, "bye".into()).await.map_err(Failure::transient) };
        if let Err(failure) = within(CLOSE_LIMIT, "closing the topology connection", goodbye).await {
            tracing::debug!(%failure, "RabbitMQ did not say goodbye");
        }
    }
}

/// The broker's answer, unless what is to be said does not fit AMQP.
async fn ask(channel: &Channel, step: Step<'_>) -> Result<Result<(), Error>, Failure> {
    let none = FieldTable::default;
    Ok(match step {
        Step::Expect { item: Item::Exchange(name), .. } => {
            // Its type is not looked at.
            let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
            channel.exchange_declare(short(name)?, ExchangeKind::Topic, options, none()).await
        }
        Step::Expect { item: Item::Queue(name), .. } => {
            let options = QueueDeclareOptions { passive: true, ..Default::default() };
            channel.queue_declare(short(name)?, options, none()).await.map(drop)
        }
        Step::Exchange(exchange) => {
            let Exchange { name, kind, durable, auto_delete, internal, arguments } = exchange;
            let (durable, auto_delete, internal) = (*durable, *auto_delete, *internal);
            let options = ExchangeDeclareOptions { durable, auto_delete, internal, ..Default::default() };
            let kind = ExchangeKind::Custom(short(kind)?.to_string());
            channel.exchange_declare(short(name)?, kind, options, table(arguments)?).await
        }
        Step::Queue(Queue { name, arguments }) => {
            let options = QueueDeclareOptions { durable: true, ..Default::default() };
            channel.queue_declare(short(name)?, options, table(arguments)?).await.map(drop)
        }
        Step::Bind(Binding { exchange, to, routing_key, arguments }) => {
            let (exchange, key, arguments) = (short(exchange)?, short(routing_key)?, table(arguments)?);
            match to {
                Bound::Queue(queue) => {
                    channel.queue_bind(short(queue)?, exchange, key, QueueBindOptions::default(), arguments).await
                }
                Bound::Exchange(to) => {
                    channel.exchange_bind(short(to)?, exchange, key, ExchangeBindOptions::default(), arguments).await
                }
            }
        }
    })
}

fn short(name: &str) -> Result<ShortString, Failure> {
    ShortString::try_new(name).map_err(|error| Failure::definite(Kind::Usage, error, "use a shorter name"))
}

/// RabbitMQ compares numbers without their widths.
fn table(arguments: &Table) -> Result<FieldTable, Failure> {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert(short(name)?, amqp(value)?);
    }
    Ok(table)
}

fn amqp(value: &Value) -> Result<AMQPValue, Failure> {
    Ok(match value {
        Value::String(text) => AMQPValue::LongString(text.as_str().into()),
        Value::Integer(number) => AMQPValue::LongLongInt(*number),
        Value::Float(number) => AMQPValue::Double(*number),
        Value::Boolean(flag) => AMQPValue::Boolean(*flag),
        // As the configuration hands it out, too.
        Value::Datetime(time) => AMQPValue::LongString(time.to_string().into()),
        Value::Array(values) => AMQPValue::FieldArray(values.iter().map(amqp).collect::<Result<Vec<_>, _>>()?.into()),
        Value::Table(arguments) => AMQPValue::FieldTable(table(arguments)?),
    })
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

fn is_not_found(error: &Error) -> bool {
    let ErrorKind::ProtocolError(close) = error.kind() else { return false };
    refusal::is_absent(close.get_id(), close.get_message().as_str())
}

/// A close by the broker means what it means on our own connection; anything else is a broken connection.
fn sort(error: Error, stage: Stage<'_>, uri: &BrokerUri) -> Failure {
    match error.kind() {
        ErrorKind::ProtocolError(close) => refusal::closed(close.get_id(), close.get_message().as_str(), stage, uri),
        _ => Failure::transient(error),
    }
}

//! From a host name to a channel in confirm mode: TCP, TLS, login, virtual host, topology, `confirm.select`.
//!
//! Follows AMQP 0-9-1 §2.2.4 (the connection's start) and RabbitMQ's publisher confirms. Each step has the time limit
//! that the URI sets. `channel` takes over what is opened here.

use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use amq_protocol::frame::{AMQPFrame, WriteContext, gen_frame};
use amq_protocol::protocol::connection::{self, AMQPMethod as Connection};
use amq_protocol::protocol::{AMQPClass, channel, confirm};
use amq_protocol::types::{AMQPValue, FieldTable, LongString, ShortString};
use anyhow::anyhow;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::inbox::{FRAME_MIN, Inbox, Incoming, ProtocolError};
use super::refusal::{self, Stage};
use super::uri::{BrokerUri, Mechanism};
use super::wire::CHANNEL;
use super::{tls, topology};
use crate::broker::Reply;
use crate::config::topology::Topology;
use crate::failure::{Failure, Kind, within};

/// The largest frame that we agree to, in bytes: RabbitMQ's default. Larger ones buy nothing.
pub(super) const FRAME_MAX: u32 = 131_072;
/// How long a goodbye may take.
pub(super) const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// Largest message by default: 128 MiB before RabbitMQ 4.0, 16 MiB from there on.
const MESSAGE_MAX: (usize, usize) = (128 << 20, 16 << 20);

/// What is needed to open a channel.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) uri: BrokerUri,
    /// Shown by the broker as the connection's name.
    pub(super) name: String,
    pub(super) topology: Topology,
    pub(super) declare: bool,
    pub(super) max_message_bytes: Option<usize>,
    /// A channel was opened by this process: what is configured, some broker has taken.
    pub(super) opened: AtomicBool,
}

/// A byte stream to the broker, encrypted or not.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection whose channel is in confirm mode.
pub(super) struct Opened {
    pub(super) link: Link,
    pub(super) frame_max: usize,
    pub(super) max_message_bytes: usize,
    /// Zero: none.
    pub(super) heartbeat: Duration,
}

/// A connection to one host, while methods are exchanged one by one.
pub(super) struct Link {
    pub(super) stream: Box<dyn Stream>,
    pub(super) inbox: Inbox,
    /// What the broker said unasked, such as `connection.blocked`.
    pub(super) early: Vec<Reply>,
}

/// A connection to one host, which has let us into the virtual host.
pub(super) struct Reached {
    link: Link,
    pub(super) secure: Option<Arc<ClientConfig>>,
    /// The broker's.
    pub(super) version: String,
    frame_max: usize,
    heartbeat: Duration,
}

/// Opens a connection to this host.
pub(super) async fn reach(plan: &Plan, host: &str, port: u16) -> Result<Reached, Failure> {
    let uri = &plan.uri;
    let limit = uri.connection_timeout;
    let secure = match &uri.tls {
        Some(options) => Some(within(limit, "reading certificates", tls::config(options.clone())).await?),
        None => None,
    };
    let mut link = Link {
        stream: within(limit, "connecting", dial(host, port, secure.as_ref())).await?,
        inbox: Inbox::new(FRAME_MAX as usize),
        early: Vec::new(),
    };
    let version = within(limit, "greeting", greet(&mut link, plan)).await?;
    let (frame_max, heartbeat) = within(limit, "logging in", log_in(&mut link, uri)).await?;
    link.inbox.set_frame_max(frame_max);
    within(limit, "opening the virtual host", open_vhost(&mut link, uri)).await?;
    Ok(Reached { link, secure, version, frame_max, heartbeat })
}

/// Opens a connection and a channel on this host.
pub(super) async fn open(plan: &Plan, host: &str, port: u16) -> Result<Opened, Failure> {
    let uri = &plan.uri;
    let limit = uri.connection_timeout;
    let Reached { mut link, secure, version, frame_max, heartbeat } = reach(plan, host, port).await?;
    topology::declare(plan, host, port, secure.as_ref()).await?;
    within(limit, "opening a channel", async {
        link.send(AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}))).await?;
        match link.method().await? {
            AMQPClass::Channel(channel::AMQPMethod::OpenOk(_)) => Ok(()),
            other => Err(refusal::unexpected(&other, Stage::Publishing(&plan.topology), uri)),
        }
    })
    .await?;
    within(limit, "turning on confirms", async {
        link.send(AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select { nowait: false }))).await?;
        match link.method().await? {
            AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(_)) => Ok(()),
            other => Err(refusal::unexpected(&other, Stage::Publishing(&plan.topology), uri)),
        }
    })
    .await?;
    plan.opened.store(true, Ordering::Relaxed);
    let max_message_bytes = plan.max_message_bytes.unwrap_or_else(|| default_message_max(&version));
    Ok(Opened { link, frame_max, max_message_bytes, heartbeat })
}

async fn dial(host: &str, port: u16, secure: Option<&Arc<ClientConfig>>) -> Result<Box<dyn Stream>, Failure> {
    let stream = TcpStream::connect((host, port)).await?;
    // Whole windows are written at once; waiting for more would only delay the confirms.
    stream.set_nodelay(true)?;
    // What was not sent yet when the connection is given up, or the process killed, must not be sent any more: it would
    // arrive behind what a later connection has brought, and an old state of a row would be the last that is seen.
    stream.set_zero_linger()?;
    Ok(match secure {
        Some(config) => Box::new(tls::encrypt(stream, host, config).await?),
        None => Box::new(stream),
    })
}

/// Protocol header out, `connection.start` in, `connection.start-ok` out. Returns the broker's version.
async fn greet(link: &mut Link, plan: &Plan) -> Result<String, Failure> {
    link.write(b"AMQP\x00\x00\x09\x01").await?;
    let start = match link.method().await? {
        AMQPClass::Connection(Connection::Start(start)) => start,
        other => return Err(refusal::unexpected(&other, Stage::Login, &plan.uri)),
    };
    let (mechanism, response) = match plan.uri.mechanism {
        Mechanism::Plain => ("PLAIN", format!("\0{}\0{}", plan.uri.user, plan.uri.password())),
        Mechanism::External => ("EXTERNAL", String::new()),
    };
    let offered = start.mechanisms.to_string();
    if !offered.split(' ').any(|offer| offer == mechanism) {
        let hint = "set auth_mechanism in rabbitmq.url to one that is offered; EXTERNAL needs the broker's plugin \
                    rabbitmq_auth_mechanism_ssl";
        let error = anyhow!("RabbitMQ does not offer the login mechanism {mechanism}; it offers {offered}");
        return Err(Failure::definite(Kind::Broker, error, hint));
    }
    link.send(AMQPClass::Connection(Connection::StartOk(connection::StartOk {
        client_properties: client_properties(&plan.name),
        mechanism: mechanism.into(),
        response: LongString::from(response.into_bytes()),
        locale: "en_US".into(),
    })))
    .await?;
    Ok(match start.server_properties.inner().get("version") {
        Some(AMQPValue::LongString(version)) => version.to_string(),
        _ => String::new(),
    })
}

/// Waits for `connection.tune` (the login is over then) and answers. Returns the frame size and the heartbeat.
async fn log_in(link: &mut Link, uri: &BrokerUri) -> Result<(usize, Duration), Failure> {
    let tune = match link.method().await? {
        AMQPClass::Connection(Connection::Tune(tune)) => tune,
        AMQPClass::Connection(Connection::Secure(_)) => {
            let hint = "use auth_mechanism=plain or external";
            return Err(Failure::definite(Kind::Broker, anyhow!("RabbitMQ asks for a challenge"), hint));
        }
        other => return Err(refusal::unexpected(&other, Stage::Login, uri)),
    };
    // 0 means no limit (connection.tune, §1.4.2.5 of the generated reference).
    let frame_max = if tune.frame_max == 0 { FRAME_MAX } else { tune.frame_max.min(FRAME_MAX) };
    if (frame_max as usize) < FRAME_MIN {
        return Err(Failure::transient(ProtocolError(format!("frame_max {frame_max}; the least is {FRAME_MIN}"))));
    }
    let wanted = u16::try_from(uri.heartbeat.as_secs()).unwrap_or(u16::MAX);
    // The lower of both; 0 here says that the broker leaves it to us, and from the user that there are none.
    let heartbeat = if tune.heartbeat == 0 { wanted } else { wanted.min(tune.heartbeat) };
    let tune_ok = connection::TuneOk { channel_max: CHANNEL, frame_max, heartbeat };
    link.send(AMQPClass::Connection(Connection::TuneOk(tune_ok))).await?;
    Ok((frame_max as usize, Duration::from_secs(heartbeat.into())))
}

async fn open_vhost(link: &mut Link, uri: &BrokerUri) -> Result<(), Failure> {
    let virtual_host = ShortString::try_new(uri.vhost.as_str()).map_err(|error| anyhow!(error));
    let virtual_host = virtual_host.map_err(|error| Failure::definite(Kind::Usage, error, "use a shorter name"))?;
    link.send(AMQPClass::Connection(Connection::Open(connection::Open { virtual_host }))).await?;
    match link.method().await? {
        AMQPClass::Connection(Connection::OpenOk(_)) => Ok(()),
        other => Err(refusal::unexpected(&other, Stage::Login, uri)),
    }
}

fn client_properties(name: &str) -> FieldTable {
    let text = |value: &str| AMQPValue::LongString(value.into());
    let mut capabilities = FieldTable::default();
    for capability in ["publisher_confirms", "basic.nack", "connection.blocked", "authentication_failure_close"] {
        capabilities.insert(capability.into(), AMQPValue::Boolean(true));
    }
    let mut properties = FieldTable::default();
    properties.insert("product".into(), text("pgsluice"));
    properties.insert("version".into(), text(env!("CARGO_PKG_VERSION")));
    properties.insert("connection_name".into(), text(&format!("pgsluice {name}")));
    properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
    properties
}

/// The broker does not say its limit; a version that can't be read counts as a new one, with the lower limit.
fn default_message_max(version: &str) -> usize {
    match version.split('.').next().and_then(|major| major.parse::<u32>().ok()) {
        Some(..4) => MESSAGE_MAX.0,
        Some(_) | None => MESSAGE_MAX.1,
    }
}

impl Link {
    /// Sends one method, on the channel that its class belongs to.
    pub(super) async fn send(&mut self, method: AMQPClass) -> Result<(), Failure> {
        let bytes = encode(method)?;
        self.write(&bytes).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    /// The next method that the broker sends; whatever else it says is kept for later.
    pub(super) async fn method(&mut self) -> Result<AMQPClass, Failure> {
        loop {
            match self.inbox.next().map_err(Failure::transient)? {
                Some(Incoming::Method(_, method)) => return Ok(method),
                Some(Incoming::Reply(reply)) => self.early.push(reply),
                None => {
                    let read = self.stream.read(self.inbox.space()).await?;
                    if read == 0 {
                        return Err(Failure::transient(anyhow!("the broker closed the connection without a word")));
                    }
                    self.inbox.filled(read);
                }
            }
        }
    }
}

/// One method as a frame; what we send fits the smallest frame that every broker takes.
pub(super) fn encode(method: AMQPClass) -> Result<Vec<u8>, Failure> {
    let channel = if matches!(method, AMQPClass::Connection(_)) { 0 } else { CHANNEL };
    let frame = AMQPFrame::Method(channel, method);
    let mut bytes = vec![0; FRAME_MIN];
    let written = gen_frame(&frame)(WriteContext::from(Cursor::new(bytes.as_mut_slice())));
    let written = written.map_err(|error| {
        let hint = "a name or the password is too long for AMQP's handshake (4096 bytes in all)";
        Failure::definite(Kind::Usage, anyhow!("encoding a method: {error}"), hint)
    })?;
    let length = usize::try_from(written.position).unwrap_or(FRAME_MIN);
    bytes.truncate(length);
    Ok(bytes)
}

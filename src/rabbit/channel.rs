//! Our own publish-only AMQP 0-9-1 connection with one channel in confirm mode.
//!
//! One task, no queues: a turn of [`RabbitChannel`] writes from the caller's buffer and reads into its own, whichever is
//! possible. Invariants: the writer never blocks the reader; a heartbeat goes out only between whole frames; a
//! cancelled turn loses nothing, since whatever a poll did, that same poll returns. `handshake` opens the
//! connection, `publisher` drives it.

use std::fmt;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use amq_protocol::protocol::AMQPClass;
use amq_protocol::protocol::connection::{self, AMQPMethod as Connection};
use anyhow::anyhow;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tracing::{debug, info};

use super::alarm::Alarm;
use super::handshake::{self, CLOSE_LIMIT, Link, Opened, Plan};
use super::inbox::Incoming;
use super::refusal::{self, Stage};
pub(crate) use super::topology::Session;
use crate::broker::{Broker, Channel, Reply, Turn};
use crate::config::RabbitSettings;
use crate::config::topology::Topology;
use crate::failure::{Failure, within};

/// A heartbeat frame (§4.2.7).
const HEARTBEAT: [u8; 8] = [8, 0, 0, 0, 0, 0, 0, 0xCE];

/// A RabbitMQ broker, or a cluster of them: its hosts are tried in turn.
#[derive(Debug, Clone)]
pub struct RabbitBroker {
    plan: Arc<Plan>,
    /// Index of the host that is tried first: the one after the last that was connected to, or failed.
    next: Arc<AtomicUsize>,
}

impl RabbitBroker {
    /// Connects as `settings` say; the broker shows the connection as `pgsluice <name>`. The `topology`
    /// ([`crate::route::topology()`]) is declared, or looked for, at each connect; other exchanges may be published to,
    /// and must exist.
    #[must_use]
    pub fn new(settings: &RabbitSettings, name: &str, topology: Topology) -> Self {
        let plan = Plan {
            uri: settings.uri.clone(),
            name: name.to_owned(),
            topology,
            declare: settings.declare,
            max_message_bytes: settings.max_message_bytes,
            opened: AtomicBool::new(false),
        };
        Self { plan: Arc::new(plan), next: Arc::default() }
    }

    /// A connection of lapin's, to the first host that gives one.
    pub(crate) async fn session(&self) -> Result<Session, Failure> {
        let mut failures = Vec::new();
        for (host, port) in &self.plan.uri.hosts {
            match Session::open(&self.plan, host, *port).await {
                Ok(session) => return Ok(session),
                Err(Failure::Transient(error)) => {
                    failures.push(format!("{:#}", error.context(format!("{host}:{port}"))));
                }
                Err(definite @ Failure::Definite(_)) => return Err(definite),
            }
        }
        Err(Failure::transient(anyhow!("no connection to RabbitMQ: {}", failures.join("; "))))
    }
}

impl Broker for RabbitBroker {
    type Channel = RabbitChannel;

    fn open(&self) -> impl Future<Output = Result<RabbitChannel, Failure>> + Send + 'static {
        let Self { plan, next } = self.clone();
        async move {
            let hosts = &plan.uri.hosts;
            let mut failures = Vec::new();
            for _ in hosts {
                let (host, port) = &hosts[next.fetch_add(1, Ordering::Relaxed) % hosts.len()];
                match handshake::open(&plan, host, *port).await {
                    Ok(opened) => {
                        let peer = format!("{host}:{port}");
                        let Opened { frame_max, max_message_bytes, heartbeat, .. } = &opened;
                        info!(peer, frame_max, max_message_bytes, ?heartbeat, "connected to RabbitMQ");
                        return Ok(RabbitChannel::new(opened, plan.clone(), peer));
                    }
                    Err(Failure::Transient(error)) => failures.push(error.context(format!("{host}:{port}"))),
                    Err(definite @ Failure::Definite(_)) => {
                        return Err(definite.context(format!("can't publish to RabbitMQ at {host}:{port}")));
                    }
                }
            }
            let failures: Vec<_> = failures.iter().map(|error| format!("{error:#}")).collect();
            Err(Failure::transient(anyhow!("no connection to RabbitMQ: {}", failures.join("; "))))
        }
    }
}

/// A channel in confirm mode on a connection of its own.
pub struct RabbitChannel {
    link: Link,
    plan: Arc<Plan>,
    peer: String,
    frame_max: usize,
    max_message_bytes: usize,
    pulse: Pulse,
    /// Bytes of a heartbeat that are still to be written; 0 between frames.
    heartbeat_left: usize,
    /// TLS holds written bytes back until it is flushed.
    unflushed: bool,
}

impl fmt::Debug for RabbitChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitChannel").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// When heartbeats are due, ours and the peer's (§4.2.7). A zero interval means none.
struct Pulse {
    interval: Duration,
    written: Instant,
    read: Instant,
    alarm: Alarm,
}

enum Beat {
    /// Nothing was sent for half the interval.
    Send,
    /// Nothing came for two intervals.
    Dead,
}

impl Pulse {
    fn poll(&mut self, cx: &mut Context<'_>, may_send: bool) -> Poll<Beat> {
        if self.interval.is_zero() {
            return Poll::Pending;
        }
        let dead = self.read + self.interval * 2;
        let send = self.written + self.interval / 2;
        let due = if may_send { dead.min(send) } else { dead };
        self.alarm.poll(cx, due).map(|()| if Instant::now() >= dead { Beat::Dead } else { Beat::Send })
    }
}

impl RabbitChannel {
    fn new(opened: Opened, plan: Arc<Plan>, peer: String) -> Self {
        let now = Instant::now();
        Self {
            link: opened.link,
            plan,
            peer,
            frame_max: opened.frame_max,
            max_message_bytes: opened.max_message_bytes,
            pulse: Pulse { interval: opened.heartbeat, written: now, read: now, alarm: Alarm::new() },
            heartbeat_left: 0,
            unflushed: false,
        }
    }

    /// What was read already comes first, then what can be read now.
    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, Failure>> {
        if !self.link.early.is_empty() {
            return Poll::Ready(Ok(self.link.early.remove(0)));
        }
        loop {
            match self.link.inbox.next() {
                Ok(Some(Incoming::Reply(reply))) => return Poll::Ready(Ok(reply)),
                Ok(Some(Incoming::Method(_, method))) => {
                    let stage = Stage::Publishing(&self.plan.topology);
                    let failure = refusal::unexpected(&method, stage, &self.plan.uri);
                    return Poll::Ready(Err(failure.context(format!("can't publish to RabbitMQ at {}", self.peer))));
                }
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(Failure::transient(error).context(self.peer.clone()))),
            }
            let mut space = ReadBuf::new(self.link.inbox.space());
            match Pin::new(&mut self.link.stream).poll_read(cx, &mut space) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.lost(&error.to_string()))),
                Poll::Ready(Ok(())) => {}
            }
            let read = space.filled().len();
            if read == 0 {
                return Poll::Ready(Err(self.lost("closed without a word")));
            }
            self.link.inbox.filled(read);
            self.pulse.read = Instant::now();
        }
    }

    /// A heartbeat that was begun goes first. Ready only with bytes of the output.
    fn poll_write(&mut self, cx: &mut Context<'_>, output: [&[u8]; 2]) -> Poll<Result<usize, Failure>> {
        let mut wrote = Poll::Pending;
        while self.heartbeat_left > 0 || output.iter().any(|slice| !slice.is_empty()) {
            let rest = &HEARTBEAT[HEARTBEAT.len() - self.heartbeat_left..];
            let stream = Pin::new(&mut self.link.stream);
            let result = if !rest.is_empty() {
                stream.poll_write(cx, rest)
            } else if stream.is_write_vectored() {
                stream.poll_write_vectored(cx, &output.map(IoSlice::new))
            } else {
                stream.poll_write(cx, if output[0].is_empty() { output[1] } else { output[0] })
            };
            match result {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(self.lost("takes no more bytes"))),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.lost(&error.to_string()))),
                Poll::Ready(Ok(bytes)) => {
                    self.unflushed = true;
                    self.pulse.written = Instant::now();
                    if self.heartbeat_left > 0 {
                        self.heartbeat_left -= bytes;
                        continue;
                    }
                    wrote = Poll::Ready(Ok(bytes));
                    break;
                }
            }
        }
        if self.unflushed {
            match Pin::new(&mut self.link.stream).poll_flush(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.lost(&error.to_string()))),
            }
        }
        wrote
    }

    fn lost(&self, why: &str) -> Failure {
        Failure::transient(anyhow!("the connection to RabbitMQ at {} is lost: {why}", self.peer))
    }
}

impl Channel for RabbitChannel {
    fn poll_turn(&mut self, cx: &mut Context<'_>, output: [&[u8]; 2]) -> Poll<Result<Turn, Failure>> {
        loop {
            if let Poll::Ready(result) = self.poll_reply(cx) {
                return Poll::Ready(result.map(Turn::Reply));
            }
            if let Poll::Ready(result) = self.poll_write(cx, output) {
                return Poll::Ready(result.map(Turn::Wrote));
            }
            let between_frames = self.heartbeat_left == 0 && output.iter().all(|slice| slice.is_empty());
            match self.pulse.poll(cx, between_frames) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Beat::Send) => {
                    self.heartbeat_left = HEARTBEAT.len();
                    // Counts as sent from now on, or it would be due again at once.
                    self.pulse.written = Instant::now();
                }
                Poll::Ready(Beat::Dead) => {
                    let silence = self.pulse.interval * 2;
                    return Poll::Ready(Err(self.lost(&format!("not a sign of life for {} s", silence.as_secs()))));
                }
            }
        }
    }

    fn frame_max(&self) -> usize {
        self.frame_max
    }

    fn max_message_bytes(&self) -> usize {
        self.max_message_bytes
    }

    async fn close(mut self) {
        // Once the broker's answer is there, or late, there is nothing more to do: all is settled.
        let goodbye = async {
            if self.heartbeat_left > 0 {
                return Ok(());
            }
            let close = connection::Close { reply_code: 200, reply_text: "bye".into(), class_id: 0, method_id: 0 };
            self.link.send(AMQPClass::Connection(Connection::Close(close))).await?;
            while !matches!(self.link.method().await?, AMQPClass::Connection(Connection::CloseOk(_))) {}
            Ok(())
        };
        if let Err(failure) = within(CLOSE_LIMIT, "closing", goodbye).await {
            debug!(%failure, "RabbitMQ did not say goodbye");
        }
    }
}

//! The publisher: keeps a channel open, and moves what the lane holds through it until it is settled.
//!
//! Invariants: `publish` does no IO, `drive` does all of it and can be cancelled at any await; an event leaves the
//! lane only settled, whatever happens to connections meanwhile. Transient trouble is waited out here, logged
//! once a change of state; only definite failures leave. `pipeline` is the caller; `lane` decides what may be sent.

use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::anyhow;
use tokio::time::Instant;
use tracing::{info, warn};

use super::alarm::Alarm;
use super::lane::{self, Lane, Mode, Parked};
use super::voice::Voice;
use super::wire::FrameError;
use crate::backoff::Backoff;
use crate::broker::{Broker, Channel, Reply, Returned, Turn};
use crate::config::{PoisonPolicy, Unroutable};
use crate::encode::message::Message;
use crate::failure::{Definite, Failure, Kind, Poison};
use crate::progress::Seq;

/// Between two attempts to connect.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Between two attempts to publish what was refused.
const REPUBLISH: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// What is logged when it was refused.
const REFUSED: &str = "RabbitMQ refuses events (nack): a queue is full, or its node is down";
/// How it begins when no queue takes one.
const UNROUTABLE: &str = "no queue takes event";
/// Discarded events are logged at most so often.
const DISCARD_LOG: Duration = Duration::from_secs(1);

/// How to publish.
#[derive(Debug, Clone, Copy)]
pub struct PublisherSettings {
    /// The oldest event without an answer for so long: the connection counts as dead.
    pub confirm_timeout: Duration,
    /// What to do with an event that no queue takes.
    pub unroutable: Unroutable,
    /// What to do with an event that the broker refuses for good.
    pub poison: PoisonPolicy,
    /// When the first connect fails, give up.
    pub fail_fast: bool,
    /// Seeds the jitter of all backoffs.
    pub jitter_seed: u64,
}

/// Why an event can't be published; it is not taken into flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// There was no connection yet, so that the broker's limits are not known.
    #[error("not connected to RabbitMQ yet")]
    NotReady,
    /// It would go to a queue by its name, past all bindings.
    #[error("the name of its exchange is empty")]
    NoExchange,
    /// The broker would close the channel over it.
    #[error("the body is {bytes} bytes long; the broker takes at most {limit}")]
    TooLarge {
        /// Of the body.
        bytes: usize,
        /// `rabbitmq.max_message_bytes`, or the default of the broker's version.
        limit: usize,
    },
    /// The same, told before it was encoded.
    #[error("the body would be at least {bytes} bytes long; the broker takes at most {limit}")]
    Oversize {
        /// Of the body, at the least.
        bytes: usize,
        /// As above.
        limit: usize,
    },
    /// A name is too long, or the headers are too large.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl PublishError {
    /// What is wrong with the event; none: it is not the event.
    #[must_use]
    pub fn poison(&self) -> Option<Poison> {
        match self {
            Self::NotReady => None,
            Self::NoExchange => Some(Poison::NoExchange),
            Self::TooLarge { .. } | Self::Oversize { .. } => Some(Poison::TooLarge),
            Self::Frame(FrameError::TooLong { .. }) => Some(Poison::NameTooLong),
            Self::Frame(FrameError::HeaderTooLarge { .. }) => Some(Poison::HeadersTooLarge),
        }
    }
}

/// What the publisher is doing, for the status and the readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// There was no connection yet.
    Connecting,
    /// Events flow, or could.
    Flowing,
    /// The broker raised a memory or disk alarm: nothing is sent until it is over.
    Blocked,
    /// The broker refused events, or no queue takes one: waiting, then trying again.
    Retrying,
    /// The broker refuses the oldest event for good, and the policy is to wait: trying it again, now and then.
    Poisoned(Poison),
    /// The connection is lost: trying to reconnect.
    Reconnecting,
}

/// How often what happened, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Of the events.
    pub events: lane::Counters,
    /// Connections after the first.
    pub reconnects: u64,
}

/// What the broker agreed to on the last connect.
#[derive(Debug, Clone, Copy)]
struct Limits {
    frame_max: usize,
    max_message_bytes: usize,
}

type Opening<C> = Pin<Box<dyn Future<Output = Result<C, Failure>> + Send>>;

/// The connection, from nothing to usable.
enum Link<C> {
    /// Not before then.
    Down(Instant),
    Opening(Opening<C>),
    Up {
        channel: C,
        since: Instant,
        blocked: bool,
        /// When the oldest event last came closer to its settlement, or there was nothing to wait for.
        progress: Instant,
    },
}

/// Publishes events in order and reports them once they are settled.
pub struct Publisher<B: Broker> {
    broker: B,
    settings: PublisherSettings,
    link: Link<B::Channel>,
    lane: Lane,
    limits: Option<Limits>,
    reconnect: Backoff,
    republish: Backoff,
    /// When the head may be tried again; set while the lane is waiting.
    probe_at: Option<Instant>,
    alarm: Alarm,
    reconnects: u64,
    /// What is wrong with the oldest event, if the broker refuses it for good.
    poison: Option<Poison>,
    voice: Voice,
    /// Nothing may be sent, see [`hold`](Self::hold).
    held: bool,
    /// What was logged last, so that each change of state makes one line.
    trouble: Option<String>,
    discard_logged: Option<Instant>,
}

/// What woke `drive`.
enum Event {
    Turn(Result<Turn, Failure>),
    Probe,
    ConfirmTimeout,
}

impl<B: Broker> Publisher<B> {
    /// A publisher without a connection; the first `drive` opens one.
    ///
    /// Must be called within a tokio runtime.
    pub fn new(broker: B, settings: PublisherSettings) -> Self {
        let seed = settings.jitter_seed;
        Self {
            broker,
            settings,
            link: Link::Down(Instant::now()),
            lane: Lane::new(settings.unroutable),
            limits: None,
            reconnect: Backoff::new(RECONNECT.0, RECONNECT.1).with_seed(seed),
            republish: Backoff::new(REPUBLISH.0, REPUBLISH.1).with_seed(seed.wrapping_add(1)),
            probe_at: None,
            alarm: Alarm::new(),
            reconnects: 0,
            poison: None,
            voice: Voice::default(),
            held: false,
            trouble: None,
            discard_logged: None,
        }
    }

    /// Speaks as one of several, which say the same thing once.
    #[must_use]
    pub fn with_voice(self, voice: Voice) -> Self {
        Self { voice, ..self }
    }

    /// With nothing in flight, it keeps at most so many bytes for what comes next.
    #[must_use]
    pub fn keeping(self, keep_bytes: usize) -> Self {
        Self { lane: self.lane.keeping(keep_bytes), ..self }
    }

    /// From this event on nothing is begun; [`Seq::MAX`]: there is no such event.
    pub fn set_fence(&mut self, fence: Seq) {
        self.lane.set_fence(fence);
        if let Link::Up { progress, .. } = &mut self.link
            && self.lane.unanswered() == 0
        {
            // The wait for an answer begins with what may be sent now.
            *progress = Instant::now();
        }
    }

    /// What has left the lane to be parked, oldest first; it is among what [`Self::drive`] tells to be settled.
    pub fn take_parked(&mut self) -> Option<Parked> {
        self.lane.take_parked()
    }

    /// The largest frame that the broker takes, in bytes; none before the first connection.
    #[must_use]
    pub fn frame_max(&self) -> Option<usize> {
        self.limits.map(|limits| limits.frame_max)
    }

    /// Sends nothing until it is let go: without its stream, who knows whether another pgsluice has it by now, and is
    /// further on. What was sent may still be settled.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
        if let Link::Up { progress, .. } = &mut self.link {
            // Nobody is to blame for the time in between.
            *progress = Instant::now();
        }
    }

    /// Whether `publish` can take events: there was a connection, so that the broker's limits are known.
    #[must_use]
    pub fn accepts(&self) -> bool {
        self.limits.is_some()
    }

    /// How long a body may be; none before the first connection.
    #[must_use]
    pub fn max_message_bytes(&self) -> Option<usize> {
        self.limits.map(|limits| limits.max_message_bytes)
    }

    /// Takes an event into flight, without IO; returns the bytes that it holds in memory until it is settled.
    /// Connected or not: what can't be sent now is sent later. The caller bounds how much is in flight.
    ///
    /// # Errors
    /// When it can't be published as it is; nothing has changed then.
    pub fn publish(&mut self, seq: Seq, message: &Message<'_>) -> Result<usize, PublishError> {
        let limits = self.limits.ok_or(PublishError::NotReady)?;
        if message.exchange.is_empty() {
            return Err(PublishError::NoExchange);
        }
        let bytes = message.body.len();
        if bytes > limits.max_message_bytes {
            return Err(PublishError::TooLarge { bytes, limit: limits.max_message_bytes });
        }
        let idle = self.lane.is_empty();
        let framed = self.lane.push(seq, message, limits.frame_max)?;
        if let Link::Up { progress, .. } = &mut self.link
            && idle
        {
            // The wait for an answer begins now, not when the last event was answered.
            *progress = Instant::now();
        }
        Ok(framed)
    }

    /// Does all the work until events are settled, or the first connection is open: then the range of what was
    /// settled, in order and without a hole (empty after that first connect only). Waits for ever when nothing is
    /// in flight, and keeps the connection alive meanwhile. Cancel-safe.
    ///
    /// # Errors
    /// Only what trying again can't mend. When it is about an event, then about the oldest one.
    pub async fn drive(&mut self) -> Result<Range<Seq>, Definite> {
        std::future::poll_fn(|cx| self.poll_drive(cx)).await
    }

    /// [`Self::drive`], for who drives several.
    ///
    /// # Errors
    /// As there.
    pub fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Range<Seq>, Definite>> {
        loop {
            let settled = self.lane.settled();
            if !settled.is_empty() {
                self.reconnect.reset();
                self.republish.reset();
                return Poll::Ready(Ok(settled));
            }
            match &mut self.link {
                Link::Down(until) => {
                    ready!(self.alarm.poll(cx, *until));
                    self.link = Link::Opening(Box::pin(self.broker.open()));
                }
                Link::Opening(opening) => {
                    let first = self.limits.is_none();
                    let opened = ready!(opening.as_mut().poll(cx));
                    self.opened(opened)?;
                    if first && self.limits.is_some() {
                        return Poll::Ready(Ok(self.lane.settled()));
                    }
                }
                Link::Up { .. } => {
                    let event = ready!(self.poll_event(cx));
                    self.handle(event)?;
                }
            }
        }
    }

    /// What the publisher is doing.
    #[must_use]
    pub fn state(&self) -> State {
        if let Some(poison) = self.poison {
            return State::Poisoned(poison);
        }
        match (&self.link, self.lane.mode()) {
            (Link::Down(_) | Link::Opening(_), _) if self.limits.is_none() => State::Connecting,
            (Link::Down(_) | Link::Opening(_), _) => State::Reconnecting,
            (Link::Up { blocked: true, .. }, _) => State::Blocked,
            (Link::Up { .. }, Mode::Flowing) => State::Flowing,
            // With nothing left to send again, it is over; a half ramp is not, it may end in a refusal.
            (Link::Up { .. }, Mode::Probing { .. }) if self.lane.is_empty() => State::Flowing,
            (Link::Up { .. }, Mode::Draining | Mode::Waiting | Mode::Probing { .. }) => State::Retrying,
        }
    }

    /// What is wrong now, in a sentence; `None` while events flow.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// How often what happened.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters { events: self.lane.counters(), reconnects: self.reconnects }
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lane.is_empty()
    }

    /// Says goodbye to the broker, if it is there. What is in flight stays unsettled.
    pub async fn close(self) {
        match self.link {
            // In the middle of an event a goodbye would be read as a part of it.
            Link::Up { channel, .. } if self.lane.is_empty() => channel.close().await,
            Link::Up { .. } | Link::Down(_) | Link::Opening(_) => {}
        }
    }

    fn opened(&mut self, result: Result<B::Channel, Failure>) -> Result<(), Definite> {
        // The future that was waited for is used up, whatever comes now.
        self.link = Link::Down(Instant::now());
        let channel = match result {
            Ok(channel) => channel,
            Err(Failure::Definite(definite)) => return Err(definite),
            Err(Failure::Transient(error)) if self.settings.fail_fast && self.limits.is_none() => {
                let hint =
                    "check rabbitmq.url and that the broker is up, or let pgsluice wait for it: without --fail-fast";
                return Err(Definite::new(Kind::Unreachable, error, hint));
            }
            Err(Failure::Transient(error)) => {
                self.down(&error);
                return Ok(());
            }
        };
        let limits = Limits { frame_max: channel.frame_max(), max_message_bytes: channel.max_message_bytes() };
        match self.limits {
            Some(before) if limits.frame_max < before.frame_max && !self.lane.is_empty() => {
                let (was, is) = (before.frame_max, limits.frame_max);
                return Err(Definite::new(
                    Kind::Broker,
                    anyhow!("RabbitMQ takes frames of {is} bytes now, but events in flight were framed for {was}"),
                    "set the same frame_max on every node of the cluster, then start again; nothing is lost",
                ));
            }
            Some(_) => self.reconnects += 1,
            None => {}
        }
        self.limits = Some(limits);
        self.lane.reconnected();
        self.probe_at = None;
        let now = Instant::now();
        self.link = Link::Up { channel, since: now, blocked: false, progress: now };
        // A new connection is the end of all trouble but that which it may end.
        if !self.is_not_taken() && self.poison.is_none() {
            self.over(None);
        }
        Ok(())
    }

    /// Whatever comes first; only called with an open channel, otherwise there is nothing.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let Self { link: Link::Up { channel, blocked, progress, .. }, lane, alarm, probe_at, settings, held, .. } =
            self
        else {
            return Poll::Pending;
        };
        let blocked = *blocked || *held;
        let output = lane.output(blocked);
        let waits = !blocked && (lane.unanswered() > 0 || output.iter().any(|slice| !slice.is_empty()));
        let timeout = waits.then(|| *progress + settings.confirm_timeout);
        let probe = probe_at.filter(|_| !blocked);
        // First what the broker says: an answer that is there already counts before any deadline.
        if let Poll::Ready(turn) = channel.poll_turn(cx, output) {
            return Poll::Ready(Event::Turn(turn));
        }
        let Some(due) = [timeout, probe].into_iter().flatten().min() else { return Poll::Pending };
        alarm.poll(cx, due).map(|()| if probe == Some(due) { Event::Probe } else { Event::ConfirmTimeout })
    }

    fn handle(&mut self, event: Event) -> Result<(), Definite> {
        let before = (self.lane.mode(), self.lane.unanswered());
        match event {
            Event::Turn(Ok(Turn::Wrote(bytes))) => self.lane.wrote(bytes),
            Event::Turn(Ok(Turn::Reply(reply))) => {
                if let Err(error) = self.reply(reply) {
                    self.down(&anyhow!(error));
                }
            }
            Event::Turn(Err(Failure::Transient(error))) => self.down(&error),
            // It may be about any of the events in flight, and has cost those before it their confirms. Sent again, the oldest
            // one alone, they get them; and when it comes again, it is known which event it is about.
            Event::Turn(Err(Failure::Definite(definite))) if self.lane.begun() != 1 => self.down(&anyhow!(definite)),
            Event::Turn(Err(Failure::Definite(definite))) => self.refused(definite)?,
            Event::Probe => {
                self.probe_at = None;
                self.lane.probe();
            }
            Event::ConfirmTimeout => {
                let waited = self.settings.confirm_timeout.as_millis();
                self.down(&anyhow!("RabbitMQ confirmed nothing for {waited} ms (a queue without its majority?)"));
            }
        }
        self.notice(before);
        Ok(())
    }

    /// For good, and it is about the oldest event, if about any.
    fn refused(&mut self, definite: Definite) -> Result<(), Definite> {
        match (definite.poison, self.settings.poison) {
            (Some(poison), PoisonPolicy::Wait) if !self.lane.is_empty() => {
                self.poison = Some(poison);
                self.link = Link::Down(Instant::now() + self.reconnect.next_wait());
                self.in_trouble(&format!(
                    "{definite}; it and all later events wait ({}): {}",
                    poison.as_str(),
                    definite.hint
                ));
            }
            (Some(_), PoisonPolicy::Park) if !self.lane.is_empty() => {
                self.link = Link::Down(Instant::now());
                self.lane.park_head(definite);
            }
            (Some(_) | None, _) => {
                self.link = Link::Down(Instant::now() + self.reconnect.next_wait());
                return Err(definite);
            }
        }
        Ok(())
    }

    fn reply(&mut self, reply: Reply) -> Result<(), lane::LaneError> {
        match reply {
            Reply::Ack { tag, multiple } => self.lane.ack(tag, multiple),
            Reply::Nack { tag, multiple } => {
                self.lane.nack(tag, multiple)?;
                self.in_trouble(REFUSED);
                Ok(())
            }
            Reply::Returned(returned) => {
                // Behind the first one that comes back, others do too; it is the first that all wait for.
                let known = self.lane.mode() == Mode::Draining;
                self.lane.returned(&returned)?;
                if !known {
                    self.unroutable(&returned);
                }
                Ok(())
            }
            Reply::Blocked(reason) => {
                self.set_blocked(true);
                self.in_trouble(&format!("RabbitMQ blocks publishers: {reason}"));
                Ok(())
            }
            Reply::Unblocked => {
                self.set_blocked(false);
                self.over(Some("RabbitMQ takes messages again"));
                Ok(())
            }
        }
    }

    /// After each event: keeps the timers, and says when trouble is over.
    fn notice(&mut self, (mode, unanswered): (Mode, usize)) {
        let now = Instant::now();
        let settling = self.lane.has_settled();
        let moved = settling || self.lane.mode() != mode || unanswered == 0;
        if let Link::Up { progress, .. } = &mut self.link
            && moved
        {
            *progress = now;
        }
        if settling {
            self.poison = None;
        }
        if settling && self.trouble.is_some() && self.state() == State::Flowing {
            self.over(Some("events flow again"));
        }
        if matches!(self.link, Link::Up { .. }) && self.lane.mode() == Mode::Waiting && self.probe_at.is_none() {
            self.put_off(now);
        }
    }

    /// All that was sent is answered, and the oldest event was not taken: tries it again after a backoff.
    ///
    /// Not taken for the 2nd, 4th, 8th, … time in a row, it is tried on a new connection, to the next host. A channel of
    /// RabbitMQ's that first published to a quorum queue just after its leader's node had gone refuses everything until
    /// that node is back, although the queue has long had another leader. And a queue or a binding of the configuration
    /// that somebody has deleted is declared again with that.
    fn put_off(&mut self, now: Instant) {
        let at = now + self.republish.next_wait();
        let attempts = self.republish.attempts();
        if self.is_not_taken() && attempts > 1 && attempts.is_power_of_two() {
            self.link = Link::Down(at);
        } else {
            self.probe_at = Some(at);
        }
    }

    /// By a queue that refuses it, or for want of one.
    fn is_not_taken(&self) -> bool {
        self.trouble.as_deref().is_some_and(|trouble| trouble == REFUSED || trouble.starts_with(UNROUTABLE))
    }

    fn set_blocked(&mut self, now_blocked: bool) {
        if let Link::Up { blocked, progress, .. } = &mut self.link {
            *blocked = now_blocked;
            // The time under an alarm counts for nobody.
            *progress = Instant::now();
        }
    }

    /// The connection is gone; logs why, once for each reason.
    fn down(&mut self, why: &anyhow::Error) {
        let now = Instant::now();
        if let Link::Up { since, .. } = &self.link
            && now.duration_since(*since) >= RECONNECT.1
        {
            self.reconnect.reset();
        }
        let wait = self.reconnect.next_wait();
        self.link = Link::Down(now + wait);
        self.probe_at = None;
        self.in_trouble(&format!("not connected to RabbitMQ: {why:#}"));
    }

    fn unroutable(&mut self, returned: &Returned) {
        let Returned { code, text, exchange, routing_key, message_id } = returned;
        match self.settings.unroutable {
            Unroutable::Park => {
                let now = Instant::now();
                if self.is_due(now) {
                    warn!(message_id, exchange, routing_key, "no queue takes this event: parked");
                }
            }
            Unroutable::Wait => self.in_trouble(&format!(
                "{UNROUTABLE} {message_id} (exchange '{exchange}', routing key '{routing_key}'): {text} ({code}); \
                 it and all later events wait: bind a queue, or set rabbitmq.unroutable.policy",
            )),
            Unroutable::Discard => {
                let now = Instant::now();
                if self.is_due(now) {
                    let returned = self.lane.counters().returned;
                    warn!(message_id, exchange, routing_key, returned, "no queue takes this event: discarded");
                }
            }
        }
    }

    /// Whether another line may be logged of what is given up.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.discard_logged.is_none_or(|logged| now.duration_since(logged) >= DISCARD_LOG);
        if is_due {
            self.discard_logged = Some(now);
        }
        is_due
    }

    fn in_trouble(&mut self, what: &str) {
        if self.trouble.as_deref() != Some(what) {
            self.trouble = Some(what.to_owned());
            if self.voice.is_news(what) {
                warn!("{what}");
            }
        }
    }

    /// Nothing is wrong any more.
    fn over(&mut self, what: Option<&str>) {
        self.trouble = None;
        if self.voice.is_over()
            && let Some(what) = what
        {
            info!("{what}");
        }
    }
}

#[cfg(test)]
#[path = "publisher_tests.rs"]
mod tests;

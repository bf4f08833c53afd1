//! The publisher of what is parked: one of its own, opened at the first need, so that an event that no lane can deliver
//! neither stops nor repeats those behind it.
//!
//! Invariant: what is parked is settled once a queue has taken its copy; until then it is in flight, and comes again if the
//! process dies. So a copy that is returned or refused is published again until it is taken.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;
use tracing::warn;

use super::publisher::{PublishError, Publisher};
use super::wire::FrameError;
use crate::broker::Broker;
use crate::encode::message::Event;
use crate::encode::parked::{self, Parking as Why};
use crate::failure::{Definite, Poison};
use crate::lsn::Lsn;
use crate::progress::Seq;

/// Parked events are logged at most so often.
const LOG: Duration = Duration::from_secs(1);

/// Why an event is parked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reason<'a> {
    /// No queue takes it.
    Unroutable,
    /// It can't be published as it is.
    Poison(&'a Definite),
    /// Nor is there any event: only what is known of it.
    Unmade(&'a Definite),
}

pub(super) struct Parking<B: Broker> {
    exchange: String,
    publisher: Publisher<B>,
    /// What it has in flight, by their names in the window; the publisher counts them.
    seqs: VecDeque<Seq>,
    /// Counts what the publisher was given.
    next: Seq,
    /// Before its first connection.
    waiting: VecDeque<(Seq, Event)>,
    is_needed: bool,
    /// Where those are whose bodies are left out, by the commit LSNs of their transactions.
    bodiless: Vec<Lsn>,
    logged: Option<Instant>,
}

impl<B: Broker> Parking<B> {
    pub(super) fn new(exchange: String, publisher: Publisher<B>) -> Self {
        let (seqs, waiting) = (VecDeque::new(), VecDeque::new());
        Self { exchange, publisher, seqs, next: 0, waiting, is_needed: false, bodiless: Vec::new(), logged: None }
    }

    /// Takes an event; returns about how many bytes it holds in memory until it is settled.
    pub(super) fn park(&mut self, seq: Seq, mut event: Event, why: Reason<'_>) -> usize {
        let (reason, error, described) = match why {
            Reason::Unroutable => (parked::UNROUTABLE, "no queue takes it".to_owned(), false),
            Reason::Poison(definite) | Reason::Unmade(definite) => {
                let poison = definite.poison.unwrap_or(Poison::Other);
                let is_unmade = matches!(why, Reason::Unmade(_)) || poison == Poison::TooLarge;
                (poison.as_str(), definite.to_string(), is_unmade)
            }
        };
        if !matches!(why, Reason::Unroutable) {
            self.log(&error);
        }
        // It was whole; the limits have changed since, or only the broker knows its own.
        if matches!(why, Reason::Poison(definite) if definite.poison == Some(Poison::TooLarge)) {
            self.bodiless.extend(parked::commit_lsn(&event));
        }
        parked::park(&mut event, Why { reason, error: &error, at_us: now_us() }, &self.exchange, described);
        self.is_needed = true;
        let bytes = event.body.len() + event.headers.all().bytes().len() + event.routing_key.len();
        self.waiting.push_back((seq, event));
        bytes
    }

    /// Drives the publisher; ready when something was settled, which is appended to `settled`.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, settled: &mut Vec<Seq>) -> Poll<Result<(), Definite>> {
        if !self.is_needed {
            return Poll::Pending;
        }
        loop {
            self.publish_waiting()?;
            let range = ready!(self.publisher.poll_drive(cx))?;
            if !range.is_empty() {
                let count = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
                settled.extend(self.seqs.drain(..count));
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Takes an event that a lane had published, and that the broker refuses, as [`Self::park`].
    pub(super) fn park_published(&mut self, seq: Seq, event: Event, refusal: Option<&Definite>) {
        self.park(seq, event, refusal.map_or(Reason::Unroutable, Reason::Poison));
    }

    /// In which transactions events are that were taken for whole, and whose bodies or headers were left out since the last
    /// call. They are told before they are settled.
    pub(super) fn take_bodiless(&mut self) -> impl Iterator<Item = Lsn> {
        self.bodiless.drain(..)
    }

    pub(super) fn publisher(&self) -> Option<&Publisher<B>> {
        Some(&self.publisher).filter(|_| self.is_needed)
    }

    pub(super) fn hold(&mut self, held: bool) {
        self.publisher.hold(held);
    }

    /// The first in the order of the window that is not settled yet.
    pub(super) fn oldest(&self) -> Option<Seq> {
        self.seqs.iter().copied().chain(self.waiting.iter().map(|(seq, _)| *seq)).min()
    }

    pub(super) async fn close(self) {
        self.publisher.close().await;
    }

    fn publish_waiting(&mut self) -> Result<(), Definite> {
        while self.publisher.accepts()
            && let Some((seq, event)) = self.waiting.front_mut()
        {
            match self.publisher.publish(self.next, &event.message()) {
                Ok(_) => {}
                // The limits of the node that took this connection may be others.
                Err(PublishError::TooLarge { .. }) if !event.body.is_empty() => {
                    self.bodiless.extend(parked::commit_lsn(event));
                    parked::describe_parked(event);
                    continue;
                }
                Err(PublishError::Frame(FrameError::HeaderTooLarge { .. })) if !parked::is_stripped(event) => {
                    self.bodiless.extend(parked::commit_lsn(event));
                    parked::strip(event);
                    continue;
                }
                Err(error) => {
                    let what = anyhow::anyhow!(error).context("can't park an event");
                    return Err(
                        Definite::poison(Poison::Other, what, "set rabbitmq.poison.policy = \"wait\"").as_asked()
                    );
                }
            }
            self.seqs.push_back(*seq);
            self.next += 1;
            self.waiting.pop_front();
        }
        Ok(())
    }

    fn log(&mut self, error: &str) {
        let now = Instant::now();
        if self.logged.is_none_or(|logged| now.duration_since(logged) >= LOG) {
            self.logged = Some(now);
            warn!(error, "an event is parked");
        }
    }
}

/// Microseconds since 1970.
fn now_us() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX)
}

//! Takes spans from the queue and has them posted, on a thread of its own; says when the collector does not take them, once.
//!
//! What the collector can't take now is sent again until it can; meanwhile the queue fills up, and what finds no place is dropped
//! where it begins. What it refuses is dropped here.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use super::post::{NotTaken, Poster, Taken};
use super::tracer::Ended;
use super::wire;
use crate::backoff::Backoff;

/// In one request.
const BATCH_MAX: usize = 512;
/// A span waits no longer for others.
const BATCH_EVERY: Duration = Duration::from_secs(1);
/// Between two attempts.
const WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Trouble that comes and goes is told of once in this time.
const TELL_EVERY: Duration = Duration::from_mins(1);

/// The thread's work.
#[derive(Debug)]
pub(super) struct Export {
    spans: UnboundedReceiver<Ended>,
    poster: Poster,
    stop: Stop,
    backoff: Backoff,
    state: State,
    /// When trouble was told last.
    told_at: Option<Instant>,
}

/// Whether the process goes on.
#[derive(Debug)]
enum Stop {
    /// Until this completes.
    Waits(oneshot::Receiver<()>),
    /// No: what is queued is sent, if the collector takes it.
    Came,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fine,
    /// And whether that was told.
    Failing(bool),
}

impl Export {
    pub(super) fn new(spans: UnboundedReceiver<Ended>, stop: oneshot::Receiver<()>, poster: Poster) -> Self {
        let (stop, backoff) = (Stop::Waits(stop), Backoff::new(WAITS.0, WAITS.1));
        Self { spans, poster, stop, backoff, state: State::Fine, told_at: None }
    }

    /// Until the process ends and all is sent or given up.
    pub(super) async fn run(mut self) {
        loop {
            let mut batch = self.collect().await;
            if batch.is_empty() {
                return;
            }
            batch.sort_by(|one, other| one.place.name().cmp(other.place.name()));
            for spans in batch.chunk_by(|one, other| one.place.name() == other.place.name()) {
                self.deliver(spans).await;
            }
        }
    }

    /// The next spans; none: there will be no others.
    async fn collect(&mut self) -> Vec<Ended> {
        let mut batch = Vec::new();
        let mut due = Instant::now();
        loop {
            let (is_new, room) = (batch.is_empty(), BATCH_MAX - batch.len());
            tokio::select! { biased;
                () = self.stop.comes() => self.spans.close(),
                count = self.spans.recv_many(&mut batch, room) => match count {
                    0 => return batch,
                    _ if batch.len() == BATCH_MAX => return batch,
                    _ if is_new => due = Instant::now() + BATCH_EVERY,
                    _ => {}
                },
                () = sleep_until(due), if !is_new => return batch,
            }
        }
    }

    /// Of one pipeline.
    async fn deliver(&mut self, spans: &[Ended]) {
        let Some(Ended { place, .. }) = spans.first() else { return };
        let count = spans.len() as u64;
        let request = hyper::body::Bytes::from(wire::request(place.name(), spans));
        loop {
            match self.poster.post(request.clone()).await {
                Ok(Taken { rejected, why }) => {
                    let rejected = rejected.min(count);
                    place.exported(count - rejected);
                    place.dropped(rejected);
                    self.backoff.reset();
                    if rejected == 0 {
                        self.fine();
                    } else {
                        self.failing(&format!("it rejects {rejected} spans: {why}"));
                    }
                    return;
                }
                Err(NotTaken::Refused(why)) => {
                    place.dropped(count);
                    self.backoff.reset();
                    return self.failing(&why);
                }
                Err(NotTaken::Away(why)) => {
                    self.failing(&why);
                    if let Stop::Came = self.stop {
                        return place.dropped(count);
                    }
                    let wait = self.backoff.next_wait();
                    tokio::select! {
                        () = self.stop.comes() => self.spans.close(),
                        () = sleep(wait) => {}
                    }
                }
            }
        }
    }

    fn failing(&mut self, why: &str) {
        if self.state != State::Fine {
            return tracing::debug!("the collector still takes no spans: {why}");
        }
        let now = Instant::now();
        let is_due = self.told_at.is_none_or(|at| now.duration_since(at) >= TELL_EVERY);
        self.state = State::Failing(is_due);
        if is_due {
            self.told_at = Some(now);
            tracing::warn!(
                "the OTLP collector does not take spans: {why}; events go on, and spans are dropped if it lasts"
            );
        }
    }

    fn fine(&mut self) {
        if self.state == State::Failing(true) {
            tracing::info!("the OTLP collector takes spans again");
        }
        self.state = State::Fine;
    }
}

impl Stop {
    /// Completes once, when the process is about to end. Cancel-safe.
    async fn comes(&mut self) {
        match self {
            Self::Waits(stop) => {
                // Who has gone without a word does not wait.
                let _ = stop.await;
                *self = Self::Came;
            }
            Self::Came => std::future::pending().await,
        }
    }
}

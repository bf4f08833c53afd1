//! The source's end of the loop: a stream that is opened, lost, and opened again, one state at a time.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::backoff::Backoff;
use crate::checkpoint::{Checkpoint, Store};
use crate::failure::{Definite, Failure, Kind};
use crate::source::{Batch, ChangeStream, Named, Opened, Resume, Source, Status};
use crate::telemetry::health::{self, Health};
use crate::telemetry::otlp::connecting::Connecting;

/// The longest wait between two attempts. A stream that lived for so long was a good one.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

type Opening<S> = Pin<Box<dyn Future<Output = Result<Opened<<S as Source>::Stream>, Failure>> + Send>>;

/// A source that is kept open.
pub(super) struct Link<S: Source> {
    source: S,
    /// Where the next opening goes on from.
    resume: Resume,
    state: State<S>,
    backoff: Backoff,
    fail_fast: bool,
    connecting: Connecting,
    health: Health,
}

enum State<S: Source> {
    Waiting(Instant),
    Opening(Opening<S>),
    Open {
        stream: S::Stream,
        since: Instant,
    },
    /// A report found the stream broken; the next turn says so.
    Broken(Failure),
}

/// What the loop hears.
pub(super) enum News {
    /// A stream begins, from `start`.
    Opened { start: Checkpoint, selected: Vec<Named>, report_every: Duration },
    /// Frames.
    Batch(Batch),
    /// The stream is gone; what was half read will come again.
    Lost,
}

impl<S: Source> Link<S> {
    pub(super) fn new(source: S, store: Arc<dyn Store>, fail_fast: bool, health: Health) -> Self {
        let resume = Resume { store, reached: None };
        let backoff = Backoff::new(Duration::from_millis(100), LONGEST_WAIT);
        let connecting =
            Connecting::new(health.tracer().clone(), "connect postgresql", ("db.system.name", "postgresql"));
        Self { source, resume, state: State::Waiting(Instant::now()), backoff, fail_fast, connecting, health }
    }

    /// Where to go on from when the stream has to be opened again.
    pub(super) fn resume_from(&mut self, checkpoint: Checkpoint) {
        self.resume.reached = Some(checkpoint);
    }

    /// Whether it was an open stream that `next` spoke of last.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// What happens next on the stream; reconnects with backoff. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<News, Definite> {
        loop {
            let mut failure = match &mut self.state {
                State::Waiting(until) => {
                    self.connecting.begin();
                    sleep_until(*until).await;
                    self.state = State::Opening(Box::pin(self.source.open(self.resume.clone())));
                    continue;
                }
                State::Opening(opening) => match opening.await {
                    Ok(Opened { stream, start, selected, report_every }) => {
                        tracing::info!(from = %start.flushed, slot = start.slot, "streaming from PostgreSQL");
                        self.state = State::Open { stream, since: Instant::now() };
                        self.fail_fast = false;
                        self.connecting.done();
                        self.health.source(health::Source::Streaming);
                        self.health.metrics().streams.add(1);
                        return Ok(News::Opened { start, selected, report_every });
                    }
                    Err(failure) => failure,
                },
                State::Open { stream, since } => match stream.next().await {
                    Ok(batch) => {
                        // Not at once: one that breaks soon after each start must not be opened without a pause.
                        if since.elapsed() >= LONGEST_WAIT {
                            self.backoff.reset();
                        }
                        return Ok(News::Batch(batch));
                    }
                    Err(failure) => failure,
                },
                State::Broken(_) => match std::mem::replace(&mut self.state, State::Waiting(Instant::now())) {
                    State::Broken(failure) => failure,
                    State::Waiting(_) | State::Opening(_) | State::Open { .. } => continue,
                },
            };
            self.health.source(health::Source::Connecting);
            let was_opening = matches!(self.state, State::Opening(_));
            if !was_opening {
                failure = failure.context("the replication stream can't go on");
            }
            self.retry(failure, was_opening)?;
            if !was_opening {
                return Ok(News::Lost);
            }
        }
    }

    /// Tells the server how far we are, if there is one to tell.
    pub(super) async fn report(&mut self, status: Status) {
        if let State::Open { stream, .. } = &mut self.state
            && let Err(failure) = stream.report(status).await
        {
            self.state = State::Broken(failure);
        }
    }

    /// Opens another stream in the place of this one.
    pub(super) fn reopen(&mut self) {
        self.state = State::Waiting(Instant::now());
    }

    /// Nothing more is going to be read: an opening that nobody waits for must not hold what the checkpoint's store needs.
    pub(super) fn stop_opening(&mut self) {
        if let State::Opening(_) = self.state {
            self.state = State::Waiting(Instant::now());
        }
    }

    /// Whether a report found the stream broken, so that there is nothing more to read.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self.state, State::Broken(_))
    }

    fn retry(&mut self, failure: Failure, was_opening: bool) -> Result<(), Definite> {
        let error = match failure {
            Failure::Definite(definite) => return Err(definite),
            Failure::Transient(error) if self.fail_fast => {
                let hint =
                    "check source.url and that PostgreSQL is up, or let pgsluice wait for it: without --fail-fast";
                return Err(Definite::new(Kind::Unreachable, error.context("can't reach PostgreSQL"), hint));
            }
            Failure::Transient(error) => error,
        };
        self.connecting.begin();
        self.connecting.trouble(&format!("{error:#}"));
        let wait = self.backoff.next_wait();
        self.health.metrics().trouble("source", &format!("{error:#}"));
        if !was_opening || self.backoff.attempts() == 1 {
            tracing::warn!(error = format!("{error:#}"), "PostgreSQL is away; trying again until it is back");
        } else {
            tracing::debug!(error = format!("{error:#}"), ?wait, "PostgreSQL is still away");
        }
        self.state = State::Waiting(Instant::now() + wait);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::checkpoint::file::FileStore;
    use crate::lsn::Lsn;

    /// Each stream brings one batch, and ends.
    struct ShortLived(Arc<AtomicUsize>);

    struct Stream {
        batches: usize,
    }

    impl Source for ShortLived {
        type Stream = Stream;

        fn open(&self, _: Resume) -> impl Future<Output = Result<Opened<Stream>, Failure>> + Send + 'static {
            self.0.fetch_add(1, Ordering::Relaxed);
            let name = || "shop".to_owned();
            let (slot, publication, flushed) = (name(), name(), Lsn::ZERO);
            let start = Checkpoint {
                system_identifier: 1,
                timeline: 1,
                slot,
                publication,
                flushed,
                position: None,
                retained: Vec::new(),
            };
            let (stream, selected) = (Stream { batches: 1 }, Vec::new());
            async { Ok(Opened { stream, start, selected, report_every: LONGEST_WAIT }) }
        }
    }

    impl ChangeStream for Stream {
        async fn next(&mut self) -> Result<Batch, Failure> {
            self.batches = self.batches.checked_sub(1).ok_or_else(|| Failure::transient(anyhow::anyhow!("broken")))?;
            Ok(Batch::default())
        }

        async fn report(&mut self, _: Status) -> Result<(), Failure> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_breaks_after_each_start_is_opened_with_growing_waits() {
        let opened = Arc::new(AtomicUsize::new(0));
        let store = Arc::new(FileStore::new("unused".as_ref(), "shop", None));
        let mut link = Link::new(ShortLived(Arc::clone(&opened)), store, false, Health::default());
        let until = Instant::now() + Duration::from_mins(10);
        while Instant::now() < until {
            link.next().await.expect("nothing definite");
        }
        let opened = opened.load(Ordering::Relaxed);
        assert!((60..150).contains(&opened), "{opened} times in ten minutes");
    }
}

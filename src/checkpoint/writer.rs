//! Stores the watermark beside the loop, so that an `fsync` never holds it up.
//!
//! One write at a time, at most one an interval; what is stored comes back as a [`DurableLsn`], which
//! alone can be reported to PostgreSQL. A write that fails (a full disk) is tried again, and meanwhile
//! nothing more is acknowledged: PostgreSQL keeps the WAL.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Checkpoint, DurableLsn, Mark, Store, Storing};
use crate::backoff::Backoff;
use crate::failure::{Definite, Failure};
use crate::progress::{Progress, Seq};
use crate::telemetry::health::{self, Health};

/// Writes checkpoints of one binding (server and slot).
pub struct Checkpointer {
    store: Arc<dyn Store>,
    interval: Duration,
    /// What is on disk, or will be when `state` says that it is being written.
    binding: Checkpoint,
    /// The newest progress that was offered.
    wanted: Progress,
    /// How many events were settled then, and when the last write began.
    settled: [Seq; 2],
    /// It is to be stored now.
    urgent: bool,
    durable: Option<DurableLsn>,
    state: State,
    backoff: Backoff,
    health: Health,
}

/// A write that lasts longer is late: who waits for it may have to go on without.
const LATE: Duration = Duration::from_secs(1);
/// And one that lasts so long has failed, as far as anybody can tell who looks at us.
const HANGS: Duration = Duration::from_secs(30);

enum State {
    /// Nothing is being written, since the instant.
    Resting(Instant),
    Writing {
        write: Storing,
        since: Instant,
        /// It was said that it hangs.
        told: bool,
    },
    /// The last write failed; the next attempt starts at the instant.
    Failed(Instant),
}

const NOT_STORED: &str = "the checkpoint can't be stored; nothing more is acknowledged to PostgreSQL until it can";

impl Checkpointer {
    /// A writer that goes on from `binding`. It is stored first, so that server and slot are on record
    /// before anything is published.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, interval: Duration, binding: Checkpoint, health: Health) -> Self {
        let wanted = binding.progress();
        let mut writer = Self {
            store,
            interval,
            binding,
            wanted,
            settled: [0; 2],
            urgent: true,
            durable: None,
            state: State::Resting(Instant::now()),
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(10)),
            health,
        };
        writer.write();
        writer
    }

    /// What was stored last, or is being stored.
    #[must_use]
    pub fn binding(&self) -> &Checkpoint {
        &self.binding
    }

    /// What PostgreSQL may be told.
    #[must_use]
    pub fn durable(&self) -> Option<DurableLsn> {
        self.durable
    }

    /// Whether this progress is on disk.
    #[must_use]
    pub fn has_stored(&self, progress: Progress) -> bool {
        matches!(self.state, State::Resting(_)) && self.binding.progress() == progress
    }

    /// What was offered is not stored yet, and when it will be nobody knows.
    #[must_use]
    pub fn is_late(&self) -> bool {
        match self.state {
            State::Writing { since, .. } if since.elapsed() > LATE => true,
            State::Writing { .. } | State::Resting(_) | State::Failed(_) => self.backoff.attempts() > 0,
        }
    }

    /// The server or its timeline changed under way (a failover that was verified).
    pub fn rebind(&mut self, binding: &Checkpoint) {
        self.binding = binding.at(self.binding.progress());
    }

    /// What is stored from now on beside the progress.
    pub fn retain(&mut self, marks: &[Mark]) {
        if self.binding.retained != marks {
            marks.clone_into(&mut self.binding.retained);
        }
    }

    /// The server asks, or the process is about to end: what is offered next is stored at once.
    pub fn hurry(&mut self) {
        self.urgent = true;
    }

    /// How long to rest between two writes.
    fn rest(&self) -> Duration {
        let [offered, written] = self.settled;
        let is_idle = offered == written;
        match (self.urgent, is_idle) {
            (true, _) => Duration::ZERO,
            (false, true) => self.interval.max(self.store.idle_interval()),
            (false, false) => self.interval,
        }
    }

    /// Takes note of progress, and of how many events were settled in all, to be stored when its time comes.
    pub fn offer(&mut self, progress: Progress, settled: Seq) {
        self.wanted = progress;
        self.settled[0] = settled;
    }

    /// Stores what was offered once the interval is over, and returns when that is durable. Pending for
    /// as long as there is nothing to store. Cancel-safe.
    ///
    /// # Errors
    /// Definite when the store can never take it; a full disk is waited out.
    pub async fn stored(&mut self) -> Result<DurableLsn, Definite> {
        loop {
            let rest = self.rest();
            match &mut self.state {
                State::Resting(_) if self.wanted == self.binding.progress() => std::future::pending().await,
                State::Resting(since) => {
                    sleep_until(*since + rest).await;
                    self.write();
                }
                State::Failed(until) => {
                    sleep_until(*until).await;
                    self.write();
                }
                State::Writing { write, since, told } => match finished(write, *since, *told).await {
                    None => {
                        *told = true;
                        self.hangs();
                    }
                    Some(Ok(())) => {
                        if *told || self.backoff.attempts() > 0 {
                            tracing::info!("the checkpoint is being stored again");
                        }
                        self.backoff.reset();
                        self.health.checkpoint(health::Checkpoint::Fine);
                        self.state = State::Resting(Instant::now());
                        let durable = DurableLsn(self.binding.flushed);
                        self.durable = Some(durable);
                        return Ok(durable);
                    }
                    Some(Err(Failure::Transient(error))) => self.retry_later(&error),
                    Some(Err(Failure::Definite(definite))) => {
                        // The future is used up.
                        self.state = State::Failed(Instant::now());
                        return Err(definite);
                    }
                },
            }
        }
    }

    fn write(&mut self) {
        self.urgent = false;
        self.settled[1] = self.settled[0];
        self.binding = self.binding.at(self.wanted);
        let write = Arc::clone(&self.store).store(self.binding.clone());
        self.state = State::Writing { write, since: Instant::now(), told: false };
    }

    /// A disk or a server that neither stores nor fails.
    fn hangs(&self) {
        let error = format!("no answer within {} s", HANGS.as_secs());
        tracing::error!(error, "{NOT_STORED}");
        self.health.metrics().trouble("checkpoint", &error);
        self.health.checkpoint(health::Checkpoint::Failing);
    }

    fn retry_later(&mut self, error: &anyhow::Error) {
        if self.backoff.attempts() == 0 {
            tracing::error!(error = format!("{error:#}"), "{NOT_STORED}");
        }
        self.health.metrics().trouble("checkpoint", &format!("{error:#}"));
        self.health.checkpoint(health::Checkpoint::Failing);
        self.state = State::Failed(Instant::now() + self.backoff.next_wait());
    }
}

/// None: it hangs, and nobody was told.
async fn finished(write: &mut Storing, since: Instant, told: bool) -> Option<Result<(), Failure>> {
    if told { Some(write.await) } else { timeout_at(since + HANGS, write).await.ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::file::FileStore;
    use crate::failure::Kind;
    use crate::lsn::Lsn;

    fn checkpoint(flushed: u64) -> Checkpoint {
        let name = || "shop".to_owned();
        let flushed = Lsn(flushed);
        Checkpoint {
            system_identifier: 1,
            timeline: 1,
            slot: name(),
            publication: name(),
            flushed,
            position: None,
            retained: Vec::new(),
        }
    }

    async fn opened(folder: &std::path::Path) -> Arc<FileStore> {
        let store = Arc::new(FileStore::new(folder, "shop", None));
        Arc::clone(&store).load().await.expect("is usable");
        store
    }

    #[tokio::test]
    async fn progress_that_goes_back_is_an_error_and_not_tried_for_ever() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = opened(folder.path()).await;
        Arc::clone(&store).store(checkpoint(20)).await.expect("stores");
        let mut writer = Checkpointer::new(store, Duration::ZERO, checkpoint(10), Health::default());
        let error = writer.stored().await.expect_err("is refused");
        assert_eq!(error.kind, Kind::Checkpoint);
        assert_eq!(writer.durable(), None);
        assert!(!writer.has_stored(checkpoint(10).progress()));
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_the_interval_is_not_waited_for() {
        let interval = Duration::from_mins(1);
        let folder = tempfile::tempdir().expect("a folder");
        let store = opened(folder.path()).await;
        let mut writer = Checkpointer::new(store, interval, checkpoint(10), Health::default());
        writer.stored().await.expect("stores the binding");
        writer.offer(checkpoint(20).progress(), 1);
        assert!(tokio::time::timeout(interval / 2, writer.stored()).await.is_err());
        writer.hurry();
        let begin = Instant::now();
        assert_eq!(writer.stored().await.expect("stores").lsn(), Lsn(20));
        assert!(begin.elapsed() < interval / 4 && writer.has_stored(checkpoint(20).progress()));
    }

    /// A disk that neither stores nor fails.
    #[derive(Debug)]
    struct Hanging;

    impl Store for Hanging {
        fn load(self: Arc<Self>) -> crate::checkpoint::Loading {
            Box::pin(async { Ok(None) })
        }

        fn store(self: Arc<Self>, _: Checkpoint) -> Storing {
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_hangs_is_late_and_then_counts_as_failing() {
        let health = Health::default();
        let mut writer = Checkpointer::new(Arc::new(Hanging), Duration::ZERO, checkpoint(10), health.clone());
        assert!(!writer.is_late());
        assert!(tokio::time::timeout(LATE * 2, writer.stored()).await.is_err());
        assert!(writer.is_late());
        assert_eq!(health.state().checkpoint, health::Checkpoint::Fine);
        assert!(tokio::time::timeout(HANGS, writer.stored()).await.is_err());
        assert_eq!(health.state().checkpoint, health::Checkpoint::Failing);
    }
}

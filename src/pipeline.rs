//! The loop that joins both ends, and reads as the flow of one change:
//!
//! ```text
//! source ─▶ frame ─▶ pgoutput ─▶ transaction ─▶ route ─▶ encode ─▶ publisher ─▶ window ─▶ checkpoint ─▶ source
//!                                                                   (settled)  (watermark)  (durable)   (flushed)
//! ```
//!
//! The one rule behind it: PostgreSQL is told only what a checkpoint on disk covers, and a checkpoint
//! covers only what is settled without a hole. So a crash between any two of these steps repeats
//! events, and loses none. What is read again after a reconnect, but was taken in before, is known by
//! its position and dropped: it is still in the window, or settled.

mod intake;
mod link;
mod outgoing;
pub mod scope;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout_at};

use crate::broker::Broker;
use crate::checkpoint::writer::Checkpointer;
use crate::checkpoint::{Checkpoint, DurableLsn, Store};
use crate::config::{PoisonPolicy, Settings};
use crate::failure::{Definite, Kind};
use crate::lsn::Lsn;
use crate::postgres::open::PostgresSource;
use crate::postgres::outbox_cleanup::Cleaner;
use crate::progress::{Progress, Window};
use crate::rabbit::channel::RabbitBroker;
use crate::rabbit::lanes::{Failed, Lanes};
use crate::retention::Retention;
use crate::route::topology;
use crate::source::{Source, Status};
use crate::telemetry::health::Health;
use crate::telemetry::metrics::now_us;
use intake::Intake;
pub use intake::{Announce, Replay};
use link::{Link, News};
use scope::Tally;

/// Runs one pipeline against the real servers, from what `store` holds, until `shutdown` completes (then `Ok`) or it has
/// to stop.
///
/// # Errors
/// Whatever a human has to look at; see [`Kind`] for the exit codes.
pub async fn run(
    settings: Settings,
    store: Arc<dyn Store>,
    health: Health,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Definite> {
    let source = PostgresSource::new(settings.source.clone(), settings.outboxes.clone());
    let source = source.with_rules(settings.rules.clone()).with_health(health.clone());
    let broker = RabbitBroker::new(&settings.rabbitmq, &settings.name, topology(&settings));
    let (cleanup, cleaner) = Cleaner::start(&settings).unzip();
    let mut pipeline = Pipeline::new(settings, source, broker, store, health);
    pipeline.intake.cleanup = cleanup;
    let result = Box::pin(pipeline.run(shutdown)).await;
    if let Some(cleaner) = cleaner {
        cleaner.finish().await;
    }
    result
}

/// Both ends, and everything between them. [`run`] gives it the real ones, the simulation of the tests its own.
pub struct Pipeline<S: Source, B: Broker> {
    settings: Settings,
    source: Link<S>,
    publisher: Lanes<B>,
    store: Arc<dyn Store>,
    checkpointer: Option<Checkpointer>,
    intake: Intake,
    window: Window,
    retention: Retention,
    /// What PostgreSQL was told last.
    reported: Option<DurableLsn>,
    report_tick: Interval,
    /// The next event can't be published, and the policy is to wait.
    stuck: Option<Stuck>,
    /// What was logged of the last such event.
    told: Option<String>,
    health: Health,
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// As [`run`] returns it.
    pub result: Result<(), Definite>,
    /// All of the replay is settled.
    pub is_complete: bool,
    /// What was published of it.
    pub tally: Tally,
    /// How many events the broker took for good.
    pub confirmed: u64,
    /// Every transaction that ends at or before it is settled.
    pub settled: Lsn,
}

/// An event that can't be published, and is waited for.
struct Stuck {
    /// What the broker took then: when it takes more, it may take the event.
    max_message_bytes: Option<usize>,
}

/// Why the loop can't go on.
enum Stop {
    /// The next event can't be published, or the next frame not read; both ends are well.
    Unpublishable(Definite),
    /// The server can't send the next change.
    Unsendable(Definite),
    /// One of the ends, or the checkpoint, has failed for good.
    Failed(Definite),
}

impl From<Definite> for Stop {
    fn from(definite: Definite) -> Self {
        Self::Failed(definite)
    }
}

impl<S: Source, B: Broker + Clone> Pipeline<S, B> {
    /// A pipeline that goes on from what `store` holds. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(settings: Settings, source: S, broker: B, store: Arc<dyn Store>, health: Health) -> Self {
        Self {
            source: Link::new(source, Arc::clone(&store), settings.fail_fast, health.clone()),
            publisher: Lanes::new(broker, &settings.rabbitmq, settings.fail_fast, health.clone()),
            store,
            checkpointer: None,
            intake: Intake::new(&settings, None, &health),
            window: Window::new(Progress::default(), settings.rabbitmq.in_flight),
            retention: Retention::new(settings.source.retain, &[]),
            reported: None,
            report_tick: report_timer(settings.source.report_every),
            stuck: None,
            told: None,
            settings,
            health,
        }
    }

    /// The same as a replay, which ends by itself.
    #[must_use]
    pub fn replaying(mut self, replay: Replay) -> Self {
        self.intake = Intake::new(&self.settings, Some(replay), &self.health);
        self
    }

    /// Runs until `shutdown` completes (then `Ok`) or it has to stop.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Definite> {
        self.run_to_end(shutdown).await.result
    }

    /// [`Self::run`], or until all of a replay is settled; and what came of it.
    pub async fn run_to_end(mut self, shutdown: impl Future<Output = ()>) -> Outcome {
        let result = match self.flow(shutdown).await {
            Ok(()) if self.is_complete() => Ok(()),
            Ok(()) => self.drain().await,
            // What was published before it is worth its confirm: it would only be repeated.
            Err(Stop::Unpublishable(definite)) => self.break_off().await.and(Err(definite)),
            // Or missed: no start gets further, and the way past it begins behind the last that was stored.
            Err(Stop::Unsendable(definite)) => self.break_off().await.and(Err(self.unread(definite))),
            Err(Stop::Failed(definite)) => Err(definite),
        };
        let outcome = Outcome {
            result,
            is_complete: self.is_complete(),
            tally: self.intake.tally(),
            confirmed: self.publisher.confirmed(),
            settled: self.window.watermark().flushed,
        };
        self.publisher.close().await;
        outcome
    }

    /// All of a replay is settled.
    fn is_complete(&self) -> bool {
        self.intake.is_over() && self.window.is_empty()
    }

    /// The loop. Ends with `Ok` when `shutdown` does, or a replay is over.
    async fn flow(&mut self, shutdown: impl Future<Output = ()>) -> Result<(), Stop> {
        let mut shutdown = pin!(shutdown);
        let mut pause = self.health.pause_asked();
        loop {
            let is_paused = *pause.borrow_and_update();
            if !is_paused {
                self.take_in()?;
            }
            if self.is_complete() {
                return Ok(());
            }
            // A stream that broke is opened again although the broker is away: a slot that nobody uses may be given up
            // by the server. What is pending comes again.
            // Nothing is read before server and slot are on record: until then, the checkpoint may be somebody else's.
            let is_on_record = self.checkpointer.as_ref().is_none_or(|writer| writer.durable().is_some());
            // A pause is one of what is read; the slot is kept.
            let wants =
                if is_paused { !self.source.is_open() } else { self.has_taken_all() || self.source.is_broken() };
            let may_read = is_on_record && !self.intake.is_over() && wants;
            tokio::select! { biased;
                () = &mut shutdown => return Ok(()),
                Ok(()) = pause.changed() => self.tell_pause(),
                turn = self.turn(may_read) => turn?,
            }
        }
    }

    /// What was read goes on its way, as far as there is room; up to an event that can't be published.
    fn take_in(&mut self) -> Result<(), Stop> {
        if let Some(stuck) = &self.stuck {
            if self.publisher.max_message_bytes() > stuck.max_message_bytes {
                // Read again, from its transaction's beginning; what of it was taken in is known.
                self.stuck = None;
                self.source.reopen();
                self.lost();
            }
            return Ok(());
        }
        if !self.publisher.accepts() {
            return Ok(());
        }
        let Err(definite) = self.intake.take_in(&mut self.window, &mut self.publisher) else { return Ok(()) };
        if definite.poison.is_none() || self.settings.rabbitmq.poison != PoisonPolicy::Wait {
            return Err(Stop::Unpublishable(definite));
        }
        self.wait_for(&definite);
        // Those before it are not kept waiting.
        match self.intake.break_off(&mut self.window, &mut self.publisher) {
            Ok(()) => Ok(()),
            Err(earlier) if earlier.poison.is_some() => Ok(()),
            Err(definite) => Err(Stop::Failed(definite)),
        }
    }

    /// Nothing behind this event is taken in, until a human has mended what is wrong with it, and restarts.
    fn wait_for(&mut self, definite: &Definite) {
        let what = definite.to_string();
        self.health.event(definite.poison);
        self.health.metrics().trouble("event", &what);
        // The same one, read again, is nothing new.
        if self.told.as_ref() != Some(&what) {
            tracing::error!(
                hint = definite.hint,
                "{what}; it and all later events wait: mend it and restart, or set rabbitmq.poison.policy"
            );
            self.told = Some(what);
        }
        self.stuck = Some(Stuck { max_message_bytes: self.publisher.max_message_bytes() });
    }

    /// Whether there is room for more to be read.
    fn has_taken_all(&self) -> bool {
        self.stuck.is_none() && self.intake.pending.is_empty()
    }

    /// Does what is to be done next. In this order: keep the walsender content, whether or not the broker takes
    /// messages; move the checkpoint; free the window; and only then read more. The first two are rarely ready, so that
    /// they starve nobody, and a busy broker holds back reading, as it should. Cancel-safe.
    async fn turn(&mut self, may_read: bool) -> Result<(), Stop> {
        self.tell();
        if self.intake.report_now {
            // A server that asks may be about to shut down, and waits for what is settled to be reported.
            self.checkpointer.iter_mut().for_each(Checkpointer::hurry);
            self.report().await;
        }
        tokio::select! { biased;
            _ = self.report_tick.tick() => self.report().await,
            durable = stored(&mut self.checkpointer, &self.window) => {
                let flushed = durable?.lsn();
                let metrics = self.health.metrics();
                metrics.stored.set(flushed.0);
                metrics.stored_at.set(Some(now_us()));
                self.intake.cleanup.iter_mut().for_each(|cleanup| cleanup.passed(flushed));
                self.report().await;
            }
            driven = self.publisher.drive() => {
                driven.map_err(|failed| refused(failed, &self.window))?;
                for commit_lsn in self.publisher.bodiless() {
                    self.intake.cleanup.iter_mut().for_each(|cleanup| cleanup.keep(commit_lsn));
                }
                for (seq, poison) in self.publisher.parked() {
                    self.intake.meter.parked(seq, poison);
                }
                let settled = self.publisher.settled().inspect(|seq| self.window.settle(*seq));
                self.intake.meter.settled(settled);
            }
            news = self.source.next(), if may_read => match news.map_err(|definite| self.source_failed(definite))? {
                News::Batch(batch) => self.intake.read(batch)?,
                News::Opened { start, selected, report_every } => {
                    self.intake.select(&selected);
                    self.opened(start, report_every);
                }
                News::Lost => self.lost(),
            },
            // Whoever asks is answered by the next turn.
            () = self.health.pulse().asked() => {}
        }
        Ok(())
    }

    /// For whoever asks while nothing happens here.
    fn tell(&self) {
        self.health.pulse().turned();
        let metrics = self.health.metrics();
        metrics.received.raise(self.intake.received.0);
        metrics.settled.set(self.window.watermark().flushed.0);
        metrics.in_flight_events.set(self.window.len() as u64);
        metrics.in_flight_bytes.set(self.window.bytes() as u64);
        metrics.oldest_commit.set(self.intake.meter.oldest_commit());
    }

    fn tell_pause(&self) {
        if self.health.is_paused() {
            tracing::info!("paused: nothing new is read or published, and the slot keeps the WAL");
        } else {
            tracing::info!("resumed");
        }
    }

    fn opened(&mut self, start: Checkpoint, report_every: Duration) {
        self.report_tick = report_timer(report_every);
        self.publisher.hold(false);
        self.intake.forget_transaction();
        // The server may be another one, with less of a log.
        self.intake.received = start.flushed;
        self.stuck = None;
        self.health.event(None);
        if let Some(cleanup) = &mut self.intake.cleanup {
            cleanup.restart(self.window.reached().position);
        }
        self.reported = None;
        if let Some(checkpointer) = &mut self.checkpointer {
            checkpointer.rebind(&start);
            return;
        }
        self.window = Window::new(start.progress(), self.settings.rabbitmq.in_flight);
        self.retention = Retention::new(self.settings.source.retain, &start.retained);
        let interval = self.settings.checkpoint.interval;
        let store = Arc::clone(&self.store);
        self.checkpointer = Some(Checkpointer::new(store, interval, start, self.health.clone()));
    }

    fn lost(&mut self) {
        // What can't be published comes again with the stream, which must be opened again before anybody takes the slot.
        self.stuck = None;
        self.intake.forget_transaction();
        self.publisher.hold(true);
        if let Some(checkpointer) = &self.checkpointer {
            // What was taken in is in the window or settled, stored or not. So the next server must have all of it in
            // its history: had a failover lost some, what it has in that place would be taken for a repetition.
            self.source.resume_from(checkpointer.binding().at(self.window.reached()));
        }
    }

    /// What is known to be delivered when the source ends for good. Where a stream can't even start, that is part of
    /// the reason already.
    fn source_failed(&self, definite: Definite) -> Stop {
        match &self.checkpointer {
            Some(checkpointer) if self.source.is_open() && definite.kind == Kind::InDoubt => {
                let flushed = checkpointer.binding().flushed;
                Stop::Failed(definite.context(format!("changes committed after {flushed} may be missing")))
            }
            Some(_) if self.source.is_open() && definite.kind == Kind::Source => Stop::Unsendable(definite),
            Some(_) | None => Stop::Failed(definite),
        }
    }

    /// Where a stream ends that the server can't go on with.
    fn unread(&self, definite: Definite) -> Definite {
        match &self.checkpointer {
            Some(checkpointer) => {
                let flushed = checkpointer.binding().flushed;
                definite.context(format!("can't read the changes that were committed after {flushed}"))
            }
            None => definite,
        }
    }

    /// Tells PostgreSQL what is durable and need not be kept for a replay. A stream that does not take it is lost, and
    /// opened again by the loop.
    ///
    /// While events are unsettled, the past is retained or the checkpoint can't be stored, an LSN that was told before is not
    /// told again: a server that shuts down waits until what it sent is flushed, if it hears of a flush, and else until it
    /// is received. So it need not wait for a broker that is away, nor for the end of the retention, nor for itself where
    /// it keeps the checkpoints.
    async fn report(&mut self) {
        self.intake.report_now = false;
        let durable = self.checkpointer.as_ref().and_then(Checkpointer::durable);
        let released = durable.and_then(|durable| self.release(durable));
        let is_late = self.checkpointer.as_ref().is_some_and(Checkpointer::is_late);
        let all = self.window.is_empty() && released == durable && !is_late;
        let flushed = released.filter(|_| all || released != self.reported);
        self.reported = released;
        self.source.report(Status { received: self.intake.received, flushed }).await;
    }

    /// What PostgreSQL may forget of what is durable.
    fn release(&mut self, durable: DurableLsn) -> Option<DurableLsn> {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let released = self.retention.hold(durable.lsn(), u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX));
        if let Some(checkpointer) = &mut self.checkpointer {
            checkpointer.retain(self.retention.marks());
        }
        if let Some(held_bytes) = self.retention.noteworthy(durable.lsn()) {
            tracing::info!(held_bytes, "WAL is held back for replays (replay.retain_bytes, replay.retain_ms)");
        }
        released.map(|lsn| durable.or_before(lsn))
    }

    /// The next change can't be published or read: those before it are.
    async fn break_off(&mut self) -> Result<(), Definite> {
        let broken_off = self.intake.break_off(&mut self.window, &mut self.publisher);
        self.drain().await.and(broken_off)
    }

    /// Takes no more in, and waits for what is in flight and for its checkpoint, up to the deadline.
    async fn drain(&mut self) -> Result<(), Definite> {
        let deadline = Instant::now() + self.settings.shutdown_timeout;
        self.source.stop_opening();
        tracing::info!(in_flight = self.window.len(), "stopping: waiting for what is in flight");
        let settle_all = async {
            let is_stored = |pipeline: &Self| {
                let watermark = pipeline.window.watermark();
                pipeline.checkpointer.as_ref().is_none_or(|checkpointer| checkpointer.has_stored(watermark))
            };
            while !(self.window.is_empty() && is_stored(self)) {
                self.checkpointer.iter_mut().for_each(Checkpointer::hurry);
                if self.source.is_broken() {
                    // Somebody else may have the slot.
                    self.publisher.hold(true);
                }
                match self.turn(false).await {
                    Ok(()) => {}
                    Err(Stop::Unpublishable(definite) | Stop::Unsendable(definite) | Stop::Failed(definite)) => {
                        return Err(definite);
                    }
                }
            }
            Ok(())
        };
        if let Ok(result) = timeout_at(deadline, settle_all).await {
            return result;
        }
        tracing::warn!(
            in_flight = self.window.len(),
            oldest = self.window.oldest().map(tracing::field::display),
            "stopped before everything was confirmed; these events will be published again"
        );
        Ok(())
    }
}

/// Offers the watermark to the checkpointer and waits until one is durable.
async fn stored(checkpointer: &mut Option<Checkpointer>, window: &Window) -> Result<DurableLsn, Definite> {
    match checkpointer {
        Some(checkpointer) => {
            checkpointer.offer(window.watermark(), window.settled());
            checkpointer.stored().await
        }
        None => std::future::pending().await,
    }
}

fn report_timer(every: Duration) -> Interval {
    let mut timer = interval(every);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

/// The broker refuses an event; the lane knows which.
fn refused(failed: Failed, window: &Window) -> Definite {
    match failed.seq.and_then(|seq| window.position(seq)) {
        Some(position) => failed.definite.context(format!("can't publish the event at {position}")),
        None => failed.definite,
    }
}

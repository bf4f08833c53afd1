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

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use crate::broker::Broker;
use crate::change::Change;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::file::FileStore;
use crate::checkpoint::writer::Checkpointer;
use crate::config::Settings;
use crate::encode::Encoder;
use crate::failure::{Definite, Kind};
use crate::lsn::Lsn;
use crate::postgres::open::PostgresSource;
use crate::postgres::pgoutput;
use crate::postgres::replication::Frame;
use crate::progress::{Progress, Window};
use crate::rabbit::channel::RabbitBroker;
use crate::rabbit::publisher::{PublishError, Publisher, PublisherSettings};
use crate::route::{Router, Skip, Verdict, exchanges};
use crate::source::{Batch, Source, Status};
use crate::transaction::{Assembler, Step, TakeError};
use link::{Link, News};

mod link;

/// Runs one pipeline against the real servers until `shutdown` completes (then `Ok`) or it has to stop.
///
/// # Errors
/// Whatever a human has to look at; see [`Kind`] for the exit codes.
pub async fn run(settings: Settings, shutdown: impl Future<Output = ()>) -> Result<(), Definite> {
    let store = FileStore::open(&settings.checkpoint.path)?;
    let source = PostgresSource::new(settings.source.clone(), settings.outbox.clone());
    let broker = RabbitBroker::new(&settings.rabbitmq, &settings.name, exchanges(&settings));
    Pipeline::new(settings, source, broker, store)?.run(shutdown).await
}

/// Both ends, and everything between them.
struct Pipeline<S: Source, B: Broker> {
    settings: Settings,
    source: Link<S>,
    publisher: Publisher<B>,
    store: Arc<FileStore>,
    checkpointer: Option<Checkpointer>,
    intake: Intake,
    window: Window,
}

/// What a frame goes through before it is published.
struct Intake {
    pending: Batch,
    received: Lsn,
    report_now: bool,
    assembler: Assembler,
    router: Router,
    encoder: Encoder,
    outbox_update_seen: bool,
}

impl<S: Source, B: Broker> Pipeline<S, B> {
    fn new(settings: Settings, source: S, broker: B, store: FileStore) -> Result<Self, Definite> {
        let checkpoint = store.load()?;
        let progress = checkpoint.as_ref().map_or_else(Progress::default, Checkpoint::progress);
        Ok(Self {
            source: Link::new(source, checkpoint, settings.fail_fast),
            publisher: Publisher::new(broker, publisher_settings(&settings)),
            store: Arc::new(store),
            checkpointer: None,
            intake: Intake::new(&settings),
            window: Window::new(progress, settings.rabbitmq.in_flight),
            settings,
        })
    }

    async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), Definite> {
        let mut result = self.flow(shutdown).await;
        // What was published before an event that can't be is worth its confirm: it would only be repeated.
        if matches!(result, Ok(()) | Err(Definite { kind: Kind::Event, .. })) {
            result = self.drain().await.and(result);
        }
        self.publisher.close().await;
        result
    }

    /// The loop. Ends with `Ok` when `shutdown` does.
    async fn flow(&mut self, shutdown: impl Future<Output = ()>) -> Result<(), Definite> {
        let mut shutdown = pin!(shutdown);
        let mut report_tick = report_timer(self.settings.source.report_every);
        loop {
            if self.publisher.accepts() {
                self.intake.take_in(&mut self.window, &mut self.publisher)?;
            }
            if self.intake.report_now {
                self.report().await;
            }
            // A stream that broke is opened again although the broker is away: a slot that nobody uses may be given up
            // by the server. What is pending comes again.
            let may_read = self.intake.pending.is_empty() || self.source.is_broken();
            // In this order: end when asked to; keep the walsender content whether or not the broker takes
            // messages; move the checkpoint; free the window; and only then take more in. The first three are
            // rarely ready, so that they starve nobody, and a busy broker holds back reading, as it should.
            tokio::select! { biased;
                () = &mut shutdown => return Ok(()),
                _ = report_tick.tick() => self.report().await,
                durable = stored(&mut self.checkpointer, self.window.watermark()) => {
                    durable?;
                    self.report().await;
                }
                settled = self.publisher.drive() => settled
                    .map_err(|definite| refused(definite, &self.window))?
                    .for_each(|seq| self.window.settle(seq)),
                news = self.source.next(), if may_read => match news.map_err(|definite| self.source_failed(definite))? {
                    News::Batch(batch) => self.intake.pending = batch,
                    News::Opened { start, report_every } => {
                        report_tick = report_timer(report_every);
                        self.opened(start);
                    }
                    News::Lost => self.lost(),
                },
            }
        }
    }

    fn opened(&mut self, start: Checkpoint) {
        self.intake.forget_transaction();
        if let Some(checkpointer) = &mut self.checkpointer {
            checkpointer.rebind(&start);
            return;
        }
        self.window = Window::new(start.progress(), self.settings.rabbitmq.in_flight);
        let interval = self.settings.checkpoint.interval;
        self.checkpointer = Some(Checkpointer::new(Arc::clone(&self.store), interval, start));
    }

    fn lost(&mut self) {
        self.intake.forget_transaction();
        if let Some(checkpointer) = &self.checkpointer {
            // What was taken in is in the window or settled, stored or not. So the next server must have all of it in
            // its history: had a failover lost some, what it has in that place would be taken for a repetition.
            self.source.resume_from(checkpointer.binding().at(self.window.reached()));
        }
    }

    /// What is known to be delivered when the source ends for good. Where a stream can't even start, that is part of
    /// the reason already.
    fn source_failed(&self, definite: Definite) -> Definite {
        match &self.checkpointer {
            Some(checkpointer) if self.source.is_open() && definite.kind == Kind::InDoubt => {
                let flushed = checkpointer.binding().flushed;
                definite.context(format!("changes committed after {flushed} may be missing"))
            }
            Some(_) | None => definite,
        }
    }

    /// Tells PostgreSQL what is durable. A stream that does not take it is lost, and opened again by the loop.
    async fn report(&mut self) {
        self.intake.report_now = false;
        let flushed = self.checkpointer.as_ref().and_then(Checkpointer::durable);
        self.source.report(Status { received: self.intake.received, flushed }).await;
    }

    /// Takes no more in, and waits for what is in flight and for its checkpoint, up to the deadline.
    async fn drain(&mut self) -> Result<(), Definite> {
        let deadline = Instant::now() + self.settings.shutdown_timeout;
        if let Some(checkpointer) = &mut self.checkpointer {
            checkpointer.hurry();
        }
        tracing::info!(in_flight = self.window.len(), "stopping: waiting for what is in flight");
        let mut report_tick = report_timer(self.settings.source.report_every);
        let settle_all = async {
            let is_stored = |pipeline: &Self| {
                let watermark = pipeline.window.watermark();
                pipeline.checkpointer.as_ref().is_none_or(|checkpointer| checkpointer.has_stored(watermark))
            };
            while !(self.window.is_empty() && is_stored(self)) {
                tokio::select! { biased;
                    _ = report_tick.tick() => self.report().await,
                    durable = stored(&mut self.checkpointer, self.window.watermark()) => {
                        durable?;
                        self.report().await;
                    }
                    settled = self.publisher.drive() => settled
                        .map_err(|definite| refused(definite, &self.window))?
                        .for_each(|seq| self.window.settle(seq)),
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

fn publisher_settings(settings: &Settings) -> PublisherSettings {
    PublisherSettings {
        confirm_timeout: settings.rabbitmq.confirm_timeout,
        unroutable: settings.rabbitmq.unroutable,
        fail_fast: settings.fail_fast,
        jitter_seed: fastrand::u64(..),
    }
}

/// Offers the watermark to the checkpointer and waits until one is durable.
async fn stored(checkpointer: &mut Option<Checkpointer>, watermark: Progress) -> Result<(), Definite> {
    match checkpointer {
        Some(checkpointer) => {
            checkpointer.offer(watermark);
            checkpointer.stored().await.map(|_| ())
        }
        None => std::future::pending().await,
    }
}

fn report_timer(every: Duration) -> tokio::time::Interval {
    let mut timer = interval(every);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

impl Intake {
    fn new(settings: &Settings) -> Self {
        Self {
            pending: Batch::default(),
            received: Lsn::ZERO,
            report_now: false,
            assembler: Assembler::default(),
            router: Router::new(settings),
            encoder: Encoder::new(&settings.name),
            outbox_update_seen: false,
        }
    }

    /// The stream starts anew: a transaction that was half read comes again from its beginning.
    fn forget_transaction(&mut self) {
        self.pending = Batch::default();
        self.assembler.reset();
    }

    /// Takes pending frames in while the window has room for what they may publish.
    fn take_in<B: Broker>(&mut self, window: &mut Window, publisher: &mut Publisher<B>) -> Result<(), Definite> {
        while window.has_room()
            && let Some(payload) = self.pending.next_payload()
        {
            match Frame::parse(&payload).map_err(|error| undecodable(error, self.received))? {
                Frame::XLogData { wal_start, data, .. } => {
                    self.received = self.received.max(wal_start);
                    self.message(wal_start, &data, window, publisher)?;
                }
                Frame::Keepalive { wal_end, reply_requested, .. } => {
                    self.received = self.received.max(wal_end);
                    // Everything that committed before `wal_end` has been sent: the walsender decodes in WAL
                    // order, and sends this between transactions. With nothing unsettled, it is all settled.
                    if !self.assembler.in_transaction() && self.pending.is_empty() {
                        window.idle(wal_end);
                    }
                    self.report_now |= reply_requested;
                }
            }
        }
        Ok(())
    }

    fn message<B: Broker>(
        &mut self,
        lsn: Lsn,
        data: &[u8],
        window: &mut Window,
        publisher: &mut Publisher<B>,
    ) -> Result<(), Definite> {
        let message = pgoutput::decode(data).map_err(|error| undecodable(error, lsn))?;
        let Self { assembler, router, encoder, outbox_update_seen, received, .. } = self;
        assembler
            .take(message, &mut |step| match step {
                Step::Begin(_) => Ok(()),
                Step::Relation(relation) => router.learn(relation).map_err(|definite| {
                    // A relation's own frame has no LSN.
                    let table = format!("{}.{}", relation.schema, relation.name);
                    definite.context(format!("can't publish the changes of {table} after {received}"))
                }),
                // Logical messages are not routed yet; they settle like every change that is not published.
                Step::Message(message) => {
                    if let Some((position, _)) = message.within
                        && !window.has_reached(position)
                    {
                        window.skip(position);
                    }
                    Ok(())
                }
                Step::Change(change) if window.has_reached(change.position) => Ok(()),
                Step::Change(change) => {
                    let publish = |message: &crate::encode::message::Message<'_>| {
                        publisher.publish(window.next_seq(), message).map_err(|error| unpublishable(error, &change))
                    };
                    let bytes = match router.verdict(&change) {
                        Verdict::Change(plan, to) => encoder.change(plan, to, &change, publish)?,
                        Verdict::Outbox(plan, row) => encoder.outbox(plan, &change, row, publish)?,
                        Verdict::Skip(why) => {
                            if why == Skip::OutboxUpdate && !std::mem::replace(outbox_update_seen, true) {
                                tracing::warn!(position = %change.position, table = format!("{}.{}", change.relation.schema, change.relation.name), "a row of the outbox was updated; its event is out already, and updates are ignored");
                            }
                            window.skip(change.position);
                            return Ok(());
                        }
                    };
                    window.publish(change.position, bytes);
                    Ok(())
                }
                Step::Commit { end_lsn, .. } => {
                    window.commit(end_lsn);
                    Ok(())
                }
            })
            .map_err(|error| match error {
                TakeError::Assemble(error) => undecodable(error, lsn),
                TakeError::Each(definite) => definite,
            })
    }
}

/// The stream makes no sense. Reading it again would bring the same bytes.
fn undecodable(error: impl Into<anyhow::Error>, lsn: Lsn) -> Definite {
    Definite::new(
        Kind::Source,
        error.into().context(format!("can't decode what PostgreSQL sent at {lsn}")),
        "nothing at or after this LSN was acknowledged; please report it with the server's version",
    )
}

/// The broker refuses an event without a word about which.
fn refused(definite: Definite, window: &Window) -> Definite {
    match (definite.kind, window.oldest(), window.reached().position) {
        (Kind::Event, Some(oldest), Some(newest)) => {
            let count = window.len();
            definite.context(if count == 1 {
                format!("can't publish the event at {oldest}")
            } else {
                format!("can't publish one of the {count} events from {oldest} to {newest}")
            })
        }
        _ => definite,
    }
}

/// An event that the broker would not take. Everything before it goes its way; nothing after it is published.
fn unpublishable(error: PublishError, change: &Change<'_>) -> Definite {
    let hint = match &error {
        PublishError::TooLarge { .. } => {
            "raise max_message_size in the broker's configuration (and rabbitmq.max_message_bytes, if it is set), or leave the table or the large column out"
        }
        PublishError::Frame(_) => {
            "a routing key or a name is made of column values that are too long: change the template, or the row's source"
        }
        PublishError::NotReady => "this is a bug in pgsluice; please report it",
    };
    let table = format!("{}.{}", change.relation.schema, change.relation.name);
    let what = format!("can't publish the {} of {table} at {}", change.row.op(), change.position);
    Definite::new(Kind::Event, anyhow!(error).context(what), hint)
}

//! The way in: frames that are pending, decoded, put into their transactions, routed and encoded, as far as the window has
//! room; `outgoing` publishes.
//!
//! Invariant: every change either enters the window, in stream order, or is settled in it by its position; what was
//! taken in before a reconnect is known by its position and only counted. No IO: the loop reads and writes.

use std::fmt;
use std::sync::Arc;

use anyhow::anyhow;

use crate::broker::Broker;
use crate::change::Change;
use crate::cleanup::Cleanup;
use crate::config::{OnUpdate, PoisonPolicy, Settings};
use crate::encode::domain::Unmade;
use crate::encode::fields::Fields;
use crate::encode::message::Event;
use crate::encode::outbox::OutboxRow;
use crate::encode::{Delivery, Encoder, size};
use crate::failure::{Definite, Kind, Poison};
use crate::lsn::Lsn;
use crate::pipeline::outgoing::{Outgoing, Way, unpublishable};
use crate::pipeline::scope::{Scope, Tally};
use crate::postgres::binary::{Textual, Unreadable};
use crate::postgres::pgoutput;
use crate::postgres::relation::Relation;
use crate::postgres::replication::Frame;
use crate::progress::Window;
use crate::rabbit::lanes::Lanes;
use crate::rabbit::publisher::PublishError;
use crate::route::domain::{self, RuleError};
use crate::route::outbox::Misfit;
use crate::route::{MessageVerdict, RENAMED_HINT, Router, Skip, Verdict};
use crate::source::{Batch, Named};
use crate::telemetry::health::Health;
use crate::telemetry::metrics::meter::{Meter, TableId};
use crate::telemetry::otlp::events::EventSpans;
use crate::transaction::{Assembler, LogicalMessage, Step, TakeError};

/// Told of each event before it is published.
pub type Announce = fn(&Event) -> std::io::Result<()>;

/// What makes a pipeline a replay.
#[derive(Debug)]
pub struct Replay {
    /// What is replayed.
    pub scope: Scope,
    /// What the events say beside the first delivery.
    pub delivery: Delivery,
    /// Hears of each event.
    pub announce: Option<Announce>,
}

/// What a frame goes through before it is published.
pub(super) struct Intake {
    /// What was read, and not yet taken in.
    pub(super) pending: Batch,
    /// The highest LSN that was seen.
    pub(super) received: Lsn,
    /// The server asked for a report.
    pub(super) report_now: bool,
    assembler: Assembler,
    /// None: everything, without an end.
    scope: Option<Scope>,
    encode: Encode,
    outgoing: Outgoing,
    /// What can't be published is parked.
    parks: bool,
    /// None: no outbox is cleaned.
    pub(super) cleanup: Option<Cleanup>,
    /// Counts what goes out.
    pub(super) meter: Meter,
}

/// From a change to its events.
struct Encode {
    /// With binary transfer.
    textual: Option<Textual>,
    router: Router,
    encoder: Encoder,
    /// Of the outbox's logical message that is being made an event.
    fields: Fields,
    outbox_update_seen: bool,
}

impl Intake {
    pub(super) fn new(settings: &Settings, replay: Option<Replay>, health: &Health) -> Self {
        let (scope, delivery, announce) = match replay {
            None => (None, Delivery::First, None),
            Some(Replay { scope, delivery, announce }) => (Some(scope), delivery, announce),
        };
        Self {
            pending: Batch::default(),
            received: Lsn::ZERO,
            report_now: false,
            assembler: Assembler::default(),
            scope,
            encode: Encode {
                textual: settings.source.binary.then(Textual::default),
                router: Router::new(settings),
                encoder: Encoder::new(&settings.name, delivery),
                fields: Fields::default(),
                outbox_update_seen: false,
            },
            outgoing: Outgoing::new(announce),
            parks: settings.rabbitmq.poison == PoisonPolicy::Park,
            cleanup: None,
            meter: Meter::new(health.metrics().clone()).with_spans(EventSpans::of(health.tracer())),
        }
    }

    /// These tables are selected by their present names: nothing of theirs is to be passed over.
    pub(super) fn select(&mut self, tables: &[Named]) {
        self.encode.router.select(tables);
    }

    /// The stream starts anew: a transaction that was half read comes again from its beginning.
    pub(super) fn forget_transaction(&mut self) {
        self.pending = Batch::default();
        self.assembler.reset();
        self.outgoing.begin();
    }

    /// What was read, after all that was read before.
    pub(super) fn read(&mut self, mut batch: Batch) -> Result<(), Definite> {
        if let Some(types) = batch.take_types() {
            self.encode.textual.iter_mut().for_each(|textual| textual.set_types(Arc::clone(&types)));
            self.encode.router.set_types(types);
            for relation in self.assembler.relations() {
                if self.encode.learn(relation, self.received)? {
                    self.outgoing.fence();
                }
            }
        }
        self.pending = batch;
        Ok(())
    }

    /// Takes pending frames in while the window has room for what they may publish.
    pub(super) fn take_in<B: Broker>(&mut self, window: &mut Window, publisher: &mut Lanes<B>) -> Result<(), Definite> {
        if !self.pending.is_empty() {
            self.meter.tick();
        }
        let mut pending = std::mem::take(&mut self.pending);
        let taken = self.take_from(&mut pending, window, publisher);
        // Of what is used up nothing is kept: the reader waits for its buffer.
        if !pending.is_empty() {
            self.pending = pending;
        }
        taken
    }

    fn take_from<B: Broker>(
        &mut self,
        pending: &mut Batch,
        window: &mut Window,
        publisher: &mut Lanes<B>,
    ) -> Result<(), Definite> {
        while window.has_room()
            && !self.is_over()
            && let Some(payload) = pending.next_payload()
        {
            match Frame::parse(payload).map_err(|error| undecodable(error, self.received))? {
                Frame::XLogData { wal_start, data, .. } => {
                    self.received = self.received.max(wal_start);
                    self.frame(wal_start, data, window, publisher)?;
                }
                Frame::Keepalive { wal_end, reply_requested, .. } => {
                    self.received = self.received.max(wal_end);
                    // Everything that committed before `wal_end` has been sent: the walsender decodes in WAL
                    // order, and sends this between transactions. With nothing unsettled, it is all settled.
                    if !self.assembler.in_transaction() && pending.is_empty() {
                        window.idle(wal_end);
                        self.scope.as_mut().map_or(Ok(()), |scope| scope.reached(wal_end))?;
                    }
                    self.report_now |= reply_requested;
                }
            }
        }
        Ok(())
    }

    /// No further frame is taken in, because the next one can't be: what came before it is published.
    pub(super) fn break_off<B: Broker>(
        &mut self,
        window: &mut Window,
        publisher: &mut Lanes<B>,
    ) -> Result<(), Definite> {
        let Self { parks, scope, meter, outgoing, .. } = self;
        outgoing.release(false, &mut Way { window, publisher, parks: *parks, scope: scope.as_mut(), meter })
    }

    /// Whether all that is to be replayed was taken in.
    pub(super) fn is_over(&self) -> bool {
        self.scope.as_ref().is_some_and(Scope::is_over)
    }

    /// How far a replay has come.
    pub(super) fn tally(&self) -> Tally {
        self.scope.as_ref().map(Scope::tally).unwrap_or_default()
    }

    fn frame<B: Broker>(
        &mut self,
        lsn: Lsn,
        data: &[u8],
        window: &mut Window,
        publisher: &mut Lanes<B>,
    ) -> Result<(), Definite> {
        let message = pgoutput::decode(data).map_err(|error| undecodable(error, lsn))?;
        let Self { assembler, scope, encode, outgoing, received, cleanup, parks, meter, .. } = self;
        let mut way = Way { window, publisher, parks: *parks, scope: scope.as_mut(), meter };
        let taken = assembler.take(message, &mut |step| match step {
            Step::Begin(transaction) => {
                outgoing.begin();
                way.scope.as_mut().map_or(Ok(()), |scope| scope.begin(&transaction))
            }
            // A relation's own frame has no LSN.
            Step::Relation(relation) => {
                way.meter.forget(relation);
                if encode.learn(relation, *received)? {
                    outgoing.fence();
                }
                Ok(())
            }
            Step::Change(change) => encode.change(&change, outgoing, cleanup.as_mut(), &mut way),
            Step::Message(message) => encode.message(&message, outgoing, &mut way),
            Step::Commit { end_lsn, .. } => {
                outgoing.commit(end_lsn, &mut way)?;
                way.scope.as_mut().map_or(Ok(()), |scope| scope.reached(end_lsn))
            }
        });
        taken.map_err(|error| match error {
            TakeError::Assemble(error) => undecodable(error, lsn),
            TakeError::Each(definite) => definite,
        })
    }
}

impl Encode {
    fn learn(&mut self, relation: &Relation, received: Lsn) -> Result<bool, Definite> {
        self.router
            .learn(relation)
            .map_err(|definite| definite.context(format!("can't publish the changes of {relation} after {received}")))
    }

    /// Inside a transaction it settles as a change does. Outside of one it is in flight in its order, or it is nothing.
    fn message<B: Broker>(
        &mut self,
        logical: &LogicalMessage<'_>,
        outgoing: &mut Outgoing,
        way: &mut Way<'_, B>,
    ) -> Result<(), Definite> {
        let is_event = !matches!(self.router.message(logical.prefix), MessageVerdict::Skip);
        let Some((position, transaction)) = logical.within else {
            let is_taken = |scope: &&mut Scope| scope.takes_message(logical.lsn);
            if is_event && way.scope.as_ref().is_none_or(is_taken) && !way.window.has_passed(logical.lsn) {
                let unmade = self.make_message(outgoing.next(), logical, way)?;
                outgoing.message(logical.lsn, unmade, way)?;
            }
            return Ok(());
        };
        if way.window.has_reached(position) {
            outgoing.count(usize::from(is_event));
            return Ok(());
        }
        if is_event && way.scope.as_ref().is_none_or(|scope| scope.takes()) {
            let unmade = self.make_message(outgoing.next(), logical, way)?;
            outgoing.hold(position, transaction, TableId::default(), unmade, way)?;
        }
        outgoing.reached(position, way.window);
        Ok(())
    }

    /// The event of a logical message; or why it can't be made, and what names it is to be parked.
    fn make_message<B: Broker>(
        &mut self,
        event: &mut Event,
        logical: &LogicalMessage<'_>,
        way: &Way<'_, B>,
    ) -> Result<Option<Definite>, Definite> {
        match self.message_event(logical, event, way.publisher) {
            Ok(()) => Ok(None),
            Err(definite) if way.parks && definite.poison.is_some() => Ok(Some(definite)),
            Err(definite) => Err(definite),
        }
    }

    /// # Errors
    /// As [`make`].
    fn message_event<B: Broker>(
        &mut self,
        logical: &LogicalMessage<'_>,
        event: &mut Event,
        publisher: &Lanes<B>,
    ) -> Result<(), Definite> {
        let limit = publisher.max_message_bytes().unwrap_or(usize::MAX);
        let at = Place(logical);
        let origin = format_args!("message {}", logical.prefix);
        let oversize = |bytes| unpublishable(PublishError::Oversize { bytes, limit }, origin, at);
        match self.router.message(logical.prefix) {
            MessageVerdict::Skip => {}
            MessageVerdict::Message(plan) => {
                // Its content is most of the event; what is too large is refused before it is made.
                let bytes = size::message_bytes_min(plan, logical);
                if bytes > limit {
                    self.encoder.name_message(event, plan, logical);
                    return Err(oversize(bytes));
                }
                let hint = "select no empty prefix, or change messages.format";
                self.encoder
                    .message(event, plan, logical)
                    .map_err(|error| unfit(Poison::Other, error, origin, at, hint))?;
            }
            MessageVerdict::Outbox(outbox) => {
                let hint = "pg_logical_emit_message is to be given a JSON object with the fields of [outbox.columns]";
                if let Err(error) = self.fields.read(&outbox.fields, logical.content) {
                    self.encoder.start_message(event, logical);
                    return Err(unfit(Poison::Columns, error, origin, at, hint));
                }
                let row = OutboxRow::Message { prefix: logical.prefix, fields: &self.fields };
                if let Some(bytes) = size::payload_beyond(limit, &outbox.plan, row) {
                    self.encoder.name_outbox_message(event, &outbox.plan, logical, row);
                    return Err(oversize(bytes));
                }
                let made = self.encoder.outbox_message(event, &outbox.plan, logical, row);
                made.map_err(|error| unfit(error.poison(), error, origin, at, UNFIT_HINT))?;
            }
        }
        Ok(())
    }

    fn change<B: Broker>(
        &mut self,
        change: &Change<'_>,
        outgoing: &mut Outgoing,
        mut cleanup: Option<&mut Cleanup>,
        way: &mut Way<'_, B>,
    ) -> Result<(), Definite> {
        let position = change.position;
        if way.scope.as_ref().is_some_and(|scope| !scope.takes()) {
            if !way.window.has_reached(position) {
                way.window.skip(position);
            }
            return Ok(());
        }
        let change = &match &mut self.textual {
            Some(textual) => textual.change(change).map_err(|error| unreadable(error, change))?,
            None => *change,
        };
        let was_taken_in = way.window.has_reached(position);
        let limit = way.publisher.max_message_bytes().unwrap_or(usize::MAX);
        for verdict in self.router.verdicts(change) {
            if was_taken_in {
                outgoing.count(usize::from(was_event(verdict, change)));
                continue;
            }
            let event = outgoing.next();
            let made = make(&self.encoder, event, verdict, change, limit);
            if let Some((cleanup, (outbox, id))) = cleanup.as_mut().zip(row_to_clean(verdict))
                && is_whole(&made, event, limit)
            {
                cleanup.note(position, outbox, id);
            }
            let (is_event, unmade) = match made {
                Ok(is_event) => (is_event, None),
                Err(definite) if way.parks && definite.poison.is_some() => (true, Some(definite)),
                Err(definite) => return Err(definite),
            };
            if is_event {
                let table = way.meter.table(change.relation);
                outgoing.hold(position, change.transaction, table, unmade, way)?;
            } else if let Verdict::Skip(Skip::OutboxUpdate(OnUpdate::Warn)) = verdict
                && !std::mem::replace(&mut self.outbox_update_seen, true)
            {
                tracing::warn!(
                    %position,
                    table = %change.relation,
                    "a row of the outbox was updated; its event is out already, and updates are ignored"
                );
            }
        }
        if !was_taken_in {
            outgoing.reached(position, way.window);
        }
        Ok(())
    }
}

/// Where a logical message is, in words that are needed only when something is wrong with it.
#[derive(Clone, Copy)]
struct Place<'l>(&'l LogicalMessage<'l>);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.within {
            Some((position, _)) => position.fmt(f),
            None => self.0.lsn.fmt(f),
        }
    }
}

/// The place of its outbox, and the row's id, if the row is to be deleted once its event is out.
fn row_to_clean<'c>(verdict: Verdict<'_, 'c>) -> Option<(usize, &'c str)> {
    match verdict {
        Verdict::Outbox(plan, row) => plan.cleanup.zip(row.text(plan.id)),
        Verdict::Change(..)
        | Verdict::Rule(_)
        | Verdict::RuleMisfit(_)
        | Verdict::Misfit(_)
        | Verdict::Renamed
        | Verdict::Skip(_) => None,
    }
}

/// Whether the event goes out with its body: of what is only described when it is parked, the row is all that there is.
fn is_whole(made: &Result<bool, Definite>, event: &Event, limit: usize) -> bool {
    match made {
        Ok(_) => event.body.len() <= limit,
        Err(definite) => definite.poison == Some(Poison::Property),
    }
}

/// Whether an event was made of it, or parked for want of one, when it was taken in: the answer has not changed, because it
/// depends on the change alone.
fn was_event(verdict: Verdict<'_, '_>, change: &Change<'_>) -> bool {
    match verdict {
        Verdict::Change(..) | Verdict::Outbox(..) | Verdict::Misfit(_) | Verdict::RuleMisfit(_) => true,
        Verdict::Rule(plan) => plan.wants(change).unwrap_or(true),
        Verdict::Renamed | Verdict::Skip(_) => false,
    }
}

/// Makes the event of a verdict; false when it is none. What is too large is refused before it is made.
///
/// # Errors
/// It can't be made; then there is only what names it, but for a property that is unfit, without which it is whole.
fn make(
    encoder: &Encoder,
    event: &mut Event,
    verdict: Verdict<'_, '_>,
    change: &Change<'_>,
    limit: usize,
) -> Result<bool, Definite> {
    let beyond = |oversize: Option<usize>| oversize.map(|bytes| PublishError::Oversize { bytes, limit });
    let origin = format_args!("{} of {}", change.row.op(), change.relation);
    let refused = |error| unpublishable(error, origin, change.position);
    match verdict {
        Verdict::Change(plan, destination) => {
            if let Some(error) = beyond(size::row_event_beyond(limit, &plan.format, change)) {
                encoder.name_change(event, Some(destination), change);
                return Err(refused(error));
            }
            let made = encoder.change(event, plan, destination, change);
            made.map_err(|error| unfit(Poison::Other, error, origin, change.position, UNFIT_HINT))?;
        }
        Verdict::Rule(plan) => {
            let unevaluated = |error, event: &mut Event| {
                encoder.name_domain(event, plan, change);
                unevaluated(error, change)
            };
            if !plan.wants(change).map_err(|error| unevaluated(error, event))? {
                return Ok(false);
            }
            if let Some(error) = beyond(size::rule_event_beyond(limit, plan, change)) {
                encoder.name_domain(event, plan, change);
                return Err(refused(error));
            }
            encoder.domain(event, plan, change).map_err(|error| match error {
                Unmade::Rule(error) => self::unevaluated(error, change),
                Unmade::CloudEvent(error) => unfit(Poison::Other, error, origin, change.position, UNFIT_HINT),
            })?;
        }
        Verdict::Outbox(plan, row) => {
            if let Some(error) = beyond(size::payload_beyond(limit, plan, OutboxRow::Table(row))) {
                encoder.name_outbox(event, plan, change, OutboxRow::Table(row));
                return Err(refused(error));
            }
            let made = encoder.outbox(event, plan, change, OutboxRow::Table(row));
            made.map_err(|error| unfit(error.poison(), error, origin, change.position, UNFIT_HINT))?;
        }
        Verdict::Misfit(why) => {
            encoder.name_change(event, None, change);
            return Err(misfit(why, change));
        }
        Verdict::RuleMisfit(why) => {
            encoder.name_change(event, None, change);
            // As the rule's own events are named, so that those of several rules are not taken for one.
            event.message_id.extend([":", &why.name]);
            return Err(rule_misfit(why, change));
        }
        Verdict::Renamed => return Err(renamed(change)),
        Verdict::Skip(Skip::OutboxUpdate(OnUpdate::Fail)) => return Err(updated(change)),
        Verdict::Skip(Skip::OutboxUpdate(OnUpdate::Warn | OnUpdate::Ignore) | Skip::OutboxCleanup) => return Ok(false),
    }
    Ok(true)
}

/// The stream makes no sense. Reading it again would bring the same bytes.
fn undecodable(error: impl Into<anyhow::Error>, lsn: Lsn) -> Definite {
    Definite::new(
        Kind::Source,
        error.into().context(format!("can't decode what PostgreSQL sent at {lsn}")),
        "nothing at or after this LSN was acknowledged; please report it with the server's version",
    )
}

/// As `outbox.on_update = "fail"` asks.
fn updated(change: &Change<'_>) -> Definite {
    let error = anyhow!("a row of the outbox {} was updated at {}", change.relation, change.position);
    let hint = "outbox.on_update = \"warn\" goes on: its event is out already, as the row was inserted. Then find who updates it";
    Definite::new(Kind::Event, error, hint).as_asked()
}

/// Passed over, its changes would be missing.
fn renamed(change: &Change<'_>) -> Definite {
    let Change { relation, position, .. } = change;
    let error = anyhow!("{relation} was renamed: by another name it is selected, by this one it is not, at {position}");
    Definite::new(Kind::Usage, error, format!("Nothing was passed over. {RENAMED_HINT}"))
}

/// The outbox was altered since the start.
fn misfit(misfit: &Misfit, change: &Change<'_>) -> Definite {
    let what = format!("can't publish the insert of {} at {}", change.relation, change.position);
    let hint = format!(
        "when this row was written, its columns were {}: name those in [outbox.columns] and in the templates. Changing the \
         table has no effect on rows that were written before",
        misfit.columns.join(", ")
    );
    Definite::poison(Poison::Columns, anyhow!(misfit.clone()).context(what), hint)
}

/// The table is not what a rule says, because one of the two was altered.
fn rule_misfit(misfit: &domain::Misfit, change: &Change<'_>) -> Definite {
    let what = format!("can't publish the {} of {} at {}", change.row.op(), change.relation, change.position);
    let hint = format!(
        "when this row was written, its columns were {}: correct the rule. Changing the table has no effect on rows that were \
         written before",
        misfit.columns.join(", ")
    );
    Definite::poison(Poison::Columns, anyhow!(misfit.clone()).context(what), hint)
}

/// An expression that fits the table, but not this row.
fn unevaluated(error: RuleError, change: &Change<'_>) -> Definite {
    let what = format!("can't publish the {} of {} at {}", change.row.op(), change.relation, change.position);
    let hint = "correct the expression: has(old.column) tells whether PostgreSQL sent a value, new.column != null whether there is \
                one; with REPLICA IDENTITY FULL it sends the whole old row";
    Definite::poison(Poison::Expression, anyhow!(error).context(what), hint)
}

const UNFIT_HINT: &str = "change the template, or what the application writes";

/// What the application wrote can't be an event.
fn unfit(
    poison: Poison,
    error: impl Into<anyhow::Error>,
    origin: impl fmt::Display,
    at: impl fmt::Display,
    hint: &'static str,
) -> Definite {
    Definite::poison(poison, error.into().context(format!("can't publish the {origin} at {at}")), hint)
}

/// The stream makes no sense by binary transfer.
fn unreadable(error: Unreadable, change: &Change<'_>) -> Definite {
    let what = format!("can't read the {} of {} at {}", change.row.op(), change.relation, change.position);
    Definite::new(
        Kind::Source,
        anyhow!(error).context(what),
        "set source.binary = false, which the events don't notice",
    )
}

//! The way in: frames that are pending, decoded, put into their transactions, routed, encoded and published,
//! as far as the window has room.
//!
//! Invariant: every change either enters the window, in stream order, or is settled in it by its position; what was
//! taken in before a reconnect is known by its position and dropped. No IO: the loop reads and writes.

use std::fmt;
use std::sync::Arc;

use anyhow::anyhow;

use crate::broker::Broker;
use crate::change::Change;
use crate::config::Settings;
use crate::encode::message::Message;
use crate::encode::{Delivery, Encoder, size};
use crate::failure::{Definite, Kind};
use crate::lsn::Lsn;
use crate::pipeline::scope::{Scope, Tally};
use crate::postgres::binary::{Textual, Unreadable};
use crate::postgres::pgoutput;
use crate::postgres::relation::Relation;
use crate::postgres::replication::Frame;
use crate::progress::Window;
use crate::rabbit::publisher::{PublishError, Publisher};
use crate::route::{Router, Skip, Verdict};
use crate::source::Batch;
use crate::transaction::{Assembler, LogicalMessage, Step, TakeError};

/// Told of each event before it is published.
pub type Announce = fn(&Origin<'_>, &Message<'_>) -> std::io::Result<()>;

/// What an event is made of.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// A change.
    Change(&'a Change<'a>),
    /// A logical message.
    Message(&'a LogicalMessage<'a>),
}

impl Origin<'_> {
    /// Microseconds since 2000-01-01 00:00 UTC; none outside of transactions.
    #[must_use]
    pub fn committed_at(&self) -> Option<i64> {
        match self {
            Self::Change(change) => Some(change.transaction.committed_at),
            Self::Message(message) => message.within.map(|(_, transaction)| transaction.committed_at),
        }
    }
}

/// `insert of public.orders`, `message app.paid`
impl fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Change(change) => write!(f, "{} of {}", change.row.op(), change.relation),
            Self::Message(message) => write!(f, "message {}", message.prefix),
        }
    }
}

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
}

/// From a change to a published event.
struct Encode {
    /// With binary transfer.
    textual: Option<Textual>,
    router: Router,
    encoder: Encoder,
    announce: Option<Announce>,
    outbox_update_seen: bool,
}

impl Intake {
    pub(super) fn new(settings: &Settings, replay: Option<Replay>) -> Self {
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
                announce,
                outbox_update_seen: false,
            },
        }
    }

    /// The stream starts anew: a transaction that was half read comes again from its beginning.
    pub(super) fn forget_transaction(&mut self) {
        self.pending = Batch::default();
        self.assembler.reset();
    }

    /// What was read, after all that was read before.
    pub(super) fn read(&mut self, mut batch: Batch) -> Result<(), Definite> {
        if let Some(types) = batch.take_types() {
            self.encode.textual.iter_mut().for_each(|textual| textual.set_types(Arc::clone(&types)));
            self.encode.router.set_types(types);
            for relation in self.assembler.relations() {
                self.encode.learn(relation, self.received)?;
            }
        }
        self.pending = batch;
        Ok(())
    }

    /// Takes pending frames in while the window has room for what they may publish.
    pub(super) fn take_in<B: Broker>(
        &mut self,
        window: &mut Window,
        publisher: &mut Publisher<B>,
    ) -> Result<(), Definite> {
        while window.has_room()
            && !self.is_over()
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
                        self.scope.as_mut().map_or(Ok(()), |scope| scope.reached(wal_end))?;
                    }
                    self.report_now |= reply_requested;
                }
            }
        }
        Ok(())
    }

    /// Whether all that is to be replayed was taken in.
    pub(super) fn is_over(&self) -> bool {
        self.scope.as_ref().is_some_and(Scope::is_over)
    }

    /// How far a replay has come.
    pub(super) fn tally(&self) -> Tally {
        self.scope.as_ref().map(Scope::tally).unwrap_or_default()
    }

    fn message<B: Broker>(
        &mut self,
        lsn: Lsn,
        data: &[u8],
        window: &mut Window,
        publisher: &mut Publisher<B>,
    ) -> Result<(), Definite> {
        let message = pgoutput::decode(data).map_err(|error| undecodable(error, lsn))?;
        let Self { assembler, scope, encode, received, .. } = self;
        let taken = assembler.take(message, &mut |step| {
            match step {
                Step::Begin(transaction) => scope.as_mut().map_or(Ok(()), |scope| scope.begin(&transaction))?,
                // A relation's own frame has no LSN.
                Step::Relation(relation) => encode.learn(relation, *received)?,
                Step::Change(change) if window.has_reached(change.position) => {}
                Step::Change(change) if scope.as_ref().is_some_and(|scope| !scope.takes()) => {
                    window.skip(change.position);
                }
                Step::Change(change) => {
                    let is_event = encode.change(&change, window, publisher)?;
                    if let Some(scope) = scope.as_mut().filter(|_| is_event) {
                        scope.published(Some(&change.transaction));
                    }
                }
                Step::Message(message) => message_step(&message, scope.as_mut(), encode, window, publisher)?,
                Step::Commit { end_lsn, .. } => {
                    window.commit(end_lsn);
                    scope.as_mut().map_or(Ok(()), |scope| scope.reached(end_lsn))?;
                }
            }
            Ok(())
        });
        taken.map_err(|error| match error {
            TakeError::Assemble(error) => undecodable(error, lsn),
            TakeError::Each(definite) => definite,
        })
    }
}

/// Inside a transaction it settles as a change does. Outside of one it is in flight in its order, or it is nothing.
fn message_step<B: Broker>(
    message: &LogicalMessage<'_>,
    scope: Option<&mut Scope>,
    encode: &mut Encode,
    window: &mut Window,
    publisher: &mut Publisher<B>,
) -> Result<(), Definite> {
    let position = message.within.map(|(position, _)| position);
    if position.map_or_else(|| window.has_passed(message.lsn), |position| window.has_reached(position)) {
        return Ok(());
    }
    let is_taken = |scope: &Scope| position.map_or_else(|| scope.takes_message(message.lsn), |_| scope.takes());
    if scope.as_deref().is_none_or(is_taken) && encode.message(message, window, publisher)? {
        if let Some(scope) = scope {
            scope.published(message.within.as_ref().map(|(_, transaction)| transaction));
        }
    } else if let Some(position) = position {
        window.skip(position);
    }
    Ok(())
}

impl Encode {
    fn learn(&mut self, relation: &Relation, received: Lsn) -> Result<(), Definite> {
        self.router
            .learn(relation)
            .map_err(|definite| definite.context(format!("can't publish the changes of {relation} after {received}")))
    }

    /// Whether it is an event.
    fn message<B: Broker>(
        &mut self,
        logical: &LogicalMessage<'_>,
        window: &mut Window,
        publisher: &mut Publisher<B>,
    ) -> Result<bool, Definite> {
        let Some(plan) = self.router.message(logical.prefix) else { return Ok(false) };
        let origin = Origin::Message(logical);
        // Its Base64 is most of the event; what is too large is refused before it is made.
        let limit = publisher.max_message_bytes().unwrap_or(usize::MAX);
        let bytes = logical.content.len().div_ceil(3) * 4;
        if bytes > limit {
            return Err(unpublishable(PublishError::Oversize { bytes, limit }, &origin, logical.lsn));
        }
        let publish = |message: &Message<'_>| {
            self.announce.map_or(Ok(()), |announce| announce(&origin, message)).map_err(unwritable)?;
            publisher.publish(window.next_seq(), message).map_err(|error| unpublishable(error, &origin, logical.lsn))
        };
        let bytes = self.encoder.message(plan, logical, publish)?;
        match logical.within {
            Some((position, _)) => window.publish(position, bytes),
            None => window.publish_message(logical.lsn, bytes),
        };
        Ok(true)
    }

    /// Whether it is an event.
    fn change<B: Broker>(
        &mut self,
        change: &Change<'_>,
        window: &mut Window,
        publisher: &mut Publisher<B>,
    ) -> Result<bool, Definite> {
        let change = &match &mut self.textual {
            Some(textual) => textual.change(change).map_err(|error| unreadable(error, change))?,
            None => *change,
        };
        let verdict = self.router.verdict(change);
        let limit = publisher.max_message_bytes().unwrap_or(usize::MAX);
        let oversize = match verdict {
            Verdict::Change(plan, _) => size::row_event_beyond(limit, &plan.row, change),
            Verdict::Outbox(plan, row) => size::payload_beyond(limit, plan, row),
            Verdict::Skip(_) => None,
        };
        if let Some(bytes) = oversize {
            return Err(unpublishable(
                PublishError::Oversize { bytes, limit },
                &Origin::Change(change),
                change.position,
            ));
        }
        let origin = Origin::Change(change);
        let publish = |message: &Message<'_>| {
            self.announce.map_or(Ok(()), |announce| announce(&origin, message)).map_err(unwritable)?;
            let publishing = publisher.publish(window.next_seq(), message);
            publishing.map_err(|error| unpublishable(error, &origin, change.position))
        };
        let bytes = match verdict {
            Verdict::Change(plan, destination) => self.encoder.change(plan, destination, change, publish)?,
            Verdict::Outbox(plan, row) => self.encoder.outbox(plan, change, row, publish)?,
            Verdict::Skip(why) => {
                if why == Skip::OutboxUpdate && !std::mem::replace(&mut self.outbox_update_seen, true) {
                    tracing::warn!(
                        position = %change.position,
                        table = %change.relation,
                        "a row of the outbox was updated; its event is out already, and updates are ignored"
                    );
                }
                window.skip(change.position);
                return Ok(false);
            }
        };
        window.publish(change.position, bytes);
        Ok(true)
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

/// The stream makes no sense by binary transfer.
fn unreadable(error: Unreadable, change: &Change<'_>) -> Definite {
    let what = format!("can't read the {} of {} at {}", change.row.op(), change.relation, change.position);
    Definite::new(
        Kind::Source,
        anyhow!(error).context(what),
        "set source.binary = false, which the events don't notice",
    )
}

/// Nobody reads what is announced.
fn unwritable(error: std::io::Error) -> Definite {
    Definite::new(Kind::Process, anyhow!(error).context("can't write to standard output"), "nothing was published")
}

/// An event that the broker would not take. Everything before it goes its way; nothing after it is published.
fn unpublishable(error: PublishError, origin: &Origin<'_>, at: impl fmt::Display) -> Definite {
    let hint = match &error {
        PublishError::TooLarge { .. } | PublishError::Oversize { .. } => {
            "raise max_message_size in the broker's configuration (and rabbitmq.max_message_bytes, if it is set), or leave \
             the table or the large column out"
        }
        PublishError::Frame(_) => {
            "a routing key or a name is made of values that are too long: change the template, or the source of the row or \
             the message"
        }
        PublishError::NoExchange => {
            "the template of the exchange is made of values that are null or empty here: change the template"
        }
        PublishError::NotReady => "this is a bug in pgsluice; please report it",
    };
    let what = match origin {
        Origin::Change(change) => format!("{} of {}", change.row.op(), change.relation),
        Origin::Message(_) => origin.to_string(),
    };
    Definite::new(Kind::Event, anyhow!(error).context(format!("can't publish the {what} at {at}")), hint)
}

//! The last step of the way in: events in their transaction's order, each numbered, and the last one marked.
//!
//! That an event is the last of its transaction shows only at what comes after it. So those of the newest change are held back
//! until the next change that has some, or the commit, which come with it or right behind. Invariants: what is held is not in the
//! window, and the position does not pass it: a stream that breaks, or a stop, forgets it, and it comes again; and the events of
//! one change enter the window together, so that none of them comes again without the process having died. No IO.

use anyhow::anyhow;

use super::intake::Announce;
use super::scope::Scope;
use crate::broker::Broker;
use crate::change::Transaction;
use crate::encode::message::{Event, Header};
use crate::failure::{Definite, Kind, Poison};
use crate::lsn::{Lsn, Position};
use crate::progress::Window;
use crate::rabbit::lanes::Lanes;
use crate::rabbit::publisher::PublishError;
use crate::telemetry::metrics::meter::{Meter, TableId};

/// Where events go, and who counts them.
pub(super) struct Way<'w, B: Broker> {
    pub(super) window: &'w mut Window,
    pub(super) publisher: &'w mut Lanes<B>,
    /// What can't be published is parked.
    pub(super) parks: bool,
    /// None: no replay.
    pub(super) scope: Option<&'w mut Scope>,
    pub(super) meter: &'w mut Meter,
}

/// The events of the transaction that is being read.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    announce: Option<Announce>,
    held: Option<Held>,
    /// Those that are held, and one for the next.
    slots: Vec<Slot>,
    /// Events of this transaction so far.
    number: i64,
    /// For the next change: see [`Held::is_fenced`].
    fences: bool,
}

/// The newest change that has events.
#[derive(Debug)]
struct Held {
    transaction: Transaction,
    /// Where it is.
    at: Position,
    /// How many it has so far.
    events: usize,
    /// How far all is settled with them; none: it may have more.
    through: Option<Position>,
    /// Keys are not what they were before it.
    is_fenced: bool,
}

/// An event, in buffers that are used again.
#[derive(Debug, Default)]
struct Slot {
    event: Event,
    /// It could not be made, and is to be parked as what it is.
    unmade: Option<Definite>,
    /// What it is of.
    table: TableId,
}

impl Outgoing {
    pub(super) fn new(announce: Option<Announce>) -> Self {
        Self { announce, ..Self::default() }
    }

    /// A transaction starts, or starts anew.
    pub(super) fn begin(&mut self) {
        self.forget();
        self.number = 0;
    }

    /// What is held comes again. What it waited for does not: its relation may have been described in a stream before.
    fn forget(&mut self) {
        self.fences |= self.held.take().is_some_and(|held| held.is_fenced);
    }

    /// So many events of it were taken in before a restart.
    pub(super) fn count(&mut self, events: usize) {
        self.number += i64::try_from(events).unwrap_or(i64::MAX);
    }

    /// For the next event; [`Self::hold`] takes it.
    pub(super) fn next(&mut self) -> &mut Event {
        let spare = self.spare();
        if self.slots.len() == spare {
            self.slots.push(Slot::default());
        }
        &mut self.slots[spare].event
    }

    fn spare(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.events)
    }

    /// The next event may have another key than those before it, though it is of the same row.
    pub(super) fn fence(&mut self) {
        self.fences = true;
    }

    /// The event of this change is whole, or there is only what names it, because it can't be made; those of the change before
    /// it go out.
    pub(super) fn hold<B: Broker>(
        &mut self,
        at: Position,
        transaction: Transaction,
        table: TableId,
        unmade: Option<Definite>,
        way: &mut Way<'_, B>,
    ) -> Result<(), Definite> {
        let mut index = self.spare();
        if self.held.as_ref().is_some_and(|held| held.at != at) {
            self.release(false, way)?;
            self.slots.swap(0, index);
            index = 0;
        }
        self.number += 1;
        let slot = &mut self.slots[index];
        if is_numbered(&slot.event) {
            let headers = &mut slot.event.headers;
            // `0/16B3748` and its like: a transaction has no other name that lasts.
            headers.push("transaction_id", Header::Text(transaction.commit_lsn.text().as_str()));
            headers.push("transaction_number", Header::Int(self.number));
            headers.push("transaction_last", Header::Bool(false));
        }
        (slot.unmade, slot.table) = (unmade, table);
        let is_fenced = std::mem::take(&mut self.fences) || self.held.as_ref().is_some_and(|held| held.is_fenced);
        self.held = Some(Held { transaction, at, events: index + 1, through: None, is_fenced });
        Ok(())
    }

    /// All events of the change are there, if it has any.
    pub(super) fn reached(&mut self, position: Position, window: &mut Window) {
        match &mut self.held {
            Some(held) => held.through = Some(position),
            None => window.skip(position),
        }
    }

    /// The transaction is complete.
    pub(super) fn commit<B: Broker>(&mut self, end_lsn: Lsn, way: &mut Way<'_, B>) -> Result<(), Definite> {
        self.release(true, way)?;
        way.window.commit(end_lsn);
        Ok(())
    }

    /// An event outside of transactions goes out at once. `end_lsn`: where it ends in the WAL.
    pub(super) fn message<B: Broker>(
        &mut self,
        end_lsn: Lsn,
        unmade: Option<Definite>,
        way: &mut Way<'_, B>,
    ) -> Result<(), Definite> {
        let announce = self.announce;
        let event = self.next();
        let published = publish(announce, event, (TableId::default(), unmade), end_lsn, way);
        event.clear();
        way.window.publish_message(end_lsn, published?);
        if let Some(scope) = &mut way.scope {
            scope.published(None);
        }
        Ok(())
    }

    /// What is held goes out, if it is whole.
    pub(super) fn release<B: Broker>(&mut self, is_last: bool, way: &mut Way<'_, B>) -> Result<(), Definite> {
        let Some(Held { through: Some(through), .. }) = self.held else {
            self.forget();
            return Ok(());
        };
        let Some(Held { transaction, at, events, is_fenced, .. }) = self.held.take() else { return Ok(()) };
        if is_fenced {
            way.publisher.fence(way.window.next_seq());
        }
        for (Slot { event, unmade, table }, left) in self.slots[..events].iter_mut().zip((0..events).rev()) {
            if is_numbered(event) {
                event.headers.set_last(is_last && left == 0);
            }
            let published = publish(self.announce, event, (*table, unmade.take()), at, way);
            // At once: after a large event there may be no other for long.
            event.clear();
            way.window.publish((left == 0).then_some(through), published?);
            if let Some(scope) = &mut way.scope {
                scope.published(Some(&transaction));
            }
        }
        Ok(())
    }
}

/// Without a commit time nothing is known of the transaction.
fn is_numbered(event: &Event) -> bool {
    event.committed_at.is_some()
}

/// Publishes an event, or parks it; the bytes that it holds.
fn publish<B: Broker>(
    announce: Option<Announce>,
    event: &mut Event,
    (table, unmade): (TableId, Option<Definite>),
    at: impl std::fmt::Display,
    way: &mut Way<'_, B>,
) -> Result<usize, Definite> {
    let seq = way.window.next_seq();
    let (definite, is_made) = if let Some(definite) = unmade {
        // But for a property, that event is whole.
        let is_made = definite.poison == Some(Poison::Property);
        (definite, is_made)
    } else {
        announce.map_or(Ok(()), |announce| announce(event)).map_err(unwritable)?;
        match way.publisher.publish(seq, &event.message(), event.ordering_key) {
            Ok(bytes) => {
                way.meter.taken(seq, table, event, at);
                return Ok(bytes);
            }
            Err(error) => (unpublishable(error, &event.origin, &at), true),
        }
    };
    if !way.parks || definite.poison.is_none() {
        return Err(definite);
    }
    way.meter.taken(seq, table, event, at);
    way.meter.parked(seq, definite.poison);
    way.publisher.park(seq, event, &definite, is_made).ok_or(definite)
}

/// Nobody reads what is announced.
fn unwritable(error: std::io::Error) -> Definite {
    Definite::new(Kind::Process, anyhow!(error).context("can't write to standard output"), "nothing was published")
}

/// An event that the broker would not take. Everything before it goes its way; nothing after it is published.
pub(super) fn unpublishable(
    error: PublishError,
    origin: impl std::fmt::Display,
    at: impl std::fmt::Display,
) -> Definite {
    let hint = match &error {
        PublishError::TooLarge { .. } | PublishError::Oversize { .. } => {
            "raise max_message_size in the broker's configuration and set rabbitmq.max_message_bytes to it (the broker does not \
             tell it), or leave the table or the large column out"
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
    let poison = error.poison().unwrap_or(Poison::Other);
    Definite::poison(poison, anyhow!(error).context(format!("can't publish the {origin} at {at}")), hint)
}

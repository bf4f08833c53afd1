//! From a change to what is published: the body, and the AMQP properties beside it.
//!
//! An [`Event`]'s buffers are used again for the next event, so that encoding allocates nothing once they have grown.

pub mod canal;
pub mod cloudevents;
pub mod debezium;
pub mod domain;
pub mod fields;
pub mod format;
pub mod headers;
pub mod json;
pub mod logical;
pub mod message;
pub mod ordering;
pub mod outbox;
pub mod parked;
pub mod row;
pub mod size;
pub mod text;
pub mod time;
pub mod trace_context;
pub mod values;

use crate::change::{Change, Transaction};
use crate::encode::cloudevents::{Attributes, Incomplete};
use crate::encode::message::{Event, Header};
use crate::encode::ordering::OrderingKey;
use crate::encode::values::Kind;
use crate::postgres::pgoutput::Value;
use crate::route::messages::{Content, MessagesPlan};
use crate::route::{ChangesPlan, Destination};
use crate::transaction::LogicalMessage;

/// Which delivery of an event it is, and so what it says beside the event itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// That of `pgsluice run`.
    First,
    /// By the replay that began then, in microseconds since 1970; the same in all else.
    Replayed {
        /// The header `replayed_at_us`.
        at_us: i64,
    },
    /// By such a replay, from a row of the outbox table, which knows neither its position nor its commit time.
    FromTable {
        /// The header `replayed_at_us`.
        at_us: i64,
    },
}

impl Delivery {
    /// When it was committed, where that is known.
    fn committed_at(self, transaction: &Transaction) -> Option<i64> {
        match self {
            Self::First | Self::Replayed { .. } => Some(transaction.committed_at),
            Self::FromTable { .. } => None,
        }
    }
}

/// Makes events, in buffers that the caller keeps.
#[derive(Debug)]
pub struct Encoder {
    name: String,
    delivery: Delivery,
}

impl Encoder {
    /// An encoder for the pipeline of this name.
    #[must_use]
    pub fn new(name: &str, delivery: Delivery) -> Self {
        Self { name: name.to_owned(), delivery }
    }

    /// What names the event of a change that can't be made, and where it was to go, if that is known.
    pub fn name_change(&self, event: &mut Event, destination: Option<&Destination>, change: &Change<'_>) {
        self.start_change(event, change);
        if let Some(destination) = destination {
            event.exchange.push_str(&destination.exchange);
            event.routing_key.push_str(&destination.routing_key);
            event.event_type.push_str(&destination.event_type);
        }
    }

    /// A plain table's change as a row event.
    ///
    /// # Errors
    /// It can't be a CloudEvent.
    pub fn change(
        &self,
        event: &mut Event,
        plan: &ChangesPlan,
        destination: &Destination,
        change: &Change<'_>,
    ) -> Result<(), Incomplete> {
        self.name_change(event, Some(destination), change);
        event.ordering_key = plan.key.of(&change.row);
        plan.format.make(event, &self.name, change)
    }

    /// A logical message as an event.
    ///
    /// # Errors
    /// It can't be a CloudEvent.
    pub fn message(
        &self,
        event: &mut Event,
        plan: &MessagesPlan,
        logical: &LogicalMessage<'_>,
    ) -> Result<(), Incomplete> {
        self.name_message(event, plan, logical);
        event.content_type.push_str(&plan.content_type);
        match &plan.content {
            Content::Within => logical::message_event(&mut event.body, &event.message_id, logical),
            Content::Alone => event.body.extend_from_slice(logical.content),
            Content::Wrapped(wrapper) => {
                let position = logical.within.map(|(position, _)| position);
                let attributes = Attributes { time: event.committed_at, position };
                wrapper.payload(event, attributes, &Kind::Bytea, Value::Binary(logical.content))?;
            }
        }
        Ok(())
    }

    /// What names the event of a logical message, and where it goes.
    pub fn name_message(&self, event: &mut Event, plan: &MessagesPlan, logical: &LogicalMessage<'_>) {
        self.start_message(event, logical);
        plan.render(logical.prefix, &mut event.exchange, &mut event.routing_key);
        // Any text; a property holds no more.
        event.event_type.push_str(&logical.prefix[..logical.prefix.floor_char_boundary(255)]);
    }

    /// A new event of this change.
    fn start_change(&self, event: &mut Event, change: &Change<'_>) {
        let committed_at = self.delivery.committed_at(&change.transaction);
        self.start(event, |id| change.position.write(id), committed_at);
        let Change { relation, row, .. } = change;
        event.origin.extend([row.op(), " of ", &relation.schema, ".", &relation.name]);
    }

    /// A new event of this message. Outside of transactions its LSN names it.
    pub fn start_message(&self, event: &mut Event, logical: &LogicalMessage<'_>) {
        let committed_at = logical.within.map(|(_, transaction)| transaction.committed_at);
        match logical.within {
            Some((position, _)) => self.start(event, |id| position.write(id), committed_at),
            None => self.start(event, |id| id.extend([logical.lsn.text().as_str(), ":message"]), None),
        }
        event.origin.extend(["message ", logical.prefix]);
        event.ordering_key = OrderingKey::text(logical.prefix);
    }

    /// A new event, named by its place, which is known where the commit time is.
    fn start(&self, event: &mut Event, write_place: impl FnOnce(&mut String), committed_at: Option<i64>) {
        event.clear();
        let id = &mut event.message_id;
        id.extend([self.name.as_str(), ":"]);
        write_place(id);
        event.app_id.push_str(&self.name);
        if let Some(committed_at) = committed_at {
            event.headers.push("position", Header::Text(&id[self.name.len() + 1..]));
            event.headers.push("committed_at_us", Header::Int(time::unix_micros(committed_at)));
            event.timestamp_s = Some(time::unix_seconds(committed_at));
        }
        event.committed_at = committed_at;
        match self.delivery {
            Delivery::First => {}
            Delivery::Replayed { at_us } | Delivery::FromTable { at_us } => {
                event.headers.push("replayed_at_us", Header::Int(at_us));
            }
        }
    }
}

//! From a change to what is published: the body, and the AMQP properties beside it.
//!
//! One [`Encoder`] serves a pipeline; its buffers are used again for every event, so that encoding
//! allocates nothing once they have grown. What a large event took is given back after it.

pub mod json;
pub mod logical;
pub mod message;
pub mod size;
pub mod text;
pub mod time;
pub mod values;

use std::fmt::{self, Write as _};

use crate::change::{Change, Transaction};
use crate::encode::message::{Header, Message, Properties};
use crate::encode::values::raw_bytes;
use crate::postgres::pgoutput::{Tuple, Value};
use crate::route::messages::MessagesPlan;
use crate::route::outbox::{OutboxPlan, Part};
use crate::route::{ChangesPlan, Destination};
use crate::transaction::LogicalMessage;

/// A buffer that a large event has made larger than this is given back.
const KEEP_BYTES: usize = 16 << 20;

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

/// Builds messages in buffers of its own.
#[derive(Debug)]
pub struct Encoder {
    name: String,
    delivery: Delivery,
    id: String,
    position: String,
    exchange: String,
    routing_key: String,
    body: Vec<u8>,
}

impl Encoder {
    /// An encoder for the pipeline of this name.
    #[must_use]
    pub fn new(name: &str, delivery: Delivery) -> Self {
        Self {
            name: name.to_owned(),
            delivery,
            id: String::new(),
            position: String::new(),
            exchange: String::new(),
            routing_key: String::new(),
            body: Vec::new(),
        }
    }

    /// A plain table's change as a row event; hands the message to `publish`.
    pub fn change<R>(
        &mut self,
        plan: &ChangesPlan,
        destination: &Destination,
        change: &Change<'_>,
        publish: impl FnOnce(&Message<'_>) -> R,
    ) -> R {
        self.start(format_args!("{}", change.position));
        json::row_event(&mut self.body, &plan.row, &self.name, change);
        let committed_at = self.delivery.committed_at(&change.transaction);
        let headers = Headers::new(self.delivery, &self.position, committed_at);
        let published = publish(&Message {
            exchange: &destination.exchange,
            routing_key: &destination.routing_key,
            properties: Properties {
                message_id: &self.id,
                event_type: &destination.event_type,
                app_id: &self.name,
                content_type: "application/json",
                timestamp_s: committed_at.map(time::unix_seconds),
                headers: headers.all(),
            },
            body: &self.body,
        });
        self.finish();
        published
    }

    /// A logical message as an event; hands the message to `publish`. Outside of transactions its LSN names it.
    pub fn message<R>(
        &mut self,
        plan: &MessagesPlan,
        logical: &LogicalMessage<'_>,
        publish: impl FnOnce(&Message<'_>) -> R,
    ) -> R {
        match logical.within {
            Some((position, _)) => self.start(format_args!("{position}")),
            None => self.start(format_args!("{}:message", logical.lsn)),
        }
        logical::message_event(&mut self.body, &self.id, logical);
        plan.render(logical.prefix, &mut self.exchange, &mut self.routing_key);
        let committed_at = logical.within.map(|(_, transaction)| transaction.committed_at);
        let headers = Headers::new(self.delivery, &self.position, committed_at);
        let published = publish(&Message {
            exchange: &self.exchange,
            routing_key: &self.routing_key,
            properties: Properties {
                message_id: &self.id,
                // Any text; a property holds no more.
                event_type: &logical.prefix[..logical.prefix.floor_char_boundary(255)],
                app_id: &self.name,
                content_type: "application/json",
                timestamp_s: committed_at.map(time::unix_seconds),
                headers: headers.all(),
            },
            body: &self.body,
        });
        self.finish();
        published
    }

    /// An outbox row as the event that the application wrote; hands the message to `publish`.
    ///
    /// Nulls: without an id the position names the event; a null in a template, the type or the payload
    /// is empty; a null aggregate type or id leaves its header out.
    pub fn outbox<R>(
        &mut self,
        plan: &OutboxPlan,
        change: &Change<'_>,
        row: Tuple<'_>,
        publish: impl FnOnce(&Message<'_>) -> R,
    ) -> R {
        self.start(format_args!("{}", change.position));
        if let Some(id) = text(row, plan.id) {
            self.id.clear();
            self.id.push_str(id);
        }
        let part = |part: &Part, out: &mut String| match part {
            Part::Fixed(fixed) => out.push_str(fixed),
            Part::Column(column) => out.push_str(text(row, *column).unwrap_or_default()),
        };
        self.exchange.clear();
        plan.exchange.render(&mut self.exchange, part);
        self.routing_key.clear();
        plan.routing_key.render(&mut self.routing_key, part);
        let payload = row.get(plan.payload).and_then(|value| raw_bytes(&plan.payload_kind, value, &mut self.body));
        let committed_at = self.delivery.committed_at(&change.transaction);
        let mut headers = Headers::new(self.delivery, &self.position, committed_at);
        for (header, column) in [("aggregate_type", plan.aggregate_type), ("aggregate_id", plan.aggregate_id)] {
            if let Some(value) = text(row, column) {
                headers.push(header, Header::Text(value));
            }
        }
        let published = publish(&Message {
            exchange: &self.exchange,
            routing_key: &self.routing_key,
            properties: Properties {
                message_id: &self.id,
                event_type: text(row, plan.event_type).unwrap_or_default(),
                app_id: &self.name,
                content_type: plan.content_type,
                timestamp_s: committed_at.map(time::unix_seconds),
                headers: headers.all(),
            },
            body: payload.unwrap_or_default(),
        });
        self.finish();
        published
    }

    fn finish(&mut self) {
        self.body.clear();
        // Does nothing to a buffer that is no larger.
        self.body.shrink_to(KEEP_BYTES);
    }

    /// A new event, named by its place.
    fn start(&mut self, place: fmt::Arguments<'_>) {
        self.body.clear();
        self.position.clear();
        self.position.write_fmt(place).expect("a String takes all text");
        self.id.clear();
        self.id.extend([self.name.as_str(), ":", self.position.as_str()]);
    }
}

/// The headers of one message, in an array that holds the most that any has.
struct Headers<'a> {
    headers: [(&'a str, Header<'a>); 5],
    count: usize,
}

impl<'a> Headers<'a> {
    /// The position is known where the commit time is.
    fn new(delivery: Delivery, position: &'a str, committed_at: Option<i64>) -> Self {
        let mut headers = Self { headers: [("", Header::Int(0)); 5], count: 0 };
        if let Some(committed_at) = committed_at {
            headers.push("position", Header::Text(position));
            headers.push("committed_at_us", Header::Int(time::unix_micros(committed_at)));
        }
        match delivery {
            Delivery::First => {}
            Delivery::Replayed { at_us } | Delivery::FromTable { at_us } => {
                headers.push("replayed_at_us", Header::Int(at_us));
            }
        }
        headers
    }

    fn push(&mut self, name: &'a str, value: Header<'a>) {
        self.headers[self.count] = (name, value);
        self.count += 1;
    }

    fn all(&self) -> &[(&'a str, Header<'a>)] {
        &self.headers[..self.count]
    }
}

fn text(row: Tuple<'_>, column: usize) -> Option<&str> {
    match row.get(column)? {
        Value::Text(bytes) => std::str::from_utf8(bytes).ok(),
        Value::Null | Value::Unchanged | Value::Binary(_) => None,
    }
}

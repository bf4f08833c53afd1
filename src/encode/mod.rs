//! From a change to what is published: the body, and the AMQP properties beside it.
//!
//! One [`Encoder`] serves a pipeline; its buffers are used again for every event, so that encoding
//! allocates nothing once they have grown. What a large event took is given back after it.

pub mod json;
pub mod message;
pub mod size;
pub mod text;
pub mod time;
pub mod values;

use std::fmt::Write as _;

use crate::change::Change;
use crate::encode::message::{Header, Message, Properties};
use crate::encode::values::raw_bytes;
use crate::postgres::pgoutput::{Tuple, Value};
use crate::route::outbox::{OutboxPlan, Part};
use crate::route::{ChangesPlan, Destination};

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
    fn timestamp_s(self, change: &Change<'_>) -> Option<u64> {
        match self {
            Self::First | Self::Replayed { .. } => Some(time::unix_seconds(change.transaction.committed_at)),
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
        self.start(change);
        json::row_event(&mut self.body, &plan.row, &self.name, change);
        let headers = Headers::new(self.delivery, &self.position, change);
        let published = publish(&Message {
            exchange: &destination.exchange,
            routing_key: &destination.routing_key,
            properties: Properties {
                message_id: &self.id,
                event_type: &destination.event_type,
                app_id: &self.name,
                content_type: "application/json",
                timestamp_s: self.delivery.timestamp_s(change),
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
        self.start(change);
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
        let mut headers = Headers::new(self.delivery, &self.position, change);
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
                timestamp_s: self.delivery.timestamp_s(change),
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

    fn start(&mut self, change: &Change<'_>) {
        self.body.clear();
        self.position.clear();
        self.id.clear();
        write!(self.position, "{}", change.position).expect("a String takes all text");
        write!(self.id, "{}:{}", self.name, self.position).expect("a String takes all text");
    }
}

/// The headers of one message, in an array that holds the most that any has.
struct Headers<'a> {
    headers: [(&'a str, Header<'a>); 5],
    count: usize,
}

impl<'a> Headers<'a> {
    fn new(delivery: Delivery, position: &'a str, change: &Change<'_>) -> Self {
        let mut headers = Self { headers: [("", Header::Int(0)); 5], count: 0 };
        match delivery {
            Delivery::First | Delivery::Replayed { .. } => {
                headers.push("position", Header::Text(position));
                headers.push("committed_at_us", Header::Int(time::unix_micros(change.transaction.committed_at)));
            }
            Delivery::FromTable { .. } => {}
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

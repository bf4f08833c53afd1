//! From a change to what is published: the body, and the AMQP properties beside it.
//!
//! One [`Encoder`] serves a pipeline; its buffers are used again for every event, so that encoding
//! allocates nothing once they have grown.

pub mod json;
pub mod message;
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

/// Builds messages in buffers of its own.
#[derive(Debug)]
pub struct Encoder {
    name: String,
    id: String,
    position: String,
    exchange: String,
    routing_key: String,
    body: Vec<u8>,
}

impl Encoder {
    /// An encoder for the pipeline of this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
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
        let headers = [("position", Header::Text(&self.position)), committed_at(change)];
        publish(&Message {
            exchange: &destination.exchange,
            routing_key: &destination.routing_key,
            properties: Properties {
                message_id: &self.id,
                event_type: &destination.event_type,
                app_id: &self.name,
                content_type: "application/json",
                timestamp_s: time::unix_seconds(change.transaction.committed_at),
                headers: &headers,
            },
            body: &self.body,
        })
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
        let payload = row.get(plan.payload).and_then(|value| raw_bytes(plan.payload_kind, value, &mut self.body));
        let mut headers = [("position", Header::Text(&self.position)), committed_at(change), NONE, NONE];
        let mut count = 2;
        for (header, column) in [("aggregate_type", plan.aggregate_type), ("aggregate_id", plan.aggregate_id)] {
            if let Some(value) = text(row, column) {
                headers[count] = (header, Header::Text(value));
                count += 1;
            }
        }
        publish(&Message {
            exchange: &self.exchange,
            routing_key: &self.routing_key,
            properties: Properties {
                message_id: &self.id,
                event_type: text(row, plan.event_type).unwrap_or_default(),
                app_id: &self.name,
                content_type: plan.content_type,
                timestamp_s: time::unix_seconds(change.transaction.committed_at),
                headers: &headers[..count],
            },
            body: payload.unwrap_or_default(),
        })
    }

    fn start(&mut self, change: &Change<'_>) {
        self.body.clear();
        self.position.clear();
        self.id.clear();
        write!(self.position, "{}", change.position).expect("a String takes all text");
        write!(self.id, "{}:{}", self.name, self.position).expect("a String takes all text");
    }
}

const NONE: (&str, Header<'_>) = ("", Header::Int(0));

fn committed_at(change: &Change<'_>) -> (&'static str, Header<'static>) {
    ("committed_at_us", Header::Int(time::unix_micros(change.transaction.committed_at)))
}

fn text(row: Tuple<'_>, column: usize) -> Option<&str> {
    match row.get(column)? {
        Value::Text(bytes) => std::str::from_utf8(bytes).ok(),
        Value::Null | Value::Unchanged | Value::Binary(_) => None,
    }
}

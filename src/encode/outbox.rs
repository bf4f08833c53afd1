//! An outbox row as the event that the application wrote.
//!
//! Nulls: without an id the position names the event; a null in a template, the type or the payload is empty; a header or a
//! property whose text is empty is left out.

use serde_json::value::RawValue;

use super::Encoder;
use super::cloudevents::{Attributes, Incomplete};
use super::fields::Fields;
use super::message::{Event, Header};
use super::ordering::OrderingKey;
use super::text::json_string;
use super::values::{Kind, json_base64, json_value, raw_bytes};
use super::{time, trace_context};
use crate::change::Change;
use crate::config::{Ordering, Property};
use crate::failure::Poison;
use crate::postgres::pgoutput::{Tuple, Value};
use crate::route::outbox::{HeaderPlan, OutboxPlan, Part};
use crate::route::template::Bound;
use crate::transaction::LogicalMessage;

/// One row of an outbox.
#[derive(Debug, Clone, Copy)]
pub enum OutboxRow<'a> {
    /// Of its table.
    Table(Tuple<'a>),
    /// What a logical message holds.
    Message {
        /// Its prefix.
        prefix: &'a str,
        /// Those of the plan.
        fields: &'a Fields,
    },
}

impl<'a> OutboxRow<'a> {
    pub(super) fn get(self, column: usize) -> Value<'a> {
        match self {
            Self::Table(row) => row.get(column).unwrap_or(Value::Null),
            Self::Message { fields, .. } => fields.get(column),
        }
    }

    /// What is null or no text has none.
    fn text(self, column: usize) -> Option<&'a str> {
        match self.get(column) {
            Value::Text(text) => std::str::from_utf8(text).ok(),
            Value::Null | Value::Unchanged | Value::Binary(_) => None,
        }
    }

    /// A table's columns have the kind that the plan says, a message's fields each their own.
    pub(super) fn kind(self, column: usize, planned: &'a Kind) -> &'a Kind {
        match self {
            Self::Table(_) => planned,
            Self::Message { fields, .. } => fields.kind(column),
        }
    }
}

/// What a row says can't be said to the broker: it would close the channel over it, and with it lose what is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Of the property.
    #[error("its priority is no number from 0 to 255")]
    Priority,
    /// Of the property.
    #[error("its expiration is no number of milliseconds, from 0 to 4294967295")]
    Expiration,
    /// Of the property.
    #[error("its reply_to is what RabbitMQ keeps for who publishes and waits for an answer")]
    ReplyTo,
    /// Of the column.
    #[error("its timestamp is no time after 1970")]
    Timestamp,
    /// For what is to be a CloudEvent.
    #[error(transparent)]
    CloudEvent(#[from] Incomplete),
}

impl Unfit {
    /// Without the property the event is whole; without what a CloudEvent must have there is none.
    #[must_use]
    pub fn poison(&self) -> Poison {
        match self {
            Self::Priority | Self::Expiration | Self::ReplyTo | Self::Timestamp => Poison::Property,
            Self::CloudEvent(_) => Poison::Other,
        }
    }
}

impl Encoder {
    /// A row of an outbox table as the event that the application wrote.
    ///
    /// # Errors
    /// A property that the broker would not take; the event is whole without it.
    pub fn outbox(
        &self,
        event: &mut Event,
        plan: &OutboxPlan,
        change: &Change<'_>,
        row: OutboxRow<'_>,
    ) -> Result<(), Unfit> {
        self.start_change(event, change);
        fill(event, plan, row)
    }

    /// The object that a logical message holds, as the same.
    ///
    /// # Errors
    /// A property that the broker would not take; the event is whole without it.
    pub fn outbox_message(
        &self,
        event: &mut Event,
        plan: &OutboxPlan,
        logical: &LogicalMessage<'_>,
        row: OutboxRow<'_>,
    ) -> Result<(), Unfit> {
        self.start_message(event, logical);
        fill(event, plan, row)
    }

    /// What names the event of a row that can't be made, and where it was to go.
    pub fn name_outbox(&self, event: &mut Event, plan: &OutboxPlan, change: &Change<'_>, row: OutboxRow<'_>) {
        self.start_change(event, change);
        name(event, plan, row);
    }

    /// The same of an object that a logical message holds.
    pub fn name_outbox_message(
        &self,
        event: &mut Event,
        plan: &OutboxPlan,
        logical: &LogicalMessage<'_>,
        row: OutboxRow<'_>,
    ) {
        self.start_message(event, logical);
        name(event, plan, row);
    }
}

/// What names a new event, and where it goes.
fn name(event: &mut Event, plan: &OutboxPlan, row: OutboxRow<'_>) {
    if let Some(id) = row.text(plan.id) {
        event.message_id.clear();
        event.message_id.push_str(id);
    }
    if let Some(event_type) = plan.event_type.and_then(|column| row.text(column)) {
        event.event_type.push_str(event_type);
    }
    render(plan, row, &plan.exchange, &mut event.exchange);
    render(plan, row, &plan.routing_key, &mut event.routing_key);
    event.ordering_key = match plan.ordering {
        Ordering::Key => OrderingKey::text(plan.aggregate_id.and_then(|column| row.text(column)).unwrap_or_default()),
        Ordering::None => OrderingKey::Any,
    };
}

/// All of a new event that its row says.
fn fill(event: &mut Event, plan: &OutboxPlan, row: OutboxRow<'_>) -> Result<(), Unfit> {
    name(event, plan, row);
    headers(event, plan, row);
    let form = form(event, plan, row);
    let mut unfit = None;
    let mut scratch = std::mem::take(&mut event.subject);
    for (property, bound) in &plan.properties {
        scratch.clear();
        render(plan, row, bound, &mut scratch);
        if !scratch.is_empty() {
            unfit = unfit.or(set(event, *property, &scratch).err());
        }
    }
    scratch.clear();
    event.subject = scratch;
    let mut written_at = None;
    if let Some((column, kind)) = &plan.timestamp
        && let Value::Text(value) = row.get(*column)
    {
        let at = time_of(row.kind(*column, kind), value);
        (written_at, event.timestamp_s) = (at, at.map(time::unix_seconds).or(event.timestamp_s));
        unfit = unfit.or(at.is_none().then_some(Unfit::Timestamp));
    }
    let made = body(event, plan, row, form, written_at);
    made.and(unfit.map_or(Ok(()), Err))
}

fn render(plan: &OutboxPlan, row: OutboxRow<'_>, bound: &Bound<Part>, out: &mut String) {
    bound.render(out, |part, out| match part {
        Part::Fixed(fixed) => out.push_str(fixed),
        Part::Column(column) => out.push_str(row.text(*column).unwrap_or_default()),
        Part::Prefix => {
            if let OutboxRow::Message { prefix, .. } = row {
                out.push_str(prefix);
            }
        }
        Part::Route => {
            if let Some(route) = &plan.route {
                route.render(row.text(route.column()).unwrap_or_default(), out);
            }
        }
    });
}

fn headers(event: &mut Event, plan: &OutboxPlan, row: OutboxRow<'_>) {
    for (header, column) in [("aggregate_type", plan.aggregate_type), ("aggregate_id", plan.aggregate_id)] {
        if let Some(value) = column.and_then(|column| row.text(column)) {
            event.headers.push(header, Header::Text(value));
        }
    }
    if let Some((column, kind)) = &plan.schema_version
        && let Some(value) = row.text(*column)
    {
        event.headers.push("schema_version", typed(row.kind(*column, kind), value));
    }
    if let Some(context) = plan.trace_context.and_then(|column| row.text(column)) {
        trace_context::push(&mut event.headers, context);
    }
    let mut scratch = std::mem::take(&mut event.subject);
    for (header, of) in &plan.headers {
        scratch.clear();
        let value = match of {
            HeaderPlan::Column(column, kind) => {
                row.text(*column).map_or(Header::Text(""), |text| typed(row.kind(*column, kind), text))
            }
            HeaderPlan::Text(bound) => {
                render(plan, row, bound, &mut scratch);
                Header::Text(&scratch)
            }
        };
        if value != Header::Text("") {
            event.headers.push(header, value);
        }
    }
    scratch.clear();
    event.subject = scratch;
}

/// An integer and a boolean as such, all else as its text: a header has no other types that all readers take for the same.
fn typed<'a>(kind: &Kind, text: &'a str) -> Header<'a> {
    let typed = match kind {
        Kind::Integer => text.parse().ok().map(Header::Int),
        Kind::Bool => Some(Header::Bool(text == "t")),
        Kind::Json => text.parse().map(Header::Int).or_else(|_| text.parse().map(Header::Bool)).ok(),
        Kind::Number
        | Kind::Timestamp
        | Kind::TimestampTz
        | Kind::Bytea
        | Kind::Text
        | Kind::Array(_)
        | Kind::Composite(_)
        | Kind::Hstore => None,
    };
    typed.unwrap_or(Header::Text(text))
}

/// What the body of an event is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Nothing: it is a tombstone.
    Empty,
    Payload,
    Envelope {
        /// The payload within it is JSON.
        is_json: bool,
    },
}

/// And says what it is: a header, or the content type.
fn form(event: &mut Event, plan: &OutboxPlan, row: OutboxRow<'_>) -> Form {
    let (payload, kind) = (row.get(plan.payload), row.kind(plan.payload, &plan.payload_kind));
    let mut is_json = matches!(kind, Kind::Json);
    let form = if is_blank(payload, kind) && plan.tombstone_on_empty_payload {
        event.headers.push("tombstone", Header::Bool(true));
        Form::Empty
    } else {
        if plan.expand_json_payload && !is_json {
            raw_bytes(&mut event.body, kind, payload);
            is_json = is_object_or_array(&event.body);
            event.body.clear();
        }
        if plan.envelope.is_empty() { Form::Payload } else { Form::Envelope { is_json } }
    };
    event.content_type.push_str(match kind {
        _ if is_json || matches!(form, Form::Envelope { .. }) => "application/json",
        Kind::Bytea => "application/octet-stream",
        _ => "text/plain; charset=utf-8",
    });
    form
}

/// `written_at`: by the row itself. Of what the row does not know there is nothing in a CloudEvent, so that it is the same when
/// it is sent again from the table.
fn body(
    event: &mut Event,
    plan: &OutboxPlan,
    row: OutboxRow<'_>,
    form: Form,
    written_at: Option<i64>,
) -> Result<(), Unfit> {
    let (payload, kind) = (row.get(plan.payload), row.kind(plan.payload, &plan.payload_kind));
    let Some(wrapper) = &plan.cloudevents else {
        match form {
            Form::Empty => {}
            Form::Payload => raw_bytes(&mut event.body, kind, payload),
            Form::Envelope { is_json } => envelope(&mut event.body, plan, row, is_json),
        }
        return Ok(());
    };
    let attributes = Attributes { time: written_at, position: None };
    event.subject.push_str(plan.aggregate_id.and_then(|column| row.text(column)).unwrap_or_default());
    match form {
        Form::Envelope { is_json } => wrapper.json(event, attributes, |out| envelope(out, plan, row, is_json))?,
        // White space is data: what is refused for its size must not become smaller than it was said to be.
        Form::Payload if payload != Value::Text(b"") => wrapper.payload(event, attributes, kind, payload)?,
        Form::Payload | Form::Empty => wrapper.payload(event, attributes, kind, Value::Null)?,
    }
    Ok(())
}

/// As Debezium has it, where white space counts for nothing.
fn is_blank(payload: Value<'_>, kind: &Kind) -> bool {
    match payload {
        Value::Null | Value::Unchanged => true,
        Value::Text(text) if matches!(kind, Kind::Bytea) => matches!(text, b"" | b"\\x"),
        Value::Text(text) => text.trim_ascii().is_empty(),
        Value::Binary(bytes) => bytes.is_empty(),
    }
}

fn is_object_or_array(payload: &[u8]) -> bool {
    matches!(payload.trim_ascii_start(), [b'{' | b'[', ..]) && serde_json::from_slice::<&RawValue>(payload).is_ok()
}

/// An empty text leaves what there is.
fn set(event: &mut Event, property: Property, text: &str) -> Result<(), Unfit> {
    let out = match property {
        Property::Priority => {
            event.priority = Some(text.parse().map_err(|_| Unfit::Priority)?);
            return Ok(());
        }
        // RabbitMQ's `max_expiry` is larger; nobody's message lives for 49 days.
        Property::Expiration if text.parse::<u32>().is_err() => return Err(Unfit::Expiration),
        Property::Expiration => &mut event.expiration,
        Property::AppId => &mut event.app_id,
        Property::ContentEncoding => &mut event.content_encoding,
        Property::ContentType => &mut event.content_type,
        Property::CorrelationId => &mut event.correlation_id,
        // Direct reply-to: the broker would close our channel, which has asked for no answer.
        Property::ReplyTo if text == "amq.rabbitmq.reply-to" => return Err(Unfit::ReplyTo),
        Property::ReplyTo => &mut event.reply_to,
    };
    text.clone_into(out);
    Ok(())
}

/// Microseconds since 2000-01-01 00:00 UTC, not before 1970. A time by its column's type, without a zone UTC; an integer counts
/// milliseconds since 1970, as Debezium's do.
fn time_of(kind: &Kind, value: &[u8]) -> Option<i64> {
    let value = std::str::from_utf8(value).ok()?;
    let micros = match kind {
        Kind::Integer | Kind::Json => value.parse::<i64>().ok()?.checked_mul(1_000).map(time::since_2000)?,
        Kind::Timestamp => time::parse_rfc3339(&format!("{value}Z"))?,
        _ => time::parse_rfc3339(value).or_else(|| time::parse_rfc3339(&format!("{value}Z")))?,
    };
    (time::unix_micros(micros) >= 0).then_some(micros)
}

/// `{"payload":…,"field":…}`
fn envelope(out: &mut Vec<u8>, plan: &OutboxPlan, row: OutboxRow<'_>, is_json: bool) {
    out.extend_from_slice(b"{\"payload\":");
    let (payload, kind) = (row.get(plan.payload), row.kind(plan.payload, &plan.payload_kind));
    match payload {
        // As it was written.
        Value::Text(_) | Value::Binary(_) if is_json => raw_bytes(out, kind, payload),
        Value::Null | Value::Unchanged | Value::Text(_) | Value::Binary(_) => value(out, kind, payload),
    }
    for (field, column, kind) in &plan.envelope {
        out.push(b',');
        json_string(out, field.as_bytes());
        out.push(b':');
        value(out, row.kind(*column, kind), row.get(*column));
    }
    out.push(b'}');
}

fn value(out: &mut Vec<u8>, kind: &Kind, value: Value<'_>) {
    match value {
        Value::Null | Value::Unchanged => out.extend_from_slice(b"null"),
        Value::Text(text) => json_value(out, kind, text),
        Value::Binary(bytes) => json_base64(out, bytes),
    }
}

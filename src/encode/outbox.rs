//! An outbox row as the event that the application wrote.
//!
//! Nulls: without an id the position names the event; a null in a template, the type or the payload is empty; a header or a
//! property whose text is empty is left out.

use super::Encoder;
use super::cloudevents::{Attributes, Incomplete};
use super::message::{Event, Header};
use super::text::json_string;
use super::time;
use super::values::{Kind, json_base64, json_value, raw_bytes};
use crate::change::Change;
use crate::config::Property;
use crate::postgres::pgoutput::{Tuple, Value};
use crate::route::outbox::{OutboxPlan, Part};
use crate::route::template::Bound;

/// What a row says can't be said to the broker: it would close the channel over it, and with it lose what is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Of the property.
    #[error("its priority is no number from 0 to 255")]
    Priority,
    /// Of the property.
    #[error("its expiration is no number of milliseconds, from 0 to 4294967295")]
    Expiration,
    /// Of the column.
    #[error("its timestamp is no time after 1970")]
    Timestamp,
    /// For what is to be a CloudEvent.
    #[error(transparent)]
    CloudEvent(#[from] Incomplete),
}

impl Encoder {
    /// An outbox row as the event that the application wrote.
    ///
    /// # Errors
    /// A property that the broker would not take.
    pub fn outbox(
        &self,
        event: &mut Event,
        plan: &OutboxPlan,
        change: &Change<'_>,
        row: Tuple<'_>,
    ) -> Result<(), Unfit> {
        self.start_change(event, change);
        if let Some(id) = row.text(plan.id) {
            event.message_id.clear();
            event.message_id.push_str(id);
        }
        event.event_type.push_str(row.text(plan.event_type).unwrap_or_default());
        event.content_type.push_str(plan.content_type);
        let render =
            |bound: &Bound<Part>, out: &mut String| bound.render(out, |part, out| part_of(plan, row, part, out));
        render(&plan.exchange, &mut event.exchange);
        render(&plan.routing_key, &mut event.routing_key);
        let columns = [("aggregate_type", plan.aggregate_type), ("aggregate_id", plan.aggregate_id)];
        let version = plan.schema_version.map(|column| ("schema_version", column));
        for (header, column) in columns.into_iter().chain(version) {
            if let Some(value) = row.text(column) {
                event.headers.push(header, Header::Text(value));
            }
        }
        if let Some(context) = plan.trace_context.and_then(|column| row.text(column)) {
            trace(event, context);
        }
        let mut scratch = String::new();
        for (header, bound) in &plan.headers {
            scratch.clear();
            render(bound, &mut scratch);
            if !scratch.is_empty() {
                event.headers.push(header, Header::Text(&scratch));
            }
        }
        for (property, bound) in &plan.properties {
            scratch.clear();
            render(bound, &mut scratch);
            if !scratch.is_empty() {
                set(event, *property, &scratch)?;
            }
        }
        let mut written_at = None;
        if let Some((column, kind)) = &plan.timestamp
            && let Some(Value::Text(value)) = row.get(*column)
        {
            let at = time_of(kind, value).ok_or(Unfit::Timestamp)?;
            (written_at, event.timestamp_s) = (Some(at), Some(time::unix_seconds(at)));
        }
        body(event, plan, row, written_at)
    }
}

fn body(event: &mut Event, plan: &OutboxPlan, row: Tuple<'_>, written_at: Option<i64>) -> Result<(), Unfit> {
    let payload = match row.get(plan.payload) {
        None | Some(Value::Null | Value::Unchanged | Value::Text(b"")) => Value::Null,
        Some(payload @ (Value::Text(_) | Value::Binary(_))) => payload,
    };
    let is_tombstone = payload == Value::Null && plan.tombstone_on_empty_payload;
    let is_enveloped = !is_tombstone && !plan.envelope.is_empty();
    if is_tombstone {
        event.headers.push("tombstone", Header::Bool(true));
    }
    if is_enveloped {
        "application/json".clone_into(&mut event.content_type);
    }
    // All that the row itself knows, so that it is the same event when it is sent again from the table.
    let attributes = Attributes { time: written_at, position: None };
    if plan.cloudevents.is_some() {
        event.subject.push_str(row.text(plan.aggregate_id).unwrap_or_default());
    }
    match &plan.cloudevents {
        None if is_enveloped => envelope(&mut event.body, plan, row, payload),
        None => raw_bytes(&mut event.body, &plan.payload_kind, payload),
        Some(wrapper) if is_enveloped => wrapper.json(event, attributes, |out| envelope(out, plan, row, payload))?,
        Some(wrapper) => wrapper.payload(event, attributes, &plan.payload_kind, payload)?,
    }
    Ok(())
}

fn part_of(plan: &OutboxPlan, row: Tuple<'_>, part: &Part, out: &mut String) {
    match part {
        Part::Fixed(fixed) => out.push_str(fixed),
        Part::Column(column) => out.push_str(row.text(*column).unwrap_or_default()),
        Part::Route => {
            if let Some(route) = &plan.route {
                route.render(row.text(route.column()).unwrap_or_default(), out);
            }
        }
    }
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
        Property::ReplyTo => &mut event.reply_to,
    };
    text.clone_into(out);
    Ok(())
}

/// The W3C headers of <https://www.w3.org/TR/trace-context/>, from the `traceparent` alone, or from lines `traceparent=…` and
/// `tracestate=…`, as a Java application with OpenTelemetry writes them for Debezium (`java.util.Properties`).
fn trace(event: &mut Event, context: &str) {
    let context = context.trim();
    if !context.contains('=') {
        if !context.is_empty() {
            event.headers.push("traceparent", Header::Text(context));
        }
        return;
    }
    for line in context.lines().filter(|line| !line.starts_with('#')) {
        if let Some((name @ ("traceparent" | "tracestate"), value)) = line.trim().split_once('=') {
            let value = value.trim();
            // A properties file escapes these two.
            let unescaped =
                if value.contains('\\') { value.replace("\\=", "=").replace("\\:", ":") } else { value.to_owned() };
            event.headers.push(name, Header::Text(&unescaped));
        }
    }
}

/// Microseconds since 2000-01-01 00:00 UTC, not before 1970. A time by its column's type; an integer counts milliseconds since
/// 1970, as Debezium's do.
fn time_of(kind: &Kind, value: &[u8]) -> Option<i64> {
    let value = std::str::from_utf8(value).ok()?;
    let micros = match kind {
        Kind::Integer => value.parse::<i64>().ok()?.checked_mul(1_000).map(time::since_2000)?,
        Kind::Timestamp => time::parse_rfc3339(&format!("{value}Z"))?,
        _ => time::parse_rfc3339(value)?,
    };
    (time::unix_micros(micros) >= 0).then_some(micros)
}

/// `{"payload":…,"field":…}`
fn envelope(out: &mut Vec<u8>, plan: &OutboxPlan, row: Tuple<'_>, payload: Value<'_>) {
    out.extend_from_slice(b"{\"payload\":");
    value(out, &plan.payload_kind, payload);
    for (field, column, kind) in &plan.envelope {
        out.push(b',');
        json_string(out, field.as_bytes());
        out.push(b':');
        value(out, kind, row.get(*column).unwrap_or(Value::Null));
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

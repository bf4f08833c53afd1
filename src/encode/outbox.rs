//! An outbox row as the event that the application wrote.
//!
//! Nulls: without an id the position names the event; a null in a template, the type or the payload is empty; a header or a
//! property whose text is empty is left out.

use super::Encoder;
use super::message::{Event, Header};
use super::ordering::OrderingKey;
use super::text::json_string;
use super::time;
use super::values::{Kind, json_base64, json_value, raw_bytes};
use crate::change::Change;
use crate::config::{Ordering, Property};
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
}

impl Encoder {
    /// What names the event of an outbox row, and where it goes.
    pub fn name_outbox(&self, event: &mut Event, plan: &OutboxPlan, change: &Change<'_>, row: Tuple<'_>) {
        self.start_change(event, change);
        if let Some(id) = row.text(plan.id) {
            event.message_id.clear();
            event.message_id.push_str(id);
        }
        event.ordering_key = match plan.ordering {
            Ordering::Key => OrderingKey::text(row.text(plan.aggregate_id).unwrap_or_default()),
            Ordering::None => OrderingKey::Any,
        };
        event.event_type.push_str(row.text(plan.event_type).unwrap_or_default());
        for (bound, out) in [(&plan.exchange, &mut event.exchange), (&plan.routing_key, &mut event.routing_key)] {
            bound.render(out, |part, out| part_of(plan, row, part, out));
        }
    }

    /// An outbox row as the event that the application wrote.
    ///
    /// # Errors
    /// A property that the broker would not take; the event is whole without it.
    pub fn outbox(
        &self,
        event: &mut Event,
        plan: &OutboxPlan,
        change: &Change<'_>,
        row: Tuple<'_>,
    ) -> Result<(), Unfit> {
        self.name_outbox(event, plan, change, row);
        event.content_type.push_str(plan.content_type);
        let render =
            |bound: &Bound<Part>, out: &mut String| bound.render(out, |part, out| part_of(plan, row, part, out));
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
        let mut unfit = None;
        for (property, bound) in &plan.properties {
            scratch.clear();
            render(bound, &mut scratch);
            if !scratch.is_empty() {
                unfit = unfit.or(set(event, *property, &scratch).err());
            }
        }
        if let Some((column, kind)) = &plan.timestamp
            && let Some(Value::Text(value)) = row.get(*column)
        {
            let seconds = unix_seconds(kind, value);
            event.timestamp_s = seconds.or(event.timestamp_s);
            unfit = unfit.or(seconds.is_none().then_some(Unfit::Timestamp));
        }
        let payload = row.get(plan.payload).unwrap_or(Value::Null);
        let is_empty = matches!(payload, Value::Null | Value::Text(b"") | Value::Unchanged);
        if is_empty && plan.tombstone_on_empty_payload {
            event.headers.push("tombstone", Header::Bool(true));
        } else if plan.envelope.is_empty() {
            raw_bytes(&mut event.body, &plan.payload_kind, payload);
        } else {
            "application/json".clone_into(&mut event.content_type);
            envelope(&mut event.body, plan, row, payload);
        }
        unfit.map_or(Ok(()), Err)
    }
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

/// A time by its column's type; an integer counts milliseconds since 1970, as Debezium's do.
fn unix_seconds(kind: &Kind, value: &[u8]) -> Option<u64> {
    let value = std::str::from_utf8(value).ok()?;
    let micros = match kind {
        Kind::Integer => return value.parse::<u64>().ok().map(|ms| ms / 1000),
        Kind::Timestamp => time::parse_rfc3339(&format!("{value}Z"))?,
        _ => time::parse_rfc3339(value)?,
    };
    u64::try_from(time::unix_micros(micros)).ok().map(|micros| micros / 1_000_000)
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

//! `[outbox]`, or several `[[outbox]]`.

use std::collections::BTreeMap;

use regex::Regex;

use super::super::layers::Origins;
use super::super::written;
use super::super::{CleanupSettings, OnUpdate, OutboxColumns, OutboxSettings, Property, RouteSettings};
use super::{MAX_WAIT_MS, identifier, millis, not_default_exchange, one_of, qualified, required, size, template};
use crate::encode::headers::NAME_BYTES_MAX;
use crate::failure::Definite;
use crate::route::template::Template;

/// The headers that events have anyway.
const OWN_HEADERS: [&str; 12] = [
    "position",
    "committed_at_us",
    "replayed_at_us",
    "aggregate_type",
    "aggregate_id",
    "schema_version",
    "traceparent",
    "tracestate",
    "tombstone",
    "transaction_id",
    "transaction_number",
    "transaction_last",
];

pub(super) fn outboxes(
    at: &Origins,
    written: Vec<written::Outbox>,
    name: &str,
) -> Result<Vec<OutboxSettings>, Definite> {
    let is_one = written.len() == 1;
    let key = |index: usize| if is_one { "outbox".to_owned() } else { format!("outbox[{index}]") };
    let outboxes = written.into_iter().enumerate().map(|(index, written)| outbox(at, key(index), written, name));
    let outboxes = outboxes.collect::<Result<Vec<_>, _>>()?;
    for (index, outbox) in outboxes.iter().enumerate() {
        if outboxes[..index].iter().any(|other| outbox.is(&other.schema, &other.table)) {
            let what = format!("is given twice: {}.{}", outbox.schema, outbox.table);
            return Err(at.wrong(&format!("{}.table", outbox.key), what, "keep one of the two sections"));
        }
    }
    Ok(outboxes)
}

fn outbox(at: &Origins, key: String, written: written::Outbox, name: &str) -> Result<OutboxSettings, Definite> {
    let sub = |name: &str| format!("{key}.{name}");
    let table = required(at, &sub("table"), written.table, "the outbox table, as in table = \"public.outbox\"")?;
    let (schema, table) = qualified(at, &sub("table"), &table)?;
    let column =
        |key: &str, written: String| identifier(at, &sub(&format!("columns.{key}")), &written).map(|()| written);
    let known =
        |key, written: Option<String>, default: &str| column(key, written.unwrap_or_else(|| default.to_owned()));
    let optional = |key, written: Option<String>| written.map(|written| column(key, written)).transpose();
    let columns = written.columns;
    let exchange = written.exchange.as_deref().unwrap_or("{name}.events");
    let exchange = template(at, &sub("exchange"), exchange, name)?;
    let routing_key = written.routing_key.as_deref().unwrap_or("{aggregatetype}.{type}");
    let routing_key = template(at, &sub("routing_key"), routing_key, name)?;
    let updates = [("warn", OnUpdate::Warn), ("ignore", OnUpdate::Ignore), ("fail", OnUpdate::Fail)];
    let settings = OutboxSettings {
        exchange: not_default_exchange(at, &sub("exchange"), exchange)?,
        routing_key,
        columns: OutboxColumns {
            id: known("id", columns.id, "id")?,
            aggregate_type: known("aggregate_type", columns.aggregate_type, "aggregatetype")?,
            aggregate_id: known("aggregate_id", columns.aggregate_id, "aggregateid")?,
            event_type: known("type", columns.event_type, "type")?,
            payload: known("payload", columns.payload, "payload")?,
            timestamp: optional("timestamp", columns.timestamp)?,
            schema_version: optional("schema_version", columns.schema_version)?,
            trace_context: optional("trace_context", columns.trace_context)?,
        },
        properties: properties(at, &sub("properties"), written.properties, name)?,
        headers: headers(at, &sub("headers"), written.headers.unwrap_or_default(), name)?,
        envelope: envelope(at, &sub("envelope"), written.envelope.unwrap_or_default())?,
        route: route(at, &sub("route"), written.route)?,
        on_update: one_of(at, &sub("on_update"), written.on_update, &updates)?.unwrap_or_default(),
        cleanup: cleanup(at, &sub("cleanup"), &written.cleanup)?,
        tombstone_on_empty_payload: written.tombstone_on_empty_payload.unwrap_or(false),
        schema,
        table,
        key,
    };
    Ok(settings)
}

fn cleanup(at: &Origins, key: &str, written: &written::OutboxCleanup) -> Result<Option<CleanupSettings>, Definite> {
    let batch_rows = size(at, &format!("{key}.batch_rows"), written.batch_rows, 1_000, 1..=100_000, "rows")?;
    let every = millis(at, &format!("{key}.every_ms"), written.every_ms, 1_000, 10..=MAX_WAIT_MS)?;
    let after = written
        .drop_partitions_after_ms
        .map(|ms| millis(at, &format!("{key}.drop_partitions_after_ms"), Some(ms), ms, 0..=366 * MAX_WAIT_MS));
    let settings = CleanupSettings { batch_rows, every, drop_partitions_after: after.transpose()? };
    Ok(written.enabled.unwrap_or(false).then_some(settings))
}

fn properties(
    at: &Origins,
    key: &str,
    written: written::Properties,
    name: &str,
) -> Result<Vec<(Property, Template)>, Definite> {
    let written::Properties { app_id, content_encoding, content_type, correlation_id, expiration, priority, reply_to } =
        written;
    let properties = [
        (Property::AppId, app_id),
        (Property::ContentEncoding, content_encoding),
        (Property::ContentType, content_type),
        (Property::CorrelationId, correlation_id),
        (Property::Expiration, expiration),
        (Property::Priority, priority),
        (Property::ReplyTo, reply_to),
    ];
    let given = properties.into_iter().filter_map(|(property, text)| Some((property, text?)));
    given
        .map(|(property, text)| Ok((property, template(at, &format!("{key}.{}", property.name()), &text, name)?)))
        .collect()
}

pub(super) fn headers(
    at: &Origins,
    key: &str,
    written: BTreeMap<String, String>,
    name: &str,
) -> Result<Vec<(String, Template)>, Definite> {
    let header = |(header, text): (String, String)| {
        let key = format!("{key}.{header}");
        if header.is_empty() || header.len() > NAME_BYTES_MAX {
            return Err(at.wrong(&key, "is no name of a header", "allowed: 1 to 255 bytes, by AMQP"));
        }
        if OWN_HEADERS.contains(&header.as_str()) || header.starts_with("parked_") {
            return Err(at.wrong(&key, "is a header that pgsluice writes itself", "choose another name"));
        }
        Ok((header, template(at, &key, &text, name)?))
    };
    written.into_iter().map(header).collect()
}

/// Field to column.
fn envelope(at: &Origins, key: &str, written: BTreeMap<String, String>) -> Result<Vec<(String, String)>, Definite> {
    for (field, column) in &written {
        let key = format!("{key}.{field}");
        if field == "payload" {
            return Err(at.wrong(&key, "is where the payload is", "choose another name for the field"));
        }
        identifier(at, &key, column)?;
    }
    Ok(written.into_iter().collect())
}

fn route(at: &Origins, key: &str, written: written::Route) -> Result<Option<RouteSettings>, Definite> {
    let written::Route { column, pattern, replacement } = written;
    if column.is_none() && pattern.is_none() && replacement.is_none() {
        return Ok(None);
    }
    let sub = |name: &str| format!("{key}.{name}");
    let column = column.unwrap_or_else(|| "aggregatetype".to_owned());
    identifier(at, &sub("column"), &column)?;
    let pattern = required(at, &sub("pattern"), pattern, "a regular expression, as in pattern = \"(.*)\"")?;
    // The whole value must match, as with Debezium.
    let pattern = Regex::new(&format!("^(?:{pattern})$")).map_err(|error| {
        let hint = "regular expressions are those of https://docs.rs/regex";
        at.wrong_because(&sub("pattern"), "can't be used", error, hint)
    })?;
    let hint = "what it becomes, as in replacement = \"events.$1\"";
    let replacement = required(at, &sub("replacement"), replacement, hint)?;
    Ok(Some(RouteSettings { column, pattern, replacement }))
}

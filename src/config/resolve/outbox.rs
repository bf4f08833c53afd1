//! `[outbox]`, or several `[[outbox]]`.

use std::collections::BTreeMap;

use regex::Regex;

use super::super::format::OF_DATA;
use super::super::layers::Origins;
use super::super::written;
use super::super::{
    CleanupSettings, CloudEvents, OF_COLUMN, OnUpdate, Ordering, OutboxColumns, OutboxOf, OutboxSettings,
    OutboxTableSettings, Property, RouteSettings,
};
use super::{MAX_WAIT_MS, identifier, millis, not_default_exchange, one_of, qualified, required, size, template};
use crate::encode::headers::NAME_BYTES_MAX;
use crate::failure::Definite;
use crate::route::messages::Prefixes;
use crate::route::template::Template;

/// The headers that events have anyway; an outbox event has others if columns say so.
const OWN_HEADERS: [&str; 7] = [
    "position",
    "committed_at_us",
    "replayed_at_us",
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
        let Some(table) = outbox.table() else { continue };
        if outboxes[..index].iter().any(|other| other.is(&table.schema, &table.table)) {
            let what = format!("is given twice: {}.{}", table.schema, table.table);
            return Err(at.wrong(&format!("{}.table", outbox.key), what, "keep one of the two sections"));
        }
    }
    Ok(outboxes)
}

fn outbox(at: &Origins, key: String, written: written::Outbox, name: &str) -> Result<OutboxSettings, Definite> {
    let sub = |name: &str| format!("{key}.{name}");
    let of = of(at, &key, written.table, written.prefix, written.on_update, &written.cleanup)?;
    let columns = columns(at, &sub("columns"), written.columns)?;
    let exchange = written.exchange.as_deref().unwrap_or("{name}.events");
    let exchange = template(at, &sub("exchange"), exchange, name)?;
    let routing_key = written.routing_key.as_deref().unwrap_or("{aggregatetype}.{type}");
    let routing_key = template(at, &sub("routing_key"), routing_key, name)?;
    let format = one_of(at, &sub("format"), written.format, &OF_DATA)?.unwrap_or_default();
    if format == Some(CloudEvents::Structured) && written.properties.content_encoding.is_some() {
        let hint = "format = \"cloudevents-binary\" has the payload alone in its body";
        return Err(at.wrong(&sub("properties.content_encoding"), "would be of a body that is JSON", hint));
    }
    let settings = OutboxSettings {
        of,
        format,
        exchange: not_default_exchange(at, &sub("exchange"), exchange)?,
        routing_key,
        properties: properties(at, &sub("properties"), written.properties, name)?,
        headers: headers(at, &sub("headers"), written.headers.unwrap_or_default(), Some(&columns), name)?,
        envelope: envelope(at, &sub("envelope"), written.envelope.unwrap_or_default())?,
        route: route(at, &sub("route"), written.route)?,
        expand_json_payload: written.expand_json_payload.unwrap_or(false),
        ordering: one_of(at, &sub("key"), written.key, &[("aggregate", Ordering::Key), ("none", Ordering::None)])?
            .unwrap_or_default(),
        tombstone_on_empty_payload: written.tombstone_on_empty_payload.unwrap_or(false),
        columns,
        key,
    };
    templates(at, &settings)?;
    Ok(settings)
}

/// A table, or the prefix of messages, which have no updates and need no clean-up.
fn of(
    at: &Origins,
    key: &str,
    table: Option<String>,
    prefix: Option<String>,
    on_update: Option<String>,
    cleanup: &written::OutboxCleanup,
) -> Result<OutboxOf, Definite> {
    let sub = |name: &str| format!("{key}.{name}");
    let cleanup_key = sub("cleanup");
    let Some(prefix) = prefix else {
        let hint = "the outbox table, as in table = \"public.outbox\"; or else prefix, for logical messages";
        let (schema, table) = qualified(at, &sub("table"), &required(at, &sub("table"), table, hint)?)?;
        let updates = [("warn", OnUpdate::Warn), ("ignore", OnUpdate::Ignore), ("fail", OnUpdate::Fail)];
        let on_update = one_of(at, &sub("on_update"), on_update, &updates)?.unwrap_or_default();
        let cleanup = self::cleanup(at, &cleanup_key, cleanup)?;
        return Ok(OutboxOf::Table(OutboxTableSettings { schema, table, on_update, cleanup }));
    };
    let written::OutboxCleanup { enabled, batch_rows, every_ms, drop_partitions_after_ms } = cleanup;
    let has_cleanup =
        enabled.is_some() || batch_rows.is_some() || every_ms.is_some() || drop_partitions_after_ms.is_some();
    let of_tables =
        [(sub("table"), table.is_some()), (sub("on_update"), on_update.is_some()), (cleanup_key, has_cleanup)];
    if let Some((key, _)) = of_tables.into_iter().find(|(_, is_given)| *is_given) {
        let what = format!("has no meaning beside {}: its rows are logical messages", sub("prefix"));
        return Err(at.wrong(&key, what, "keep one of the two"));
    }
    let hint = "the prefix of pg_logical_emit_message, as in prefix = \"outbox\"; * is any characters, ? any one";
    Ok(OutboxOf::Messages(Prefixes::new(&[required(at, &sub("prefix"), Some(prefix), hint)?])))
}

fn columns(at: &Origins, key: &str, written: written::Columns) -> Result<OutboxColumns, Definite> {
    let column = |name: &str, written: String| identifier(at, &format!("{key}.{name}"), &written).map(|()| written);
    let required =
        |name, written: Option<String>, default: &str| column(name, written.unwrap_or_else(|| default.to_owned()));
    let optional = |name, written: Option<String>| written.map(|written| column(name, written)).transpose();
    // A table may lack what it has by default.
    let unless_empty = |name, written: Option<String>, default: &str| match written {
        Some(written) if written.is_empty() => Ok(None),
        Some(written) => column(name, written).map(Some),
        None => Ok(Some(default.to_owned())),
    };
    Ok(OutboxColumns {
        id: required("id", written.id, "id")?,
        aggregate_type: unless_empty("aggregate_type", written.aggregate_type, "aggregatetype")?,
        aggregate_id: unless_empty("aggregate_id", written.aggregate_id, "aggregateid")?,
        event_type: unless_empty("type", written.event_type, "type")?,
        payload: required("payload", written.payload, "payload")?,
        timestamp: optional("timestamp", written.timestamp)?,
        schema_version: optional("schema_version", written.schema_version)?,
        trace_context: optional("trace_context", written.trace_context)?,
    })
}

/// A variable of a message's event is a field of its JSON, of any name; but for `{new.}`.
fn templates(at: &Origins, settings: &OutboxSettings) -> Result<(), Definite> {
    for (key, template) in settings.templates() {
        if template.variables().any(|variable| variable == OF_COLUMN) {
            return Err(at.wrong(&key, "names no column behind {new.", "as in {new.name}"));
        }
    }
    Ok(())
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
    // None: it is no outbox.
    columns: Option<&OutboxColumns>,
    name: &str,
) -> Result<Vec<(String, Template)>, Definite> {
    let of_columns = columns.map(|columns| {
        [
            ("aggregate_type", &columns.aggregate_type),
            ("aggregate_id", &columns.aggregate_id),
            ("schema_version", &columns.schema_version),
            ("traceparent", &columns.trace_context),
            ("tracestate", &columns.trace_context),
        ]
    });
    let is_own = |header: &str| {
        let is_of_column = |(own, column): &(&str, &Option<String>)| *own == header && column.is_some();
        OWN_HEADERS.contains(&header) || header.starts_with("parked_") || of_columns.iter().flatten().any(is_of_column)
    };
    let header = |(header, text): (String, String)| {
        let key = format!("{key}.{header}");
        if header.is_empty() || header.len() > NAME_BYTES_MAX {
            return Err(at.wrong(&key, "is no name of a header", "allowed: 1 to 255 bytes, by AMQP"));
        }
        if matches!(header.as_str(), "CC" | "BCC") {
            return Err(at.wrong(
                &key,
                "is where RabbitMQ looks for a list of more routing keys",
                "choose another name",
            ));
        }
        if is_own(&header) {
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
    if let Some(unknown) = references(&replacement).find(|group| !is_group(&pattern, group)) {
        let what = format!("uses ${unknown}, which is no group of the pattern");
        let hint = "what follows a name without being part of it is set off by braces, as in ${1}_events";
        return Err(at.wrong(&sub("replacement"), what, hint));
    }
    Ok(Some(RouteSettings { column, pattern, replacement }))
}

/// The groups that a replacement uses: `$1`, `$name`, `${name}`, and `$$` is none (`regex::Captures::expand`).
fn references(replacement: &str) -> impl Iterator<Item = &str> {
    let mut rest = replacement;
    std::iter::from_fn(move || {
        loop {
            let (_, after) = rest.split_once('$')?;
            if let Some(after) = after.strip_prefix('$') {
                rest = after;
                continue;
            }
            let (name, after) = match after.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
                Some(braced) => braced,
                None => {
                    after.split_at(after.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(after.len()))
                }
            };
            rest = after;
            if !name.is_empty() {
                return Some(name);
            }
        }
    })
}

fn is_group(pattern: &Regex, group: &str) -> bool {
    match group.parse::<usize>() {
        Ok(number) => number < pattern.captures_len(),
        Err(_) => pattern.capture_names().flatten().any(|name| name == group),
    }
}

//! What the formats make of an event: `encode::cloudevents`, `encode::debezium`, `encode::canal`.

use serde_json::{Value, json};

use super::catalog::Described;
use super::event::{LSN, Presence, boolean, committed_at, constant, integer, nullable, object, pattern, text};
use super::rows::Images;
use crate::config::CloudEvents;
use crate::encode::cloudevents::{STRUCTURED, Wrapper};
use crate::encode::debezium::{ColumnType, DebeziumPlan};
use crate::postgres::relation::{Relation, ReplicaIdentity};

/// A body, and what the format has beside it.
pub(super) struct Body {
    pub(super) format: &'static str,
    pub(super) payload: Value,
    pub(super) headers: Vec<(String, Value, Presence)>,
    pub(super) content_type: Option<String>,
}

impl Body {
    /// JSON, with nothing beside it.
    pub(super) fn json(format: &'static str, payload: Value) -> Self {
        Self { format, payload, headers: Vec::new(), content_type: Some("application/json".to_owned()) }
    }
}

/// What is known of the attributes of a CloudEvent.
pub(super) struct Attributes {
    pub(super) id: Value,
    pub(super) event_type: Value,
    /// Of the time.
    pub(super) time: Presence,
    /// Of the place in the stream.
    pub(super) sequence: Presence,
    /// Of `traceparent` and `tracestate`.
    pub(super) is_traced: bool,
}

/// Around a body: its data is the payload, as `data` is in structured mode.
pub(super) fn cloud_event(
    wrapper: &Wrapper,
    attributes: Attributes,
    body: Body,
    data: Vec<(String, Value, Presence)>,
) -> Body {
    let Attributes { id, event_type, time, sequence, is_traced } = attributes;
    let sequence = (pattern("^[0-9A-F]{16}/[0-9A-F]{16}$"), sequence);
    let mut named = vec![
        ("specversion", constant("1.0"), Presence::Always),
        ("id", id, Presence::Always),
        ("source", constant(wrapper.source()), Presence::Always),
        ("type", event_type, Presence::Always),
        ("subject", text(), Presence::Sometimes),
        ("time", committed_at(), time),
        ("partitionkey", text(), Presence::Sometimes),
        ("sequence", sequence.0, sequence.1),
    ];
    if is_traced {
        named.push(("traceparent", text(), Presence::Sometimes));
        named.push(("tracestate", text(), Presence::Sometimes));
    }
    match wrapper.mode() {
        CloudEvents::Structured => {
            named.push(("datacontenttype", text(), Presence::Sometimes));
            let named = named.into_iter().map(|(name, schema, presence)| (name.to_owned(), schema, presence));
            let payload = object(named.chain(data));
            Body { format: "cloudevents", payload, content_type: Some(STRUCTURED.to_owned()), ..body }
        }
        CloudEvents::Binary => {
            let named = named.into_iter();
            let mut headers = body.headers;
            headers.extend(named.map(|(name, schema, presence)| (format!("cloudEvents:{name}"), schema, presence)));
            Body { format: "cloudevents-binary", headers, ..body }
        }
    }
}

/// Data that the application has made: JSON, text or bytes, by its content type.
pub(super) fn data(schema: Value) -> Vec<(String, Value, Presence)> {
    let bytes = json!({"type": "string", "contentEncoding": "base64"});
    [("data", schema), ("data_base64", bytes)].map(|(name, it)| (name.to_owned(), it, Presence::Sometimes)).into()
}

/// Debezium's change event.
pub(super) fn debezium(plan: &DebeziumPlan, pipeline: &str, table: &Described, op: &str) -> Body {
    let relation = &table.relation;
    let columns: Vec<ColumnType> = plan.column_types().collect();
    let row = |of_key: bool| {
        let columns = relation.columns.iter().zip(&columns).zip(&table.columns);
        let columns = columns.filter(|((column, _), _)| !of_key || column.key);
        object(columns.map(|((column, kind), facts)| {
            let mut schema = nullable(debezium_value(*kind));
            schema["x-postgres-type"] = facts.written.as_str().into();
            (column.name.as_str(), super::event::described(schema, facts.comment.as_deref()), Presence::Always)
        }))
    };
    let full = relation.identity == ReplicaIdentity::Full;
    let null = || json!({"type": "null"});
    let (letter, before, after) = match op {
        "insert" => ("c", null(), row(false)),
        "update" if full => ("u", row(false), row(false)),
        "update" => ("u", nullable(json!({"anyOf": [row(true)]})), row(false)),
        "delete" => ("d", row(!full), null()),
        _ => ("t", null(), null()),
    };
    let times = || ["ts_ms", "ts_us", "ts_ns"].map(|name| (name, json!({"type": "integer"}), Presence::Always));
    let source = [
        ("version", constant("pgsluice")),
        ("connector", constant("postgresql")),
        ("name", constant(pipeline)),
        ("snapshot", constant("false")),
        ("db", text()),
        ("sequence", text()),
        ("schema", constant(relation.schema.as_str())),
        ("table", constant(relation.name.as_str())),
        ("txId", integer(0)),
        ("lsn", integer(0)),
        ("xmin", null()),
    ];
    let source = source.into_iter().map(|(name, schema)| (name, schema, Presence::Always)).chain(times());
    let fields = [
        ("before", before),
        ("after", after),
        ("source", object(source)),
        ("transaction", null()),
        ("op", constant(letter)),
    ];
    let event = object(fields.into_iter().map(|(name, schema)| (name, schema, Presence::Always)).chain(times()));
    let payload = if plan.with_schema() {
        // Kafka Connect's own word for what `payload` is.
        object([("schema", json!({"type": "object"}), Presence::Always), ("payload", event, Presence::Always)])
    } else {
        event
    };
    let format = if plan.with_schema() { "debezium-schema" } else { "debezium" };
    let mut body = Body::json(format, payload);
    if op != "truncate" && !full && relation.columns.iter().any(|column| column.key) {
        body.headers.push(("key".to_owned(), text(), Presence::Always));
    }
    body
}

fn debezium_value(kind: ColumnType) -> Value {
    let scalar = |literal: &str, semantic: Option<&str>| {
        let range = |minimum: i64, maximum: i64| json!({"type": "integer", "minimum": minimum, "maximum": maximum});
        let mut schema = match literal {
            "boolean" => boolean(),
            "int16" => range(i64::from(i16::MIN), i64::from(i16::MAX)),
            "int32" => range(i64::from(i32::MIN), i64::from(i32::MAX)),
            "int64" => range(i64::MIN, i64::MAX),
            "float" | "double" => json!({"type": ["number", "string"], "pattern": "^(NaN|-?Infinity)$"}),
            "bytes" => json!({"type": "string", "contentEncoding": "base64"}),
            _ => text(),
        };
        if let Some(semantic) = semantic {
            schema["x-debezium-type"] = semantic.into();
        }
        schema
    };
    match kind {
        ColumnType::Scalar(literal, semantic) => scalar(literal, semantic),
        ColumnType::Array(literal, semantic) => json!({"type": "array", "items": nullable(scalar(literal, semantic))}),
    }
}

/// Canal's flat message.
pub(super) fn canal(relation: &Relation, images: &Images<'_>, op: &str) -> Body {
    let texts = |required: &[&str]| {
        let columns = relation.columns.iter().map(|column| column.name.as_str());
        let presence = |name: &str| Presence::always_if(required.contains(&name));
        object(columns.map(|name| (name, json!({"type": ["string", "null"]}), presence(name))))
    };
    let one = |row: Value| json!({"type": "array", "minItems": 1, "maxItems": 1, "items": row});
    let null = || json!({"type": "null"});
    let each = |schema: fn() -> Value| {
        object(relation.columns.iter().map(|column| (column.name.as_str(), schema(), Presence::Always)))
    };
    let key: Vec<&str> = match relation.identity {
        ReplicaIdentity::Full => Vec::new(),
        ReplicaIdentity::Default | ReplicaIdentity::Index | ReplicaIdentity::Nothing => {
            relation.columns.iter().filter(|column| column.key).map(|column| column.name.as_str()).collect()
        }
    };
    let (data, old) = match op {
        "insert" | "delete" => (one(texts(&images.always)), null()),
        "update" => (one(texts(&images.always)), nullable(one(texts(&[])))),
        _ => (null(), null()),
    };
    let fields = [
        ("id", integer(0)),
        ("database", constant(relation.schema.as_str())),
        ("table", constant(relation.name.as_str())),
        ("pkNames", constant(key)),
        ("isDdl", constant(op == "truncate")),
        ("type", constant(op.to_uppercase())),
        ("es", json!({"type": "integer"})),
        ("ts", json!({"type": "integer"})),
        ("sql", text()),
        ("sqlType", each(|| json!({"type": "integer"}))),
        ("mysqlType", each(text)),
        ("data", data),
        ("old", old),
    ];
    Body::json("canal", object(fields.map(|(name, schema)| (name, schema, Presence::Always))))
}

/// The id of an event that has its place for a name.
pub(super) fn message_id(pipeline: &str) -> Value {
    // A pipeline's name has nothing that is special in a pattern.
    pattern(&format!("^{pipeline}:{LSN}:[0-9]+$"))
}

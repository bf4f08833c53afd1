//! The events of plain tables: what `encode::json` writes, by the operation and the table's replica identity.

use serde_json::{Value, json};

use super::catalog::{ColumnFacts, Described};
use super::event::{
    Address, Event, LSN, Presence, boolean, committed_at, constant, described, integer, nullable, object, pattern,
    position_headers,
};
use super::formats::{self, Attributes, Body, message_id};
use super::types::{Schemas, Typed};
use crate::encode::format::RowFormat;
use crate::postgres::relation::{Column, ReplicaIdentity};
use crate::route::{ChangesPlan, Destination};

/// The events of one table.
pub(super) fn events<'a>(
    schemas: &mut Schemas<'a>,
    pipeline: &str,
    plan: &ChangesPlan,
    table: &'a Described,
) -> Vec<Event> {
    let relation = &table.relation;
    let version = relation.version(schemas.types());
    let destinations = plan.destinations().into_iter().filter(|(op, _)| table.operations.contains(op));
    let event = |(op, destination): (&str, &Destination)| {
        let body = body(schemas, pipeline, &plan.format, table, (op, &destination.event_type));
        Event {
            name: destination.event_type.clone(),
            summary: format!("{} of {relation}", capitalised(op)),
            description: table.comment.clone(),
            exchange: Address::fixed(&destination.exchange),
            routing_key: Address::fixed(&destination.routing_key),
            content_type: body.content_type,
            format: body.format,
            payload: body.payload,
            headers: object(position_headers(Presence::Always).into_iter().chain(body.headers)),
            properties: properties(pipeline, &destination.event_type),
            schema_version: Some(version.clone()),
        }
    };
    destinations.map(event).collect()
}

/// The body of one operation.
pub(super) fn body<'a>(
    schemas: &mut Schemas<'a>,
    pipeline: &str,
    format: &RowFormat,
    table: &'a Described,
    (op, event_type): (&str, &str),
) -> Body {
    match format {
        RowFormat::Plain(_) => Body::json("plain", payload(schemas, pipeline, table, op)),
        RowFormat::Raw(_) => {
            let Images { before, after, .. } = images(schemas, table, op);
            Body::json("raw", if op == "delete" { before } else { after })
        }
        RowFormat::CloudEvents(wrapper, ..) => {
            let body = Body::json("plain", payload(schemas, pipeline, table, op));
            let attributes = Attributes {
                id: message_id(pipeline),
                event_type: constant(event_type),
                time: Presence::Always,
                sequence: Presence::Always,
                is_traced: false,
            };
            let data = vec![("data".to_owned(), body.payload.clone(), Presence::Always)];
            formats::cloud_event(wrapper, attributes, body, data)
        }
        RowFormat::Debezium(plan) => formats::debezium(plan, pipeline, table, op),
        RowFormat::Canal(_) => formats::canal(&table.relation, &images(schemas, table, op), op),
    }
}

/// The AMQP properties that pgsluice's own events have.
pub(super) fn properties(pipeline: &str, event_type: &str) -> Value {
    object([
        ("message_id", message_id(pipeline), Presence::Always),
        ("type", constant(event_type), Presence::Always),
        ("app_id", constant(pipeline), Presence::Always),
        ("timestamp", described(integer(0), Some("commit time, seconds since 1970")), Presence::Always),
    ])
}

fn payload<'a>(schemas: &mut Schemas<'a>, pipeline: &str, table: &'a Described, op: &str) -> Value {
    let relation = &table.relation;
    let key: Vec<&str> = match relation.identity {
        ReplicaIdentity::Full => Vec::new(),
        ReplicaIdentity::Default | ReplicaIdentity::Index | ReplicaIdentity::Nothing => {
            relation.columns.iter().filter(|column| column.key).map(|column| column.name.as_str()).collect()
        }
    };
    let names = || json!({"type": "array", "items": {"type": "string"}});
    let images = images(schemas, table, op);
    let fields = [
        ("id", message_id(pipeline)),
        ("op", constant(op)),
        ("schema", constant(relation.schema.as_str())),
        ("table", constant(relation.name.as_str())),
        ("schema_version", pattern("^[0-9a-f]{16}$")),
        ("identity", constant(relation.identity.name())),
        ("key", constant(key)),
        ("commit_lsn", pattern(&format!("^{LSN}$"))),
        ("ordinal", integer(0)),
        ("xid", integer(0)),
        ("committed_at", committed_at()),
        ("before", images.before),
        ("after", images.after),
        ("unchanged", described(names(), Some("the columns that after lacks, because they were left alone"))),
        ("before_columns", images.before_columns),
        ("changed", if images.knows_changes { names() } else { null() }),
    ];
    let truncate = [("cascade", boolean()), ("restart_identity", boolean())];
    let truncate = truncate.into_iter().filter(|_| op == "truncate");
    object(fields.into_iter().chain(truncate).map(|(name, schema)| (name, schema, Presence::Always)))
}

/// What a change says of a row.
pub(super) struct Images<'a> {
    before: Value,
    after: Value,
    before_columns: Value,
    knows_changes: bool,
    /// The columns that are always there: of the row after the change, or of the one before where there is no after.
    pub(super) always: Vec<&'a str>,
}

/// What a change says of the row before and after it: see `encode::json`.
fn images<'a>(schemas: &mut Schemas<'a>, table: &'a Described, op: &str) -> Images<'a> {
    let full = table.relation.identity == ReplicaIdentity::Full;
    let nothing = Images {
        before: null(),
        after: null(),
        before_columns: null(),
        knows_changes: false,
        always: always(table, op),
    };
    match (op, full) {
        ("insert", _) => Images { after: row(schemas, table, &nothing.always), ..nothing },
        ("update", true) => Images {
            before: row(schemas, table, &nothing.always),
            after: row(schemas, table, &nothing.always),
            before_columns: constant("all"),
            knows_changes: true,
            ..nothing
        },
        ("update", false) => Images {
            before: nullable(key(schemas, table)),
            after: row(schemas, table, &nothing.always),
            before_columns: json!({"enum": ["key", null]}),
            ..nothing
        },
        ("delete", true) => {
            Images { before: row(schemas, table, &nothing.always), before_columns: constant("all"), ..nothing }
        }
        ("delete", false) => Images { before: key(schemas, table), before_columns: constant("key"), ..nothing },
        _ => nothing,
    }
}

fn null() -> Value {
    json!({"type": "null"})
}

/// But for values that are stored apart, where an update may not say them.
fn always<'a>(table: &'a Described, op: &str) -> Vec<&'a str> {
    let full = table.relation.identity == ReplicaIdentity::Full;
    let lacks = |column: &Column, facts: &ColumnFacts| match op {
        "insert" => table.filtered && facts.apart && !column.key,
        "update" => !full && facts.apart && !column.key,
        _ => !full && !column.key,
    };
    let columns = table.relation.columns.iter().zip(&table.columns);
    columns.filter(|(column, facts)| !lacks(column, facts)).map(|(column, _)| column.name.as_str()).collect()
}

/// A row with these columns, and perhaps others.
fn row<'a>(schemas: &mut Schemas<'a>, table: &'a Described, required: &[&str]) -> Value {
    let relation = &table.relation;
    let columns = || relation.columns.iter().zip(&table.columns);
    let reference = schemas.refer(&format!("row.{relation}"), |schemas| {
        let mut row = object(
            columns()
                .map(|(it, facts)| (it.name.as_str(), column(schemas, it, facts), Presence::Sometimes))
                .collect::<Vec<_>>(),
        );
        row["x-schema-version"] = relation.version(schemas.types()).into();
        described(row, table.comment.as_deref())
    });
    json!({"allOf": [reference], "required": required})
}

/// The columns that name a row, and no other.
fn key<'a>(schemas: &mut Schemas<'a>, table: &'a Described) -> Value {
    let relation = &table.relation;
    schemas.refer(&format!("key.{relation}"), |schemas| {
        let columns = relation.columns.iter().zip(&table.columns).filter(|(column, _)| column.key);
        object(
            columns
                .map(|(it, facts)| (it.name.as_str(), column(schemas, it, facts), Presence::Always))
                .collect::<Vec<_>>(),
        )
    })
}

/// A column's value.
pub(super) fn column<'a>(schemas: &mut Schemas<'a>, column: &Column, facts: &'a ColumnFacts) -> Value {
    let typed = Typed { oid: column.type_oid, modifier: column.type_modifier, written: &facts.written };
    let mut schema = schemas.value(typed);
    if !facts.not_null && !schemas.refuses_null(column.type_oid) {
        schema = nullable(schema);
    }
    if schema.get("$ref").is_some() {
        schema = json!({"allOf": [schema]});
    }
    schema["x-postgres-type"] = facts.written.as_str().into();
    described(schema, facts.comment.as_deref())
}

fn capitalised(op: &str) -> String {
    let (first, rest) = op.split_at(1);
    format!("{}{rest}", first.to_uppercase())
}

/// The text of a column, where it is text whatever its type: in a header, a property or a template.
pub(super) fn as_text<'a>(schemas: &mut Schemas<'a>, column: &Column, facts: &'a ColumnFacts) -> Value {
    let typed = Typed { oid: column.type_oid, modifier: column.type_modifier, written: &facts.written };
    schemas.text_of(typed)
}

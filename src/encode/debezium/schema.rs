//! Schemas, as the JSON converter of Kafka Connect writes them (`JsonConverter.asJsonSchema`).

use super::super::row::Key;
use super::super::text::json_string;
use super::ColumnPlan;
use super::values::Kind;

/// `optional`, and what the stream does not say it of.
const REQUIRED: bool = false;
const OPTIONAL: bool = true;

/// `{"schema":…,"payload":` of the events of a table, whose topic has this name.
pub(super) fn envelope(out: &mut Vec<u8>, topic: &str, columns: &[ColumnPlan], key: &Key) {
    out.extend_from_slice(b"{\"schema\":");
    structure(out, |fields| {
        for field in ["before", "after"] {
            fields.add(field, |out| {
                let value = format!("{topic}.Value");
                structure(out, |fields| of_columns(fields, columns.iter().enumerate(), key));
                named(out, OPTIONAL, &value, None);
            });
        }
        fields.add("source", source);
        fields.add("transaction", |out| {
            structure(out, |fields| {
                fields.scalar("id", "string", REQUIRED);
                fields.scalar("total_order", "int64", REQUIRED);
                fields.scalar("data_collection_order", "int64", REQUIRED);
            });
            named(out, OPTIONAL, "event.block", Some(1));
        });
        fields.scalar("op", "string", REQUIRED);
        for field in ["ts_ms", "ts_us", "ts_ns"] {
            fields.scalar(field, "int64", OPTIONAL);
        }
    });
    named(out, REQUIRED, &format!("{topic}.Envelope"), Some(2));
    out.extend_from_slice(b"},\"payload\":");
}

/// The same of their keys.
pub(super) fn key(out: &mut Vec<u8>, topic: &str, columns: &[ColumnPlan], key: &Key) {
    out.extend_from_slice(b"{\"schema\":");
    structure(out, |fields| of_columns(fields, columns.iter().enumerate().filter(|(index, _)| key.has(*index)), key));
    named(out, REQUIRED, &format!("{topic}.Key"), None);
    out.extend_from_slice(b"},\"payload\":");
}

/// The stream says of no other column than those of the key that they are never null.
fn of_columns<'a>(fields: &mut Fields<'_>, columns: impl Iterator<Item = (usize, &'a ColumnPlan)>, key: &Key) {
    for (index, column) in columns {
        fields.add_quoted(column.label.quoted(), |out| value(out, &column.kind, !key.has(index)));
    }
}

fn source(out: &mut Vec<u8>) {
    structure(out, |fields| {
        for field in ["version", "connector", "name"] {
            fields.scalar(field, "string", REQUIRED);
        }
        fields.scalar("ts_ms", "int64", REQUIRED);
        fields.add("snapshot", |out| {
            open(out, "string", OPTIONAL);
            out.extend_from_slice(
                br#","name":"io.debezium.data.Enum","version":1,"parameters":{"allowed":"true,first,first_in_data_collection,last_in_data_collection,last,false,incremental"},"default":"false""#,
            );
        });
        fields.scalar("db", "string", REQUIRED);
        fields.scalar("sequence", "string", OPTIONAL);
        fields.scalar("ts_us", "int64", OPTIONAL);
        fields.scalar("ts_ns", "int64", OPTIONAL);
        fields.scalar("schema", "string", REQUIRED);
        fields.scalar("table", "string", REQUIRED);
        for field in ["txId", "lsn", "xmin"] {
            fields.scalar(field, "int64", OPTIONAL);
        }
    });
    named(out, REQUIRED, "io.debezium.connector.postgresql.Source", Some(1));
}

/// The schema of a column's values, without its closing brace.
fn value(out: &mut Vec<u8>, kind: &Kind, is_optional: bool) {
    if let Kind::Array { element, .. } = kind {
        out.extend_from_slice(b"{\"type\":\"array\",\"items\":");
        value(out, element, OPTIONAL);
        out.extend_from_slice(b"},\"optional\":");
        return out.extend_from_slice(if is_optional { b"true" } else { b"false" });
    }
    let (literal, semantic) = kind.schema();
    open(out, literal, is_optional);
    if let Some(semantic) = semantic {
        out.extend_from_slice(b",\"name\":");
        json_string(out, semantic.as_bytes());
        out.extend_from_slice(b",\"version\":1");
    }
    if let Kind::Bits { length } = kind {
        out.extend_from_slice(format!(",\"parameters\":{{\"length\":\"{length}\"}}").as_bytes());
    }
}

fn open(out: &mut Vec<u8>, literal: &str, is_optional: bool) {
    out.extend_from_slice(format!("{{\"type\":\"{literal}\",\"optional\":{is_optional}").as_bytes());
}

/// `{"type":"struct","fields":[…]`
fn structure(out: &mut Vec<u8>, fields: impl FnOnce(&mut Fields<'_>)) {
    out.extend_from_slice(b"{\"type\":\"struct\",\"fields\":[");
    fields(&mut Fields { out, is_first: true });
    out.push(b']');
}

/// `,"optional":…,"name":…,"version":…`
fn named(out: &mut Vec<u8>, is_optional: bool, name: &str, version: Option<u32>) {
    out.extend_from_slice(format!(",\"optional\":{is_optional},\"name\":").as_bytes());
    json_string(out, name.as_bytes());
    if let Some(version) = version {
        out.extend_from_slice(format!(",\"version\":{version}").as_bytes());
    }
}

/// The fields of a structure, one after the other.
struct Fields<'o> {
    out: &'o mut Vec<u8>,
    is_first: bool,
}

impl Fields<'_> {
    /// `schema` writes one without its closing brace.
    fn add(&mut self, field: &str, schema: impl FnOnce(&mut Vec<u8>)) {
        self.add_quoted(format!("\"{field}\"").as_bytes(), schema);
    }

    fn add_quoted(&mut self, field: &[u8], schema: impl FnOnce(&mut Vec<u8>)) {
        if !std::mem::take(&mut self.is_first) {
            self.out.push(b',');
        }
        schema(self.out);
        self.out.extend_from_slice(b",\"field\":");
        self.out.extend_from_slice(field);
        self.out.push(b'}');
    }

    fn scalar(&mut self, field: &str, literal: &str, is_optional: bool) {
        self.add(field, |out| open(out, literal, is_optional));
    }
}

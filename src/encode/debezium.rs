//! Debezium's change event, as its connector for PostgreSQL and Kafka Connect's JSON converter write it.
//!
//! Sources: `documentation/modules/ROOT/pages/connectors/postgresql.adoc` of <https://github.com/debezium/debezium> (3.x), and
//! the JSON converter of Kafka Connect for what a schema looks like. `values` has the forms of the values, `schema` their schemas.
//!
//! What differs, because an event must be the same at each delivery, or because the stream does not say it, is in
//! `docs/formats/debezium.md`.

mod instant;
mod schema;
pub(super) mod values;

use super::message::Event;
use super::row::{self, Key};
use super::text::{Label, integer, json_string};
use super::time::unix_micros;
use crate::change::{Change, Old, Row};
use crate::postgres::pgoutput::{Tuple, Value};
use crate::postgres::relation::Relation;
use crate::postgres::types::Types;
use values::Kind;

/// What all events of one version of a table have in common.
#[derive(Debug)]
pub struct DebeziumPlan {
    /// `{"schema":…,"payload":`, or nothing.
    opening: Vec<u8>,
    columns: Vec<ColumnPlan>,
    /// `"source":{…,"ts_ms":`
    source: Vec<u8>,
    /// `,"snapshot":…,"sequence":`
    database: Vec<u8>,
    /// `,"schema":…,"txId":`
    table: Vec<u8>,
    key: Key,
    /// As `opening`.
    key_opening: Vec<u8>,
}

/// The literal and the semantic type of a column, or of the elements that its arrays have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// One value.
    Scalar(&'static str, Option<&'static str>),
    /// Any number of them.
    Array(&'static str, Option<&'static str>),
}

#[derive(Debug)]
struct ColumnPlan {
    label: Label,
    kind: Kind,
    /// Part of the replica identity.
    key: bool,
}

impl DebeziumPlan {
    /// The plan for a table of this database, by the pipeline of this name.
    #[must_use]
    pub fn new(with_schema: bool, name: &str, database: &str, relation: &Relation, types: &Types) -> Self {
        let columns: Vec<_> = relation
            .columns
            .iter()
            .map(|column| ColumnPlan {
                label: Label::new(&column.name),
                kind: Kind::of(types, column.type_oid, column.type_modifier),
                key: column.key,
            })
            .collect();
        let key = Key::of(relation);
        let (mut opening, mut key_opening) = (Vec::new(), Vec::new());
        if with_schema {
            schema::envelope(&mut opening, &format!("{name}.{relation}"), &columns, &key);
            schema::key(&mut key_opening, &format!("{name}.{relation}"), &columns, &key);
        }
        let mut source = b"\"source\":{\"version\":\"pgsluice\",\"connector\":\"postgresql\",\"name\":".to_vec();
        json_string(&mut source, name.as_bytes());
        source.extend_from_slice(b",\"ts_ms\":");
        let mut of_database = b",\"snapshot\":\"false\",\"db\":".to_vec();
        json_string(&mut of_database, database.as_bytes());
        of_database.extend_from_slice(b",\"sequence\":\"[null,\\\"");
        let mut table = b",\"schema\":".to_vec();
        json_string(&mut table, relation.schema.as_bytes());
        table.extend_from_slice(b",\"table\":");
        json_string(&mut table, relation.name.as_bytes());
        table.extend_from_slice(b",\"txId\":");
        Self { opening, columns, source, database: of_database, table, key, key_opening }
    }

    /// The types of the columns, in their order.
    pub fn column_types(&self) -> impl Iterator<Item = ColumnType> {
        self.columns.iter().map(|column| match &column.kind {
            Kind::Array { element, .. } => {
                let (literal, semantic) = element.schema();
                ColumnType::Array(literal, semantic)
            }
            kind => {
                let (literal, semantic) = kind.schema();
                ColumnType::Scalar(literal, semantic)
            }
        })
    }

    /// Whether an event has its schema beside it.
    #[must_use]
    pub fn with_schema(&self) -> bool {
        !self.opening.is_empty()
    }

    /// How a column's values are encoded.
    pub(super) fn kind(&self, column: usize) -> Option<&Kind> {
        self.columns.get(column).map(|column| &column.kind)
    }

    /// Makes the event of a change: its body, and the header `key`, which has what is the key of a Kafka record.
    pub fn make(&self, event: &mut Event, change: &Change<'_>) {
        let out = &mut event.body;
        out.extend_from_slice(&self.opening);
        let (op, old, new) = match change.row {
            Row::Insert { new } => ("c", None, Some(new)),
            Row::Update { old, new } => ("u", old, Some(new)),
            Row::Delete { old } => ("d", Some(old), None),
            Row::Truncate { .. } => ("t", None, None),
        };
        out.extend_from_slice(b"{\"before\":");
        match old {
            Some(old) => self.before(out, old),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"after\":");
        match new {
            Some(new) => self.after(out, old, new),
            None => out.extend_from_slice(b"null"),
        }
        out.push(b',');
        self.origin(out, change);
        out.extend_from_slice(b",\"transaction\":null,\"op\":\"");
        out.extend_from_slice(op.as_bytes());
        out.extend_from_slice(b"\",\"ts_ms\":");
        let committed_at = unix_micros(change.transaction.committed_at);
        integer(out, committed_at.div_euclid(1_000));
        finer(out, committed_at);
        out.push(b'}');
        if !self.opening.is_empty() {
            out.push(b'}');
        }
        if !self.key.is_empty() && !matches!(change.row, Row::Truncate { .. }) {
            event.headers.push_with("key", |out| self.key(out, change.row));
        }
    }

    /// What is known of the row before.
    fn before(&self, out: &mut Vec<u8>, old: Old<'_>) {
        let values = self.columns.iter().zip(old.tuple().iter());
        object(out, values.filter(|(column, _)| row::is_known(old, column.key)));
    }

    fn after(&self, out: &mut Vec<u8>, old: Option<Old<'_>>, new: Tuple<'_>) {
        let is_key = |column: usize| self.columns.get(column).is_some_and(|column| column.key);
        object(out, self.columns.iter().zip(row::completed(old, new, is_key)));
    }

    fn key(&self, out: &mut Vec<u8>, row: Row<'_>) {
        out.extend_from_slice(&self.key_opening);
        object(out, self.key.values(row).filter_map(|(index, value)| Some((self.columns.get(index)?, value))));
        if !self.key_opening.is_empty() {
            out.push(b'}');
        }
    }

    /// `"source":{…}`. Its LSN is that of the commit: a change has no other that is the same at each delivery.
    fn origin(&self, out: &mut Vec<u8>, change: &Change<'_>) {
        let committed_at = unix_micros(change.transaction.committed_at);
        let lsn = change.position.commit_lsn.0;
        out.extend_from_slice(&self.source);
        integer(out, committed_at.div_euclid(1_000));
        out.extend_from_slice(&self.database);
        integer(out, lsn);
        out.extend_from_slice(b"\\\"]\"");
        finer(out, committed_at);
        out.extend_from_slice(&self.table);
        integer(out, change.transaction.xid);
        out.extend_from_slice(b",\"lsn\":");
        integer(out, lsn);
        out.extend_from_slice(b",\"xmin\":null}");
    }
}

/// `ts_us` and `ts_ns`
fn finer(out: &mut Vec<u8>, micros: i64) {
    out.extend_from_slice(b",\"ts_us\":");
    integer(out, micros);
    out.extend_from_slice(b",\"ts_ns\":");
    integer(out, micros.saturating_mul(1_000));
}

fn object<'a>(out: &mut Vec<u8>, values: impl Iterator<Item = (&'a ColumnPlan, Value<'a>)>) {
    out.push(b'{');
    for (index, (column, value)) in values.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(column.label.bytes());
        column.kind.json(out, value);
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests;

//! The row event: one change of one table, as JSON.
//!
//! ```json
//! {"id":"shop:16/B374D848:3","op":"update","schema":"public","table":"orders","schema_version":"055557a359c75ed7","identity":"default","key":["id"],
//!  "commit_lsn":"16/B374D848","ordinal":3,"xid":731,"committed_at":"2026-11-21T02:37:00.123456Z",
//!  "before":null,"after":{"id":7,"status":"paid","total":"19.90"},"unchanged":["invoice"],
//!  "before_columns":null,"changed":null}
//! ```
//!
//! Every event has every field, in this order, on one line, except where a row says otherwise.
//!
//! | field | |
//! |---|---|
//! | `id` | `<pipeline>:<commit_lsn>:<ordinal>`: names the event, the same at every re-delivery |
//! | `op` | `insert`, `update`, `delete`, `truncate` |
//! | `schema`, `table` | unquoted |
//! | `schema_version` | names what a row is made of, see [`Relation::version`] |
//! | `identity` | the table's replica identity: `default`, `full`, `index`, `nothing` |
//! | `key` | the columns by which it names a row; empty with `full` (the whole row does) and `nothing` |
//! | `commit_lsn`, `ordinal` | the position: it rises with the stream. The ordinal counts the transaction's changes from 0, before any filter, so it has holes |
//! | `xid` | the transaction's id, 32 bits |
//! | `committed_at` | RFC 3339, UTC, microseconds |
//! | `before` | the row before: an object, or null (see below) |
//! | `after` | the row: an object; null for `delete` and `truncate` |
//! | `unchanged` | names the columns that `after` lacks because an update did not touch them and the server did not send them (TOAST) |
//! | `before_columns` | which columns `before` has: `key` or `all`; null when `before` is |
//! | `changed` | names the columns whose value an update changed, where the whole old row is known (`full`); else null |
//! | `cascade`, `restart_identity` | booleans, for `truncate` only |
//!
//! **`before`** is what the replica identity lets the server say. With `full`, an update and a delete have
//! the whole row. Otherwise a delete, and an update that changes the key, have the key's columns and no other (those are left out,
//! not null), and an update that leaves the key alone has null. An insert and a truncate have null.
//!
//! **`changed`** compares PostgreSQL's texts of the two rows; a value that was not sent is the same.
//!
//! **TOAST.** A large value that an update did not touch is not in the stream. When the old row has it (`full`, or a
//! key column), `after` is completed from there. Else the column is left out of `after` and listed in `unchanged`;
//! there is never a placeholder.
//!
//! **Values** are made from PostgreSQL's text output, with the settings that the replication session pins
//! (`DateStyle=ISO`, `IntervalStyle=iso_8601`, `TimeZone=UTC`, `extra_float_digits=1`, `bytea_output=hex`, `lc_monetary=C`);
//! `docs/types.md` has the JSON of every type.
//!
//! A [`RowPlan`] holds what does not depend on the row; it is built when `transaction` reports a relation.
//! Invariant: no allocation but the growth of `out` (and for escaped texts within arrays and composites), and valid JSON whatever
//! the values, as far as those of `json` are.

use super::text::{json_escaped, json_string, lsn};
use super::time::rfc3339;
use super::values::{Kind, Kinds, json_base64, json_value};
use crate::change::{Change, Old, Row};
use crate::postgres::pgoutput::{Tuple, Value};
use crate::postgres::relation::{Relation, ReplicaIdentity};
use crate::postgres::types::Types;

/// What all events of one version of a table have in common. Rebuild it when the relation changes.
#[derive(Debug, Clone)]
pub struct RowPlan {
    /// `"schema":…,"table":…,"schema_version":…,"identity":…,"key":[…]`
    table: Vec<u8>,
    columns: Vec<ColumnPlan>,
}

#[derive(Debug, Clone)]
struct ColumnPlan {
    /// `"name":`
    label: Vec<u8>,
    kind: Kind,
    key: bool,
}

impl ColumnPlan {
    /// `"name"`
    fn name(&self) -> &[u8] {
        self.label.strip_suffix(b":").unwrap_or(&self.label)
    }
}

impl RowPlan {
    /// The plan for a table, whose columns' types are of these kinds.
    #[must_use]
    pub fn new(relation: &Relation, kinds: Kinds<'_>) -> Self {
        let columns: Vec<_> = relation
            .columns
            .iter()
            .map(|column| {
                let mut label = Vec::with_capacity(column.name.len() + 3);
                json_string(&mut label, column.name.as_bytes());
                label.push(b':');
                ColumnPlan { label, kind: kinds.of(column.type_oid), key: column.key }
            })
            .collect();
        Self { table: table(relation, kinds.types, &columns), columns }
    }

    /// How a column's values are encoded.
    #[must_use]
    pub fn kind(&self, column: usize) -> Option<&Kind> {
        self.columns.get(column).map(|column| &column.kind)
    }
}

fn table(relation: &Relation, types: &Types, columns: &[ColumnPlan]) -> Vec<u8> {
    let mut out = b"\"schema\":".to_vec();
    json_string(&mut out, relation.schema.as_bytes());
    out.extend_from_slice(b",\"table\":");
    json_string(&mut out, relation.name.as_bytes());
    out.extend_from_slice(b",\"schema_version\":\"");
    out.extend_from_slice(relation.version(types).as_bytes());
    out.extend_from_slice(b"\",\"identity\":\"");
    out.extend_from_slice(relation.identity.name().as_bytes());
    out.extend_from_slice(b"\",\"key\":");
    // With FULL the server marks every column as key, which says nothing.
    let names = relation.identity != ReplicaIdentity::Full;
    list(&mut out, columns.iter().filter(|column| names && column.key).map(ColumnPlan::name));
    out
}

/// Appends the event of a change to `out`. `name` is the pipeline's; `plan` was built from `change.relation`.
pub fn row_event(out: &mut Vec<u8>, plan: &RowPlan, name: &str, change: &Change<'_>) {
    let position = change.position;
    out.extend_from_slice(b"{\"id\":\"");
    json_escaped(out, name);
    out.push(b':');
    lsn(out, position.commit_lsn);
    out.push(b':');
    integer(out, position.ordinal);
    out.extend_from_slice(b"\",\"op\":\"");
    out.extend_from_slice(change.row.op().as_bytes());
    out.extend_from_slice(b"\",");
    out.extend_from_slice(&plan.table);
    out.extend_from_slice(b",\"commit_lsn\":\"");
    lsn(out, position.commit_lsn);
    out.extend_from_slice(b"\",\"ordinal\":");
    integer(out, position.ordinal);
    out.extend_from_slice(b",\"xid\":");
    integer(out, change.transaction.xid);
    out.extend_from_slice(b",\"committed_at\":\"");
    rfc3339(out, change.transaction.committed_at);
    out.push(b'"');
    match change.row {
        Row::Insert { new } => images(out, plan, None, Some(new)),
        Row::Update { old, new } => images(out, plan, old, Some(new)),
        Row::Delete { old } => images(out, plan, Some(old), None),
        Row::Truncate { cascade, restart_identity } => {
            images(out, plan, None, None);
            out.extend_from_slice(b",\"cascade\":");
            boolean(out, cascade);
            out.extend_from_slice(b",\"restart_identity\":");
            boolean(out, restart_identity);
        }
    }
    out.push(b'}');
}

/// `before`, `after`, `unchanged`, `before_columns` and `changed`.
fn images(out: &mut Vec<u8>, plan: &RowPlan, old: Option<Old<'_>>, new: Option<Tuple<'_>>) {
    out.extend_from_slice(b",\"before\":");
    match old {
        Some(old) => before(out, plan, old),
        None => out.extend_from_slice(b"null"),
    }
    match new {
        Some(new) => after(out, plan, old, new),
        None => out.extend_from_slice(b",\"after\":null,\"unchanged\":[]"),
    }
    out.extend_from_slice(b",\"before_columns\":");
    out.extend_from_slice(match old {
        Some(Old::Full(_)) => b"\"all\"",
        Some(Old::Key(_)) => b"\"key\"",
        None => b"null",
    });
    out.extend_from_slice(b",\"changed\":");
    match (old, new) {
        (Some(Old::Full(old)), Some(new)) => {
            let pairs = plan.columns.iter().zip(old.iter().zip(new.iter()));
            let changed = pairs.filter(|(_, (old, new))| *new != Value::Unchanged && old != new);
            list(out, changed.map(|(column, _)| column.name()));
        }
        (Some(Old::Key(_)) | None, Some(_)) | (_, None) => out.extend_from_slice(b"null"),
    }
}

fn before(out: &mut Vec<u8>, plan: &RowPlan, old: Old<'_>) {
    let mut object = Object::start(out);
    for (column, value) in plan.columns.iter().zip(old.tuple().iter()) {
        if known(old, column) {
            object.member(column, value);
        }
    }
    object.end();
}

/// `after` and `unchanged`.
fn after(out: &mut Vec<u8>, plan: &RowPlan, old: Option<Old<'_>>, new: Tuple<'_>) {
    let mut missing = false;
    out.extend_from_slice(b",\"after\":");
    let mut object = Object::start(out);
    for (column, value) in completed(plan, old, new) {
        missing |= !object.member(column, value);
    }
    object.end();
    out.extend_from_slice(b",\"unchanged\":");
    if missing {
        let missing = completed(plan, old, new).filter(|(_, value)| *value == Value::Unchanged);
        list(out, missing.map(|(column, _)| column.name()));
    } else {
        out.extend_from_slice(b"[]");
    }
}

/// The new row's values; those that an update left alone come from the old row, where it has them.
fn completed<'a>(
    plan: &'a RowPlan,
    old: Option<Old<'a>>,
    new: Tuple<'a>,
) -> impl Iterator<Item = (&'a ColumnPlan, Value<'a>)> {
    let mut before = old.map(|old| (old, old.tuple().iter()));
    plan.columns.iter().zip(new.iter()).map(move |(column, value)| {
        // Both iterators go in step, so the old one moves whether it is needed or not.
        let known = before.as_mut().and_then(|(old, values)| values.next().filter(|_| known(*old, column)));
        let value = match value {
            Value::Unchanged => known.unwrap_or(Value::Unchanged),
            Value::Null | Value::Text(_) | Value::Binary(_) => value,
        };
        (column, value)
    })
}

/// Whether the old row's value of this column means anything: a key tuple has null for all but the key.
fn known(old: Old<'_>, column: &ColumnPlan) -> bool {
    match old {
        Old::Full(_) => true,
        Old::Key(_) => column.key,
    }
}

/// A JSON object under construction.
struct Object<'o> {
    out: &'o mut Vec<u8>,
    empty: bool,
}

impl<'o> Object<'o> {
    fn start(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    /// False when there is no value to write.
    fn member(&mut self, column: &ColumnPlan, value: Value<'_>) -> bool {
        if value == Value::Unchanged {
            return false;
        }
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.out.extend_from_slice(&column.label);
        match value {
            Value::Null | Value::Unchanged => self.out.extend_from_slice(b"null"),
            Value::Text(text) => json_value(self.out, &column.kind, text),
            Value::Binary(bytes) => json_base64(self.out, bytes),
        }
        true
    }

    fn end(self) {
        self.out.push(b'}');
    }
}

/// Appends an array of strings that are escaped already.
pub(super) fn list<'a>(out: &mut Vec<u8>, names: impl Iterator<Item = &'a [u8]>) {
    out.push(b'[');
    for (index, name) in names.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name);
    }
    out.push(b']');
}

pub(super) fn integer(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn boolean(out: &mut Vec<u8>, value: bool) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

#[cfg(test)]
mod tests;

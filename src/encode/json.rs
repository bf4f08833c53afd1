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

use super::row;
use super::text::{Label, boolean, integer, json_escaped, json_string, list, lsn};
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
    label: Label,
    kind: Kind,
    key: bool,
}

impl RowPlan {
    /// The plan for a table, whose columns' types are of these kinds.
    #[must_use]
    pub fn new(relation: &Relation, kinds: Kinds<'_>) -> Self {
        let columns: Vec<_> = relation
            .columns
            .iter()
            .map(|column| ColumnPlan {
                label: Label::new(&column.name),
                kind: kinds.of(column.type_oid),
                key: column.key,
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
    let key = columns.iter().filter(|column| names && column.key);
    list(&mut out, key.map(|column| column.label.quoted()));
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

/// Appends the row alone: as it is after the change, where there is an after; null for a truncate.
pub fn row_alone(out: &mut Vec<u8>, plan: &RowPlan, row: Row<'_>) {
    match row {
        Row::Insert { new } => _ = object(out, completed(plan, None, new)),
        Row::Update { old, new } => _ = object(out, completed(plan, old, new)),
        Row::Delete { old } => before(out, plan, old),
        Row::Truncate { .. } => out.extend_from_slice(b"null"),
    }
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
            list(out, changed.map(|(column, _)| column.label.quoted()));
        }
        (Some(Old::Key(_)) | None, Some(_)) | (_, None) => out.extend_from_slice(b"null"),
    }
}

fn before(out: &mut Vec<u8>, plan: &RowPlan, old: Old<'_>) {
    let values = plan.columns.iter().zip(old.tuple().iter());
    object(out, values.filter(|(column, _)| row::is_known(old, column.key)));
}

/// `after` and `unchanged`.
fn after(out: &mut Vec<u8>, plan: &RowPlan, old: Option<Old<'_>>, new: Tuple<'_>) {
    out.extend_from_slice(b",\"after\":");
    let missing = !match old {
        // Most rows have nothing to be completed from. Of a wide one, this is a twentieth of all that it costs.
        None => object(out, plan.columns.iter().zip(new.iter())),
        Some(_) => object(out, completed(plan, old, new)),
    };
    out.extend_from_slice(b",\"unchanged\":");
    if missing {
        let missing = completed(plan, old, new).filter(|(_, value)| *value == Value::Unchanged);
        list(out, missing.map(|(column, _)| column.label.quoted()));
    } else {
        out.extend_from_slice(b"[]");
    }
}

fn completed<'a>(
    plan: &'a RowPlan,
    old: Option<Old<'a>>,
    new: Tuple<'a>,
) -> impl Iterator<Item = (&'a ColumnPlan, Value<'a>)> {
    let is_key = |column: usize| plan.columns.get(column).is_some_and(|column| column.key);
    plan.columns.iter().zip(row::completed(old, new, is_key))
}

/// False when there was no value for some column.
fn object<'a>(out: &mut Vec<u8>, values: impl Iterator<Item = (&'a ColumnPlan, Value<'a>)>) -> bool {
    let (mut whole, mut empty) = (true, true);
    out.push(b'{');
    for (column, value) in values {
        if value == Value::Unchanged {
            whole = false;
            continue;
        }
        if !std::mem::take(&mut empty) {
            out.push(b',');
        }
        out.extend_from_slice(column.label.bytes());
        match value {
            Value::Null | Value::Unchanged => out.extend_from_slice(b"null"),
            Value::Text(text) => json_value(out, &column.kind, text),
            Value::Binary(bytes) => json_base64(out, bytes),
        }
    }
    out.push(b'}');
    whole
}

#[cfg(test)]
mod tests;

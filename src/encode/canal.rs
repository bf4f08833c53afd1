//! Canal's flat message (`com.alibaba.otter.canal.protocol.FlatMessage` of <https://github.com/alibaba/canal>), of one row.
//!
//! ```json
//! {"id":97509464136,"database":"public","table":"orders","pkNames":["id"],"isDdl":false,"type":"UPDATE",
//!  "es":1795228620123,"ts":1795228620123,"sql":"","sqlType":{"id":-5,"status":12},"mysqlType":{"id":"int8","status":"text"},
//!  "data":[{"id":"7","status":"paid"}],"old":[{"status":"new"}]}
//! ```
//!
//! Values are strings with PostgreSQL's text, but for those that Canal's own consumers read otherwise: a boolean is `1` or `0`,
//! and bytes are characters of ISO 8859-1. `docs/formats/canal.md` says what each field is.

use std::fmt::Write as _;

use super::row::{self, Key};
use super::text::{Label, integer, json_escaped, json_string, list};
use super::time::unix_micros;
use super::values::{each_byte, json_base64};
use crate::change::{Change, Old, Row};
use crate::postgres::pgoutput::{Tuple, Value};
use crate::postgres::relation::Relation;
use crate::postgres::types::{Form, Types};

/// What all events of one version of a table have in common.
#[derive(Debug)]
pub struct CanalPlan {
    /// `,"database":…,"table":…,"pkNames":[…],"isDdl":`
    table: Vec<u8>,
    /// `,"sqlType":{…},"mysqlType":{…},"data":`
    types: Vec<u8>,
    /// `TRUNCATE TABLE …`, as a JSON string.
    truncate: Vec<u8>,
    columns: Vec<ColumnPlan>,
}

#[derive(Debug)]
struct ColumnPlan {
    label: Label,
    kind: Kind,
    /// Part of the replica identity.
    key: bool,
}

/// How the text of a type becomes a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Bool,
    Bytea,
}

impl CanalPlan {
    /// The plan for a table.
    #[must_use]
    pub fn new(relation: &Relation, types: &Types) -> Self {
        let columns: Vec<_> = relation
            .columns
            .iter()
            .map(|column| ColumnPlan {
                label: Label::new(&column.name),
                kind: match types.base(column.type_oid) {
                    16 => Kind::Bool,
                    17 => Kind::Bytea,
                    _ => Kind::Text,
                },
                key: column.key,
            })
            .collect();
        let key = Key::of(relation);
        let mut table = b",\"database\":".to_vec();
        json_string(&mut table, relation.schema.as_bytes());
        table.extend_from_slice(b",\"table\":");
        json_string(&mut table, relation.name.as_bytes());
        table.extend_from_slice(b",\"pkNames\":");
        let named = columns.iter().enumerate().filter(|(index, _)| key.has(*index));
        list(&mut table, named.map(|(_, column)| column.label.quoted()));
        table.extend_from_slice(b",\"isDdl\":");
        let mut of_types = Vec::new();
        for (field, is_number) in [(&b",\"sqlType\":{"[..], true), (b"},\"mysqlType\":{", false)] {
            of_types.extend_from_slice(field);
            for (index, (column, plan)) in relation.columns.iter().zip(&columns).enumerate() {
                if index > 0 {
                    of_types.push(b',');
                }
                of_types.extend_from_slice(plan.label.bytes());
                if is_number {
                    integer(&mut of_types, sql_type(types, column.type_oid));
                } else {
                    json_string(&mut of_types, type_name(types, column.type_oid, column.type_modifier).as_bytes());
                }
            }
        }
        of_types.extend_from_slice(b"},\"data\":");
        let quoted = |name: &str| name.replace('"', "\"\"");
        let sql = format!("TRUNCATE TABLE \"{}\".\"{}\"", quoted(&relation.schema), quoted(&relation.name));
        let mut truncate = Vec::new();
        json_string(&mut truncate, sql.as_bytes());
        Self { table, types: of_types, truncate, columns }
    }

    /// Appends the message of a change.
    pub fn message(&self, out: &mut Vec<u8>, change: &Change<'_>) {
        let (name, is_ddl) = match change.row {
            Row::Insert { .. } => ("INSERT", false),
            Row::Update { .. } => ("UPDATE", false),
            Row::Delete { .. } => ("DELETE", false),
            Row::Truncate { .. } => ("TRUNCATE", true),
        };
        out.extend_from_slice(b"{\"id\":");
        integer(out, change.position.commit_lsn.0);
        out.extend_from_slice(&self.table);
        out.extend_from_slice(if is_ddl { b"true" } else { b"false" });
        out.extend_from_slice(b",\"type\":\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\",\"es\":");
        let committed_at_ms = unix_micros(change.transaction.committed_at).div_euclid(1_000);
        integer(out, committed_at_ms);
        out.extend_from_slice(b",\"ts\":");
        integer(out, committed_at_ms);
        out.extend_from_slice(b",\"sql\":");
        out.extend_from_slice(if is_ddl { &self.truncate } else { b"\"\"" });
        out.extend_from_slice(&self.types);
        match change.row {
            Row::Insert { new } => self.images(out, None, new),
            Row::Update { old, new } => self.images(out, old, new),
            Row::Delete { old } => {
                out.push(b'[');
                Self::object(out, self.known(old));
                out.extend_from_slice(b"],\"old\":null");
            }
            Row::Truncate { .. } => out.extend_from_slice(b"null,\"old\":null"),
        }
        out.push(b'}');
    }

    /// `data`, which is begun, and `old`: what was changed, as far as it is known.
    fn images(&self, out: &mut Vec<u8>, old: Option<Old<'_>>, new: Tuple<'_>) {
        let is_key = |column: usize| self.columns.get(column).is_some_and(|column| column.key);
        out.push(b'[');
        Self::object(out, self.columns.iter().zip(row::completed(old, new, is_key)));
        out.extend_from_slice(b"],\"old\":");
        let Some(old) = old else { return out.extend_from_slice(b"null") };
        let changed = self.known(old).zip(new.iter());
        let changed = changed.filter(|((_, before), new)| *new != Value::Unchanged && before != new);
        out.push(b'[');
        Self::object(out, changed.map(|(before, _)| before));
        out.push(b']');
    }

    /// The row before; what is not known of it counts as not sent.
    fn known<'a>(&'a self, old: Old<'a>) -> impl Iterator<Item = (&'a ColumnPlan, Value<'a>)> {
        self.columns
            .iter()
            .zip(old.tuple().iter())
            .map(move |(column, value)| (column, if row::is_known(old, column.key) { value } else { Value::Unchanged }))
    }

    /// Of those values that were sent.
    fn object<'a>(out: &mut Vec<u8>, values: impl Iterator<Item = (&'a ColumnPlan, Value<'a>)>) {
        out.push(b'{');
        let sent = values.filter(|(_, value)| *value != Value::Unchanged);
        for (index, (column, value)) in sent.enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(column.label.bytes());
            match value {
                Value::Null | Value::Unchanged => out.extend_from_slice(b"null"),
                Value::Binary(bytes) => json_base64(out, bytes),
                Value::Text(text) => column.kind.json(out, text),
            }
        }
        out.push(b'}');
    }

    /// How long a value's string is at the least.
    pub(super) fn bytes_min(&self, column: usize, value: Value<'_>) -> usize {
        match (value, self.columns.get(column).map(|column| column.kind)) {
            (Value::Null | Value::Unchanged, _) | (Value::Text(_), Some(Kind::Bool) | None) => 0,
            (Value::Text(text), Some(Kind::Bytea)) => text.len().saturating_sub(2) / 2,
            (Value::Text(bytes), Some(Kind::Text)) | (Value::Binary(bytes), _) => bytes.len(),
        }
    }
}

impl Kind {
    fn json(self, out: &mut Vec<u8>, text: &[u8]) {
        match (self, text) {
            (Self::Bool, b"t") => out.extend_from_slice(b"\"1\""),
            (Self::Bool, b"f") => out.extend_from_slice(b"\"0\""),
            (Self::Bytea, _) => {
                let start = out.len();
                out.push(b'"');
                // ISO 8859-1 is the first 256 characters of Unicode.
                let latin1 = each_byte(text, |byte| json_escaped(out, char::from(byte).encode_utf8(&mut [0; 2])));
                if latin1.is_none() {
                    out.truncate(start);
                    return json_string(out, text);
                }
                out.push(b'"');
            }
            (Self::Text | Self::Bool, _) => json_string(out, text),
        }
    }
}

/// The constant of `java.sql.Types` that PostgreSQL's own JDBC driver has for a type; for a domain, that of its base type.
fn sql_type(types: &Types, type_oid: u32) -> i32 {
    const OTHER: i32 = 1111;
    let base = types.base(type_oid);
    match types.form(base) {
        Form::Array { .. } => 2003,
        Form::Composite(_) => 2002,
        // Enums, and `citext`.
        Form::Text => 12,
        Form::Vector { .. } | Form::Range { .. } | Form::Multirange { .. } | Form::Hstore | Form::VersionedText => {
            OTHER
        }
        Form::Scalar | Form::Domain { .. } => match base {
            // BIT: bool, bit
            16 | 1560 => -7,
            // SMALLINT, INTEGER, BIGINT: int2; int4; int8, oid
            21 => 5,
            23 => 4,
            20 | 26 => -5,
            // REAL, DOUBLE: float4; float8, money
            700 => 7,
            701 | 790 => 8,
            // NUMERIC
            1700 => 2,
            // CHAR: "char", bpchar
            18 | 1042 => 1,
            // VARCHAR: name, text, varchar
            19 | 25 | 1043 => 12,
            // BINARY: bytea
            17 => -2,
            // DATE; TIME: time, timetz; TIMESTAMP: timestamp, timestamptz
            1082 => 91,
            1083 | 1266 => 92,
            1114 | 1184 => 93,
            // SQLXML
            142 => 2009,
            _ => OTHER,
        },
    }
}

/// As in `pg_type`, with its modifiers where they have a meaning: `numeric(12,2)`, `varchar(20)`, `int4[]`.
fn type_name(types: &Types, type_oid: u32, modifier: i32) -> String {
    let mut name = types.name(type_oid);
    let numbers = match types.base(type_oid) {
        _ if modifier < 0 => None,
        // `numeric_typmod_precision` and `numeric_typmod_scale` of numeric.c: the scale has 11 bits, and a sign.
        1700 => {
            let (precision, scale) = ((modifier - 4) >> 16 & 0xFFFF, (((modifier - 4) & 0x7FF) ^ 1024) - 1024);
            Some((precision, Some(scale)))
        }
        // bpchar, varchar
        1042 | 1043 => Some((modifier - 4, None)),
        // time, timestamp, timestamptz, timetz, bit, varbit
        1083 | 1114 | 1184 | 1266 | 1560 | 1562 => Some((modifier, None)),
        _ => None,
    };
    // Writing to a String can't fail.
    let _ = match numbers {
        None => Ok(()),
        Some((length, None)) => write!(name, "({length})"),
        Some((precision, Some(scale))) => write!(name, "({precision},{scale})"),
    };
    name
}

#[cfg(test)]
mod tests;

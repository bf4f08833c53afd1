//! A change as expressions see it, read in place: a column costs something once it is used.
//!
//! A value is what it is in an event's JSON (`docs/types.md`): a number, a string, true or false, null, a list, a map. A `numeric`
//! is a string, because CEL has no exact decimals: two that differ must not seem equal.

use cel::common::traits::{Container, Indexer};
use cel::common::types::{self, CelBool, CelDouble, CelInt, CelList, CelNull, CelString, Type};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::objects::Key;
use cel::{ExecutionError, Value as Cel};

use super::object::Object;
use super::{EvaluationError, Image};
use crate::change::{Change, Old, Row};
use crate::encode::text::json_string;
use crate::encode::values::{Kind, json_base64, json_value};
use crate::postgres::pgoutput::Value;
use crate::postgres::relation::Relation;

/// A column that a rule's expressions use.
#[derive(Debug, Clone)]
pub struct Used {
    /// Its name.
    pub name: String,
    /// Its index in every tuple.
    pub index: usize,
    /// How its text becomes JSON; a `numeric` is a string.
    pub kind: Kind,
    /// Whether the old row has it, whatever the update: it is of the replica identity.
    pub is_key: bool,
}

/// What the variables of expressions stand for.
#[derive(Debug)]
pub struct Variables<'a> {
    change: &'a Change<'a>,
    old: Option<Record<'a>>,
    new: Option<Record<'a>>,
}

impl<'a> Variables<'a> {
    /// Those of a change; `columns` are all that the expressions use.
    #[must_use]
    pub fn new(change: &'a Change<'a>, columns: &'a [Used]) -> Self {
        let record = |image| Record { image, row: &change.row, columns };
        let (has_old, has_new) = match change.row {
            Row::Insert { .. } => (false, true),
            Row::Update { .. } => (true, true),
            Row::Delete { .. } => (true, false),
            Row::Truncate { .. } => (false, false),
        };
        Self { change, old: has_old.then(|| record(Image::Old)), new: has_new.then(|| record(Image::New)) }
    }

    /// An update's, where the whole old row is known; empty for what is no update.
    fn changed(&self) -> Option<CelList<'a>> {
        let Relation { columns, .. } = self.change.relation;
        match self.change.row {
            Row::Update { old: Some(Old::Full(old)), new } => {
                let pairs = columns.iter().zip(old.iter().zip(new.iter()));
                let changed = pairs.filter(|(_, (old, new))| *new != Value::Unchanged && old != new);
                let names = changed.map(|(column, _)| boxed(CelString::from(column.name.as_str())));
                Some(names.collect::<Vec<_>>().into())
            }
            Row::Update { .. } => None,
            Row::Insert { .. } | Row::Delete { .. } | Row::Truncate { .. } => Some(Vec::new().into()),
        }
    }
}

impl VariableResolver for Variables<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let record = |record: &'b Option<Record<'_>>| match record {
            Some(record) => CowVal::Borrowed(record),
            None => CowVal::owned(CelNull),
        };
        Some(match variable {
            "new" => record(&self.new),
            "old" => record(&self.old),
            "op" => CowVal::owned(CelString::from(self.change.row.op())),
            "schema" => CowVal::owned(CelString::from(self.change.relation.schema.as_str())),
            "table" => CowVal::owned(CelString::from(self.change.relation.name.as_str())),
            "changed" => self.changed().map_or_else(|| CowVal::owned(CelNull), CowVal::owned),
            _ => return None,
        })
    }
}

/// One row, by the names of its columns.
#[derive(Debug, Clone)]
struct Record<'a> {
    image: Image,
    row: &'a Row<'a>,
    columns: &'a [Used],
}

impl<'a> Record<'a> {
    /// None: PostgreSQL did not send it.
    fn value(&self, name: &str) -> Option<(&'a Used, Value<'a>)> {
        let column = self.columns.iter().find(|column| column.name == name)?;
        let value = match self.image {
            Image::Old => self.row.old_value(column.index, column.is_key),
            Image::New => self.row.new_value(column.index, column.is_key),
        };
        Some((column, value?))
    }
}

impl Val for Record<'_> {
    fn get_type(&self) -> &Type {
        Self::cel_type()
    }

    fn cel_type() -> &'static Type {
        &types::MAP_TYPE
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(self.clone())
    }
}

impl Container for Record<'_> {
    fn contains(&self, name: &dyn Val) -> Result<bool, ExecutionError> {
        Ok(name.downcast_ref::<CelString<'_>>().is_some_and(|name| self.value(name.inner()).is_some()))
    }
}

impl Indexer for Record<'_> {
    fn get<'b, 'v>(&'b self, name: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let name = name.downcast_ref::<CelString<'_>>().map_or("", |name| name.inner());
        match self.value(name) {
            Some((column, value)) => Ok(CowVal::Owned(cel(&column.kind, value)?)),
            None => Err(ExecutionError::NoSuchKey(unknown(self.image, name).into())),
        }
    }

    fn steal<'v>(self: Box<Self>, name: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(name).map(CowVal::into_owned)
    }
}

const UNKNOWN: &str = ", which PostgreSQL did not send";

fn unknown(image: Image, name: &str) -> String {
    let why = match image {
        Image::Old => "it is not of the table's replica identity",
        Image::New => "it is large, and the update left it alone",
    };
    format!("{}.{name}{UNKNOWN}: {why}", image.name())
}

/// Whether it is not the key of some map, but a column.
pub(super) fn is_unknown(key: &str) -> bool {
    key.contains(UNKNOWN)
}

fn boxed<'v>(value: impl Val + 'v) -> Box<dyn Val + 'v> {
    Box::new(value)
}

/// A column's value.
fn cel<'a>(kind: &Kind, value: Value<'a>) -> Result<Box<dyn Val + 'a>, ExecutionError> {
    let text = match value {
        Value::Null | Value::Unchanged => return Ok(boxed(CelNull)),
        Value::Text(text) => text,
        Value::Binary(bytes) => {
            let mut json = Vec::new();
            json_base64(&mut json, bytes);
            return parsed(&json);
        }
    };
    let plain = std::str::from_utf8(text).ok();
    let scalar = plain.and_then(|text| match kind {
        Kind::Bool if text == "t" || text == "f" => Some(boxed(CelBool::from(text == "t"))),
        Kind::Integer => text.parse::<i64>().ok().map(|number| boxed(CelInt::from(number))),
        Kind::Number => text.parse::<f64>().ok().map(|number| boxed(CelDouble::from(number))),
        Kind::Text => Some(boxed(CelString::from(text))),
        _ => None,
    });
    if let Some(scalar) = scalar {
        return Ok(scalar);
    }
    let mut json = Vec::with_capacity(text.len() + 2);
    json_value(&mut json, kind, text);
    parsed(&json)
}

fn parsed(json: &[u8]) -> Result<Box<dyn Val>, ExecutionError> {
    // What is nested too deeply, or a number without end: PostgreSQL has checked the rest.
    let value = serde_json::from_slice(json).map_err(|_| ExecutionError::function_error("json", ""))?;
    Ok(of_json(value))
}

fn of_json(value: serde_json::Value) -> Box<dyn Val> {
    match value {
        serde_json::Value::Null => boxed(CelNull),
        serde_json::Value::Bool(value) => boxed(CelBool::from(value)),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(number) => boxed(CelInt::from(number)),
            None => boxed(CelDouble::from(number.as_f64().unwrap_or(f64::NAN))),
        },
        serde_json::Value::String(text) => boxed(CelString::from(text)),
        serde_json::Value::Array(values) => boxed(CelList::from(values.into_iter().map(of_json).collect::<Vec<_>>())),
        serde_json::Value::Object(fields) => boxed(Object::new(fields.into_iter().map(|(key, it)| (key, of_json(it))))),
    }
}

/// Appends the JSON of a computed value, the keys of a map in their order.
///
/// # Errors
/// It has no JSON: then what was appended is to be taken back.
pub(super) fn json(out: &mut Vec<u8>, value: &Cel) -> Result<(), EvaluationError> {
    let none = || EvaluationError(format!("its value is no JSON, but of type {}", value.type_of()));
    match value {
        Cel::Null => out.extend_from_slice(b"null"),
        Cel::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Cel::Int(number) => out.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes()),
        Cel::UInt(number) => out.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes()),
        // As those of a column.
        Cel::Float(number) if number.is_nan() => out.extend_from_slice(b"\"NaN\""),
        Cel::Float(number) if *number == f64::INFINITY => out.extend_from_slice(b"\"Infinity\""),
        Cel::Float(number) if *number == f64::NEG_INFINITY => out.extend_from_slice(b"\"-Infinity\""),
        Cel::Float(number) => serde_json::to_writer(out, number).map_err(|_| none())?,
        Cel::String(text) => json_string(out, text.as_bytes()),
        Cel::Bytes(bytes) => json_base64(out, bytes),
        Cel::List(values) => {
            out.push(b'[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                json(out, value)?;
            }
            out.push(b']');
        }
        Cel::Map(map) => {
            let mut fields: Vec<(String, &Cel)> = map.map.iter().map(|(key, value)| (key_text(key), value)).collect();
            fields.sort_unstable_by(|left, right| left.0.cmp(&right.0));
            // 1 and '1': which one comes first would be chance.
            if fields.windows(2).any(|pair| pair[0].0 == pair[1].0) {
                return Err(EvaluationError("two keys of a map are the same text".to_owned()));
            }
            out.push(b'{');
            for (index, (key, value)) in fields.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                json_string(out, key.as_bytes());
                out.push(b':');
                json(out, value)?;
            }
            out.push(b'}');
        }
        Cel::Function(..) | Cel::Opaque(_) | Cel::Struct(_) => return Err(none()),
    }
    Ok(())
}

fn key_text(key: &Key) -> String {
    match key {
        Key::Int(number) => number.to_string(),
        Key::Uint(number) => number.to_string(),
        Key::Bool(value) => value.to_string(),
        Key::String(text) => text.to_string(),
    }
}

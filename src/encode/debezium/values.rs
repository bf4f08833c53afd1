//! One value in the form that Debezium gives it by default, but for `decimal.handling.mode=string`: a `numeric` has every digit,
//! is readable without its schema, and may be `NaN`.
//!
//! Invariant: exactly one JSON value is appended, whatever the bytes; text that is not what its type writes becomes a string.

use super::super::text::{integer, json_string};
use super::super::values::{self, base64, each_element, hstore, json_base64, json_value};
use super::instant;
use crate::postgres::pgoutput::Value;
use crate::postgres::types::{Form, MAX_DEPTH, Types};

/// `unavailable.value.placeholder`: of a large value that an update left alone.
const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// How the text of a type becomes JSON.
#[derive(Debug, Clone)]
pub(in crate::encode) enum Kind {
    /// As in our own events: the scalars of JSON, and `bytea`.
    Same(values::Kind, &'static str),
    /// A string, with its semantic type.
    Text(Option<&'static str>),
    /// A string that holds a JSON object.
    Hstore,
    /// A string, digits alone.
    Money,
    /// `bit(1)`: a boolean.
    Bit,
    /// Bytes, the last bit in the first one.
    Bits {
        /// By the column's type.
        length: i32,
    },
    /// Days since 1970.
    Date,
    /// Since midnight.
    Time(Unit),
    /// Since 1970.
    Timestamp(Unit),
    /// A string, in UTC.
    ZonedTime,
    /// A string, in UTC.
    ZonedTimestamp,
    /// About so many microseconds.
    Interval,
    /// Elements in one dimension, whatever it has.
    Array {
        /// Of the elements.
        element: Box<Kind>,
        /// None: spaces.
        delimiter: Option<u8>,
    },
}

/// `time.precision.mode=adaptive`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::encode) enum Unit {
    Millis,
    Micros,
}

impl Unit {
    fn of(modifier: i32) -> Self {
        if (0..=3).contains(&modifier) { Self::Millis } else { Self::Micros }
    }

    fn whole(self, micros: i64) -> i64 {
        match self {
            Self::Millis => micros.div_euclid(1_000),
            Self::Micros => micros,
        }
    }
}

impl Kind {
    pub(super) fn of(types: &Types, type_oid: u32, modifier: i32) -> Self {
        Self::nested(types, type_oid, modifier, 0)
    }

    fn nested(types: &Types, type_oid: u32, modifier: i32, depth: usize) -> Self {
        let base = types.base(type_oid);
        let array = |element: u32, delimiter| match Self::nested(types, element, modifier, depth + 1) {
            // Of a domain over an array: a schema of several dimensions has no name.
            Self::Array { .. } => Self::Text(None),
            element => Self::Array { element: Box::new(element), delimiter },
        };
        match types.form(base) {
            _ if depth > MAX_DEPTH => Self::Text(None),
            Form::Array { element, delimiter } => array(element, Some(delimiter)),
            Form::Vector { element } => array(element, None),
            Form::Hstore => Self::Hstore,
            Form::VersionedText => Self::Text(Some("io.debezium.data.Ltree")),
            Form::Composite(_) | Form::Text | Form::Range { .. } | Form::Multirange { .. } => Self::Text(None),
            Form::Scalar | Form::Domain { .. } => Self::scalar(base, modifier),
        }
    }

    /// Oids of `pg_type.dat`.
    fn scalar(type_oid: u32, modifier: i32) -> Self {
        match type_oid {
            16 => Self::Same(values::Kind::Bool, "boolean"),
            21 => Self::Same(values::Kind::Integer, "int16"),
            23 => Self::Same(values::Kind::Integer, "int32"),
            // int8, oid
            20 | 26 => Self::Same(values::Kind::Integer, "int64"),
            700 => Self::Same(values::Kind::Number, "float"),
            701 => Self::Same(values::Kind::Number, "double"),
            17 => Self::Same(values::Kind::Bytea, "bytes"),
            790 => Self::Money,
            // bit, varbit
            1560 | 1562 if modifier == 1 => Self::Bit,
            1560 | 1562 => Self::Bits { length: if modifier < 0 { i32::MAX } else { modifier } },
            1082 => Self::Date,
            1083 => Self::Time(Unit::of(modifier)),
            1114 => Self::Timestamp(Unit::of(modifier)),
            1184 => Self::ZonedTimestamp,
            1266 => Self::ZonedTime,
            1186 => Self::Interval,
            // json, jsonb
            114 | 3802 => Self::Text(Some("io.debezium.data.Json")),
            142 => Self::Text(Some("io.debezium.data.Xml")),
            2950 => Self::Text(Some("io.debezium.data.Uuid")),
            3614 => Self::Text(Some("io.debezium.data.Tsvector")),
            _ => Self::Text(None),
        }
    }

    /// The literal type, and the semantic one; not of an array, which has none.
    pub(super) fn schema(&self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Same(_, literal) => (literal, None),
            Self::Text(semantic) => ("string", *semantic),
            Self::Hstore => ("string", Some("io.debezium.data.Json")),
            Self::Money => ("string", None),
            Self::Bit => ("boolean", None),
            Self::Bits { .. } => ("bytes", Some("io.debezium.data.Bits")),
            Self::Date => ("int32", Some("io.debezium.time.Date")),
            Self::Time(Unit::Millis) => ("int32", Some("io.debezium.time.Time")),
            Self::Time(Unit::Micros) => ("int64", Some("io.debezium.time.MicroTime")),
            Self::Timestamp(Unit::Millis) => ("int64", Some("io.debezium.time.Timestamp")),
            Self::Timestamp(Unit::Micros) => ("int64", Some("io.debezium.time.MicroTimestamp")),
            Self::ZonedTime => ("string", Some("io.debezium.time.ZonedTime")),
            Self::ZonedTimestamp => ("string", Some("io.debezium.time.ZonedTimestamp")),
            Self::Interval => ("int64", Some("io.debezium.time.MicroDuration")),
            Self::Array { .. } => ("array", None),
        }
    }

    /// Appends a value.
    pub(super) fn json(&self, out: &mut Vec<u8>, value: Value<'_>) {
        match value {
            Value::Null => out.extend_from_slice(b"null"),
            Value::Text(text) => self.text(out, text),
            Value::Binary(bytes) => json_base64(out, bytes),
            Value::Unchanged => self.unavailable(out),
        }
    }

    fn text(&self, out: &mut Vec<u8>, text: &[u8]) {
        let start = out.len();
        if self.form(out, text).is_none() {
            out.truncate(start);
            json_string(out, text);
        }
    }

    /// None when it is not what the type writes; then what was appended is to be taken back.
    fn form(&self, out: &mut Vec<u8>, text: &[u8]) -> Option<()> {
        let as_text = || std::str::from_utf8(text).ok();
        match self {
            Self::Same(kind, _) => json_value(out, kind, text),
            Self::Text(_) => return None,
            Self::Hstore => {
                let start = out.len();
                hstore(out, text)?;
                // A string within a string: the one form that needs a buffer of its own.
                let object = out.split_off(start);
                json_string(out, &object);
            }
            Self::Money => {
                let digits = text.iter().filter(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'.'));
                out.push(b'"');
                out.extend(digits);
                out.push(b'"');
            }
            Self::Bit => match text {
                b"0" => out.extend_from_slice(b"false"),
                b"1" => out.extend_from_slice(b"true"),
                _ => return None,
            },
            Self::Bits { .. } => bits(out, text)?,
            Self::Date => integer(out, instant::date(as_text()?)?),
            Self::Time(unit) => integer(out, unit.whole(instant::time(as_text()?)?)),
            Self::Timestamp(unit) => integer(out, unit.whole(instant::timestamp(as_text()?)?)),
            Self::Interval => integer(out, instant::interval(as_text()?)?),
            Self::ZonedTime => instant::zoned_time(out, as_text()?)?,
            Self::ZonedTimestamp => instant::zoned_timestamp(out, as_text()?)?,
            Self::Array { element, delimiter } => {
                out.push(b'[');
                let mut is_first = true;
                each_element(text, *delimiter, |text| {
                    if !std::mem::take(&mut is_first) {
                        out.push(b',');
                    }
                    match text {
                        Some(text) => element.text(out, text),
                        None => out.extend_from_slice(b"null"),
                    }
                })?;
                out.push(b']');
            }
        }
        Some(())
    }

    /// What stands for a large value that an update left alone, in the form of the type.
    fn unavailable(&self, out: &mut Vec<u8>) {
        match self {
            Self::Text(_) | Self::Money => json_string(out, UNAVAILABLE.as_bytes()),
            Self::Same(values::Kind::Bytea, _) | Self::Bits { .. } => json_base64(out, UNAVAILABLE.as_bytes()),
            Self::Hstore => {
                out.extend_from_slice(format!(r#""{{\"{UNAVAILABLE}\":\"{UNAVAILABLE}\"}}""#).as_bytes());
            }
            Self::Array { element, .. } => match &**element {
                Self::Text(_) | Self::Money | Self::Hstore | Self::Bits { .. } => {
                    out.push(b'[');
                    element.unavailable(out);
                    out.push(b']');
                }
                Self::Same(values::Kind::Bytea, _) => {
                    out.push(b'[');
                    json_base64(out, UNAVAILABLE.as_bytes());
                    out.push(b']');
                }
                Self::Same(values::Kind::Integer | values::Kind::Number, _) => numbers(out),
                element => element.unavailable(out),
            },
            // They are never so large; and an array of them has no placeholder that its schema would let pass.
            Self::Same(..)
            | Self::Bit
            | Self::Date
            | Self::Time(_)
            | Self::Timestamp(_)
            | Self::ZonedTime
            | Self::ZonedTimestamp
            | Self::Interval => out.extend_from_slice(b"null"),
        }
    }

    /// How long the JSON of a text is at the least.
    pub(in crate::encode) fn bytes_min(&self, text: &[u8]) -> usize {
        match self {
            Self::Text(_) => text.len(),
            // Two digits become a byte, and three of these four characters.
            Self::Same(values::Kind::Bytea, _) => text.len() / 3 * 2,
            Self::Array { element, .. } => match &**element {
                // There are no more quotes, braces and bounds around its elements than in JSON.
                Self::Text(_) | Self::Same(values::Kind::Bytea, _) => {
                    let bounds = text.iter().take_while(|byte| **byte != b'{').count();
                    text[bounds..].iter().filter(|byte| !matches!(byte, b'"' | b'\\' | b'{' | b'}')).count() / 3 * 2
                }
                _ => 0,
            },
            // Numbers and times are shorter, or may be.
            Self::Hstore
            | Self::Money
            | Self::Same(..)
            | Self::Bit
            | Self::Bits { .. }
            | Self::Date
            | Self::Time(_)
            | Self::Timestamp(_)
            | Self::ZonedTime
            | Self::ZonedTimestamp
            | Self::Interval => 0,
        }
    }
}

/// The placeholder's bytes, as Debezium has it for arrays of numbers.
fn numbers(out: &mut Vec<u8>) {
    for (index, byte) in UNAVAILABLE.bytes().enumerate() {
        out.push(if index == 0 { b'[' } else { b',' });
        integer(out, byte);
    }
    out.push(b']');
}

/// `bit_out`: digits, the last of which is the lowest bit of the first byte.
fn bits(out: &mut Vec<u8>, text: &[u8]) -> Option<()> {
    /// A multiple of 3, so that only the last block of Base64 is padded.
    const BLOCK_BYTES: usize = 768;
    if !text.iter().all(|digit| matches!(digit, b'0' | b'1')) {
        return None;
    }
    out.push(b'"');
    let mut block = [0; BLOCK_BYTES];
    for digits in text.rchunks(BLOCK_BYTES * 8) {
        for (byte, digits) in block.iter_mut().zip(digits.rchunks(8)) {
            *byte = digits.iter().fold(0, |byte, digit| byte << 1 | (digit & 1));
        }
        base64(out, &block[..digits.len().div_ceil(8)]);
    }
    out.push(b'"');
    Some(())
}

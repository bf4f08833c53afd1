//! One value, from PostgreSQL's text to JSON (the table is in [`json`](super::json)), or to its raw bytes.
//!
//! Invariant: exactly one JSON value is appended, whatever the bytes. Text that is not what its type's
//! output function writes becomes a JSON string, never broken JSON. The one text that is trusted is `json`
//! and `jsonb`, whose input functions have validated it.

mod nested;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::text::json_string;
use crate::postgres::pgoutput::Value;
use crate::postgres::types::{Form, MAX_DEPTH, Types};
pub use nested::{Array, Composite};
pub(super) use nested::{each_element, hstore};

/// How the text of a type becomes JSON.
#[derive(Debug, Clone)]
pub enum Kind {
    /// `true` and `false`.
    Bool,
    /// A JSON number, with all its digits.
    Integer,
    /// A JSON number; NaN and the infinities as strings.
    Number,
    /// As it is.
    Json,
    /// A string, with a `T`, without zone.
    Timestamp,
    /// A string, RFC 3339.
    TimestampTz,
    /// A string, Base64 (RFC 4648, section 4, with padding).
    Bytea,
    /// A string, PostgreSQL's text.
    Text,
    /// An array, in as many dimensions as the value has.
    Array(Array),
    /// An object, by the fields' names.
    Composite(Composite),
    /// An object of strings and nulls.
    Hstore,
}

/// How a `numeric` is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Numeric {
    /// As a string with every digit: as a number most readers would round it to a double.
    #[default]
    String,
    /// As a number with every digit. NaN and the infinities are strings all the same.
    Number,
}

/// Knows the kind of each type.
#[derive(Debug, Clone, Copy)]
pub struct Kinds<'t> {
    /// What the types are made of.
    pub types: &'t Types,
    /// How a `numeric` is written.
    pub numeric: Numeric,
}

impl Kinds<'_> {
    /// By the type's oid (`src/include/catalog/pg_type.dat`, and the types of the database); what is unknown is text.
    #[must_use]
    pub fn of(self, type_oid: u32) -> Kind {
        self.nested(type_oid, 0)
    }

    fn nested(self, type_oid: u32, depth: usize) -> Kind {
        let base = self.types.base(type_oid);
        match self.types.form(base) {
            _ if depth > MAX_DEPTH => Kind::Text,
            Form::Array { element, delimiter } => Kind::Array(Array::new(self.nested(element, depth + 1), delimiter)),
            Form::Vector { element } => Kind::Array(Array::bare(self.nested(element, depth + 1))),
            Form::Composite(fields) => {
                let fields = fields.iter().map(|field| (field.name.as_str(), self.nested(field.type_oid, depth + 1)));
                Kind::Composite(Composite::new(fields, self.types.outdated()))
            }
            Form::Hstore => Kind::Hstore,
            Form::Text | Form::VersionedText | Form::Range { .. } | Form::Multirange { .. } => Kind::Text,
            Form::Scalar | Form::Domain { .. } => self.scalar(base),
        }
    }

    fn scalar(self, type_oid: u32) -> Kind {
        match type_oid {
            16 => Kind::Bool,
            // int8, int2, int4
            20 | 21 | 23 => Kind::Integer,
            // float4, float8
            700 | 701 => Kind::Number,
            1700 if self.numeric == Numeric::Number => Kind::Number,
            // json, jsonb
            114 | 3802 => Kind::Json,
            1114 => Kind::Timestamp,
            1184 => Kind::TimestampTz,
            17 => Kind::Bytea,
            _ => Kind::Text,
        }
    }
}

/// Appends the JSON of a value that came as text.
pub fn json_value(out: &mut Vec<u8>, kind: &Kind, text: &[u8]) {
    let start = out.len();
    let written = match kind {
        Kind::Bool => boolean(out, text),
        Kind::Integer => verbatim_if(out, text, is_integer(text)),
        Kind::Number => verbatim_if(out, text, is_number(text)),
        Kind::Json => verbatim_if(out, text, !text.is_empty() && std::str::from_utf8(text).is_ok()),
        Kind::Timestamp => timestamp(out, text, false),
        Kind::TimestampTz => timestamp(out, text, true),
        Kind::Bytea => bytea(out, text),
        Kind::Array(array) => array.json(out, text).is_some(),
        Kind::Composite(composite) => composite.json(out, text).is_some(),
        Kind::Hstore => hstore(out, text).is_some(),
        Kind::Text => false,
    };
    if !written {
        out.truncate(start);
        json_string(out, text);
    }
}

/// Appends binary data as a Base64 JSON string.
pub fn json_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    base64(out, bytes);
    out.push(b'"');
}

/// Appends the bytes that the application wrote: a `bytea` unescaped, anything else as its text; nothing for NULL and for
/// unchanged TOAST values.
pub fn raw_bytes(out: &mut Vec<u8>, kind: &Kind, value: Value<'_>) {
    match value {
        Value::Null | Value::Unchanged => {}
        Value::Text(text) => {
            let start = out.len();
            let is_whole = matches!(kind, Kind::Bytea) && each_byte(text, |byte| out.push(byte)).is_some();
            if !is_whole {
                // Text that is not hex after all is what was written, as far as anybody can tell.
                out.truncate(start);
                out.extend_from_slice(text);
            }
        }
        Value::Binary(bytes) => out.extend_from_slice(bytes),
    }
}

/// Hands out the bytes of `byteaout` with `bytea_output = hex`. None when it is not that; some were handed out then.
pub(super) fn each_byte(text: &[u8], mut each: impl FnMut(u8)) -> Option<()> {
    hex_digits(text)?.iter().try_for_each(|pair| unhex(*pair).map(&mut each))
}

fn verbatim_if(out: &mut Vec<u8>, text: &[u8], valid: bool) -> bool {
    if valid {
        out.extend_from_slice(text);
    }
    valid
}

/// `boolout`
fn boolean(out: &mut Vec<u8>, text: &[u8]) -> bool {
    match text {
        b"t" => out.extend_from_slice(b"true"),
        b"f" => out.extend_from_slice(b"false"),
        _ => return false,
    }
    true
}

/// At most the digits of an `int8`, without leading zeros (JSON allows none).
fn is_integer(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    match digits {
        [b'0'] => true,
        [b'1'..=b'9', rest @ ..] => rest.len() < 20 && rest.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// RFC 8259, section 6.
fn is_number(text: &[u8]) -> bool {
    fn digits(text: &[u8]) -> Option<&[u8]> {
        let (digits, rest) = leading(text, u8::is_ascii_digit);
        (!digits.is_empty()).then_some(rest)
    }
    fn number(text: &[u8]) -> Option<&[u8]> {
        let mut rest = text.strip_prefix(b"-").unwrap_or(text);
        rest = if let Some(rest) = rest.strip_prefix(b"0") { rest } else { digits(rest)? };
        if let Some(fraction) = rest.strip_prefix(b".") {
            rest = digits(fraction)?;
        }
        if let [b'e' | b'E', exponent @ ..] = rest {
            rest = digits(if let [b'+' | b'-', digits @ ..] = exponent { digits } else { exponent })?;
        }
        Some(rest)
    }
    number(text).is_some_and(<[u8]>::is_empty)
}

/// `EncodeDateTime` with `DateStyle=ISO`: `2026-11-21 02:37:00.123456+00`, ` BC` at the end when it applies.
/// The infinities are not of this form, and stay what they are.
fn timestamp(out: &mut Vec<u8>, text: &[u8], zoned: bool) -> bool {
    let (date, rest) = leading(text, |byte| byte.is_ascii_digit() || *byte == b'-');
    let Some(clock) = rest.strip_prefix(b" ") else { return false };
    let (time, suffix) = leading(clock, |byte| byte.is_ascii_digit() || matches!(*byte, b':' | b'.'));
    let (zone, era) = suffix.strip_suffix(b" BC").map_or((suffix, &b""[..]), |zone| (zone, b" BC"));
    let is_date = date.first().is_some_and(u8::is_ascii_digit);
    let zone: &[&[u8]] = match zone {
        [] if !zoned => &[],
        b"+00" if zoned => &[b"Z"],
        // Another zone than the one that the session is pinned to is still the same instant. RFC 3339 wants minutes.
        [b'+' | b'-', offset @ ..] if zoned && offset.iter().all(|byte| byte.is_ascii_digit() || *byte == b':') => {
            if offset.len() == 2 {
                &[zone, b":00"]
            } else {
                &[zone]
            }
        }
        _ => return false,
    };
    if !is_date || time.is_empty() {
        return false;
    }
    out.push(b'"');
    out.extend_from_slice(date);
    out.push(b'T');
    out.extend_from_slice(time);
    for part in zone {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(era);
    out.push(b'"');
    true
}

/// `byteaout` with `bytea_output = hex`.
fn bytea(out: &mut Vec<u8>, text: &[u8]) -> bool {
    /// A multiple of 3, so that only the last block of Base64 is padded.
    const BLOCK_BYTES: usize = 768;
    let Some(pairs) = hex_digits(text) else { return false };
    out.push(b'"');
    let mut block = [0; BLOCK_BYTES];
    for pairs in pairs.chunks(BLOCK_BYTES) {
        for (byte, pair) in block.iter_mut().zip(pairs) {
            let Some(decoded) = unhex(*pair) else { return false };
            *byte = decoded;
        }
        base64(out, &block[..pairs.len()]);
    }
    out.push(b'"');
    true
}

/// Appends Base64, without quotes.
pub(super) fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    let length = bytes.len().div_ceil(3) * 4;
    out.resize(start + length, 0);
    let written = BASE64.encode_slice(bytes, &mut out[start..]);
    debug_assert_eq!(written, Ok(length), "the slice is made to measure");
}

/// The digit pairs behind `\x`; none when this is no hex form.
fn hex_digits(text: &[u8]) -> Option<&[[u8; 2]]> {
    match text.strip_prefix(b"\\x")?.as_chunks() {
        (pairs, []) => Some(pairs),
        _ => None,
    }
}

fn unhex([high, low]: [u8; 2]) -> Option<u8> {
    let (high, low) = (NIBBLES[usize::from(high)], NIBBLES[usize::from(low)]);
    (high | low < 16).then_some(high << 4 | low)
}

/// What a hexadecimal digit stands for; 255 for every other byte.
const NIBBLES: [u8; 256] = {
    let mut nibbles = [255; 256];
    let mut value = 0;
    while value < 16 {
        nibbles[b"0123456789abcdef"[value as usize] as usize] = value;
        nibbles[b"0123456789ABCDEF"[value as usize] as usize] = value;
        value += 1;
    }
    nibbles
};

/// Splits off the longest start of which every byte is one that `is` accepts.
fn leading(text: &[u8], is: impl Fn(&u8) -> bool) -> (&[u8], &[u8]) {
    text.split_at(text.iter().position(|byte| !is(byte)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests;

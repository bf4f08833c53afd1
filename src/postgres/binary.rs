//! What binary transfer sends, turned into the text that PostgreSQL would have sent instead.
//!
//! So nothing downstream knows of it, and the events are the same. Invariant: what is appended is what the type's output
//! function writes under the settings that the session pins, or nothing was understood and the answer is none; no length is
//! trusted. Types of which the binary form says less than the text (`regclass` sends a number, `xml` leaves its
//! declaration) or is not known are not [`readable`]. Formats: the `…send` functions in `src/backend/utils/adt`.

mod float;
mod geometry;
mod nested;
mod network;
mod number;
mod time;

use std::sync::Arc;

use super::pgoutput::{Tuple, Value};
use super::relation::{Column, Relation};
use super::types::{Form, MAX_DEPTH, Types};
use crate::change::{Change, Old, Row};

/// Whether all values of a type can be turned into text.
#[must_use]
pub fn readable(types: &Types, type_oid: u32) -> bool {
    nested_readable(types, type_oid, 0)
}

fn nested_readable(types: &Types, type_oid: u32, depth: usize) -> bool {
    let base = types.base(type_oid);
    let part = |oid| nested_readable(types, oid, depth + 1);
    match types.form(base) {
        _ if depth > MAX_DEPTH => false,
        Form::Array { element, .. } | Form::Vector { element } => part(element),
        Form::Composite(fields) => fields.iter().all(|field| part(field.type_oid)),
        Form::Range { bound } => part(bound),
        Form::Multirange { range } => part(range),
        Form::Hstore | Form::Text | Form::VersionedText => true,
        Form::Scalar | Form::Domain { .. } => is_scalar(base),
    }
}

/// The built-in types that [`scalar`] reads.
fn is_scalar(type_oid: u32) -> bool {
    matches!(
        type_oid,
        16 | 17 | 19..=21 | 23 | 25..=29 | 114 | 600..=604 | 628 | 650 | 700 | 701 | 718 | 774 | 790 | 829 | 869 | 1042
            | 1043 | 1082 | 1083 | 1114 | 1184 | 1186 | 1266 | 1560 | 1562 | 1700 | 1790 | 2950 | 2970 | 3220 | 3802
            | 4072 | 5038 | 5069
    )
}

/// Appends the text of a value. None when the bytes are not what the type's send function writes; then what was
/// appended is to be taken back.
pub fn text(out: &mut Vec<u8>, types: &Types, type_oid: u32, bytes: &[u8]) -> Option<()> {
    nested_text(out, types, type_oid, bytes, 0)
}

fn nested_text(out: &mut Vec<u8>, types: &Types, type_oid: u32, bytes: &[u8], depth: usize) -> Option<()> {
    let base = types.base(type_oid);
    let mut input = Input(bytes);
    let nest = nested::Nest { types, depth: depth + 1 };
    let start = out.len();
    match types.form(base) {
        _ if depth > MAX_DEPTH => return None,
        Form::Array { delimiter, .. } => nest.array(out, &mut input, Some(delimiter))?,
        Form::Vector { .. } => nest.array(out, &mut input, None)?,
        Form::Composite(_) => nest.composite(out, &mut input)?,
        Form::Range { bound } => nest.range(out, &mut input, bound)?,
        Form::Multirange { range } => nest.multirange(out, &mut input, range)?,
        Form::Hstore => nested::hstore(out, &mut input)?,
        Form::Text => out.extend_from_slice(input.rest()),
        Form::VersionedText => versioned(out, &mut input)?,
        Form::Scalar | Form::Domain { .. } => scalar(out, base, &mut input)?,
    }
    // Quotes within quotes can grow beyond what PostgreSQL could have sent as text.
    (input.0.is_empty() && out.len() - start <= MAX_TEXT_BYTES).then_some(())
}

/// `MaxAllocSize`
const MAX_TEXT_BYTES: usize = 0x3FFF_FFFF;

fn scalar(out: &mut Vec<u8>, type_oid: u32, input: &mut Input<'_>) -> Option<()> {
    match type_oid {
        16 => out.push(if input.u8()? == 0 { b'f' } else { b't' }),
        17 => hex_bytea(out, input.rest()),
        // int8, int2, int4
        20 => number::integer(out, input.i64()?),
        21 => number::integer(out, input.i16()?),
        23 => number::integer(out, input.i32()?),
        // oid, xid, cid
        26 | 28 | 29 => number::integer(out, input.u32()?),
        27 => number::tid(out, input)?,
        5069 => number::integer(out, input.u64()?),
        // name, text, json, bpchar, varchar, refcursor
        19 | 25 | 114 | 1042 | 1043 | 1790 => out.extend_from_slice(input.rest()),
        // jsonb, jsonpath
        3802 | 4072 => versioned(out, input)?,
        600..=604 | 628 | 718 => geometry::text(out, type_oid, input)?,
        // inet, cidr, macaddr, macaddr8
        650 | 869 => network::address(out, input)?,
        774 | 829 => network::hardware(out, input.rest()),
        700 => float::real(out, f32::from_bits(input.u32()?)),
        701 => float::double(out, input.f64()?),
        790 => number::money(out, input.i64()?),
        1700 => number::numeric(out, input)?,
        1082 => time::date(out, input.i32()?),
        1083 => time::time(out, input.i64()?),
        1266 => time::timetz(out, input)?,
        1114 => time::timestamp(out, input.i64()?, b""),
        // The session's time zone is UTC.
        1184 => time::timestamp(out, input.i64()?, b"+00"),
        1186 => time::interval(out, input)?,
        1560 | 1562 => number::bits(out, input)?,
        2950 => uuid(out, input)?,
        // txid_snapshot, pg_snapshot
        2970 | 5038 => number::snapshot(out, input)?,
        3220 => crate::encode::text::lsn(out, crate::lsn::Lsn(input.u64()?)),
        _ => return None,
    }
    Some(())
}

/// The text, behind the number of the format's version.
fn versioned(out: &mut Vec<u8>, input: &mut Input<'_>) -> Option<()> {
    (input.u8()? == 1).then(|| out.extend_from_slice(input.rest()))
}

fn hex_bytea(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(2 + 2 * bytes.len());
    out.extend_from_slice(b"\\x");
    for byte in bytes {
        hex(out, *byte);
    }
}

fn uuid(out: &mut Vec<u8>, input: &mut Input<'_>) -> Option<()> {
    for (index, byte) in input.array::<16>()?.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        hex(out, byte);
    }
    Some(())
}

/// Two digits.
fn hex(out: &mut Vec<u8>, byte: u8) {
    out.extend_from_slice(&[byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]));
}

/// What is left of a value.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn i16(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    fn f64(&mut self) -> Option<f64> {
        self.u64().map(f64::from_bits)
    }

    /// A value with its length before it; none within is NULL, whose length is -1.
    #[expect(clippy::option_option, reason = "NULL is not the same as cut short")]
    fn value(&mut self) -> Option<Option<&'a [u8]>> {
        match self.i32()? {
            -1 => Some(None),
            length => self.bytes(usize::try_from(length).ok()?).map(Some),
        }
    }
}

/// Turns the binary values of rows into text, in buffers of its own.
#[derive(Debug, Default)]
pub struct Textual {
    types: Arc<Types>,
    old: Vec<u8>,
    new: Vec<u8>,
}

/// A value that could not be turned into text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the column {column} of {relation} has a binary value that its type (oid {type_oid}) does not explain")]
pub struct Unreadable {
    relation: String,
    column: String,
    type_oid: u32,
}

impl Textual {
    /// What is known of types from now on.
    pub fn set_types(&mut self, types: Arc<Types>) {
        self.types = types;
    }

    /// The same change in text.
    ///
    /// # Errors
    /// Names the column that can't be read.
    pub fn change<'a>(&'a mut self, change: &Change<'a>) -> Result<Change<'a>, Unreadable> {
        let Self { types, old: old_bytes, new: new_bytes } = self;
        let text = |tuple: Tuple<'a>, out: &'a mut Vec<u8>| {
            // Once binary transfer was left, there is nothing to do.
            if tuple.iter().any(|value| matches!(value, Value::Binary(_))) {
                textual(types, change.relation, tuple, out)
            } else {
                Ok(tuple)
            }
        };
        let old_text = |old: Old<'a>, out| match old {
            Old::Key(tuple) => text(tuple, out).map(Old::Key),
            Old::Full(tuple) => text(tuple, out).map(Old::Full),
        };
        let row = match change.row {
            Row::Insert { new } => Row::Insert { new: text(new, new_bytes)? },
            Row::Update { old, new } => {
                let old = old.map(|old| old_text(old, old_bytes)).transpose()?;
                Row::Update { old, new: text(new, new_bytes)? }
            }
            Row::Delete { old } => Row::Delete { old: old_text(old, old_bytes)? },
            Row::Truncate { .. } => change.row,
        };
        Ok(Change { row, ..*change })
    }
}

fn textual<'o>(
    types: &Types,
    relation: &Relation,
    tuple: Tuple<'_>,
    out: &'o mut Vec<u8>,
) -> Result<Tuple<'o>, Unreadable> {
    tuple.in_text(out, |index, bytes, out| {
        // The assembler has compared the numbers of columns and values.
        let Column { name, type_oid, .. } = &relation.columns[index];
        text(out, types, *type_oid, bytes).ok_or_else(|| Unreadable {
            relation: relation.to_string(),
            column: name.clone(),
            type_oid: *type_oid,
        })
    })
}

#[cfg(test)]
mod tests;

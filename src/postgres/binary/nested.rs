//! Arrays, composites, ranges and `hstore`: the text of their parts, between the signs of the outer type and quoted as it needs it.

use super::number::integer;
use super::{Input, nested_text};
use crate::postgres::types::Types;

/// What is within another value.
pub(super) struct Nest<'t> {
    pub(super) types: &'t Types,
    pub(super) depth: usize,
}

impl Nest<'_> {
    /// `array_send`: dimensions, whether there are nulls, the elements' type; size and lower bound of each dimension; the elements.
    pub(super) fn array(&self, out: &mut Vec<u8>, input: &mut Input<'_>, delimiter: Option<u8>) -> Option<()> {
        const MAX_DIMENSIONS: usize = 6;
        let (count, _has_nulls, element) = (usize::try_from(input.i32()?).ok()?, input.i32()?, input.u32()?);
        let mut dimensions = [(0, 0); MAX_DIMENSIONS];
        let dimensions = dimensions.get_mut(..count)?;
        for dimension in dimensions.iter_mut() {
            *dimension = (input.u32()?, input.i32()?);
        }
        // Every element has a length at the least, so that no number of them is taken on trust.
        if dimensions.iter().any(|(size, _)| *size == 0 || *size as usize > input.0.len()) {
            return None;
        }
        let Some(delimiter) = delimiter else { return self.vector(out, input, element, dimensions) };
        if dimensions.is_empty() {
            out.extend_from_slice(b"{}");
            return Some(());
        }
        if dimensions.iter().any(|(_, lower)| *lower != 1) {
            for (size, lower) in dimensions.iter() {
                out.push(b'[');
                integer(out, *lower);
                out.push(b':');
                integer(out, i64::from(*lower) + i64::from(*size) - 1);
                out.push(b']');
            }
            out.push(b'=');
        }
        self.dimension(out, input, element, dimensions, delimiter)
    }

    fn dimension(
        &self,
        out: &mut Vec<u8>,
        input: &mut Input<'_>,
        element: u32,
        dimensions: &[(u32, i32)],
        delimiter: u8,
    ) -> Option<()> {
        let Some(((size, _), within)) = dimensions.split_first() else {
            let is_special =
                |byte: u8| matches!(byte, b'"' | b'\\' | b'{' | b'}') || byte == delimiter || is_space(byte);
            let must_be_quoted = |text: &[u8]| {
                text.is_empty() || text.eq_ignore_ascii_case(b"NULL") || text.iter().any(|byte| is_special(*byte))
            };
            let Some(bytes) = input.value()? else {
                out.extend_from_slice(b"NULL");
                return Some(());
            };
            return self.quoted(out, element, bytes, Quoting::Backslash, must_be_quoted);
        };
        out.push(b'{');
        for index in 0..*size {
            if index > 0 {
                out.push(delimiter);
            }
            self.dimension(out, input, element, within, delimiter)?;
        }
        out.push(b'}');
        Some(())
    }

    /// `int2vector` and `oidvector` are sent as arrays, and written without braces.
    fn vector(&self, out: &mut Vec<u8>, input: &mut Input<'_>, element: u32, dimensions: &[(u32, i32)]) -> Option<()> {
        for index in 0..dimensions.first().map_or(0, |(size, _)| *size) {
            if index > 0 {
                out.push(b' ');
            }
            nested_text(out, self.types, element, input.value()??, self.depth)?;
        }
        Some(())
    }

    /// `record_send`: how many fields; type and value of each.
    pub(super) fn composite(&self, out: &mut Vec<u8>, input: &mut Input<'_>) -> Option<()> {
        let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | b'(' | b')' | b',') || is_space(*byte);
        let count = input.i32()?;
        out.push(b'(');
        for index in 0..count {
            if index > 0 {
                out.push(b',');
            }
            let type_oid = input.u32()?;
            if let Some(bytes) = input.value()? {
                self.quoted(out, type_oid, bytes, Quoting::Doubled, |text| {
                    text.is_empty() || text.iter().any(is_special)
                })?;
            }
        }
        out.push(b')');
        Some(())
    }

    /// `range_send`: flags, and the bounds that there are, each with its length.
    pub(super) fn range(&self, out: &mut Vec<u8>, input: &mut Input<'_>, bound: u32) -> Option<()> {
        const EMPTY: u8 = 0x01;
        const LOWER_INCLUDED: u8 = 0x02;
        const UPPER_INCLUDED: u8 = 0x04;
        const NO_LOWER: u8 = 0x08;
        const NO_UPPER: u8 = 0x10;
        let flags = input.u8()?;
        if flags & EMPTY != 0 {
            out.extend_from_slice(b"empty");
            return Some(());
        }
        out.push(if flags & LOWER_INCLUDED != 0 { b'[' } else { b'(' });
        if flags & NO_LOWER == 0 {
            self.bound(out, bound, input.value()??)?;
        }
        out.push(b',');
        if flags & NO_UPPER == 0 {
            self.bound(out, bound, input.value()??)?;
        }
        out.push(if flags & UPPER_INCLUDED != 0 { b']' } else { b')' });
        Some(())
    }

    fn bound(&self, out: &mut Vec<u8>, type_oid: u32, bytes: &[u8]) -> Option<()> {
        let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | b'(' | b')' | b'[' | b']' | b',') || is_space(*byte);
        self.quoted(out, type_oid, bytes, Quoting::Doubled, |text| text.is_empty() || text.iter().any(is_special))
    }

    /// `multirange_send`: how many ranges, and each with its length.
    pub(super) fn multirange(&self, out: &mut Vec<u8>, input: &mut Input<'_>, range: u32) -> Option<()> {
        out.push(b'{');
        for index in 0..input.u32()? {
            if index > 0 {
                out.push(b',');
            }
            nested_text(out, self.types, range, input.value()??, self.depth)?;
        }
        out.push(b'}');
        Some(())
    }

    /// The text of a part, between quotes if it must be.
    fn quoted(
        &self,
        out: &mut Vec<u8>,
        type_oid: u32,
        bytes: &[u8],
        quoting: Quoting,
        must_be: impl Fn(&[u8]) -> bool,
    ) -> Option<()> {
        let start = out.len();
        nested_text(out, self.types, type_oid, bytes, self.depth)?;
        if must_be(&out[start..]) {
            let text = out.split_off(start);
            quote(out, &text, quoting);
        }
        Some(())
    }
}

/// How a quote and a backslash are written between quotes.
#[derive(Clone, Copy)]
enum Quoting {
    /// Behind a backslash.
    Backslash,
    /// Twice.
    Doubled,
}

fn quote(out: &mut Vec<u8>, text: &[u8], quoting: Quoting) {
    out.push(b'"');
    for &byte in text {
        match (byte, quoting) {
            (b'"' | b'\\', Quoting::Backslash) => out.push(b'\\'),
            (b'"' | b'\\', Quoting::Doubled) => out.push(byte),
            _ => {}
        }
        out.push(byte);
    }
    out.push(b'"');
}

/// `array_isspace`, and `isspace` of single bytes.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C)
}

/// `hstore_send`: how many pairs; key and value of each.
pub(super) fn hstore(out: &mut Vec<u8>, input: &mut Input<'_>) -> Option<()> {
    for index in 0..input.u32()? {
        if index > 0 {
            out.extend_from_slice(b", ");
        }
        quote(out, input.value()??, Quoting::Backslash);
        out.extend_from_slice(b"=>");
        match input.value()? {
            Some(value) => quote(out, value, Quoting::Backslash),
            None => out.extend_from_slice(b"NULL"),
        }
    }
    Some(())
}

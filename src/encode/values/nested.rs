//! Arrays, composites and `hstore`: text that holds the text of other values, as JSON arrays and objects.
//!
//! Invariant: what can't be read to its end is refused; what was appended until then is the caller's to take back.
//! Formats: `array_out` (arrayfuncs.c), `record_out` (rowtypes.c), `hstore_out`.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::text::json_string;
use super::{Kind, json_value};

/// PostgreSQL's limit (`MAXDIM`).
const MAX_DIMENSIONS: usize = 6;

/// How an array becomes JSON. Lower bounds are left out, as `to_jsonb` does it.
#[derive(Debug, Clone)]
pub struct Array {
    element: Arc<Kind>,
    /// None: `int2vector`, without braces, between spaces.
    delimiter: Option<u8>,
}

impl Array {
    pub(super) fn new(element: Kind, delimiter: u8) -> Self {
        Self { element: Arc::new(element), delimiter: Some(delimiter) }
    }

    pub(super) fn bare(element: Kind) -> Self {
        Self { element: Arc::new(element), delimiter: None }
    }

    /// How its elements become JSON.
    #[must_use]
    pub fn element(&self) -> &Kind {
        &self.element
    }

    /// Whether it has one dimension, and no nulls (`int2vector`, `oidvector`).
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.delimiter.is_none()
    }

    /// None when it is no array; then what was appended is to be taken back.
    pub(super) fn json(&self, out: &mut Vec<u8>, text: &[u8]) -> Option<()> {
        let Some(delimiter) = self.delimiter else {
            list(out, text.split(|byte| *byte == b' ').filter(|element| !element.is_empty()), |out, element| {
                json_value(out, &self.element, element);
            });
            return Some(());
        };
        let mut cursor = Cursor { rest: without_bounds(text)? };
        self.dimension(out, &mut cursor, delimiter, 1)?;
        cursor.rest.is_empty().then_some(())
    }

    fn dimension(&self, out: &mut Vec<u8>, cursor: &mut Cursor<'_>, delimiter: u8, depth: usize) -> Option<()> {
        cursor.expect(b'{')?;
        out.push(b'[');
        if cursor.expect(b'}').is_none() {
            loop {
                match cursor.rest.first()? {
                    b'{' if depth < MAX_DIMENSIONS => self.dimension(out, cursor, delimiter, depth + 1)?,
                    b'{' => return None,
                    b'"' => json_value(out, &self.element, &cursor.quoted()?),
                    _ => match cursor.until(delimiter, b'}')? {
                        b"NULL" => out.extend_from_slice(b"null"),
                        element => json_value(out, &self.element, element),
                    },
                }
                if cursor.expect(b'}').is_some() {
                    break;
                }
                cursor.expect(delimiter)?;
                out.push(b',');
            }
        }
        out.push(b']');
        Some(())
    }
}

/// How a composite becomes JSON.
#[derive(Debug, Clone)]
pub struct Composite {
    /// `"name":`, and the kind of the value.
    fields: Arc<[(Vec<u8>, Kind)]>,
    /// To be set when a value has other fields.
    outdated: Arc<AtomicBool>,
}

impl Composite {
    pub(super) fn new<'a>(fields: impl Iterator<Item = (&'a str, Kind)>, outdated: &Arc<AtomicBool>) -> Self {
        let labelled = fields.map(|(name, kind)| {
            let mut label = Vec::with_capacity(name.len() + 3);
            json_string(&mut label, name.as_bytes());
            label.push(b':');
            (label, kind)
        });
        Self { fields: labelled.collect(), outdated: Arc::clone(outdated) }
    }

    /// How its fields become JSON, in their order.
    pub fn kinds(&self) -> impl Iterator<Item = &Kind> {
        self.fields.iter().map(|(_, kind)| kind)
    }

    /// None when it is none of this type, or not as the type is known; then what was appended is to be taken back.
    pub(super) fn json(&self, out: &mut Vec<u8>, text: &[u8]) -> Option<()> {
        let written = self.object(out, text);
        if written.is_none() {
            self.outdated.store(true, Ordering::Relaxed);
        }
        written
    }

    fn object(&self, out: &mut Vec<u8>, text: &[u8]) -> Option<()> {
        let mut cursor = Cursor { rest: text };
        cursor.expect(b'(')?;
        out.push(b'{');
        for (index, (label, kind)) in self.fields.iter().enumerate() {
            if index > 0 {
                cursor.expect(b',')?;
                out.push(b',');
            }
            out.extend_from_slice(label);
            match cursor.rest.first()? {
                b',' | b')' => out.extend_from_slice(b"null"),
                b'"' => json_value(out, kind, &cursor.quoted()?),
                _ => json_value(out, kind, cursor.until(b',', b')')?),
            }
        }
        cursor.expect(b')')?;
        out.push(b'}');
        cursor.rest.is_empty().then_some(())
    }
}

/// `"a"=>"1", "b"=>NULL` as an object of strings. None when it is none; then what was appended is to be taken back.
pub(in crate::encode) fn hstore(out: &mut Vec<u8>, text: &[u8]) -> Option<()> {
    let mut cursor = Cursor { rest: text };
    out.push(b'{');
    while !cursor.rest.is_empty() {
        if cursor.rest.len() < text.len() {
            cursor.expect(b',')?;
            cursor.expect(b' ')?;
            out.push(b',');
        }
        json_string(out, &cursor.quoted()?);
        cursor.expect(b'=')?;
        cursor.expect(b'>')?;
        out.push(b':');
        match cursor.rest.strip_prefix(b"NULL") {
            Some(rest) => {
                cursor.rest = rest;
                out.extend_from_slice(b"null");
            }
            None => json_string(out, &cursor.quoted()?),
        }
    }
    out.push(b'}');
    Some(())
}

/// Hands out the elements of an array in their order, whatever its dimensions; none for NULL. `delimiter`: as
/// [`Form::Array`](crate::postgres::types::Form) has it, none for a vector. None when it is no array; some were handed out then.
pub(in crate::encode) fn each_element(
    text: &[u8],
    delimiter: Option<u8>,
    mut each: impl FnMut(Option<&[u8]>),
) -> Option<()> {
    let Some(delimiter) = delimiter else {
        text.split(|byte| *byte == b' ').filter(|element| !element.is_empty()).for_each(|element| each(Some(element)));
        return Some(());
    };
    let mut cursor = Cursor { rest: without_bounds(text)? };
    let mut depth = 0_usize;
    loop {
        match cursor.rest.first()? {
            b'{' if depth < MAX_DIMENSIONS => depth += 1,
            b'}' => depth = depth.checked_sub(1)?,
            byte if *byte == delimiter && depth > 0 => {}
            _ if depth == 0 => return None,
            b'"' => {
                each(Some(&cursor.quoted()?));
                continue;
            }
            _ => {
                let element = cursor.until(delimiter, b'}')?;
                each((element != b"NULL").then_some(element));
                continue;
            }
        }
        cursor.rest = &cursor.rest[1..];
        if depth == 0 {
            return cursor.rest.is_empty().then_some(());
        }
    }
}

/// `[0:1][2:3]={{…`: lower bounds other than 1.
fn without_bounds(text: &[u8]) -> Option<&[u8]> {
    match text.first()? {
        b'[' => Some(&text[text.iter().position(|byte| *byte == b'=')? + 1..]),
        _ => Some(text),
    }
}

fn list<'a>(out: &mut Vec<u8>, elements: impl Iterator<Item = &'a [u8]>, write: impl Fn(&mut Vec<u8>, &[u8])) {
    out.push(b'[');
    for (index, element) in elements.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, element);
    }
    out.push(b']');
}

/// What is left of a text.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// Takes `byte`, if it is the next.
    fn expect(&mut self, byte: u8) -> Option<()> {
        self.rest = self.rest.strip_prefix(&[byte])?;
        Some(())
    }

    /// Takes all up to one of two bytes, of which one must come; not nothing.
    fn until(&mut self, one: u8, other: u8) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|byte| *byte == one || *byte == other)?;
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!taken.is_empty()).then_some(taken)
    }

    /// Takes a text between quotes. Inside, a backslash stands before a quote and a backslash; a composite doubles them
    /// instead, which for a backslash is the same.
    fn quoted(&mut self) -> Option<Cow<'a, [u8]>> {
        self.expect(b'"')?;
        let special = |byte: &u8| matches!(byte, b'"' | b'\\');
        let plain = self.rest.iter().position(special)?;
        let (taken, rest) = self.rest.split_at(plain);
        if rest[0] == b'"' && rest.get(1) != Some(&b'"') {
            self.rest = &rest[1..];
            return Some(Cow::Borrowed(taken));
        }
        let mut text = taken.to_vec();
        self.rest = rest;
        loop {
            match self.rest {
                [b'\\', escaped, ..] | [b'"', escaped @ b'"', ..] => {
                    text.push(*escaped);
                    self.rest = &self.rest[2..];
                }
                [b'"', rest @ ..] => {
                    self.rest = rest;
                    return Some(Cow::Owned(text));
                }
                [] | [_] => return None,
                _ => {}
            }
            let plain = self.rest.iter().position(special)?;
            text.extend_from_slice(&self.rest[..plain]);
            self.rest = &self.rest[plain..];
        }
    }
}

//! `TupleData`: the values of one row, read in place.

use super::reader::{DecodeError, Reader};

/// The values of one row, in the order of the relation's columns. A view of the frame; copying it is free.
///
/// It was checked from end to end when the message was decoded, so reading it can't fail.
#[derive(Debug, Clone, Copy)]
pub struct Tuple<'a> {
    count: u16,
    bytes: &'a [u8],
}

/// One value of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// `n`: SQL NULL; in a key tuple also every column that is not part of the key.
    Null,
    /// `u`: stored out of line (TOAST), not changed by the update, and not sent.
    Unchanged,
    /// `t`: the output of the type's output function, in UTF-8.
    Text(&'a [u8]),
    /// `b`: the output of the type's send function. Comes only when it was asked for.
    Binary(&'a [u8]),
}

impl<'a> Tuple<'a> {
    /// Reads and checks one tuple.
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        /// What follows the kind byte.
        enum Carries {
            Nothing,
            Bytes,
        }
        let count = reader.u16()?;
        let all = reader.rest();
        for _ in 0..count {
            let carries = reader.kind("a value (n, u, t, b)", |byte| match byte {
                b'n' | b'u' => Some(Carries::Nothing),
                b't' | b'b' => Some(Carries::Bytes),
                _ => None,
            })?;
            if let Carries::Bytes = carries {
                let length = u64::from(reader.u32()?);
                reader.bytes(length)?;
            }
        }
        Ok(Self { count, bytes: &all[..all.len() - reader.remaining()] })
    }

    /// The text of a value; none for what is null, was not sent, or is no text.
    #[must_use]
    pub fn text(&self, column: usize) -> Option<&'a str> {
        match self.get(column)? {
            Value::Text(bytes) => std::str::from_utf8(bytes).ok(),
            Value::Null | Value::Unchanged | Value::Binary(_) => None,
        }
    }

    /// How many values it has.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether it has none (a table may have no columns).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many bytes of the frame it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The same values, in `out`, which is overwritten: a binary one is text, which `text` appends, given its column's index.
    ///
    /// # Errors
    /// Those of `text`.
    pub fn in_text<E>(
        self,
        out: &mut Vec<u8>,
        mut text: impl FnMut(usize, &[u8], &mut Vec<u8>) -> Result<(), E>,
    ) -> Result<Tuple<'_>, E> {
        out.clear();
        for (index, value) in self.iter().enumerate() {
            match value {
                Value::Null => out.push(b'n'),
                Value::Unchanged => out.push(b'u'),
                Value::Text(bytes) => counted(out, |out| {
                    out.extend_from_slice(bytes);
                    Ok(())
                })?,
                Value::Binary(bytes) => counted(out, |out| text(index, bytes, out))?,
            }
        }
        Ok(Tuple { count: self.count, bytes: out })
    }

    /// The values, in order.
    #[must_use]
    pub fn iter(&self) -> Values<'a> {
        Values { rest: self.bytes }
    }

    /// One value by its column's index. Walks over those before it.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Value<'a>> {
        self.iter().nth(index)
    }
}

/// `t`, and what `put` appends behind its length.
fn counted<E>(out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
    out.push(b't');
    let start = out.len() + 4;
    out.extend_from_slice(&[0; 4]);
    put(out)?;
    let length = u32::try_from(out.len() - start).expect("PostgreSQL's values have at most 1 GB");
    out[start - 4..start].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

impl<'a> IntoIterator for &Tuple<'a> {
    type Item = Value<'a>;
    type IntoIter = Values<'a>;

    fn into_iter(self) -> Values<'a> {
        self.iter()
    }
}

/// The values of a tuple, in order.
#[derive(Debug, Clone)]
pub struct Values<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        // `Tuple::read` has checked these bytes: the `?` below only ever fire at the end of the tuple.
        let (&kind, rest) = self.rest.split_first()?;
        self.rest = rest;
        match kind {
            b't' => self.counted().map(Value::Text),
            b'b' => self.counted().map(Value::Binary),
            b'u' => Some(Value::Unchanged),
            _ => Some(Value::Null),
        }
    }
}

impl<'a> Values<'a> {
    fn counted(&mut self) -> Option<&'a [u8]> {
        let (&length, rest) = self.rest.split_first_chunk()?;
        let (bytes, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(length)).ok()?)?;
        self.rest = rest;
        Some(bytes)
    }
}

//! The headers of a message, as they go over the wire: written once, and copied from there.
//!
//! Each field is its name, its type and its value (AMQP 0-9-1 §4.2.5.5; `S`, `l` and `t` as RabbitMQ reads them). Scalars
//! only, because tables and arrays are dropped on streams. `rabbit::wire` frames them.

/// A name has one octet for its length. Those that users choose are checked when the configuration is read.
pub const NAME_BYTES_MAX: usize = 255;

/// The value of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header<'a> {
    /// A long string.
    Text(&'a str),
    /// A signed 64-bit integer. There is no unsigned one: LSNs go as text.
    Int(i64),
    /// A boolean.
    Bool(bool),
}

/// The headers of one message, under construction; used again for the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderTable {
    bytes: Vec<u8>,
}

/// The headers of one message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Headers<'a> {
    bytes: &'a [u8],
}

impl HeaderTable {
    /// Forgets all headers.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Adds a header. Of a name that is longer than [`NAME_BYTES_MAX`], the rest is left out.
    ///
    /// # Panics
    /// When a text is longer than 4 GiB.
    pub fn push(&mut self, name: &str, value: Header<'_>) {
        let name = &name[..name.floor_char_boundary(NAME_BYTES_MAX)];
        self.bytes.push(u8::try_from(name.len()).expect("no longer than that"));
        self.bytes.extend_from_slice(name.as_bytes());
        match value {
            Header::Text(text) => {
                self.bytes.push(b'S');
                self.bytes.extend_from_slice(&u32::try_from(text.len()).expect("it came in one frame").to_be_bytes());
                self.bytes.extend_from_slice(text.as_bytes());
            }
            Header::Int(number) => {
                self.bytes.push(b'l');
                self.bytes.extend_from_slice(&number.to_be_bytes());
            }
            Header::Bool(value) => self.bytes.extend_from_slice(&[b't', u8::from(value)]),
        }
    }

    /// Adds a header whose text is what `write` appends, which is UTF-8.
    ///
    /// # Panics
    /// When that is longer than 4 GiB.
    pub fn push_with(&mut self, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
        self.push(name, Header::Text(""));
        let start = self.bytes.len();
        write(&mut self.bytes);
        let bytes = u32::try_from(self.bytes.len() - start).expect("a name of something");
        self.bytes[start - 4..start].copy_from_slice(&bytes.to_be_bytes());
    }

    /// Adds a header with the text of another one, if there is one of that name.
    pub fn push_copy(&mut self, name: &str, of: &str) {
        let Some(text) = self.all().text(of) else { return };
        // A slice of the bytes, which may move.
        let start = text.as_ptr().addr() - self.bytes.as_ptr().addr();
        let range = start..start + text.len();
        self.push_with(name, |out| out.extend_from_within(range));
    }

    /// Changes the value of the header that was added last, which is a [`Header::Bool`].
    pub fn set_last(&mut self, value: bool) {
        if let Some(last) = self.bytes.last_mut() {
            *last = u8::from(value);
        }
    }

    /// Adds headers as they go over the wire.
    pub fn extend(&mut self, wire: &[u8]) {
        self.bytes.extend_from_slice(wire);
    }

    /// What was added so far.
    #[must_use]
    pub fn all(&self) -> Headers<'_> {
        Headers { bytes: &self.bytes }
    }
}

impl<'a> FromIterator<(&'a str, Header<'a>)> for HeaderTable {
    fn from_iter<I: IntoIterator<Item = (&'a str, Header<'a>)>>(headers: I) -> Self {
        let mut table = Self::default();
        headers.into_iter().for_each(|(name, value)| table.push(name, value));
        table
    }
}

impl<'a> Headers<'a> {
    /// As they go over the wire, without the table's length.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// One after the other, as they were added.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, Header<'a>)> {
        self.fields().map_while(|field| Some((std::str::from_utf8(field.name).ok()?, field.header()?)))
    }

    /// The text of this name.
    #[must_use]
    pub fn text(self, name: &str) -> Option<&'a str> {
        let mut texts = self.fields().filter(|field| field.kind == b'S');
        // Only what is looked for is worth to be looked at.
        let found = texts.find(|field| field.name == name.as_bytes())?;
        std::str::from_utf8(found.value).ok()
    }

    fn fields(self) -> impl Iterator<Item = Field<'a>> {
        let mut rest = self.bytes;
        std::iter::from_fn(move || {
            let (field, after) = Field::first(rest)?;
            rest = after;
            Some(field)
        })
    }
}

/// One header, as it goes over the wire.
struct Field<'a> {
    name: &'a [u8],
    kind: u8,
    /// Without its length.
    value: &'a [u8],
}

impl<'a> Field<'a> {
    /// And what comes after.
    fn first(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (length, rest) = bytes.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(*length))?;
        let (kind, rest) = rest.split_first()?;
        let (length, rest) = match kind {
            b'S' => rest.split_first_chunk().map(|(length, rest)| (u32::from_be_bytes(*length) as usize, rest))?,
            b'l' => (8, rest),
            b't' => (1, rest),
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        Some((Self { name, kind: *kind, value }, rest))
    }

    fn header(&self) -> Option<Header<'a>> {
        Some(match (self.kind, self.value) {
            (b'S', text) => Header::Text(std::str::from_utf8(text).ok()?),
            (b'l', number) => Header::Int(i64::from_be_bytes(number.try_into().ok()?)),
            (_, value) => Header::Bool(value != [0]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_read_back() {
        let headers = [
            ("lsn", Header::Text("16/B374D848")),
            ("n", Header::Int(-3)),
            ("", Header::Text("")),
            ("b", Header::Bool(false)),
        ];
        let mut table = headers.into_iter().collect::<HeaderTable>();
        assert_eq!(table.all().iter().collect::<Vec<_>>(), headers);
        assert_eq!(
            (table.all().text("lsn"), table.all().text("n"), table.all().text("x")),
            (Some("16/B374D848"), None, None)
        );
        table.push_with("d", |out| out.extend_from_slice(b"1/2"));
        assert_eq!(table.all().text("d"), Some("1/2"));
        table.push_copy("copy", "lsn");
        table.push_copy("none", "x");
        assert_eq!((table.all().text("copy"), table.all().text("none")), (Some("16/B374D848"), None));
        table.push("b", Header::Bool(false));
        table.set_last(true);
        assert_eq!(table.all().iter().last(), Some(("b", Header::Bool(true))));
        table.clear();
        assert_eq!(table.all().iter().count(), 0);
    }

    #[test]
    fn a_name_is_cut_at_a_character() {
        let mut table = HeaderTable::default();
        table.push(&"ü".repeat(200), Header::Int(1));
        assert_eq!(table.all().iter().next(), Some(("ü".repeat(127).as_str(), Header::Int(1))));
    }
}

//! A cursor over one message that can't leave it, and the errors of what it finds there.

use crate::lsn::Lsn;

/// The bytes are no message that we know. Offsets count from the message's type byte.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not even a type byte.
    #[error("empty pgoutput message")]
    Empty,
    /// A message that protocol version 1, without prepared transactions, does not have.
    #[error("unexpected pgoutput message `{}`", byte.escape_ascii())]
    Unexpected {
        /// Its type byte.
        byte: u8,
    },
    /// It ends before it is complete.
    #[error("pgoutput message `{}` is cut short: nothing to read at byte {offset}", message.escape_ascii())]
    Truncated {
        /// The type byte.
        message: u8,
        /// Where the part starts that is not all there.
        offset: usize,
    },
    /// It goes on after it is complete.
    #[error("pgoutput message `{}` should end at byte {offset} and does not", message.escape_ascii())]
    Trailing {
        /// The type byte.
        message: u8,
        /// Where it should end.
        offset: usize,
    },
    /// A byte that must be one of a few is another.
    #[error(
        "pgoutput message `{}` has `{}` at byte {offset}, where {expected} belongs",
        message.escape_ascii(), byte.escape_ascii()
    )]
    Kind {
        /// The type byte.
        message: u8,
        /// Where.
        offset: usize,
        /// The byte found.
        byte: u8,
        /// What is allowed.
        expected: &'static str,
    },
    /// A name is not UTF-8, although the server was told to send UTF-8.
    #[error("pgoutput message `{}` has a name at byte {offset} that is not UTF-8", message.escape_ascii())]
    NotUtf8 {
        /// The type byte.
        message: u8,
        /// Where the name starts.
        offset: usize,
    },
}

/// What is left of a message.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    message: u8,
    length: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Takes the type byte.
    pub(super) fn new(data: &'a [u8]) -> Result<Self, DecodeError> {
        let (&message, rest) = data.split_first().ok_or(DecodeError::Empty)?;
        Ok(Self { message, length: data.len(), rest })
    }

    /// The type byte.
    pub(super) fn message(&self) -> u8 {
        self.message
    }

    /// Bytes that are left.
    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// What is left, to be kept by a value that spans several reads.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Nothing may be left.
    pub(super) fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(DecodeError::Trailing { message: self.message, offset: self.offset() })
    }

    /// The next `length` bytes.
    pub(super) fn bytes(&mut self, length: u64) -> Result<&'a [u8], DecodeError> {
        let taken = usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length));
        let (bytes, rest) = taken.ok_or_else(|| self.truncated())?;
        self.rest = rest;
        Ok(bytes)
    }

    /// A name: everything up to a zero byte.
    pub(super) fn text(&mut self) -> Result<&'a str, DecodeError> {
        let offset = self.offset();
        let end = self.rest.iter().position(|&byte| byte == 0).ok_or_else(|| self.truncated())?;
        let (name, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        std::str::from_utf8(name).map_err(|_| DecodeError::NotUtf8 { message: self.message, offset })
    }

    /// A byte that must be one of those that `meaning` knows.
    pub(super) fn kind<T>(
        &mut self,
        expected: &'static str,
        meaning: impl FnOnce(u8) -> Option<T>,
    ) -> Result<T, DecodeError> {
        let offset = self.offset();
        let byte = self.u8()?;
        meaning(byte).ok_or(DecodeError::Kind { message: self.message, offset, byte, expected })
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    pub(super) fn lsn(&mut self) -> Result<Lsn, DecodeError> {
        self.array().map(|bytes| Lsn(u64::from_be_bytes(bytes)))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (&bytes, rest) = self.rest.split_first_chunk().ok_or_else(|| self.truncated())?;
        self.rest = rest;
        Ok(bytes)
    }

    fn offset(&self) -> usize {
        self.length - self.rest.len()
    }

    fn truncated(&self) -> DecodeError {
        DecodeError::Truncated { message: self.message, offset: self.offset() }
    }
}

//! Messages in and out: type byte, length, body. Copies nothing, trusts nothing.
//!
//! Memory follows the bytes that have arrived, never a length that was merely announced.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::error::{ClientError, ProtocolError};
use super::stream::Stream;

/// The longest message: PostgreSQL's `MaxAllocSize` of 1 GiB, with some slack for a proxy's.
pub(crate) const MESSAGE_BYTES_MAX: usize = (1 << 30) + (1 << 20);

/// The longest message before the login; libpq takes 30,000 bytes of an error.
pub(crate) const LOGIN_MESSAGE_BYTES_MAX: usize = 1 << 16;

/// How much is read at a time.
const READ_BYTES: usize = 8 << 10;

/// Type byte and length, the length counting itself.
pub(crate) const HEADER_BYTES: usize = 5;

/// One message from the server.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) tag: u8,
    pub(crate) body: Bytes,
}

/// The first message's type and its length with the header, when that much is here.
pub(crate) fn header(bytes: &[u8], limit: usize) -> Result<Option<(u8, usize)>, ProtocolError> {
    let Some(&[tag, a, b, c, d]) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]);
    match usize::try_from(length) {
        Ok(size) if (4..=limit).contains(&size) => Ok(Some((tag, size + 1))),
        _ => Err(ProtocolError::Length { tag, length, limit }),
    }
}

/// Takes the first message out of the buffer, when all of it is here.
pub(crate) fn take(buffer: &mut BytesMut, limit: usize) -> Result<Option<Message>, ProtocolError> {
    match header(buffer, limit)? {
        Some((tag, size)) if buffer.len() >= size => {
            Ok(Some(Message { tag, body: buffer.split_to(size).freeze().slice(HEADER_BYTES..) }))
        }
        _ => Ok(None),
    }
}

/// A stream with what was read from it and not yet taken.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) stream: Stream,
    pub(crate) input: BytesMut,
    pub(crate) limit: usize,
}

impl Wire {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, input: BytesMut::new(), limit: LOGIN_MESSAGE_BYTES_MAX }
    }

    pub(crate) async fn receive(&mut self) -> Result<Message, ClientError> {
        loop {
            if let Some(message) = take(&mut self.input, self.limit)? {
                return Ok(message);
            }
            self.input.reserve(READ_BYTES.max(self.input.len()));
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(closed().into());
            }
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }
}

pub(crate) fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")
}

/// Reads the fields of a message's body.
pub(crate) struct Fields<'a> {
    tag: u8,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(tag: u8, rest: &'a [u8]) -> Self {
        Self { tag, rest }
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], ProtocolError> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(ProtocolError::Truncated { tag: self.tag })?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtocolError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(ProtocolError::Truncated { tag: self.tag })?;
        self.rest = rest;
        Ok(*bytes)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, ProtocolError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn int16(&mut self) -> Result<i16, ProtocolError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub(crate) fn int32(&mut self) -> Result<i32, ProtocolError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// A zero-terminated string. Before the login it may be in any encoding, hence lossy.
    pub(crate) fn text(&mut self) -> Result<String, ProtocolError> {
        let end = self.rest.iter().position(|byte| *byte == 0).ok_or(ProtocolError::Truncated { tag: self.tag })?;
        let text = String::from_utf8_lossy(&self.rest[..end]).into_owned();
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::postgres::client::ServerError;

    proptest! {
        #[test]
        fn no_bytes_can_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ServerError::parse(&bytes);
            let _ = crate::postgres::client::row(&bytes);
            let _ = crate::postgres::replication::Frame::parse(&bytes);
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = take(&mut buffer, MESSAGE_BYTES_MAX) {}
        }
    }
}

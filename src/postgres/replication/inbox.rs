//! The read buffer of a replication stream: bytes in, runs of whole `CopyData` messages out.
//!
//! Each read costs the headers that it brought: whole messages leave the buffer at once, so that at most one
//! partial message is ever looked at again, and of that only the header. Memory follows what has arrived and
//! falls back after a large message.

use bytes::{Bytes, BytesMut};

use crate::postgres::client::ProtocolError;
use crate::postgres::client::wire::{self, MESSAGE_BYTES_MAX, Message};

/// The buffer's usual size; one read brings at most so much.
const READ_BYTES: usize = 256 << 10;

/// Less room than this is not worth a read.
const ROOM_BYTES_MIN: usize = 16 << 10;

/// A buffer that grew beyond this is given back.
const KEEP_BYTES_MAX: usize = 1 << 20;

/// What has arrived.
#[derive(Debug)]
pub(super) enum Arrival {
    /// Whole `CopyData` messages and nothing else, at least one.
    Frames(Bytes),
    /// A message of another kind.
    Other(Message),
}

#[derive(Debug)]
pub(super) struct Inbox {
    buffer: BytesMut,
}

impl Inbox {
    /// Begins with what was read beyond the start of the stream.
    pub(super) fn new(read_ahead: BytesMut) -> Self {
        Self { buffer: read_ahead }
    }

    /// Takes what is complete; none when more must be read first.
    pub(super) fn take(&mut self) -> Result<Option<Arrival>, ProtocolError> {
        let mut end = 0;
        let next = loop {
            match wire::header(&self.buffer[end..], MESSAGE_BYTES_MAX) {
                Ok(Some((b'd', size))) if self.buffer.len() - end >= size => end += size,
                next => break next,
            }
        };
        if end > 0 {
            // Whatever comes next, a broken header too, is looked at again by the next call.
            return Ok(Some(Arrival::Frames(self.split(end))));
        }
        match next? {
            Some((tag, _)) if tag != b'd' => Ok(wire::take(&mut self.buffer, MESSAGE_BYTES_MAX)?.map(Arrival::Other)),
            _ => Ok(None),
        }
    }

    /// The buffer to read into, with room.
    pub(super) fn room(&mut self) -> &mut BytesMut {
        let have = self.buffer.len();
        // At most as much again as has come, so that an announced gigabyte takes no memory before it comes.
        let want = match wire::header(&self.buffer, MESSAGE_BYTES_MAX) {
            Ok(Some((_, size))) => size.saturating_sub(have).min(have.max(READ_BYTES)),
            _ => 0,
        };
        if self.buffer.capacity() - have < want.max(ROOM_BYTES_MIN) {
            self.buffer.reserve(want.max(READ_BYTES));
        }
        &mut self.buffer
    }

    fn split(&mut self, end: usize) -> Bytes {
        let large = self.buffer.capacity() > KEEP_BYTES_MAX;
        let frames = self.buffer.split_to(end).freeze();
        if large {
            let mut smaller = BytesMut::with_capacity(READ_BYTES.max(self.buffer.len()));
            smaller.extend_from_slice(&self.buffer);
            self.buffer = smaller;
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Batch;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("small");
        [&[tag], &length.to_be_bytes()[..], body].concat()
    }

    /// What comes out when the stream arrives in these pieces.
    fn read(pieces: &[&[u8]]) -> Vec<(u8, Vec<u8>)> {
        let mut inbox = Inbox::new(BytesMut::new());
        let mut out = Vec::new();
        for piece in pieces {
            inbox.room().extend_from_slice(piece);
            while let Some(arrival) = inbox.take().expect("a valid stream") {
                match arrival {
                    Arrival::Other(message) => out.push((message.tag, message.body.to_vec())),
                    Arrival::Frames(frames) => {
                        let mut batch = Batch::new(frames);
                        assert!(!batch.is_empty());
                        while let Some(payload) = batch.next_payload() {
                            out.push((b'd', payload.to_vec()));
                        }
                        assert!(batch.is_empty());
                    }
                }
            }
        }
        out
    }

    #[test]
    fn the_same_frames_wherever_the_stream_is_cut() {
        let parts: [(u8, &[u8]); 6] =
            [(b'd', b"first"), (b'd', b""), (b'N', b"notice\0"), (b'd', b"second"), (b'S', b"a\0b\0"), (b'c', b"")];
        let stream: Vec<u8> = parts.iter().flat_map(|(tag, body)| message(*tag, body)).collect();
        let expected: Vec<_> = parts.iter().map(|(tag, body)| (*tag, body.to_vec())).collect();
        assert_eq!(read(&[&stream]), expected);
        for cut in 0..=stream.len() {
            for second in cut..=stream.len() {
                assert_eq!(
                    read(&[&stream[..cut], &stream[cut..second], &stream[second..]]),
                    expected,
                    "{cut} {second}"
                );
            }
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(read(&bytes), expected);
    }

    #[test]
    fn a_length_that_can_not_be_is_refused_before_memory_is_taken() {
        for length in [0_u32, 3, u32::MAX, (1 << 30) + (1 << 20) + 1] {
            let mut inbox = Inbox::new(BytesMut::new());
            inbox.room().extend_from_slice(&message(b'd', b"good"));
            inbox.room().extend_from_slice(b"d");
            inbox.room().extend_from_slice(&length.to_be_bytes());
            assert!(matches!(inbox.take(), Ok(Some(Arrival::Frames(_)))), "what came before is delivered");
            assert!(inbox.room().capacity() <= 2 * READ_BYTES);
            assert!(matches!(inbox.take(), Err(ProtocolError::Length { tag: b'd', .. })), "{length}");
        }
    }

    #[test]
    fn the_buffer_grows_with_a_large_message_and_falls_back() {
        let large = message(b'd', &vec![7; 8 << 20]);
        let mut inbox = Inbox::new(BytesMut::new());
        inbox.room().extend_from_slice(&large[..5]);
        assert!(inbox.room().capacity() <= 2 * READ_BYTES, "not before it has come");
        for piece in large[5..].chunks(100_000) {
            assert!(inbox.take().expect("valid").is_none());
            inbox.room().extend_from_slice(piece);
        }
        inbox.room().extend_from_slice(b"d\0");
        let Ok(Some(Arrival::Frames(frames))) = inbox.take() else { panic!("the message is complete") };
        assert_eq!(frames.len(), large.len());
        assert!(inbox.room().capacity() <= 2 * READ_BYTES);
        assert_eq!(inbox.buffer, b"d\0"[..]);
    }
}

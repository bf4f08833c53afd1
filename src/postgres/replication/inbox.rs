//! The read buffers of a replication stream: bytes in, runs of whole `CopyData` messages out.
//!
//! Each read costs the headers that it brought: whole messages leave at once, with the buffer that they are in, so that at
//! most one partial message is ever copied. The buffers are few, and come home when their frames are used up: until then,
//! nothing more is taken in. Memory follows what has arrived, one large message at a time, and falls back after it.

use std::sync::mpsc::{Receiver, Sender, channel};

use bytes::{Bytes, BytesMut};

use crate::postgres::client::ProtocolError;
use crate::postgres::client::wire::{self, MESSAGE_BYTES_MAX, Message};

/// A buffer's usual size; one read brings at most so much.
const BUFFER_BYTES: usize = 512 << 10;

/// One is read into, one is taken in, and one is on its way between them.
const BUFFERS: usize = 3;

/// Of what is there to be read, so much is handed over at once.
const HANDFUL_BYTES: usize = 128 << 10;

/// Less room than this is not worth a read.
const ROOM_BYTES_MIN: usize = 16 << 10;

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
    /// Initialised from end to end; what has arrived is in `from..to`.
    buffer: Vec<u8>,
    from: usize,
    to: usize,
    /// Those that are at home.
    spare: Vec<Vec<u8>>,
    homecoming: Receiver<Vec<u8>>,
    home: Sender<Vec<u8>>,
}

impl Inbox {
    /// Begins with what was read beyond the start of the stream.
    pub(super) fn new(read_ahead: &BytesMut) -> Self {
        let (home, homecoming) = channel();
        let mut buffer = vec![0; BUFFER_BYTES.max(read_ahead.len())];
        buffer[..read_ahead.len()].copy_from_slice(read_ahead);
        let spare = (1..BUFFERS).map(|_| vec![0; BUFFER_BYTES]).collect();
        Self { buffer, from: 0, to: read_ahead.len(), spare, homecoming, home }
    }

    /// Takes what is complete; none when more must be read first. Blocks while all other buffers are on their way.
    pub(super) fn take(&mut self) -> Result<Option<Arrival>, ProtocolError> {
        let mut end = self.from;
        let next = loop {
            match wire::header(&self.buffer[end..self.to], MESSAGE_BYTES_MAX) {
                Ok(Some((b'd', size))) if self.to - end >= size => end += size,
                next => break next,
            }
        };
        if end > self.from {
            // Whatever comes next, a broken header too, is looked at again by the next call.
            return Ok(Some(Arrival::Frames(self.hand_over(end))));
        }
        match next? {
            Some((tag, size)) if tag != b'd' && self.to - self.from >= size => {
                let body = Bytes::copy_from_slice(&self.buffer[self.from + wire::HEADER_BYTES..self.from + size]);
                self.from += size;
                Ok(Some(Arrival::Other(Message { tag, body })))
            }
            _ => Ok(None),
        }
    }

    /// Where to read into; never empty.
    pub(super) fn room(&mut self) -> &mut [u8] {
        let have = self.to - self.from;
        // At most as much again as has come, so that an announced gigabyte takes no memory before it comes.
        let want = match wire::header(&self.buffer[self.from..self.to], MESSAGE_BYTES_MAX) {
            Ok(Some((_, size))) => size.saturating_sub(have).min(have.max(BUFFER_BYTES)),
            _ => 0,
        };
        let want = want.max(ROOM_BYTES_MIN);
        if self.buffer.len() - self.to < want {
            self.buffer.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, have);
        }
        if self.buffer.len() - self.to < want {
            // One large message at a time: those before it are used up first.
            while self.spare.len() < BUFFERS - 1 {
                self.spare.extend(self.homecoming.recv());
            }
            self.buffer.resize(have + want, 0);
        }
        &mut self.buffer[self.to..]
    }

    /// So many bytes were read into the room.
    pub(super) fn filled(&mut self, bytes: usize) {
        self.to += bytes;
    }

    /// Whether it holds enough to be handed over, whatever else there is to read: each time wakes another thread.
    pub(super) fn is_handful(&self) -> bool {
        self.to - self.from >= HANDFUL_BYTES
    }

    /// What is in the buffer up to `end`, and goes with it; the rest moves on to another.
    fn hand_over(&mut self, end: usize) -> Bytes {
        let rest = &self.buffer[end..self.to];
        // The sender is ours too, so that it is never the end.
        let at_home = self.spare.pop().or_else(|| self.homecoming.recv().ok());
        let mut next = at_home.unwrap_or_else(|| vec![0; BUFFER_BYTES]);
        if next.len() < rest.len() {
            next.resize(rest.len(), 0);
        }
        next[..rest.len()].copy_from_slice(rest);
        let (begin, left) = (self.from, rest.len());
        let frames = Lent { buffer: std::mem::replace(&mut self.buffer, next), home: self.home.clone() };
        (self.from, self.to) = (0, left);
        Bytes::from_owner(frames).slice(begin..end)
    }
}

/// A buffer on its way; it comes home when nobody holds a frame of it any more.
struct Lent {
    buffer: Vec<u8>,
    home: Sender<Vec<u8>>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        if buffer.len() > BUFFER_BYTES {
            buffer = vec![0; BUFFER_BYTES];
        }
        // The reader may be gone.
        self.home.send(buffer).ok();
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

    fn fill(inbox: &mut Inbox, bytes: &[u8]) {
        inbox.room()[..bytes.len()].copy_from_slice(bytes);
        inbox.filled(bytes.len());
    }

    /// What comes out when the stream arrives in these pieces.
    fn read(pieces: &[&[u8]]) -> Vec<(u8, Vec<u8>)> {
        let mut inbox = Inbox::new(&BytesMut::new());
        let mut out = Vec::new();
        for piece in pieces {
            fill(&mut inbox, piece);
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
            let mut inbox = Inbox::new(&BytesMut::new());
            fill(&mut inbox, &message(b'd', b"good"));
            fill(&mut inbox, b"d");
            fill(&mut inbox, &length.to_be_bytes());
            assert!(matches!(inbox.take(), Ok(Some(Arrival::Frames(_)))), "what came before is delivered");
            assert!(inbox.room().len() <= 2 * BUFFER_BYTES);
            assert!(matches!(inbox.take(), Err(ProtocolError::Length { tag: b'd', .. })), "{length}");
        }
    }

    #[test]
    fn the_buffer_grows_with_a_large_message_and_falls_back() {
        let large = message(b'd', &vec![7; 8 << 20]);
        let mut inbox = Inbox::new(&BytesMut::new());
        fill(&mut inbox, &large[..5]);
        assert!(inbox.room().len() <= 2 * BUFFER_BYTES, "not before it has come");
        for piece in large[5..].chunks(100_000) {
            assert!(inbox.take().expect("valid").is_none());
            fill(&mut inbox, piece);
        }
        fill(&mut inbox, b"d\0");
        let Ok(Some(Arrival::Frames(frames))) = inbox.take() else { panic!("the message is complete") };
        assert_eq!(frames.len(), large.len());
        assert!(inbox.room().len() <= 2 * BUFFER_BYTES);
        assert_eq!(inbox.buffer[inbox.from..inbox.to], b"d\0"[..]);
    }
}

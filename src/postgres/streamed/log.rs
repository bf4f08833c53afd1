//! The messages of one streamed transaction, in the order in which they came: the older ones in a file, if they had to make
//! room, the newer ones in memory.
//!
//! A record is the id of the subtransaction, and the frame as version 1 has it. Records are appended, read once from the
//! first to the last, and gone with the log: the file has no name.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;

use super::frames;

/// Memory is taken in pieces of this size, or of one record's that is larger.
const CHUNK_BYTES: usize = 64 << 10;
const XID_BYTES: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Log {
    /// Comes before what is in memory.
    pub(super) file: Option<Arc<File>>,
    pub(super) file_bytes: u64,
    /// Each holds whole records.
    pub(super) chunks: VecDeque<Vec<u8>>,
    memory: usize,
}

impl Log {
    /// Appends a frame of a block. `subxid`: whose it is, if its message says so, behind its type byte. Gives the message as
    /// version 1 has it.
    pub(super) fn push(&mut self, xid: u32, subxid: Option<u32>, frame: &[u8]) -> &[u8] {
        let (head, tail) = frame.split_at(frames::MESSAGE_AT + 1);
        let tail = if subxid.is_some() { &tail[XID_BYTES..] } else { tail };
        let chunk = self.room(XID_BYTES + head.len() + tail.len());
        chunk.extend_from_slice(&subxid.unwrap_or(xid).to_be_bytes());
        frames::put(chunk, frames::header(frame), [&head[frames::MESSAGE_AT..], tail]);
        &chunk[chunk.len() - 1 - tail.len()..]
    }

    /// A piece that has room for so many bytes.
    fn room(&mut self, bytes: usize) -> &mut Vec<u8> {
        let has_room = |chunk: &Vec<u8>| chunk.capacity() - chunk.len() >= bytes;
        if !self.chunks.back().is_some_and(has_room) {
            let chunk = Vec::with_capacity(bytes.max(CHUNK_BYTES));
            self.memory += chunk.capacity();
            self.chunks.push_back(chunk);
        }
        self.chunks.back_mut().expect("one was pushed")
    }

    /// Bytes of memory that it has taken.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    /// Takes what is in memory, to be written behind what is in the file.
    pub(super) fn take(&mut self) -> VecDeque<Vec<u8>> {
        self.memory = 0;
        std::mem::take(&mut self.chunks)
    }
}

/// The first of some records: whose it is, and its frame. None at the end, or if it is not all there.
pub(super) fn first(records: &[u8]) -> Option<(u32, &[u8])> {
    let (xid, rest) = records.split_first_chunk()?;
    Some((u32::from_be_bytes(*xid), frames::first(rest)?))
}

/// How long a record with such a frame is.
pub(super) fn length(frame: &[u8]) -> usize {
    XID_BYTES + frame.len()
}

/// How many bytes must be read to have all of the first record; more than are there, if its length is not.
pub(super) fn needed(records: &[u8]) -> usize {
    records.get(XID_BYTES..).and_then(frames::length).map_or(CHUNK_BYTES, |length| XID_BYTES + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(message: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frames::put(&mut out, &frames::NOWHERE, [message, b""]);
        out
    }

    #[test]
    fn a_record_is_the_frame_without_its_subtransaction() {
        let mut log = Log::default();
        log.push(7, None, &frame(b"Origin"));
        assert_eq!(log.push(7, Some(8), &frame(b"I\0\0\0\x08row")), b"Irow");
        log.push(7, Some(7), &frame(b"Y\0\0\0\x07"));
        let chunk = &log.chunks[0];
        let mut at = 0;
        for (xid, message) in [(7, &b"Origin"[..]), (8, b"Irow"), (7, b"Y")] {
            let expected = frame(message);
            assert_eq!(first(&chunk[at..]), Some((xid, &expected[..])));
            assert_eq!(needed(&chunk[at..]), length(&expected));
            assert_eq!(first(&chunk[at..at + length(&expected) - 1]), None);
            at += length(&expected);
        }
        assert_eq!((at, first(&chunk[at..])), (chunk.len(), None));
    }

    #[test]
    fn memory_is_taken_in_pieces_and_given_away() {
        let mut log = Log::default();
        for size in [10, CHUNK_BYTES / 2, CHUNK_BYTES / 2, 10, 3 * CHUNK_BYTES, 10] {
            assert_eq!(log.push(7, None, &frame(&vec![b'O'; size])).len(), size);
            assert_eq!(log.memory(), log.chunks.iter().map(Vec::capacity).sum::<usize>());
        }
        assert_eq!(log.chunks.len(), 4);
        assert_eq!((log.take().len(), log.memory(), log.chunks.len()), (4, 0, 0));
    }
}

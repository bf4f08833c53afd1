//! Streamed transactions, protocol versions 2 to 4: the messages around them, and what version 1 has in their place.
//!
//! A transaction that outgrows the server's `logical_decoding_work_mem` comes before it ends, in blocks between Stream
//! Start and Stream Stop, and every message of a block carries the id of its subtransaction behind its type byte. Formats:
//! PostgreSQL documentation, section 54.9 "Logical Replication Message Formats"; `src/backend/replication/logical/proto.c`.
//! Invariant: as for the [decoder](super::decode), any bytes give a value or a typed error. Pure; `postgres::streamed` keeps
//! what these messages frame.

use super::reader::{DecodeError, Reader};
use super::{Commit, commit};

/// A message that stands around the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// `S`: a block starts.
    Start {
        /// The top-level transaction.
        xid: u32,
        /// Its first one.
        is_first: bool,
    },
    /// `E`: the block ends.
    Stop,
    /// `c`: the transaction is committed, and complete.
    Commit {
        /// The top-level transaction.
        xid: u32,
        /// As the Commit of version 1.
        commit: Commit,
    },
    /// `A`: a subtransaction was rolled back, or all of it.
    Abort {
        /// The top-level transaction.
        xid: u32,
        /// The subtransaction; equal to `xid` when all of it was.
        subxid: u32,
    },
}

/// What `A` has beside the two ids where `streaming` is `parallel`: the LSN and the time of the abort.
const ABORT_INFO_BYTES: u64 = 8 + 8;

/// Decodes a message that stands around the blocks; none when it is of another kind.
///
/// # Errors
/// When the bytes are not one whole message of that kind.
pub fn control(data: &[u8]) -> Result<Option<Control>, DecodeError> {
    let mut reader = Reader::new(data)?;
    let control = match reader.message() {
        b'S' => Control::Start { xid: reader.u32()?, is_first: reader.u8()? == 1 },
        b'E' => Control::Stop,
        b'c' => Control::Commit { xid: reader.u32()?, commit: commit(&mut reader)? },
        b'A' => {
            let (xid, subxid) = (reader.u32()?, reader.u32()?);
            if reader.remaining() > 0 {
                reader.bytes(ABORT_INFO_BYTES)?;
            }
            Control::Abort { xid, subxid }
        }
        _ => return Ok(None),
    };
    reader.end()?;
    Ok(Some(control))
}

/// The subtransaction, or the top-level transaction itself, of a message in a block: the four bytes behind its type byte. An
/// Origin has none, because it is of the whole transaction. Of a logical message it is always the top-level one
/// ([`is_logical`]).
///
/// # Errors
/// When it is no message that a block may hold.
pub fn subtransaction(data: &[u8]) -> Result<Option<u32>, DecodeError> {
    let mut reader = Reader::new(data)?;
    match reader.message() {
        b'O' => Ok(None),
        b'R' | b'Y' | b'I' | b'U' | b'D' | b'T' | b'M' => reader.u32().map(Some),
        byte => Err(DecodeError::Unexpected { byte }),
    }
}

/// Whether it is a logical message. In a block it has the id of the top-level transaction, whichever subtransaction wrote it
/// (`pgoutput_message` takes `txn->xid` where `pgoutput_change` takes `change->txn->xid`, in every version from 14 to 18).
#[must_use]
pub fn is_logical(message: &[u8]) -> bool {
    message.first() == Some(&b'M')
}

/// The table that a Relation of version 1 describes; none for other messages.
#[must_use]
pub fn described(message: &[u8]) -> Option<u32> {
    let mut reader = Reader::new(message).ok()?;
    if reader.message() == b'R' { reader.u32().ok() } else { None }
}

/// The tables whose rows are in a message of version 1. What is no whole message has none: the decoder says so later.
pub fn tables(message: &[u8]) -> impl Iterator<Item = u32> {
    let oids = match message.split_first() {
        Some((b'I' | b'U' | b'D', rest)) => rest.get(..4),
        // How many, flags, the oids.
        Some((b'T', rest)) => rest.get(5..),
        _ => None,
    };
    oids.unwrap_or_default().as_chunks().0.iter().map(|oid| u32::from_be_bytes(*oid))
}

/// The Begin that version 1 has for a transaction that ends with this Stream Commit.
#[must_use]
pub fn begin_message(xid: u32, commit: &Commit) -> Vec<u8> {
    [&b"B"[..], &commit.commit_lsn.0.to_be_bytes(), &commit.committed_at.to_be_bytes(), &xid.to_be_bytes()].concat()
}

/// The Commit that version 1 has in its place.
#[must_use]
pub fn commit_message(commit: &Commit) -> Vec<u8> {
    let Commit { commit_lsn, end_lsn, committed_at } = commit;
    [&b"C\0"[..], &commit_lsn.0.to_be_bytes(), &end_lsn.0.to_be_bytes(), &committed_at.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Message, decode, fixture};
    use super::*;
    use crate::lsn::Lsn;

    const COMMIT: Commit = Commit { commit_lsn: Lsn(16), end_lsn: Lsn(48), committed_at: -7 };

    fn stream_commit() -> Vec<u8> {
        [&b"c\0\0\x02\xdb"[..], &commit_message(&COMMIT)[1..]].concat()
    }

    #[test]
    fn what_stands_around_the_blocks() {
        for (data, expected) in [
            (&b"S\0\0\x02\xdb\x01"[..], Control::Start { xid: 731, is_first: true }),
            (b"S\0\0\x02\xdb\0", Control::Start { xid: 731, is_first: false }),
            (b"E", Control::Stop),
            (&stream_commit(), Control::Commit { xid: 731, commit: COMMIT }),
            (b"A\0\0\x02\xdb\0\0\x02\xdc", Control::Abort { xid: 731, subxid: 732 }),
            (b"A\0\0\x02\xdb\0\0\x02\xdc0123456701234567", Control::Abort { xid: 731, subxid: 732 }),
        ] {
            assert_eq!(control(data), Ok(Some(expected)));
            for cut in 1..data.len() {
                // What is left of an Abort with more may be one without.
                let whole = cut == 9 && data[0] == b'A';
                assert_eq!(control(&data[..cut]).is_ok(), whole, "{data:?} cut at {cut}");
            }
            assert!(control(&[data, &[0]].concat()).is_err(), "{data:?} and more");
        }
        for other in [&b"B"[..], b"C", b"R", b"I", b"M", b"b", b"P", b"K", b"r", b"p"] {
            assert_eq!(control(other), Ok(None));
        }
        assert_eq!(control(b""), Err(DecodeError::Empty));
        let flags = [&stream_commit()[..5], &[1], &stream_commit()[6..]].concat();
        assert!(matches!(control(&flags), Err(DecodeError::Kind { .. })), "flags would change what it means");
    }

    #[test]
    fn what_version_1_has_in_their_place() {
        let (begin, commit) = (begin_message(731, &COMMIT), commit_message(&COMMIT));
        assert_eq!(begin, fixture::begin(16, -7, 731));
        assert_eq!(commit, fixture::commit(16, 48, -7));
        assert!(matches!(decode(&begin), Ok(Message::Begin(begin)) if begin.final_lsn == COMMIT.commit_lsn));
        assert!(matches!(decode(&commit), Ok(Message::Commit(commit)) if commit == COMMIT));
    }

    #[test]
    fn whose_and_about_what_a_message_is() {
        for byte in *b"RYIUDTM" {
            assert_eq!(subtransaction(&[byte, 0, 0, 2, 0xDB, 9]), Ok(Some(731)));
            assert!(matches!(subtransaction(&[byte, 0, 0, 2]), Err(DecodeError::Truncated { .. })));
        }
        assert_eq!(subtransaction(b"O\0\0"), Ok(None));
        for byte in *b"BCSEcAbPKrp?" {
            assert_eq!(subtransaction(&[byte, 0, 0, 0, 0]), Err(DecodeError::Unexpected { byte }));
        }
        let about = |message: &[u8]| tables(message).collect::<Vec<_>>();
        assert_eq!(about(&fixture::insert(7, &[])), [7]);
        assert_eq!(about(&fixture::update(7, None, &[])), [7]);
        assert_eq!(about(&fixture::delete(7, b'K', &[])), [7]);
        assert_eq!(about(&fixture::truncate(0, &[7, 8, 9])), [7, 8, 9]);
        assert_eq!(about(&fixture::relation(7, "s", "t", b'd', &[])), [0; 0]);
        assert_eq!(described(&fixture::relation(7, "s", "t", b'd', &[])), Some(7));
        assert_eq!(described(&fixture::insert(7, &[])), None);
    }

    proptest! {
        #[test]
        fn no_bytes_can_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = (control(&bytes), subtransaction(&bytes), described(&bytes), tables(&bytes).count());
        }
    }
}

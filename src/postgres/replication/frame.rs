//! What is inside a `CopyData` message of a replication stream.
//!
//! Follows "Streaming Replication Protocol" in the manual, `START_REPLICATION`. Pure; the payload of
//! [`Frame::XLogData`] is for [`super::super::pgoutput`].

use bytes::BytesMut;

use crate::lsn::Lsn;

/// One message of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// `w`: a piece of the change stream.
    XLogData {
        /// The change's LSN; 0/0 for a Relation, the end LSN for a Commit. Equal to `wal_end` from logical decoding.
        wal_start: Lsn,
        /// The server's idea of the end of the WAL; not to be trusted as an acknowledgement.
        wal_end: Lsn,
        /// The server's clock: microseconds since 2000-01-01 UTC.
        sent_at: i64,
        /// One pgoutput message.
        data: &'a [u8],
    },
    /// `k`: the server is alive.
    Keepalive {
        /// How far the server has read the WAL for us.
        wal_end: Lsn,
        /// The server's clock: microseconds since 2000-01-01 UTC.
        sent_at: i64,
        /// The server drops the connection unless a status update comes soon.
        reply_requested: bool,
    },
}

/// A payload that is neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A `CopyData` message without a first byte.
    #[error("an empty replication message")]
    Empty,
    /// Another first byte than `w` and `k`.
    #[error("unknown replication message {0:#04x}")]
    Unknown(u8),
    /// Too short, or too long for a keepalive.
    #[error("replication message {kind:#04x} has {length} bytes; expected {expected}")]
    Length {
        /// Its first byte.
        kind: u8,
        /// How long it is, with the first byte.
        length: usize,
        /// How long it must be (`w`: at least).
        expected: usize,
    },
    /// The keepalive's last byte is neither 0 nor 1.
    #[error("a keepalive asks for a reply with {0:#04x}; expected 0x00 or 0x01")]
    ReplyRequested(u8),
}

/// What is ahead of a message in the payload of an `XLogData`.
pub(crate) const XLOG_DATA_BYTES: usize = 1 + 8 + 8 + 8;
const KEEPALIVE_BYTES: usize = 1 + 8 + 8 + 1;

impl<'a> Frame<'a> {
    /// Reads the payload of a `CopyData` message, as [`crate::source::Batch::next_payload`] gives it. Copies nothing.
    ///
    /// # Errors
    /// Names the byte or the length that makes no sense.
    pub fn parse(payload: &'a [u8]) -> Result<Self, FrameError> {
        let length = |kind, expected| FrameError::Length { kind, length: payload.len(), expected };
        match payload.first() {
            None => Err(FrameError::Empty),
            Some(b'w') => {
                let header: &[u8; XLOG_DATA_BYTES] =
                    payload.first_chunk().ok_or_else(|| length(b'w', XLOG_DATA_BYTES))?;
                Ok(Self::XLogData {
                    wal_start: Lsn(u64_at(header, 1)),
                    wal_end: Lsn(u64_at(header, 9)),
                    sent_at: u64_at(header, 17).cast_signed(),
                    data: &payload[XLOG_DATA_BYTES..],
                })
            }
            Some(b'k') => {
                let bytes: &[u8; KEEPALIVE_BYTES] = payload.try_into().map_err(|_| length(b'k', KEEPALIVE_BYTES))?;
                let reply_requested = match bytes[KEEPALIVE_BYTES - 1] {
                    0 => false,
                    1 => true,
                    other => return Err(FrameError::ReplyRequested(other)),
                };
                Ok(Self::Keepalive {
                    wal_end: Lsn(u64_at(bytes, 1)),
                    sent_at: u64_at(bytes, 9).cast_signed(),
                    reply_requested,
                })
            }
            Some(other) => Err(FrameError::Unknown(*other)),
        }
    }
}

/// The eight bytes from `at` on; callers stay within `N`.
fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|index| bytes[at + index]))
}

/// A Standby Status Update with its `CopyData` header: always so long.
pub(super) const STATUS_UPDATE_BYTES: usize = 5 + 1 + 8 + 8 + 8 + 8 + 1;

/// Appends a Standby Status Update (`r`): nothing is ever reported as applied that is not flushed. With `reply`, the server
/// answers with a keepalive.
pub(super) fn put_status_update(out: &mut BytesMut, received: Lsn, flushed: Lsn, now: i64, reply: bool) {
    out.extend_from_slice(b"d");
    out.extend_from_slice(&38_u32.to_be_bytes());
    out.extend_from_slice(b"r");
    for lsn in [received.max(flushed), flushed, flushed] {
        out.extend_from_slice(&lsn.0.to_be_bytes());
    }
    out.extend_from_slice(&now.to_be_bytes());
    out.extend_from_slice(&[u8::from(reply)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    const A: [u8; 8] = [0, 0, 0, 0x16, 0xB3, 0x74, 0xD8, 0x48];
    const T: [u8; 8] = [0, 0, 0, 0, 0, 0, 0, 7];

    #[test]
    fn changes_and_keepalives() {
        let lsn: Lsn = "16/B374D848".parse().expect("an LSN");
        let data = &b"body"[..];
        assert_eq!(
            Frame::parse(&bytes(&[b"w", &A, &A, &T, b"body"])),
            Ok(Frame::XLogData { wal_start: lsn, wal_end: lsn, sent_at: 7, data })
        );
        assert_eq!(
            Frame::parse(&bytes(&[b"k", &A, &T, &[1]])),
            Ok(Frame::Keepalive { wal_end: lsn, sent_at: 7, reply_requested: true })
        );
    }

    #[test]
    fn anything_else_is_an_error_that_names_the_byte() {
        assert_eq!(Frame::parse(&[]), Err(FrameError::Empty));
        assert_eq!(Frame::parse(&bytes(&[b"x", &A])), Err(FrameError::Unknown(b'x')));
        assert_eq!(Frame::parse(&bytes(&[b"k", &A, &T, &[2]])), Err(FrameError::ReplyRequested(2)));
        let length = |kind, length, expected| Err(FrameError::Length { kind, length, expected });
        assert_eq!(Frame::parse(&bytes(&[b"w", &A, &A])), length(b'w', 17, 25));
        assert_eq!(Frame::parse(&bytes(&[b"k", &A, &T, &[0, 0]])), length(b'k', 19, 18));
        assert_eq!(Frame::parse(&bytes(&[b"k", &A, &T])), length(b'k', 17, 18));
    }

    #[test]
    fn a_status_update_never_says_less_written_than_flushed() {
        let mut out = BytesMut::new();
        put_status_update(&mut out, Lsn(1), Lsn(2), 3, true);
        assert_eq!(out.len(), STATUS_UPDATE_BYTES);
        assert_eq!(out[..6], *b"d\0\0\0\x26r");
        for (at, value) in [(6, 2), (14, 2), (22, 2), (30, 3)] {
            assert_eq!(out[at..at + 8], u64::to_be_bytes(value));
        }
        assert_eq!(out[38], 1);
    }
}

//! `CopyData` messages with `XLogData` in them, as bytes: taken apart, and written.
//!
//! The buffers hold whole messages (`replication::inbox` sees to it), or what was written here.

/// `d`, the length.
const COPY_HEADER_BYTES: usize = 1 + 4;
/// `w` and three 64-bit integers; see `replication::Frame`.
pub(super) const XLOG_HEADER_BYTES: usize = 1 + 8 + 8 + 8;
/// Where an `XLogData`'s message starts.
pub(super) const MESSAGE_AT: usize = COPY_HEADER_BYTES + XLOG_HEADER_BYTES;

/// The first frame of a buffer; none at its end, or if it is not all there.
pub(super) fn first(frames: &[u8]) -> Option<&[u8]> {
    frames.get(..length(frames)?)
}

/// How long the first frame of a buffer is, of which the header must be there.
pub(super) fn length(frames: &[u8]) -> Option<usize> {
    let &[_, a, b, c, d] = frames.first_chunk()?;
    usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?.checked_add(1)
}

/// The pgoutput message of a frame; none when it holds something else.
pub(super) fn message(frame: &[u8]) -> Option<&[u8]> {
    frame.get(MESSAGE_AT..).filter(|_| frame.get(COPY_HEADER_BYTES) == Some(&b'w'))
}

/// Appends a frame with the `XLogData` header of another one, and a message in two parts.
pub(super) fn put(out: &mut Vec<u8>, header: &[u8], [first, second]: [&[u8]; 2]) {
    // What is written is never longer than something that was received, or than a few hundred bytes.
    let length = u32::try_from(4 + header.len() + first.len() + second.len()).expect("fits, as what came in did");
    out.push(b'd');
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(header);
    out.extend_from_slice(first);
    out.extend_from_slice(second);
}

/// The `XLogData` header of a frame that holds a message.
pub(super) fn header(frame: &[u8]) -> &[u8] {
    &frame[COPY_HEADER_BYTES..MESSAGE_AT]
}

/// The header of a Relation: it has no place in the WAL.
pub(super) const NOWHERE: [u8; XLOG_HEADER_BYTES] = {
    let mut header = [0; XLOG_HEADER_BYTES];
    header[0] = b'w';
    header
};

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::lsn::Lsn;
    use crate::postgres::replication::Frame;
    use crate::source::Batch;

    #[test]
    fn what_is_written_is_read_back() {
        let mut out = Vec::new();
        put(&mut out, &NOWHERE, [b"R", b"elation"]);
        let end = out.len();
        put(&mut out, &NOWHERE, [b"", b"other"]);
        assert_eq!(first(&out).map(<[u8]>::len), Some(end));
        assert_eq!(message(&out[..end]), Some(&b"Relation"[..]));
        assert_eq!(header(&out), NOWHERE);
        let mut batch = Batch::new(Bytes::from(out));
        for expected in [&b"Relation"[..], b"other"] {
            let payload = batch.next_payload().expect("a frame");
            let Ok(Frame::XLogData { wal_start, data, .. }) = Frame::parse(payload) else { panic!("an XLogData") };
            assert_eq!((wal_start, data), (Lsn::ZERO, expected));
        }
    }

    #[test]
    fn what_is_not_all_there_is_none() {
        let mut out = Vec::new();
        put(&mut out, &NOWHERE, [b"abc", b""]);
        for cut in 0..out.len() {
            assert_eq!(first(&out[..cut]), None);
        }
        let keepalive = [&b"d\0\0\0\x16k"[..], &[0; 17]].concat();
        assert_eq!(first(&keepalive).map(message), Some(None));
    }
}

//! A streamed transaction that is committed, handed out: Begin, what was kept and not rolled back, Commit.
//!
//! It is read in pieces of some size, whatever the transaction's; `spool` asks the disk for those that are in its file.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;

use super::frames;
use super::log::{self, Log};
use super::relations::{Described, OidSet, Relations};
use crate::postgres::pgoutput::Commit;
use crate::postgres::pgoutput::streamed::{begin_message, commit_message, described, tables};
use crate::postgres::relation::OidMap;

/// How much of the file is read at a time, unless a record is larger.
const READ_BYTES: usize = 256 << 10;

/// A streamed transaction, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Streamed {
    pub(super) log: Log,
    /// The subtransactions that were rolled back.
    pub(super) aborted: OidSet,
    /// How its tables were described last. Those of subtransactions that were rolled back count too: the server need not
    /// send them again.
    pub(super) relations: OidMap<Described>,
    /// Whether some of its logical messages were rolled back.
    pub(super) doubt: Doubt,
}

/// Whether what a subtransaction that was rolled back has written can be told from the rest: a logical message does not say of
/// which it is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// There is no logical message.
    #[default]
    None,
    /// There is, and no subtransaction was rolled back since.
    Possible,
    /// There is, and one was.
    Certain,
}

/// One that is being handed out.
#[derive(Debug)]
pub(super) struct Handout {
    streamed: Streamed,
    /// The frame of its Stream Commit has told where and when.
    header: Vec<u8>,
    commit: Commit,
    /// How each table is described at this place of the transaction, and whether that was handed out.
    here: OidMap<(Bytes, bool)>,
    /// How much of the file was handed out.
    at: u64,
    /// How much is to be read of it.
    want: usize,
    /// What goes out next.
    out: Vec<u8>,
}

/// What comes next of a transaction.
#[derive(Debug)]
pub(super) enum Next {
    /// These frames.
    Frames(Vec<u8>),
    /// Something that must be read first, for [`Handout::take`].
    Read { file: Arc<File>, at: u64, length: usize },
    /// These frames, and then it is complete.
    Last(Vec<u8>),
}

impl Streamed {
    /// A logical message is kept.
    pub(super) fn has_message(&mut self) {
        if self.doubt == Doubt::None {
            self.doubt = Doubt::Possible;
        }
    }

    /// A subtransaction was rolled back.
    pub(super) fn abort(&mut self, subxid: u32) {
        self.aborted.insert(subxid);
        if self.doubt == Doubt::Possible {
            self.doubt = Doubt::Certain;
        }
    }
}

impl Handout {
    /// `frame`: that of the Stream Commit.
    pub(super) fn new(streamed: Streamed, xid: u32, commit: Commit, frame: &[u8]) -> Self {
        let header = frames::header(frame).to_owned();
        let mut out = Vec::new();
        frames::put(&mut out, &header, [&begin_message(xid, &commit), &[]]);
        Self { streamed, header, commit, here: OidMap::default(), at: 0, want: READ_BYTES, out }
    }

    /// What comes next. Not called again after [`Next::Last`].
    pub(super) fn next(&mut self, relations: &mut Relations) -> Next {
        let Log { file, file_bytes, .. } = &self.streamed.log;
        if let Some(file) = file.as_ref().filter(|_| self.at < *file_bytes) {
            let left = usize::try_from(file_bytes - self.at).unwrap_or(usize::MAX);
            return Next::Read { file: Arc::clone(file), at: self.at, length: self.want.min(left) };
        }
        if let Some(chunk) = self.streamed.log.chunks.pop_front() {
            self.sift(&chunk, relations);
            return Next::Frames(std::mem::take(&mut self.out));
        }
        frames::put(&mut self.out, &self.header, [&commit_message(&self.commit), &[]]);
        relations.commit(std::mem::take(&mut self.streamed.relations));
        Next::Last(std::mem::take(&mut self.out))
    }

    /// Takes what was read of the file; what comes of it. None: the file ends within a record.
    pub(super) fn take(&mut self, records: &[u8], relations: &mut Relations) -> Option<Vec<u8>> {
        let taken = self.sift(records, relations);
        if taken == 0 && records.len() < self.want {
            return None;
        }
        self.at += taken as u64;
        self.want = if taken == 0 { log::needed(records).max(records.len() + 1) } else { READ_BYTES };
        Some(std::mem::take(&mut self.out))
    }

    /// Passes on the whole records of `records` that count; how many bytes all of them are.
    fn sift(&mut self, records: &[u8], relations: &mut Relations) -> usize {
        let mut taken = 0;
        while let Some((xid, frame)) = log::first(&records[taken..]) {
            taken += log::length(frame);
            let Some(message) = frames::message(frame) else { continue };
            if let Some(oid) = described(message) {
                self.here.insert(oid, (Bytes::copy_from_slice(message), relations.is_given(oid, message)));
                continue;
            }
            let is_type = message.first() == Some(&b'Y');
            if !is_type && self.streamed.aborted.contains(&xid) {
                continue;
            }
            // Only now: a table may be described as only a subtransaction saw it that was rolled back.
            for oid in tables(message) {
                if let Some((description, is_given)) = self.here.get_mut(&oid)
                    && !std::mem::replace(is_given, true)
                {
                    relations.give(oid, description, &mut self.out);
                }
            }
            self.out.extend_from_slice(frame);
        }
        taken
    }
}

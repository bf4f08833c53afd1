//! Which description of its table each row was sent with, and which one was handed out last.
//!
//! pgoutput describes a table once for all that is not streamed, and once more for each streamed transaction
//! (`maybe_send_schema`). What is streamed is handed out later than it was sent, so the descriptions come in another order:
//! one from before an `ALTER PUBLICATION`, which waits for no writer, could take the place of the newer one, with which rows
//! are sent that follow. Invariant: whenever a row is handed out, the last description of its table that was handed out is
//! the one that it was sent with.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;

use bytes::Bytes;

use super::frames;
use crate::postgres::pgoutput::streamed::{described, tables};
use crate::postgres::relation::{OidHasher, OidMap};

/// A set of oids, or of transaction ids.
pub(super) type OidSet = HashSet<u32, BuildHasherDefault<OidHasher>>;

/// A Relation message, and when it came.
#[derive(Debug, Clone)]
pub(super) struct Described {
    /// Counts those that came in this stream.
    number: u64,
    message: Bytes,
}

/// All of one stream.
#[derive(Debug, Default)]
pub(super) struct Relations {
    count: u64,
    /// What the server thinks is known, outside of streamed transactions.
    known: OidMap<Described>,
    /// What was handed out last.
    given: OidMap<Bytes>,
    /// Where the two differ.
    stale: OidSet,
}

impl Relations {
    /// A message has come that goes out as it is.
    pub(super) fn pass(&mut self, message: &[u8]) {
        let Some(oid) = described(message) else { return };
        let described = self.describe(message);
        self.given.insert(oid, described.message.clone());
        self.known.insert(oid, described);
        self.stale.remove(&oid);
    }

    /// A message has come that is kept. If it describes a table, then within its transaction from here on.
    pub(super) fn keep(&mut self, message: &[u8], within: &mut OidMap<Described>) {
        if let Some(oid) = described(message) {
            within.insert(oid, self.describe(message));
        }
    }

    fn describe(&mut self, message: &[u8]) -> Described {
        self.count += 1;
        Described { number: self.count, message: Bytes::copy_from_slice(message) }
    }

    /// Whether `message` is what was handed out last of this table.
    pub(super) fn is_given(&self, oid: u32, message: &[u8]) -> bool {
        self.given.get(&oid).is_some_and(|given| given == message)
    }

    /// Appends a description to what is handed out.
    pub(super) fn give(&mut self, oid: u32, message: &Bytes, out: &mut Vec<u8>) {
        frames::put(out, &frames::NOWHERE, [message, &[]]);
        self.given.insert(oid, message.clone());
    }

    /// A streamed transaction was handed out, with these as its last ones. From its commit on the server counts them as known
    /// (`cleanup_rel_sync_cache`), unless it has described the table anew since, or is going to.
    pub(super) fn commit(&mut self, within: OidMap<Described>) {
        for (oid, described) in within {
            if self.known.get(&oid).is_none_or(|known| known.number < described.number) {
                self.known.insert(oid, described);
            }
            if self.is_given(oid, &self.known[&oid].message) {
                self.stale.remove(&oid);
            } else {
                self.stale.insert(oid);
            }
        }
    }

    /// Whether a row that goes out as it is needs another description of its table than was handed out last.
    pub(super) fn is_stale(&self, message: &[u8]) -> bool {
        !self.stale.is_empty() && tables(message).any(|oid| self.stale.contains(&oid))
    }

    /// The descriptions that it needs.
    pub(super) fn before(&mut self, message: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for oid in tables(message) {
            if self.stale.remove(&oid)
                && let Some(known) = self.known.get(&oid).map(|known| known.message.clone())
            {
                self.give(oid, &known, &mut out);
            }
        }
        out
    }
}

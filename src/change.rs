//! One change of one transaction, borrowed from the frame it came in.

use crate::lsn::{Lsn, Position};
use crate::postgres::pgoutput::Tuple;
use crate::postgres::relation::Relation;

/// One change, with all that names it.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// Its place in the stream.
    pub position: Position,
    /// The transaction that made it.
    pub transaction: Transaction,
    /// The table, as it is at this place of the WAL.
    pub relation: &'a Relation,
    /// What happened.
    pub row: Row<'a>,
}

/// What Begin says of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction {
    /// Where its commit record starts.
    pub commit_lsn: Lsn,
    /// Microseconds since 2000-01-01 00:00 UTC.
    pub committed_at: i64,
    /// The (top-level) transaction id, 32 bits, without epoch.
    pub xid: u32,
}

/// What happened to a row (or to a whole table).
#[derive(Debug, Clone, Copy)]
pub enum Row<'a> {
    /// A row was inserted.
    Insert {
        /// The row.
        new: Tuple<'a>,
    },
    /// A row was updated.
    Update {
        /// What the replica identity lets us know of the row before; none when the key did not change.
        old: Option<Old<'a>>,
        /// The row; unchanged TOAST values are marked, not carried.
        new: Tuple<'a>,
    },
    /// A row was deleted.
    Delete {
        /// What the replica identity lets us know of it.
        old: Old<'a>,
    },
    /// The table was emptied. One change for each table of the statement.
    Truncate {
        /// `CASCADE`.
        cascade: bool,
        /// `RESTART IDENTITY`.
        restart_identity: bool,
    },
}

/// What is known of a row before its change.
#[derive(Debug, Clone, Copy)]
pub enum Old<'a> {
    /// Only the key columns; the others read as null and are not.
    Key(Tuple<'a>),
    /// The whole row (`REPLICA IDENTITY FULL`).
    Full(Tuple<'a>),
}

impl<'a> Old<'a> {
    /// The values; see the variants for which of them count.
    #[must_use]
    pub fn tuple(self) -> Tuple<'a> {
        match self {
            Self::Key(tuple) | Self::Full(tuple) => tuple,
        }
    }
}

impl Row<'_> {
    /// The operation's name in events and routing keys.
    #[must_use]
    pub fn op(&self) -> &'static str {
        match self {
            Self::Insert { .. } => "insert",
            Self::Update { .. } => "update",
            Self::Delete { .. } => "delete",
            Self::Truncate { .. } => "truncate",
        }
    }
}

//! One change of one transaction, borrowed from the frame it came in.

use crate::lsn::{Lsn, Position};
use crate::postgres::pgoutput::{Tuple, Value};
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

impl<'a> Row<'a> {
    /// A column's value after the change; none when there is no after, or it is not known: large, and left alone by an update.
    /// `is_key`: it is of the replica identity, which is not `full`.
    #[must_use]
    pub fn new_value(&self, column: usize, is_key: bool) -> Option<Value<'a>> {
        match self {
            Self::Insert { new } => new.get(column),
            Self::Update { old, new } => {
                after(new.get(column)?, || old.and_then(|old| known(old, old.tuple().get(column)?, is_key)))
            }
            Self::Delete { .. } | Self::Truncate { .. } => None,
        }
    }

    /// A column's value before the change; none when there is no before, or it is not known. Of an update that leaves the key
    /// alone, the key is known too.
    #[must_use]
    pub fn old_value(&self, column: usize, is_key: bool) -> Option<Value<'a>> {
        match self {
            Self::Update { old: None, new } => new.get(column).filter(|value| is_key && *value != Value::Unchanged),
            Self::Update { old: Some(old), .. } | Self::Delete { old } => known(*old, old.tuple().get(column)?, is_key),
            Self::Insert { .. } | Self::Truncate { .. } => None,
        }
    }
}

/// What an update left alone is what it was before, where that is known.
pub fn after<'a>(new: Value<'a>, old: impl FnOnce() -> Option<Value<'a>>) -> Option<Value<'a>> {
    match new {
        Value::Unchanged => old(),
        Value::Null | Value::Text(_) | Value::Binary(_) => Some(new),
    }
}

/// An old row's value, unless it means nothing: a key tuple has null for all but the key.
#[must_use]
pub fn known<'a>(old: Old<'_>, value: Value<'a>, is_key: bool) -> Option<Value<'a>> {
    match old {
        Old::Full(_) => Some(value),
        Old::Key(_) => is_key.then_some(value),
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

//! Begin, change, commit → changes with their position and their relation.
//!
//! Invariants: it streams, so a transaction's size costs no memory; the ordinal counts every change
//! of the transaction, before any filter, so that a change has the same position at each delivery;
//! and only a Commit that matches its Begin ends a transaction: a half-read one never looks finished.
//! `postgres::pgoutput` decodes what comes in; `pipeline` hands what comes out to `route`.

use crate::change::{Change, Old, Row, Transaction};
use crate::lsn::{Lsn, Position};
use crate::postgres::pgoutput::{Commit, Logical, Message, Tuple};
use crate::postgres::relation::{OidMap, Relation};

/// Puts the messages of one stream into their transactions. Made anew, or [`reset`](Self::reset), for each stream.
#[derive(Debug, Default)]
pub struct Assembler {
    open: Option<Open>,
    relations: OidMap<Relation>,
}

/// The transaction that is being read.
#[derive(Debug)]
struct Open {
    transaction: Transaction,
    next_ordinal: u64,
}

/// What a message amounts to.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// A transaction starts.
    Begin(Transaction),
    /// A table is new in this stream, or is not what it was: whatever was built from it must be rebuilt.
    Relation(&'a Relation),
    /// A row, or one table of a TRUNCATE.
    Change(Change<'a>),
    /// A logical message.
    Message(LogicalMessage<'a>),
    /// The transaction is complete.
    Commit {
        /// As its Begin said.
        transaction: Transaction,
        /// What may be reported once everything up to here is settled.
        end_lsn: Lsn,
    },
}

/// What `pg_logical_emit_message` wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogicalMessage<'a> {
    /// Its place in the stream and its transaction. None when it is not transactional: it then comes at once, even
    /// from a transaction that aborts, and nothing but its `lsn` (which other changes may share) tells where it was.
    pub within: Option<(Position, Transaction)>,
    /// Its LSN, as the server reports it.
    pub lsn: Lsn,
    /// Says whose message it is.
    pub prefix: &'a str,
    /// Any bytes.
    pub content: &'a [u8],
}

/// The messages make no sense in this order: the stream can't be trusted any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssembleError {
    /// A change outside Begin and Commit.
    #[error("a change came outside of any transaction")]
    BareChange,
    /// A Commit without a Begin.
    #[error("the commit at {commit_lsn} came without its begin")]
    BareCommit {
        /// Of the Commit.
        commit_lsn: Lsn,
    },
    /// A Begin inside a transaction.
    #[error("the transaction committed at {begun} began inside the one committed at {open}")]
    NestedBegin {
        /// The commit LSN of the transaction that was being read.
        open: Lsn,
        /// The commit LSN of the one that began.
        begun: Lsn,
    },
    /// A Commit that ends another transaction than the one that began.
    #[error("the transaction that began for the commit at {begun} was ended by the commit at {committed}")]
    CommitMismatch {
        /// The Begin's `final_lsn`.
        begun: Lsn,
        /// The Commit's `commit_lsn`.
        committed: Lsn,
    },
    /// A change of a table that the stream has not described.
    #[error("a change of a table (oid {0}) that the stream has not described")]
    UnknownRelation(u32),
    /// A row that does not fit its table.
    #[error("a row of {relation} has {values} values for {columns} columns")]
    TupleWidth {
        /// `schema.table`.
        relation: String,
        /// What the relation has.
        columns: usize,
        /// What the row has.
        values: usize,
    },
}

/// Why [`Assembler::take`] stopped.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TakeError<E> {
    /// The stream is out of order.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// What the caller's `each` returned.
    #[error("{0}")]
    Each(E),
}

impl Assembler {
    /// Whether a transaction has begun and has not ended.
    #[must_use]
    pub fn in_transaction(&self) -> bool {
        self.open.is_some()
    }

    /// The tables that the stream has described, as they are here.
    pub fn relations(&self) -> impl Iterator<Item = &Relation> {
        self.relations.values()
    }

    /// Forgets the half-read transaction and all tables: a new stream starts over with both.
    pub fn reset(&mut self) {
        self.open = None;
        self.relations.clear();
    }

    /// Takes the next message, and calls `each` for what it amounts to: once, not at all (origins, types,
    /// tables that are described again and are what they were), or once for each table of a TRUNCATE.
    ///
    /// # Errors
    /// When the message does not fit the stream so far, or `each` fails. The stream can't go on after
    /// either: [`reset`](Self::reset) before a new one.
    pub fn take<E>(
        &mut self,
        message: Message<'_>,
        each: &mut impl FnMut(Step<'_>) -> Result<(), E>,
    ) -> Result<(), TakeError<E>> {
        let mut each = |step: Step<'_>| each(step).map_err(TakeError::Each);
        match message {
            Message::Begin(begin) => {
                let (commit_lsn, committed_at, xid) = (begin.final_lsn, begin.committed_at, begin.xid);
                each(Step::Begin(self.begin(Transaction { commit_lsn, committed_at, xid })?))
            }
            Message::Commit(commit) => {
                let transaction = self.commit(commit)?;
                each(Step::Commit { transaction, end_lsn: commit.end_lsn })
            }
            Message::Relation(relation) => match self.replace(relation) {
                Some(relation) => each(Step::Relation(relation)),
                None => Ok(()),
            },
            Message::Origin { .. } | Message::Type { .. } | Message::Aborted { .. } => Ok(()),
            Message::Insert { relation, new } => each(self.row(relation, Row::Insert { new })?),
            Message::Update { relation, old, new } => each(self.row(relation, Row::Update { old, new })?),
            Message::Delete { relation, old } => each(self.row(relation, Row::Delete { old })?),
            Message::Truncate(truncate) => {
                let row = Row::Truncate { cascade: truncate.cascade, restart_identity: truncate.restart_identity };
                truncate.relations().try_for_each(|oid| each(self.row(oid, row)?))
            }
            Message::Logical(logical) => each(self.logical(logical)?),
        }
    }

    fn begin(&mut self, transaction: Transaction) -> Result<Transaction, AssembleError> {
        if let Some(Open { transaction: open, .. }) = self.open {
            return Err(AssembleError::NestedBegin { open: open.commit_lsn, begun: transaction.commit_lsn });
        }
        self.open = Some(Open { transaction, next_ordinal: 0 });
        Ok(transaction)
    }

    fn commit(&mut self, commit: Commit) -> Result<Transaction, AssembleError> {
        let Some(Open { transaction, .. }) = self.open.take() else {
            return Err(AssembleError::BareCommit { commit_lsn: commit.commit_lsn });
        };
        if transaction.commit_lsn != commit.commit_lsn {
            let (begun, committed) = (transaction.commit_lsn, commit.commit_lsn);
            return Err(AssembleError::CommitMismatch { begun, committed });
        }
        Ok(transaction)
    }

    /// Keeps a relation from here on; none when it is known and the same.
    fn replace(&mut self, relation: Relation) -> Option<&Relation> {
        if self.relations.get(&relation.oid) == Some(&relation) {
            return None;
        }
        let oid = relation.oid;
        self.relations.insert(oid, relation);
        self.relations.get(&oid)
    }

    /// Counts a change, and says where it is.
    fn place(&mut self) -> Result<(Position, Transaction), AssembleError> {
        let open = self.open.as_mut().ok_or(AssembleError::BareChange)?;
        let position = Position { commit_lsn: open.transaction.commit_lsn, ordinal: open.next_ordinal };
        open.next_ordinal += 1;
        Ok((position, open.transaction))
    }

    fn row<'a>(&'a mut self, oid: u32, row: Row<'a>) -> Result<Step<'a>, AssembleError> {
        let (position, transaction) = self.place()?;
        let relation = self.relations.get(&oid).ok_or(AssembleError::UnknownRelation(oid))?;
        let (old, new) = match row {
            Row::Insert { new } => (None, Some(new)),
            Row::Update { old, new } => (old, Some(new)),
            Row::Delete { old } => (Some(old), None),
            Row::Truncate { .. } => (None, None),
        };
        for tuple in [old.map(Old::tuple), new].into_iter().flatten() {
            fits(tuple, relation)?;
        }
        Ok(Step::Change(Change { position, transaction, relation, row }))
    }

    fn logical<'a>(&mut self, logical: Logical<'a>) -> Result<Step<'a>, AssembleError> {
        let within = if logical.transactional { Some(self.place()?) } else { None };
        let Logical { lsn, prefix, content, .. } = logical;
        Ok(Step::Message(LogicalMessage { within, lsn, prefix, content }))
    }
}

fn fits(tuple: Tuple<'_>, relation: &Relation) -> Result<(), AssembleError> {
    let (columns, values) = (relation.columns.len(), tuple.len());
    if columns == values {
        return Ok(());
    }
    Err(AssembleError::TupleWidth { relation: relation.to_string(), columns, values })
}

#[cfg(test)]
mod tests;

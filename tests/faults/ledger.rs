//! What was committed: by writer, in the order of its transactions, statement by statement.

use std::ops::{Range, RangeInclusive};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ::pgsluice::lsn::Lsn;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    /// A row for each transaction, so that whether it was committed can be asked.
    Turns,
    Plain,
    /// Large values, `REPLICA IDENTITY FULL`.
    Wide,
    /// One for each writer, since TRUNCATE waits for everybody.
    Scratch,
    Outbox,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Insert,
    Update,
    Delete,
    Truncate,
}

/// What a statement did: one change for each id.
#[derive(Debug, Clone)]
pub(super) struct Statement {
    pub(super) table: Table,
    pub(super) op: Op,
    /// Of the rows as they are afterwards, or were if they are gone. TRUNCATE: the number of the writer.
    pub(super) ids: RangeInclusive<i64>,
    /// The statement's own number, which the rows hold afterwards; 0 where there are none.
    pub(super) change: i64,
}

impl Statement {
    pub(super) fn changes(&self) -> u64 {
        (self.ids.end() - self.ids.start() + 1).unsigned_abs()
    }
}

/// A transaction that was committed.
#[derive(Debug)]
pub(super) struct Turn {
    /// Counts the transactions that the writer began.
    pub(super) number: i64,
    /// What was not undone, in order. The first inserts the row into `turns`.
    pub(super) statements: Vec<Statement>,
    /// Where its commit record starts.
    pub(super) commit_lsn: Range<Lsn>,
}

/// Filled by the writers, held against what arrived at the end.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    turns: Mutex<Vec<Vec<Turn>>>,
    committed: AtomicU64,
    delivered: AtomicU64,
    undone: AtomicU64,
}

impl Ledger {
    pub(super) fn commit(&self, writer: usize, turn: Turn) {
        self.committed.fetch_add(turn.statements.iter().map(Statement::changes).sum(), Ordering::Relaxed);
        let mut turns = self.turns();
        if turns.len() <= writer {
            turns.resize_with(writer + 1, Vec::new);
        }
        turns[writer].push(turn);
    }

    /// A transaction was rolled back, or lost its server.
    pub(super) fn undo(&self) {
        self.undone.fetch_add(1, Ordering::Relaxed);
    }

    /// So many different changes have come.
    pub(super) fn deliver(&self, changes: usize) {
        self.delivered.store(changes as u64, Ordering::Relaxed);
    }

    /// Different changes that have come.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// By writer.
    pub(super) fn turns(&self) -> MutexGuard<'_, Vec<Vec<Turn>>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes that were committed.
    pub(super) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Transactions that were not committed.
    pub(super) fn undone(&self) -> u64 {
        self.undone.load(Ordering::Relaxed)
    }

    /// Changes that were committed, and have not come.
    pub(super) fn backlog(&self) -> u64 {
        self.committed().saturating_sub(self.delivered())
    }
}

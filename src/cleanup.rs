//! Which rows of an outbox may be deleted: those that this process has published, once the checkpoint has passed them.
//!
//! Invariant: a row is handed out only when PostgreSQL may forget its transaction: its event is settled, and never read
//! again. Nothing is concluded from what stands in the table: a row from before the slot was never published, and stays. So do
//! the few that were published right before a crash. Bounded: what can't be deleted for long is left in the table.
//! Pure; `pipeline` notes and hands out, `postgres::outbox_cleanup` deletes.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use crate::lsn::Lsn;

/// So many rows wait for their deletion; those that come then are left in their table.
const ROWS_MAX: usize = 100_000;

/// A row that was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Which of the configuration's outboxes.
    pub outbox: usize,
    /// The text of its id.
    pub id: String,
}

/// The rows that were published, and are not known to be settled.
#[derive(Debug)]
pub struct Cleanup {
    rows: VecDeque<(Lsn, Published)>,
    passed: mpsc::Sender<Published>,
    overflowed: bool,
}

impl Cleanup {
    /// Hands out through this channel.
    #[must_use]
    pub fn new(passed: mpsc::Sender<Published>) -> Self {
        Self { rows: VecDeque::new(), passed, overflowed: false }
    }

    /// An event was made of the row, in the transaction that was committed there. In the order of the stream.
    pub fn note(&mut self, commit_lsn: Lsn, outbox: usize, id: &str) {
        if self.rows.len() < ROWS_MAX {
            self.rows.push_back((commit_lsn, Published { outbox, id: id.to_owned() }));
        } else if !std::mem::replace(&mut self.overflowed, true) {
            tracing::warn!(
                rows = ROWS_MAX,
                "published rows of the outbox come faster than they can be deleted; some are left in the table"
            );
        }
    }

    /// The stream starts over: what is not settled comes again, and with it the rows.
    pub fn restart(&mut self, flushed: Lsn) {
        self.rows.retain(|(commit_lsn, _)| *commit_lsn < flushed);
    }

    /// Everything that was committed before `flushed` is settled, and that is stored.
    pub fn passed(&mut self, flushed: Lsn) {
        while let Some((_, row)) = self.rows.pop_front_if(|(commit_lsn, _)| *commit_lsn < flushed) {
            if let Err(mpsc::error::TrySendError::Full(row)) = self.passed.try_send(row) {
                // Later; whose place is before `flushed` in any case.
                self.rows.push_front((Lsn::ZERO, row));
                return;
            }
        }
        self.overflowed &= !self.rows.is_empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleanup(capacity: usize) -> (Cleanup, mpsc::Receiver<Published>) {
        let (sender, receiver) = mpsc::channel(capacity);
        (Cleanup::new(sender), receiver)
    }

    fn ids(receiver: &mut mpsc::Receiver<Published>) -> Vec<String> {
        std::iter::from_fn(|| receiver.try_recv().ok()).map(|row| row.id).collect()
    }

    #[test]
    fn a_row_is_handed_out_when_its_transaction_is_passed() {
        let (mut cleanup, mut receiver) = cleanup(10);
        for (lsn, id) in [(10, "a"), (10, "b"), (20, "c")] {
            cleanup.note(Lsn(lsn), 0, id);
        }
        cleanup.passed(Lsn(10));
        assert!(ids(&mut receiver).is_empty(), "a transaction ends behind its commit LSN");
        cleanup.passed(Lsn(15));
        assert_eq!(ids(&mut receiver), ["a", "b"]);
        cleanup.restart(Lsn(15));
        cleanup.note(Lsn(20), 0, "c");
        cleanup.passed(Lsn(30));
        assert_eq!(ids(&mut receiver), ["c"], "once");
    }

    #[test]
    fn what_can_not_be_taken_waits_and_too_much_is_left() {
        let (mut cleanup, mut receiver) = cleanup(2);
        for id in 0..ROWS_MAX + 5 {
            cleanup.note(Lsn(10), 0, &id.to_string());
        }
        cleanup.passed(Lsn(20));
        assert_eq!(ids(&mut receiver), ["0", "1"]);
        cleanup.passed(Lsn(20));
        assert_eq!(ids(&mut receiver), ["2", "3"]);
        assert_eq!(cleanup.rows.len(), ROWS_MAX - 4);
        drop(receiver);
        cleanup.passed(Lsn(20));
        assert!(cleanup.rows.is_empty(), "nobody deletes any more");
    }
}

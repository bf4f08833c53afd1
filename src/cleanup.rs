//! Which rows of an outbox may be deleted: those that this process has published, once the checkpoint has passed them.
//!
//! Invariant: a row is handed out only when PostgreSQL may forget its transaction: its event is settled, and never read
//! again. Nothing is concluded from what stands in the table: a row from before the slot was never published, and stays. So do
//! those that were published by a process before this one, of a transaction that was not over: who can tell whether their events
//! went out with their bodies, or were parked without. And those of a transaction of which this process has parked
//! something without its body: the row has all that is left of it. Bounded: what can't be deleted for long is left in the table.
//! Pure; `pipeline` notes and hands out, `postgres::outbox_cleanup` deletes.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use crate::lsn::{Lsn, Position};

/// So many rows of an outbox wait for their deletion; those that come then are left in their table.
const ROWS_MAX: usize = 100_000;

/// The rows that were published, by their outbox's place in the configuration; none: it is not cleaned.
#[derive(Debug)]
pub struct Cleanup {
    queues: Vec<Option<Queue>>,
    /// Transactions whose rows stay, by their commit LSN, until they can't come again.
    kept: Vec<Lsn>,
}

/// Those of one outbox: what its deletion waits for, no other does.
#[derive(Debug)]
struct Queue {
    /// The ids of those that are not known to be settled, in the order of the stream.
    rows: VecDeque<(Position, String)>,
    passed: mpsc::Sender<String>,
    overflowed: bool,
}

impl Cleanup {
    /// Hands out the ids through these channels, one for each outbox that is cleaned.
    #[must_use]
    pub fn new(passed: impl IntoIterator<Item = Option<mpsc::Sender<String>>>) -> Self {
        let queue = |passed| Queue { rows: VecDeque::new(), passed, overflowed: false };
        Self { queues: passed.into_iter().map(|passed| passed.map(queue)).collect(), kept: Vec::new() }
    }

    /// An event was made of the row, by this process and for the first time. In the order of the stream.
    pub fn note(&mut self, position: Position, outbox: usize, id: &str) {
        let Some(Some(queue)) = self.queues.get_mut(outbox) else { return };
        if self.kept.contains(&position.commit_lsn) {
            return;
        }
        if queue.rows.len() < ROWS_MAX {
            queue.rows.push_back((position, id.to_owned()));
        } else if !std::mem::replace(&mut queue.overflowed, true) {
            tracing::warn!(
                rows = ROWS_MAX,
                "published rows of the outbox come faster than they can be deleted; some are left in the table"
            );
        }
    }

    /// Of this transaction, which is not settled yet, something is parked without its body: its rows stay.
    pub fn keep(&mut self, commit_lsn: Lsn) {
        if !self.kept.contains(&commit_lsn) {
            self.kept.push(commit_lsn);
            self.queues.iter_mut().flatten().for_each(|queue| queue.rows.retain(|(at, _)| at.commit_lsn != commit_lsn));
        }
    }

    /// The stream starts over: what was not taken in comes again, and is noted then; what was is not.
    pub fn restart(&mut self, reached: Option<Position>) {
        for queue in self.queues.iter_mut().flatten() {
            queue.rows.retain(|(position, _)| Some(*position) <= reached);
        }
    }

    /// Everything that was committed before `flushed` is settled, and that is stored.
    pub fn passed(&mut self, flushed: Lsn) {
        self.queues.iter_mut().flatten().for_each(|queue| queue.hand_out(flushed));
        self.kept.retain(|commit_lsn| *commit_lsn >= flushed);
    }
}

impl Queue {
    fn hand_out(&mut self, flushed: Lsn) {
        while self.rows.front().is_some_and(|(position, _)| position.commit_lsn < flushed) {
            // What there is no room for comes later.
            let Ok(place) = self.passed.try_reserve().map_err(|error| match error {
                mpsc::error::TrySendError::Full(()) => {}
                mpsc::error::TrySendError::Closed(()) => self.rows.clear(),
            }) else {
                return;
            };
            if let Some((_, id)) = self.rows.pop_front() {
                place.send(id);
            }
        }
        self.overflowed &= !self.rows.is_empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleanup(capacity: usize) -> (Cleanup, mpsc::Receiver<String>) {
        let (sender, receiver) = mpsc::channel(capacity);
        (Cleanup::new([Some(sender)]), receiver)
    }

    fn at(commit_lsn: u64, ordinal: u64) -> Position {
        Position { commit_lsn: Lsn(commit_lsn), ordinal }
    }

    fn ids(receiver: &mut mpsc::Receiver<String>) -> Vec<String> {
        std::iter::from_fn(|| receiver.try_recv().ok()).collect()
    }

    #[test]
    fn a_row_is_handed_out_when_its_transaction_is_passed() {
        let (mut cleanup, mut receiver) = cleanup(10);
        for (position, id) in [(at(10, 0), "a"), (at(10, 1), "b"), (at(20, 0), "c"), (at(20, 1), "d")] {
            cleanup.note(position, 0, id);
        }
        cleanup.passed(Lsn(10));
        assert!(ids(&mut receiver).is_empty(), "a transaction ends behind its commit LSN");
        cleanup.passed(Lsn(15));
        assert_eq!(ids(&mut receiver), ["a", "b"]);
        // Only the first of them was taken in.
        cleanup.restart(Some(at(20, 0)));
        cleanup.note(at(20, 1), 0, "d");
        cleanup.passed(Lsn(30));
        assert_eq!(ids(&mut receiver), ["c", "d"], "once");
    }

    #[test]
    fn a_transaction_of_which_something_is_parked_without_its_body_stays_whatever_comes_again() {
        let (mut cleanup, mut receiver) = cleanup(10);
        for (position, id) in [(at(10, 0), "a"), (at(20, 0), "b"), (at(20, 1), "c"), (at(30, 0), "d")] {
            cleanup.note(position, 0, id);
        }
        cleanup.keep(Lsn(20));
        cleanup.passed(Lsn(15));
        cleanup.restart(Some(at(20, 0)));
        for (position, id) in [(at(20, 1), "c"), (at(30, 0), "d")] {
            cleanup.note(position, 0, id);
        }
        cleanup.passed(Lsn(40));
        assert_eq!(ids(&mut receiver), ["a", "d"]);
        assert!(cleanup.kept.is_empty());
    }

    #[test]
    fn what_can_not_be_taken_waits_and_too_much_is_left() {
        let (mut cleanup, mut receiver) = cleanup(2);
        for id in 0..ROWS_MAX + 5 {
            cleanup.note(at(10, id as u64), 0, &id.to_string());
        }
        let waiting = |cleanup: &Cleanup| cleanup.queues[0].as_ref().map(|queue| queue.rows.len());
        cleanup.passed(Lsn(20));
        assert_eq!(ids(&mut receiver), ["0", "1"]);
        cleanup.restart(Some(at(10, ROWS_MAX as u64)));
        cleanup.passed(Lsn(20));
        assert_eq!(ids(&mut receiver), ["2", "3"]);
        assert_eq!(waiting(&cleanup), Some(ROWS_MAX - 4));
        drop(receiver);
        cleanup.passed(Lsn(20));
        assert_eq!(waiting(&cleanup), Some(0), "nobody deletes any more");
    }

    #[test]
    fn an_outbox_waits_for_no_other() {
        let (first, mut of_first) = mpsc::channel(1);
        let (third, mut of_third) = mpsc::channel(9);
        let mut cleanup = Cleanup::new([Some(first), None, Some(third)]);
        for (outbox, id) in [(0, "a"), (0, "b"), (1, "x"), (2, "c"), (3, "y"), (2, "d")] {
            cleanup.note(at(10, 0), outbox, id);
        }
        cleanup.passed(Lsn(20));
        assert_eq!(
            (ids(&mut of_first), ids(&mut of_third)),
            (vec!["a".to_owned()], vec!["c".to_owned(), "d".to_owned()])
        );
    }
}

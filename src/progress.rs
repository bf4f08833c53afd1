//! The in-flight window: which events are not settled yet, and so how far everything is.
//!
//! Invariant: the watermark passes an event only when it, and every event before it, is settled.
//! What needs no publishing (a filtered change, a commit, an idle keepalive) moves the mark of the
//! last event in flight, or the watermark itself when nothing is in flight. A logical message outside of
//! transactions has no position: it is in its order, and its LSN is what it moves, like a commit's end. Pure; the publisher
//! settles, the checkpoint stores what `watermark` returns.

use std::collections::VecDeque;

use crate::lsn::{Lsn, Position};

/// How far everything is settled, without a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// What PostgreSQL may forget once this is stored: the end of the last transaction of which
    /// everything is settled, or the LSN of a keepalive taken while nothing was unsettled.
    pub flushed: Lsn,
    /// The last change that is settled; it may lie in a transaction that ends after `flushed`.
    pub position: Option<Position>,
}

/// Names an event in flight; counts up by one.
pub type Seq = u64;

/// The events in flight, in stream order.
#[derive(Debug)]
pub struct Window {
    entries: VecDeque<Entry>,
    /// `Seq` of `entries[0]`.
    first: Seq,
    watermark: Progress,
    bytes: usize,
    limits: Limits,
}

/// How much may be in flight. A single event larger than `bytes` is let in alone.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Events.
    pub events: usize,
    /// Bytes of their frames.
    pub bytes: usize,
}

#[derive(Debug)]
struct Entry {
    /// The progress that is made once this and all before it are settled.
    through: Progress,
    bytes: usize,
    settled: bool,
}

impl Window {
    /// An empty window after `progress`.
    #[must_use]
    pub fn new(progress: Progress, limits: Limits) -> Self {
        Self { entries: VecDeque::with_capacity(limits.events), first: 0, watermark: progress, bytes: 0, limits }
    }

    /// Whether another event may be published.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.entries.len() < self.limits.events && self.bytes < self.limits.bytes
    }

    /// Whether everything is settled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Events in flight.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of their frames.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many events were settled, in order and without a hole.
    #[must_use]
    pub fn settled(&self) -> Seq {
        self.first
    }

    /// The name of the event that is published next.
    #[must_use]
    pub fn next_seq(&self) -> Seq {
        self.first + self.entries.len() as Seq
    }

    /// Takes an event into flight. `through` is how far everything is settled once it and all before it are; none: its
    /// change has more events, the last of which moves the position, so that all of them come again until all are settled.
    pub fn publish(&mut self, through: Option<Position>, bytes: usize) -> Seq {
        let reached = self.reached();
        self.push(Progress { position: through.or(reached.position), ..reached }, bytes)
    }

    /// Takes a logical message into flight that is in no transaction. The server sends those that begin at or after the
    /// LSN where a stream starts: so once this one is settled with everything before it, PostgreSQL may forget up to its
    /// end; and all that commits after it was not sent yet.
    pub fn publish_message(&mut self, end_lsn: Lsn, bytes: usize) -> Seq {
        let seq = self.push(self.reached(), bytes);
        self.commit(end_lsn);
        seq
    }

    fn push(&mut self, through: Progress, bytes: usize) -> Seq {
        let seq = self.next_seq();
        self.entries.push_back(Entry { through, bytes, settled: false });
        self.bytes += bytes;
        seq
    }

    /// A change that is not published: settled once everything before it is.
    pub fn skip(&mut self, position: Position) {
        self.reached_mut().position = Some(position);
    }

    /// A transaction's end: PostgreSQL may forget up to `end_lsn` once everything before it is settled.
    ///
    /// After a reconnect, transactions that were taken in before come again; their ends change nothing.
    pub fn commit(&mut self, end_lsn: Lsn) {
        let reached = self.reached_mut();
        reached.flushed = reached.flushed.max(end_lsn);
    }

    /// An idle keepalive, outside any transaction. Counts only while nothing is in flight.
    pub fn idle(&mut self, lsn: Lsn) {
        if self.entries.is_empty() && lsn > self.watermark.flushed {
            self.watermark.flushed = lsn;
        }
    }

    /// Settles one event for good.
    ///
    /// # Panics
    /// When `seq` is not in flight: settling twice is a bug, and would move the watermark too far.
    pub fn settle(&mut self, seq: Seq) {
        let index = seq.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let entry = index.and_then(|index| self.entries.get_mut(index)).expect("a settled event is in flight");
        assert!(!entry.settled, "an event is settled once");
        entry.settled = true;
        // What is behind a hole is remembered, not held.
        self.bytes -= entry.bytes;
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.settled) {
            self.first += 1;
            self.watermark = entry.through;
        }
    }

    /// How far everything is settled.
    #[must_use]
    pub fn watermark(&self) -> Progress {
        self.watermark
    }

    /// The position of the oldest event in flight (of a message outside of transactions: the last one before it), for messages about what is waited for.
    #[must_use]
    pub fn oldest(&self) -> Option<Position> {
        self.entries.front().and_then(|entry| entry.through.position)
    }

    /// The position of this event in flight, as of the [oldest](Self::oldest).
    #[must_use]
    pub fn position(&self, seq: Seq) -> Option<Position> {
        let index = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.entries.get(index)?.through.position
    }

    /// How far the stream was taken in, settled or not.
    #[must_use]
    pub fn reached(&self) -> Progress {
        self.entries.back().map_or(self.watermark, |entry| entry.through)
    }

    /// Whether this change was taken in before: it comes again after a reconnect.
    #[must_use]
    pub fn has_reached(&self, position: Position) -> bool {
        Some(position) <= self.reached().position
    }

    /// Whether the message outside of transactions that ends here was taken in before.
    #[must_use]
    pub fn has_passed(&self, end_lsn: Lsn) -> bool {
        end_lsn <= self.reached().flushed
    }

    fn reached_mut(&mut self) -> &mut Progress {
        self.entries.back_mut().map_or(&mut self.watermark, |entry| &mut entry.through)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(commit: u64, ordinal: u64) -> Position {
        Position { commit_lsn: Lsn(commit), ordinal }
    }

    fn window() -> Window {
        Window::new(Progress::default(), Limits { events: 3, bytes: 100 })
    }

    #[test]
    fn the_watermark_never_passes_a_hole() {
        let mut window = window();
        let first = window.publish(Some(at(10, 0)), 1);
        let second = window.publish(Some(at(10, 1)), 1);
        window.commit(Lsn(20));
        window.settle(second);
        assert_eq!(window.watermark(), Progress::default());
        window.settle(first);
        assert_eq!(window.watermark(), Progress { flushed: Lsn(20), position: Some(at(10, 1)) });
    }

    #[test]
    fn a_change_of_several_events_is_settled_with_the_last_of_them() {
        let mut window = window();
        let [first, second] = [None, Some(at(10, 0))].map(|through| window.publish(through, 1));
        assert!(window.has_reached(at(10, 0)) && !window.has_reached(at(10, 1)));
        window.settle(first);
        assert_eq!(window.watermark().position, None);
        window.settle(second);
        assert_eq!(window.watermark().position, Some(at(10, 0)));
    }

    #[test]
    fn skipped_changes_and_commits_wait_for_what_is_before_them() {
        let mut window = window();
        let event = window.publish(Some(at(10, 0)), 1);
        window.skip(at(10, 1));
        window.commit(Lsn(20));
        window.skip(at(30, 0));
        window.commit(Lsn(40));
        assert_eq!(window.watermark(), Progress::default());
        window.settle(event);
        assert_eq!(window.watermark(), Progress { flushed: Lsn(40), position: Some(at(30, 0)) });
    }

    /// Nothing after it counts before it is settled, and it comes again as long as it is not.
    #[test]
    fn a_message_outside_of_transactions_holds_what_is_behind_it() {
        let mut window = window();
        window.commit(Lsn(20));
        assert!(!window.has_passed(Lsn(25)));
        let message = window.publish_message(Lsn(25), 1);
        assert!(window.has_passed(Lsn(25)) && !window.has_passed(Lsn(26)));
        let event = window.publish(Some(at(30, 0)), 1);
        window.commit(Lsn(40));
        window.settle(event);
        window.idle(Lsn(99));
        assert_eq!(window.watermark(), Progress { flushed: Lsn(20), position: None });
        window.settle(message);
        assert_eq!(window.watermark(), Progress { flushed: Lsn(40), position: Some(at(30, 0)) });
        let message = window.publish_message(Lsn(45), 1);
        window.skip(at(50, 0));
        window.settle(message);
        assert_eq!(window.watermark(), Progress { flushed: Lsn(45), position: Some(at(50, 0)) });
    }

    #[test]
    fn a_transaction_that_comes_again_moves_nothing_backwards() {
        let mut window = window();
        window.commit(Lsn(40));
        window.commit(Lsn(20));
        assert_eq!(window.watermark().flushed, Lsn(40));
    }

    #[test]
    fn skipped_changes_settle_at_once_when_nothing_is_in_flight() {
        let mut window = window();
        window.skip(at(10, 0));
        window.commit(Lsn(20));
        assert_eq!(window.watermark(), Progress { flushed: Lsn(20), position: Some(at(10, 0)) });
    }

    #[test]
    fn a_keepalive_counts_only_while_nothing_is_in_flight_and_never_backwards() {
        let mut window = window();
        window.idle(Lsn(5));
        window.idle(Lsn(4));
        assert_eq!(window.watermark().flushed, Lsn(5));
        let event = window.publish(Some(at(10, 0)), 1);
        window.idle(Lsn(99));
        window.settle(event);
        assert_eq!(window.watermark().flushed, Lsn(5));
    }

    #[test]
    fn room_is_bounded_by_events_and_by_bytes_and_one_large_event_gets_in() {
        let mut window = window();
        assert!(window.has_room());
        let large = window.publish(Some(at(1, 0)), 1_000);
        assert!(!window.has_room());
        window.settle(large);
        for ordinal in 0..3 {
            assert!(window.has_room());
            window.publish(Some(at(2, ordinal)), 1);
        }
        assert!(!window.has_room());
    }
}

//! Rows that could not be deleted when their turn came: tried again after a while, as others come and go.
//!
//! Invariant: bounded; what there is no room for is left in its table, which is all that it costs.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;

/// So many rows wait here.
const ROWS_MAX: usize = 10_000;

pub(super) struct Aside {
    rows: VecDeque<String>,
    /// When they are tried again; none: nothing is aside, nor being tried again.
    due: Option<Instant>,
    backoff: Backoff,
    overflowed: bool,
}

impl Aside {
    pub(super) fn new((min, max): (Duration, Duration)) -> Self {
        Self { rows: VecDeque::new(), due: None, backoff: Backoff::new(min, max), overflowed: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// It is known which row it is: it comes after all others.
    pub(super) fn put_last(&mut self, id: String) {
        if self.has_room(1) {
            self.rows.push_back(id);
        }
    }

    /// One of them is in the way, or several: they come first, so that each attempt finds others.
    pub(super) fn put_first(&mut self, mut ids: Vec<String>) {
        if !self.has_room(ids.len()) {
            ids.truncate(ROWS_MAX - self.rows.len());
        }
        ids.into_iter().rev().for_each(|id| self.rows.push_front(id));
    }

    fn has_room(&mut self, rows: usize) -> bool {
        let wait = &mut self.backoff;
        self.due.get_or_insert_with(|| Instant::now() + wait.next_wait());
        let has_room = rows <= ROWS_MAX - self.rows.len();
        if !has_room && !std::mem::replace(&mut self.overflowed, true) {
            tracing::warn!(
                rows = ROWS_MAX,
                "too many published rows of the outbox can't be deleted; some are left in the table"
            );
        }
        has_room
    }

    /// Those that are tried again now; [`Self::tried`] must follow.
    pub(super) fn take(&mut self, rows_max: usize) -> Vec<String> {
        self.rows.drain(..rows_max.min(self.rows.len())).collect()
    }

    /// What is left after an attempt waits again, and not for long if it got some of them deleted.
    pub(super) fn tried(&mut self, has_deleted: bool) {
        if has_deleted || self.rows.is_empty() {
            self.backoff.reset();
        }
        self.due = (!self.rows.is_empty()).then(|| Instant::now() + self.backoff.next_wait());
        self.overflowed &= !self.rows.is_empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aside() -> Aside {
        Aside::new((Duration::from_secs(1), Duration::from_mins(1)))
    }

    #[test]
    fn what_was_not_tried_alone_comes_before_what_was() {
        let mut aside = aside();
        assert_eq!(aside.due(), None);
        aside.put_last("bad".to_owned());
        aside.put_first(vec!["a".to_owned(), "b".to_owned()]);
        assert!(aside.due().is_some());
        assert_eq!(aside.take(2), ["a", "b"]);
        aside.tried(true);
        assert_eq!(aside.take(2), ["bad"]);
        aside.tried(true);
        assert!(aside.is_empty() && aside.due().is_none());
    }

    #[test]
    fn no_more_are_kept_than_there_is_room_for() {
        let mut aside = aside();
        aside.put_first((0..ROWS_MAX + 5).map(|id| id.to_string()).collect());
        aside.put_last("more".to_owned());
        aside.put_first(vec!["more".to_owned()]);
        let all = aside.take(usize::MAX);
        assert_eq!((all.len(), all[0].as_str()), (ROWS_MAX, "0"));
    }
}

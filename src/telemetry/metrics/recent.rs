//! The last events, for a person who looks: what they are called and where they went, never what is in them.
//!
//! Not all of a busy stream: at most `A_SECOND` in each second are noted, for the strings have to be copied. The others pay
//! for one look at a number; and without anybody who serves them ([`Recent::refill`]), all do.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::cells::Cell;
use crate::encode::message::Event;

/// So many are kept.
const KEPT: usize = 50;
/// So many are noted in a second.
const A_SECOND: u64 = 20;
/// A type, an exchange or a routing key is cut after so many characters.
const TEXT_MAX: usize = 255;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecentEvent {
    /// Commit LSN and ordinal, or the LSN of a message outside of transactions.
    pub position: String,
    /// `schema.table`.
    pub table: String,
    /// The property `type`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Where it went.
    pub exchange: String,
    /// With which routing key.
    pub routing_key: String,
    /// Microseconds since 1970, by the database's clock; none outside of transactions.
    pub committed_at_us: Option<i64>,
}

impl RecentEvent {
    pub(super) fn of(event: &Event, table: &str, at: impl std::fmt::Display, committed_at_us: Option<i64>) -> Self {
        let cut = |text: &str| text.chars().take(TEXT_MAX).collect();
        Self {
            position: at.to_string(),
            table: cut(table),
            event_type: cut(&event.event_type),
            exchange: cut(&event.exchange),
            routing_key: cut(&event.routing_key),
            committed_at_us,
        }
    }
}

/// The last of them.
#[derive(Debug, Default)]
pub struct Recent {
    /// Of two writers, which may be two threads: then a second is short of what was filled in, or of one event.
    budget: Cell,
    events: Mutex<VecDeque<RecentEvent>>,
}

impl Recent {
    /// A second has passed.
    pub fn refill(&self) {
        self.budget.set(A_SECOND);
    }

    pub(super) fn note(&self, event: impl FnOnce() -> RecentEvent) {
        let left = self.budget.get();
        if left == 0 {
            return;
        }
        self.budget.set(left - 1);
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() == KEPT {
            events.pop_front();
        }
        events.push_back(event());
    }

    /// The newest first.
    #[must_use]
    pub fn read(&self) -> Vec<RecentEvent> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_noted_in_a_second_and_so_many_kept() {
        let recent = Recent::default();
        let event = |at: usize| RecentEvent::of(&Event::default(), "public.orders", at, None);
        recent.note(|| panic!("nobody looks"));
        for second in 0..5 {
            recent.refill();
            (0..100).for_each(|at| recent.note(|| event(second * 100 + at)));
        }
        let read = recent.read();
        assert_eq!((read.len(), read[0].position.as_str(), read[49].position.as_str()), (50, "419", "210"));
    }
}

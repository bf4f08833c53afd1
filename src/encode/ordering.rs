//! What an event has to stay in order with, where several lanes publish.
//!
//! `route::ordering` finds it for the changes of tables; `rabbit::lanes` chooses the lane by it. Invariant: events of one key
//! are in one lane for as long as a process lives. After a start nothing is in flight, so nothing depends on the lane
//! that another process has chosen, nor on how many it had.

use std::hash::{DefaultHasher, Hasher as _};

/// What an event has to stay in order with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OrderingKey {
    /// Nothing.
    Any,
    /// The events of the same key, which is hashed.
    One(u64),
    /// All events: everything in flight settles before it goes out, and it settles before anything else does. What nobody
    /// has set is this: it costs speed, never order.
    #[default]
    All,
}

/// Hashes a key, part by part.
#[derive(Debug, Default)]
pub struct KeyHasher(DefaultHasher);

impl KeyHasher {
    /// A key within another one.
    #[must_use]
    pub fn of(whole: OrderingKey) -> Self {
        let mut hasher = Self::default();
        if let OrderingKey::One(hash) = whole {
            hasher.0.write_u64(hash);
        }
        hasher
    }

    /// The next part; of a key that has a fixed number of them.
    pub fn push(&mut self, part: &[u8]) {
        self.0.write_usize(part.len());
        self.0.write(part);
    }

    /// The key.
    #[must_use]
    pub fn finish(&self) -> OrderingKey {
        OrderingKey::One(self.0.finish())
    }
}

impl OrderingKey {
    /// A key that is one text.
    #[must_use]
    pub fn text(text: &str) -> Self {
        let mut hasher = KeyHasher::default();
        hasher.push(text.as_bytes());
        hasher.finish()
    }
}

//! A checkpoint that lives no longer than the process: that of a replay, which ends with it.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Checkpoint, Loading, Store, Storing};

/// Begins with the checkpoint that it is given.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Option<Checkpoint>>);

impl MemoryStore {
    /// A store that holds `checkpoint`.
    #[must_use]
    pub fn new(checkpoint: Option<Checkpoint>) -> Self {
        Self(Mutex::new(checkpoint))
    }
}

impl Store for MemoryStore {
    fn load(self: Arc<Self>) -> Loading {
        let checkpoint = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(async { Ok(checkpoint) })
    }

    fn store(self: Arc<Self>, checkpoint: Checkpoint) -> Storing {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(checkpoint);
        Box::pin(async { Ok(()) })
    }
}

//! Whether a pipeline's loop turns, for who would otherwise take a hung one for an idle one.
//!
//! Who wants to know asks, and looks later; the loop answers with each turn, and an idle one is woken for it. So nothing is
//! timed here, and a loop that nobody asks pays one store a turn.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::sync::Notify;

/// Of one pipeline.
#[derive(Debug, Default)]
pub struct Pulse {
    /// Since somebody asked.
    has_turned: AtomicBool,
    wake: Notify,
}

impl Pulse {
    /// The loop: it turns.
    pub fn turned(&self) {
        self.has_turned.store(true, Relaxed);
    }

    /// The loop, when it has nothing else to do: completes when somebody asks. Cancel-safe.
    pub async fn asked(&self) {
        self.wake.notified().await;
    }

    /// Whoever wants to know: from now on, only a new turn counts.
    pub fn ask(&self) {
        self.has_turned.store(false, Relaxed);
        self.wake.notify_one();
    }

    /// Whether it has turned since it was asked.
    #[must_use]
    pub fn is_felt(&self) -> bool {
        self.has_turned.load(Relaxed)
    }
}

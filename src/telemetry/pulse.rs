//! Whether a pipeline's loop turns, for who would otherwise take a hung one for an idle one.
//!
//! Who wants to know asks, and looks later; the loop answers with each turn, and an idle one is woken for it. So nothing is
//! timed here, and a loop that nobody asks pays one store a turn.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use tokio::sync::Notify;

/// Nobody has seen it turn since it was asked.
const ASKED: u8 = 0;
/// It has turned since.
const TURNED: u8 = 1;
/// It has come to its end, and nobody need wait for its turns.
const ENDED: u8 = 2;

/// Of one pipeline.
#[derive(Debug, Default)]
pub struct Pulse {
    /// One of the above.
    state: AtomicU8,
    wake: Notify,
}

impl Pulse {
    /// The loop: it turns.
    pub fn turned(&self) {
        self.state.store(TURNED, Relaxed);
    }

    /// The loop: it has ended, well or not. One that starts again takes that back.
    pub fn ended(&self) {
        self.state.store(ENDED, Relaxed);
    }

    /// The loop, when it has nothing else to do: completes when somebody asks. Cancel-safe.
    pub async fn asked(&self) {
        self.wake.notified().await;
    }

    /// Whoever wants to know: from now on, only a new turn counts.
    pub fn ask(&self) {
        let _ = self.state.compare_exchange(TURNED, ASKED, Relaxed, Relaxed);
        self.wake.notify_one();
    }

    /// Whether it has turned since it was asked, or need not.
    #[must_use]
    pub fn is_felt(&self) -> bool {
        self.state.load(Relaxed) != ASKED
    }

    /// Whether it has come to its end.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.state.load(Relaxed) == ENDED
    }
}

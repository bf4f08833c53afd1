//! A timer for a deadline that mostly moves away: it is touched only when it fires too early.
//!
//! Arming a timer for every read and write would cost more than the read. `channel` uses it for heartbeats,
//! `publisher` for the confirm timeout and the backoff.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep};

/// Fires at the deadline given when it is polled.
#[derive(Debug)]
pub(super) struct Alarm {
    sleep: Pin<Box<Sleep>>,
}

impl Alarm {
    pub(super) fn new() -> Self {
        Self { sleep: Box::pin(tokio::time::sleep_until(Instant::now())) }
    }

    /// Ready once `due` has passed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
        loop {
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            if self.sleep.is_elapsed() || self.sleep.deadline() > due {
                self.sleep.as_mut().reset(due);
            }
            // When it fires before `due`, it was set for an earlier deadline: set it again.
            ready!(self.sleep.as_mut().poll(cx));
        }
    }
}

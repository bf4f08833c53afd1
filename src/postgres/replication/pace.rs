//! How eagerly to read: at once what little comes, and a backlog in handfuls.
//!
//! A walsender sends each message by a call of its own, and each wakes a reader that waits for it: two processes that wake each
//! other for every row. A reader that naps meanwhile lets the kernel put the messages together: over loopback on the
//! walsender's side, since the receive buffer is full before the nap is over, and what has to wait there leaves in large segments
//! (docs/performance.md). Invariant: there are naps only while so much comes that nobody waits for the first byte of
//! it. No IO.

use std::time::{Duration, Instant};

/// How long. The kernel adds some 50 µs. What piles up unread makes each send dearer again, so that it is short.
const NAP: Duration = Duration::from_micros(200);
/// Over loopback, where nothing can pile up.
const LOOPBACK_NAP: Duration = Duration::from_millis(2);
/// How much is a backlog: so many bytes in a millisecond, some 20,000 small transactions a second. Half of it is its end.
const BUSY_BYTES_PER_MS: u128 = 8 << 10;
/// Between two looks at that.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// After a read of so much, more is there already.
pub(super) const MUCH_BYTES: usize = 16 << 10;

#[derive(Debug)]
pub(super) struct Pace {
    nap: Duration,
    /// The last look, and how much has come since then.
    since: Instant,
    bytes: usize,
    is_busy: bool,
}

impl Pace {
    pub(super) fn new(now: Instant, is_loopback: bool) -> Self {
        let nap = if is_loopback { LOOPBACK_NAP } else { NAP };
        Self { nap, since: now, bytes: 0, is_busy: false }
    }

    /// After a read of so many bytes: whether to nap before the next one, and how long.
    pub(super) fn nap(&mut self, now: Instant, read: usize) -> Option<Duration> {
        self.bytes = self.bytes.saturating_add(read);
        let elapsed = now.duration_since(self.since);
        if elapsed >= LOOK_EVERY {
            let enough = if self.is_busy { BUSY_BYTES_PER_MS / 2 } else { BUSY_BYTES_PER_MS };
            self.is_busy = self.bytes as u128 * 1_000 >= enough * elapsed.as_micros();
            (self.since, self.bytes) = (now, 0);
        }
        (self.is_busy && read < MUCH_BYTES).then_some(self.nap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A read of so many bytes each so often, so many times: after how many of them the first nap was wanted.
    fn first_nap(bytes: usize, every: Duration, times: usize) -> Option<usize> {
        let mut now = Instant::now();
        let mut pace = Pace::new(now, false);
        (1..=times).find(|_| {
            now += every;
            pace.nap(now, bytes).is_some()
        })
    }

    #[test]
    fn a_backlog_is_noticed_within_a_millisecond() {
        assert_eq!(first_nap(120, Duration::from_micros(3), 10_000), Some(334), "as fast as they are read");
        assert_eq!(first_nap(5_000, Duration::from_micros(500), 10), Some(2));
    }

    #[test]
    fn what_comes_now_and_then_is_read_at_once() {
        for (bytes, every) in [(350, 1000), (3_500, 1000), (350, 100), (15_000, 100_000)] {
            assert_eq!(first_nap(bytes, Duration::from_micros(every), 10_000), None, "{bytes} bytes each {every} µs");
        }
    }

    #[test]
    fn what_is_there_already_is_not_waited_for() {
        assert_eq!(first_nap(100_000, Duration::from_micros(100), 10_000), None);
    }

    #[test]
    fn the_end_of_a_backlog_is_noticed() {
        let now = Instant::now();
        let mut pace = Pace::new(now, false);
        assert!(pace.nap(now, 5_000).is_none());
        assert!(pace.nap(now + LOOK_EVERY, 5_000).is_some());
        assert!(pace.nap(now + LOOK_EVERY * 2, 5_000).is_some(), "not at the first lull");
        assert!(pace.nap(now + LOOK_EVERY * 3, 1_000).is_none());
        assert!(pace.nap(now + LOOK_EVERY * 4, 5_000).is_none(), "nor is it one again at once");
    }
}

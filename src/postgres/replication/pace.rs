//! How patiently to read: at once what little comes, and much at a time of a backlog.
//!
//! A walsender sends each message by a call of its own, and each wakes a reader that waits for the first byte: two processes
//! that wake each other for every row. With a low-water mark the kernel puts the messages together, and the reader sleeps
//! meanwhile. Invariant: it waits for more only while so much comes that a quiet moment is over within [`PATIENCE`]. No IO.

use std::time::{Duration, Instant};

/// What a patient read waits for.
pub(super) const LOW_WATER_BYTES: usize = 256 << 10;
/// And how long at most. The kernel rounds it up to its tick of 1 to 10 ms.
pub(super) const PATIENCE: Duration = Duration::from_millis(1);
/// How much is a backlog: in so much time, so many bytes. Some 20,000 rows a second.
const BUSY: (Duration, usize) = (Duration::from_millis(1), 8 << 10);
/// A patient read that brings less has come to its end.
const IDLE_BYTES: usize = BUSY.1 / 2;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// There was nothing yet.
    #[default]
    Idle,
    /// Reads whatever is there. So much has come since then.
    Eager { since: Instant, bytes: usize },
    /// Waits for much.
    Patient,
}

impl Pace {
    /// After a read of so many bytes (0: nothing came in time).
    pub(super) fn after(self, now: Instant, read: usize) -> Self {
        match self {
            Self::Patient if read >= IDLE_BYTES => Self::Patient,
            Self::Idle | Self::Patient => Self::Eager { since: now, bytes: 0 },
            Self::Eager { since, bytes } => {
                let (elapsed, bytes) = (now.duration_since(since), bytes + read);
                if elapsed < BUSY.0 {
                    return Self::Eager { since, bytes };
                }
                let busy = u128::try_from(BUSY.1).unwrap_or(u128::MAX) * elapsed.as_micros() / BUSY.0.as_micros();
                if u128::try_from(bytes).is_ok_and(|bytes| bytes >= busy) {
                    Self::Patient
                } else {
                    Self::Eager { since: now, bytes: 0 }
                }
            }
        }
    }

    pub(super) fn is_patient(self) -> bool {
        self == Self::Patient
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A read of so many bytes each so often; after how many of them it became patient.
    fn patient_after(bytes: usize, every: Duration) -> Option<usize> {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        (1..10_000).find(|_| {
            now += every;
            pace = pace.after(now, bytes);
            pace.is_patient()
        })
    }

    #[test]
    fn a_backlog_is_read_patiently_within_milliseconds() {
        assert_eq!(patient_after(120, Duration::from_micros(3)), Some(335), "small messages as fast as they are read");
        assert_eq!(patient_after(100_000, Duration::from_millis(2)), Some(2));
    }

    #[test]
    fn what_comes_now_and_then_is_read_at_once() {
        for (bytes, every) in [(350, 1000), (3_500, 1000), (350, 100), (200_000, 100_000)] {
            assert_eq!(patient_after(bytes, Duration::from_micros(every)), None, "{bytes} bytes each {every} µs");
        }
    }

    #[test]
    fn the_end_of_a_backlog_ends_the_patience() {
        let now = Instant::now();
        assert_eq!(Pace::Patient.after(now, LOW_WATER_BYTES), Pace::Patient);
        assert_eq!(Pace::Patient.after(now, 100), Pace::Eager { since: now, bytes: 0 });
        assert_eq!(Pace::Patient.after(now, 0), Pace::Eager { since: now, bytes: 0 });
    }
}

//! How far PostgreSQL is held back behind the checkpoint, so that the past can be replayed.
//!
//! PostgreSQL keeps what lies after the LSN that it was told last. So it is told not the checkpoint, but one from before:
//! the newest that a limit no longer covers. Invariants: what is told was a checkpoint once, so that no LSN is ever
//! computed; what is covered by both limits is kept; the marks are few. They are stored
//! with the checkpoint, because a process that restarts once a day would else never see one grow old.
//! Pure: `pipeline` brings checkpoints and the time, and reports what comes out.

use std::time::Duration;

use crate::checkpoint::Mark;
use crate::config::Retain;
use crate::lsn::Lsn;

/// How finely the past is released: a limit is exceeded by at most one part in so many.
const STEPS: u64 = 32;
/// Whoever changes the limits often must not make the checkpoint grow. A mark that is missing releases later.
const MARKS_MAX: usize = 100;
/// From how much on, in bytes, the WAL that is held back is worth a line in the log; and at each doubling.
const NOTEWORTHY_BYTES: u64 = 1 << 30;

/// The checkpoints of the past that PostgreSQL was not told of yet, and the last one that it was.
#[derive(Debug)]
pub struct Retention {
    limits: Retain,
    /// Oldest first, both in LSN and in time. The first may be outside the limits, the others are not.
    marks: Vec<Mark>,
    noteworthy_bytes: u64,
}

impl Retention {
    /// Goes on from the marks that were stored.
    #[must_use]
    pub fn new(limits: Retain, stored: &[Mark]) -> Self {
        let marks = if limits.is_set() { stored.to_vec() } else { Vec::new() };
        Self { limits, marks, noteworthy_bytes: NOTEWORTHY_BYTES }
    }

    /// What PostgreSQL may forget now that the checkpoint at `durable` is stored; none while all of it is to be kept.
    /// `now_ms` counts from 1970.
    pub fn hold(&mut self, durable: Lsn, now_ms: u64) -> Option<Lsn> {
        if !self.limits.is_set() {
            return Some(durable);
        }
        for mark in &mut self.marks {
            // The clock was set back. A mark of the future would be kept until that comes, and all after it too.
            mark.at_ms = mark.at_ms.min(now_ms);
        }
        let limits = self.limits;
        let now = Mark { lsn: durable, at_ms: now_ms };
        if self.marks.last().is_none_or(|last| last.lsn < now.lsn && exceeds(limits, STEPS, *last, now)) {
            if self.marks.len() >= MARKS_MAX {
                self.marks.remove(MARKS_MAX / 2);
            }
            self.marks.push(now);
        }
        let released = self.marks.iter().rposition(|mark| exceeds(limits, 1, *mark, now))?;
        self.marks.drain(..released);
        Some(self.marks[0].lsn)
    }

    /// To be stored with the next checkpoint.
    #[must_use]
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// How many bytes of WAL lie between what PostgreSQL was told and the checkpoint, when that is worth telling.
    pub fn noteworthy(&mut self, durable: Lsn) -> Option<u64> {
        let held = durable.0.saturating_sub(self.marks.first()?.lsn.0);
        if held < self.noteworthy_bytes {
            return None;
        }
        while self.noteworthy_bytes <= held {
            self.noteworthy_bytes *= 2;
        }
        Some(held)
    }
}

/// Whether `now` is past a mark by one of the limits, or by one part in `parts` of it.
fn exceeds(limits: Retain, parts: u64, mark: Mark, now: Mark) -> bool {
    let bytes = limits.bytes.is_some_and(|limit| now.lsn.0.saturating_sub(mark.lsn.0) >= limit / parts);
    let age = Duration::from_millis(now.at_ms.saturating_sub(mark.at_ms));
    bytes || limits.age.is_some_and(|limit| age.as_millis() >= limit.as_millis() / u128::from(parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const HOUR_MS: u64 = 3_600_000;

    fn retention(bytes: Option<u64>, age_ms: Option<u64>) -> Retention {
        Retention::new(Retain { bytes, age: age_ms.map(Duration::from_millis) }, &[])
    }

    /// A checkpoint of one MiB more each minute for a day; what was released at each, and after what.
    fn day(retention: &mut Retention, mut each: impl FnMut(u64, u64, Option<u64>)) {
        for minute in 0..1440 {
            let (lsn, now_ms) = (minute * MIB, minute * 60_000);
            let released = retention.hold(Lsn(lsn), now_ms).map(|lsn| lsn.0);
            assert!(released.is_none_or(|released| released % MIB == 0), "an LSN that was no checkpoint");
            assert!(retention.marks().len() <= MARKS_MAX);
            each(lsn, now_ms, released);
        }
    }

    #[test]
    fn without_limits_nothing_is_held() {
        let mut retention = retention(None, None);
        assert_eq!(retention.hold(Lsn(7), 0), Some(Lsn(7)));
        assert!(retention.marks().is_empty());
    }

    #[test]
    fn so_many_bytes_are_held_and_hardly_more() {
        let limit = 64 * MIB;
        day(&mut retention(Some(limit), None), |lsn, _, released| match released {
            None => assert!(lsn < limit),
            Some(released) => assert!((limit..=limit + limit / STEPS + MIB).contains(&(lsn - released))),
        });
    }

    #[test]
    fn so_much_time_is_held_and_hardly_more() {
        day(&mut retention(None, Some(2 * HOUR_MS)), |_, now_ms, released| match released {
            None => assert!(now_ms < 2 * HOUR_MS),
            Some(released) => {
                let age_ms = now_ms - released / MIB * 60_000;
                assert!((2 * HOUR_MS..=2 * HOUR_MS + 2 * HOUR_MS / STEPS + 60_000).contains(&age_ms));
            }
        });
    }

    #[test]
    fn of_two_limits_the_one_that_is_reached_first_releases() {
        let mut both = retention(Some(64 * MIB), Some(2 * HOUR_MS));
        let mut bytes = retention(Some(64 * MIB), None);
        day(&mut both, |lsn, now_ms, released| {
            let alone = bytes.hold(Lsn(lsn), now_ms).map(|lsn| lsn.0);
            assert!(released.is_none_or(|released| lsn - released < 68 * MIB) && released.is_some() == alone.is_some());
        });
        // Nothing is written any more: now it is the time.
        let end = Lsn(1439 * MIB);
        assert!(both.hold(end, 25 * HOUR_MS).is_some_and(|released| released < end));
        both.hold(end, 26 * HOUR_MS);
        assert_eq!(both.hold(end, 28 * HOUR_MS), Some(end));
        assert!(bytes.hold(end, 28 * HOUR_MS).is_some_and(|released| released < end));
    }

    #[test]
    fn marks_that_were_stored_go_on_growing_old() {
        let mut before = retention(None, Some(HOUR_MS));
        for minute in 0..50 {
            before.hold(Lsn(minute), minute * 60_000);
        }
        let mut after = Retention::new(before.limits, before.marks());
        assert_eq!(after.hold(Lsn(50), 59 * 60_000), None);
        assert!(after.hold(Lsn(50), 70 * 60_000).is_some_and(|released| (8..=10).contains(&released.0)));
    }

    #[test]
    fn a_clock_that_is_set_back_releases_later_and_not_never() {
        let mut retention = retention(None, Some(HOUR_MS));
        retention.hold(Lsn(1), 1_000 * HOUR_MS);
        assert_eq!(retention.hold(Lsn(2), 5 * HOUR_MS), None);
        assert_eq!(retention.hold(Lsn(3), 6 * HOUR_MS), Some(Lsn(1)));
    }

    #[test]
    fn limits_that_change_at_each_restart_do_not_make_the_marks_many() {
        let mut marks = Vec::new();
        for turn in 0..1_000 {
            let age = Some(Duration::from_millis(HOUR_MS << (turn / 100)));
            let mut retention = Retention::new(Retain { bytes: None, age }, &marks);
            retention.hold(Lsn(turn), turn * HOUR_MS / STEPS * (1 << (turn / 100)));
            marks = retention.marks().to_vec();
        }
        assert!(marks.len() <= MARKS_MAX, "{}", marks.len());
    }

    #[test]
    fn what_is_held_is_told_once_a_doubling() {
        let mut retention = retention(None, Some(HOUR_MS));
        let told: Vec<u64> = (0..100)
            .filter(|step| {
                let lsn = Lsn(step * NOTEWORTHY_BYTES / 10);
                retention.hold(lsn, 0);
                retention.noteworthy(lsn).is_some()
            })
            .collect();
        assert_eq!(told, [10, 20, 40, 80]);
    }
}

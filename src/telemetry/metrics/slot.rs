//! What the slot costs at the server, and how far behind its WAL we are in time.
//!
//! Somebody looks at the server now and then ([`crate::postgres::cost`]); here is what follows from the looks. Pure.

use std::collections::VecDeque;
use std::time::Instant;

use crate::lsn::Lsn;

/// So many looks are kept: at one in ten seconds, for a day of lag. When they are more, every other one goes.
const LOOKS_MAX: usize = 1_024;
/// The rate of the WAL is that of the last so many seconds.
const RATE_S: u64 = 300;

/// What a look has found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SlotCost {
    /// The end of the WAL.
    pub wal_end: Lsn,
    /// WAL that the server keeps because of the slot: from `restart_lsn` to the end, in bytes.
    pub retained_bytes: u64,
    /// `reserved`, `extended`, `unreserved`, `lost`; none: there is no slot.
    pub wal_status: Option<String>,
    /// How much may be written until the slot is in danger, in bytes; none: there is no limit.
    pub safe_bytes: Option<u64>,
    /// `max_slot_wal_keep_size` in bytes; none: there is no limit.
    pub keep_bytes_max: Option<u64>,
}

/// All looks.
#[derive(Debug, Default)]
pub struct SlotHistory {
    last: Option<SlotCost>,
    looks: VecDeque<(Instant, Lsn)>,
}

impl SlotHistory {
    /// Another look.
    pub fn look(&mut self, at: Instant, cost: SlotCost) {
        // Another server, after a failover, may be behind.
        if self.looks.back().is_some_and(|(_, wal_end)| *wal_end > cost.wal_end) {
            self.looks.clear();
        }
        if self.looks.len() == LOOKS_MAX {
            let mut keep = false;
            self.looks.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.looks.push_back((at, cost.wal_end));
        self.last = Some(cost);
    }

    /// What the last look has found.
    #[must_use]
    pub fn last(&self) -> Option<&SlotCost> {
        self.last.as_ref()
    }

    /// How long ago WAL was there that is not settled, at least, in microseconds; 0 when there was none.
    #[must_use]
    pub fn lag_us(&self, settled: Lsn, now: Instant) -> u64 {
        let first = self.looks.partition_point(|(_, wal_end)| *wal_end <= settled);
        let age = self.looks.get(first).map(|(at, _)| now.saturating_duration_since(*at).as_micros());
        age.map_or(0, |us| u64::try_from(us).unwrap_or(u64::MAX))
    }

    /// How much WAL the server writes, in bytes a second, over the last minutes; none before the second look.
    #[must_use]
    pub fn wal_bytes_per_s(&self) -> Option<u64> {
        let (end, wal_end) = self.looks.back()?;
        let age_s = |at: &Instant| end.saturating_duration_since(*at).as_secs();
        let (start, wal_start) = self.looks.iter().find(|(at, _)| age_s(at) <= RATE_S)?;
        let ms = u64::try_from(end.saturating_duration_since(*start).as_millis()).ok().filter(|ms| *ms > 0)?;
        Some((wal_end.0 - wal_start.0).saturating_mul(1_000) / ms)
    }

    /// In how many seconds the server would invalidate the slot if it moved no further, at the rate of the last minutes; none:
    /// there is no limit, nothing is written, or it is not known yet.
    #[must_use]
    pub fn invalidation_s(&self) -> Option<u64> {
        let safe = self.last.as_ref()?.safe_bytes?;
        self.wal_bytes_per_s().filter(|rate| *rate > 0).map(|rate| safe / rate)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn cost(wal_end: u64, safe_bytes: Option<u64>) -> SlotCost {
        SlotCost { wal_end: Lsn(wal_end), safe_bytes, ..SlotCost::default() }
    }

    #[test]
    fn the_lag_is_the_age_of_the_first_look_that_saw_what_is_not_settled() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut history = SlotHistory::default();
        assert_eq!(history.lag_us(Lsn(0), at(0)), 0);
        for s in [0, 10, 20] {
            history.look(at(s), cost(1_000 + s, None));
        }
        assert_eq!([1_020, 1_019, 1_010, 999].map(|lsn| history.lag_us(Lsn(lsn), at(25)) / 1_000_000), [0, 5, 5, 25]);
        history.look(at(30), cost(7, None));
        assert_eq!(history.lag_us(Lsn(999), at(40)), 0);
    }

    #[test]
    fn the_time_to_invalidation_follows_from_the_rate_of_the_wal() {
        let start = Instant::now();
        let mut history = SlotHistory::default();
        history.look(start, cost(0, Some(10_000)));
        assert_eq!(history.invalidation_s(), None);
        history.look(start + Duration::from_secs(10), cost(1_000, Some(9_000)));
        assert_eq!((history.wal_bytes_per_s(), history.invalidation_s()), (Some(100), Some(90)));
        // What was long ago does not count.
        for s in 0..40 {
            history.look(start + Duration::from_secs(1_000 + s * 10), cost(2_000, Some(8_000)));
        }
        assert_eq!((history.wal_bytes_per_s(), history.invalidation_s()), (Some(0), None));
    }

    #[test]
    fn the_looks_are_bounded_and_the_oldest_stays() {
        let start = Instant::now();
        let mut history = SlotHistory::default();
        for s in 0..10_000 {
            history.look(start + Duration::from_secs(s), cost(s + 1, None));
        }
        assert!(history.looks.len() <= LOOKS_MAX);
        assert_eq!(history.lag_us(Lsn(0), start + Duration::from_secs(10_000)) / 1_000_000, 10_000);
    }
}

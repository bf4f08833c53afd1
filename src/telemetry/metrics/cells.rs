//! Numbers that one thread writes and any thread reads.
//!
//! Each cell has one writer: the pipeline, or whoever looks at the server. So a write is a load and a store, no locked
//! instruction and no lock, and costs what a plain integer costs; a reader sees each number at some moment of the last turn.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A whole number.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// What it is.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// It is this now.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// It is so much more now.
    pub fn add(&self, more: u64) {
        self.set(self.get().wrapping_add(more));
    }

    /// It is at least this from now on.
    pub fn raise(&self, value: u64) {
        self.set(self.get().max(value));
    }
}

/// A moment in microseconds since 1970; none at first.
#[derive(Debug, Default)]
pub struct Moment(Cell);

impl Moment {
    /// When it was.
    #[must_use]
    pub fn get(&self) -> Option<i64> {
        // Zero is nothing: none of ours is in 1970.
        i64::try_from(self.0.get()).ok().filter(|us| *us != 0)
    }

    /// It was then; none: there is no such moment.
    pub fn set(&self, us: Option<i64>) {
        self.0.set(us.and_then(|us| u64::try_from(us).ok()).unwrap_or(0));
    }
}

/// Upper bounds of a histogram's buckets, in microseconds; what is above the last is in one more.
pub const BOUNDS_US: [u64; 16] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
];

/// How long something took, by buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Each for itself; the last one has no bound.
    buckets: [Cell; BOUNDS_US.len() + 1],
    sum_us: Cell,
}

impl Histogram {
    /// It took so long once more.
    pub fn observe_us(&self, us: u64) {
        let at = BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(BOUNDS_US.len());
        self.buckets[at].add(1);
        self.sum_us.add(us);
    }

    /// How often it took at most as long as each bound, and at all; and all of it together in microseconds.
    #[must_use]
    pub fn read(&self) -> ([u64; BOUNDS_US.len()], u64, u64) {
        let mut count = 0;
        let mut upto = [0; BOUNDS_US.len()];
        for (upto, bucket) in upto.iter_mut().zip(&self.buckets) {
            count += bucket.get();
            *upto = count;
        }
        count += self.buckets[BOUNDS_US.len()].get();
        (upto, count, self.sum_us.get())
    }

    /// The bound, in microseconds, below which so many of a hundred were; none without any, or beyond all bounds.
    #[must_use]
    pub fn percentile_us(&self, percent: u64) -> Option<u64> {
        let (upto, count, _) = self.read();
        let rank = count.saturating_mul(percent).div_ceil(100);
        let at = upto.iter().position(|upto| *upto >= rank)?;
        (count > 0).then(|| BOUNDS_US[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_in_the_bucket_that_bounds_it() {
        let histogram = Histogram::default();
        assert_eq!(histogram.percentile_us(50), None);
        for us in [0, 1_000, 1_001, 400_000_000] {
            histogram.observe_us(us);
        }
        let (upto, count, sum_us) = histogram.read();
        assert_eq!((upto[0], upto[1], upto[15], count, sum_us), (2, 3, 3, 4, 400_002_001));
        assert_eq!(
            (histogram.percentile_us(50), histogram.percentile_us(75), histogram.percentile_us(99)),
            (Some(1_000), Some(2_500), None)
        );
    }
}

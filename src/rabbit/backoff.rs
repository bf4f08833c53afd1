//! How long to wait before trying again: exponential, jittered, repeatable from its seed.

use std::time::Duration;

/// Waits that double from `min` to `max`, each shortened at random by up to a half, so that many processes that
/// lost the same broker do not come back at the same instant.
#[derive(Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    attempt: u32,
    random: u64,
}

impl Backoff {
    pub(super) fn new(min: Duration, max: Duration, seed: u64) -> Self {
        Self { min, max, attempt: 0, random: seed }
    }

    /// The next wait.
    pub(super) fn next(&mut self) -> Duration {
        let full = self.min.saturating_mul(1 << self.attempt.min(20)).min(self.max);
        self.attempt = self.attempt.saturating_add(1);
        // SplitMix64 (Steele, Lea, Flood 2014): enough for jitter, and a seed of 0 is as good as any.
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        let half = full / 2;
        half + half.mul_f64(f64::from((mixed >> 32) as u32) / f64::from(u32::MAX))
    }

    /// Things went well: start from `min` again.
    pub(super) fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_between_its_bounds_with_jitter_and_repeats_from_its_seed() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(5));
        let mut backoff = Backoff::new(min, max, 7);
        let waits: Vec<_> = (0..100).map(|_| backoff.next()).collect();
        for (attempt, wait) in waits.iter().enumerate() {
            let full = min.saturating_mul(1 << attempt.min(20)).min(max);
            assert!(*wait >= full / 2 && *wait <= full, "{attempt}: {wait:?}");
        }
        assert_ne!(waits[50], waits[51]);
        let mut again = Backoff::new(min, max, 7);
        assert_eq!(waits, (0..100).map(|_| again.next()).collect::<Vec<_>>());
        again.reset();
        assert!(again.next() <= min);
    }
}

//! How long to wait before the next attempt: exponential, bounded, jittered.

use std::time::Duration;

/// Waits that double from `min` to `max`, each shortened by a random part of up to its half, so that many
/// clients of one server that restarts don't come back in step.
#[derive(Debug, Clone)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    attempts: u32,
    random: fastrand::Rng,
}

impl Backoff {
    /// Waits between `min` and `max`.
    #[must_use]
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, attempts: 0, random: fastrand::Rng::new() }
    }

    /// The same sequence at every run, for the simulation.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.random.seed(seed);
        self
    }

    /// How long to wait now.
    pub fn next_wait(&mut self) -> Duration {
        let full = self.min.saturating_mul(1 << self.attempts.min(20)).min(self.max);
        self.attempts = self.attempts.saturating_add(1);
        full.mul_f64(0.5 + self.random.f64() / 2.0)
    }

    /// Attempts since the last success.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// It worked: the next trouble starts small again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_within_their_bounds_and_start_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5)).with_seed(7);
        for expected_ms in [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
            let expected = Duration::from_millis(expected_ms);
            let wait = backoff.next_wait();
            assert!(expected / 2 <= wait && wait <= expected, "{wait:?} for {expected:?}");
        }
        for _ in 0..100 {
            assert!(backoff.next_wait() <= Duration::from_secs(5));
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
    }
}

//! The last quarter of an hour, a sample a second, for the page's plots.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

/// Between two samples.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// A quarter of an hour.
const KEPT: usize = 900;
/// Rates are those of the last so many samples.
const RATE_SAMPLES: usize = 10;

/// How it was at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Sample {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// Settled since the start.
    pub events: u64,
    /// Bodies of those, in bytes.
    pub body_bytes: u64,
    /// WAL that is not settled, in bytes.
    pub lag_bytes: u64,
    /// Milliseconds behind.
    pub lag_ms: u64,
    /// In flight.
    pub in_flight_events: u64,
    /// WAL that the slot holds at the server, in bytes.
    pub retained_bytes: u64,
}

/// The last ones.
#[derive(Debug, Default)]
pub struct History(VecDeque<Sample>);

impl History {
    /// The next one.
    pub fn push(&mut self, sample: Sample) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    /// Those after a moment, oldest first.
    #[must_use]
    pub fn after(&self, at_ms: u64) -> Vec<Sample> {
        self.0.iter().filter(|sample| sample.at_ms > at_ms).copied().collect()
    }

    /// Events and bytes a second, over the last ten.
    #[must_use]
    pub fn rates(&self) -> (u64, u64) {
        let Some(last) = self.0.back() else { return (0, 0) };
        let first = &self.0[self.0.len().saturating_sub(RATE_SAMPLES + 1)];
        let ms = last.at_ms.saturating_sub(first.at_ms).max(1);
        let rate = |last: u64, first: u64| last.saturating_sub(first).saturating_mul(1_000) / ms;
        (rate(last.events, first.events), rate(last.body_bytes, first.body_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_an_hour_is_kept_and_the_rate_is_that_of_the_last_seconds() {
        let mut history = History::default();
        assert_eq!(history.rates(), (0, 0));
        for s in 0..2_000 {
            history.push(Sample { at_ms: s * 1_000, events: s * s, body_bytes: s, ..Sample::default() });
        }
        assert_eq!(history.after(0).len(), KEPT);
        assert_eq!(
            history.after(1_997_000).iter().map(|sample| sample.events).collect::<Vec<_>>(),
            [1_998 * 1_998, 1_999 * 1_999]
        );
        assert_eq!(history.rates(), (3_988, 1));
    }
}

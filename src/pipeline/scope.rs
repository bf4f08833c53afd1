//! Which transactions a replay takes in, and when it is over. Pure; `intake` asks.
//!
//! What is taken in is a contiguous piece of the stream, in commit order: from the first transaction that is not before
//! `from`, up to `to`. Commit times are not strictly in commit order, since a transaction takes its time before it takes
//! its place in the WAL. So of those after the first, what was committed later than `to_time` is left out, and the replay
//! is over only at one that was committed a minute later, or at the LSN: none of the time that was asked for
//! is missing.

use anyhow::anyhow;
use tokio::time::Instant;

use crate::change::Transaction;
use crate::encode::time::rfc3339;
use crate::failure::{Definite, Kind};
use crate::lsn::Lsn;

/// How much later than its neighbours a transaction may get its place in the WAL: a minute, which only a clock that is
/// set back exceeds.
const STRAGGLERS_US: i64 = 60_000_000;
/// How often progress is logged.
const LOG_EVERY: std::time::Duration = std::time::Duration::from_secs(10);

/// What is to be replayed. Times are in microseconds since 2000-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Transactions before the first one that was committed then, or later, are left out; none: the stream's start decides.
    pub from_time: Option<i64>,
    /// Transactions whose commit record starts here, or later, are left out.
    pub to: Lsn,
    /// Transactions that were committed later are left out.
    pub to_time: Option<i64>,
}

/// How far a replay has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Transactions of which something was published.
    pub transactions: u64,
    /// Events that were published.
    pub events: u64,
}

/// Judges the transactions of a stream, which may start over after a lost connection.
#[derive(Debug)]
pub struct Scope {
    range: Range,
    state: State,
    tally: Tally,
    /// The transaction that was counted last.
    counted: Option<Lsn>,
    logged: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing of the range has come yet.
    Before {
        /// The stream starts early enough for `from_time`.
        reaches_back: bool,
    },
    /// The first transaction of the range has come.
    Within {
        /// The transaction that began last was committed too late.
        late: bool,
    },
    /// All of it has.
    Over,
}

impl Scope {
    /// Nothing was read yet.
    #[must_use]
    pub fn new(range: Range) -> Self {
        let state = State::Before { reaches_back: range.from_time.is_none() };
        Self { range, state, tally: Tally::default(), counted: None, logged: Instant::now() }
    }

    /// A transaction starts.
    ///
    /// # Errors
    /// It is of the range, and so may others be that PostgreSQL no longer has.
    pub(super) fn begin(&mut self, transaction: &Transaction) -> Result<(), Definite> {
        let Range { from_time, to, .. } = self.range;
        if transaction.commit_lsn >= to || self.late_us(transaction) > STRAGGLERS_US {
            return self.end(Some(transaction));
        }
        let late = self.late_us(transaction) > 0;
        match self.state {
            State::Before { .. } if from_time.is_some_and(|from_time| transaction.committed_at < from_time) => {
                self.state = State::Before { reaches_back: true };
            }
            State::Before { .. } => {
                self.check_start(Some(transaction))?;
                self.state = State::Within { late };
            }
            State::Within { .. } => self.state = State::Within { late },
            State::Over => {}
        }
        Ok(())
    }

    /// Whether the changes of the transaction that began last are replayed.
    pub(super) fn takes(&self) -> bool {
        self.state == State::Within { late: false }
    }

    /// Whether the message outside of transactions that ends here is replayed. It has no time: the transaction before it
    /// speaks for it.
    pub(super) fn takes_message(&self, end_lsn: Lsn) -> bool {
        let is_before = matches!(self.state, State::Before { .. });
        end_lsn <= self.range.to && (self.takes() || is_before && self.range.from_time.is_none())
    }

    /// An event is published, of this transaction or of none.
    pub(super) fn published(&mut self, transaction: Option<&Transaction>) {
        self.tally.events += 1;
        let Some(transaction) = transaction else { return };
        if self.counted.replace(transaction.commit_lsn) != Some(transaction.commit_lsn) {
            self.tally.transactions += 1;
        }
        if self.logged.elapsed() >= LOG_EVERY {
            self.logged = Instant::now();
            let Tally { transactions, events } = self.tally;
            let committed_at = written(transaction.committed_at);
            tracing::info!(transactions, events, at = %transaction.commit_lsn, committed_at, "replaying");
        }
    }

    /// All that committed before `lsn` has come.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub(super) fn reached(&mut self, lsn: Lsn) -> Result<(), Definite> {
        if lsn < self.range.to { Ok(()) } else { self.end(None) }
    }

    /// Whether all of the range has come.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// How far it has come.
    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    fn end(&mut self, earliest: Option<&Transaction>) -> Result<(), Definite> {
        self.check_start(earliest)?;
        self.state = State::Over;
        Ok(())
    }

    /// By how many microseconds it was committed too late.
    fn late_us(&self, transaction: &Transaction) -> i64 {
        self.range.to_time.map_or(0, |to_time| transaction.committed_at.saturating_sub(to_time))
    }

    /// Without a transaction of before `from_time`, nothing says that the stream starts early enough.
    fn check_start(&self, earliest: Option<&Transaction>) -> Result<(), Definite> {
        let (Some(from_time), State::Before { reaches_back: false }) = (self.range.from_time, self.state) else {
            return Ok(());
        };
        let (what, hint) = match earliest {
            Some(earliest) => {
                let (lsn, at) = (earliest.commit_lsn, written(earliest.committed_at));
                (
                    format!("the earliest transaction that PostgreSQL still has for this slot was committed at {at}"),
                    format!("`--from {lsn}` begins with that one"),
                )
            }
            None => (
                format!("PostgreSQL has no transaction before {} any more", self.range.to),
                "see `replay.retain_ms` and `replay.retain_bytes`, which keep the past from now on".to_owned(),
            ),
        };
        let error = anyhow!("the past from {} on is not known to be there: {what}", written(from_time));
        Err(Definite::new(Kind::Usage, error, hint))
    }
}

fn written(time: i64) -> String {
    let mut text = Vec::new();
    rfc3339(&mut text, time);
    String::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn range(from_s: Option<i64>, to: u64, to_s: Option<i64>) -> Scope {
        let us = |seconds: Option<i64>| seconds.map(|seconds| seconds * SECOND);
        Scope::new(Range { from_time: us(from_s), to: Lsn(to), to_time: us(to_s) })
    }

    /// What is taken in of transactions, given as commit LSN and second; each ends right before the next LSN.
    fn taken(scope: &mut Scope, transactions: &[(u64, i64)]) -> Result<Vec<u64>, Definite> {
        let mut taken = Vec::new();
        for &(lsn, second) in transactions {
            let transaction = Transaction { commit_lsn: Lsn(lsn), committed_at: second * SECOND, xid: 1 };
            scope.begin(&transaction)?;
            if scope.is_over() {
                break;
            }
            if scope.takes() {
                scope.published(Some(&transaction));
                scope.published(Some(&transaction));
                taken.push(lsn);
            }
            scope.reached(Lsn(lsn + 1))?;
        }
        Ok(taken)
    }

    #[tokio::test]
    async fn an_lsn_ends_before_the_transaction_that_commits_there() {
        let mut scope = range(None, 30, None);
        assert_eq!(taken(&mut scope, &[(10, 5), (20, 4), (30, 3)]).expect("is fine"), [10, 20]);
        assert!(scope.is_over());
        assert_eq!(scope.tally(), Tally { transactions: 2, events: 4 });
        let mut scope = range(None, 31, None);
        assert_eq!(taken(&mut scope, &[(10, 5), (30, 3)]).expect("is fine"), [10, 30]);
        assert!(scope.is_over(), "nothing can commit before 31 any more");
    }

    #[tokio::test]
    async fn a_message_outside_of_transactions_is_of_the_time_of_the_one_before_it() {
        let mut scope = range(None, 30, None);
        assert!(scope.takes_message(Lsn(5)) && scope.takes_message(Lsn(30)) && !scope.takes_message(Lsn(31)));
        taken(&mut scope, &[(10, 1)]).expect("is fine");
        scope.published(None);
        assert_eq!(scope.tally(), Tally { transactions: 1, events: 3 });
        let mut scope = range(Some(100), 1_000, Some(200));
        for (lsn, second, is_taken) in [(1, 99, false), (2, 100, true), (3, 201, false), (4, 200, true)] {
            taken(&mut scope, &[(lsn, second)]).expect("is fine");
            assert_eq!(scope.takes_message(Lsn(lsn + 1)), is_taken, "after {second}");
        }
        taken(&mut scope, &[(5, 300)]).expect("is fine");
        assert!(scope.is_over() && !scope.takes_message(Lsn(6)));
    }

    #[tokio::test]
    async fn an_idle_server_ends_it_too() {
        let mut scope = range(None, 30, None);
        scope.reached(Lsn(29)).expect("is fine");
        assert!(!scope.is_over());
        scope.reached(Lsn(30)).expect("is fine");
        assert!(scope.is_over());
    }

    /// Commit times are not strictly in commit order.
    #[tokio::test]
    async fn nothing_of_the_time_that_was_asked_for_is_missing() {
        let mut scope = range(Some(100), 1_000, Some(200));
        let transactions =
            [(1, 98), (2, 100), (3, 99), (4, 150), (5, 201), (6, 200), (7, 260), (8, 199), (9, 261), (10, 180)];
        assert_eq!(taken(&mut scope, &transactions).expect("is fine"), [2, 3, 4, 6, 8]);
        assert!(scope.is_over());
    }

    #[tokio::test]
    async fn a_past_that_may_begin_too_late_is_refused() {
        for transactions in [&[(1, 100), (2, 101)][..], &[(1, 300)], &[(2_000, 100)]] {
            let error = taken(&mut range(Some(100), 1_000, Some(200)), transactions).expect_err("is refused");
            assert!(error.kind == Kind::Usage && error.hint.contains("`--from 0/"), "{error} {}", error.hint);
        }
        let mut nothing = range(Some(100), 1_000, None);
        let error = nothing.reached(Lsn(1_000)).expect_err("is refused");
        assert!(error.to_string().contains("no transaction before 0/3E8"), "{error}");
        assert_eq!(taken(&mut range(Some(100), 1_000, None), &[(1, 99)]).expect("is fine"), [0; 0]);
    }

    /// A transaction that was half read comes again.
    #[tokio::test]
    async fn a_stream_that_starts_over_counts_a_transaction_once() {
        let mut scope = range(None, 100, None);
        for _ in 0..2 {
            taken(&mut scope, &[(10, 1)]).expect("is fine");
        }
        assert_eq!(scope.tally().transactions, 1);
    }
}

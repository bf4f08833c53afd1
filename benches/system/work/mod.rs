//! What is replicated: the workloads of the issue, and the restart.

mod load;
mod rows;
mod tables;

pub(crate) use load::{commit_paced, generate};
pub(crate) use tables::create;

/// A shape of WAL, or of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    /// (a) one row a transaction.
    OneRow,
    /// (b) 1,000 rows a transaction.
    Thousand,
    /// (c) one transaction of everything.
    Giant,
    /// (d) updates with the whole old row.
    FullUpdates,
    /// (e) an outbox with 1 KiB of JSON.
    Outbox,
    /// (f) 100 columns of many types.
    Wide,
    /// (g) latency under a live load.
    Latency,
    /// (h) 1,000 tables.
    FanOut,
    /// (i) catching up while the load goes on.
    Outage,
    /// (r) from a start to the first event.
    Restart,
}

/// Rows in a transaction, where it has several.
pub(crate) const TRANSACTION_ROWS: u64 = 1_000;

impl Workload {
    pub(crate) const ALL: [Self; 10] = [
        Self::OneRow,
        Self::Thousand,
        Self::Giant,
        Self::FullUpdates,
        Self::Outbox,
        Self::Wide,
        Self::FanOut,
        Self::Restart,
        Self::Latency,
        Self::Outage,
    ];
    pub(crate) const QUICK: [Self; 2] = [Self::OneRow, Self::Thousand];

    /// By its letter.
    pub(crate) fn of(letter: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|workload| workload.letter() == letter);
        known.ok_or_else(|| "the workloads are a b c d e f g h i r".to_owned())
    }

    pub(crate) fn letter(self) -> &'static str {
        match self {
            Self::OneRow => "a",
            Self::Thousand => "b",
            Self::Giant => "c",
            Self::FullUpdates => "d",
            Self::Outbox => "e",
            Self::Wide => "f",
            Self::Latency => "g",
            Self::FanOut => "h",
            Self::Outage => "i",
            Self::Restart => "r",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::OneRow => "inserts, one row a transaction",
            Self::Thousand => "inserts, 1,000 rows a transaction",
            Self::Giant => "inserts, one transaction",
            Self::FullUpdates => "updates with REPLICA IDENTITY FULL, 1,000 rows a transaction",
            Self::Outbox => "outbox rows with 1 KiB of JSON, 1,000 a transaction",
            Self::Wide => "inserts of 100 columns of ten types, 1,000 rows a transaction",
            Self::Latency => "latency from commit to consumer",
            Self::FanOut => "inserts into 1,000 tables, a row each in a transaction",
            Self::Outage => "catching up after the broker was away, while the load goes on",
            Self::Restart => "from a start to the first event",
        }
    }

    /// Events for contestants that go nowhere; unscaled.
    pub(crate) fn rows(self) -> u64 {
        match self {
            Self::Giant => 10_000_000,
            Self::OneRow | Self::Thousand | Self::FullUpdates | Self::FanOut => 1_000_000,
            Self::Outbox => 400_000,
            Self::Wide | Self::Restart | Self::Latency | Self::Outage => 100_000,
        }
    }

    /// And for those that go to the broker, which takes some 20,000 in a second: so many that what the start costs does
    /// not count.
    pub(crate) fn rows_to_broker(self) -> u64 {
        match self {
            Self::Wide => 80_000,
            Self::OneRow | Self::Thousand | Self::FullUpdates | Self::FanOut | Self::Giant | Self::Outbox => 160_000,
            Self::Restart | Self::Latency | Self::Outage => self.rows(),
        }
    }
}

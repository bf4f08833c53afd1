//! A source that is read with or without streaming, and what came of it, as texts that can be compared.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use pgsluice::change::{Change, Row};
use pgsluice::checkpoint::memory::MemoryStore;
use pgsluice::config::{Origin, Retain, SourceSettings, Streaming};
use pgsluice::failure::Failure;
use pgsluice::postgres::conninfo::Conninfo;
use pgsluice::postgres::open::PostgresSource;
use pgsluice::postgres::pgoutput::{Value, decode};
use pgsluice::postgres::replication::Frame;
use pgsluice::postgres::watch::WatchedStream;
use pgsluice::route::select::Selection;
use pgsluice::source::{Batch, ChangeStream, Opened, Resume, Source};
use pgsluice::transaction::{Assembler, Step};

use crate::support::{Database, SOON, eventually};

/// So little that each transaction of some thousand rows is streamed.
pub(super) const STREAM_SOON: &str = "SET logical_decoding_work_mem = '64kB'";

/// The smallest bound: what is streamed goes into files.
pub(super) fn streaming() -> Streaming {
    Streaming { memory_bytes: 65_536, folder: std::env::temp_dir() }
}

/// A source with a slot of its own, which is named after the database.
pub(super) fn settings(database: &Database, slot: &str, streaming: Option<Streaming>) -> SourceSettings {
    SourceSettings {
        conninfo: Conninfo::parse(&database.url()).expect("a valid URL"),
        tables: Selection::parse(&["*.*".to_owned()]).expect("a valid pattern"),
        filters: Vec::new(),
        slot: format!("{}_{slot}", database.name()),
        publication: "p".to_owned(),
        report_every: Duration::from_secs(10),
        // What becomes of the publication is part of the tests.
        watch_every: Duration::from_hours(1),
        standby_timeout: None,
        binary: false,
        retain: Retain::default(),
        streaming,
        origin: Origin::Any,
    }
}

/// A source, what it has opened, and what has come of that.
pub(super) struct Recorder {
    source: PostgresSource,
    stream: WatchedStream,
    pending: Batch,
    assembler: Assembler,
    /// Every change and logical message, with all that names it.
    pub(super) changes: Vec<String>,
}

impl Recorder {
    /// Opens a stream from a slot's beginning; makes the slot if there is none.
    pub(super) async fn open(settings: &SourceSettings) -> Self {
        let source = PostgresSource::new(settings.clone(), Vec::new());
        let stream = Self::try_open(&source).await.expect("opens");
        Self { source, stream, pending: Batch::default(), assembler: Assembler::default(), changes: Vec::new() }
    }

    pub(super) async fn try_open(source: &PostgresSource) -> Result<WatchedStream, Failure> {
        let resume = Resume { store: Arc::new(MemoryStore::new(None)), reached: None };
        let opening = source.open(resume);
        tokio::time::timeout(SOON, opening).await.expect("opens in time").map(|Opened { stream, .. }| stream)
    }

    /// Opens it again, from the slot's beginning.
    pub(super) async fn open_again(mut self) -> Self {
        drop(self.stream);
        self.stream = Self::try_open(&self.source).await.expect("opens again");
        self.pending = Batch::default();
        self.assembler.reset();
        self.changes.clear();
        self
    }

    /// Reads on, until the row of the table `done` with this number has come, and its transaction's end.
    pub(super) async fn until(mut self, number: u32) -> Self {
        self.read(number).await.expect("the stream goes on");
        self
    }

    /// [`Self::until`], or until the stream fails.
    pub(super) async fn read(&mut self, number: u32) -> Result<(), Failure> {
        let last = number.to_string();
        let mut found = false;
        while !found || self.assembler.in_transaction() {
            let Some(payload) = self.pending.next_payload() else {
                let next = tokio::time::timeout(2 * SOON, self.stream.next()).await;
                self.pending = next.unwrap_or_else(|_| panic!("{last} comes"))?;
                continue;
            };
            let Frame::XLogData { data, .. } = Frame::parse(payload).expect("a frame") else { continue };
            let changes = &mut self.changes;
            let message = decode(data).expect("a message of version 1");
            let taken = self.assembler.take::<Infallible>(message, &mut |step| {
                match step {
                    Step::Change(Change { relation, row: Row::Insert { new }, .. }) if relation.name == "done" => {
                        found |= new.get(0) == Some(Value::Text(last.as_bytes()));
                    }
                    Step::Change(_) | Step::Message(_) => changes.push(format!("{step:?}")),
                    // An empty transaction is one only for PostgreSQL 14; descriptions come where they are needed.
                    Step::Begin(_) | Step::Relation(_) | Step::Commit { .. } => {}
                }
                Ok(())
            });
            taken.expect("the messages are in order");
        }
        Ok(())
    }
}

/// How many transactions the server has streamed through a slot.
pub(super) async fn streamed(database: &Database, settings: &SourceSettings) -> u64 {
    let sql = format!("SELECT stream_txns FROM pg_stat_replication_slots WHERE slot_name = '{}'", settings.slot);
    database.query_one(&sql).await.parse().expect("a number")
}

/// Waits until the server has streamed so many through a slot; its statistics come late.
pub(super) async fn has_streamed(database: &Database, settings: &SourceSettings, transactions: u64) {
    eventually("transactions are streamed", SOON, async || {
        (streamed(database, settings).await >= transactions).then_some(())
    })
    .await;
}

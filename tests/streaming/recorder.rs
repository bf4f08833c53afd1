//! A source that is read with or without streaming, and what came of it, as texts that can be compared.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pgsluice::checkpoint::Checkpoint;
use pgsluice::checkpoint::memory::MemoryStore;
use pgsluice::config::{Origin, Retain, SourceSettings, Streaming};
use pgsluice::failure::Failure;
use pgsluice::postgres::conninfo::Conninfo;
use pgsluice::postgres::open::PostgresSource;
use pgsluice::postgres::pgoutput::decode;
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
        slot: format!("{}_{slot}", database.name()),
        publication: "p".to_owned(),
        report_every: Duration::from_secs(10),
        // What becomes of the publication is part of the tests.
        watch_every: Duration::from_hours(1),
        standby_timeout: None,
        retain: Retain::default(),
        streaming,
        origin: Origin::Any,
    }
}

pub(super) async fn open(
    settings: &SourceSettings,
    checkpoint: Option<Checkpoint>,
) -> Result<Opened<WatchedStream>, Failure> {
    let resume = Resume { store: Arc::new(MemoryStore::new(checkpoint)), reached: None };
    tokio::time::timeout(SOON, PostgresSource::new(settings.clone(), None).open(resume)).await.expect("opens in time")
}

/// An open stream, and what has come of it.
pub(super) struct Recorder {
    stream: WatchedStream,
    pending: Batch,
    assembler: Assembler,
    pub(super) start: Checkpoint,
    /// Every change and logical message, with all that names it.
    pub(super) changes: Vec<String>,
}

impl Recorder {
    /// Opens a stream from a slot's beginning; makes the slot if there is none.
    pub(super) async fn open(settings: &SourceSettings) -> Self {
        let Opened { stream, start, .. } = open(settings, None).await.expect("opens");
        Self { stream, pending: Batch::default(), assembler: Assembler::default(), start, changes: Vec::new() }
    }

    /// Reads on, until the row of the table `done` with this number has come, and its transaction's end.
    pub(super) async fn until(mut self, number: u32) -> Self {
        let last = format!("{number}");
        let mut found = false;
        while !found || self.assembler.in_transaction() {
            let Some(payload) = self.pending.next_payload() else {
                let next = tokio::time::timeout(2 * SOON, self.stream.next()).await;
                self.pending = next.unwrap_or_else(|_| panic!("{last} comes")).expect("the stream goes on");
                continue;
            };
            let Frame::XLogData { data, .. } = Frame::parse(&payload).expect("a frame") else { continue };
            let message = decode(&data).expect("a message of version 1");
            let changes = &mut self.changes;
            let taken = self.assembler.take::<Infallible>(message, &mut |step| {
                match step {
                    Step::Change(change) if change.relation.name == "done" => {
                        found |= format!("{:?}", change.row).contains(&format!("{:?}", last.as_bytes()).replace('[', "").replace(']', ""));
                    }
                    Step::Change(_) | Step::Message(_) => changes.push(format!("{step:?}")),
                    // An empty transaction is one only for PostgreSQL 14; descriptions come where they are needed.
                    Step::Begin(_) | Step::Relation(_) | Step::Commit { .. } => {}
                }
                Ok(())
            });
            taken.expect("the messages are in order");
        }
        self
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

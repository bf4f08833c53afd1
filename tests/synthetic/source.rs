//! A source whose frames are in memory: a batch is handed out as it is.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use pgsluice::checkpoint::Checkpoint;
use pgsluice::failure::Failure;
use pgsluice::lsn::Lsn;
use pgsluice::postgres::types::Types;
use pgsluice::source::{Batch, ChangeStream, Opened, Resume, Source, Status};
use tokio::sync::Notify;

use super::wal;

/// What was written, and not yet read.
#[derive(Default)]
pub(super) struct Memory {
    batches: Mutex<VecDeque<Bytes>>,
    more: Notify,
}

impl Memory {
    pub(super) fn write(&self, batches: Vec<Bytes>) {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner).extend(batches);
        self.more.notify_one();
    }

    async fn read(&self) -> Bytes {
        loop {
            if let Some(batch) = self.batches.lock().unwrap_or_else(PoisonError::into_inner).pop_front() {
                return batch;
            }
            self.more.notified().await;
        }
    }
}

pub(super) struct MemorySource(pub(super) Arc<Memory>);

pub(super) struct MemoryStream {
    memory: Arc<Memory>,
    /// For the first batch.
    types: Option<Arc<Types>>,
}

impl Source for MemorySource {
    type Stream = MemoryStream;

    fn open(&self, _: Resume) -> impl Future<Output = Result<Opened<MemoryStream>, Failure>> + Send + 'static {
        let stream = MemoryStream { memory: Arc::clone(&self.0), types: Some(Arc::default()) };
        let start = Checkpoint {
            system_identifier: 1,
            timeline: 1,
            slot: "shop".to_owned(),
            publication: "shop".to_owned(),
            flushed: Lsn(wal::START - 1),
            position: None,
            retained: Vec::new(),
        };
        let report_every = Duration::from_secs(10);
        std::future::ready(Ok(Opened { stream, start, selected: Vec::new(), report_every }))
    }
}

impl ChangeStream for MemoryStream {
    async fn next(&mut self) -> Result<Batch, Failure> {
        let batch = Batch::new(self.memory.read().await);
        Ok(match self.types.take() {
            Some(types) => batch.with_types(types),
            None => batch,
        })
    }

    async fn report(&mut self, _: Status) -> Result<(), Failure> {
        Ok(())
    }
}

//! Where changes come from: the trait in front of PostgreSQL, and what crosses it.
//!
//! It exists for its second implementation, the simulation of the tests. A batch is what one read
//! brought: whole frames sliced out of one buffer, copied nowhere.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::checkpoint::{Checkpoint, DurableLsn, Store};
use crate::failure::Failure;
use crate::lsn::Lsn;
use crate::postgres::types::Types;

/// Opens streams of changes.
pub trait Source {
    /// An open stream.
    type Stream: ChangeStream;

    /// Connects, verifies that the stream can go on without a gap (creating publication and slot when there
    /// is no checkpoint yet), and starts it. While another pgsluice has the slot, waits for it as a standby.
    ///
    /// The future owns what it needs, so that it can be kept across turns of the loop.
    fn open(&self, resume: Resume) -> impl Future<Output = Result<Opened<Self::Stream>, Failure>> + Send + 'static;
}

/// Where a stream goes on.
#[derive(Debug, Clone)]
pub struct Resume {
    /// Where checkpoints are kept.
    pub store: Arc<dyn Store>,
    /// How far this process has come; none before its first stream: then it is what is stored.
    pub reached: Option<Checkpoint>,
}

impl Resume {
    /// The checkpoint to go on from. Who had the slot before may have moved it until it let go: read it after the slot
    /// was seen free.
    ///
    /// # Errors
    /// What is stored can't be read, or somebody else has taken the store over.
    pub async fn checkpoint(&self) -> Result<Option<Checkpoint>, Failure> {
        let stored = Arc::clone(&self.store).load().await?;
        Ok(self.reached.clone().or(stored))
    }
}

/// A table, and its name at some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// `pg_class.oid`
    pub oid: u32,
    /// Its schema, unquoted.
    pub schema: String,
    /// Its name, unquoted.
    pub table: String,
}

/// A stream that was opened, and what the server said of itself.
#[derive(Debug)]
pub struct Opened<S> {
    /// The stream.
    pub stream: S,
    /// Where it starts, bound to server and slot: the checkpoint, or the first one.
    pub start: Checkpoint,
    /// The tables that are selected by the names that they have now; none for what is read of the past alone.
    pub selected: Vec<Named>,
    /// How often to report to the server, well within its `wal_sender_timeout`.
    pub report_every: Duration,
}

/// One open replication stream.
pub trait ChangeStream: Send {
    /// The next frames. Cancel-safe: nothing is lost when the future is dropped. They are read ahead only as far as a few
    /// buffers go: whoever holds on to frames holds up the reading.
    fn next(&mut self) -> impl Future<Output = Result<Batch, Failure>> + Send;

    /// Tells the server how far we are. Only a durable LSN can be reported as flushed.
    fn report(&mut self, status: Status) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// What a standby status update says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// The highest LSN received; informs `pg_stat_replication.write_lsn`, decides nothing.
    pub received: Lsn,
    /// What the server may forget: stored durably, with everything before it settled. None while nothing
    /// could be stored: the server hears that we live, and keeps everything.
    pub flushed: Option<DurableLsn>,
}

/// Whole `CopyData` messages, in the order in which they came, in one buffer.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    frames: Bytes,
    /// Bytes of them that were taken.
    taken: usize,
    /// What is known of types from here on; none: what was known before.
    types: Option<Arc<Types>>,
}

impl Batch {
    /// Wraps a buffer that holds whole `CopyData` messages (`d`, length, payload) and nothing else.
    #[must_use]
    pub fn new(frames: Bytes) -> Self {
        Self { frames, taken: 0, types: None }
    }

    /// With what is known of types from its first frame on.
    #[must_use]
    pub fn with_types(self, types: Arc<Types>) -> Self {
        Self { types: Some(types), ..self }
    }

    /// What is known of types from here on, if that has changed.
    pub fn take_types(&mut self) -> Option<Arc<Types>> {
        self.types.take()
    }

    /// The payload of the next message, or none when the batch is used up: then its buffer is let go.
    pub fn next_payload(&mut self) -> Option<&[u8]> {
        let Some(bytes) = self.frames.get(self.taken..).and_then(first) else {
            // Nobody has a use for the buffer any more but who read into it.
            (self.frames, self.taken) = (Bytes::new(), 0);
            return None;
        };
        let message = self.taken..self.taken + bytes;
        self.taken = message.end;
        self.frames[message].get(HEADER_BYTES..)
    }

    /// The payloads of all that were not taken.
    pub fn payloads(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.frames.get(self.taken..).unwrap_or_default();
        std::iter::from_fn(move || {
            let (message, after) = rest.split_at(first(rest)?);
            rest = after;
            message.get(HEADER_BYTES..)
        })
    }

    /// Whether every message was taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.taken == self.frames.len()
    }
}

/// `d` and the length.
const HEADER_BYTES: usize = 5;

/// How many bytes the first message has; none: there is no whole one.
fn first(frames: &[u8]) -> Option<usize> {
    let length = u32::from_be_bytes(*frames.get(1..)?.first_chunk()?) as usize;
    Some(length + 1).filter(|bytes| *bytes <= frames.len())
}

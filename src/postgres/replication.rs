//! The replication stream: batches of frames in, status updates out.
//!
//! [`super::client::Connection`] turns into it by `START_REPLICATION`; the loop drives it through
//! [`ChangeStream`]; [`Frame`] reads what a batch holds. Nothing but `CopyData` reaches a batch: every other
//! message ends the batch before it, and is acted upon here.

mod frame;
mod inbox;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::stream::Stream;
use super::client::wire::{Message, closed};
use super::client::{ClientError, Connection, ProtocolError, ServerError, log_notice, within};
use crate::checkpoint::DurableLsn;
use crate::failure::Failure;
use crate::lsn::Lsn;
use crate::source::{Batch, ChangeStream, Status};
use frame::{STATUS_UPDATE_BYTES, put_status_update};
use inbox::{Arrival, Inbox};

pub use frame::{Frame, FrameError};

/// A server that takes no status update for so long is gone. It is some 40 bytes, so that only a peer that has
/// not read for very long, or a network that is down, can hold it up.
const REPORT_TIMEOUT: Duration = Duration::from_secs(20);

/// An open `CopyBoth`. Dropping it closes the connection; the server notices at once.
#[derive(Debug)]
pub struct ReplicationStream {
    stream: Stream,
    inbox: Inbox,
    outbox: Outbox,
    /// The notice that was logged last.
    noted: Option<ServerError>,
}

impl Connection {
    /// Runs `START_REPLICATION …` and becomes the stream. The caller limits the time.
    ///
    /// # Errors
    /// The server's refusal: no such slot, slot in use, options it does not know. The connection is gone then.
    pub async fn start_replication(self, command: &str) -> Result<ReplicationStream, ClientError> {
        let wire = self.start_copy_both(command).await?;
        Ok(ReplicationStream {
            stream: wire.stream,
            inbox: Inbox::new(wire.input),
            outbox: Outbox::default(),
            noted: None,
        })
    }
}

impl ChangeStream for ReplicationStream {
    async fn next(&mut self) -> Result<Batch, Failure> {
        Ok(self.receive().await?)
    }

    async fn report(&mut self, status: Status) -> Result<(), Failure> {
        // 0/0, `InvalidXLogRecPtr`, moves nothing at the server (`ProcessStandbyReplyMessage`).
        self.outbox.put(status.received, status.flushed.map_or(Lsn::ZERO, DurableLsn::lsn));
        Ok(within(REPORT_TIMEOUT, "reporting to PostgreSQL", self.outbox.send(&mut self.stream)).await?)
    }
}

impl ReplicationStream {
    /// Waits for the server without a limit: it may have nothing to say for as long as nobody writes. A dead
    /// one is found out by reporting, and by TCP's keepalive and user timeout.
    async fn receive(&mut self) -> Result<Batch, ClientError> {
        loop {
            match self.inbox.take()? {
                Some(Arrival::Frames(frames)) => return Ok(Batch::new(frames)),
                Some(Arrival::Other(message)) => act(&message, &mut self.noted)?,
                None => {
                    // The only wait. What it read is in the inbox, so that dropping the future loses nothing.
                    if self.stream.read_buf(self.inbox.room()).await? == 0 {
                        return Err(closed().into());
                    }
                }
            }
        }
    }
}

/// What a message between the frames means.
fn act(message: &Message, noted: &mut Option<ServerError>) -> Result<(), ClientError> {
    match message.tag {
        b'E' => Err(Box::new(ServerError::parse(&message.body)?).into()),
        b'N' => {
            let notice = ServerError::parse(&message.body)?;
            if skips_a_publication(&notice) {
                return Err(ClientError::SkippedPublication(Box::new(notice)));
            }
            // A walsender that waits for a standby says so after each of our reports.
            if noted.as_ref() != Some(&notice) {
                log_notice(noted.insert(notice));
            }
            Ok(())
        }
        // ParameterStatus after a reload, NotificationResponse: nothing depends on them.
        b'S' | b'A' => Ok(()),
        // CopyDone, CommandComplete, ReadyForQuery
        b'c' | b'C' | b'Z' => Err(ClientError::EndOfStream),
        tag => Err(ProtocolError::Unexpected { tag, during: "streaming changes" }.into()),
    }
}

/// PostgreSQL 18 only notes (`LoadPublications` in pgoutput.c) that it can't find a publication, and sends none of its rows.
fn skips_a_publication(notice: &ServerError) -> bool {
    notice.code == "55000"
        && (notice.message.contains("skipped loading publication")
            || notice.routine.as_deref() == Some("LoadPublications"))
}

/// Status updates that the socket has not taken yet: the rest of one, and at most one more.
#[derive(Debug, Default)]
struct Outbox {
    bytes: BytesMut,
}

impl Outbox {
    /// The newest status takes the place of those that are not on their way yet. One that is must be finished,
    /// or the server would lose its place in the stream.
    fn put(&mut self, received: Lsn, flushed: Lsn) {
        self.bytes.truncate(self.bytes.len() % STATUS_UPDATE_BYTES);
        put_status_update(&mut self.bytes, received, flushed, now());
    }

    /// What was sent is gone from the buffer when this is dropped, and nothing else is.
    async fn send(&mut self, stream: &mut Stream) -> Result<(), ClientError> {
        while !self.bytes.is_empty() {
            match stream.write(&self.bytes).await? {
                0 => return Err(closed().into()),
                written => self.bytes.advance(written),
            }
        }
        Ok(stream.flush().await?)
    }
}

/// Seconds from 1970-01-01 to PostgreSQL's epoch, 2000-01-01.
const POSTGRES_EPOCH_S: u64 = 946_684_800;

/// Microseconds since 2000-01-01 UTC; informs the server's statistics, decides nothing.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_secs(POSTGRES_EPOCH_S));
    since.ok().and_then(|since| i64::try_from(since.as_micros()).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests;

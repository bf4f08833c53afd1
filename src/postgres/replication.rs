//! The replication stream: batches of frames in, status updates out.
//!
//! [`super::client::Connection`] turns into it by `START_REPLICATION`; the loop drives it through
//! [`ChangeStream`]; [`Frame`] reads what a batch holds. Nothing but `CopyData` reaches a batch: every other
//! message ends the batch before it, and is acted upon here. A thread of its own reads (`reader`); what we write is
//! little, and never waits.

mod duplex;
mod frame;
mod inbox;
mod pace;
mod reader;

use std::io::{self, ErrorKind};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes, BytesMut};
use tokio::time::{Instant, timeout_at};

use super::client::stream::Stream;
use super::client::wire::{Message, closed};
use super::client::{ClientError, Connection, ProtocolError, ServerError, log_notice};
use crate::checkpoint::DurableLsn;
use crate::failure::Failure;
use crate::lsn::Lsn;
use crate::source::{Batch, ChangeStream, Status};
use duplex::WriteEnd;
use frame::{STATUS_UPDATE_BYTES, put_status_update};
use inbox::Arrival;
use reader::Arrivals;

pub(crate) use frame::XLOG_DATA_BYTES;
pub use frame::{Frame, FrameError};

/// A server that takes no status update for so long is gone. It is some 40 bytes, so that only a peer that has
/// not read for very long, or a network that is down, can hold it up.
const REPORT_TIMEOUT: Duration = Duration::from_secs(20);

/// An open `CopyBoth`. Dropping it closes the connection; the server notices at once.
#[derive(Debug)]
pub struct ReplicationStream {
    arrivals: Arrivals,
    write_end: WriteEnd,
    outbox: Outbox,
    /// The notice that was logged last.
    noted: Option<ServerError>,
    silence: Silence,
}

impl Connection {
    /// Runs `START_REPLICATION …` and becomes the stream. The caller limits the time.
    ///
    /// # Errors
    /// The server's refusal: no such slot, slot in use, options it does not know. The connection is gone then.
    pub async fn start_replication(self, command: &str) -> Result<ReplicationStream, ClientError> {
        let silence = Silence::new(self.server_patience);
        let wire = self.start_copy_both(command).await?;
        Ok(ReplicationStream::new(wire.stream, &wire.input, silence)?)
    }
}

impl ChangeStream for ReplicationStream {
    async fn next(&mut self) -> Result<Batch, Failure> {
        Ok(Batch::new(self.receive().await?))
    }

    async fn report(&mut self, status: Status) -> Result<(), Failure> {
        if self.arrivals.has_heard() {
            self.silence.heard();
        } else {
            self.write_end.make_room()?;
        }
        // 0/0, `InvalidXLogRecPtr`, moves nothing at the server (`ProcessStandbyReplyMessage`).
        let reply = self.silence.asks();
        self.outbox.put(status.received, status.flushed.map_or(Lsn::ZERO, DurableLsn::lsn), reply);
        Ok(self.outbox.send(&self.write_end)?)
    }
}

impl ReplicationStream {
    fn new(stream: Stream, read_ahead: &BytesMut, silence: Silence) -> io::Result<Self> {
        let (read_end, write_end) = duplex::split(stream)?;
        let arrivals = reader::start(read_end, read_ahead)?;
        Ok(Self { arrivals, write_end, outbox: Outbox::default(), noted: None, silence })
    }

    /// The next frames, as bytes. Waits for the server without a limit, unless it was asked for an answer: it may have
    /// nothing to say for as long as nobody writes.
    pub(super) async fn receive(&mut self) -> Result<Bytes, ClientError> {
        loop {
            // The only wait. What has arrived stays there when the future is dropped.
            let arrival = match self.silence.limit(self.arrivals.next()).await {
                // A large message takes its time.
                Err(_) if self.arrivals.has_heard() => {
                    self.silence.heard();
                    continue;
                }
                arrival => arrival?,
            };
            self.silence.heard();
            match arrival.unwrap_or_else(|| Err(closed().into()))? {
                Arrival::Frames(frames) => return Ok(frames),
                Arrival::Other(message) => act(&message, &mut self.noted)?,
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
    /// What the newest of them says, of what is not on its way.
    flushed: Lsn,
    /// None: it has taken all.
    blocked: Option<Instant>,
}

impl Outbox {
    /// The newest status takes the place of those that are not on their way yet, and says what they were to say: nobody says
    /// it again. One that is on its way must be finished, or the server would lose its place in the stream.
    fn put(&mut self, received: Lsn, flushed: Lsn, reply: bool) {
        self.bytes.truncate(self.bytes.len() % STATUS_UPDATE_BYTES);
        self.flushed = self.flushed.max(flushed);
        put_status_update(&mut self.bytes, received, self.flushed, now(), reply);
    }

    /// Sends what the socket takes now. The rest goes with the next one, unless that took too long.
    fn send(&mut self, end: &WriteEnd) -> Result<(), ClientError> {
        match self.write(end) {
            Ok(()) => (self.blocked, self.flushed) = (None, Lsn::ZERO),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if self.blocked.get_or_insert_with(Instant::now).elapsed() >= REPORT_TIMEOUT {
                    return Err(ClientError::Timeout { doing: "reporting to PostgreSQL", limit: REPORT_TIMEOUT });
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn write(&mut self, end: &WriteEnd) -> io::Result<()> {
        while !self.bytes.is_empty() {
            match end.write(&self.bytes) {
                Ok(written) => self.bytes.advance(written),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        end.flush()
    }
}

/// How long the server says nothing although it was asked. TCP notices a dead peer only if no proxy answers for it,
/// and a walsender that can't be heard, but hears us, is content for ever.
#[derive(Debug)]
struct Silence {
    /// None: the server has no limit, and neither have we.
    limit: Option<Duration>,
    state: Hearing,
}

#[derive(Debug)]
enum Hearing {
    /// It has spoken since the last report.
    Heard,
    /// It has not, but was not asked either.
    Quiet,
    /// It was asked for a keepalive then, and has not spoken since.
    Asked(Instant),
}

impl Silence {
    /// Twice the server's own patience (`wal_sender_timeout`): it may be busy for that long with what is not sent, and a
    /// walsender that really does not hear us has given up by then, and its slot is free.
    fn new(server_patience: Option<Duration>) -> Self {
        Self { limit: server_patience.map(|patience| patience * 2), state: Hearing::Heard }
    }

    fn heard(&mut self) {
        self.state = Hearing::Heard;
    }

    /// Whether the report that is sent now asks for an answer: when nothing has come since the one before.
    fn asks(&mut self) -> bool {
        self.state = match self.state {
            _ if self.limit.is_none() => Hearing::Heard,
            Hearing::Heard => Hearing::Quiet,
            Hearing::Quiet => Hearing::Asked(Instant::now()),
            Hearing::Asked(since) => Hearing::Asked(since),
        };
        matches!(self.state, Hearing::Asked(_))
    }

    /// Runs `reading` for as long as the server may be silent. What has come already counts, however late it is read.
    async fn limit<T>(&self, reading: impl Future<Output = T>) -> Result<T, ClientError> {
        let (Some(limit), Hearing::Asked(since)) = (self.limit, &self.state) else { return Ok(reading.await) };
        let silent = |_| ClientError::Timeout { doing: "waiting for the server's keepalive", limit };
        timeout_at(*since + limit, reading).await.map_err(silent)
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

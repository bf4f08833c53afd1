//! Transactions that are streamed while they are in progress, kept until they are committed: what leaves this module is what
//! protocol version 1 would have brought.
//!
//! It stands right above the [`ReplicationStream`], so that nobody behind it knows of streaming: at a transaction's Stream
//! Commit, its messages are handed out between a Begin and a Commit, without the subtransactions that were rolled back.
//! Positions, ordinals and with them the names of events are the same with and without it, so that it can be switched on and
//! off between two runs, even where the checkpoint lies within a transaction.
//!
//! **Why a keepalive may be acknowledged while a transaction is kept here** (rule 1 of the promise). Keepalives go on to the
//! loop at once, which acknowledges their LSN when nothing is unsettled. A transaction that is kept here is not committed,
//! else its Stream Commit would have come before the keepalive: the walsender decodes in WAL order. So its commit record lies
//! at or behind that LSN, and a stream that starts there decodes the transaction again from its beginning: START filters by the
//! commit record's place, and the slot's `restart_lsn` stays at or before the oldest transaction that has not ended, streamed
//! or not (`SnapBuildProcessRunningXacts`). What is kept here holds back nothing, and nothing is lost with it.
//! **And why none overtakes a commit**: while a transaction is being handed out, nothing behind it is looked at.
//!
//! What is kept is [`log`]; how it is handed out, [`handout`]; [`spool`] joins them; [`relations`] sees to it that each row
//! finds the description of its table that it was sent with.

mod disk;
mod frames;
mod handout;
mod log;
mod relations;
mod spool;
#[cfg(test)]
mod tests;

use anyhow::anyhow;

use super::client::{ClientError, Connection};
use super::mode::Mode;
use super::preflight::Server;
use super::replication::ReplicationStream;
use super::walsender;
use crate::config::{Origin, SourceSettings};
use crate::failure::{Failure, Kind};
use crate::lsn::Lsn;
use crate::source::{Batch, ChangeStream, Status};
use spool::Spool;

/// The first major version that can leave out what came from elsewhere, as `server_version_num`.
const KNOWS_ORIGIN: i32 = 160_000;

/// Whether the server and this machine can do what is configured. Asked before anything is created at the server.
pub(super) async fn check(settings: &SourceSettings, server: &Server) -> Result<(), Failure> {
    if settings.origin == Origin::None && server.version < KNOWS_ORIGIN {
        let major = server.version / 10_000;
        let error =
            anyhow!("source.origin = \"none\" needs PostgreSQL 16 or newer, and the server is PostgreSQL {major}");
        let hint = "Remove the key: then changes that were replicated from elsewhere are sent too.";
        return Err(Failure::definite(Kind::Source, error, hint));
    }
    match &settings.streaming {
        Some(streaming) => disk::check(&streaming.folder).await,
        None => Ok(()),
    }
}

/// A replication stream of whole, committed transactions.
#[derive(Debug)]
pub(super) struct CommittedStream {
    stream: ReplicationStream,
    /// None: the server sends nothing else.
    spool: Option<Spool>,
    mode: Mode,
}

impl CommittedStream {
    /// Starts the stream of `slot`. The caller limits the time.
    pub(super) async fn start(
        connection: Connection,
        slot: &str,
        settings: &SourceSettings,
        mode: &Mode,
        from: Lsn,
    ) -> Result<Self, ClientError> {
        let command = walsender::start_command(&connection, slot, settings, mode, from);
        let stream = connection.start_replication(&command).await?;
        Ok(Self { stream, spool: mode.streaming().map(Spool::new), mode: mode.clone() })
    }

    /// How it was asked for.
    pub(super) fn mode(&self) -> &Mode {
        &self.mode
    }
}

impl ChangeStream for CommittedStream {
    /// Cancel-safe: what was received is in the spool, and what the disk was asked for is waited for by the next call.
    async fn next(&mut self) -> Result<Batch, Failure> {
        loop {
            if let Some(spool) = &mut self.spool
                && let Some(frames) = spool.next().await.inspect_err(|failure| self.mode.leave_streaming(failure))?
            {
                return Ok(Batch::new(frames));
            }
            let received = self.stream.receive().await.map_err(|error| self.mode.take(error))?;
            match &mut self.spool {
                None => return Ok(Batch::new(received)),
                Some(spool) => spool.receive(received),
            }
        }
    }

    async fn report(&mut self, status: Status) -> Result<(), Failure> {
        self.stream.report(status).await
    }
}

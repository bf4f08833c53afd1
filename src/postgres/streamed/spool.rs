//! What was received, sorted: what goes out as it is, what is kept, and what is handed out of it.
//!
//! Invariant: frames go out in the order in which version 1 would have sent them, and a transaction goes out when its commit
//! has come and it is complete, or never. At most `streaming_memory_bytes` and one frame of what is kept are in memory.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::anyhow;
use bytes::{Buf as _, Bytes};

use super::disk::{Done, Task};
use super::frames;
use super::handout::{Doubt, Handout, Next, Streamed};
use super::relations::Relations;
use crate::config::Streaming;
use crate::failure::{Failure, Kind};
use crate::postgres::pgoutput::DecodeError;
use crate::postgres::pgoutput::streamed::{Control, control, is_logical, subtransaction};

/// Why a transaction can't be handed out: nearly always, the messages around the blocks make no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum OutOfOrder {
    /// It does, but only version 1 tells what belongs to the transaction.
    #[error(
        "transaction {0} has logical messages, and subtransactions that were rolled back: which is of which is not told"
    )]
    InDoubt(u32),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("transaction {0} goes on, but its beginning has not come")]
    NoBeginning(u32),
    #[error("transaction {0} begins, but has begun already")]
    BegunAgain(u32),
    #[error("transaction {0} is committed, but nothing of it has come")]
    NothingToCommit(u32),
    #[error("a Stream Stop without a Stream Start")]
    BareStop,
    #[error("what was kept of a transaction ends within a message")]
    CutShort,
}

impl From<OutOfOrder> for Failure {
    fn from(error: OutOfOrder) -> Self {
        if let OutOfOrder::InDoubt(_) = error {
            return Self::transient(anyhow!(error));
        }
        let error = anyhow!(error).context("can't follow the streamed transactions that PostgreSQL sends");
        let hint = "nothing of the transactions that were in progress was acknowledged; please report it with the server's \
                    version, and set source.streaming = false meanwhile";
        Self::definite(Kind::Source, error, hint)
    }
}

#[derive(Debug)]
pub(super) struct Spool {
    limit: usize,
    folder: PathBuf,
    has_spilled: bool,
    /// What is not sorted yet.
    received: Bytes,
    /// The transaction whose block is being received.
    block: Option<u32>,
    /// What has not ended, by its id.
    in_progress: HashMap<u32, Streamed>,
    /// The memory of all of them.
    memory: usize,
    relations: Relations,
    handout: Option<Handout>,
    task: Option<Task>,
}

impl Spool {
    pub(super) fn new(settings: &Streaming) -> Self {
        Self {
            limit: settings.memory_bytes,
            folder: settings.folder.clone(),
            has_spilled: false,
            received: Bytes::new(),
            block: None,
            in_progress: HashMap::new(),
            memory: 0,
            relations: Relations::default(),
            handout: None,
            task: None,
        }
    }

    /// Takes whole frames that were received, when [`Self::next`] has asked for more.
    pub(super) fn receive(&mut self, frames: Bytes) {
        self.received = frames;
    }

    /// The next frames to go out; none when more must be received. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(task) = &mut self.task {
                let done = task.done().await;
                self.task = None;
                let out = self.done(done?)?;
                if !out.is_empty() {
                    return Ok(Some(out.into()));
                }
            } else if let Some(handout) = &mut self.handout {
                match handout.next(&mut self.relations) {
                    Next::Read { file, at, length } => self.task = Some(Task::read(&self.folder, file, at, length)),
                    Next::Frames(out) if out.is_empty() => {}
                    Next::Frames(out) => return Ok(Some(out.into())),
                    Next::Last(out) => {
                        self.handout = None;
                        return Ok(Some(out.into()));
                    }
                }
            } else if self.memory > self.limit {
                self.task = self.spill();
            } else {
                let out = self.sort()?;
                if out.is_some() || !self.has_work() {
                    return Ok(out);
                }
            }
        }
    }

    /// What the disk has done; what goes out of it.
    fn done(&mut self, done: Done) -> Result<Vec<u8>, OutOfOrder> {
        match (done, &mut self.handout) {
            (Done::Written { xid, file, bytes }, _) => {
                if let Some(streamed) = self.in_progress.get_mut(&xid) {
                    streamed.log.file = Some(file);
                    streamed.log.file_bytes += bytes;
                }
                Ok(Vec::new())
            }
            (Done::Read(records), Some(handout)) => {
                handout.take(&records, &mut self.relations).ok_or(OutOfOrder::CutShort)
            }
            (Done::Read(_), None) => Ok(Vec::new()),
        }
    }

    /// Writes out what the largest one has in memory.
    fn spill(&mut self) -> Option<Task> {
        let (xid, streamed) = self.in_progress.iter_mut().max_by_key(|(_, streamed)| streamed.log.memory())?;
        if !std::mem::replace(&mut self.has_spilled, true) {
            let folder = self.folder.display();
            tracing::info!(%folder, "transactions in progress outgrow source.streaming_memory_bytes: they go on in files");
        }
        let log = &mut streamed.log;
        self.memory -= log.memory();
        Some(Task::write(&self.folder, *xid, log.file.clone(), log.file_bytes, log.take()))
    }

    /// Sorts what was received, up to something that goes out or must be done first.
    fn sort(&mut self) -> Result<Option<Bytes>, OutOfOrder> {
        // So much of it goes out as it is.
        let mut plain = 0;
        while let Some(frame) = frames::first(&self.received[plain..]) {
            let frame = self.received.slice(plain..plain + frame.len());
            match (self.turn(&frame)?, frames::message(&frame)) {
                (Turn::Pass, message) => {
                    if let Some(message) = message {
                        self.relations.pass(message);
                    }
                    plain += frame.len();
                    continue;
                }
                _ if plain > 0 => break,
                (Turn::Describe, message) => return Ok(message.map(|message| self.relations.before(message).into())),
                (Turn::Keep(xid), message) => self.keep(xid, message.unwrap_or_default(), &frame)?,
                (Turn::Obey(control), _) => self.obey(control, &frame)?,
            }
            self.received.advance(frame.len());
            if self.has_work() {
                break;
            }
        }
        let out = (plain > 0).then(|| self.received.split_to(plain));
        if self.received.is_empty() {
            // The reader waits for the buffer.
            self.received = Bytes::new();
        }
        Ok(out)
    }

    /// Whether something must be done before more is sorted.
    fn has_work(&self) -> bool {
        self.handout.is_some() || self.memory > self.limit
    }

    fn turn(&self, frame: &[u8]) -> Result<Turn, OutOfOrder> {
        let Some(message) = frames::message(frame) else { return Ok(Turn::Pass) };
        Ok(match (self.block, control(message)?) {
            (Some(_), Some(Control::Stop)) => Turn::Obey(Control::Stop),
            (Some(xid), _) => Turn::Keep(xid),
            (None, Some(control)) => Turn::Obey(control),
            (None, None) if self.relations.is_stale(message) => Turn::Describe,
            (None, None) => Turn::Pass,
        })
    }

    fn keep(&mut self, xid: u32, message: &[u8], frame: &[u8]) -> Result<(), OutOfOrder> {
        let subxid = subtransaction(message)?;
        let streamed = self.in_progress.get_mut(&xid).ok_or(OutOfOrder::NoBeginning(xid))?;
        self.memory -= streamed.log.memory();
        let kept = streamed.log.push(xid, subxid, frame);
        self.relations.keep(kept, &mut streamed.relations);
        self.memory += streamed.log.memory();
        if is_logical(message) {
            streamed.has_message();
        }
        Ok(())
    }

    fn obey(&mut self, control: Control, frame: &[u8]) -> Result<(), OutOfOrder> {
        match control {
            Control::Start { xid, is_first } => {
                match (is_first, self.in_progress.contains_key(&xid)) {
                    (true, true) => return Err(OutOfOrder::BegunAgain(xid)),
                    (false, false) => return Err(OutOfOrder::NoBeginning(xid)),
                    (true, false) | (false, true) => {}
                }
                self.in_progress.entry(xid).or_default();
                self.block = Some(xid);
            }
            Control::Stop => _ = self.block.take().ok_or(OutOfOrder::BareStop)?,
            Control::Commit { xid, commit } => {
                let streamed = self.end(xid).ok_or(OutOfOrder::NothingToCommit(xid))?;
                if streamed.doubt == Doubt::Certain {
                    return Err(OutOfOrder::InDoubt(xid));
                }
                self.handout = Some(Handout::new(streamed, xid, commit, frame));
            }
            // A transaction of which nothing has come has nothing to drop.
            Control::Abort { xid, subxid } if subxid == xid => _ = self.end(xid),
            Control::Abort { xid, subxid } => {
                if let Some(streamed) = self.in_progress.get_mut(&xid) {
                    streamed.abort(subxid);
                }
            }
        }
        Ok(())
    }

    fn end(&mut self, xid: u32) -> Option<Streamed> {
        let streamed = self.in_progress.remove(&xid)?;
        self.memory -= streamed.log.memory();
        Some(streamed)
    }
}

/// What to do with a frame.
enum Turn {
    /// It goes out as it is.
    Pass,
    /// So it does, but a description of its table first.
    Describe,
    /// It is part of a transaction in progress.
    Keep(u32),
    /// It begins or ends something.
    Obey(Control),
}

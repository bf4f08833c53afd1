//! A replication stream: transactions in commit order, keepalives whenever they like, and reports that come back.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use pgsluice::checkpoint::DurableLsn;
use pgsluice::failure::Failure;
use pgsluice::lsn::Lsn;
use pgsluice::source::{Batch, ChangeStream, Status};

use super::frames;
use super::oracle::EventId;
use super::wal::Transaction;
use super::world::{Process, World};

/// `wal_sender_timeout`, in intervals between two reports.
const PATIENCE: u64 = 3;
/// How long a report may take.
const REPORT_MS: u64 = 20;

pub(crate) struct SimStream {
    process: Process,
    session: u32,
    /// Frames that are on their way, and the event that each is to become.
    queue: VecDeque<(Vec<u8>, Range<EventId>)>,
    /// Events of frames that were read, from the first one on that is not settled.
    taken: VecDeque<EventId>,
    /// `wal[next..]` is still to be sent.
    next: usize,
    /// Oids of the tables that were described.
    described: Vec<u32>,
    /// Not before; and a keepalive at the latest.
    ready_ms: u64,
    keepalive_ms: u64,
    /// When it was heard of last; none before it is in the client's hands.
    reported_ms: Option<u64>,
    /// What was reported last.
    flushed: u64,
}

fn reset() -> Failure {
    Failure::transient(anyhow::anyhow!("the connection was reset"))
}

impl SimStream {
    /// A stream of the transactions whose commit records start there, or later.
    pub(crate) fn new(process: &Process, from: u64, world: &World) -> Self {
        let now = world.now_ms();
        Self {
            process: process.clone(),
            session: world.database.stream_session,
            queue: VecDeque::new(),
            taken: VecDeque::new(),
            next: world.database.server.wal.partition_point(|transaction| transaction.commit_lsn < from),
            described: Vec::new(),
            ready_ms: now,
            keepalive_ms: now,
            reported_ms: None,
            flushed: 0,
        }
    }

    /// It is in the client's hands.
    pub(crate) fn opened(&mut self, world: &mut World) {
        self.reported_ms = Some(world.now_ms());
        self.keepalive_ms = world.soon(100);
    }

    pub(crate) fn is_alive(&self, world: &World) -> bool {
        world.database.stream_session == self.session
    }

    /// When there is something to read.
    fn due_ms(&self) -> u64 {
        let world = self.process.world();
        let has_more = !self.queue.is_empty() || self.next < world.database.server.wal.len();
        let due_ms = if has_more || !self.is_alive(&world) {
            0
        } else {
            world.database.next_ms().unwrap_or(u64::MAX).max(world.now_ms() + 1).min(self.keepalive_ms)
        };
        due_ms.max(self.ready_ms)
    }

    /// Puts the next transaction, or a keepalive, on its way.
    fn fill(&mut self, world: &mut World) {
        if let Some(transaction) = world.database.server.wal.get(self.next).cloned() {
            self.next += 1;
            return self.send(&transaction, world);
        }
        self.keepalive_ms = world.now_ms() + world.random.u64(10..400);
        // Others write, too.
        world.database.server.end += world.random.u64(..3) * 8;
        let lsn = world.database.tell(world.database.server.end);
        self.queue.push_back((frames::keepalive(lsn, world.random.u8(..4) == 0), 0..0));
        if world.random.u8(..8) == 0 {
            self.queue.push_back((frames::xlog_data(lsn, &frames::logical(false, lsn, "sim", "bare")), 0..0));
        }
    }

    fn send(&mut self, transaction: &Transaction, world: &mut World) {
        let Transaction { serial, commit_lsn, end_lsn, .. } = *transaction;
        if transaction.is_bare {
            let messages = transaction.messages.iter();
            self.queue
                .extend(messages.map(|logged| (frames::xlog_data(end_lsn, &logged.bytes), logged.events.clone())));
            world.database.tell(end_lsn);
            return;
        }
        world.database.send(commit_lsn);
        let begin = frames::begin(commit_lsn, i64::from(serial), serial);
        self.queue.push_back((frames::xlog_data(commit_lsn, &begin), 0..0));
        for logged in &transaction.messages {
            for table in &logged.tables {
                if !self.described.contains(&table.oid) || world.random.u8(..30) == 0 {
                    self.described.push(table.oid);
                    self.queue.push_back((frames::xlog_data(0, &frames::relation(table)), 0..0));
                }
            }
            self.queue.push_back((frames::xlog_data(commit_lsn, &logged.bytes), logged.events.clone()));
            if world.random.u8(..15) == 0 {
                // Between two changes no LSN means anything, however high.
                self.queue.push_back((frames::keepalive(end_lsn, world.random.bool()), 0..0));
            }
        }
        self.queue.push_back((frames::xlog_data(end_lsn, &frames::commit(commit_lsn, end_lsn)), 0..0));
        world.database.tell(end_lsn);
    }

    fn judge_silence(&self, world: &mut World) {
        let silent_ms = self.reported_ms.map_or(0, |reported_ms| world.now_ms() - reported_ms);
        if silent_ms > world.schedule.report_every_ms * PATIENCE {
            world.oracle.violate(format!("no report for {silent_ms} ms: the server would end the stream"));
        }
    }

    /// Whoever reads on has taken in what it has read: that is in flight, or settled.
    fn judge_memory(&mut self, world: &mut World) {
        while self.taken.front().is_some_and(|event| world.oracle.is_settled(*event)) {
            self.taken.pop_front();
        }
        let in_flight = self.taken.iter().filter(|event| !world.oracle.is_settled(**event)).count();
        // The newest change's are held back until it is known whether another follows it: it may have three, and so may the one
        // that was let in as the last.
        let limit = world.schedule.limits.events + 5;
        if in_flight > limit {
            world.oracle.violate(format!("reads on with {in_flight} events in memory, where {limit} are allowed"));
        }
    }

    fn read(&mut self, world: &mut World) -> Result<Batch, Failure> {
        self.judge_silence(world);
        let drops = world.schedule.faults.source_drop;
        if !self.is_alive(world) || world.chance(drops) {
            return Err(reset());
        }
        while self.queue.is_empty() || (self.queue.len() < 50 && world.random.u8(..3) == 0) {
            self.fill(world);
        }
        let most = [1, 5, 200][world.random.usize(..3)].min(self.queue.len());
        let mut frames = Vec::new();
        for (frame, events) in self.queue.drain(..most) {
            frames.extend(frame);
            self.taken.extend(events);
        }
        self.process.note(world, || format!("reads {most} frames"));
        self.ready_ms = world.now_ms() + 1 + world.random.u64(..6);
        Ok(Batch::new(Bytes::from(frames)))
    }

    /// The server is told to forget what is before an LSN.
    fn acknowledge(&mut self, lsn: u64, world: &mut World) {
        let World { database, oracle, disk, .. } = world;
        let told = Lsn(lsn);
        if lsn < self.flushed {
            oracle.violate(format!("acknowledged {told} after {}", Lsn(self.flushed)));
        }
        if !database.has_told(lsn) {
            oracle.violate(format!("acknowledged {told}, which the server never named"));
        }
        if disk.stored().is_none_or(|stored| stored.flushed < told) {
            oracle.violate(format!("acknowledged {told}, while stored is {:?}", disk.stored()));
        }
        // The server skips a transaction whose commit record starts before what was acknowledged.
        let gone = database.server.wal.iter().take_while(|transaction| transaction.commit_lsn < lsn);
        if let Some(lost) = oracle.missing(gone.flat_map(|transaction| transaction.events.clone())).map(str::to_owned) {
            oracle.violate(format!("acknowledged {told}, although no queue has {lost}"));
        }
        self.flushed = lsn;
        if let Some(slot) = &mut database.server.slot {
            slot.confirmed = slot.confirmed.max(lsn);
            if world.random.u8(..4) == 0 {
                slot.saved = slot.confirmed;
            }
        }
    }
}

impl ChangeStream for SimStream {
    async fn next(&mut self) -> Result<Batch, Failure> {
        let process = self.process.clone();
        self.judge_memory(&mut process.world());
        process.at(self.due_ms()).await;
        process.step().await;
        self.read(&mut process.world())
    }

    async fn report(&mut self, status: Status) -> Result<(), Failure> {
        let process = self.process.clone();
        process.pause(REPORT_MS).await;
        process.step().await;
        let mut world = process.world();
        self.judge_silence(&mut world);
        self.reported_ms = Some(world.now_ms());
        // It may have arrived, or not.
        let fails = world.schedule.faults.report_fails;
        if !self.is_alive(&world) || world.chance(fails / 2.0) {
            return Err(reset());
        }
        if let Some(flushed) = status.flushed.map(DurableLsn::lsn) {
            process.note(&mut world, || format!("acknowledges {flushed}"));
            self.acknowledge(flushed.0, &mut world);
        }
        if world.chance(fails / 2.0) { Err(reset()) } else { Ok(()) }
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let mut world = self.process.world();
        if self.is_alive(&world) {
            self.judge_silence(&mut world);
            let within_ms = [0, 20, 2_000][world.random.usize(..3)];
            let at_ms = world.soon(within_ms);
            world.database.released(self.session, at_ms);
        }
    }
}

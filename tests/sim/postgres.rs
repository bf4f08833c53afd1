//! PostgreSQL, simulated: serves what is committed from an LSN on, by the server's rule, and takes reports.
//!
//! All that it does happens at even milliseconds, what the broker does at odd ones, so that the two never race.

use std::collections::VecDeque;

use bytes::Bytes;
use pgsluice::checkpoint::Checkpoint;
use pgsluice::failure::Failure;
use pgsluice::lsn::Lsn;
use pgsluice::source::{Batch, ChangeStream, Opened, Resume, Source, Status};

use super::frames;
use super::world::{NAME, Shared, World};

/// How late a report may be, in milliseconds.
const REPORT_SLACK_MS: u64 = 200;

pub(crate) struct SimSource(pub(crate) Shared);

pub(crate) struct SimStream {
    shared: Shared,
    /// Frames that are on their way.
    queue: VecDeque<Vec<u8>>,
    /// `World::transactions[next..]` are still to be sent.
    next: usize,
    /// Oids of the tables that were described.
    described: Vec<u32>,
    ready_ms: u64,
    keepalive_ms: u64,
    reported_ms: u64,
}

fn even(at_ms: u64) -> u64 {
    at_ms.next_multiple_of(2)
}

fn gone(what: &'static str) -> Failure {
    Failure::transient(anyhow::anyhow!(what))
}

impl Source for SimSource {
    type Stream = SimStream;

    fn open(&self, resume: Resume) -> impl Future<Output = Result<Opened<SimStream>, Failure>> + Send + 'static {
        let shared = self.0.clone();
        async move {
            let at_ms = {
                let mut world = shared.lock();
                even(world.now_ms() + 2 + world.source_random.u64(..20))
            };
            shared.at(at_ms).await;
            if shared.lock().step("start") {
                std::future::pending::<()>().await;
            }
            let checkpoint = resume.checkpoint().await?;
            let mut world = shared.lock();
            let fails = world.faults.open_fails;
            if world.source_chance(fails) {
                return Err(gone("the server is starting up"));
            }
            let start = checkpoint.unwrap_or_else(|| Checkpoint {
                system_identifier: 7,
                timeline: 1,
                slot: NAME.to_owned(),
                publication: NAME.to_owned(),
                flushed: Lsn(world.confirmed),
                position: None,
                retained: Vec::new(),
            });
            let next = world.start(start.flushed.0);
            let stream = SimStream {
                shared: shared.clone(),
                queue: VecDeque::new(),
                next,
                described: Vec::new(),
                ready_ms: at_ms + 2,
                keepalive_ms: at_ms + world.source_random.u64(..100),
                reported_ms: at_ms,
            };
            let report_every = std::time::Duration::from_millis(world.report_every_ms);
            Ok(Opened { stream, start, report_every })
        }
    }
}

impl World {
    /// `START_REPLICATION`: the first transaction that is sent.
    fn start(&mut self, lsn: u64) -> usize {
        if lsn < self.confirmed {
            self.violate(format!("starts at {lsn}, but the slot is at {}: what lies between is lost", self.confirmed));
        }
        if !self.told.contains(&lsn) {
            self.violate(format!("starts at {lsn}, which the server never named"));
        }
        let from = lsn.max(self.confirmed);
        self.transactions.partition_point(|transaction| transaction.commit_lsn < from)
    }

    fn tell(&mut self, lsn: u64) -> u64 {
        if !self.told.contains(&lsn) {
            self.told.push(lsn);
        }
        lsn
    }
}

impl SimStream {
    /// When there is something to read.
    fn due_ms(&self) -> u64 {
        let world = self.shared.lock();
        let next = world.transactions.get(self.next).map_or(u64::MAX, |transaction| transaction.visible_ms);
        let news = if self.queue.is_empty() { next.min(self.keepalive_ms) } else { 0 };
        even(news.max(self.ready_ms))
    }

    /// Puts the next transaction, or a keepalive, on its way.
    fn fill(&mut self, world: &mut World) {
        let now = world.now_ms();
        let next = self.next;
        let Some(transaction) = world.transactions.get(next).filter(|transaction| transaction.visible_ms <= now) else {
            self.keepalive_ms = now + world.source_random.u64(10..400);
            let ended = next.checked_sub(1).map_or(1_000, |last| world.transactions[last].end_lsn);
            let idle = world.transactions.get(next).map_or(ended, |transaction| transaction.idle_lsn);
            let at_rest = world.source_random.bool();
            let lsn = world.tell(if at_rest { ended } else { idle });
            let reply_requested = world.source_random.u8(..4) == 0;
            self.queue.push_back(frames::keepalive(lsn, reply_requested));
            if world.source_random.u8(..8) == 0 {
                self.queue.push_back(frames::xlog_data(lsn, &frames::logical(false, lsn, "bare")));
            }
            return;
        };
        let (commit_lsn, end_lsn) = (transaction.commit_lsn, transaction.end_lsn);
        let mut queue = VecDeque::from([frames::xlog_data(commit_lsn, &frames::begin(commit_lsn))]);
        for (tables, message) in &transaction.messages {
            for table in tables {
                if !self.described.contains(&table.oid) || world.source_random.u8(..30) == 0 {
                    self.described.push(table.oid);
                    queue.push_back(frames::xlog_data(0, &frames::relation(table)));
                }
            }
            queue.push_back(frames::xlog_data(commit_lsn, message));
            if world.source_random.u8(..15) == 0 {
                // Between two changes no LSN means anything, however high.
                queue.push_back(frames::keepalive(end_lsn, world.source_random.bool()));
            }
        }
        queue.push_back(frames::xlog_data(end_lsn, &frames::commit(commit_lsn, end_lsn)));
        world.tell(end_lsn);
        self.queue.append(&mut queue);
        self.next += 1;
    }

    fn judge_silence(&self, world: &mut World) {
        let silent_ms = world.now_ms() - self.reported_ms;
        if silent_ms > world.report_every_ms + REPORT_SLACK_MS {
            world.violate(format!("no report for {silent_ms} ms"));
        }
    }
}

impl ChangeStream for SimStream {
    async fn next(&mut self) -> Result<Batch, Failure> {
        self.shared.at(self.due_ms()).await;
        if self.shared.lock().step("read") {
            std::future::pending::<()>().await;
        }
        let shared = self.shared.clone();
        let mut world = shared.lock();
        self.judge_silence(&mut world);
        let drops = world.faults.source_drop;
        if world.source_chance(drops) {
            return Err(gone("the connection was reset"));
        }
        while self.queue.is_empty() || (self.queue.len() < 50 && world.source_random.u8(..3) == 0) {
            self.fill(&mut world);
        }
        let most = [1, 5, 200][world.source_random.usize(..3)].min(self.queue.len());
        let frames: Vec<Vec<u8>> = self.queue.drain(..most).collect();
        self.ready_ms = world.now_ms() + 2 + world.source_random.u64(..6);
        Ok(Batch::new(Bytes::from(frames.concat())))
    }

    async fn report(&mut self, status: Status) -> Result<(), Failure> {
        if self.shared.lock().step("report") {
            std::future::pending::<()>().await;
        }
        let mut world = self.shared.lock();
        self.judge_silence(&mut world);
        self.reported_ms = world.now_ms();
        let fails = world.faults.report_fails;
        // It may have arrived, or not.
        if world.source_chance(fails / 2.0) {
            return Err(gone("the connection was reset before a report"));
        }
        if let Some(flushed) = status.flushed {
            world.acknowledge(flushed.lsn().0);
        }
        if world.source_chance(fails / 2.0) { Err(gone("the connection was reset after a report")) } else { Ok(()) }
    }
}

//! PostgreSQL as a service: the server that answers now, who reads from its slot, and what befalls it.
//!
//! It judges nothing. Whether a stream can go on is for `pgsluice::postgres::slot` to say; here is only what a server
//! would answer, and whether something has happened after which changes may be missing.

use std::collections::HashSet;

use pgsluice::checkpoint::Checkpoint;
use pgsluice::lsn::Lsn;
use pgsluice::postgres::slot::{PLUGIN, ServerState, SlotState, Switch};

use super::oracle::EventId;
use super::schedule::{Disaster, Due, Schedule};
use super::wal::{BEGIN, Server, Slot};
use super::world::{NAME, World};

pub(crate) struct Database {
    pub(crate) server: Server,
    /// The primary before the last failover.
    retired: Option<Server>,
    /// What is to happen, latest first.
    agenda: Vec<(u64, Due)>,
    serial: u32,
    timelines: u32,
    down_until_ms: u64,
    active: Option<Active>,
    /// Raised when all connections break, and when the stream does.
    pub(crate) session: u32,
    pub(crate) stream_session: u32,
    /// All LSNs that the server named as the end of what it has sent.
    told: HashSet<u64>,
    /// The highest LSN that was put on a stream; the timeline of the last stream.
    sent: u64,
    read_timeline: Option<u32>,
    /// There was a slot: from then on every change is promised.
    promised: bool,
    /// The server was set back. It writes nothing before a stream is opened: what it writes past a checkpoint of its own
    /// timeline can't be told from what was there before.
    set_back: bool,
    /// After this, changes may be missing.
    damage: Option<Disaster>,
}

/// Who has the slot.
#[derive(Debug, Clone, Copy)]
struct Active {
    process: u32,
    /// When the server notices that the connection is gone, if it is.
    until_ms: Option<u64>,
}

impl Database {
    pub(crate) fn new(schedule: &mut Schedule) -> Self {
        Self {
            server: Server::new(schedule.slot_exists.then(|| Slot::at(BEGIN))),
            retired: None,
            agenda: std::mem::take(&mut schedule.agenda),
            serial: 0,
            timelines: 1,
            down_until_ms: 0,
            active: None,
            session: 0,
            stream_session: 0,
            told: HashSet::from([BEGIN]),
            sent: 0,
            read_timeline: None,
            promised: schedule.slot_exists,
            set_back: false,
            damage: None,
        }
    }

    /// The events of what the server has, in order.
    pub(crate) fn history(&self) -> impl Iterator<Item = EventId> {
        self.server.events()
    }

    /// No more is to come, and what was committed is acknowledged, by who has stored that.
    pub(crate) fn is_acknowledged(&self, stored: u64) -> bool {
        let end = self.server.wal.last().map_or(0, |transaction| transaction.end_lsn);
        let confirmed = self.server.slot.map_or(0, |slot| slot.confirmed);
        self.agenda.is_empty() && confirmed.min(stored) >= end
    }

    pub(crate) fn damage(&self) -> Option<Disaster> {
        self.damage
    }

    /// The slot was advanced: beyond what somebody knows to be delivered, that is in doubt.
    pub(crate) fn doubt_beyond(&mut self, known: Lsn) {
        if self.server.slot.is_some_and(|slot| slot.confirmed > known.0) {
            self.damage.get_or_insert(Disaster::SlotAdvanced);
        }
    }

    /// When something happens next.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.agenda.last().map(|(at_ms, _)| *at_ms)
    }

    pub(crate) fn is_up(&self, now_ms: u64, session: u32) -> bool {
        self.session == session && self.down_until_ms <= now_ms
    }

    /// One row of `pg_replication_slots`.
    pub(crate) fn slot_state(&self, now_ms: u64) -> Option<SlotState> {
        let slot = self.server.slot?;
        Some(SlotState {
            name: NAME.to_owned(),
            slot_type: "logical".to_owned(),
            plugin: Some(PLUGIN.to_owned()),
            database: Some(NAME.to_owned()),
            active_pid: self.holder(now_ms).and_then(|process| process.try_into().ok()),
            temporary: false,
            two_phase: false,
            wal_status: Some(if slot.invalidated { "lost" } else { "reserved" }.to_owned()),
            invalidation: None,
            restart: (!slot.invalidated).then_some(Lsn(slot.saved)),
            confirmed_flush: Some(Lsn(slot.confirmed)),
        })
    }

    /// `IDENTIFY_SYSTEM`, and the history of its timeline.
    pub(crate) fn server_state(&self) -> ServerState {
        let Server { system, timeline, end, history, .. } = &self.server;
        ServerState {
            system_identifier: *system,
            timeline: *timeline,
            flushed: Lsn(*end),
            database: NAME.to_owned(),
            history: history.clone(),
        }
    }

    fn holder(&self, now_ms: u64) -> Option<u32> {
        let is_there = |active: &Active| active.until_ms.is_none_or(|until_ms| now_ms < until_ms);
        self.active.filter(is_there).map(|active| active.process)
    }

    /// `CREATE_REPLICATION_SLOT`: its consistent point; none when somebody was quicker.
    pub(crate) fn create_slot(&mut self) -> Option<Lsn> {
        if self.server.slot.is_some() {
            return None;
        }
        self.server.end += 56;
        let lsn = self.tell(self.server.end);
        self.server.slot = Some(Slot::at(lsn));
        self.promised = true;
        Some(Lsn(lsn))
    }

    /// `START_REPLICATION`: the transaction that is sent first. False when another process has the slot.
    pub(crate) fn start(&mut self, process: u32, now_ms: u64) -> bool {
        if self.holder(now_ms).is_some() {
            return false;
        }
        self.active = Some(Active { process, until_ms: None });
        true
    }

    /// The connection of a stream is gone; the server notices then.
    pub(crate) fn released(&mut self, stream_session: u32, at_ms: u64) {
        if let Some(active) = self.active.as_mut().filter(|_| self.stream_session == stream_session) {
            active.until_ms = Some(at_ms);
        }
    }

    pub(crate) fn tell(&mut self, lsn: u64) -> u64 {
        self.told.insert(lsn);
        self.send(lsn)
    }

    pub(crate) fn send(&mut self, lsn: u64) -> u64 {
        self.sent = self.sent.max(lsn);
        lsn
    }

    pub(crate) fn has_told(&self, lsn: u64) -> bool {
        self.told.contains(&lsn)
    }

    fn next_due(&mut self, by_ms: u64) -> Option<Due> {
        let waits = self.set_back;
        let is_due = |(at_ms, due): &mut (u64, Due)| *at_ms <= by_ms && !(waits && matches!(due, Due::Commit(_)));
        self.agenda.pop_if(is_due).map(|(_, due)| due)
    }
}

impl World {
    /// Something happens at the database, as it is due by then.
    pub(crate) fn happen(&mut self, by_ms: u64) {
        while let Some(due) = self.database.next_due(by_ms) {
            match due {
                // Without a slot, nobody is promised anything.
                Due::Commit(commit) if !self.database.promised => {
                    self.database.server.end += commit.others + commit.own;
                }
                Due::Commit(commit) => {
                    let Self { database, oracle, .. } = self;
                    database.serial += 1;
                    database.server.commit(database.serial, &commit, oracle);
                    let end = Lsn(database.server.end);
                    self.note("database", || format!("commits {} changes, up to {end}", commit.changes.len()));
                }
                Due::Disaster(disaster) => self.befall(disaster),
            }
        }
    }

    /// A stream was opened from there, whoever has allowed it.
    pub(crate) fn judge_start(&mut self, start: &Checkpoint) {
        let Self { database, oracle, .. } = self;
        let flushed = start.flushed.0;
        let confirmed = database.server.slot.map_or(u64::MAX, |slot| slot.confirmed);
        if flushed < confirmed {
            oracle.violate(format!("starts at {}, but the slot is at {}: a gap", start.flushed, Lsn(confirmed)));
        }
        if !database.has_told(flushed) {
            oracle.violate(format!("starts at {}, which the server never named", start.flushed));
        }
        if start.system_identifier != database.server.system {
            oracle.violate("starts on another system".to_owned());
        }
        database.read_timeline = Some(database.server.timeline);
        database.set_back = false;
    }

    /// Once changes may be missing, a process may know another history than the server: then only what is acknowledged
    /// to the server is judged.
    pub(crate) fn judge_checkpoint(&mut self, checkpoint: &Checkpoint) {
        if self.database.damage.is_none() {
            let Self { database, oracle, .. } = self;
            oracle.judge_checkpoint(checkpoint, database.history());
        }
    }

    pub(crate) fn befall(&mut self, disaster: Disaster) {
        let stored = self.disk.stored().map(|checkpoint| checkpoint.flushed.0);
        let Self { database, random, .. } = self;
        // Before the first checkpoint there is nothing that could be missed.
        let is_void = match disaster {
            Disaster::Crash => false,
            Disaster::OldPrimary => stored.is_none() || database.retired.is_none(),
            _ => stored.is_none(),
        };
        if is_void {
            return;
        }
        let is_harmful = database.suffer(disaster, stored.unwrap_or_default(), random);
        if is_harmful || (stored.is_some() && database.server.slot.is_none()) || database.has_lost_timeline() {
            database.damage.get_or_insert(disaster);
        }
        let (damage, end) = (database.damage.is_some(), Lsn(database.server.end));
        database.active = None;
        database.stream_session += 1;
        if !disaster.is_of_slot() {
            database.session += 1;
            let down_until_ms = self.soon(500);
            self.database.down_until_ms = down_until_ms;
        }
        self.note("database", || format!("{disaster:?}; the WAL ends at {end}, changes may be missing: {damage}"));
    }
}

impl Database {
    /// Does the deed; whether something that was sent is gone, or something that was not is skipped.
    fn suffer(&mut self, disaster: Disaster, stored: u64, random: &mut fastrand::Rng) -> bool {
        let server = &mut self.server;
        match disaster {
            Disaster::Crash => {
                server.cut(0, random);
                false
            }
            Disaster::Failover { lacks, with_slot } => {
                self.retired = Some(server.clone());
                server.cut(lacks, random);
                server.slot = server.slot.filter(|_| with_slot);
                self.new_timeline(random) && lacks > 0
            }
            Disaster::Restore { lacks, new_timeline, with_slot } => {
                server.cut(lacks, random);
                server.slot = server.slot.filter(|_| with_slot);
                self.set_back = !new_timeline;
                if new_timeline { self.new_timeline(random) } else { self.sent >= self.server.end }
            }
            Disaster::OldPrimary => {
                self.server = self.retired.take().unwrap_or_else(|| self.server.clone());
                false
            }
            Disaster::OtherSystem => {
                server.system += 1;
                true
            }
            Disaster::SlotDropped => {
                server.slot = None;
                true
            }
            Disaster::SlotRecreated => {
                server.end += 56;
                server.slot = Some(Slot::at(server.end));
                true
            }
            Disaster::SlotInvalidated => {
                server.slot.iter_mut().for_each(|slot| slot.invalidated = true);
                true
            }
            Disaster::SlotAdvanced => {
                let end = server.end;
                let Some(slot) = &mut server.slot else { return true };
                slot.confirmed += random.u64(..=end - slot.confirmed);
                slot.saved = slot.confirmed;
                slot.confirmed > stored
            }
        }
    }

    /// What was read is of a timeline that the server does not come from.
    fn has_lost_timeline(&self) -> bool {
        let Server { timeline, history, .. } = &self.server;
        let comes_from = |read: u32| *timeline == read || history.iter().any(|switch| switch.timeline == read);
        self.read_timeline.is_some_and(|read| !comes_from(read))
    }

    /// Another timeline goes on where the WAL ends; whether that lacks something that was sent.
    fn new_timeline(&mut self, random: &mut fastrand::Rng) -> bool {
        let at = self.server.end;
        self.server.history.push(Switch { timeline: self.server.timeline, at: Lsn(at) });
        self.timelines += 1;
        self.server.timeline = self.timelines;
        self.server.end += random.u64(..10) * 8;
        self.sent >= at
    }
}

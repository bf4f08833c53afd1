//! What a seed decides beforehand: what is committed, what befalls the servers and the processes, and how likely
//! each smaller fault is.

use std::ops::Range;

use pgsluice::config::Unroutable;
use pgsluice::progress::Limits;

use super::frames::{BILLS, ITEMS, ORDERS, Table};

#[derive(Debug)]
pub(crate) struct Schedule {
    pub(crate) limits: Limits,
    pub(crate) lanes: usize,
    pub(crate) unroutable: Unroutable,
    pub(crate) frame_max: usize,
    pub(crate) report_every_ms: u64,
    pub(crate) checkpoint_interval_ms: u64,
    pub(crate) confirm_timeout_ms: u64,
    pub(crate) store: StoreKind,
    pub(crate) faults: Faults,
    /// No queue takes the events with this in their routing key.
    pub(crate) unbound: Vec<(Range<u64>, &'static str)>,
    /// Nothing can be stored.
    pub(crate) disk_full: Vec<Range<u64>>,
    /// There is a slot before there is a checkpoint.
    pub(crate) slot_exists: bool,
    /// What happens at the database, by its time, latest first.
    pub(crate) agenda: Vec<(u64, Due)>,
    /// Each machine's runs of pgsluice.
    pub(crate) machines: Vec<Vec<Life>>,
    /// From then on nothing fails.
    pub(crate) calm_ms: u64,
}

/// Where the checkpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreKind {
    /// A folder, locked by whoever uses it.
    File,
    /// A row that only who read it last can replace.
    Table,
}

/// How likely each fault is, at each step where it can happen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    /// The replication connection breaks; a report does not get through; a server can't be reached.
    pub(crate) source_drop: f64,
    pub(crate) report_fails: f64,
    pub(crate) open_fails: f64,
    /// The slot is moved by hand just before the stream begins; it begins with transactions that were confirmed.
    pub(crate) meddles: f64,
    pub(crate) sends_again: f64,
    /// The broker's connection breaks, or falls silent; it raises an alarm.
    pub(crate) broker_drop: f64,
    pub(crate) stall: f64,
    pub(crate) block: f64,
    /// A queue refuses a message, or has lost its majority and says nothing.
    pub(crate) nack: f64,
    pub(crate) mute: f64,
    /// The broker answers what was not asked.
    pub(crate) lie: f64,
    /// Only a part of what is to be written fits; what is written is not read yet.
    pub(crate) partial_write: f64,
    pub(crate) lag: f64,
    /// Confirms come for all up to them, in another order, late.
    pub(crate) multiple: f64,
    pub(crate) reorder: bool,
    pub(crate) confirm_delay_ms: u64,
    /// The checkpoint can't be stored, or takes long.
    pub(crate) store_fails: f64,
    pub(crate) store_slow: f64,
}

/// Something that happens at the database.
#[derive(Debug)]
pub(crate) enum Due {
    Commit(Commit),
    Disaster(Disaster),
}

/// A transaction, before it has a place in the WAL.
#[derive(Debug)]
pub(crate) struct Commit {
    /// Bytes of WAL that others wrote before it, and its own before its commit record.
    pub(crate) others: u64,
    pub(crate) own: u64,
    pub(crate) changes: Vec<Change>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Change {
    Insert {
        table: Table,
        long: bool,
    },
    Update(Table),
    /// Of the key, too.
    Move(Table),
    Delete(Table),
    /// Of this table, and of one that is not selected.
    Truncate(Table),
    Outbox {
        long: bool,
    },
    /// Ignored: a delete in the outbox, a table that is not selected.
    OutboxDelete,
    Unselected {
        long: bool,
    },
    /// A logical message, in its transaction.
    Message {
        long: bool,
        selected: bool,
    },
    /// Outside of any: it is all that its "transaction" has.
    Bare {
        long: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disaster {
    /// The server crashes, and recovers. What was confirmed of the slot since it was last saved is forgotten.
    Crash,
    /// A standby takes over; it may lack the last transactions, and the slot.
    Failover {
        lacks: usize,
        with_slot: bool,
    },
    /// The server from before the last failover is back in its place.
    OldPrimary,
    /// Back to before the last transactions: a snapshot of the disk, or on a new timeline, to a point in time.
    Restore {
        lacks: usize,
        new_timeline: bool,
        with_slot: bool,
    },
    /// A dump of the database, restored into a new cluster.
    OtherSystem,
    SlotDropped,
    /// Dropped, and created again.
    SlotRecreated,
    /// The server gave up its WAL.
    SlotInvalidated,
    /// Moved by hand.
    SlotAdvanced,
}

impl Disaster {
    /// Whether the server itself goes on.
    pub(crate) fn is_of_slot(self) -> bool {
        match self {
            Self::SlotDropped | Self::SlotRecreated | Self::SlotInvalidated | Self::SlotAdvanced => true,
            Self::Crash | Self::Failover { .. } | Self::OldPrimary | Self::Restore { .. } | Self::OtherSystem => false,
        }
    }
}

/// One run of pgsluice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Life {
    /// It starts so long after the one before it.
    pub(crate) pause_ms: u64,
    pub(crate) end: End,
}

/// How it ends, if nothing else ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The process is killed at this step of its peers.
    Killed(u64),
    /// It is asked to stop after so many milliseconds.
    Stopped(u64),
    /// It runs until all is done.
    Done,
}

/// Half of all schedules don't have a fault, so that the others are met undisturbed.
fn sometimes(random: &mut fastrand::Rng, most: f64) -> f64 {
    if random.bool() { 0.0 } else { random.f64() * random.f64() * most }
}

fn one_of<T: Copy>(random: &mut fastrand::Rng, choices: &[T]) -> T {
    choices[random.usize(..choices.len())]
}

/// Some of these.
fn many<T>(random: &mut fastrand::Rng, count: Range<usize>, mut make: impl FnMut(&mut fastrand::Rng) -> T) -> Vec<T> {
    (0..random.usize(count)).map(|_| make(random)).collect()
}

impl Schedule {
    pub(crate) fn new(random: &mut fastrand::Rng) -> Self {
        let span_ms = random.u64(200..6_000);
        let calm_ms = span_ms + random.u64(..2_000);
        let refuses = random.u8(..3) > 0;
        let machines = machines(random, span_ms);
        let mut agenda = commits(random, span_ms);
        agenda.extend(disasters(random, span_ms, machines.len()));
        agenda.sort_by_key(|(at_ms, _)| std::cmp::Reverse(*at_ms));
        let unroutable = match random.u8(..6) {
            0 => Unroutable::Discard,
            1 | 2 => Unroutable::Park,
            _ => Unroutable::Wait,
        };
        Self {
            lanes: one_of(random, &[1, 1, 2, 3, 8]),
            limits: Limits {
                events: one_of(random, &[1, 3, 10, 40, 1_000]),
                bytes: one_of(random, &[1_000, 5_000, 1_000_000]),
            },
            unroutable,
            // What says why an event is parked needs more room.
            frame_max: one_of(
                random,
                if unroutable == Unroutable::Park { &[4096, 131_072] } else { &[400, 4096, 131_072] },
            ),
            report_every_ms: one_of(random, &[200, 1_000, 5_000]),
            checkpoint_interval_ms: one_of(random, &[0, 10, 100, 1_000]),
            confirm_timeout_ms: random.u64(1_000..5_000),
            store: one_of(random, &[StoreKind::File, StoreKind::Table]),
            faults: faults(random, refuses),
            unbound: if refuses { unbound(random, span_ms, calm_ms) } else { Vec::new() },
            disk_full: disk_full(random, span_ms, calm_ms),
            slot_exists: random.bool(),
            agenda,
            machines,
            calm_ms,
        }
    }
}

fn faults(random: &mut fastrand::Rng, refuses: bool) -> Faults {
    Faults {
        source_drop: sometimes(random, 0.3),
        report_fails: sometimes(random, 0.2),
        open_fails: sometimes(random, 0.7),
        meddles: sometimes(random, 0.1),
        sends_again: sometimes(random, 1.0),
        broker_drop: sometimes(random, 0.1),
        stall: sometimes(random, 0.01),
        block: sometimes(random, 0.02),
        nack: if refuses { sometimes(random, 0.3) } else { 0.0 },
        mute: sometimes(random, 0.02),
        lie: sometimes(random, 0.1),
        partial_write: random.f64(),
        lag: random.f64() * 0.8,
        multiple: random.f64(),
        reorder: random.bool(),
        confirm_delay_ms: one_of(random, &[1, 10, 100]),
        store_fails: sometimes(random, 0.7),
        store_slow: sometimes(random, 0.3),
    }
}

fn commits(random: &mut fastrand::Rng, span_ms: u64) -> Vec<(u64, Due)> {
    let mut at_ms = 0;
    many(random, 2..20, |random| {
        at_ms += random.u64(..=span_ms / 8) * u64::from(random.bool());
        let most = one_of(random, &[0, 1, 3, 50]);
        let long = random.u8(..20) == 0;
        let changes = if random.u8(..6) == 0 { vec![Change::Bare { long }] } else { many(random, 0..most + 1, change) };
        let commit = Commit { others: random.u64(..100) * 8, own: random.u64(..2_000) * 8, changes };
        (at_ms.min(span_ms), Due::Commit(commit))
    })
}

fn change(random: &mut fastrand::Rng) -> Change {
    let table = one_of(random, &[ORDERS, ITEMS, BILLS]);
    let long = random.u8(..20) == 0;
    match random.u8(..12) {
        0 => Change::Unselected { long },
        1 => Change::Message { long, selected: random.bool() },
        2 => Change::OutboxDelete,
        3 => Change::Truncate(table),
        4 => Change::Delete(table),
        5 if random.bool() => Change::Move(table),
        5 => Change::Update(table),
        6 | 7 => Change::Outbox { long },
        _ => Change::Insert { table, long },
    }
}

/// Half of all schedules have none. What can be told apart only while nobody writes is left out where two may look.
fn disasters(random: &mut fastrand::Rng, span_ms: u64, machines: usize) -> Vec<(u64, Due)> {
    let most = one_of(random, &[1, 2, 2, 4]);
    many(random, 0..most, |random| {
        let lacks = random.usize(1..4);
        let with_slot = random.u8(..5) > 0;
        let disaster = match random.u8(..14) {
            0..2 => Disaster::Crash,
            2..5 => Disaster::Failover { lacks: 0, with_slot: true },
            5..7 => Disaster::Failover { lacks, with_slot },
            7 => Disaster::OldPrimary,
            8..10 => Disaster::Restore { lacks, new_timeline: machines > 1 || random.bool(), with_slot },
            10 => Disaster::SlotAdvanced,
            11 => Disaster::SlotRecreated,
            12 => one_of(random, &[Disaster::SlotDropped, Disaster::SlotInvalidated]),
            _ => Disaster::OtherSystem,
        };
        (random.u64(..span_ms), Due::Disaster(disaster))
    })
}

fn unbound(random: &mut fastrand::Rng, span_ms: u64, calm_ms: u64) -> Vec<(Range<u64>, &'static str)> {
    let most = one_of(random, &[1, 4]);
    many(random, 0..most, |random| (phase(random, span_ms, calm_ms), one_of(random, &["", "orders", "items", "Paid"])))
}

fn disk_full(random: &mut fastrand::Rng, span_ms: u64, calm_ms: u64) -> Vec<Range<u64>> {
    let most = one_of(random, &[1, 3]);
    many(random, 0..most, |random| phase(random, span_ms, calm_ms))
}

fn phase(random: &mut fastrand::Rng, span_ms: u64, calm_ms: u64) -> Range<u64> {
    let from_ms = random.u64(..span_ms);
    from_ms..(from_ms + random.u64(10..3_000)).min(calm_ms)
}

/// Mostly one machine; a second one stands by, and takes over while the first one is away, or for good.
fn machines(random: &mut fastrand::Rng, span_ms: u64) -> Vec<Vec<Life>> {
    match random.u8(..10) {
        0..6 => vec![machine(random, span_ms)],
        6..9 => vec![machine(random, span_ms), machine(random, span_ms)],
        _ => vec![many(random, 1..4, |random| life(random, span_ms)), machine(random, span_ms)],
    }
}

fn machine(random: &mut fastrand::Rng, span_ms: u64) -> Vec<Life> {
    let mut lives = many(random, 0..4, |random| life(random, span_ms));
    lives.push(Life { pause_ms: random.u64(..100), end: End::Done });
    lives
}

fn life(random: &mut fastrand::Rng, span_ms: u64) -> Life {
    let longest_ms = one_of(random, &[1, 100, 3_000]);
    let most = one_of(random, &[30, 300, 1_000]);
    let stops = random.u8(..4) == 0;
    let end = if stops { End::Stopped(random.u64(..span_ms)) } else { End::Killed(random.u64(1..most)) };
    Life { pause_ms: random.u64(..longest_ms), end }
}

//! One PostgreSQL server: its WAL, its timeline, and the slot. A copy of it can be promoted, or restored.

use std::ops::Range;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pgsluice::lsn::{Lsn, Position};
use pgsluice::postgres::slot::Switch;

use super::frames::{self, AUDIT, BILLS, OUTBOX, SELECTED, Table};
use super::oracle::{EventId, Key, Oracle};
use super::schedule::{Change, Commit};
use super::world::NAME;

/// Where the WAL of a new cluster stands.
pub(crate) const BEGIN: u64 = 1_000;
/// The bytes of a commit record, and of a message outside of transactions.
const RECORD: u64 = 48;
/// How many rows each table has, and how many aggregates the outbox.
const ROWS: u64 = 6;
const AGGREGATES: u64 = 3;
/// From PostgreSQL's epoch, 2000-01-01, back to 1970.
const EPOCH_US: i64 = 946_684_800_000_000;

#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) system: u64,
    pub(crate) timeline: u32,
    pub(crate) history: Vec<Switch>,
    /// What was committed since there is a slot.
    pub(crate) wal: Vec<Arc<Transaction>>,
    /// Where the WAL ends.
    pub(crate) end: u64,
    pub(crate) slot: Option<Slot>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) confirmed: u64,
    /// What a crash leaves of it.
    pub(crate) saved: u64,
    pub(crate) created: u64,
    pub(crate) invalidated: bool,
}

/// A committed transaction, or a message outside of any.
#[derive(Debug)]
pub(crate) struct Transaction {
    /// Counts the transactions of all histories; its commit time and its xid, too.
    pub(crate) serial: u32,
    /// There is a message and nothing else.
    pub(crate) is_bare: bool,
    /// Where its commit record, or the message, starts, and ends.
    pub(crate) commit_lsn: u64,
    pub(crate) end_lsn: u64,
    pub(crate) messages: Vec<Logged>,
    pub(crate) events: Range<EventId>,
}

/// A pgoutput message between Begin and Commit.
#[derive(Debug)]
pub(crate) struct Logged {
    /// The tables that it needs.
    pub(crate) tables: Vec<Table>,
    pub(crate) bytes: Vec<u8>,
    /// Its events.
    pub(crate) events: Range<EventId>,
}

impl Slot {
    pub(crate) fn at(lsn: u64) -> Self {
        Self { confirmed: lsn, saved: lsn, created: lsn, invalidated: false }
    }
}

impl Server {
    pub(crate) fn new(slot: Option<Slot>) -> Self {
        Self { system: 7, timeline: 1, history: Vec::new(), wal: Vec::new(), end: BEGIN, slot }
    }

    /// The events of all that was committed, in order.
    pub(crate) fn events(&self) -> impl Iterator<Item = EventId> {
        self.wal.iter().flat_map(|transaction| transaction.events.clone())
    }

    pub(crate) fn commit(&mut self, serial: u32, commit: &Commit, oracle: &mut Oracle) {
        let commit_lsn = self.end + commit.others + commit.own;
        let mut previous = self.wal.iter().rev().find_map(|transaction| transaction.events.clone().next_back());
        let first = oracle.next_event();
        let mut ordinal = 0;
        let mut messages = Vec::new();
        for change in &commit.changes {
            let rendered = render(*change, serial, commit_lsn, ordinal);
            let place = (rendered.position, i64::from(serial) + EPOCH_US);
            let begin = oracle.next_event();
            for (message_id, token) in rendered.names {
                previous = Some(oracle.expect(place, message_id, token, previous, rendered.key));
            }
            ordinal = rendered.next_ordinal;
            let events = begin..oracle.next_event();
            messages.push(Logged { tables: rendered.tables, bytes: rendered.bytes, events });
        }
        let (end_lsn, events) = (commit_lsn + RECORD, first..oracle.next_event());
        let is_bare = matches!(commit.changes[..], [Change::Bare { .. }]);
        if !is_bare {
            oracle.number(events.clone());
        }
        self.wal.push(Arc::new(Transaction { serial, is_bare, commit_lsn, end_lsn, messages, events }));
        self.end = end_lsn;
    }

    /// As it was before the last transactions: its WAL ends anywhere before the first of them is committed.
    pub(crate) fn cut(&mut self, lacks: usize, random: &mut fastrand::Rng) {
        let keeps = self.wal.len().saturating_sub(lacks);
        if let Some(lost) = self.wal.get(keeps) {
            let from = keeps.checked_sub(1).map_or(BEGIN, |last| self.wal[last].end_lsn);
            let between = from + random.u64(..=(lost.commit_lsn - from) / 8) * 8;
            self.end = [from, between, lost.commit_lsn][random.usize(..3)];
            self.wal.truncate(keeps);
        }
        let end = self.end;
        while let Some(switch) = self.history.pop_if(|switch| switch.at.0 > end) {
            self.timeline = switch.timeline;
        }
        self.slot = self.slot.filter(|slot| slot.created <= end);
        if let Some(slot) = &mut self.slot {
            slot.saved = slot.saved.min(end);
            slot.confirmed = slot.saved;
        }
    }
}

/// A change as pgoutput sends it.
struct Rendered {
    position: Position,
    next_ordinal: u64,
    tables: Vec<Table>,
    bytes: Vec<u8>,
    /// Of each event, in their order: the `message_id`, and what is in no other body.
    names: Vec<(String, String)>,
    key: Key,
}

fn render(change: Change, serial: u32, commit_lsn: u64, ordinal: u64) -> Rendered {
    let position = Position { commit_lsn: Lsn(commit_lsn), ordinal };
    let key = (10_000_000 + u64::from(serial) * 1_000 + ordinal).to_string();
    let note = |long: bool| "x".repeat(if long { 1_500 } else { 5 });
    let token = format!("\"ordinal\":{ordinal},\"xid\":{serial},");
    let own = || vec![(format!("{NAME}:{position}"), token.clone())];
    // Few rows and aggregates, so that they are met again.
    let number = u64::from(serial) * 31 + ordinal * 17;
    let [row, aggregate] = [(number % ROWS).to_string(), (number % AGGREGATES).to_string()];
    let of = |table: Table| Key::Of(table.name, number % ROWS);
    let of_row = |table: Table| if table == BILLS { by_rules(position, number % ROWS % 3) } else { own() };
    let (tables, bytes, names, key) = match change {
        Change::Insert { table, long } => {
            (vec![table], frames::insert(&table, &[&row, &note(long)]), of_row(table), of(table))
        }
        Change::Update(table) => (vec![table], frames::update(&table, &[&row, "y"]), of_row(table), of(table)),
        Change::Move(table) => {
            let from = ((number + 1) % ROWS).to_string();
            (vec![table], frames::moved(&table, &from, &[&row, "y"]), of_row(table), Key::All)
        }
        Change::Delete(table) => (vec![table], frames::delete(&table, &row), of_row(table), of(table)),
        Change::Truncate(table) => {
            let names = if table == BILLS { by_rules(position, 1) } else { own() };
            (vec![table, AUDIT], frames::truncate(&[table, AUDIT]), names, Key::All)
        }
        Change::Outbox { long } => {
            let (id, payload) = (format!("event-{key}"), format!("paid {key} {}", note(long)));
            let row = frames::insert(&OUTBOX, &[&id, "order", &aggregate, "Paid", &payload]);
            (vec![OUTBOX], row, vec![(id, payload)], Key::Of(OUTBOX.name, number % AGGREGATES))
        }
        Change::OutboxDelete => (vec![OUTBOX], frames::delete(&OUTBOX, "gone"), Vec::new(), Key::All),
        Change::Unselected { long } => {
            (vec![AUDIT], frames::insert(&AUDIT, &[&key, &note(long)]), Vec::new(), Key::All)
        }
        Change::Message { long, selected } => {
            let content = format!("{key} {}", note(long));
            let prefix = if selected { SELECTED } else { "sim" };
            let names =
                selected.then(|| (format!("{NAME}:{position}"), STANDARD.encode(&content))).into_iter().collect();
            (Vec::new(), frames::logical(true, commit_lsn, prefix, &content), names, Key::Of("message", 0))
        }
        Change::Bare { long } => {
            let (lsn, content) = (commit_lsn + RECORD, format!("{key} {}", note(long)));
            let names = vec![(format!("{NAME}:{}:message", Lsn(lsn)), STANDARD.encode(&content))];
            (Vec::new(), frames::logical(false, lsn, SELECTED, &content), names, Key::Of("message", 0))
        }
    };
    let next_ordinal = ordinal + if matches!(change, Change::Truncate(_)) { 2 } else { 1 };
    Rendered { position, next_ordinal, tables, bytes, names, key }
}

/// None, one or three events, by the remainder of the key.
fn by_rules(position: Position, remainder: u64) -> Vec<(String, String)> {
    let rules: &[&str] = match remainder {
        0 => &[],
        1 => &["one"],
        _ => &["one", "two", "three"],
    };
    let names = rules.iter().map(|rule| format!("{NAME}:{position}:{rule}"));
    names.map(|name| (name.clone(), format!("{{\"id\":\"{name}\""))).collect()
}

//! What arrived, delivery by delivery, and the judgement of it against the ledger.

use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use ::pgsluice::lsn::{Lsn, Position};
use lapin::types::FieldTable;
use serde_json::Value;

use super::ledger::{Op, Statement, Table, Turn};
use crate::support::Delivery;

/// All deliveries so far.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// By position.
    events: Vec<Event>,
    deliveries: u64,
    repeated: u64,
    /// Came back to the queue from a connection of ours.
    redelivered: u64,
    /// Came for the first time behind what comes after them.
    late: Vec<Position>,
    /// Came again and were not the same.
    changed: Vec<Position>,
}

#[derive(Debug)]
struct Event {
    position: Position,
    /// Of the whole message.
    digest: u64,
    /// When it came last, counted in deliveries; none if that was a redelivery, which has lost its place in the queue.
    last: Option<u64>,
    row: RowChange,
}

#[derive(Debug, Clone, Copy)]
struct RowChange {
    table: Table,
    op: Op,
    id: i64,
    statement: i64,
}

impl Arrivals {
    pub(super) fn take(&mut self, delivery: &Delivery) {
        let position = delivery.headers["position"].as_str().expect("text").parse().expect("a position");
        let digest = digest(delivery);
        self.deliveries += 1;
        self.redelivered += u64::from(delivery.redelivered);
        let last = (!delivery.redelivered).then_some(self.deliveries);
        match self.events.binary_search_by_key(&position, |event| event.position) {
            Ok(at) => {
                self.repeated += u64::from(!delivery.redelivered);
                let event = &mut self.events[at];
                event.last = last;
                if event.digest != digest {
                    self.changed.push(position);
                }
            }
            Err(at) => {
                if at < self.events.len() && !delivery.redelivered {
                    self.late.push(position);
                }
                let row = RowChange::of(delivery);
                self.events.insert(at, Event { position, digest, last, row });
            }
        }
    }

    /// Different changes.
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// Holds what arrived against what was committed.
    pub(super) fn judge(&self, ledger: &[Vec<Turn>]) -> Judgement {
        let mut judgement = Judgement {
            committed: ledger.iter().flatten().flat_map(|turn| &turn.statements).map(Statement::changes).sum(),
            delivered: self.len() as u64,
            repeated: self.repeated,
            redelivered: self.redelivered,
            late: self.late.len() as u64,
            ..Judgement::default()
        };
        for position in &self.changed {
            judgement.wrong(format!("{position} came again with other content"));
        }
        for position in &self.late {
            judgement.wrong(format!("{position} came for the first time behind what comes after it"));
        }
        let placed: Vec<_> = self.events.iter().filter(|event| event.last.is_some()).collect();
        for pair in placed.windows(2) {
            if pair[1].last < pair[0].last {
                judgement.out_of_order += 1;
                let (first, second) = (pair[0].position, pair[1].position);
                judgement.wrong(format!("{first} came last behind {second}"));
            }
        }
        // By writer: its transactions that have not come.
        let mut rest: Vec<_> = ledger.iter().map(|turns| turns.iter()).collect();
        for events in self.events.chunk_by(|one, other| one.position.commit_lsn == other.position.commit_lsn) {
            judgement.transaction(events, &mut rest);
        }
        for (writer, turn) in
            rest.iter_mut().enumerate().flat_map(|(writer, rest)| rest.map(move |turn| (writer, turn)))
        {
            judgement.lost += turn.statements.iter().map(Statement::changes).sum::<u64>();
            judgement.wrong(format!("nothing came of turn {} of writer {writer}", turn.number));
        }
        judgement
    }
}

/// The figures, and the first of what is wrong.
#[derive(Debug, Default)]
pub(super) struct Judgement {
    /// Changes.
    committed: u64,
    /// Different changes.
    delivered: u64,
    /// Deliveries beyond the first of each.
    repeated: u64,
    /// By the queue, to the test.
    redelivered: u64,
    pub(super) lost: u64,
    /// Events whose last delivery came behind that of the next.
    pub(super) out_of_order: u64,
    late: u64,
    /// Changes that nobody has committed.
    foreign: u64,
    pub(super) wrong: Vec<String>,
}

impl Judgement {
    fn wrong(&mut self, what: String) {
        if self.wrong.len() < 30 {
            self.wrong.push(what);
        }
    }

    /// All events of one commit record.
    fn transaction(&mut self, events: &[Event], rest: &mut [std::slice::Iter<'_, Turn>]) {
        let at = events[0].position.commit_lsn;
        let marker = events.iter().find(|event| event.row.table == Table::Turns);
        let turn = marker.and_then(|marker| {
            let turns = rest.get_mut(usize::try_from(marker.row.statement).ok()?)?;
            // Those before it in the ledger are lost: they were committed before it.
            let ahead = turns.as_slice().iter().position(|turn| turn.number == marker.row.id)?;
            let missing = &turns.as_slice()[..ahead];
            let turn = turns.nth(ahead)?;
            Some((turn, missing))
        });
        let Some((turn, missing)) = turn else {
            self.foreign += events.len() as u64;
            return self.wrong(format!("{} changes at {at} belong to nothing that was committed", events.len()));
        };
        for turn in missing {
            self.lost += turn.statements.iter().map(Statement::changes).sum::<u64>();
            self.wrong(format!("nothing came of turn {}, in order, before {at}", turn.number));
        }
        if !turn.commit_lsn.contains(&at) {
            self.out_of_order += 1;
            self.wrong(format!("turn {} came at {at}, and was committed within {:?}", turn.number, turn.commit_lsn));
        }
        self.statements(at, events, &turn.statements);
    }

    fn statements(&mut self, at: Lsn, events: &[Event], statements: &[Statement]) {
        let mut events = events.iter().peekable();
        for statement in statements {
            let mut ids = HashSet::new();
            while (ids.len() as u64) < statement.changes()
                && let Some(event) = events.next_if(|event| event.row.is_of(statement))
            {
                if !ids.insert(event.row.id) {
                    self.foreign += 1;
                    self.wrong(format!("a row was changed twice at {}", event.position));
                }
            }
            let missing = statement.changes() - ids.len() as u64;
            if missing > 0 {
                self.lost += missing;
                self.wrong(format!("{missing} changes of {statement:?}, committed at {at}, did not come"));
            }
        }
        for event in events {
            self.foreign += 1;
            self.wrong(format!("{} is not what was committed there: {:?}", event.position, event.row));
        }
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { committed, delivered, repeated, redelivered, lost, out_of_order, late, foreign, .. } = self;
        write!(
            f,
            "committed {committed}, delivered {delivered}, repeated {repeated}, lost {lost}, out of order {out_of_order}, \
             late {late}, never committed {foreign}, redelivered by the queue {redelivered}"
        )
    }
}

impl RowChange {
    fn of(delivery: &Delivery) -> Self {
        let event = delivery.json();
        let number = |value: &Value| value.as_i64().unwrap_or_else(|| panic!("no number: {event}"));
        if delivery.exchange == "shop.events" {
            return Self {
                table: Table::Outbox,
                op: Op::Insert,
                id: number(&event["id"]),
                statement: number(&event["change"]),
            };
        }
        assert_eq!(event["id"], delivery.message_id.as_str());
        let (table, writer) = match event["table"].as_str().expect("text") {
            "turns" => (Table::Turns, 0),
            "plain" => (Table::Plain, 0),
            "wide" => (Table::Wide, 0),
            other => match other.strip_prefix("scratch_") {
                Some(writer) => (Table::Scratch, writer.parse().expect("a number")),
                None => panic!("{other} is not published"),
            },
        };
        let (op, id, statement) = match event["op"].as_str().expect("text") {
            "insert" => (Op::Insert, number(&event["after"]["id"]), number(&event["after"]["change"])),
            "update" => (Op::Update, number(&event["after"]["id"]), number(&event["after"]["change"])),
            "delete" => (Op::Delete, number(&event["before"]["id"]), 0),
            "truncate" => (Op::Truncate, writer, 0),
            other => panic!("no such op: {other}"),
        };
        Self { table, op, id, statement }
    }

    fn is_of(&self, statement: &Statement) -> bool {
        let same = (self.table, self.op, self.statement) == (statement.table, statement.op, statement.change);
        same && statement.ids.contains(&self.id)
    }
}

/// Of everything but what the queue adds.
fn digest(delivery: &Delivery) -> u64 {
    let mut hasher = DefaultHasher::new();
    let Delivery { exchange, routing_key, properties, headers, body, .. } = delivery;
    let headers: Vec<_> = headers.iter().filter(|(name, _)| *name != "x-delivery-count").collect();
    let properties = properties.clone().with_headers(FieldTable::default());
    (exchange, routing_key, format!("{properties:?}{headers:?}"), body).hash(&mut hasher);
    hasher.finish()
}

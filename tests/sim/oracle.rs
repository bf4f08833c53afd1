//! The truth: what was committed, what became of it, and so whether the promise is kept.
//!
//! Each event knows the one before it in the history in which it was committed. After a failover or a restore there
//! can be several histories: what a server no longer has need not arrive, and must not be mixed with what it has.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use pgsluice::checkpoint::Checkpoint;
use pgsluice::lsn::Position;

use super::amqp::Published;

/// Names an event.
pub(crate) type EventId = usize;

/// What an event has to stay in order with, where there are several lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    /// The row of this table, the outbox's aggregate, or the messages.
    Of(&'static str, u64),
    /// Everything.
    All,
}

/// A change that has to arrive.
#[derive(Debug)]
struct Event {
    position: Position,
    message_id: String,
    /// Stands in its body, and in no other.
    token: String,
    /// The one before it.
    previous: Option<EventId>,
    key: Key,
    /// Its number in its transaction, from 1, and whether it is the last.
    numbered: Option<(i64, bool)>,
    /// As it was seen first.
    body: Option<Vec<u8>>,
    /// A process was told that all queues have it, or the policy gave it up.
    settled: bool,
    /// It is the policy that gave it up.
    given_up: bool,
    /// It was returned, refused, or forgotten.
    refused: bool,
    /// This process has taken it out of its lane, to park it.
    parking: Option<u32>,
}

/// An entry of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delivery {
    event: EventId,
    /// Who published it.
    process: u32,
    /// It does not count for the order: it was in flight on a connection that its process has given up, or of a
    /// process that was not the next one to store a checkpoint.
    late: bool,
}

#[derive(Default)]
pub(crate) struct Oracle {
    events: Vec<Event>,
    /// By position and commit time: two histories may have the same positions.
    by_place: HashMap<(Position, i64), Vec<EventId>>,
    /// The same for what comes without a position: then the body tells.
    by_name: HashMap<String, Vec<EventId>>,
    /// The queue; a broker that crashes forgets what it has not confirmed.
    queue: Vec<Option<Delivery>>,
    /// Who has stored a checkpoint last, and how long the queue was.
    stored: (u32, usize),
    violation: Option<String>,
}

impl Oracle {
    /// Notes that a rule is broken; the first one counts.
    pub(crate) fn violate(&mut self, what: impl Into<String>) {
        self.violation.get_or_insert(what.into());
    }

    pub(crate) fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// The name of the event that comes next.
    pub(crate) fn next_event(&self) -> EventId {
        self.events.len()
    }

    /// A selected change was committed.
    pub(crate) fn expect(
        &mut self,
        (position, committed_at_us): (Position, i64),
        message_id: String,
        token: String,
        previous: Option<EventId>,
        key: Key,
    ) -> EventId {
        let id = self.events.len();
        self.by_place.entry((position, committed_at_us)).or_default().push(id);
        self.by_name.entry(message_id.clone()).or_default().push(id);
        let (numbered, body, settled, given_up, refused) = (None, None, false, false, false);
        self.events.push(Event {
            position,
            message_id,
            token,
            previous,
            key,
            numbered,
            body,
            settled,
            given_up,
            refused,
            parking: None,
        });
        id
    }

    /// These are all events of one transaction.
    pub(crate) fn number(&mut self, events: Range<EventId>) {
        let last = events.end;
        for (event, number) in events.zip(1..) {
            self.events[event].numbered = Some((number, event + 1 == last));
        }
    }

    /// A message reached the broker: it must be one that was committed, under its one name, with its one body.
    pub(crate) fn recognize(&mut self, message: &Published) -> Option<EventId> {
        let Published { position, message_id, body, committed_at_us, .. } = message;
        let place = position.parse().ok().map(|position: Position| (position, *committed_at_us));
        let is_its_own = |event: &&EventId| contains(body, &self.events[**event].token);
        let found = match place {
            // One that is not called as any of them is taken for the first.
            Some(place) => self.by_place.get(&place).and_then(|events| {
                let named = events.iter().find(|event| self.events[**event].message_id == *message_id);
                named.or(events.first())
            }),
            None => self.by_name.get(message_id).and_then(|events| events.iter().find(is_its_own)),
        };
        let Some(&id) = found else {
            self.violate(format!("{message_id} at {position} was published, and is no selected change"));
            return None;
        };
        let event = &mut self.events[id];
        let wrong = if event.message_id != *message_id {
            format!("the event at {position} is called {message_id} and not {}", event.message_id)
        } else if event.numbered != message.numbered {
            format!("{message_id} says of its transaction {:?} and not {:?}", message.numbered, event.numbered)
        } else if event.body.is_none() && !contains(body, &event.token) {
            format!("{message_id} has the body of another event")
        } else if event.body.get_or_insert_with(|| body.clone()) != body {
            format!("{message_id} came again with another body")
        } else {
            return Some(id);
        };
        self.violate(wrong);
        Some(id)
    }

    /// The queue has it; where.
    pub(crate) fn enqueue(&mut self, event: EventId, process: u32, late: bool) -> usize {
        self.queue.push(Some(Delivery { event, process, late }));
        self.queue.len() - 1
    }

    /// The broker crashed before it confirmed this entry.
    pub(crate) fn forget(&mut self, entry: usize) {
        if let Some(Delivery { event, .. }) = self.queue[entry].take() {
            self.refused(event);
        }
    }

    /// A process is told that all queues have it.
    pub(crate) fn confirmed(&mut self, event: EventId) {
        self.events[event].settled = true;
    }

    /// A process is told that no queue took it, and gives it up.
    pub(crate) fn discarded(&mut self, event: EventId) {
        (self.events[event].settled, self.events[event].given_up) = (true, true);
    }

    /// A process is told that no queue took it, and parks it.
    pub(crate) fn parking(&mut self, event: EventId, process: u32) {
        self.events[event].parking = Some(process);
    }

    /// Whether nothing of it is in a lane of this process.
    pub(crate) fn has_left(&self, event: EventId, process: u32) -> bool {
        self.events[event].settled || self.events[event].parking == Some(process)
    }

    /// No queue took it, or one refused it.
    pub(crate) fn refused(&mut self, event: EventId) {
        self.events[event].refused = true;
    }

    pub(crate) fn is_settled(&self, event: EventId) -> bool {
        self.events[event].settled
    }

    pub(crate) fn previous(&self, event: EventId) -> Option<EventId> {
        self.events[event].previous
    }

    /// Those before it that it has to be behind: with several lanes, the last one of its key, and all if it is for all.
    fn before(&self, event: EventId) -> impl Iterator<Item = EventId> {
        let key = self.events[event].key;
        let all = std::iter::successors(self.previous(event), |before| self.previous(*before));
        let mut is_done = false;
        all.filter(move |before| {
            let before = self.events[*before].key;
            let counts = !is_done && (key == Key::All || before == Key::All || before == key);
            // Before that one are those that it was behind itself.
            is_done |= counts && (before == Key::All || key != Key::All);
            counts
        })
    }

    /// Whether an event is for all, so that nothing may be in flight with it.
    pub(crate) fn is_for_all(&self, event: EventId) -> bool {
        self.events[event].key == Key::All
    }

    /// With several lanes: the first of those before it that is neither settled nor, of the same key, among `sent`.
    pub(crate) fn is_overtaking(
        &self,
        event: EventId,
        process: u32,
        sent: impl Fn(EventId) -> bool,
    ) -> Option<EventId> {
        let is_one = |before: &EventId| self.events[*before].key == self.events[event].key && !self.is_for_all(event);
        self.before(event).find(|before| {
            !self.is_settled(*before) && !(is_one(before) && (sent(*before) || self.has_left(*before, process)))
        })
    }

    pub(crate) fn name(&self, event: EventId) -> &str {
        &self.events[event].message_id
    }

    /// The first of these events that nobody was told to be delivered.
    pub(crate) fn missing(&self, mut events: impl Iterator<Item = EventId>) -> Option<&str> {
        events.find(|event| !self.events[*event].settled).map(|event| self.name(event))
    }

    /// A checkpoint is about to be stored.
    pub(crate) fn judge_checkpoint(&mut self, checkpoint: &Checkpoint, history: impl Iterator<Item = EventId>) {
        let covered = history.take_while(|event| self.covers(checkpoint, *event));
        if let Some(lost) = self.missing(covered).map(str::to_owned) {
            let Checkpoint { flushed, position, .. } = checkpoint;
            self.violate(format!("a checkpoint at {flushed} ({position:?}) covers {lost}, which no queue has"));
        }
    }

    /// Whether a checkpoint says that this event is settled.
    pub(crate) fn covers(&self, checkpoint: &Checkpoint, event: EventId) -> bool {
        let at = self.events[event].position;
        at.commit_lsn < checkpoint.flushed || Some(at) <= checkpoint.position
    }

    /// A process has stored a checkpoint: what others have published since the last one, it publishes as well.
    pub(crate) fn stored(&mut self, process: u32) {
        for delivery in self.queue[self.stored.1..].iter_mut().flatten() {
            delivery.late |= delivery.process != process;
        }
        self.stored = (process, self.queue.len());
    }

    /// Once all is quiet, of what the server has: the queue has each event, the last deliveries are in order, and the
    /// first ones too, except behind an event that was refused.
    pub(crate) fn judge_queue(&mut self, history: &[EventId], lanes: usize) {
        self.stored(self.stored.0);
        let mut first = HashMap::new();
        let mut last = HashMap::new();
        for (entry, delivery) in self.queue.iter().enumerate() {
            let Some(Delivery { event, late, .. }) = delivery else { continue };
            first.entry(*event).or_insert(entry);
            if !late {
                last.insert(*event, entry);
            }
        }
        let mut violations = Vec::new();
        let kept = history.iter().copied().filter(|event| !self.events[*event].given_up);
        let kept: Vec<EventId> = kept.collect();
        if let Some(lost) = kept.iter().find(|event| !last.contains_key(*event)) {
            return self.violate(format!("{} is not in the queue", self.name(*lost)));
        }
        let is_kept: HashSet<EventId> = kept.iter().copied().collect();
        let in_order = |after: EventId| -> Vec<EventId> {
            if lanes > 1 {
                return self.before(after).filter(|before| is_kept.contains(before)).collect();
            }
            std::iter::successors(self.previous(after), |before| self.previous(*before))
                .find(|before| is_kept.contains(before))
                .into_iter()
                .collect()
        };
        let pairs = kept.iter().flat_map(|after| in_order(*after).into_iter().map(|before| (before, *after)));
        for (before, after) in pairs {
            if last[&before] > last[&after] {
                violations.push(format!("the last {} is behind the last {}", self.name(before), self.name(after)));
            }
            if first[&before] > first[&after] && !self.events[before].refused {
                violations.push(format!("the first {} is behind the first {}", self.name(before), self.name(after)));
            }
        }
        if let Some(violation) = violations.into_iter().next() {
            self.violate(violation);
        }
    }

    /// The queue, for comparing.
    pub(crate) fn queue(&self) -> &[Option<Delivery>] {
        &self.queue
    }
}

fn contains(body: &[u8], token: &str) -> bool {
    body.windows(token.len()).any(|part| part == token.as_bytes())
}

//! RabbitMQ: reads what was written, enqueues, returns or refuses it, and answers in its own time.
//!
//! A connection outlives its client: what was written may be read later, when others have published already.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;

use pgsluice::broker::{Reply, Returned};
use pgsluice::config::Unroutable;

use super::amqp::{Published, Reader};
use super::oracle::EventId;
use super::world::{World, take_due};

/// Events, and their bytes.
type Load = Vec<(Option<EventId>, usize)>;

#[derive(Default)]
pub(crate) struct Rabbit {
    connections: u32,
    /// What each connection of each process has outstanding: events, and their bytes.
    outstanding: HashMap<u32, HashMap<u32, Load>>,
    /// The last event that each process has published.
    published: HashMap<u32, EventId>,
    /// Connections without a client, and when their last bytes are read.
    ghosts: Vec<(u64, Connection)>,
}

/// The broker's end.
pub(crate) struct Connection {
    id: u32,
    process: u32,
    pub(crate) reader: Reader,
    /// What was read, from the first message without an answer on.
    window: VecDeque<Outstanding>,
    /// Delivery tag of `window[0]`.
    first_tag: u64,
    /// What is said before any confirm.
    pub(crate) replies: VecDeque<Reply>,
    /// Confirms don't come before their predecessors unless they are reordered.
    confirm_ms: u64,
    pass: Pass,
    /// How much was written when an alarm was told, and when it was over.
    alarms: Vec<Range<usize>>,
    /// The client was told something that can't be; it must not go on.
    pub(crate) lied: bool,
    /// The client has given it up.
    is_abandoned: bool,
}

/// A message that was read.
struct Outstanding {
    event: Option<EventId>,
    /// Where in the queue it is.
    entry: Option<usize>,
    wire_bytes: usize,
    verdict: Verdict,
    /// It is the parked copy of its event.
    is_parked: bool,
    answer_ms: u64,
    answered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Confirm,
    /// No queue took it. Is confirmed, too.
    Return,
    /// A queue refuses it.
    Refuse,
}

/// Since the client published something again.
#[derive(Default)]
struct Pass {
    last: Option<EventId>,
    /// All of it.
    sent: HashSet<EventId>,
    /// How much the client had written when it was told of a failure.
    failed_at: Option<usize>,
    /// It is a repetition, whose first event goes alone.
    probes: bool,
}

/// Where events are parked.
const PARKING: &str = "sim.parked";

impl Rabbit {
    pub(crate) fn published(&self, process: u32) -> Option<EventId> {
        self.published.get(&process).copied()
    }
}

impl Connection {
    pub(crate) fn open(world: &mut World, process: u32) -> Self {
        world.rabbit.connections += 1;
        let id = world.rabbit.connections;
        Self {
            id,
            process,
            reader: Reader::default(),
            window: VecDeque::new(),
            first_tag: 1,
            replies: VecDeque::new(),
            confirm_ms: 0,
            pass: Pass::default(),
            alarms: Vec::new(),
            lied: false,
            is_abandoned: false,
        }
    }

    /// Reads the messages that have come in whole.
    pub(crate) fn read(&mut self, world: &mut World) {
        loop {
            match self.reader.next(world.schedule.frame_max) {
                Ok(Some(message)) => self.route(message, world),
                Ok(None) => return,
                Err(violation) => return world.oracle.violate(violation),
            }
        }
    }

    fn route(&mut self, message: Published, world: &mut World) {
        let event = world.oracle.recognize(&message);
        let is_parked = message.exchange == PARKING;
        if let Some(event) = event {
            let last = world.rabbit.published.entry(self.process).or_default();
            *last = event.max(*last);
            if !is_parked {
                self.judge_order(event, message.begins_at, world);
            }
            self.judge_repetition(event, world);
        }
        let now = world.now_ms();
        let is_unbound = |(phase, key): &(Range<u64>, &str)| phase.contains(&now) && message.routing_key.contains(key);
        let nack = world.schedule.faults.nack;
        let verdict = if world.schedule.unbound.iter().any(is_unbound) {
            Verdict::Return
        } else if world.chance(nack) {
            Verdict::Refuse
        } else {
            Verdict::Confirm
        };
        // Of two queues, one may have taken what the other refused.
        let is_taken = verdict == Verdict::Confirm || (verdict == Verdict::Refuse && world.random.u8(..4) == 0);
        // Into the queue of what is parked, which nobody reads.
        let is_taken = is_taken && !is_parked;
        if let Some(event) = event.filter(|_| verdict != Verdict::Confirm) {
            world.oracle.refused(event);
        }
        let late = self.is_abandoned;
        let entry = event.filter(|_| is_taken).map(|event| world.oracle.enqueue(event, self.process, late));
        world.note("broker", || format!("{} on connection {}: {verdict:?}", message.message_id, self.id));
        let mute = world.schedule.faults.mute;
        let mut answer_ms = world.soon(world.schedule.faults.confirm_delay_ms);
        if world.chance(mute) {
            answer_ms = u64::MAX;
        } else if !world.schedule.faults.reorder {
            self.confirm_ms = self.confirm_ms.max(answer_ms);
            answer_ms = self.confirm_ms;
        }
        // What a parked copy says beside its event counts for nobody.
        let wire_bytes = if is_parked { 0 } else { message.wire_bytes };
        self.window.push_back(Outstanding { event, entry, wire_bytes, verdict, is_parked, answer_ms, answered: false });
        self.count(world);
        self.judge_size(world);
        if verdict == Verdict::Return {
            let Published { exchange, routing_key, message_id, .. } = message;
            self.replies.push_back(returned(exchange, routing_key, message_id));
        }
    }

    /// Keeps account of what is outstanding on all connections of the process.
    fn count(&self, world: &mut World) {
        let all = world.rabbit.outstanding.entry(self.process).or_default();
        if self.is_abandoned {
            all.remove(&self.id);
        } else {
            all.insert(self.id, self.window.iter().map(|one| (one.event, one.wire_bytes)).collect());
        }
    }

    /// No more is in flight than is allowed, on all connections together: before the last
    /// one was let in, or the three of one change, there was room.
    fn judge_size(&self, world: &mut World) {
        let limits = world.schedule.limits;
        let all = world.rabbit.outstanding.get(&self.process).into_iter().flat_map(HashMap::values).flatten();
        let (events, bytes) = all.clone().fold((0, 0), |(events, bytes), (_, one)| (events + 1, bytes + one));
        let mut last: Vec<_> = all.copied().collect();
        last.sort_unstable();
        let of_change: usize = last.iter().rev().take(3).map(|(_, bytes)| bytes).sum();
        if events > limits.events + 2 || (events > 2 && bytes - of_change >= limits.bytes) {
            world.oracle.violate(format!("{events} events and {bytes} bytes are in flight: over the limit"));
        }
    }

    /// On a live channel each event follows the one before it. All is published again only after a failure, when all
    /// is answered, from the first one on that is not settled, which goes alone at first.
    fn judge_order(&mut self, event: EventId, begins_at: usize, world: &mut World) {
        let is_one_lane = world.schedule.lanes == 1;
        let previous = world.oracle.previous(event);
        let goes_on =
            self.pass.last.is_some_and(|last| if is_one_lane { Some(last) == previous } else { last < event });
        let sent = |before| goes_on && self.pass.sent.contains(&before);
        let overtaken = if is_one_lane {
            previous.filter(|previous| !goes_on && !world.oracle.has_left(*previous, self.process))
        } else {
            world.oracle.is_overtaking(event, self.process, sent)
        };
        let broken = if overtaken.is_some() {
            Some("published before its predecessor")
        } else if goes_on {
            if self.pass.failed_at.is_some_and(|failed_at| begins_at >= failed_at) {
                Some("published after the channel has failed")
            } else if self.pass.probes && !self.window.is_empty() {
                Some("published again before the first one was taken")
            } else {
                None
            }
        } else if self.pass.last.is_some() && self.pass.failed_at.is_none() {
            Some("published again without a failure")
        } else if !self.window.is_empty() {
            Some("published again before all was answered")
        } else {
            None
        };
        let is_in_alarm = self.alarms.iter().any(|alarm| alarm.contains(&begins_at));
        if let Some(broken) = broken.or(is_in_alarm.then_some("published in spite of an alarm")) {
            let name = world.oracle.name(event).to_owned();
            world.oracle.violate(format!("{name} is {broken}, on connection {}", self.id));
        }
        if goes_on {
            self.pass.last = Some(event);
            self.pass.sent.insert(event);
            self.pass.probes = false;
        } else {
            let probes = self.pass.last.is_some();
            self.pass = Pass { probes, last: Some(event), sent: HashSet::from([event]), failed_at: None };
        }
    }

    /// Who has stored that an event is settled does not publish it again.
    fn judge_repetition(&self, event: EventId, world: &mut World) {
        let is_live = !self.is_abandoned && world.disk.is_owned_by(self.process);
        let is_covered = world.disk.stored().is_some_and(|stored| world.oracle.covers(stored, event));
        if is_live && world.database.damage().is_none() && is_covered {
            let name = world.oracle.name(event).to_owned();
            world.oracle.violate(format!("{name} is published again, although the checkpoint covers it"));
        }
    }

    /// When the next confirm is due.
    pub(crate) fn answer_ms(&self) -> Option<u64> {
        self.unanswered().map(|index| self.window[index].answer_ms).min()
    }

    fn unanswered(&self) -> impl Iterator<Item = usize> {
        self.window.iter().enumerate().filter(|(_, outstanding)| !outstanding.answered).map(|(index, _)| index)
    }

    /// What comes next before any confirm: a return.
    pub(crate) fn reply(&mut self, world: &World) -> Option<Reply> {
        let reply = self.replies.pop_front()?;
        if let (Reply::Returned(_), Unroutable::Wait) = (&reply, world.schedule.unroutable) {
            self.failed();
        }
        Some(reply)
    }

    /// One of the confirms that are due, for itself or for all before it.
    pub(crate) fn confirm(&mut self, world: &mut World) -> Option<Reply> {
        let now = world.now_ms();
        let faults = world.schedule.faults;
        let due: Vec<usize> = self.unanswered().filter(|index| self.window[*index].answer_ms <= now).collect();
        if due.is_empty() {
            return None;
        }
        let multiple = world.random.f64() < faults.multiple;
        let index = due[if faults.reorder || multiple { world.random.usize(..due.len()) } else { 0 }];
        let is_ack = |index: usize| self.window[index].verdict != Verdict::Refuse;
        let ack = is_ack(index);
        let multiple = multiple && self.unanswered().take_while(|before| *before < index).all(|it| is_ack(it) == ack);
        let named: Vec<usize> =
            if multiple { self.unanswered().take_while(|before| *before <= index).collect() } else { vec![index] };
        let tag = self.first_tag + index as u64;
        for index in named {
            self.answer(index, world);
        }
        while self.window.pop_front_if(|outstanding| outstanding.answered).is_some() {
            self.first_tag += 1;
        }
        self.count(world);
        Some(if ack { Reply::Ack { tag, multiple } } else { Reply::Nack { tag, multiple } })
    }

    /// The client hears what became of this one.
    fn answer(&mut self, index: usize, world: &mut World) {
        let outstanding = &mut self.window[index];
        outstanding.answered = true;
        let (verdict, is_parked) = (outstanding.verdict, outstanding.is_parked);
        if verdict == Verdict::Refuse {
            self.failed();
        }
        let Some(event) = self.window[index].event else { return };
        match (verdict, world.schedule.unroutable) {
            (Verdict::Confirm, _) if is_parked => world.oracle.discarded(event),
            (Verdict::Confirm, _) => world.oracle.confirmed(event),
            (Verdict::Return, Unroutable::Park) if !is_parked => world.oracle.parking(event, self.process),
            (Verdict::Return, Unroutable::Discard) => world.oracle.discarded(event),
            (Verdict::Return, Unroutable::Wait | Unroutable::Park) | (Verdict::Refuse, _) => {}
        }
    }

    pub(crate) fn alarm(&mut self, reason: &str) -> Reply {
        self.alarms.push(self.reader.written()..usize::MAX);
        Reply::Blocked(reason.to_owned())
    }

    pub(crate) fn alarm_is_over(&mut self) -> Reply {
        if let Some(alarm) = self.alarms.last_mut() {
            alarm.end = self.reader.written();
        }
        Reply::Unblocked
    }

    fn failed(&mut self) {
        self.pass.failed_at.get_or_insert(self.reader.written());
    }

    /// Something that no broker should say: it answers what was answered before, or was never sent.
    pub(crate) fn lie(&mut self, world: &mut World) -> Reply {
        self.lied = true;
        let never = self.first_tag + 100_000;
        let answered = self.window.iter().rposition(|outstanding| outstanding.answered);
        let again = match answered {
            Some(index) => self.first_tag + index as u64,
            None if self.first_tag > 1 => self.first_tag - 1,
            None => never,
        };
        match world.random.u8(..6) {
            0 => returned("sim.events".to_owned(), "order.Paid".to_owned(), "nobody's".to_owned()),
            // "All outstanding": of those it can't know what is on the way.
            1 => Reply::Ack { tag: 0, multiple: true },
            2 => Reply::Ack { tag: never, multiple: world.random.bool() },
            3 => Reply::Nack { tag: again, multiple: false },
            _ => Reply::Ack { tag: again, multiple: false },
        }
    }

    /// The broker crashes: of what it did not confirm, it has forgotten the last.
    pub(crate) fn crash(&mut self, world: &mut World) {
        self.reader.lose(self.reader.unread());
        let entries: Vec<usize> = self.unanswered().filter_map(|index| self.window[index].entry).collect();
        let kept = world.random.usize(..=entries.len());
        entries[kept..].iter().for_each(|entry| world.oracle.forget(*entry));
    }

    /// The client is gone. What it had written may be read yet: a part of it, or all; now, or later.
    pub(crate) fn abandon(mut self, world: &mut World) {
        self.is_abandoned = true;
        self.count(world);
        let unread = self.reader.unread();
        let lost = if world.random.bool() { 0 } else { world.random.usize(..=unread) };
        self.reader.lose(lost);
        let within_ms = [0, 50, 3_000][world.random.usize(..3)];
        let at_ms = world.soon(within_ms);
        world.rabbit.ghosts.push((at_ms, self));
    }
}

impl World {
    /// What is read late, by then.
    pub(crate) fn arrive(&mut self, by_ms: u64) {
        while let Some(mut ghost) = take_due(&mut self.rabbit.ghosts, by_ms) {
            ghost.read(self);
        }
    }
}

fn returned(exchange: String, routing_key: String, message_id: String) -> Reply {
    let text = "NO_ROUTE".to_owned();
    Reply::Returned(Box::new(Returned { code: 312, text, exchange, routing_key, message_id }))
}

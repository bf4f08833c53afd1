//! What both simulated peers share: the schedule, the truth of what was committed and delivered, and the oracle.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgsluice::config::Unroutable;
use pgsluice::progress::Limits;
use tokio::sync::Notify;
use tokio::task::{spawn_blocking, yield_now};
use tokio::time::{Instant, sleep_until};

use super::frames::{self, AUDIT, ITEMS, ORDERS, OUTBOX, Table};

/// The pipeline's name.
pub(crate) const NAME: &str = "sim";

/// When a peer did what.
pub(crate) type Step = (u64, &'static str);
/// All steps, and the queue.
pub(crate) type Trace = (Vec<Step>, Vec<usize>);

/// A committed transaction.
#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) visible_ms: u64,
    /// Where the WAL ends before it, past the end of its predecessor: what an idle keepalive tells.
    pub(crate) idle_lsn: u64,
    pub(crate) commit_lsn: u64,
    pub(crate) end_lsn: u64,
    /// Messages between Begin and Commit, and the tables that they need.
    pub(crate) messages: Vec<(Vec<Table>, Vec<u8>)>,
    /// `events[..events_end]` belong to it or to its predecessors.
    events_end: usize,
}

/// What has to arrive.
#[derive(Debug)]
struct Event {
    message_id: String,
    body: Option<Vec<u8>>,
    first: Option<usize>,
    last: Option<usize>,
    /// Returned under the policy that gives it up.
    discarded: bool,
}

/// How likely each fault is, at each step where it can happen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    pub(crate) source_drop: f64,
    pub(crate) report_fails: f64,
    pub(crate) open_fails: f64,
    pub(crate) broker_drop: f64,
    pub(crate) nack: f64,
    pub(crate) block: f64,
    pub(crate) stall: f64,
    pub(crate) partial_write: f64,
    pub(crate) lag: f64,
    pub(crate) multiple: f64,
    pub(crate) reorder: bool,
    pub(crate) confirm_delay_ms: u64,
}

/// While it lasts, no queue takes a table's events.
#[derive(Debug)]
struct Unbound {
    from_ms: u64,
    to_ms: u64,
    /// Part of the routing key.
    key: &'static str,
}

/// How one run of the pipeline ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Life {
    /// The process is killed at this step of the peers.
    CrashAt(u64),
    /// It is asked to stop.
    StopAt(u64),
    /// It runs until all is done.
    Last,
}

/// The state of everything outside the pipeline.
pub(crate) struct World {
    pub(crate) source_random: fastrand::Rng,
    pub(crate) broker_random: fastrand::Rng,
    pub(crate) faults: Faults,
    pub(crate) limits: Limits,
    pub(crate) unroutable: Unroutable,
    pub(crate) frame_max: usize,
    pub(crate) report_every_ms: u64,
    pub(crate) checkpoint_interval_ms: u64,
    pub(crate) confirm_timeout_ms: u64,
    pub(crate) transactions: Vec<Transaction>,
    pub(crate) lives: Vec<Life>,
    pub(crate) folder: PathBuf,
    /// From then on nothing fails.
    pub(crate) calm_ms: u64,
    pub(crate) confirmed: u64,
    /// What the server told, and so all that it may be told.
    pub(crate) told: Vec<u64>,
    pub(crate) crash_at: Option<u64>,
    pub(crate) steps: u64,
    pub(crate) crashed: Arc<Notify>,
    history: Vec<Step>,
    base: Instant,
    unbound: Vec<Unbound>,
    events: Vec<Event>,
    by_position: HashMap<String, usize>,
    log: Vec<usize>,
    violation: Option<String>,
}

/// Shared by the pipeline's two ends and the driver.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub(crate) fn new(world: World) -> Self {
        Self(Arc::new(Mutex::new(world)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until then, and until no checkpoint is being written: writing takes real time, on a thread of its own, so
    /// that what happens meanwhile would be a matter of chance. The only blocking thread works in order.
    pub(crate) async fn at(&self, at_ms: u64) {
        let base = self.lock().base;
        sleep_until(base + Duration::from_millis(at_ms)).await;
        spawn_blocking(|| ()).await.expect("does nothing");
        // The loop hears of the checkpoint first.
        yield_now().await;
    }
}

/// Half of all schedules don't have a fault, so that the others are met undisturbed.
fn sometimes(random: &mut fastrand::Rng, most: f64) -> f64 {
    if random.bool() { 0.0 } else { random.f64() * random.f64() * most }
}

impl World {
    pub(crate) fn new(seed: u64, folder: PathBuf) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let span_ms = random.u64(200..6_000);
        let rejects = random.u8(..3) > 0;
        let faults = Faults {
            source_drop: sometimes(&mut random, 0.3),
            report_fails: sometimes(&mut random, 0.2),
            open_fails: sometimes(&mut random, 0.7),
            broker_drop: sometimes(&mut random, 0.1),
            nack: if rejects { sometimes(&mut random, 0.3) } else { 0.0 },
            block: sometimes(&mut random, 0.02),
            stall: sometimes(&mut random, 0.01),
            partial_write: random.f64(),
            lag: random.f64() * 0.8,
            multiple: random.f64(),
            reorder: random.bool(),
            confirm_delay_ms: [1, 10, 100][random.usize(..3)],
        };
        let mut world = Self {
            source_random: random.fork(),
            broker_random: random.fork(),
            faults,
            limits: Limits {
                events: [1, 3, 10, 40, 1_000][random.usize(..5)],
                bytes: [1_000, 5_000, 1_000_000][random.usize(..3)],
            },
            unroutable: if random.u8(..8) == 0 { Unroutable::Discard } else { Unroutable::Wait },
            frame_max: [400, 4096, 131_072][random.usize(..3)],
            report_every_ms: [200, 1_000, 5_000][random.usize(..3)],
            checkpoint_interval_ms: [0, 10, 100, 1_000][random.usize(..4)],
            confirm_timeout_ms: random.u64(1_000..5_000),
            transactions: Vec::new(),
            lives: Vec::new(),
            folder,
            calm_ms: span_ms + random.u64(..2_000),
            confirmed: 1_000,
            told: vec![1_000],
            crash_at: None,
            steps: 0,
            crashed: Arc::new(Notify::new()),
            history: Vec::new(),
            base: Instant::now(),
            unbound: Vec::new(),
            events: Vec::new(),
            by_position: HashMap::new(),
            log: Vec::new(),
            violation: None,
        };
        let mut lsn = world.confirmed;
        let mut visible_ms = 0;
        for _ in 0..random.usize(2..20) {
            visible_ms += random.u64(..=span_ms / 8) * u64::from(random.bool());
            lsn = world.commit(&mut random, lsn, visible_ms.min(span_ms));
        }
        if rejects && random.bool() {
            for _ in 0..random.usize(1..4) {
                let from_ms = random.u64(..span_ms);
                let to_ms = (from_ms + random.u64(10..3_000)).min(world.calm_ms);
                world.unbound.push(Unbound { from_ms, to_ms, key: ["", "orders", "items", "Paid"][random.usize(..4)] });
            }
        }
        for _ in 0..random.usize(..4) {
            let life = if random.u8(..4) == 0 {
                Life::StopAt(random.u64(..span_ms))
            } else {
                let most = [30, 300, 1_000][random.usize(..3)];
                Life::CrashAt(random.u64(1..most))
            };
            world.lives.push(life);
        }
        world.lives.push(Life::Last);
        world
    }

    /// One more transaction, after `lsn`; returns where it ends.
    fn commit(&mut self, random: &mut fastrand::Rng, lsn: u64, visible_ms: u64) -> u64 {
        let idle_lsn = lsn + random.u64(..100) * 8;
        let commit_lsn = idle_lsn + random.u64(..2_000) * 8;
        let end_lsn = commit_lsn + 48;
        let changes = [0, 1, 3, 50][random.usize(..4)];
        let (mut ordinal, mut messages) = (0, Vec::new());
        for _ in 0..random.usize(..=changes) {
            let position = format!("0/{commit_lsn:X}:{ordinal}");
            let long = "x".repeat(if random.u8(..20) == 0 { 1_500 } else { 5 });
            let mut expect = |message_id| {
                self.by_position.insert(position.clone(), self.events.len());
                self.events.push(Event { message_id, body: None, first: None, last: None, discarded: false });
            };
            let by_position = format!("{NAME}:{position}");
            let plain = if random.bool() { ORDERS } else { ITEMS };
            let (tables, message) = match random.u8(..12) {
                0 => (vec![AUDIT], frames::insert(&AUDIT, &["1", &long])),
                1 => (Vec::new(), frames::logical(true, commit_lsn, &long)),
                2 => (vec![OUTBOX], frames::delete(&OUTBOX, "gone")),
                3 => {
                    expect(by_position);
                    ordinal += 1;
                    (vec![plain, AUDIT], frames::truncate(&[plain, AUDIT]))
                }
                4 => {
                    expect(by_position);
                    (vec![plain], frames::delete(&plain, "7"))
                }
                5 => {
                    expect(by_position);
                    (vec![plain], frames::update(&plain, &["7", &position]))
                }
                6 | 7 => {
                    let id = format!("event-{position}");
                    expect(id.clone());
                    (vec![OUTBOX], frames::insert(&OUTBOX, &[&id, "order", "7", "Paid", &long]))
                }
                _ => {
                    expect(by_position);
                    (vec![plain], frames::insert(&plain, &["7", &long]))
                }
            };
            ordinal += 1;
            messages.push((tables, message));
        }
        let events_end = self.events.len();
        self.transactions.push(Transaction { visible_ms, idle_lsn, commit_lsn, end_lsn, messages, events_end });
        end_lsn
    }

    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_millis()).expect("schedules are short")
    }

    /// Counts a step of a peer; true when the process dies at this one.
    pub(crate) fn step(&mut self, what: &'static str) -> bool {
        self.steps += 1;
        self.history.push((self.now_ms(), what));
        let dies = self.crash_at.is_some_and(|at| at <= self.steps);
        if dies {
            self.crashed.notify_one();
        }
        dies
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.now_ms() >= self.calm_ms
    }

    pub(crate) fn source_chance(&mut self, probability: f64) -> bool {
        self.source_random.f64() < probability && !self.is_calm()
    }

    pub(crate) fn broker_chance(&mut self, probability: f64) -> bool {
        self.broker_random.f64() < probability && !self.is_calm()
    }

    /// Notes that a rule is broken; the first one counts.
    pub(crate) fn violate(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    pub(crate) fn violation(&self) -> Option<&String> {
        self.violation.as_ref()
    }

    pub(crate) fn is_unbound(&self, routing_key: &str) -> bool {
        let now = self.now_ms();
        self.unbound.iter().any(|phase| (phase.from_ms..phase.to_ms).contains(&now) && routing_key.contains(phase.key))
    }

    /// A message reached the broker, for the queue or not: it must be one that was committed, under its one name.
    pub(crate) fn recognize(&mut self, position: &str, message_id: &str, body: &[u8]) -> Option<usize> {
        let Some(&index) = self.by_position.get(position) else {
            self.violate(format!("{message_id} at {position} was published, and is no selected change"));
            return None;
        };
        let event = &mut self.events[index];
        if event.message_id != message_id {
            let expected = event.message_id.clone();
            self.violate(format!("the event at {position} is called {message_id} and not {expected}"));
        } else if *event.body.get_or_insert_with(|| body.to_vec()) != body {
            self.violate(format!("{message_id} came again with another body"));
        }
        Some(index)
    }

    pub(crate) fn enqueue(&mut self, index: usize) {
        let at = self.log.len();
        self.log.push(index);
        self.events[index].first.get_or_insert(at);
        self.events[index].last = Some(at);
    }

    pub(crate) fn discard(&mut self, index: usize) {
        self.events[index].discarded = self.unroutable == Unroutable::Discard;
    }

    /// The server is told to forget what is before `lsn`.
    pub(crate) fn acknowledge(&mut self, lsn: u64) {
        if lsn == self.confirmed {
            return;
        }
        if lsn < self.confirmed {
            return self.violate(format!("acknowledged {lsn} after {}", self.confirmed));
        }
        if !self.told.contains(&lsn) {
            self.violate(format!("acknowledged {lsn}, which the server never named"));
        }
        match pgsluice::checkpoint::file::read(&self.folder) {
            Ok(Some(stored)) if stored.flushed.0 >= lsn => {}
            stored => self.violate(format!("acknowledged {lsn}, while stored is {stored:?}")),
        }
        // The server skips a transaction whose commit record starts before what was acknowledged.
        let gone = self.transactions.iter().filter(|transaction| transaction.commit_lsn < lsn);
        let events_end = gone.map(|transaction| transaction.events_end).max().unwrap_or(0);
        if let Some(lost) = self.missing(events_end) {
            self.violate(format!("acknowledged {lsn}, although no queue has {lost}"));
        }
        self.confirmed = lsn;
    }

    fn missing(&self, events_end: usize) -> Option<&str> {
        let missing = self.events[..events_end].iter().find(|event| event.last.is_none() && !event.discarded);
        missing.map(|event| event.message_id.as_str())
    }

    /// Whether everything that was committed is delivered, and acknowledged.
    pub(crate) fn is_done(&self) -> bool {
        let end = self.transactions.last().map_or(0, |transaction| transaction.end_lsn);
        self.is_calm() && self.confirmed >= end && self.missing(self.events.len()).is_none()
    }

    /// What keeps it from being done.
    pub(crate) fn standing(&self) -> String {
        format!(
            "stuck: acknowledged {} of {:?}, delivered {} times {} events, missing {:?}",
            self.confirmed,
            self.transactions.last().map(|transaction| transaction.end_lsn),
            self.log.len(),
            self.events.len(),
            self.missing(self.events.len()),
        )
    }

    /// Once all is quiet: each event's last delivery is in order, and without refusals its first one too.
    pub(crate) fn judge_order(&mut self) {
        if self.unroutable == Unroutable::Discard && !self.unbound.is_empty() {
            return;
        }
        let undisturbed = self.faults.nack == 0.0 && self.unbound.is_empty();
        let out_of_order = |of: fn(&Event) -> Option<usize>| {
            let pair = self.events.windows(2).find(|pair| of(&pair[0]) >= of(&pair[1]));
            pair.map(|pair| format!("{} after {}", pair[0].message_id, pair[1].message_id))
        };
        let last = out_of_order(|event| event.last).map(|pair| format!("last deliveries out of order: {pair}"));
        let first = out_of_order(|event| event.first).filter(|_| undisturbed);
        if let Some(what) = last.or(first.map(|pair| format!("first deliveries out of order: {pair}"))) {
            self.violate(what);
        }
    }

    /// What a second run of the same seed must repeat.
    pub(crate) fn trace(&mut self) -> Trace {
        (std::mem::take(&mut self.history), std::mem::take(&mut self.log))
    }
}

//! What the process counts and measures, for `/metrics`, `/status` and the page.
//!
//! Hand-written instead of the crate `metrics` and its exporter: that looks each name up in a sharded map behind a lock, or keeps
//! atomic counters with locked additions, for each event; here an event costs plain additions ([`cells`]), and all text is made
//! when somebody asks ([`exposition`]). `pipeline` writes through its [`meter`], the others into the cells that are theirs.

pub mod cells;
pub mod exposition;
pub mod history;
pub mod meter;
pub mod recent;
pub mod slot;

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;
use crate::rabbit::publisher::{Counters, State as LaneState};
use cells::{Cell, Histogram, Moment};
use history::{History, Sample};
use recent::Recent;
use slot::SlotHistory;

/// All numbers of one pipeline; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Arc<Numbers>);

/// Each field says what it is, and who writes it.
#[derive(Debug, Default)]
pub struct Numbers {
    /// The pipeline: the highest LSN that was received.
    pub received: Cell,
    /// The pipeline: up to where all is settled.
    pub settled: Cell,
    /// The pipeline: up to where that is stored.
    pub stored: Cell,
    /// The pipeline: when a checkpoint was stored last.
    pub stored_at: Moment,
    /// The pipeline: events in flight.
    pub in_flight_events: Cell,
    /// The pipeline: bytes of their frames.
    pub in_flight_bytes: Cell,
    /// The pipeline: when the oldest event in flight was committed.
    pub oldest_commit: Moment,
    /// The meter: when the event was committed that was settled last.
    pub settled_commit: Moment,
    /// The meter: from commit to settlement.
    pub latency: Histogram,
    /// The meter: from the publisher's taking it to settlement.
    pub confirm_latency: Histogram,
    /// The link: streams that were opened.
    pub streams: Cell,
    lanes: OnceLock<Vec<Lane>>,
    parking: Lane,
    series: Mutex<Vec<Arc<Series>>>,
    recent: Recent,
    slot: Mutex<SlotHistory>,
    history: Mutex<History>,
    last_error: Mutex<Option<Trouble>>,
}

/// What one publisher counts.
#[derive(Debug, Default)]
pub struct Lane {
    state: Cell,
    in_flight: Cell,
    confirmed: Cell,
    discarded: Cell,
    returned: Cell,
    nacked: Cell,
    republished: Cell,
    reconnects: Cell,
}

/// The numbers of the events of one table to one exchange.
#[derive(Debug)]
pub struct Series {
    /// `schema.table`, or one of the names of [`meter`].
    pub table: String,
    /// Where they went.
    pub exchange: String,
    /// Settled.
    pub events: Cell,
    /// Of their bodies.
    pub body_bytes: Cell,
}

/// What went wrong last, whether or not it is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// `source`, `broker`, `checkpoint` or `event`.
    pub part: String,
    /// As it was logged.
    pub message: String,
    /// Milliseconds since 1970.
    pub at_ms: u64,
}

/// What all publishers have counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Taken by the broker for good; but for those that were parked.
    pub confirmed: u64,
    /// Given up, as no queue took them, by policy.
    pub discarded: u64,
    /// `basic.return`s.
    pub returned: u64,
    /// Refusals.
    pub nacked: u64,
    /// Published again.
    pub republished: u64,
    /// Connections after the first of each lane.
    pub reconnects: u64,
    /// In the parking queue for good.
    pub parked: u64,
}

impl Deref for Metrics {
    type Target = Numbers;

    fn deref(&self) -> &Numbers {
        &self.0
    }
}

impl Numbers {
    /// There are so many publishers.
    pub fn start_lanes(&self, count: usize) {
        // A pipeline that is started again has as many.
        let _ = self.lanes.set((0..count).map(|_| Lane::default()).collect());
    }

    /// The publishers.
    #[must_use]
    pub fn lanes(&self) -> &[Lane] {
        self.lanes.get().map_or(&[], Vec::as_slice)
    }

    /// The publisher of what is parked.
    #[must_use]
    pub fn parking(&self) -> &Lane {
        &self.parking
    }

    /// What all of them have counted.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals { parked: self.parking.confirmed.get(), ..Totals::default() };
        for lane in self.lanes() {
            totals.confirmed += lane.confirmed.get();
            totals.discarded += lane.discarded.get();
        }
        for lane in self.lanes().iter().chain([&self.parking]) {
            totals.returned += lane.returned.get();
            totals.nacked += lane.nacked.get();
            totals.republished += lane.republished.get();
            totals.reconnects += lane.reconnects.get();
        }
        totals
    }

    /// Those of this table and exchange; new ones, unless the pipeline had them before it was started again.
    fn series_of(&self, table: &str, exchange: &str) -> Arc<Series> {
        let mut all = lock(&self.series);
        if let Some(known) = all.iter().find(|it| it.table == table && it.exchange == exchange) {
            return Arc::clone(known);
        }
        let series = Arc::new(Series::new(table, exchange));
        all.push(Arc::clone(&series));
        series
    }

    /// The pipeline has ended: nothing is in flight, and nobody looks at the slot.
    pub(super) fn end(&self) {
        self.in_flight_events.set(0);
        self.in_flight_bytes.set(0);
        self.oldest_commit.set(None);
        self.lanes().iter().for_each(|lane| lane.in_flight.set(0));
        *self.slot() = SlotHistory::default();
    }

    /// Those of all tables and exchanges so far.
    #[must_use]
    pub fn series(&self) -> Vec<Arc<Series>> {
        lock(&self.series).clone()
    }

    /// Settled so far: events, and bytes of their bodies.
    #[must_use]
    pub fn events(&self) -> (u64, u64) {
        let series = lock(&self.series);
        series.iter().fold((0, 0), |(events, bytes), it| (events + it.events.get(), bytes + it.body_bytes.get()))
    }

    /// The last events.
    #[must_use]
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// What the slot costs.
    pub fn slot(&self) -> MutexGuard<'_, SlotHistory> {
        lock(&self.slot)
    }

    /// The last quarter of an hour.
    pub fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.history)
    }

    /// Something went wrong.
    pub fn trouble(&self, part: &str, message: &str) {
        let (part, message) = (part.to_owned(), message.to_owned());
        *lock(&self.last_error) = Some(Trouble { part, message, at_ms: now_ms() });
    }

    /// What went wrong last.
    #[must_use]
    pub fn last_error(&self) -> Option<Trouble> {
        lock(&self.last_error).clone()
    }

    /// WAL that is known to be there and is not settled, in bytes; 0 before the first stream.
    #[must_use]
    pub fn lag_bytes(&self) -> u64 {
        let seen = self.slot().last().map_or(0, |cost| cost.wal_end.0);
        match self.settled.get() {
            0 => 0,
            settled => seen.max(self.received.get()).saturating_sub(settled),
        }
    }

    /// How long what is not settled has been there, in microseconds: since its commit for what is in flight, and since it was
    /// seen in the WAL for what was not read.
    #[must_use]
    pub fn lag_us(&self) -> u64 {
        let in_flight = self.oldest_commit.get().map_or(0, |at| u64::try_from(now_us() - at).unwrap_or(0));
        let unread = match self.settled.get() {
            0 => 0,
            settled => self.slot().lag_us(Lsn(settled), Instant::now()),
        };
        in_flight.max(unread)
    }

    /// How it is now.
    #[must_use]
    pub fn sample(&self) -> Sample {
        let (events, body_bytes) = self.events();
        Sample {
            at_ms: now_ms(),
            events,
            body_bytes,
            lag_bytes: self.lag_bytes(),
            lag_ms: self.lag_us() / 1_000,
            in_flight_events: self.in_flight_events.get(),
            retained_bytes: self.slot().last().map_or(0, |cost| cost.retained_bytes),
        }
    }
}

impl Series {
    fn new(table: &str, exchange: &str) -> Self {
        let (table, exchange) = (table.to_owned(), exchange.to_owned());
        Self { table, exchange, events: Cell::default(), body_bytes: Cell::default() }
    }
}

/// The states of a lane, as they are written.
const LANE_STATES: [&str; 6] = ["connecting", "flowing", "blocked", "retrying", "refusing", "reconnecting"];

impl Lane {
    /// What its publisher says.
    pub fn tell(&self, state: LaneState, in_flight: usize, counters: Counters) {
        let Counters { events, reconnects } = counters;
        self.state.set(match state {
            LaneState::Connecting => 0,
            LaneState::Flowing => 1,
            LaneState::Blocked => 2,
            LaneState::Retrying => 3,
            LaneState::Poisoned(_) => 4,
            LaneState::Reconnecting => 5,
        });
        self.in_flight.set(in_flight as u64);
        self.confirmed.set(events.confirmed);
        self.discarded.set(events.discarded);
        self.returned.set(events.returned);
        self.nacked.set(events.nacked);
        self.republished.set(events.republished);
        self.reconnects.set(reconnects);
    }

    /// What it is doing.
    #[must_use]
    pub fn state(&self) -> &'static str {
        usize::try_from(self.state.get()).ok().and_then(|at| LANE_STATES.get(at)).copied().unwrap_or(LANE_STATES[0])
    }

    /// Events that it has.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.in_flight.get()
    }

    /// Events that the broker took from it for good.
    #[must_use]
    pub fn confirmed(&self) -> u64 {
        self.confirmed.get()
    }
}

/// Microseconds since 1970.
pub(crate) fn now_us() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX)
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(now_us()).unwrap_or(0) / 1_000
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

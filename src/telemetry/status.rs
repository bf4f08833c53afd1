//! `GET /status`: how the pipeline is, as one JSON document that programs can rely on: fields are added, and none is taken
//! away or changes its meaning. `docs/telemetry.md` describes them. `pgsluice status` and the page read it.

use serde::{Deserialize, Serialize};

use super::metrics::cells::Histogram;
use super::metrics::recent::RecentEvent;
use super::metrics::{Trouble, now_ms, now_us};
use super::report::{Reason, Report, Summary};
use crate::lsn::Lsn;

/// The whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "docs/telemetry.md says what each is")]
pub struct Status {
    pub name: String,
    pub version: String,
    pub state: Summary,
    pub ready: bool,
    pub reasons: Vec<Reason>,
    pub paused: bool,
    pub now_ms: u64,
    pub started_at_ms: u64,
    pub source: Source,
    pub broker: Broker,
    pub slot: Option<Slot>,
    pub checkpoint: Checkpoint,
    pub lag: Lag,
    pub rates: Rates,
    pub latency: Latency,
    pub in_flight: InFlight,
    pub events: Events,
    pub series: Vec<Series>,
    pub last_events: Vec<RecentEvent>,
    pub last_error: Option<Trouble>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "docs/telemetry.md says what each is")]
pub struct Source {
    pub state: super::health::Source,
    pub slot: String,
    pub publication: String,
    pub wal_end_lsn: Option<String>,
    pub received_lsn: Option<String>,
    pub settled_lsn: Option<String>,
    pub last_commit_settled_at_ms: Option<i64>,
    pub reconnects: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "docs/telemetry.md says what each is")]
pub struct Broker {
    pub state: super::health::Broker,
    pub reconnects: u64,
    pub lanes: Vec<Lane>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "docs/telemetry.md says what each is")]
pub struct Lane {
    pub state: String,
    pub in_flight_events: u64,
    pub confirmed_events: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "docs/telemetry.md says what each is")]
pub struct Slot {
    pub wal_status: Option<String>,
    pub retained_bytes: u64,
    pub safe_bytes: Option<u64>,
    pub keep_max_bytes: Option<u64>,
    pub wal_bytes_per_s: Option<u64>,
    pub invalidation_in_s: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "docs/telemetry.md says what each is")]
pub struct Checkpoint {
    pub state: super::health::Checkpoint,
    pub lsn: Option<String>,
    pub age_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "docs/telemetry.md says what each is")]
pub struct Lag {
    pub bytes: u64,
    pub ms: u64,
    pub events: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "docs/telemetry.md says what each is")]
pub struct Rates {
    pub events_per_s: u64,
    pub body_bytes_per_s: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "docs/telemetry.md says what each is")]
pub struct Latency {
    pub commit_to_settled_us: Percentiles,
    pub confirm_us: Percentiles,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "docs/telemetry.md says what each is")]
pub struct Percentiles {
    pub p50_below: Option<u64>,
    pub p99_below: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "docs/telemetry.md says what each is")]
pub struct InFlight {
    pub events: u64,
    pub bytes: u64,
    pub events_max: u64,
    pub bytes_max: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "docs/telemetry.md says what each is")]
pub struct Events {
    pub settled: u64,
    pub body_bytes: u64,
    pub confirmed: u64,
    pub parked: u64,
    pub discarded: u64,
    pub unroutable: u64,
    pub nacked: u64,
    pub republished: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "docs/telemetry.md says what each is")]
pub struct Series {
    pub table: String,
    pub exchange: String,
    pub events: u64,
    pub body_bytes: u64,
}

impl Status {
    /// As it is now.
    #[must_use]
    pub fn of(report: &Report) -> Self {
        let (metrics, facts) = (report.metrics(), report.facts());
        let (state, totals, reasons) = (report.state(), metrics.totals(), report.reasons());
        let (events, body_bytes) = metrics.events();
        let (events_per_s, body_bytes_per_s) = metrics.history().rates();
        let in_flight_events = metrics.in_flight_events.get();
        let lsn = |cell: u64| (cell != 0).then(|| Lsn(cell).to_string());
        let slot = metrics.slot();
        let wal_end = slot.last().map_or(0, |cost| cost.wal_end.0).max(metrics.received.get());
        let slot_cost = slot.last().map(|cost| Slot {
            wal_status: cost.wal_status.clone(),
            retained_bytes: cost.retained_bytes,
            safe_bytes: cost.safe_bytes,
            keep_max_bytes: cost.keep_bytes_max,
            wal_bytes_per_s: slot.wal_bytes_per_s(),
            invalidation_in_s: slot.invalidation_s(),
        });
        drop(slot);
        Self {
            name: report.name().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: report.summary(),
            ready: reasons.is_empty(),
            reasons,
            paused: report.is_paused(),
            now_ms: now_ms(),
            started_at_ms: u64::try_from(report.started_us() / 1_000).unwrap_or(0),
            source: Source {
                state: state.source,
                slot: facts.slot.clone(),
                publication: facts.publication.clone(),
                wal_end_lsn: lsn(wal_end),
                received_lsn: lsn(metrics.received.get()),
                settled_lsn: lsn(metrics.settled.get()),
                last_commit_settled_at_ms: metrics.settled_commit.get().map(|us| us / 1_000),
                reconnects: metrics.streams.get().saturating_sub(1),
            },
            broker: Broker {
                state: state.broker,
                reconnects: totals.reconnects,
                lanes: metrics.lanes().iter().map(Lane::of).collect(),
            },
            slot: slot_cost,
            checkpoint: Checkpoint {
                state: state.checkpoint,
                lsn: lsn(metrics.stored.get()),
                age_ms: metrics.stored_at.get().map(|at| u64::try_from((now_us() - at) / 1_000).unwrap_or(0)),
            },
            lag: Lag { bytes: metrics.lag_bytes(), ms: metrics.lag_us() / 1_000, events: in_flight_events },
            rates: Rates { events_per_s, body_bytes_per_s },
            latency: Latency {
                commit_to_settled_us: Percentiles::of(&metrics.latency),
                confirm_us: Percentiles::of(&metrics.confirm_latency),
            },
            in_flight: InFlight {
                events: in_flight_events,
                bytes: metrics.in_flight_bytes.get(),
                events_max: facts.in_flight_events_max as u64,
                bytes_max: facts.in_flight_bytes_max as u64,
            },
            events: Events {
                settled: events,
                body_bytes,
                confirmed: totals.confirmed,
                parked: totals.parked,
                discarded: totals.discarded,
                unroutable: totals.returned,
                nacked: totals.nacked,
                republished: totals.republished,
            },
            series: metrics.series().iter().map(|series| Series::of(series)).collect(),
            last_events: metrics.recent().read(),
            last_error: metrics.last_error(),
        }
    }
}

impl Lane {
    fn of(lane: &super::metrics::Lane) -> Self {
        let state = lane.state().to_owned();
        Self { state, in_flight_events: lane.in_flight(), confirmed_events: lane.confirmed() }
    }
}

impl Series {
    fn of(series: &super::metrics::Series) -> Self {
        let (table, exchange) = (series.table.clone(), series.exchange.clone());
        Self { table, exchange, events: series.events.get(), body_bytes: series.body_bytes.get() }
    }
}

impl Percentiles {
    fn of(histogram: &Histogram) -> Self {
        Self { p50_below: histogram.percentile_us(50), p99_below: histogram.percentile_us(99) }
    }
}

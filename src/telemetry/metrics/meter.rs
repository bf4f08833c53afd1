//! The pipeline's side of the metrics: what it has in flight, and which numbers an event counts in.
//!
//! For each event there is one entry in a ring, beside that of the window, and a table's place is found by the oid of the last
//! change before it is looked up: no allocation, no lock and no clock for an event. The clock is read once for what is taken in
//! together, and once for what is settled together. What can be told apart is bounded: see [`SERIES_MAX`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::recent::RecentEvent;
use super::{Metrics, Series, now_us};
use crate::encode::message::Event;
use crate::failure::Poison;
use crate::postgres::relation::{OidMap, Relation};
use crate::progress::Seq;
use crate::telemetry::otlp::events::EventSpans;

/// So many pairs of table and exchange have numbers of their own; what comes after them counts in one more.
pub const SERIES_MAX: usize = 500;
/// What is of no table.
pub const MESSAGES: &str = "(messages)";
/// What has no numbers of its own.
pub const OTHERS: &str = "(others)";
/// Microseconds from 1970 to PostgreSQL's year 2000.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// Names a table among those that were counted; by [`Meter::table`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableId(usize);

/// Counts for one pipeline.
#[derive(Debug)]
pub struct Meter {
    metrics: Metrics,
    /// The first is that of messages, the second that of all others.
    tables: Vec<Table>,
    by_oid: OidMap<TableId>,
    /// Of the last change.
    last: Option<(u32, TableId)>,
    /// All of them, as the flights name them.
    series: Vec<Arc<Series>>,
    in_flight: VecDeque<Flight>,
    /// The name in the window of the first in flight.
    first: Seq,
    now: Instant,
    /// None: there are none.
    spans: Option<EventSpans>,
}

#[derive(Debug)]
struct Table {
    name: String,
    /// By exchange: few.
    series: Vec<usize>,
}

/// An event in flight.
#[derive(Debug)]
struct Flight {
    series: usize,
    /// Microseconds since 1970; none outside of transactions.
    committed_at: Option<i64>,
    taken_at: Instant,
    body_bytes: u64,
    is_settled: bool,
}

impl Meter {
    /// Counts in `metrics`.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        let table = |name: &str| Table { name: name.to_owned(), series: Vec::new() };
        Self {
            metrics,
            tables: vec![table(MESSAGES), table(OTHERS)],
            by_oid: OidMap::default(),
            last: None,
            series: Vec::new(),
            in_flight: VecDeque::new(),
            first: 0,
            now: Instant::now(),
            spans: None,
        }
    }

    /// And has spans of what is in flight.
    #[must_use]
    pub fn with_spans(self, spans: Option<EventSpans>) -> Self {
        Self { spans, ..self }
    }

    /// What follows is taken in now.
    pub fn tick(&mut self) {
        self.now = Instant::now();
    }

    /// Where the events of this table count.
    pub fn table(&mut self, relation: &Relation) -> TableId {
        if let Some((oid, table)) = self.last
            && oid == relation.oid
        {
            return table;
        }
        let table = match self.by_oid.get(&relation.oid) {
            Some(table) => *table,
            None => self.add(relation),
        };
        self.last = Some((relation.oid, table));
        table
    }

    fn add(&mut self, relation: &Relation) -> TableId {
        let name = relation.to_string();
        let known = self.tables.iter().position(|table| table.name == name);
        let index = known.unwrap_or_else(|| {
            if self.tables.len() > SERIES_MAX {
                return 1;
            }
            self.tables.push(Table { name, series: Vec::new() });
            self.tables.len() - 1
        });
        self.by_oid.insert(relation.oid, TableId(index));
        TableId(index)
    }

    /// The table may have another name now.
    pub fn forget(&mut self, relation: &Relation) {
        self.by_oid.remove(&relation.oid);
        self.last = None;
    }

    /// This event is in flight now, by this name.
    pub fn taken(&mut self, seq: Seq, table: TableId, event: &Event, at: impl std::fmt::Display) {
        if self.in_flight.is_empty() {
            self.first = seq;
        }
        debug_assert_eq!(seq, self.first + self.in_flight.len() as Seq, "events are taken in order");
        let series = self.series(table, &event.exchange);
        let committed_at = event.committed_at.map(|us| us.saturating_add(POSTGRES_EPOCH_US));
        let table = &self.tables[table.0].name;
        if let Some(spans) = &mut self.spans {
            spans.taken(seq, event, table, &at, committed_at);
        }
        self.metrics.recent().note(|| RecentEvent::of(event, table, at, committed_at));
        self.in_flight.push_back(Flight {
            series,
            committed_at,
            taken_at: self.now,
            body_bytes: event.body.len() as u64,
            is_settled: false,
        });
    }

    fn series(&mut self, table: TableId, exchange: &str) -> usize {
        if let Some(known) = self.known(table, exchange) {
            return known;
        }
        let (table, exchange) = if self.series.len() < SERIES_MAX { (table, exchange) } else { (TableId(1), OTHERS) };
        if let Some(known) = self.known(table, exchange) {
            return known;
        }
        self.series.push(self.metrics.series_of(&self.tables[table.0].name, exchange));
        let index = self.series.len() - 1;
        self.tables[table.0].series.push(index);
        index
    }

    fn known(&self, table: TableId, exchange: &str) -> Option<usize> {
        self.tables[table.0].series.iter().copied().find(|index| self.series[*index].exchange == exchange)
    }

    /// This event goes to the parking exchange, since it can't be published; none: no queue takes it.
    pub fn parked(&mut self, seq: Seq, poison: Option<Poison>) {
        if let Some(spans) = &mut self.spans {
            spans.parked(seq, poison);
        }
    }

    /// These events are settled for good.
    pub fn settled(&mut self, seqs: impl Iterator<Item = Seq>) {
        let (now, now_us) = (Instant::now(), now_us());
        for seq in seqs {
            let index = seq.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
            let Some(flight) = index.and_then(|index| self.in_flight.get_mut(index)) else { continue };
            flight.is_settled = true;
            if let Some(spans) = &mut self.spans {
                spans.settled(seq, now_us);
            }
            let series = &self.series[flight.series];
            series.events.add(1);
            series.body_bytes.add(flight.body_bytes);
            let confirmed_in = now.saturating_duration_since(flight.taken_at).as_micros();
            self.metrics.confirm_latency.observe_us(u64::try_from(confirmed_in).unwrap_or(u64::MAX));
            if let Some(committed_at) = flight.committed_at {
                // Two clocks: what is negative is their difference.
                self.metrics.latency.observe_us(u64::try_from(now_us - committed_at).unwrap_or(0));
            }
            while let Some(flight) = self.in_flight.pop_front_if(|flight| flight.is_settled) {
                self.first += 1;
                if flight.committed_at.is_some() {
                    self.metrics.settled_commit.set(flight.committed_at);
                }
            }
        }
    }

    /// When the oldest event in flight was committed, in microseconds since 1970.
    #[must_use]
    pub fn oldest_commit(&self) -> Option<i64> {
        self.in_flight.front().and_then(|flight| flight.committed_at)
    }

    /// Where it counts.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::relation::ReplicaIdentity;

    fn relation(oid: u32, name: &str) -> Relation {
        let (schema, name) = ("public".to_owned(), name.to_owned());
        Relation { oid, schema, name, identity: ReplicaIdentity::Default, columns: Vec::new() }
    }

    fn event(exchange: &str) -> Event {
        Event { exchange: exchange.to_owned(), body: vec![0; 10], committed_at: Some(0), ..Event::default() }
    }

    #[test]
    fn an_event_counts_once_it_is_settled_and_what_is_behind_a_hole_is_not_forgotten() {
        let metrics = Metrics::default();
        let mut meter = Meter::new(metrics.clone());
        let table = meter.table(&relation(7, "orders"));
        for seq in 0..3 {
            meter.taken(seq, table, &event("shop"), "0/1:0");
        }
        let counted = |metrics: &Metrics| {
            metrics.series().iter().map(|series| (series.events.get(), series.body_bytes.get())).collect::<Vec<_>>()
        };
        meter.settled([1].into_iter());
        assert_eq!((counted(&metrics), meter.first), (vec![(1, 10)], 0));
        meter.settled([0].into_iter());
        assert_eq!((counted(&metrics), meter.first), (vec![(2, 20)], 2));
        meter.settled([2].into_iter());
        assert_eq!((counted(&metrics), meter.in_flight.len()), (vec![(3, 30)], 0));
        // Its names go on where the window's do.
        meter.taken(3, table, &event("shop"), "0/1:3");
        meter.settled([3].into_iter());
        assert_eq!(metrics.latency.read().1, 4);
    }

    #[test]
    fn however_many_tables_and_exchanges_there_are_the_numbers_are_few() {
        let metrics = Metrics::default();
        let mut meter = Meter::new(metrics.clone());
        for seq in 0..2_000 {
            let table = meter.table(&relation(u32::try_from(seq).expect("small") / 2, &format!("t{}", seq / 2)));
            meter.taken(seq, table, &event(&format!("x{seq}")), "0/1:0");
        }
        meter.settled(0..2_000);
        let series = metrics.series();
        assert_eq!(series.len(), SERIES_MAX + 1);
        let others = series.iter().find(|series| series.table == OTHERS).expect("the rest");
        assert_eq!((others.exchange.as_str(), others.events.get()), (OTHERS, 2_000 - SERIES_MAX as u64));
    }

    #[test]
    fn a_table_that_was_renamed_counts_by_its_new_name() {
        let metrics = Metrics::default();
        let mut meter = Meter::new(metrics.clone());
        for (seq, name) in [(0, "before"), (1, "after")] {
            let relation = relation(7, name);
            meter.forget(&relation);
            let table = meter.table(&relation);
            meter.taken(seq, table, &event("shop"), "0/1:0");
        }
        let names: Vec<String> = metrics.series().iter().map(|series| series.table.clone()).collect();
        assert_eq!(names, ["public.before", "public.after"]);
    }
}

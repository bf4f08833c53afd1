//! `/metrics`: the numbers in Prometheus's text format (version 0.0.4).
//!
//! Invariant: what is described in [`METRICS`] is exposed, and nothing else; `docs/telemetry.md` lists the same (a test compares).

use std::fmt::{Display, Write as _};

use super::cells::{BOUNDS_US, Histogram};
use super::now_us;
use crate::telemetry::report::{Report, Summary};

/// The media type of the answer.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics: name, type, what it says.
pub const METRICS: [(&str, &str, &str); 36] = [
    ("pgsluice_build_info", "gauge", "1; the version of pgsluice and the pipeline's name"),
    ("pgsluice_start_time_seconds", "gauge", "When the process started, since 1970"),
    (
        "pgsluice_pipeline_up",
        "gauge",
        "1 while the pipeline runs; 0 once it has ended, and others of the process have not",
    ),
    ("pgsluice_ready", "gauge", "1 while changes flow: of a single pipeline, while /readyz answers 200"),
    ("pgsluice_state", "gauge", "1 for the state that the pipeline is in"),
    ("pgsluice_source_state", "gauge", "1 for the state that the stream from PostgreSQL is in"),
    ("pgsluice_broker_state", "gauge", "1 for the state that the publisher is in"),
    ("pgsluice_lag_bytes", "gauge", "WAL that is known to be there and is not settled"),
    (
        "pgsluice_lag_seconds",
        "gauge",
        "How long what is not settled has been there: its commit, or when it was seen in the WAL",
    ),
    (
        "pgsluice_last_settled_commit_timestamp_seconds",
        "gauge",
        "When the event was committed that was settled last, since 1970",
    ),
    (
        "pgsluice_event_latency_seconds",
        "histogram",
        "From PostgreSQL's commit timestamp to settlement, by the two clocks",
    ),
    ("pgsluice_confirm_latency_seconds", "histogram", "From the publisher's taking an event to its settlement"),
    ("pgsluice_events_total", "counter", "Events settled: confirmed, parked or discarded"),
    ("pgsluice_event_body_bytes_total", "counter", "Bytes of their bodies"),
    (
        "pgsluice_events_confirmed_total",
        "counter",
        "Events that the broker took for good; without those that were parked",
    ),
    ("pgsluice_events_unroutable_total", "counter", "Messages that came back because no queue took them, each time"),
    ("pgsluice_events_parked_total", "counter", "Events that the parking queue took for good"),
    (
        "pgsluice_events_discarded_total",
        "counter",
        "Events that were given up because no queue took them (rabbitmq.unroutable.policy)",
    ),
    ("pgsluice_events_nacked_total", "counter", "Messages that the broker refused, each time"),
    ("pgsluice_events_republished_total", "counter", "Events that were published again, each time"),
    ("pgsluice_in_flight_events", "gauge", "Events that were taken in and are not settled"),
    ("pgsluice_in_flight_bytes", "gauge", "Bytes of their frames"),
    ("pgsluice_lane_in_flight_events", "gauge", "The same of each lane"),
    ("pgsluice_reconnects_total", "counter", "Streams and connections after the first"),
    ("pgsluice_wal_position_bytes", "gauge", "LSNs as bytes since 0/0: end of the WAL, received, settled, stored"),
    ("pgsluice_wal_bytes_per_second", "gauge", "WAL that the server writes, over the last five minutes"),
    ("pgsluice_slot_retained_bytes", "gauge", "WAL that the server keeps because of the slot"),
    ("pgsluice_slot_wal_status", "gauge", "1 for the slot's wal_status"),
    (
        "pgsluice_slot_safe_bytes",
        "gauge",
        "WAL that may be written until the slot is in danger; +Inf: there is no limit",
    ),
    ("pgsluice_slot_keep_max_bytes", "gauge", "The server's max_slot_wal_keep_size; +Inf: there is no limit"),
    (
        "pgsluice_slot_invalidation_seconds",
        "gauge",
        "When the server would invalidate the slot if it moved no further, at the rate of the last five minutes; +Inf: never",
    ),
    ("pgsluice_checkpoint_age_seconds", "gauge", "Since a checkpoint was stored last"),
    ("pgsluice_checkpoint_failing", "gauge", "1 while the checkpoint can't be stored"),
    ("pgsluice_paused", "gauge", "1 while pgsluice is paused"),
    ("pgsluice_otlp_exported_spans_total", "counter", "Spans that the collector took"),
    (
        "pgsluice_otlp_dropped_spans_total",
        "counter",
        "Spans for which there was no place, or that the collector refused",
    ),
];

/// All of it; `is_labelled`: each sample has the label `pipeline`.
#[must_use]
pub fn render<'r, R>(reports: &R, is_labelled: bool) -> String
where
    R: Iterator<Item = &'r Report> + Clone,
{
    let mut text = Text { written: String::with_capacity(8 << 10), pipeline: None };
    for (name, kind, help) in METRICS {
        let _ = writeln!(text.written, "# HELP {name} {}\n# TYPE {name} {kind}", escaped_help(help));
        for report in reports.clone() {
            text.pipeline = is_labelled.then(|| report.name().to_owned());
            text.metric(name, report);
        }
    }
    text.written
}

struct Text {
    written: String,
    /// Whose samples come; none: there is one.
    pipeline: Option<String>,
}

impl Text {
    fn metric(&mut self, name: &str, report: &Report) {
        let metrics = report.metrics();
        let state = report.state();
        let totals = metrics.totals();
        match name {
            "pgsluice_build_info" => {
                let version = ("version", env!("CARGO_PKG_VERSION"));
                match self.pipeline {
                    Some(_) => self.labelled(name, &[version], 1),
                    None => self.labelled(name, &[version, ("pipeline", report.name())], 1),
                }
            }
            "pgsluice_start_time_seconds" => self.plain(name, seconds(report.started_us())),
            "pgsluice_pipeline_up" => self.plain(name, u8::from(report.runs())),
            "pgsluice_ready" => self.plain(name, u8::from(report.reasons().is_empty())),
            "pgsluice_paused" => self.plain(name, u8::from(report.is_paused())),
            "pgsluice_state" => {
                self.one_of(name, "state", &Summary::ALL.map(Summary::as_str), report.summary().as_str());
            }
            "pgsluice_source_state" => {
                self.one_of(name, "state", &["connecting", "standby", "streaming"], state.source.as_str());
            }
            "pgsluice_broker_state" => {
                let all = ["connecting", "flowing", "blocked", "retrying", "refusing"];
                self.one_of(name, "state", &all, state.broker.as_str());
            }
            "pgsluice_lag_bytes" => self.plain(name, metrics.lag_bytes()),
            "pgsluice_lag_seconds" => self.plain(name, seconds(i64::try_from(metrics.lag_us()).unwrap_or(i64::MAX))),
            "pgsluice_last_settled_commit_timestamp_seconds" => {
                self.known(name, metrics.settled_commit.get().map(seconds));
            }
            "pgsluice_event_latency_seconds" => self.histogram(name, &metrics.latency),
            "pgsluice_confirm_latency_seconds" => self.histogram(name, &metrics.confirm_latency),
            "pgsluice_events_total" => {
                for series in metrics.series() {
                    let labels = [("table", series.table.as_str()), ("exchange", &series.exchange)];
                    self.labelled(name, &labels, series.events.get());
                }
            }
            "pgsluice_event_body_bytes_total" => {
                for series in metrics.series() {
                    let labels = [("table", series.table.as_str()), ("exchange", &series.exchange)];
                    self.labelled(name, &labels, series.body_bytes.get());
                }
            }
            "pgsluice_events_confirmed_total" => self.plain(name, totals.confirmed),
            "pgsluice_events_unroutable_total" => self.plain(name, totals.returned),
            "pgsluice_events_parked_total" => self.plain(name, totals.parked),
            "pgsluice_events_discarded_total" => self.plain(name, totals.discarded),
            "pgsluice_events_nacked_total" => self.plain(name, totals.nacked),
            "pgsluice_events_republished_total" => self.plain(name, totals.republished),
            "pgsluice_in_flight_events" => self.plain(name, metrics.in_flight_events.get()),
            "pgsluice_in_flight_bytes" => self.plain(name, metrics.in_flight_bytes.get()),
            "pgsluice_lane_in_flight_events" => {
                for (lane, at) in metrics.lanes().iter().zip(0_usize..) {
                    self.labelled(name, &[("lane", &at.to_string())], lane.in_flight());
                }
            }
            "pgsluice_reconnects_total" => {
                self.labelled(name, &[("peer", "postgresql")], metrics.streams.get().saturating_sub(1));
                self.labelled(name, &[("peer", "rabbitmq")], totals.reconnects);
            }
            "pgsluice_wal_position_bytes" => {
                let end = metrics.slot().last().map_or(0, |cost| cost.wal_end.0).max(metrics.received.get());
                let known = [("end", end), ("received", metrics.received.get()), ("settled", metrics.settled.get())];
                for (position, lsn) in known.into_iter().chain([("stored", metrics.stored.get())]) {
                    self.labelled(name, &[("position", position)], lsn);
                }
            }
            "pgsluice_checkpoint_age_seconds" => {
                self.known(name, metrics.stored_at.get().map(|at| seconds((now_us() - at).max(0))));
            }
            "pgsluice_otlp_exported_spans_total" => self.known(name, report.spans().map(|spans| spans.exported)),
            "pgsluice_otlp_dropped_spans_total" => self.known(name, report.spans().map(|spans| spans.dropped)),
            "pgsluice_checkpoint_failing" => self.plain(name, u8::from(state.checkpoint.as_str() == "failing")),
            _ => self.slot(name, report),
        }
    }

    /// Known once somebody has looked.
    fn slot(&mut self, name: &str, report: &Report) {
        let slot = report.metrics().slot();
        let Some(cost) = slot.last() else { return };
        match name {
            "pgsluice_wal_bytes_per_second" => self.known(name, slot.wal_bytes_per_s()),
            "pgsluice_slot_retained_bytes" => self.plain(name, cost.retained_bytes),
            "pgsluice_slot_wal_status" => {
                let all = ["reserved", "extended", "unreserved", "lost"];
                self.one_of(name, "status", &all, cost.wal_status.as_deref().unwrap_or_default());
            }
            "pgsluice_slot_safe_bytes" => self.limit(name, cost.safe_bytes),
            "pgsluice_slot_keep_max_bytes" => self.limit(name, cost.keep_bytes_max),
            "pgsluice_slot_invalidation_seconds" => self.limit(name, slot.invalidation_s()),
            _ => unreachable!("a metric that nobody writes: {name}"),
        }
    }

    fn plain(&mut self, name: &str, value: impl Display) {
        self.labelled(name, &[], value);
    }

    fn known(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.plain(name, value);
        }
    }

    fn limit(&mut self, name: &str, value: Option<u64>) {
        match value {
            Some(value) => self.plain(name, value),
            None => self.plain(name, "+Inf"),
        }
    }

    fn one_of(&mut self, name: &str, label: &str, all: &[&str], is: &str) {
        for value in all {
            self.labelled(name, &[(label, value)], u8::from(*value == is));
        }
    }

    fn labelled(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let Self { written, pipeline } = self;
        written.push_str(name);
        let pipeline = pipeline.as_deref().map(|name| ("pipeline", name));
        let mut before = '{';
        for (label, text) in labels.iter().copied().chain(pipeline) {
            // Writing to a String can't fail.
            let _ = write!(written, "{before}{label}=\"{}\"", escaped(text));
            before = ',';
        }
        let _ = writeln!(written, "{} {value}", if before == ',' { "}" } else { "" });
    }

    fn histogram(&mut self, name: &str, histogram: &Histogram) {
        let (upto, count, sum_us) = histogram.read();
        for (bound, upto) in BOUNDS_US.iter().zip(upto) {
            let bound = seconds(i64::try_from(*bound).unwrap_or(i64::MAX)).to_string();
            self.labelled(&format!("{name}_bucket"), &[("le", &bound)], upto);
        }
        self.labelled(&format!("{name}_bucket"), &[("le", "+Inf")], count);
        self.plain(&format!("{name}_sum"), seconds(i64::try_from(sum_us).unwrap_or(i64::MAX)));
        self.plain(&format!("{name}_count"), count);
    }
}

/// Of microseconds.
fn seconds(us: i64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "to the microsecond for the next centuries")]
    let seconds = us as f64 / 1e6;
    seconds
}

/// A label's value: backslash, quote and line feed are escaped.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn escaped_help(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

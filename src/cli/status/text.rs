//! A status for a person: a line for each part, what matters most first.

use std::fmt::Write as _;

use super::Seen;
use crate::postgres::Bytes;
use crate::postgres::slots;
use crate::telemetry::status::{Percentiles, Slot, Status};

/// Of the pgsluice that runs.
pub(super) fn running(status: &Status) -> String {
    let Status { source, broker, lag, rates, in_flight, events, checkpoint, .. } = status;
    let up = duration(status.now_ms.saturating_sub(status.started_at_ms));
    let mut text = format!("{}: {} (pgsluice {}, up {up})\n", status.name, status.state.as_str(), status.version);
    let mut line = |name: &str, what: String| {
        // Writing to a String can't fail.
        let _ = writeln!(text, "  {name:<11} {what}");
    };
    for reason in &status.reasons {
        line("not ready", format!("{} ({})", reason.message, reason.code));
    }
    line("postgresql", format!("{}, slot {}, {}", source.state.as_str(), source.slot, reconnects(source.reconnects)));
    line("rabbitmq", format!("{}, {}", broker.state.as_str(), reconnects(broker.reconnects)));
    if broker.lanes.len() > 1 {
        let lanes = broker.lanes.iter().map(|lane| format!("{} ({})", lane.state, lane.in_flight_events));
        line("lanes", lanes.collect::<Vec<_>>().join(", "));
    }
    line("lag", format!("{} of WAL, {}, {} events in flight", Bytes(lag.bytes), duration(lag.ms), lag.events));
    line(
        "in flight",
        format!(
            "{} of {} events, {} of {}",
            in_flight.events,
            in_flight.events_max,
            Bytes(in_flight.bytes),
            Bytes(in_flight.bytes_max)
        ),
    );
    line("rate", format!("{} events/s, {}/s", rates.events_per_s, Bytes(rates.body_bytes_per_s)));
    line(
        "latency",
        format!(
            "commit to settled {}; confirm {}",
            percentiles(&status.latency.commit_to_settled_us),
            percentiles(&status.latency.confirm_us)
        ),
    );
    let lsn = |lsn: &Option<String>| lsn.clone().unwrap_or_else(|| "-".to_owned());
    line(
        "positions",
        format!(
            "end {}, received {}, settled {}",
            lsn(&source.wal_end_lsn),
            lsn(&source.received_lsn),
            lsn(&source.settled_lsn)
        ),
    );
    let age = checkpoint.age_ms.map(|ms| format!(", stored {} ago", duration(ms))).unwrap_or_default();
    line("checkpoint", format!("{}, {}{age}", checkpoint.state.as_str(), lsn(&checkpoint.lsn)));
    line("slot", status.slot.as_ref().map_or_else(|| "not looked at yet".to_owned(), cost));
    line(
        "events",
        format!(
            "{} settled ({}): {} confirmed, {} parked, {} discarded; {} unroutable, {} nacked, {} republished",
            events.settled,
            Bytes(events.body_bytes),
            events.confirmed,
            events.parked,
            events.discarded,
            events.unroutable,
            events.nacked,
            events.republished
        ),
    );
    if let Some(error) = &status.last_error {
        let ago = duration(status.now_ms.saturating_sub(error.at_ms));
        line("last error", format!("{ago} ago, {}: {}", error.part, error.message));
    }
    text
}

/// Of the database alone.
pub(super) fn database(seen: &Seen) -> String {
    let mut text = String::new();
    if let Some(name) = &seen.pipeline {
        let _ = writeln!(text, "pipeline {name}");
    }
    if let Some(error) = &seen.error {
        let _ = writeln!(text, "its database can't be asked: {error}");
        return text;
    }
    if let Some(why) = &seen.not_running {
        let _ = writeln!(text, "from the database alone: {why}");
    }
    if seen.slots.is_empty() {
        text.push_str("no such replication slot: it is created by the first start\n");
    }
    for slot in &seen.slots {
        let slots::Slot { name, active_pid, reader, lag_bytes, wal_end_lsn, confirmed_flush_lsn, .. } = slot;
        let reader = match (active_pid, reader) {
            (Some(_), Some(reader)) => format!("read by {reader}"),
            (Some(pid), None) => format!("read by PID {pid}"),
            (None, _) => "nobody reads it".to_owned(),
        };
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let lag = or_dash(&lag_bytes.map(|bytes| Bytes(bytes).to_string()));
        let _ = writeln!(text, "{name}: {reader}");
        let _ = writeln!(text, "  lag         {lag} of WAL behind {}", or_dash(wal_end_lsn));
        let _ = writeln!(text, "  positions   acknowledged {}", or_dash(confirmed_flush_lsn));
        let cost = cost(&Slot {
            wal_status: slot.wal_status.clone(),
            retained_bytes: slot.retained_bytes.unwrap_or(0),
            safe_bytes: slot.safe_bytes,
            keep_max_bytes: slot.keep_max_bytes,
            wal_bytes_per_s: None,
            invalidation_in_s: None,
        });
        let _ = writeln!(text, "  slot        {cost}");
    }
    if let Some(stored) = &seen.checkpoint {
        let position = stored.position.as_deref().map(|at| format!(", last change {at}")).unwrap_or_default();
        let _ = writeln!(text, "  checkpoint  {}{position}", stored.lsn);
    }
    text
}

fn cost(slot: &Slot) -> String {
    let mut text = format!("holds {} of WAL", Bytes(slot.retained_bytes));
    if let Some(status) = &slot.wal_status {
        let _ = write!(text, " ({status})");
    }
    match (slot.keep_max_bytes, slot.safe_bytes) {
        (None, _) => text.push_str(", and the server sets no limit (max_slot_wal_keep_size)"),
        (Some(max), safe) => {
            let _ = write!(text, ", at most {}", Bytes(max));
            let left = safe.map(|safe| format!("; {} are left", Bytes(safe)));
            text.push_str(&left.unwrap_or_default());
        }
    }
    if let Some(s) = slot.invalidation_in_s {
        let _ = write!(text, ", or {} at the present rate if it moved no further", duration(s.saturating_mul(1_000)));
    }
    text
}

fn reconnects(count: u64) -> String {
    match count {
        1 => "1 reconnect".to_owned(),
        count => format!("{count} reconnects"),
    }
}

fn percentiles(of: &Percentiles) -> String {
    let below = |us: Option<u64>| us.map_or_else(|| "-".to_owned(), duration_us);
    format!("half below {}, 99 % below {}", below(of.p50_below), below(of.p99_below))
}

fn duration_us(us: u64) -> String {
    if us < 10_000 { format!("{}.{} ms", us / 1_000, us % 1_000 / 100) } else { duration(us / 1_000) }
}

/// `350 ms`, `12 s`, `3 min 20 s`, `5 h 10 min`, `2 d 3 h`.
fn duration(ms: u64) -> String {
    let s = ms / 1_000;
    match s {
        0..10 => format!("{ms} ms"),
        10..60 => format!("{s} s"),
        60..3_600 => format!("{} min {} s", s / 60, s % 60),
        3_600..86_400 => format!("{} h {} min", s / 3_600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_the_unit_that_fits() {
        let shown = [0, 9_999, 59_999, 200_000, 18_600_000, 183_600_000].map(duration);
        assert_eq!(shown, ["0 ms", "9999 ms", "59 s", "3 min 20 s", "5 h 10 min", "2 d 3 h"]);
        assert_eq!([2_500, 25_000].map(duration_us), ["2.5 ms", "25 ms"]);
    }

    #[test]
    fn a_slot_says_what_it_costs_and_until_when() {
        let free = Slot {
            wal_status: Some("reserved".to_owned()),
            retained_bytes: 16 << 20,
            safe_bytes: None,
            keep_max_bytes: None,
            wal_bytes_per_s: Some(7),
            invalidation_in_s: None,
        };
        assert_eq!(
            cost(&free),
            "holds 16.0 MiB of WAL (reserved), and the server sets no limit (max_slot_wal_keep_size)"
        );
        let limited =
            Slot { keep_max_bytes: Some(1 << 30), safe_bytes: Some(1 << 29), invalidation_in_s: Some(7_200), ..free };
        assert_eq!(
            cost(&limited),
            "holds 16.0 MiB of WAL (reserved), at most 1.0 GiB; 512.0 MiB are left, or 2 h 0 min at the present rate if it moved no further"
        );
    }

    #[test]
    fn the_database_alone_says_what_it_knows() {
        let slot = slots::Slot {
            name: "shop".to_owned(),
            wal_status: Some("extended".to_owned()),
            wal_end_lsn: Some("0/20".to_owned()),
            confirmed_flush_lsn: Some("0/10".to_owned()),
            lag_bytes: Some(16),
            retained_bytes: Some(2048),
            ..slots::Slot::default()
        };
        let seen =
            Seen { not_running: Some("http.listen is not set".to_owned()), slots: vec![slot], ..Seen::default() };
        let text = database(&seen);
        assert!(text.starts_with("from the database alone: http.listen is not set\nshop: nobody reads it\n"), "{text}");
        assert!(text.contains("acknowledged 0/10") && text.contains("extended"), "{text}");
    }
}

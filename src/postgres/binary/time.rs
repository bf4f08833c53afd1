//! Dates, times and intervals, in the forms `DateStyle = ISO` and `IntervalStyle = iso_8601`.

use super::Input;
use super::number::{integer, padded};
use crate::encode::time::{EPOCH_DIFFERENCE_DAYS, civil};

const SECOND_US: i64 = 1_000_000;
const MINUTE_US: i64 = 60 * SECOND_US;
const HOUR_US: i64 = 60 * MINUTE_US;
const DAY_US: i64 = 24 * HOUR_US;

/// `date_send`: days since 2000-01-01.
pub(super) fn date(out: &mut Vec<u8>, days: i32) {
    match days {
        i32::MAX => out.extend_from_slice(b"infinity"),
        i32::MIN => out.extend_from_slice(b"-infinity"),
        days => {
            let is_bc = day(out, days.into());
            era(out, is_bc);
        }
    }
}

/// `timestamp_send`: microseconds since 2000-01-01.
pub(super) fn timestamp(out: &mut Vec<u8>, micros: i64, zone: &[u8]) {
    match micros {
        i64::MAX => out.extend_from_slice(b"infinity"),
        i64::MIN => out.extend_from_slice(b"-infinity"),
        micros => {
            let is_bc = day(out, micros.div_euclid(DAY_US));
            out.push(b' ');
            time(out, micros.rem_euclid(DAY_US));
            out.extend_from_slice(zone);
            era(out, is_bc);
        }
    }
}

/// Without its era: whether that is before ours. There is no year 0.
fn day(out: &mut Vec<u8>, days: i64) -> bool {
    let (year, month, day) = civil(days + EPOCH_DIFFERENCE_DAYS);
    let is_bc = year <= 0;
    padded(out, if is_bc { 1 - year } else { year }.unsigned_abs(), 4);
    for part in [month, day] {
        out.push(b'-');
        padded(out, part.unsigned_abs(), 2);
    }
    is_bc
}

fn era(out: &mut Vec<u8>, is_bc: bool) {
    if is_bc {
        out.extend_from_slice(b" BC");
    }
}

/// `time_send`: microseconds since midnight.
pub(super) fn time(out: &mut Vec<u8>, micros: i64) {
    for (index, part) in [micros / HOUR_US, micros / MINUTE_US % 60, micros / SECOND_US % 60].into_iter().enumerate() {
        if index > 0 {
            out.push(b':');
        }
        padded(out, part.unsigned_abs(), 2);
    }
    fraction(out, micros % SECOND_US);
}

/// As many digits as needed.
fn fraction(out: &mut Vec<u8>, micros: i64) {
    if micros != 0 {
        out.push(b'.');
        padded(out, micros.unsigned_abs(), 6);
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}

/// `timetz_send`: the time, and the zone in seconds west of Greenwich.
pub(super) fn timetz(out: &mut Vec<u8>, input: &mut Input<'_>) -> Option<()> {
    time(out, input.i64()?);
    let west = input.i32()?;
    out.push(if west <= 0 { b'+' } else { b'-' });
    let seconds = u64::from(west.unsigned_abs());
    padded(out, seconds / 3600, 2);
    if !seconds.is_multiple_of(3600) {
        out.push(b':');
        padded(out, seconds / 60 % 60, 2);
    }
    if !seconds.is_multiple_of(60) {
        out.push(b':');
        padded(out, seconds % 60, 2);
    }
    Some(())
}

/// `interval_send`: microseconds, days, months. `AddISO8601IntPart`: what is 0 is left out, and each part has its own sign.
pub(super) fn interval(out: &mut Vec<u8>, input: &mut Input<'_>) -> Option<()> {
    let (micros, days, months) = (input.i64()?, input.i32()?, input.i32()?);
    let (before, has_parts): (&[u8], _) = match (micros, days, months) {
        (0, 0, 0) => (b"PT0S", false),
        (i64::MAX, i32::MAX, i32::MAX) => (b"infinity", false),
        (i64::MIN, i32::MIN, i32::MIN) => (b"-infinity", false),
        _ => (b"P", true),
    };
    out.extend_from_slice(before);
    if !has_parts {
        return Some(());
    }
    let part = |out: &mut Vec<u8>, number: i64, unit: u8| {
        if number != 0 {
            integer(out, number);
            out.push(unit);
        }
    };
    part(out, (months / 12).into(), b'Y');
    part(out, (months % 12).into(), b'M');
    part(out, days.into(), b'D');
    if micros != 0 {
        out.push(b'T');
    }
    part(out, micros / HOUR_US, b'H');
    part(out, micros / MINUTE_US % 60, b'M');
    let seconds = micros % MINUTE_US;
    if seconds != 0 {
        if seconds < 0 {
            out.push(b'-');
        }
        integer(out, (seconds / SECOND_US).unsigned_abs());
        fraction(out, seconds % SECOND_US);
        out.push(b'S');
    }
    Some(())
}

//! PostgreSQL's texts of dates and times (`DateStyle=ISO`, `IntervalStyle=iso_8601`, `TimeZone=UTC`) as numbers, and as the texts
//! that Java writes of them (`ISO_OFFSET_DATE_TIME`). None when a text is no such time.

use super::super::text::json_string;
use super::super::time::days_from_civil;
use super::super::values::{Kind, json_value};

const DAY_US: i64 = 86_400_000_000;
/// Of the driver that Debezium uses (`PGStatement`), as its documentation has them: microseconds.
const INFINITY_US: i64 = 9_223_372_036_825_200_000;
const MINUS_INFINITY_US: i64 = -9_223_372_036_832_400_000;

/// Days since 1970-01-01. The infinities are the ends of 32 bits, which no date of PostgreSQL reaches.
pub(super) fn date(text: &str) -> Option<i64> {
    match text {
        "infinity" => Some(i64::from(i32::MAX)),
        "-infinity" => Some(i64::from(i32::MIN)),
        _ => {
            let (date, is_bc) = era(text);
            let (year, month, day) = civil(date)?;
            Some(days_from_civil(if is_bc { 1 - year } else { year }, month, day))
        }
    }
}

/// Microseconds since midnight.
pub(super) fn time(text: &str) -> Option<i64> {
    let (clock, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut seconds = 0;
    let mut parts = 0;
    for part in clock.split(':') {
        seconds = seconds * 60 + number(part, 2)?;
        parts += 1;
    }
    let mut micros = 0;
    for digit in fraction.bytes().map(Some).chain(std::iter::repeat(None)).take(6) {
        micros = micros * 10 + i64::from(digit.unwrap_or(b'0').checked_sub(b'0').filter(|digit| *digit < 10)?);
    }
    (parts == 3).then_some(seconds * 1_000_000 + micros)
}

/// Microseconds since 1970-01-01 00:00.
pub(super) fn timestamp(text: &str) -> Option<i64> {
    match text {
        "infinity" => return Some(INFINITY_US),
        "-infinity" => return Some(MINUS_INFINITY_US),
        _ => {}
    }
    let (text, is_bc) = era(text);
    let (day, clock) = text.split_once(' ')?;
    let (year, month, day) = civil(day)?;
    let days = days_from_civil(if is_bc { 1 - year } else { year }, month, day);
    days.checked_mul(DAY_US)?.checked_add(time(clock)?)
}

/// `02:37:00.1+05:30` as `"21:07:00.1Z"`.
pub(super) fn zoned_time(out: &mut Vec<u8>, text: &str) -> Option<()> {
    let (clock, zone) = text.split_at(text.find(['+', '-'])?);
    let mut offset = 0;
    let mut unit = 3_600;
    for part in zone[1..].split(':') {
        offset += number(part, 2)? * unit;
        unit /= 60;
    }
    let offset = if zone.starts_with('-') { -offset } else { offset };
    let micros = (time(clock)? - offset * 1_000_000).rem_euclid(DAY_US);
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let mut digits = [b'0'; 6];
    let mut left = fraction;
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789"[usize::try_from(left % 10).unwrap_or(0)];
        left /= 10;
    }
    out.push(b'"');
    for (index, part) in [seconds / 3_600, seconds / 60 % 60, seconds % 60].into_iter().enumerate() {
        if index > 0 {
            out.push(b':');
        }
        out.extend([part / 10, part % 10].map(|digit| b"0123456789"[usize::try_from(digit).unwrap_or(0)]));
    }
    if fraction > 0 {
        out.push(b'.');
        let length = digits.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1);
        out.extend_from_slice(&digits[..length]);
    }
    out.extend_from_slice(b"Z\"");
    Some(())
}

/// As our own events have it, but for years beyond 9999, which have a sign, and those before our era, which are negative.
pub(super) fn zoned_timestamp(out: &mut Vec<u8>, text: &str) -> Option<()> {
    if matches!(text, "infinity" | "-infinity") {
        json_string(out, text.as_bytes());
        return Some(());
    }
    let (time, is_bc) = era(text);
    let (year, _) = time.split_once('-')?;
    let start = out.len();
    json_value(out, &Kind::TimestampTz, time.as_bytes());
    if !is_bc && year.len() == 4 {
        return Some(());
    }
    // Behind the quote.
    let rest = out.split_off(start + 1 + year.len());
    out.truncate(start + 1);
    let number: i64 = year.parse().ok()?;
    if is_bc {
        // The year before 1 is 0.
        let sign = if number == 1 { "" } else { "-" };
        out.extend_from_slice(format!("{sign}{:04}", number - 1).as_bytes());
    } else {
        out.extend_from_slice(format!("+{number}").as_bytes());
    }
    out.extend_from_slice(&rest);
    Some(())
}

/// `P1Y2M3DT4H5M6.7S` in microseconds, with months of 365.25 / 12 days (`MicroDuration.durationMicros`).
pub(super) fn interval(text: &str) -> Option<i64> {
    let (mut days, mut seconds) = (0.0, 0.0);
    let mut is_time = false;
    let mut rest = text.strip_prefix('P')?;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('T') {
            (is_time, rest) = (true, after);
            continue;
        }
        let end = rest.find(|character: char| character.is_ascii_alphabetic())?;
        let number: f64 = rest[..end].parse().ok()?;
        match (&rest[end..=end], is_time) {
            ("Y", false) => days += number * 12.0 * (365.25 / 12.0),
            ("M", false) => days += number * (365.25 / 12.0),
            ("D", false) => days += number,
            ("H", true) => seconds += number * 3_600.0,
            ("M", true) => seconds += number * 60.0,
            ("S", true) => seconds += number,
            _ => return None,
        }
        rest = &rest[end + 1..];
    }
    #[allow(clippy::cast_possible_truncation, reason = "it saturates, as in Java")]
    Some(((days * 86_400.0 + seconds) * 1e6).round() as i64)
}

/// Without ` BC`, and whether it was there.
fn era(text: &str) -> (&str, bool) {
    text.strip_suffix(" BC").map_or((text, false), |text| (text, true))
}

/// Year, month, day.
fn civil(date: &str) -> Option<(i64, i64, i64)> {
    let mut parts = date.splitn(3, '-');
    let (year, month, day) = (number(parts.next()?, 7)?, number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    ((1..=12).contains(&month) && (1..=31).contains(&day)).then_some((year, month, day))
}

/// Of so many digits at the most.
fn number(digits: &str, most: usize) -> Option<i64> {
    let is_plain = (1..=most).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_plain { digits.parse().ok() } else { None }
}

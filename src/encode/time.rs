//! Commit times: PostgreSQL's microseconds to RFC 3339 and to AMQP's seconds.
//!
//! By hand, because the calendar arithmetic is small and the common libraries end at the year 9999,
//! where PostgreSQL does not. Invariant: any `i64` is written, none panics.

/// Between 1970-01-01 (Unix) and 2000-01-01 (PostgreSQL, `POSTGRES_EPOCH_JDATE` in `datatype/timestamp.h`).
const EPOCH_DIFFERENCE_S: i64 = 946_684_800;
pub(crate) const EPOCH_DIFFERENCE_DAYS: i64 = EPOCH_DIFFERENCE_S / DAY_S;
const DAY_S: i64 = 86_400;
const SECOND_US: i64 = 1_000_000;

/// Appends microseconds since 2000-01-01 00:00 UTC as `2026-11-21T02:37:00.123456Z`: RFC 3339, always with
/// six digits of fraction. Years outside 0000 to 9999 get a sign and six digits, as ISO 8601 expands them.
pub fn rfc3339(out: &mut Vec<u8>, micros: i64) {
    let (seconds, fraction) = (micros.div_euclid(SECOND_US), micros.rem_euclid(SECOND_US));
    let (days, second) = (seconds.div_euclid(DAY_S), seconds.rem_euclid(DAY_S));
    let (year, month, day) = civil(days + EPOCH_DIFFERENCE_DAYS);
    if (0..=9999).contains(&year) {
        out.extend_from_slice(&digits::<4>(year));
    } else {
        out.push(if year < 0 { b'-' } else { b'+' });
        out.extend_from_slice(&digits::<6>(year.abs()));
    }
    let mut rest = *b"-00-00T00:00:00.000000Z";
    for (at, number) in [(1, month), (4, day), (7, second / 3600), (10, second / 60 % 60), (13, second % 60)] {
        rest[at..at + 2].copy_from_slice(&digits::<2>(number));
    }
    rest[16..22].copy_from_slice(&digits::<6>(fraction));
    out.extend_from_slice(&rest);
}

/// Microseconds since 2000-01-01 00:00 UTC in whole seconds since 1970, as AMQP's `timestamp` has it. What lies
/// before 1970 becomes 0.
#[must_use]
pub fn unix_seconds(micros: i64) -> u64 {
    // No overflow: an i64 of microseconds is far fewer seconds.
    u64::try_from(micros.div_euclid(SECOND_US) + EPOCH_DIFFERENCE_S).unwrap_or(0)
}

/// Microseconds since 2000-01-01 00:00 UTC as microseconds since 1970, for who needs more than AMQP's seconds.
#[must_use]
pub fn unix_micros(micros: i64) -> i64 {
    micros.saturating_add(EPOCH_DIFFERENCE_S * SECOND_US)
}

/// The inverse of [`unix_micros`].
#[must_use]
pub fn since_2000(unix_micros: i64) -> i64 {
    unix_micros.saturating_sub(EPOCH_DIFFERENCE_S * SECOND_US)
}

/// Reads `2026-11-21T02:37:00.123456Z` or `2026-11-21 03:37+01`: RFC 3339 and what `PostgreSQL` writes of it, in
/// microseconds since 2000-01-01 00:00 UTC. None when it is no such time, or has no zone: nobody could tell whose it is.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let [year, month, day] = numbers(date, '-')?;
    let (time, offset_s) = zone(time)?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] =
        if time.len() == 5 { numbers(&format!("{time}:00"), ':')? } else { numbers(time, ':')? };
    let valid = date.len() == 10 && (1..=12).contains(&month) && hour < 24 && minute < 60 && second < 60;
    let days = valid.then(|| days_from_civil(year, month, day))?;
    if civil(days) != (year, month, day) || fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let micros: i64 = format!("{fraction:0<6}")[..6].parse().ok()?;
    let seconds = (days - EPOCH_DIFFERENCE_DAYS) * DAY_S + hour * 3600 + minute * 60 + second - offset_s;
    Some(seconds * SECOND_US + micros)
}

/// Splits `Z`, `+01`, `-03:30` or `+0530` off a time of day; the offset in seconds.
fn zone(time: &str) -> Option<(&str, i64)> {
    if let Some(time) = time.strip_suffix(['Z', 'z']) {
        return Some((time, 0));
    }
    let (time, offset) = time.split_at(time.find(['+', '-'])?);
    let digits = offset[1..].replace(':', "");
    let whole = match digits.len() {
        2 => format!("{digits}00"),
        4 => digits,
        _ => return None,
    };
    let [hours, minutes] = numbers(&format!("{}:{}", whole.get(..2)?, whole.get(2..)?), ':')?;
    let offset_s = hours * 3600 + minutes * 60;
    (hours < 24 && minutes < 60).then(|| (time, if offset.starts_with('-') { -offset_s } else { offset_s }))
}

/// `N` numbers of two digits, of which the first may have four.
fn numbers<const N: usize>(text: &str, between: char) -> Option<[i64; N]> {
    let number = |(index, digits): (usize, &str)| {
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        let long = digits.len() == 2 || (index == 0 && digits.len() == 4);
        if plain && long { digits.parse().ok() } else { None }
    };
    text.split(between).enumerate().map(number).collect::<Option<Vec<i64>>>()?.try_into().ok()
}

/// The inverse of [`civil`], of the same source: `days_from_civil`.
pub(crate) fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Year, month, day of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
///
/// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`: the year starts in
/// March, so that the leap day comes last, and repeats every 400 years (an era).
pub(crate) fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// The last `N` decimal digits of a number that is not negative.
fn digits<const N: usize>(number: i64) -> [u8; N] {
    let mut text = [b'0'; N];
    // 32 bits are divided faster, and hold all of them.
    let mut left = u32::try_from(number).unwrap_or(0);
    for digit in text.iter_mut().rev() {
        *digit = b"0123456789"[(left % 10) as usize];
        left /= 10;
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(micros: i64) -> String {
        let mut out = Vec::new();
        rfc3339(&mut out, micros);
        String::from_utf8(out).expect("digits are ASCII")
    }

    #[test]
    fn known_instants() {
        for (micros, text) in [
            (0, "2000-01-01T00:00:00.000000Z"),
            (-1, "1999-12-31T23:59:59.999999Z"),
            (848_543_820_123_456, "2026-11-21T02:37:00.123456Z"),
            (5_097_600 * SECOND_US, "2000-02-29T00:00:00.000000Z"),
            (-EPOCH_DIFFERENCE_S * SECOND_US, "1970-01-01T00:00:00.000000Z"),
            (252_455_615_999_999_999, "9999-12-31T23:59:59.999999Z"),
            (252_455_616_000_000_000, "+010000-01-01T00:00:00.000000Z"),
        ] {
            assert_eq!(written(micros), text);
        }
    }

    #[test]
    fn the_ends_of_the_range_are_written() {
        assert_eq!(written(i64::MAX), "+294277-01-09T04:00:54.775807Z");
        assert_eq!(written(i64::MIN), "-290278-12-22T19:59:05.224192Z");
    }

    #[test]
    fn a_time_reads_as_it_is_written() {
        for text in ["2026-11-21T02:37:00.123456Z", "2000-02-29T00:00:00.000000Z", "1969-12-31T23:59:59.999999Z"] {
            assert_eq!(parse_rfc3339(text).map(written).as_deref(), Some(text));
        }
        let expected = parse_rfc3339("2026-11-21T10:00:00Z").expect("a time");
        for text in [
            "2026-11-21 10:00:00+00",
            "2026-11-21 10:00Z",
            "2026-11-21t11:00:00.000+01:00",
            "2026-11-21 15:30:00+0530",
            "2026-11-20 23:00:00.0000000-11",
        ] {
            assert_eq!(parse_rfc3339(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_or_has_no_zone_is_refused() {
        for text in [
            "2026-11-21",
            "2026-11-21 10:00:00",
            "2026-02-29 10:00:00Z",
            "2026-13-01 10:00:00Z",
            "2026-11-21 24:00:00Z",
            "2026-11-21 10:00:60Z",
            "2026-11-21 10:00:00.Z",
            "2026-11-21 10:00:00.5xZ",
            "2026-11-21 10:00:00+1",
            "2026-11-21 10:00:00+ä1",
            "2026-11-21 1000Z",
            "26-11-21 10:00Z",
            "+2026-11-21 10:00Z",
            "yesterday",
            "",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn unix_seconds_start_at_zero() {
        assert_eq!(unix_seconds(0), 946_684_800);
        assert_eq!(unix_seconds(848_543_820_999_999), 1_795_228_620);
        assert_eq!(unix_seconds(-946_684_800_000_001), 0);
        assert_eq!(unix_seconds(i64::MIN), 0);
        assert_eq!(unix_seconds(i64::MAX), 9_224_318_721_654);
    }

    #[test]
    fn every_day_of_800_years_follows_the_one_before() {
        let month_days = |year: i64, month: i64| match month {
            2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let mut expected = (1600, 1, 1);
        for day in -135_140..157_054 {
            assert_eq!(civil(day), expected);
            let (year, month, day) = expected;
            expected = match (month, day == month_days(year, month)) {
                (_, false) => (year, month, day + 1),
                (12, true) => (year + 1, 1, 1),
                (_, true) => (year, month + 1, 1),
            };
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[-0-9:.TZ+ ä]{0,40}") {
            let _ = parse_rfc3339(&text);
        }

        #[test]
        fn any_instant_of_our_era_reads_back(micros in parse_rfc3339("0000-01-01T00:00:00Z").unwrap_or(0)..252_455_616_000_000_000) {
            prop_assert_eq!(parse_rfc3339(&written(micros)), Some(micros));
        }

        #[test]
        fn any_instant_is_written(micros in any::<i64>()) {
            let text = written(micros);
            prop_assert!(text.len() == 27 || text.len() == 30, "{}", text);
            let _ = unix_seconds(micros);
        }
    }
}

//! `real` and `double precision` as PostgreSQL 12 and later write them: the shortest digits that read back as the same number.
//!
//! The digits are those of Rust, but for two cases. A decimal exactly between two numbers reads as the even one, so that Rust
//! takes it for that one's digits; PostgreSQL doesn't count on such readers (`acceptBounds` in d2s.c), and writes more
//! digits. And of two decimals that are equally near, PostgreSQL takes the even one.

use super::number::{integer, padded};

/// `float8out`
pub(super) fn double(out: &mut Vec<u8>, number: f64) {
    // Only what has few digits after the point can be exactly between two numbers.
    let may_be_between = number.abs() >= 2f64.powi(50);
    let reads_back = |text: &str| text.parse() == Ok(number);
    write(out, number, &format!("{number:e}"), 15, may_be_between, reads_back, |precision| {
        format!("{number:.precision$e}")
    });
}

/// `float4out`
pub(super) fn real(out: &mut Vec<u8>, number: f32) {
    let may_be_between = number.abs() >= 2f32.powi(20);
    let reads_back = |text: &str| text.parse() == Ok(number);
    write(out, number.into(), &format!("{number:e}"), 6, may_be_between, reads_back, |precision| {
        format!("{number:.precision$e}")
    });
}

/// `scientific` is the number with its shortest digits; `longer` has as many digits after the point as it is told.
fn write(
    out: &mut Vec<u8>,
    number: f64,
    scientific: &str,
    plain_below: i32,
    may_be_between: bool,
    reads_back: impl Fn(&str) -> bool,
    longer: impl Fn(usize) -> String,
) {
    if number.is_nan() {
        return out.extend_from_slice(b"NaN");
    }
    if number.is_infinite() {
        return out.extend_from_slice(if number > 0.0 { b"Infinity" } else { b"-Infinity" });
    }
    let mut digits = scientific.bytes().take_while(|byte| *byte != b'e').filter(u8::is_ascii_digit).count();
    // Of two that are equally near, Rust takes the upper one when it looks for the shortest, and the even one when it is told how
    // many digits there are to be. A number is halfway between two decimals of its own length only if it has few digits after
    // the point, in binary as in decimal.
    let may_be_halfway = number.abs() >= 2f64.powi(53) || (number * 2f64.powi(20)).fract() == 0.0;
    let mut text = if may_be_halfway && digits >= 8 { longer(digits - 1) } else { scientific.to_owned() };
    while may_be_between && is_between(&text, &reads_back) && digits < 20 {
        text = longer(digits);
        digits += 1;
    }
    laid_out(out, &text, plain_below);
}

/// Whether a little more or a little less is another number.
fn is_between(scientific: &str, reads_back: impl Fn(&str) -> bool) -> bool {
    let (digits, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let point = if digits.contains('.') { "" } else { "." };
    let more = format!("{digits}{point}0000000000000000000000001e{exponent}");
    !reads_back(&more) || !reads_back(&less(digits, exponent))
}

/// The digits, less a little.
fn less(digits: &str, exponent: &str) -> String {
    let mut lower: Vec<u8> = digits.bytes().collect();
    for digit in lower.iter_mut().rev().filter(|byte| byte.is_ascii_digit()) {
        if *digit == b'0' {
            *digit = b'9';
        } else {
            *digit -= 1;
            break;
        }
    }
    let lower = String::from_utf8_lossy(&lower);
    let point = if lower.contains('.') { "" } else { "." };
    format!("{lower}{point}9999999999999999999999999e{exponent}")
}

/// As `printf`'s `%g` would: plain where the exponent is from -4 and below `plain_below`.
fn laid_out(out: &mut Vec<u8>, scientific: &str, plain_below: i32) {
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or((&b""[..], mantissa), |rest| (b"-", rest));
    out.extend_from_slice(sign);
    if !(-4..plain_below).contains(&exponent) {
        out.extend_from_slice(mantissa.as_bytes());
        out.extend_from_slice(if exponent < 0 { b"e-" } else { b"e+" });
        return padded(out, exponent.unsigned_abs().into(), 2);
    }
    let digits: Vec<u8> = mantissa.bytes().filter(u8::is_ascii_digit).collect();
    if let Ok(whole) = usize::try_from(exponent) {
        let (before, after) = digits.split_at(digits.len().min(whole + 1));
        out.extend_from_slice(before);
        out.extend(std::iter::repeat_n(b'0', whole + 1 - before.len()));
        if !after.is_empty() {
            out.push(b'.');
            out.extend_from_slice(after);
        }
    } else {
        integer(out, 0);
        out.push(b'.');
        out.extend(std::iter::repeat_n(b'0', exponent.unsigned_abs() as usize - 1));
        out.extend_from_slice(&digits);
    }
}

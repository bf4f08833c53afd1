//! Integers, `numeric`, `money`, bits, and what is made of integers.

use super::Input;

pub(super) fn integer(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// `tidsend`: block and offset.
pub(super) fn tid(out: &mut Vec<u8>, input: &mut Input<'_>) -> Option<()> {
    out.push(b'(');
    integer(out, input.u32()?);
    out.push(b',');
    integer(out, input.u16()?);
    out.push(b')');
    Some(())
}

/// `pg_snapshot_send`: how many are in progress, xmin, xmax, and those.
pub(super) fn snapshot(out: &mut Vec<u8>, input: &mut Input<'_>) -> Option<()> {
    let count = input.u32()?;
    integer(out, input.u64()?);
    out.push(b':');
    integer(out, input.u64()?);
    out.push(b':');
    for index in 0..count {
        if index > 0 {
            out.push(b',');
        }
        integer(out, input.u64()?);
    }
    Some(())
}

/// `bit_send`: how many bits, and the bytes that hold them.
pub(super) fn bits(out: &mut Vec<u8>, input: &mut Input<'_>) -> Option<()> {
    let count = usize::try_from(input.i32()?).ok()?;
    let bytes = input.bytes(count.div_ceil(8))?;
    let bits = bytes.iter().flat_map(|byte| (0..8).map(move |bit| b'0' + (byte >> (7 - bit) & 1)));
    out.extend(bits.take(count));
    Some(())
}

/// `cash_out` under `lc_monetary = C`.
pub(super) fn money(out: &mut Vec<u8>, cents: i64) {
    if cents < 0 {
        out.push(b'-');
    }
    out.push(b'$');
    let cents = cents.unsigned_abs();
    let mut buffer = itoa::Buffer::new();
    let dollars = buffer.format(cents / 100).as_bytes();
    for (index, digit) in dollars.iter().enumerate() {
        if index > 0 && (dollars.len() - index).is_multiple_of(3) {
            out.push(b',');
        }
        out.push(*digit);
    }
    out.push(b'.');
    padded(out, cents % 100, 2);
}

/// With zeros up to `width` digits.
pub(super) fn padded(out: &mut Vec<u8>, number: u64, width: usize) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(number).as_bytes();
    out.extend(std::iter::repeat_n(b'0', width.saturating_sub(digits.len())));
    out.extend_from_slice(digits);
}

/// `numeric_send`: digits in base 10,000, the power of the first of them, the sign, and how many decimal digits of fraction
/// are shown.
pub(super) fn numeric(out: &mut Vec<u8>, input: &mut Input<'_>) -> Option<()> {
    const PER_DIGIT: usize = 4;
    let (count, weight, sign) = (usize::from(input.u16()?), input.i16()?, input.u16()?);
    let scale = usize::from(input.u16()?);
    let (before, is_number): (&[u8], _) = match sign {
        0x0000 => (b"", true),
        0x4000 => (b"-", true),
        0xC000 => (b"NaN", false),
        0xD000 => (b"Infinity", false),
        0xF000 => (b"-Infinity", false),
        _ => return None,
    };
    out.extend_from_slice(before);
    if !is_number {
        return Some(());
    }
    let digits = input.bytes(count * 2)?.as_chunks::<2>().0;
    // The digit of 10,000 to the power of `power`; those beyond the ends are 0.
    let digit = |power: i32| {
        let index = usize::try_from(i32::from(weight) - power).ok();
        index.and_then(|index| digits.get(index)).map_or(0, |digit| u64::from(u16::from_be_bytes(*digit)))
    };
    let weight = i32::from(weight);
    integer(out, digit(weight.max(0)));
    for power in (0..weight.max(0)).rev() {
        padded(out, digit(power), PER_DIGIT);
    }
    if scale > 0 {
        out.push(b'.');
        let start = out.len();
        for power in (1..).take(scale.div_ceil(PER_DIGIT)) {
            padded(out, digit(-power), PER_DIGIT);
        }
        out.truncate(start + scale);
    }
    Some(())
}

use proptest::prelude::*;

use super::*;

fn double(number: f64) -> String {
    let mut out = Vec::new();
    float::double(&mut out, number);
    String::from_utf8(out).expect("digits are ASCII")
}

fn real(number: f32) -> String {
    let mut out = Vec::new();
    float::real(&mut out, number);
    String::from_utf8(out).expect("digits are ASCII")
}

#[test]
fn numbers_are_plain_where_printf_would_write_them_so() {
    for (number, text) in [
        (0.0, "0"),
        (-0.0, "-0"),
        (1.0, "1"),
        (-1.5, "-1.5"),
        (0.1, "0.1"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (123_456_789_012_345.0, "123456789012345"),
        (100_000_000_000_000.0, "100000000000000"),
        (1e15, "1e+15"),
        (1e100, "1e+100"),
        (1.25e-100, "1.25e-100"),
        (f64::MAX, "1.7976931348623157e+308"),
        (f64::from_bits(1), "5e-324"),
        (f64::NAN, "NaN"),
        (f64::NEG_INFINITY, "-Infinity"),
    ] {
        assert_eq!(double(number), text);
    }
    for (number, text) in [
        (1e5, "100000"),
        (1e6, "1e+06"),
        (0.1, "0.1"),
        (16_777_216.0, "1.6777216e+07"),
        (513_110_016.0, "5.1311002e+08"),
    ] {
        assert_eq!(real(number), text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_number_reads_back(bits in any::<u64>(), power in 50..90i32, factor in 1..1_000u32) {
        for number in [f64::from_bits(bits), f64::from(factor) * 2f64.powi(power), f64::from(factor) * 10f64.powi(power / 4)] {
            if number.is_finite() {
                prop_assert_eq!(double(number).parse(), Ok(number));
            }
        }
        let single = f32::from_bits((bits >> 32) as u32);
        if single.is_finite() {
            prop_assert_eq!(real(single).parse(), Ok(single));
        }
    }

    #[test]
    fn any_bytes_give_a_text_or_nothing(
        type_oid in 16..5_100u32, bytes in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        let mut out = Vec::new();
        let _ = text(&mut out, &Types::default(), type_oid, &bytes);
        let limit = 100 * (bytes.len() + 10) + 70_000;
        prop_assert!(out.len() < limit, "{} bytes of {}", out.len(), bytes.len());
    }
}

use proptest::prelude::*;

use super::*;

const KINDS: [Kind; 8] =
    [Kind::Bool, Kind::Integer, Kind::Float, Kind::Json, Kind::Timestamp, Kind::TimestampTz, Kind::Bytea, Kind::Text];

fn json(kind: Kind, text: &str) -> String {
    let mut out = Vec::new();
    json_value(&mut out, kind, text.as_bytes());
    String::from_utf8(out).expect("JSON is UTF-8")
}

fn all(kind: Kind, cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(json(kind, text), *expected, "{kind:?} {text}");
    }
}

#[test]
fn booleans() {
    all(Kind::Bool, &[("t", "true"), ("f", "false"), ("true", "\"true\""), ("", "\"\"")]);
}

#[test]
fn integers_keep_all_digits_and_what_is_none_is_text() {
    for text in ["0", "-1", "9223372036854775807", "-9223372036854775808", "4294967295"] {
        assert_eq!(json(Kind::Integer, text), text);
    }
    for text in ["", "-", "01", "-01", "+1", "1.0", "1e5", "0x1", " 1", "1 ", "١", "NaN", "123456789012345678901"] {
        assert_eq!(json(Kind::Integer, text), format!("\"{text}\""));
    }
}

#[test]
fn floats_are_numbers_and_what_json_has_no_number_for_is_text() {
    for text in ["0", "-0", "1.5", "1e+20", "1.7976931348623157e+308", "5e-324", "1E5", "-1.25e-07", "10"] {
        assert_eq!(json(Kind::Float, text), text);
    }
    for text in ["NaN", "Infinity", "-Infinity", "", "-", ".5", "5.", "1e", "1e+", "00", "01.5", "1.5x", "--1", "1e5.5"]
    {
        assert_eq!(json(Kind::Float, text), format!("\"{text}\""));
    }
}

#[test]
fn json_is_embedded_as_it_is() {
    for text in ["{\"a\": [1, 2.50, null]}", "{ \"a\" :\n1 }", "\"\\ud800\"", "1e999", "null"] {
        assert_eq!(json(Kind::Json, text), text);
    }
    assert_eq!(json(Kind::Json, ""), "\"\"");
}

#[test]
fn numerics_are_text_to_the_last_digit() {
    let text = "-12345678901234567890123456789.012345678901234567890";
    assert_eq!(json(Kind::of(1700), text), format!("\"{text}\""));
}

#[test]
fn timestamps() {
    all(
        Kind::Timestamp,
        &[
            ("2026-11-21 02:37:00.123456", "\"2026-11-21T02:37:00.123456\""),
            ("2026-11-21 02:37:00", "\"2026-11-21T02:37:00\""),
            ("294276-12-31 23:59:59.999999", "\"294276-12-31T23:59:59.999999\""),
            ("0044-03-15 12:00:00 BC", "\"0044-03-15T12:00:00 BC\""),
            ("infinity", "\"infinity\""),
            ("-infinity", "\"-infinity\""),
            ("2026-11-21 02:37:00+00", "\"2026-11-21 02:37:00+00\""),
            ("Sat Nov 21 02:37:00 2026", "\"Sat Nov 21 02:37:00 2026\""),
            ("2026-11-21 ", "\"2026-11-21 \""),
            ("2026-11-21", "\"2026-11-21\""),
        ],
    );
}

#[test]
fn timestamps_with_time_zone_are_rfc_3339() {
    all(
        Kind::TimestampTz,
        &[
            ("2026-11-21 02:37:00.123456+00", "\"2026-11-21T02:37:00.123456Z\""),
            ("2026-11-21 02:37:00-05", "\"2026-11-21T02:37:00-05:00\""),
            ("2026-11-21 02:37:00+05:30", "\"2026-11-21T02:37:00+05:30\""),
            ("0001-01-01 00:00:00+00 BC", "\"0001-01-01T00:00:00Z BC\""),
            ("infinity", "\"infinity\""),
            ("2026-11-21 02:37:00", "\"2026-11-21 02:37:00\""),
            ("2026-11-21 02:37:00+\"", "\"2026-11-21 02:37:00+\\\"\""),
            ("21/11/2026 02:37:00 UTC", "\"21/11/2026 02:37:00 UTC\""),
        ],
    );
}

#[test]
fn bytea_is_base64() {
    all(
        Kind::Bytea,
        &[
            ("\\x", "\"\""),
            ("\\x00", "\"AA==\""),
            ("\\xDEadBEef", "\"3q2+7w==\""),
            ("\\x0", "\"\\\\x0\""),
            ("\\xzz", "\"\\\\xzz\""),
            ("abc\\000", "\"abc\\\\000\""),
        ],
    );
}

#[test]
fn long_bytea_has_no_seams_and_bad_digits_late_leave_nothing_behind() {
    for length in [766, 767, 768, 769, 1536, 5000] {
        let bytes: Vec<u8> = (0..=255).cycle().take(length).collect();
        let digit = |digit: u8| char::from(b"0123456789abcdef"[usize::from(digit)]);
        let mut text = String::from("\\x");
        text.extend(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
        assert_eq!(json(Kind::Bytea, &text), format!("\"{}\"", BASE64.encode(&bytes)));
        text.push_str("0g");
        assert_eq!(json(Kind::Bytea, &text), format!("\"\\{text}\""));
    }
}

#[test]
fn raw_bytes_are_what_was_written() {
    let mut scratch = b"left over".to_vec();
    assert_eq!(raw_bytes(Kind::Json, Value::Text(b"{ }"), &mut scratch), Some(&b"{ }"[..]));
    assert_eq!(raw_bytes(Kind::Bytea, Value::Text(b"\\x00ff0a"), &mut scratch), Some(&b"\0\xff\n"[..]));
    assert_eq!(raw_bytes(Kind::Text, Value::Text(b"\\x00ff"), &mut scratch), Some(&b"\\x00ff"[..]));
    assert_eq!(raw_bytes(Kind::Bytea, Value::Text(b"\\x0g"), &mut scratch), Some(&b"\\x0g"[..]));
    assert_eq!(raw_bytes(Kind::Bytea, Value::Binary(b"\0"), &mut scratch), Some(&b"\0"[..]));
    assert_eq!(raw_bytes(Kind::Text, Value::Null, &mut scratch), None);
    assert_eq!(raw_bytes(Kind::Text, Value::Unchanged, &mut scratch), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_of_any_type_give_one_json_value(
        kind in proptest::sample::select(KINDS.to_vec()),
        text in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            "[-+0-9eE.: TZBC\\\\x\"a-f]{0,40}".prop_map(String::into_bytes),
            "[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:.]{0,9}[-+\"0-9:]{0,9}( BC)?".prop_map(String::into_bytes),
        ],
    ) {
        // PostgreSQL has validated the text of json: it alone is trusted.
        if kind != Kind::Json {
            let mut out = Vec::new();
            json_value(&mut out, kind, &text);
            prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&out).is_ok(), "{:?}", out.escape_ascii().to_string());
            prop_assert!(std::str::from_utf8(&out).is_ok());
        }
        raw_bytes(kind, Value::Text(&text), &mut Vec::new());
    }
}

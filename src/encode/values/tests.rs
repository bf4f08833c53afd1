use proptest::prelude::*;

use super::*;
use crate::postgres::types::{Description, Field};

fn json(kind: &Kind, text: &str) -> String {
    let mut out = Vec::new();
    json_value(&mut out, kind, text.as_bytes());
    String::from_utf8(out).expect("JSON is UTF-8")
}

/// Of a type that is built in.
fn kind(type_oid: u32) -> Kind {
    Kinds { types: &Types::default(), numeric: Numeric::String }.of(type_oid)
}

/// One of each kind but `json`, which PostgreSQL has validated: it alone is trusted.
const WITHOUT_JSON: [u32; 16] =
    [16, 17, 20, 22, 25, 701, 1007, 1009, 1020, 1115, 1114, 1184, 1700, PAIR, PAIRS, HSTORE];
const PAIR: u32 = 20_000;
const PAIRS: u32 = 20_001;
const HSTORE: u32 = 20_002;
const PRICE: u32 = 20_003;

/// A composite of an integer and a text, its array, `hstore`, and a domain over `numeric`.
fn types() -> Types {
    let field = |name: &str, type_oid| Field { name: name.to_owned(), type_oid };
    let forms = [
        (PAIR, Form::Composite([field("n", 23), field("t\"", 25)].into())),
        (PAIRS, Form::Array { element: PAIR, delimiter: b',' }),
        (HSTORE, Form::Hstore),
        (PRICE, Form::Domain { base: 1700 }),
    ];
    let described = |form| Description { schema: "public".to_owned(), name: "a".to_owned(), form };
    Types::of(forms.map(|(oid, form)| (oid, described(form))))
}

fn of(type_oid: u32, text: &str) -> String {
    json(&Kinds { types: &types(), numeric: Numeric::String }.of(type_oid), text)
}

#[test]
fn arrays_are_arrays_in_all_their_dimensions() {
    for (type_oid, text, expected) in [
        (1007, "{}", "[]"),
        (1007, "{1,-2,NULL}", "[1,-2,null]"),
        (1007, "{{1,2},{3,4}}", "[[1,2],[3,4]]"),
        (1007, "{{{{{{1}}}}}}", "[[[[[[1]]]]]]"),
        (1007, "[0:1][-2:-1]={{1,2},{3,4}}", "[[1,2],[3,4]]"),
        (1009, r#"{a,"b,c","\"\\","",NULL,"NULL"," {}"}"#, r#"["a","b,c","\"\\","",null,"NULL"," {}"]"#),
        (1020, "{(3,4),(1,2);(3,4),(1,2)}", r#"["(3,4),(1,2)","(3,4),(1,2)"]"#),
        (1115, r#"{"2026-11-21 02:37:00",infinity}"#, r#"["2026-11-21T02:37:00","infinity"]"#),
        (1001, r#"{"\\x00ff"}"#, r#"["AP8="]"#),
        (199, r#"{"{\"a\": [1]}",1,NULL}"#, r#"[{"a": [1]},1,null]"#),
        (1231, "{1.10,NaN}", r#"["1.10","NaN"]"#),
        (22, "1 2", "[1,2]"),
        (22, "", "[]"),
        (30, "1 2", r#"["1","2"]"#),
    ] {
        assert_eq!(of(type_oid, text), expected, "{text}");
    }
}

#[test]
fn composites_are_objects_by_their_fields_names() {
    for (text, expected) in [
        ("(1,a)", r#"{"n":1,"t\"":"a"}"#),
        ("(,)", r#"{"n":null,"t\"":null}"#),
        (r#"(1,"")"#, r#"{"n":1,"t\"":""}"#),
        (r#"(1,"a,""b\\)")"#, r#"{"n":1,"t\"":"a,\"b\\)"}"#),
    ] {
        assert_eq!(of(PAIR, text), expected, "{text}");
    }
    assert_eq!(of(PAIRS, r#"{"(1,\"a b\")",NULL,"(,)"}"#), r#"[{"n":1,"t\"":"a b"},null,{"n":null,"t\"":null}]"#);
}

#[test]
fn a_composite_that_is_not_what_is_known_of_it_is_text_and_is_noted() {
    for text in ["(1)", "(1,2,3)", "(1,2", "1,2)", "(1,2)x", ""] {
        let (types, mut out) = (types(), Vec::new());
        json_value(&mut out, &Kinds { types: &types, numeric: Numeric::String }.of(PAIR), text.as_bytes());
        assert_eq!((String::from_utf8(out).expect("UTF-8"), types.is_outdated()), (format!("\"{text}\""), true));
    }
}

#[test]
fn hstore_is_an_object_of_texts() {
    for (text, expected) in [
        ("", "{}"),
        (r#""a"=>"1", "b"=>NULL"#, r#"{"a":"1","b":null}"#),
        (r#""\"\\"=>"", "NULL"=>"NULL""#, r#"{"\"\\":"","NULL":"NULL"}"#),
        (r#""a"=>"1","b"=>"2""#, r#""\"a\"=>\"1\",\"b\"=>\"2\"""#),
    ] {
        assert_eq!(of(HSTORE, text), expected, "{text}");
    }
}

#[test]
fn domains_are_what_their_base_type_is() {
    assert_eq!(of(PRICE, "1.10"), r#""1.10""#);
    assert_eq!(json(&Kinds { types: &types(), numeric: Numeric::Number }.of(PRICE), "1.10"), "1.10");
    assert_eq!(json(&Kinds { types: &types(), numeric: Numeric::Number }.of(PRICE), "NaN"), r#""NaN""#);
}

fn all(kind: &Kind, cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(json(kind, text), *expected, "{kind:?} {text}");
    }
}

#[test]
fn booleans() {
    all(&Kind::Bool, &[("t", "true"), ("f", "false"), ("true", "\"true\""), ("", "\"\"")]);
}

#[test]
fn integers_keep_all_digits_and_what_is_none_is_text() {
    for text in ["0", "-1", "9223372036854775807", "-9223372036854775808", "4294967295"] {
        assert_eq!(json(&Kind::Integer, text), text);
    }
    for text in ["", "-", "01", "-01", "+1", "1.0", "1e5", "0x1", " 1", "1 ", "١", "NaN", "123456789012345678901"] {
        assert_eq!(json(&Kind::Integer, text), format!("\"{text}\""));
    }
}

#[test]
fn floats_are_numbers_and_what_json_has_no_number_for_is_text() {
    for text in ["0", "-0", "1.5", "1e+20", "1.7976931348623157e+308", "5e-324", "1E5", "-1.25e-07", "10"] {
        assert_eq!(json(&Kind::Number, text), text);
    }
    for text in ["NaN", "Infinity", "-Infinity", "", "-", ".5", "5.", "1e", "1e+", "00", "01.5", "1.5x", "--1", "1e5.5"]
    {
        assert_eq!(json(&Kind::Number, text), format!("\"{text}\""));
    }
}

#[test]
fn json_is_embedded_as_it_is() {
    for text in ["{\"a\": [1, 2.50, null]}", "{ \"a\" :\n1 }", "\"\\ud800\"", "1e999", "null"] {
        assert_eq!(json(&Kind::Json, text), text);
    }
    assert_eq!(json(&Kind::Json, ""), "\"\"");
}

#[test]
fn numerics_are_text_to_the_last_digit() {
    let text = "-12345678901234567890123456789.012345678901234567890";
    assert_eq!(json(&kind(1700), text), format!("\"{text}\""));
}

#[test]
fn timestamps() {
    all(
        &Kind::Timestamp,
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
        &Kind::TimestampTz,
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
        &Kind::Bytea,
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
        assert_eq!(json(&Kind::Bytea, &text), format!("\"{}\"", BASE64.encode(&bytes)));
        text.push_str("0g");
        assert_eq!(json(&Kind::Bytea, &text), format!("\"\\{text}\""));
    }
}

#[test]
fn raw_bytes_are_what_was_written() {
    let raw = |kind: &Kind, value: Value<'_>| {
        let mut out = b"before".to_vec();
        raw_bytes(&mut out, kind, value);
        out.split_off(b"before".len())
    };
    assert_eq!(raw(&Kind::Json, Value::Text(b"{ }")), b"{ }");
    assert_eq!(raw(&Kind::Bytea, Value::Text(b"\\x00ff0a")), b"\0\xff\n");
    assert_eq!(raw(&Kind::Text, Value::Text(b"\\x00ff")), b"\\x00ff");
    assert_eq!(raw(&Kind::Bytea, Value::Text(b"\\x000g")), b"\\x000g");
    assert_eq!(raw(&Kind::Bytea, Value::Binary(b"\0")), b"\0");
    assert!(raw(&Kind::Text, Value::Null).is_empty() && raw(&Kind::Text, Value::Unchanged).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_of_any_type_give_one_json_value(
        type_oid in proptest::sample::select(WITHOUT_JSON.to_vec()),
        text in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            "[(){}\\[\\]=>,;:\"\\\\a1 NUL]{0,40}".prop_map(String::into_bytes),
            "[-+0-9eE.: TZBC\\\\x\"a-f]{0,40}".prop_map(String::into_bytes),
            "[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:.]{0,9}[-+\"0-9:]{0,9}( BC)?".prop_map(String::into_bytes),
        ],
    ) {
        let (kind, mut out) = (Kinds { types: &types(), numeric: Numeric::Number }.of(type_oid), Vec::new());
        json_value(&mut out, &kind, &text);
        prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&out).is_ok(), "{:?}", out.escape_ascii().to_string());
        prop_assert!(std::str::from_utf8(&out).is_ok());
        raw_bytes(&mut Vec::new(), &kind, Value::Text(&text));
    }
}

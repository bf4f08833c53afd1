use proptest::prelude::*;

use super::*;
use crate::change::Transaction;
use crate::lsn::{Lsn, Position};
use crate::postgres::pgoutput::{Message, decode, fixture};

/// `id` of `int8`, which is the key, and `note` of `text`.
fn relation() -> Relation {
    let bytes = fixture::relation(1, "public", "orders", b'd', &[(true, "id", 20), (false, "no\"te", 25)]);
    let Ok(Message::Relation(relation)) = decode(&bytes) else { panic!("a relation") };
    relation
}

fn made(with_schema: bool, row: Row<'_>) -> (String, Option<String>) {
    let commit_lsn = Lsn(0x16_B374_D848);
    let relation = relation();
    let change = Change {
        position: Position { commit_lsn, ordinal: 3 },
        transaction: Transaction { commit_lsn, committed_at: 848_543_820_123_456, xid: 731 },
        relation: &relation,
        row,
    };
    let mut event = Event::default();
    DebeziumPlan::new(with_schema, "shop", "d\"b", &relation, &Types::default()).make(&mut event, &change);
    let key = event.headers.all().text("key").map(str::to_owned);
    (String::from_utf8(event.body).expect("JSON is UTF-8"), key)
}

const SOURCE: &str = concat!(
    r#""source":{"version":"pgsluice","connector":"postgresql","name":"shop","ts_ms":1795228620123,"snapshot":"false","db":"d\"b","#,
    r#""sequence":"[null,\"97500059720\"]","ts_us":1795228620123456,"ts_ns":1795228620123456000,"schema":"public","table":"orders","#,
    r#""txId":731,"lsn":97500059720,"xmin":null},"transaction":null,"#
);
const TIMES: &str = r#""ts_ms":1795228620123,"ts_us":1795228620123456,"ts_ns":1795228620123456000}"#;

#[test]
fn an_update_to_the_last_byte() {
    let bytes =
        fixture::update(1, Some((b'K', &[Value::Text(b"6"), Value::Null])), &[Value::Text(b"7"), Value::Unchanged]);
    let Ok(Message::Update { old, new, .. }) = decode(&bytes) else { panic!("an update") };
    let (body, key) = made(false, Row::Update { old, new });
    let row = r#"{"before":{"id":6},"after":{"id":7,"no\"te":"__debezium_unavailable_value"},"#;
    assert_eq!(body, format!(r#"{row}{SOURCE}"op":"u",{TIMES}"#));
    assert_eq!(key.as_deref(), Some(r#"{"id":7}"#));
}

#[test]
fn a_truncate_has_no_key() {
    let (body, key) = made(true, Row::Truncate { cascade: false, restart_identity: false });
    let (_, payload) = body.split_once(r#","payload":"#).expect("a payload");
    assert_eq!(payload, format!(r#"{{"before":null,"after":null,{SOURCE}"op":"t",{TIMES}}}"#));
    assert_eq!(key, None);
}

/// As Kafka Connect's JSON converter orders the fields.
#[test]
fn a_schema_to_the_last_byte() {
    let bytes = fixture::insert(1, &[Value::Text(b"7"), Value::Null]);
    let Ok(Message::Insert { new, .. }) = decode(&bytes) else { panic!("an insert") };
    let (body, key) = made(true, Row::Insert { new });
    let id = r#"{"type":"int64","optional":false,"field":"id"}"#;
    let row = format!(
        r#"{{"type":"struct","fields":[{id},{{"type":"string","optional":true,"field":"no\"te"}}],"optional":true,"#
    );
    let name = r#""name":"shop.public.orders.Value","#;
    let start = format!(
        r#"{{"schema":{{"type":"struct","fields":[{row}{name}"field":"before"}},{row}{name}"field":"after"}},{{"type":"struct","fields":[{{"type":"string","optional":false,"field":"version"}},"#
    );
    assert!(body.starts_with(&start), "{body}");
    let end = r#"{"type":"int64","optional":true,"field":"ts_ns"}],"optional":false,"name":"shop.public.orders.Envelope","version":2},"payload":{"before":null,"#;
    assert!(body.contains(end), "{body}");
    assert_eq!(
        key,
        Some(format!(
            r#"{{"schema":{{"type":"struct","fields":[{id}],"optional":false,"name":"shop.public.orders.Key"}},"payload":{{"id":7}}}}"#
        ))
    );
}

#[test]
fn what_is_no_time_is_none() {
    for text in ["", "2026-11-21x", "2026-13-01", "2026-11", "-1-1-1", "99999999-01-01"] {
        assert_eq!(instant::date(text), None, "{text}");
    }
    for text in ["", "1:2", "1:2:x", "02:37:00.a", "02:37:00:00"] {
        assert_eq!(instant::time(text), None, "{text}");
    }
    for text in ["", "P", "PT1X", "P1", "1Y", "P1H", "PTS"] {
        assert_eq!(instant::interval(text).filter(|_| text != "P"), None, "{text}");
    }
    assert_eq!(instant::time("24:00:00"), Some(86_400_000_000));
    assert_eq!(instant::timestamp("1969-12-31 23:59:59.999999"), Some(-1));
    assert_eq!(instant::interval("PT-0.5S"), Some(-500_000));
}

/// Of `pg_type.dat`, and what is in no array.
const TYPES: [u32; 24] = [
    16, 17, 18, 20, 21, 22, 23, 25, 26, 700, 701, 790, 1082, 1083, 1114, 1184, 1186, 1266, 1560, 1562, 1700, 2950,
    1007, 1182,
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_of_any_type_give_one_json_value(
        type_oid in proptest::sample::select(TYPES.to_vec()), modifier in -1..8i32,
        text in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            "[{}=,\"\\\\a1 NUL\\[\\]:]{0,40}".prop_map(String::into_bytes),
            "[-+0-9]{1,7}-[0-9]{1,2}-[0-9]{1,2}( [0-9:.]{0,16}[-+0-9:]{0,9})?( BC)?".prop_map(String::into_bytes),
            "P?[-0-9.YMDTHS]{0,20}".prop_map(String::into_bytes),
        ],
    ) {
        let kind = Kind::of(&Types::default(), type_oid, modifier);
        for value in [Value::Text(&text), Value::Null, Value::Unchanged, Value::Binary(&text)] {
            let mut out = Vec::new();
            kind.json(&mut out, value);
            prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&out).is_ok(), "{}", out.escape_ascii());
            prop_assert!(std::str::from_utf8(&out).is_ok());
            if let Value::Text(text) = value {
                prop_assert!(kind.bytes_min(text) <= out.len(), "{}: {}", kind.bytes_min(text), out.escape_ascii());
            }
        }
    }
}

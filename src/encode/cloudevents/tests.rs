use cloudevents::event::Data;
use cloudevents::{AttributesReader, Event as Read};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::lsn::Lsn;

const ATTRIBUTES: Attributes = Attributes {
    time: Some(848_543_820_123_456),
    position: Some(Position { commit_lsn: Lsn(0x16_B374_D848), ordinal: 3 }),
};

/// An event before it has data.
fn event(content_type: &str, subject: &str) -> Event {
    let mut event = Event::default();
    event.message_id.push_str("shop:16/B374D848:3");
    event.event_type.push_str("Paid");
    event.content_type.push_str(content_type);
    event.subject.push_str(subject);
    event
}

fn wrapper(mode: CloudEvents) -> Wrapper {
    Wrapper { mode, source: "/pgsluice/shop/public/orders".to_owned() }
}

/// Structured, with this payload.
fn structured(content_type: &str, kind: &Kind, value: Value<'_>) -> String {
    let mut event = event(content_type, "");
    wrapper(CloudEvents::Structured).payload(&mut event, Attributes::default(), kind, value).expect("is complete");
    assert_eq!(event.content_type, STRUCTURED);
    String::from_utf8(event.body).expect("JSON is UTF-8")
}

#[test]
fn structured_to_the_last_byte() {
    let mut event = event("application/json", "7");
    event.headers.push("traceparent", Header::Text("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
    let write = |out: &mut Vec<u8>| out.extend_from_slice(b"{\"a\": 1}");
    wrapper(CloudEvents::Structured).json(&mut event, ATTRIBUTES, write).expect("is complete");
    assert_eq!(
        String::from_utf8(event.body).expect("JSON is UTF-8"),
        concat!(
            r#"{"specversion":"1.0","id":"shop:16/B374D848:3","source":"/pgsluice/shop/public/orders","type":"Paid","#,
            r#""subject":"7","time":"2026-11-21T02:37:00.123456Z","datacontenttype":"application/json","#,
            r#""partitionkey":"7","sequence":"00000016B374D848/0000000000000003","#,
            r#""traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","data":{"a": 1}}"#
        )
    );
}

#[test]
fn binary_has_the_attributes_in_headers() {
    let mut event = event("application/json", "7");
    event.headers.push("tracestate", Header::Text("a=b"));
    let write = |out: &mut Vec<u8>| out.extend_from_slice(b"{}");
    wrapper(CloudEvents::Binary).json(&mut event, ATTRIBUTES, write).expect("is complete");
    assert_eq!((event.body.as_slice(), event.content_type.as_str()), (&b"{}"[..], "application/json"));
    let text = |(name, header)| match header {
        Header::Text(text) => (name, text),
        Header::Int(_) | Header::Bool(_) => panic!("no text: {name}"),
    };
    assert_eq!(
        event.headers.all().iter().map(text).collect::<Vec<_>>(),
        [
            ("tracestate", "a=b"),
            ("cloudEvents:specversion", "1.0"),
            ("cloudEvents:id", "shop:16/B374D848:3"),
            ("cloudEvents:source", "/pgsluice/shop/public/orders"),
            ("cloudEvents:type", "Paid"),
            ("cloudEvents:time", "2026-11-21T02:37:00.123456Z"),
            ("cloudEvents:subject", "7"),
            ("cloudEvents:partitionkey", "7"),
            ("cloudEvents:sequence", "00000016B374D848/0000000000000003"),
            ("cloudEvents:tracestate", "a=b"),
        ]
    );
}

#[test]
fn data_is_json_or_text_or_bytes_as_its_type_says() {
    let cases: [(&str, Kind, Value<'_>, serde_json::Value); 9] = [
        ("application/json", Kind::Json, Value::Text(b"{\"a\": 1}"), json!({"data": {"a": 1}})),
        ("text/plain", Kind::Json, Value::Text(b"{ }"), json!({"data": "{ }"})),
        ("text/plain; charset=utf-8", Kind::Text, Value::Text("ü\"".as_bytes()), json!({"data": "ü\""})),
        // An application that keeps its JSON in a column of text.
        ("application/vnd.shop+JSON; v=1", Kind::Text, Value::Text(b"[1]"), json!({"data": [1]})),
        ("application/json", Kind::Text, Value::Text(b"[1"), json!({"data_base64": "WzE="})),
        ("application/octet-stream", Kind::Bytea, Value::Text(b"\\x00ff"), json!({"data_base64": "AP8="})),
        ("application/json", Kind::Bytea, Value::Binary(b"{}"), json!({"data": {}})),
        ("text/plain", Kind::Bytea, Value::Binary(b"\xff"), json!({"data_base64": "/w=="})),
        ("application/json", Kind::Json, Value::Null, json!({})),
    ];
    for (content_type, kind, value, expected) in cases {
        let event: serde_json::Value = serde_json::from_str(&structured(content_type, &kind, value)).expect("JSON");
        let got = [("data", event.get("data")), ("data_base64", event.get("data_base64"))];
        let got = got.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.clone())));
        assert_eq!(serde_json::Value::Object(got.collect()), expected, "{content_type} {value:?}");
        let declared = if value == Value::Null { None } else { Some(content_type) };
        assert_eq!(event.get("datacontenttype").and_then(serde_json::Value::as_str), declared);
    }
}

#[test]
fn what_a_cloud_event_must_have_is_missed() {
    for mode in [CloudEvents::Structured, CloudEvents::Binary] {
        for name in ["id", "type"] {
            let mut event = event("text/plain", "");
            match name {
                "id" => event.message_id.clear(),
                _ => event.event_type.clear(),
            }
            let made = wrapper(mode).payload(&mut event, Attributes::default(), &Kind::Text, Value::Null);
            assert_eq!(made, Err(Incomplete(name)));
        }
    }
}

#[test]
fn a_source_is_a_uri_reference_whatever_the_names() {
    let relation = Relation {
        oid: 1,
        schema: "my shop".into(),
        name: "größe/\"%".into(),
        identity: crate::postgres::relation::ReplicaIdentity::Default,
        columns: Vec::new(),
    };
    let wrapper = Wrapper::new(CloudEvents::Structured, "shop", Some(&relation));
    assert_eq!(wrapper.source, "/pgsluice/shop/my%20shop/gr%C3%B6%C3%9Fe%2F%22%25");
    assert_eq!(Wrapper::new(CloudEvents::Structured, "shop", None).source, "/pgsluice/shop");
}

#[test]
fn sequences_compare_as_positions_do() {
    let texts = [(1, 10), (1, 9), (0xFFFF_FFFF, 0), (0x1_0000_0000, 0)]
        .map(|(lsn, ordinal)| Position { commit_lsn: Lsn(lsn), ordinal });
    for (left, right) in texts.iter().flat_map(|left| texts.iter().map(move |right| (left, right))) {
        assert_eq!(left.cmp(right), sequence(*left).cmp(&sequence(*right)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// The official SDK reads whatever is made, and finds in it what was put there.
    #[test]
    fn the_sdk_reads_every_event(
        id in "\\PC{1,20}", event_type in "\\PC{1,20}", subject in "\\PC{0,20}",
        time in 0..200_000_000_000_000_000i64, ordinal in any::<u64>(),
        text in prop_oneof![".{0,30}", "[\\[\\]{}\":,0-9 a]{0,8}"],
        content_type in proptest::sample::select(vec!["application/json", "text/plain", "application/octet-stream"]),
        is_bytes in any::<bool>(),
    ) {
        let mut event = event(content_type, &subject);
        (event.message_id, event.event_type) = (id.clone(), event_type.clone());
        let position = Position { commit_lsn: Lsn(7), ordinal };
        let attributes = Attributes { time: Some(time), position: Some(position) };
        let value = if is_bytes { Value::Binary(text.as_bytes()) } else { Value::Text(text.as_bytes()) };
        wrapper(CloudEvents::Structured).payload(&mut event, attributes, &Kind::Text, value).expect("is complete");
        let read: Read = serde_json::from_slice(&event.body).expect("the SDK reads it");
        prop_assert_eq!((read.id(), read.ty()), (id.as_str(), event_type.as_str()));
        prop_assert_eq!((read.subject().unwrap_or_default(), read.source().as_str()), (subject.as_str(), "/pgsluice/shop/public/orders"));
        prop_assert_eq!(read.datacontenttype(), Some(content_type));
        let micros = read.time().expect("a time").timestamp_micros();
        prop_assert_eq!(micros, crate::encode::time::unix_micros(time));
        let is_same = match read.data().expect("data") {
            Data::Json(value) => *value == serde_json::from_str::<serde_json::Value>(&text).expect("was JSON"),
            Data::String(read) => *read == text,
            Data::Binary(bytes) => bytes == text.as_bytes(),
        };
        prop_assert!(is_same);
    }
}

use proptest::prelude::*;

use super::*;
use crate::change::Transaction;
use crate::encode::values::Numeric;
use crate::lsn::{Lsn, Position};
use crate::postgres::pgoutput::{Message, decode, fixture};
use crate::postgres::relation::Column;

const INT8: u32 = 20;
const TEXT: u32 = 25;
const NUMERIC: u32 = 1700;

fn orders(identity: ReplicaIdentity) -> Relation {
    let full = identity == ReplicaIdentity::Full;
    let column = |name: &str, type_oid, key| Column { name: name.into(), type_oid, type_modifier: -1, key };
    let columns = vec![
        column("id", INT8, true),
        column("status", TEXT, full),
        column("total", NUMERIC, full),
        column("no\"te", TEXT, full),
    ];
    Relation { oid: 1, schema: "public".into(), name: "orders".into(), identity, columns }
}

/// The event of a message about `relation`.
fn event(relation: &Relation, message: &[u8]) -> String {
    let row = match decode(message).expect("fixtures are well-formed") {
        Message::Insert { new, .. } => Row::Insert { new },
        Message::Update { old, new, .. } => Row::Update { old, new },
        Message::Delete { old, .. } => Row::Delete { old },
        Message::Truncate(t) => Row::Truncate { cascade: t.cascade, restart_identity: t.restart_identity },
        other => panic!("no row: {other:?}"),
    };
    let commit_lsn = Lsn(0x16_B374_D848);
    let change = Change {
        position: Position { commit_lsn, ordinal: 3 },
        transaction: Transaction { commit_lsn, committed_at: 848_543_820_123_456, xid: 731 },
        relation,
        row,
    };
    let mut out = b"before".to_vec();
    row_event(
        &mut out,
        &RowPlan::new(relation, Kinds { types: &Types::default(), numeric: Numeric::String }),
        "shop",
        &change,
    );
    String::from_utf8(out).expect("JSON is UTF-8").split_off("before".len())
}

/// From `before` on.
fn tail(relation: &Relation, message: &[u8]) -> String {
    let event = event(relation, message);
    serde_json::from_str::<serde_json::Value>(&event).expect("JSON");
    let at = event.find("\"before\"").expect("every event has a before");
    event[at..].to_owned()
}

fn text(text: &str) -> Value<'_> {
    Value::Text(text.as_bytes())
}

#[test]
fn an_insert_to_the_last_byte() {
    let new = [text("7"), text("paid"), text("19.90"), Value::Null];
    assert_eq!(
        event(&orders(ReplicaIdentity::Default), &fixture::insert(1, &new)),
        concat!(
            r#"{"id":"shop:16/B374D848:3","op":"insert","schema":"public","table":"orders","schema_version":"055557a359c75ed7","identity":"default","#,
            r#""key":["id"],"commit_lsn":"16/B374D848","ordinal":3,"xid":731,"#,
            r#""committed_at":"2026-11-21T02:37:00.123456Z","before":null,"#,
            r#""after":{"id":7,"status":"paid","total":"19.90","no\"te":null},"unchanged":[],"before_columns":null,"changed":null}"#
        )
    );
}

#[test]
fn an_update_that_leaves_the_key_alone_has_no_before_and_lists_what_was_not_sent() {
    let new = [text("7"), Value::Unchanged, text("1"), Value::Unchanged];
    assert_eq!(
        tail(&orders(ReplicaIdentity::Default), &fixture::update(1, None, &new)),
        r#""before":null,"after":{"id":7,"total":"1"},"unchanged":["status","no\"te"],"before_columns":null,"changed":null}"#
    );
}

#[test]
fn a_key_tuple_shows_only_the_key() {
    let old = [text("6"), Value::Null, Value::Null, Value::Null];
    let new = [text("7"), text("paid"), Value::Null, Value::Unchanged];
    assert_eq!(
        tail(&orders(ReplicaIdentity::Index), &fixture::update(1, Some((b'K', &old)), &new)),
        r#""before":{"id":6},"after":{"id":7,"status":"paid","total":null},"unchanged":["no\"te"],"before_columns":"key","changed":null}"#
    );
    assert_eq!(
        tail(&orders(ReplicaIdentity::Default), &fixture::delete(1, b'K', &old)),
        r#""before":{"id":6},"after":null,"unchanged":[],"before_columns":"key","changed":null}"#
    );
}

#[test]
fn an_unchanged_value_comes_from_the_old_row_where_that_has_it() {
    let old = [text("7"), text("new"), Value::Null, text("long")];
    let new = [text("7"), text("paid"), Value::Unchanged, Value::Unchanged];
    assert_eq!(
        tail(&orders(ReplicaIdentity::Full), &fixture::update(1, Some((b'O', &old)), &new)),
        concat!(
            r#""before":{"id":7,"status":"new","total":null,"no\"te":"long"},"#,
            r#""after":{"id":7,"status":"paid","total":null,"no\"te":"long"},"unchanged":[],"#,
            r#""before_columns":"all","changed":["status"]}"#
        )
    );
    // A large key column that is unchanged is in the key tuple.
    let new = [Value::Unchanged, text("paid"), Value::Unchanged, Value::Null];
    assert_eq!(
        tail(&orders(ReplicaIdentity::Default), &fixture::update(1, Some((b'K', &old)), &new)),
        r#""before":{"id":7},"after":{"id":7,"status":"paid","no\"te":null},"unchanged":["total"],"before_columns":"key","changed":null}"#
    );
}

#[test]
fn changed_names_what_differs_where_the_whole_old_row_is_known() {
    let relation = orders(ReplicaIdentity::Full);
    let old = [text("7"), Value::Null, text("1.0"), text("note")];
    for (new, expected) in [
        ([text("7"), Value::Null, text("1.0"), text("note")], r#""changed":[]}"#),
        ([text("7"), text(""), text("1.00"), Value::Null], r#""changed":["status","total","no\"te"]}"#),
        ([text("8"), Value::Unchanged, Value::Unchanged, Value::Unchanged], r#""changed":["id"]}"#),
    ] {
        let tail = tail(&relation, &fixture::update(1, Some((b'O', &old)), &new));
        assert!(tail.ends_with(&format!(r#""before_columns":"all",{expected}"#)), "{tail}");
    }
}

#[test]
fn with_full_identity_the_key_says_nothing() {
    let event = event(&orders(ReplicaIdentity::Full), &fixture::delete(1, b'O', &[text("1"); 4]));
    assert!(event.contains(r#""identity":"full","key":[],"#), "{event}");
    assert!(event.contains(r#""before":{"id":1,"status":"1","total":"1","no\"te":"1"},"after":null"#), "{event}");
}

#[test]
fn a_truncate_says_how() {
    assert_eq!(
        tail(&orders(ReplicaIdentity::Default), &fixture::truncate(1, &[1])),
        r#""before":null,"after":null,"unchanged":[],"before_columns":null,"changed":null,"cascade":true,"restart_identity":false}"#
    );
    assert_eq!(
        tail(&orders(ReplicaIdentity::Default), &fixture::truncate(2, &[1])),
        r#""before":null,"after":null,"unchanged":[],"before_columns":null,"changed":null,"cascade":false,"restart_identity":true}"#
    );
}

#[test]
fn names_are_escaped() {
    let mut relation = orders(ReplicaIdentity::Default);
    relation.schema = "a\"\\\n".into();
    relation.name = "größe😀".into();
    relation.columns[0].name = "\u{1}".into();
    let event = event(&relation, &fixture::insert(1, &[text("7"), Value::Null, Value::Null, Value::Null]));
    let json: serde_json::Value = serde_json::from_str(&event).expect("JSON");
    assert_eq!((&json["schema"], &json["table"]), (&"a\"\\\n".into(), &"größe😀".into()));
    assert_eq!((&json["key"][0], &json["after"]["\u{1}"]), (&"\u{1}".into(), &7.into()));
}

#[test]
fn a_table_without_columns_is_empty() {
    let relation = Relation { columns: Vec::new(), ..orders(ReplicaIdentity::Default) };
    assert_eq!(
        tail(&relation, &fixture::insert(1, &[])),
        r#""before":null,"after":{},"unchanged":[],"before_columns":null,"changed":null}"#
    );
}

#[test]
fn the_version_is_of_columns_and_identity_and_of_nothing_else() {
    let version = |relation: &Relation| relation.version(&Types::default());
    let relation = orders(ReplicaIdentity::Default);
    let known = version(&relation);
    assert_eq!(known.len(), 16);
    assert_eq!(version(&Relation { oid: 2, name: "other".into(), schema: "s".into(), ..relation.clone() }), known);
    let mut others = vec![orders(ReplicaIdentity::Full), relation.clone(), relation.clone(), relation.clone()];
    others[1].columns.swap(0, 1);
    others[2].columns[0].type_oid = 23;
    others[3].columns.pop();
    for other in others {
        assert_ne!(version(&other), known, "{other:?}");
    }
}

#[test]
fn binary_values_are_base64() {
    let new = [Value::Binary(b"\0\0\0\0\0\0\0\x07"), Value::Null, Value::Null, Value::Null];
    let tail = tail(&orders(ReplicaIdentity::Default), &fixture::insert(1, &new));
    assert!(tail.contains(r#""after":{"id":"AAAAAAAAAAc=","#), "{tail}");
}

/// A value's kind byte and its text.
type Owned = (u8, Vec<u8>);

fn value() -> impl Strategy<Value = Owned> {
    (proptest::sample::select(b"nutt".to_vec()), proptest::collection::vec(any::<u8>(), 0..20))
}

fn borrowed(values: &[Owned]) -> Vec<Value<'_>> {
    let mut borrowed = Vec::new();
    for (kind, text) in values {
        borrowed.push(match kind {
            b'n' => Value::Null,
            b'u' => Value::Unchanged,
            _ => Value::Text(text),
        });
    }
    borrowed
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_row_gives_json_where_each_column_is_in_after_or_in_unchanged(
        old in proptest::option::of((any::<bool>(), proptest::collection::vec(value(), 4))),
        new in proptest::collection::vec(value(), 4),
        kinds in proptest::collection::vec(proptest::sample::select(vec![16, 17, 20, 25, 700, 1114, 1184, 1700]), 4),
    ) {
        let mut relation = orders(ReplicaIdentity::Default);
        for (column, kind) in relation.columns.iter_mut().zip(kinds) {
            column.type_oid = kind;
        }
        let before = old.as_ref().map(|(full, values)| (if *full { b'O' } else { b'K' }, borrowed(values)));
        let before = before.as_ref().map(|(kind, values)| (*kind, &values[..]));
        let event = event(&relation, &fixture::update(1, before, &borrowed(&new)));
        let json: serde_json::Value = serde_json::from_str(&event).expect("JSON");
        let after = json["after"].as_object().expect("an object");
        let unchanged = json["unchanged"].as_array().expect("an array");
        for column in &relation.columns {
            let listed = unchanged.iter().any(|name| name == &column.name);
            prop_assert!(after.contains_key(&column.name) != listed, "{}", event);
        }
    }
}

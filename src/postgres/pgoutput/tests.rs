//! Every message byte by byte, and what happens to those that are no messages.

use proptest::prelude::*;

use super::*;

const TEXT: Value<'static> = Value::Text(b"paid");

/// One of every message and of every shape of it.
fn all() -> Vec<Vec<u8>> {
    let values = [Value::Text(b"7"), Value::Null, Value::Unchanged, Value::Binary(b"\0\xff"), Value::Text(b"")];
    let columns = [(true, "id", 20), (false, "größe", 25)];
    vec![
        fixture::begin(0x16_B374_D848, 1, 731),
        fixture::commit(0x16_B374_D848, 0x16_B374_D878, 1),
        fixture::origin(9, "elsewhere"),
        fixture::relation(16_384, "public", "orders", b'd', &columns),
        fixture::type_name(16_400, "public", "mood"),
        fixture::insert(16_384, &values),
        fixture::update(16_384, None, &values),
        fixture::update(16_384, Some((b'K', &values)), &values),
        fixture::update(16_384, Some((b'O', &values)), &[]),
        fixture::delete(16_384, b'K', &values),
        fixture::delete(16_384, b'O', &values),
        fixture::truncate(3, &[16_384, 16_385]),
        fixture::logical(1, 99, "outbox", b"\0\xffany"),
        b"A\0\0\x02\xdb\0\0\x02\xdc".to_vec(),
    ]
}

fn values(tuple: Tuple<'_>) -> Vec<Value<'_>> {
    tuple.iter().collect()
}

#[test]
fn a_begin_as_the_documentation_draws_it() {
    let bytes = b"B\0\0\0\x16\xB3\x74\xD8\x48\0\0\0\0\0\0\0\x05\0\0\x02\xDB";
    let Ok(Message::Begin(begin)) = decode(bytes) else { panic!("a begin") };
    assert_eq!(begin, Begin { final_lsn: Lsn(0x16_B374_D848), committed_at: 5, xid: 731 });
}

#[test]
fn a_commit() {
    let Ok(Message::Commit(commit)) =
        decode(b"C\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\xff\xff\xff\xff\xff\xff\xff\xff")
    else {
        panic!("a commit")
    };
    assert_eq!(commit, Commit { commit_lsn: Lsn(1), end_lsn: Lsn(2), committed_at: -1 });
}

#[test]
fn a_commit_with_flags_is_refused() {
    let mut bytes = fixture::commit(1, 2, 3);
    bytes[1] = 4;
    let kind = DecodeError::Kind { message: b'C', offset: 1, byte: 4, expected: "no flags (0)" };
    assert_eq!(decode(&bytes).err(), Some(kind));
}

#[test]
fn an_origin_and_a_type() {
    assert!(matches!(
        decode(b"O\0\0\0\0\0\0\0\x09elsewhere\0"),
        Ok(Message::Origin { commit_lsn: Lsn(9), name: "elsewhere" })
    ));
    assert!(matches!(
        decode(b"Y\0\0\x40\x00public\0mood\0"),
        Ok(Message::Type { oid: 16_384, schema: "public", name: "mood" })
    ));
}

#[test]
fn a_relation() {
    let bytes = b"R\0\0\x40\0public\0orders\0f\0\x02\
        \x01id\0\0\0\0\x14\xff\xff\xff\xff\
        \x00total\0\0\0\x06\xa4\0\x0a\0\x06";
    let Ok(Message::Relation(relation)) = decode(bytes) else { panic!("a relation") };
    let column = |name: &str, type_oid, type_modifier, key| Column { name: name.into(), type_oid, type_modifier, key };
    assert_eq!(
        relation,
        Relation {
            oid: 16_384,
            schema: "public".into(),
            name: "orders".into(),
            identity: ReplicaIdentity::Full,
            columns: vec![column("id", 20, -1, true), column("total", 1700, 0x000a_0006, false)],
        }
    );
    assert_eq!(relation.column("total"), Some(1));
    assert_eq!(relation.column("Total"), None);
}

#[test]
fn a_relation_without_a_schema_is_in_pg_catalog() {
    let bytes = fixture::relation(1255, "", "pg_proc", b'n', &[]);
    let Ok(Message::Relation(relation)) = decode(&bytes) else { panic!("a relation") };
    assert_eq!((&*relation.schema, relation.identity), ("pg_catalog", ReplicaIdentity::Nothing));
}

#[test]
fn every_replica_identity_and_no_other() {
    use ReplicaIdentity::{Default, Full, Index, Nothing};
    for (byte, identity) in [(b'd', Default), (b'n', Nothing), (b'f', Full), (b'i', Index)] {
        let bytes = fixture::relation(1, "s", "t", byte, &[]);
        assert!(matches!(decode(&bytes), Ok(Message::Relation(relation)) if relation.identity == identity));
    }
    let refused = decode(&fixture::relation(1, "s", "t", b'x', &[])).expect_err("no identity");
    assert_eq!(
        refused.to_string(),
        "pgoutput message `R` has `x` at byte 9, where a replica identity (d, n, f, i) belongs"
    );
}

#[test]
fn an_insert_with_every_kind_of_value() {
    let bytes = b"I\0\0\x40\0N\0\x04t\0\0\0\x01\x37nub\0\0\0\x02\0\xff";
    let Ok(Message::Insert { relation: 16_384, new }) = decode(bytes) else { panic!("an insert") };
    assert_eq!(values(new), [Value::Text(b"7"), Value::Null, Value::Unchanged, Value::Binary(b"\0\xff")]);
    assert_eq!((new.len(), new.is_empty()), (4, false));
    assert_eq!((new.get(2), new.get(3)), (Some(Value::Unchanged), Some(Value::Binary(b"\0\xff"))));
    assert_eq!(new.get(4), None);
}

#[test]
fn an_update_without_with_a_key_and_with_the_whole_old_row() {
    let new = [Value::Text(b"1"), TEXT];
    let old = [Value::Text(b"0"), Value::Null];
    let bytes = fixture::update(7, None, &new);
    assert!(matches!(decode(&bytes), Ok(Message::Update { relation: 7, old: None, new: n }) if values(n) == new));
    let bytes = fixture::update(7, Some((b'K', &old)), &new);
    assert!(matches!(decode(&bytes), Ok(Message::Update { old: Some(Old::Key(o)), new: n, .. })
        if values(o) == old && values(n) == new));
    let bytes = fixture::update(7, Some((b'O', &old)), &new);
    assert!(matches!(decode(&bytes), Ok(Message::Update { old: Some(Old::Full(o)), new: n, .. })
        if values(o) == old && values(n) == new));
}

#[test]
fn a_delete_by_key_and_by_the_whole_row() {
    let bytes = fixture::delete(7, b'K', &[TEXT]);
    assert!(matches!(decode(&bytes), Ok(Message::Delete { relation: 7, old: Old::Key(o) }) if values(o) == [TEXT]));
    let bytes = fixture::delete(7, b'O', &[TEXT]);
    assert!(matches!(decode(&bytes), Ok(Message::Delete { relation: 7, old: Old::Full(o) }) if values(o) == [TEXT]));
}

#[test]
fn a_truncate_of_several_tables() {
    for (flags, cascade, restart_identity) in [(0, false, false), (1, true, false), (2, false, true), (3, true, true)] {
        let bytes = fixture::truncate(flags, &[5, 6]);
        let Ok(Message::Truncate(truncate)) = decode(&bytes) else { panic!("a truncate") };
        assert_eq!((truncate.cascade, truncate.restart_identity), (cascade, restart_identity));
        assert_eq!(truncate.relations().collect::<Vec<_>>(), [5, 6]);
    }
}

#[test]
fn logical_messages() {
    let expected = Logical { transactional: true, lsn: Lsn(9), prefix: "outbox", content: b"\0\xff" };
    assert!(matches!(decode(&fixture::logical(1, 9, "outbox", b"\0\xff")), Ok(Message::Logical(m)) if m == expected));
    let expected = Logical { transactional: false, lsn: Lsn(9), prefix: "", content: b"" };
    assert!(matches!(decode(&fixture::logical(0, 9, "", b"")), Ok(Message::Logical(m)) if m == expected));
}

#[test]
fn whatever_is_cut_short_is_an_error_at_every_length() {
    for message in all() {
        assert!(decode(&message).is_ok(), "{message:?}");
        for length in 1..message.len() {
            let cut = decode(&message[..length]);
            assert!(matches!(cut, Err(DecodeError::Truncated { offset, .. }) if offset <= length), "{cut:?}");
        }
    }
    assert_eq!(decode(b"").err(), Some(DecodeError::Empty));
}

#[test]
fn whatever_goes_on_too_long_is_an_error() {
    for message in all() {
        let longer = [&message[..], b"\0"].concat();
        let trailing = DecodeError::Trailing { message: message[0], offset: message.len() };
        assert_eq!(decode(&longer).err(), Some(trailing));
    }
}

#[test]
fn messages_of_other_protocol_versions_are_named() {
    for byte in (0..=u8::MAX).filter(|byte| !b"BCORYIUDTMA".contains(byte)) {
        assert_eq!(decode(&[byte, 0, 0]).err(), Some(DecodeError::Unexpected { byte }));
    }
    assert_eq!(DecodeError::Unexpected { byte: b'S' }.to_string(), "unexpected pgoutput message `S`");
}

#[test]
fn wrong_tuple_and_value_kinds_are_refused() {
    let refused = |bytes: &[u8]| match decode(bytes) {
        Err(DecodeError::Kind { offset, byte, .. }) => (offset, byte),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(b"I\0\0\0\x01K\0\0"), (5, b'K'));
    assert_eq!(refused(b"U\0\0\0\x01X\0\0"), (5, b'X'));
    assert_eq!(refused(b"U\0\0\0\x01K\0\0K\0\0"), (8, b'K'));
    assert_eq!(refused(b"D\0\0\0\x01N\0\0"), (5, b'N'));
    assert_eq!(refused(b"I\0\0\0\x01N\0\x01z"), (8, b'z'));
}

#[test]
fn names_that_are_not_utf8_are_refused() {
    for message in [&b"O\0\0\0\0\0\0\0\x09\xff\0"[..], b"Y\0\0\0\x01s\0\xc3\0", b"R\0\0\0\x01\xe2\x82\0t\0d\0\0"] {
        assert!(matches!(decode(message), Err(DecodeError::NotUtf8 { .. })), "{message:?}");
    }
}

#[test]
fn lengths_that_promise_more_than_there_is_allocate_nothing() {
    for message in [
        &b"T\xff\xff\xff\xff\0\0\0\0\x01"[..],
        b"M\0\0\0\0\0\0\0\0\x01p\0\xff\xff\xff\xff!",
        b"I\0\0\0\x01N\xff\xfft\xff\xff\xff\xff!",
        b"R\0\0\0\x01s\0t\0d\xff\xff",
    ] {
        assert!(matches!(decode(message), Err(DecodeError::Truncated { .. })), "{message:?}");
    }
}

/// Reads a message to its last value, as its consumers do.
fn exhaust(message: &Message<'_>) -> usize {
    let old = |old: &Old<'_>| old.tuple().iter().count() == old.tuple().len();
    match message {
        Message::Insert { new, .. } => assert_eq!(new.iter().count(), new.len()),
        Message::Update { old: before, new, .. } => {
            assert!(before.iter().all(old));
            assert_eq!(new.iter().count(), new.len());
        }
        Message::Delete { old: before, .. } => assert!(old(before)),
        Message::Truncate(truncate) => return truncate.relations().count(),
        _ => {}
    }
    0
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_give_a_message_or_an_error(
        kind in proptest::sample::select(b"BCORYIUDTMSEcAbPKrp\0".to_vec()),
        rest in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        if let Ok(message) = decode(&[&[kind][..], &rest].concat()) {
            exhaust(&message);
        }
    }

    #[test]
    fn a_message_with_one_byte_changed_gives_a_message_or_an_error(
        which in any::<proptest::sample::Index>(), at in any::<proptest::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut message = which.get(&all()).clone();
        let at = at.index(message.len());
        message[at] = byte;
        if let Ok(message) = decode(&message) {
            exhaust(&message);
        }
    }
}

use super::row::Used;
use super::*;
use crate::change::{Change, Row, Transaction};
use crate::encode::values::{Kinds, Numeric};
use crate::lsn::{Lsn, Position};
use crate::postgres::pgoutput::{Message, Value as Raw, decode, fixture};
use crate::postgres::relation::{Relation, ReplicaIdentity};
use crate::postgres::types::Types;

fn error(text: &str) -> String {
    Expression::parse(text).expect_err(text).to_string()
}

#[test]
fn what_can_not_be_used_is_found_without_a_row() {
    assert_eq!(
        error("new.a ==\n  == 1"),
        "line 2, column 3: Syntax error: extraneous input '==' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}"
    );
    for (text, expected) in [
        ("status == 'paid'", "`status` is no variable"),
        ("new.a == paid", "`paid` is no variable"),
        ("lower(new.a) == 'x'", "`lower` is no function"),
        ("new.a.lower() == 'x'", "`lower` is no function"),
        ("now() > new.a", "`now` is no function"),
        ("timestamp(new.a) > timestamp(new.b)", "`timestamp` is no function"),
        ("new == old", "`new` is not used by the name of a column"),
        ("size(old) > 0", "`old` is not used by the name of a column"),
        ("new[op] == 1", "`new` is not used by the name of a column"),
        ("[1].all(new, new > 0)", "`new` can't be the name of an element, because it is a variable"),
        ("Message{a: 1} == new.a", "there are no messages"),
    ] {
        assert_eq!(error(text), expected, "{text}");
    }
    assert!(error("").starts_with("line 1, column 1: "));
    assert!(error("new.?a == 1").starts_with("line 1, column "));
    assert_eq!(error(&"x".repeat(1_001)), "it has 1001 bytes");
}

/// Each process would go through its keys in another order.
#[test]
fn no_map_that_it_makes_can_be_gone_through() {
    for text in [
        "{'a': 1, 'b': 2}.map(k, k)[0] == 'a'",
        "[{'a': 1, 'b': 2}].map(m, m.map(k, k))",
        "[{'a': 1, 'b': 2}][0].map(k, k)",
        "(new.a ? {'a': 1, 'b': 2} : {'b': 1, 'a': 2}).map(k, k)",
        "{'m': {'a': 1, 'b': 2}}.m.map(k, k)",
        "[1].map(x, {'a': x, 'b': 2}).exists(m, m.filter(k, true)[0] == 'a')",
    ] {
        let unordered =
            "it goes through elements of what it makes with a map in it: the keys of a map that it makes have no order";
        assert_eq!(error(text), unordered, "{text}");
    }
    for text in [
        "new.j.map(k, {'key': k})",
        "new.a.all(x, x > 1) && {'a': 1}.a == 1",
        "{'a': 1, 'b': 2} == new.j",
        "new.j.map(k, k)",
        "new.j.b.exists(k, k == 'd')",
    ] {
        assert!(Expression::parse(text).is_ok(), "{text}");
    }
}

/// By this a rule is refused that is on an operation without the row that it uses.
#[test]
fn it_is_known_whether_it_asks_for_the_row_first() {
    for (text, is_guarded) in [
        ("new.status == 'paid'", false),
        ("old.a != new.a || new['b'] > 1", false),
        ("has(new.doc.a) && new.a != null", false),
        ("[1].all(x, x == new.a) && type(new.a) == string", false),
        ("op != 'delete' && new.a == 1", true),
        ("table == 'x' && new.a == 1", true),
        ("'a' in changed && new.a == 1", true),
        ("new != null && new.a == 1", true),
        ("null == old || old.a == 1", true),
        ("has(new.a) && new.a == 1", true),
        ("'a' in new ? new.a : 1", true),
    ] {
        assert_eq!(Expression::parse(text).expect(text).is_guarded(), is_guarded, "{text}");
    }
}

/// Neither reading nor refusing them takes more stack than a thread of the tests has.
#[test]
fn what_is_nested_too_deeply_is_refused() {
    for text in [
        "new.a".to_owned() + &"+1".repeat(497),
        "new.a".to_owned() + &".b".repeat(497),
        "new.a".to_owned() + &"[0]".repeat(330),
        "(".repeat(400) + "1" + &")".repeat(400),
        "[".repeat(400) + &"]".repeat(400),
        "-".repeat(500) + "new.a",
        "!".repeat(500) + "new.a",
        "1?".repeat(200) + "1" + &":1".repeat(200),
        "[0]".to_owned() + &".map(x,x)".repeat(100),
        "int(".repeat(150) + "1" + &")".repeat(150),
    ] {
        // A chain of negations cancels out, and is no depth.
        if let Ok(expression) = Expression::parse(&text) {
            assert!(text.starts_with(['!', '-']), "{text}: {expression:?}");
        }
    }
}

#[test]
fn the_columns_that_it_names_are_known() {
    let text = "old.a != new.a && has(new.b) && new[\"größe \\\"x\\\"\"] > 1 && 'c' in old && old == null && null != new \
                && new.doc.d.e == 1 && [1].all(n, n == new.f) && op in ['insert'] && type(new.a) == string";
    let expression = Expression::parse(text).expect(text);
    let uses: Vec<_> = expression.uses().iter().map(|it| (it.image.name(), &*it.column, it.is_tested)).collect();
    let expected = [
        ("old", "a", false),
        ("new", "a", false),
        ("new", "b", true),
        ("new", "größe \"x\"", false),
        ("old", "c", true),
        ("new", "doc", false),
        ("new", "f", false),
    ];
    assert_eq!(uses, expected);
    assert!(!expression.uses_changed() && Expression::parse("'a' in changed").expect("valid").uses_changed());
}

/// bool, int8, float8, text, numeric, jsonb, text[], timestamptz, bytea
const TYPES: [(&str, u32); 9] =
    [("b", 16), ("i", 20), ("f", 701), ("t", 25), ("n", 1700), ("j", 3802), ("a", 1009), ("z", 1184), ("y", 17)];

fn relation(identity: u8) -> Relation {
    let columns: Vec<_> = TYPES.iter().map(|(name, oid)| (*name == "i", *name, *oid)).collect();
    let Ok(Message::Relation(relation)) = decode(&fixture::relation(1, "s", "t", identity, &columns)) else {
        panic!("a relation")
    };
    relation
}

fn used(relation: &Relation) -> Vec<Used> {
    let kinds = Kinds { types: &Types::default(), numeric: Numeric::String };
    let columns = relation.columns.iter().enumerate();
    let is_full = relation.identity == ReplicaIdentity::Full;
    let used = |(index, column): (usize, &crate::postgres::relation::Column)| Used {
        name: column.name.clone(),
        index,
        kind: kinds.of(column.type_oid),
        is_key: column.key && !is_full,
    };
    columns.map(used).collect()
}

/// The JSON of an expression, or why it has none.
fn evaluate(relation: &Relation, row: Row<'_>, text: &str) -> String {
    let transaction = Transaction { commit_lsn: Lsn(1), committed_at: 0, xid: 1 };
    let change = Change { position: Position { commit_lsn: Lsn(1), ordinal: 0 }, transaction, relation, row };
    let (used, mut out) = (used(relation), Vec::new());
    let expression = Expression::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    match expression.json(&Variables::new(&change, &used), &mut out) {
        Ok(()) => String::from_utf8(out).expect("UTF-8"),
        Err(error) => error.to_string(),
    }
}

const DOC: &[u8] = br#"{"z":1,"b":{"d":[1,2.5,"x",null,true]},"a":[{"n":3}]}"#;
const ROW: [Raw<'static>; 9] = [
    Raw::Text(b"t"),
    Raw::Text(b"9223372036854775807"),
    Raw::Text(b"-1.5"),
    Raw::Text("größe".as_bytes()),
    Raw::Text(b"19.90"),
    Raw::Text(DOC),
    Raw::Text(br#"{a,"b c",NULL}"#),
    Raw::Text(b"2026-11-21 02:37:00.5+00"),
    Raw::Text(b"\\x00ff"),
];

#[test]
fn a_column_is_in_an_expression_what_it_is_in_an_event() {
    let relation = relation(b'd');
    let insert = fixture::insert(1, &ROW);
    let Ok(Message::Insert { new, .. }) = decode(&insert) else { panic!("an insert") };
    let row = Row::Insert { new };
    for (text, expected) in [
        ("new.b", "true"),
        ("new.i", "9223372036854775807"),
        ("new.i - 1", "9223372036854775806"),
        ("new.f * 2.0", "-3.0"),
        ("new.t + '!'", "\"größe!\""),
        ("size(new.t)", "5"),
        ("new.t.matches('^gr.{2}e$')", "true"),
        ("new.n", "\"19.90\""),
        // A double is none: 19.9 * 100.0 is 1989.9999999999998.
        ("int(double(new.n) * 100.0)", "1989"),
        ("int(double(new.n) * 100.0 + 0.5)", "1990"),
        ("new.j.b.d", "[1,2.5,\"x\",null,true]"),
        ("new.j.a[0].n == 3", "true"),
        ("new.j", "{\"a\":[{\"n\":3}],\"b\":{\"d\":[1,2.5,\"x\",null,true]},\"z\":1}"),
        ("new.j.map(k, k)", "[\"a\",\"b\",\"z\"]"),
        ("new.j == {'z': 1, 'b': {'d': [1, 2.5, 'x', null, true]}, 'a': [{'n': 3}]}", "true"),
        ("{'z': 1, 'b': {'d': [1, 2.5, 'x', null, true]}, 'a': [{'n': 3}]} == new.j", "true"),
        ("has(new.j.z) && !has(new.j.y) && 'a' in new.j && size(new.j) == 3", "true"),
        ("new.j.all(k, k != 'c')", "true"),
        ("'b c' in new.a && new.a[2] == null", "true"),
        ("new.z", "\"2026-11-21T02:37:00.5Z\""),
        ("new.y", "\"AP8=\""),
        ("old == null && new != null", "true"),
        ("[op, schema, table]", "[\"insert\",\"s\",\"t\"]"),
        ("changed", "[]"),
        ("{'b': new.b, 'a': {1: 'x', true: 2}}", "{\"a\":{\"1\":\"x\",\"true\":2},\"b\":true}"),
        ("{1: 'a', '1': 'b'}", "two keys of a map are the same text"),
        ("[{'a': {true: 'a', 'true': 'b'}}]", "two keys of a map are the same text"),
        ("1.0 / 0.0", "\"Infinity\""),
        ("b'\\x00'", "\"AA==\""),
        ("new.i + 1", "`add` overflows"),
        ("1 / (new.i - new.i)", "it divides by zero"),
        ("new.a[7]", "a list has no such element"),
        ("int(new.t)", "`int` can't be applied to the value"),
        ("new.n > 1", "found no matching overload for '_>_' applied to '(string, int)'"),
        ("new.t + 1", "no `add` for a string and a int"),
        ("new.j.nothing", "there is no nothing"),
        ("new.j[new.t]", "there is no such key"),
        ("old.t", "found no matching overload for '_._' applied to '(null_type, string)'"),
    ] {
        assert_eq!(evaluate(&relation, row, text), expected, "{text}");
    }
}

#[test]
fn what_was_not_sent_is_unknown_and_not_null() {
    let (full, default) = (relation(b'f'), relation(b'd'));
    let mut new = ROW;
    (new[3], new[5]) = (Raw::Unchanged, Raw::Text(b"{}"));
    let (whole, by_key, nothing) = (
        fixture::update(1, Some((b'O', &ROW[..])), &new),
        fixture::update(1, Some((b'K', &key()[..])), &new),
        fixture::update(1, None, &new),
    );
    for (relation, update, cases) in [
        (
            &full,
            &whole,
            [("old.t", "\"größe\""), ("new.t", "\"größe\""), ("changed", "[\"j\"]"), ("has(old.f)", "true")],
        ),
        (
            &default,
            &by_key,
            [("old.i", "7"), ("has(old.t) || 't' in old", "false"), ("changed", "null"), ("has(new.t)", "false")],
        ),
        (
            &default,
            &nothing,
            [
                ("old.i == new.i && old != null", "true"),
                (
                    "old.f",
                    "there is no old.f, which PostgreSQL did not send: it is not of the table's replica identity",
                ),
                (
                    "new.t",
                    "there is no new.t, which PostgreSQL did not send: it is large, and the update left it alone",
                ),
                ("'j' in changed", "found no matching overload for '@in' applied to '(string, null_type)'"),
            ],
        ),
    ] {
        let Ok(Message::Update { old, new, .. }) = decode(update) else { panic!("an update") };
        for (text, expected) in cases {
            assert_eq!(evaluate(relation, Row::Update { old, new }, text), expected, "{text}");
        }
    }
    let delete = fixture::delete(1, b'K', &key());
    let Ok(Message::Delete { old, .. }) = decode(&delete) else { panic!("a delete") };
    assert_eq!(
        evaluate(&default, Row::Delete { old }, "[old.i, has(old.t), new == null, changed]"),
        "[7,false,true,[]]"
    );
    let truncate = Row::Truncate { cascade: false, restart_identity: false };
    assert_eq!(evaluate(&default, truncate, "old == null && new == null && op == 'truncate'"), "true");
}

/// A key tuple: null for all but the key.
fn key() -> [Raw<'static>; 9] {
    let mut key = [Raw::Null; 9];
    key[1] = Raw::Text(b"7");
    key
}

/// Nobody else's row may tell what a row holds.
#[test]
fn no_error_tells_a_value() {
    let relation = relation(b'd');
    let mut row = ROW;
    row[3] = Raw::Text(b"secret");
    let insert = fixture::insert(1, &row);
    let Ok(Message::Insert { new, .. }) = decode(&insert) else { panic!("an insert") };
    for text in [
        "int(new.t)",
        "double(new.t)",
        "uint(new.t)",
        "new.t / 2",
        "-new.t",
        "new.t < 1",
        "new.t in new.t",
        "new.j[new.t]",
        "{new.t: 1}['x']",
        "[1][new.t]",
        "new.t.matches('(')",
        "new.t.matches(new.t + '(')",
        "bytes(new.t) + 1",
        "!new.t",
        "new.t ? 1 : 2",
        "new.t && true",
        "new.t.all(x, x)",
        "{new.t: 1, new.t: 2}",
        "duration == new.t",
        "type(new.t)(1)",
    ] {
        if Expression::parse(text).is_ok() {
            let answer = evaluate(&relation, Row::Insert { new }, text);
            assert!(!answer.contains("secret"), "{text}: {answer}");
        }
    }
}

#[test]
fn a_condition_is_true_or_false() {
    let relation = relation(b'd');
    let insert = fixture::insert(1, &ROW);
    let Ok(Message::Insert { new, .. }) = decode(&insert) else { panic!("an insert") };
    let transaction = Transaction { commit_lsn: Lsn(1), committed_at: 0, xid: 1 };
    let position = Position { commit_lsn: Lsn(1), ordinal: 0 };
    let change = Change { position, transaction, relation: &relation, row: Row::Insert { new } };
    let used = used(&relation);
    let holds = |text: &str| Expression::parse(text).expect(text).holds(&Variables::new(&change, &used));
    assert_eq!((holds("new.b"), holds("!new.b")), (Ok(true), Ok(false)));
    let error = holds("new.i").expect_err("a number").to_string();
    assert_eq!(error, "it is neither true nor false, but of type int");
}

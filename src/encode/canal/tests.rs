use super::*;
use crate::change::Transaction;
use crate::lsn::{Lsn, Position};
use crate::postgres::pgoutput::{Message, decode, fixture};

const COLUMNS: [(bool, &str, u32); 4] =
    [(true, "id", 20), (false, "is_new", 16), (false, "data", 17), (false, "no\"te", 25)];

fn message(identity: u8, row: Row<'_>) -> String {
    let bytes = fixture::relation(1, "public", "or\"ders", identity, &COLUMNS);
    let Ok(Message::Relation(relation)) = decode(&bytes) else { panic!("a relation") };
    let commit_lsn = Lsn(0x16_B374_D848);
    let change = Change {
        position: Position { commit_lsn, ordinal: 3 },
        transaction: Transaction { commit_lsn, committed_at: 848_543_820_123_456, xid: 731 },
        relation: &relation,
        row,
    };
    let mut out = Vec::new();
    CanalPlan::new(&relation, &Types::default()).message(&mut out, &change);
    let text = String::from_utf8(out).expect("JSON is UTF-8");
    serde_json::from_str::<serde::de::IgnoredAny>(&text).expect("JSON");
    text
}

/// From `data` on.
fn tail(identity: u8, bytes: &[u8]) -> String {
    let row = match decode(bytes).expect("fixtures are well-formed") {
        Message::Insert { new, .. } => Row::Insert { new },
        Message::Update { old, new, .. } => Row::Update { old, new },
        Message::Delete { old, .. } => Row::Delete { old },
        other => panic!("no row: {other:?}"),
    };
    let message = message(identity, row);
    message[message.find("\"data\":[").expect("data")..].to_owned()
}

#[test]
fn a_truncate_to_the_last_byte() {
    assert_eq!(
        message(b'd', Row::Truncate { cascade: true, restart_identity: false }),
        concat!(
            r#"{"id":97500059720,"database":"public","table":"or\"ders","pkNames":["id"],"isDdl":true,"type":"TRUNCATE","#,
            r#""es":1795228620123,"ts":1795228620123,"sql":"TRUNCATE TABLE \"public\".\"or\"\"ders\"","#,
            r#""sqlType":{"id":-5,"is_new":-7,"data":-2,"no\"te":12},"#,
            r#""mysqlType":{"id":"int8","is_new":"bool","data":"bytea","no\"te":"text"},"data":null,"old":null}"#
        )
    );
}

#[test]
fn values_are_strings_and_old_is_what_changed_as_far_as_it_is_known() {
    let text = |text: &'static str| Value::Text(text.as_bytes());
    let (old, new) = (
        [text("7"), text("t"), text("\\x00ff41"), text("a\"")],
        [text("7"), text("f"), text("\\x00ff41"), Value::Unchanged],
    );
    let whole = r#"{"id":"7","is_new":"1","data":"\u0000ÿA","no\"te":"a\""}"#;
    assert_eq!(tail(b'd', &fixture::insert(1, &old)), format!(r#""data":[{whole}],"old":null}}"#));
    assert_eq!(
        tail(b'f', &fixture::update(1, Some((b'O', &old)), &new)),
        format!(r#""data":[{}],"old":[{{"is_new":"1"}}]}}"#, whole.replace("\"1\"", "\"0\""))
    );
    let sent = r#"{"id":"7","is_new":"0","data":"\u0000ÿA"}"#;
    assert_eq!(tail(b'd', &fixture::update(1, None, &new)), format!(r#""data":[{sent}],"old":null}}"#));
    let key = [text("6"), Value::Null, Value::Null, Value::Null];
    assert_eq!(
        tail(b'd', &fixture::update(1, Some((b'K', &key)), &new)),
        format!(r#""data":[{sent}],"old":[{{"id":"6"}}]}}"#)
    );
    assert_eq!(tail(b'd', &fixture::delete(1, b'K', &key)), r#""data":[{"id":"6"}],"old":null}"#);
}

#[test]
fn types_have_their_modifiers() {
    let name = |oid, modifier| type_name(&Types::default(), oid, modifier);
    assert_eq!(
        [
            name(1700, (12 << 16 | 2) + 4),
            name(1700, (3 << 16 | 0x7FF) + 4),
            name(1700, -1),
            name(1043, 24),
            name(1007, -1)
        ],
        ["numeric(12,2)", "numeric(3,-1)", "numeric", "varchar(20)", "int4[]"]
    );
    assert_eq!([name(1114, 3), name(25, -1), name(1231, (12 << 16 | 2) + 4)], ["timestamp(3)", "text", "numeric[]"]);
    assert_eq!(name(99_999, -1), "99999");
}

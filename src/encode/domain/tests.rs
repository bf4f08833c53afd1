use super::*;
use crate::change::Transaction;
use crate::config::Ordering;
use crate::config::{self, Settings};
use crate::encode::Delivery;
use crate::encode::values::{Kinds, Numeric};
use crate::lsn::{Lsn, Position};
use crate::postgres::pgoutput::{Message, Value as Raw, decode, fixture};
use crate::postgres::relation::Relation;
use crate::postgres::types::Types;
use crate::route::ordering::RowKey;

fn settings(rule: &str) -> Settings {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pgsluice.toml");
    let text = format!(
        "name = \"shop\"\n[source]\nurl = \"postgres://app@localhost/shop\"\n[rabbitmq]\nurl = \"amqp://localhost\"\n\
         [hash]\nkey = \"0123456789abcdef0123\"\n[[events]]\ntable = \"s.t\"\n{rule}\n"
    );
    std::fs::write(&file, text).expect("writes");
    config::load(&file).unwrap_or_else(|error| panic!("{error}"))
}

/// A table of so many columns: `c0` is the key, all are text but the first, which is `int8`.
fn relation(columns: usize, identity: u8) -> Relation {
    let names: Vec<String> = (0..columns).map(|column| format!("c{column}")).collect();
    let columns = names.iter().enumerate();
    let columns = columns.map(|(index, name)| (index == 0, &**name, if index == 0 { 20 } else { 25 }));
    let columns: Vec<_> = columns.collect();
    let Ok(Message::Relation(relation)) = decode(&fixture::relation(1, "s", "t", identity, &columns)) else {
        panic!("a relation")
    };
    relation
}

fn plan(rule: &str, relation: &Relation) -> RulePlan {
    let kinds = Kinds { types: &Types::default(), numeric: Numeric::String };
    let key = RowKey::new(Ordering::Key, relation);
    RulePlan::new(("shop", "shop"), &settings(rule).rules[0], relation, kinds, &key)
        .unwrap_or_else(|misfit| panic!("{misfit}"))
}

fn change<'c>(relation: &'c Relation, row: Row<'c>) -> Change<'c> {
    let transaction = Transaction { commit_lsn: Lsn(0x16_B374_D848), committed_at: 0, xid: 731 };
    Change { position: Position { commit_lsn: Lsn(0x16_B374_D848), ordinal: 3 }, transaction, relation, row }
}

fn event(plan: &RulePlan, change: &Change<'_>) -> Event {
    let mut event = Event::default();
    Encoder::new("shop", Delivery::First).domain(&mut event, plan, change).expect("a value");
    event
}

#[test]
fn the_event_is_as_the_module_says() {
    let relation = relation(3, b'd');
    let plan = plan("type = \"OrderPaid\"\ndata = [\"c2\", \"c0\"]\nrename = { c0 = \"id\" }", &relation);
    let insert = fixture::insert(1, &[Raw::Text(b"7"), Raw::Text(b"x"), Raw::Null]);
    let Ok(Message::Insert { new, .. }) = decode(&insert) else { panic!("an insert") };
    let event = event(&plan, &change(&relation, Row::Insert { new }));
    assert_eq!(event.message_id, "shop:16/B374D848:3:OrderPaid");
    assert_eq!(event.headers.all().text("position"), Some("16/B374D848:3"));
    let version = relation.version(&Types::default());
    let expected = format!(
        "{{\"id\":\"shop:16/B374D848:3:OrderPaid\",\"type\":\"OrderPaid\",\"op\":\"insert\",\"schema\":\"s\",\"table\":\"t\",\
         \"schema_version\":\"{version}\",\"commit_lsn\":\"16/B374D848\",\"ordinal\":3,\"xid\":731,\
         \"committed_at\":\"2000-01-01T00:00:00Z\",\"data\":{{\"id\":7,\"c2\":null}},\"missing\":[]}}"
    );
    assert_eq!(String::from_utf8_lossy(&event.body).replace(".000000Z", "Z"), expected);
}

#[test]
fn what_was_not_sent_is_missing_and_nothing_leaks_past_a_mask() {
    let relation = relation(5, b'd');
    let rule =
        "type = \"x\"\ndata = [\"*\", \"!c4\"]\nmask = { c1 = \"***\" }\nhash = [\"c2\"]\nrename = { c3 = \"größe\" }";
    let plan = plan(rule, &relation);
    let values = [Raw::Text(b"7"), Raw::Text(b"secret"), Raw::Text(b"secret"), Raw::Unchanged, Raw::Text(b"secret")];
    let update = fixture::update(1, None, &values);
    let Ok(Message::Update { old, new, .. }) = decode(&update) else { panic!("an update") };
    let updated = event(&plan, &change(&relation, Row::Update { old, new }));
    let body = String::from_utf8_lossy(&updated.body).into_owned();
    assert!(
        !body.contains("secret") && body.contains("\"c1\":\"***\"") && body.ends_with("\"missing\":[\"größe\"]}"),
        "{body}"
    );
    let again = event(&plan, &change(&relation, Row::Update { old, new }));
    assert_eq!(updated.body, again.body, "the same row has the same event");
    let key = [Raw::Text(b"7"), Raw::Null, Raw::Null, Raw::Null, Raw::Null];
    let delete = fixture::delete(1, b'K', &key);
    let Ok(Message::Delete { old, .. }) = decode(&delete) else { panic!("a delete") };
    let deleted = event(&plan, &change(&relation, Row::Delete { old }));
    let body = String::from_utf8_lossy(&deleted.body).into_owned();
    assert!(body.contains("\"data\":{\"c0\":7},\"missing\":[\"c1\",\"c2\",\"größe\"]"), "{body}");
}

#[test]
fn the_rules_key_keeps_events_in_order_or_else_the_rows() {
    let relation = relation(3, b'd');
    let insert = |values: [&[u8]; 2]| fixture::insert(1, &[Raw::Text(values[0]), Raw::Text(values[1]), Raw::Null]);
    let key = |rule: &str, values| {
        let plan = plan(&format!("type = \"x\"\n{rule}"), &relation);
        let bytes = insert(values);
        let Ok(Message::Insert { new, .. }) = decode(&bytes) else { panic!("an insert") };
        event(&plan, &change(&relation, Row::Insert { new })).ordering_key
    };
    let [one, two, other] = [[&b"1"[..], &b"a"[..]], [b"2", b"a"], [b"1", b"b"]];
    let by_customer = "key = \"{new.c1}\"";
    assert_eq!(key(by_customer, one), key(by_customer, two));
    assert_ne!(key(by_customer, one), key(by_customer, other));
    assert_ne!(key("", one), key("", two));
    assert_eq!(key("", one), key("", other));
    assert_eq!(key("key = \"{new.c2}\"", one), OrderingKey::All, "without a value it is in order with all");
    assert_eq!(key("key = \"{new.c1}-{new.c2}\"", one), OrderingKey::All, "without a part of it, too");
}

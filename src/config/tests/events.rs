//! `[[events]]`.

use super::*;

/// [`SMALLEST`] with a rule.
fn rule(lines: &str) -> String {
    format!("{SMALLEST}[[events]]\ntable = \"public.orders\"\ntype = \"Paid\"\n{lines}\n")
}

#[test]
fn the_smallest_rule_gets_the_defaults() {
    let text = rule("").replace("tables = [\"public.*\"]\n", "");
    let settings = loaded(&text, &[]);
    let rule = &settings.rules[0];
    assert_eq!(
        (rule.key.as_str(), rule.name.as_str(), &*rule.on),
        ("events[0]", "Paid", &["insert", "update", "delete"][..])
    );
    assert_eq!((rule.event_type.literal(), rule.exchange.literal()), (Some("Paid"), Some("shop.events")));
    assert_eq!(rule.routing_key.written(), "{type}");
    assert!(rule.when.is_none() && rule.ordering_key.is_none() && rule.headers.is_empty());
    assert_eq!(rule.data.columns, ColumnChoice::AllBut(Vec::new()));
    let one = text.replace("[[events]]", "[events]");
    assert_eq!(loaded(&one, &[("PGSLUICE__EVENTS__ON", "update, truncate")]).rules[0].on, ["update", "truncate"]);
    let key = [("PGSLUICE__HASH__KEY", "0123456789abcdef")];
    let hashed = loaded(&self::rule("hash = [\"email\"]"), &key);
    assert!(!format!("{hashed:?}").contains("0123456789abcdef"), "a secret is never shown");
}

#[test]
fn a_rule_that_can_not_be_used_is_named_with_what_is_allowed() {
    for (lines, expected) in [
        (
            "when = \"new.status = 'paid'\"",
            "conf/shop.toml:11: events[0].when can't be used: line 1, column 12: Syntax error: token recognition error at: '= '\n\
             expressions are those of https://cel.dev",
        ),
        (
            "when = \"status == 'paid'\"",
            "conf/shop.toml:11: events[0].when can't be used: `status` is no variable\n\
             allowed: old, new, op, changed, schema, table; text goes in quotes: 'paid'",
        ),
        (
            "compute = { x = \"lower(new.a)\" }",
            "conf/shop.toml:11: events[0].compute.x can't be used: `lower` is no function\n\
             allowed: the functions of https://cel.dev, except those of time",
        ),
        (
            "routing_key = \"{status}\"",
            "conf/shop.toml:11: events[0].routing_key uses {status}, which is no variable\n\
             allowed: {name}, {schema}, {table}, {op}, {type}, {new.column}, {old.column}",
        ),
        (
            "headers = { position = \"x\" }",
            "conf/shop.toml:11: events[0].headers.position is a header that pgsluice writes itself\nchoose another name",
        ),
        (
            "on = [\"insert\", \"upsert\"]",
            "conf/shop.toml:11: events[0].on can't be \"upsert\"\nallowed: insert, update, delete, truncate",
        ),
        (
            "data = [\"id\", \"!x\"]",
            "conf/shop.toml:11: events[0].data excludes, but does not hold \"*\"\n\
             allowed: columns, as in [\"id\", \"total\"]; or all but some, as in [\"*\", \"!secret\"]",
        ),
        (
            "data = [\"id\"]\nmask = { phone = \"-\" }",
            "conf/shop.toml:12: events[0].mask names a column that `data` leaves out: \"phone\"\n\
             add it to `data`, or remove it here",
        ),
        (
            "format = \"canal\"\ndata = [\"id\"]",
            "conf/shop.toml:11: events[0].format is one of whole rows, which the rule does not let through\n\
             remove data, rename, compute, mask and hash, or choose plain, raw, cloudevents or cloudevents-binary",
        ),
        (
            "hash = [\"email\"]\nmask = { email = \"-\" }",
            "conf/shop.toml:11: events[0].hash names a column that is masked: \"email\"\nkeep it in one of the two",
        ),
        (
            "hash = [\"email\"]",
            "conf/shop.toml:11: events[0].hash needs a key, and there is no hash.key\n\
             set PGSLUICE__HASH__KEY in the environment, or hash.key_file: whoever has the key can tell whose hash it is",
        ),
        (
            "[[events]]\ntable = \"public.orders\"\ntype = \"Paid\"",
            "conf/shop.toml: events[1].name is given twice: \"Paid\"\n\
             it ends the message_id: set `name` for two rules of the same type",
        ),
        (
            "[[events]]\ntable = \"public.orders\"\ntype = \"{op}\"",
            "conf/shop.toml: events[1].name is missing\n\
             the type has variables, so that it names no rule: write a short name, as in name = \"orders\"",
        ),
        (
            "[[events]]\ntable = \"public.*\"",
            "conf/shop.toml: events[1].type is missing\nwhat happened, as in type = \"OrderPaid\"",
        ),
        (
            "[[events]]\ntype = \"x\"",
            "conf/shop.toml: events[1].table is missing\nthe table, or a pattern, as in table = \"public.orders\"",
        ),
        (
            "[outbox]\ntable = \"public.orders\"",
            "conf/shop.toml:9: events[0].table names the outbox public.orders\n\
             the rows of an outbox are events already: see [outbox]",
        ),
        (
            "[hash]\nkey = \"short\"",
            "conf/shop.toml:12: hash.key is too short\n\
             allowed: at least 16 bytes, as `openssl rand -base64 32` makes them; whoever knows it can guess values",
        ),
    ] {
        assert_eq!(error(&rule(lines), &[]), expected, "{lines}");
    }
}

//! `[outbox]` and `[[outbox]]`.

use super::*;

#[test]
fn the_outbox_has_debeziums_columns_unless_set() {
    let outbox = loaded(&with("outbox", "table = 'app.\"Out Box\"'"), &[]).outboxes.remove(0);
    assert!(outbox.is("app", "Out Box"), "{outbox:?}");
    assert_eq!(outbox.exchange.literal(), Some("shop.events"));
    assert_eq!(outbox.routing_key.written(), "{aggregatetype}.{type}");
    let columns = outbox.columns;
    assert_eq!((columns.id.as_str(), columns.aggregate_type.as_deref()), ("id", Some("aggregatetype")));
    assert_eq!((columns.aggregate_id.as_deref(), columns.event_type.as_deref()), (Some("aggregateid"), Some("type")));
    assert_eq!(columns.payload, "payload");
    let event_type = |name: &str| {
        let text = with("outbox", &format!("table = \"public.outbox\"\ncolumns.type = \"{name}\""));
        loaded(&text, &[]).outboxes.remove(0).columns.event_type
    };
    assert_eq!((event_type("event").as_deref(), event_type("")), (Some("event"), None));
}

#[test]
fn several_outboxes_are_several_sections() {
    let text = format!("{SMALLEST}[[outbox]]\ntable = \"a.x\"\n[[outbox]]\ntable = \"b.x\"\ncolumns.id = \"key\"\n");
    let outboxes = loaded(&text, &[]).outboxes;
    assert!(outboxes[0].is("a", "x") && outboxes[1].is("b", "x"), "{outboxes:?}");
    assert_eq!((outboxes[0].key.as_str(), outboxes[1].columns.id.as_str()), ("outbox[0]", "key"));
    assert_eq!(
        error(&text.replace("b.x", "a.x"), &[]),
        "conf/shop.toml:11: outbox[1].table is given twice: a.x\nkeep one of the two sections"
    );
    assert_eq!(
        error(&text.replace("columns.id", "columns.idd"), &[]).lines().next(),
        Some("conf/shop.toml:12: outbox[1].columns.idd is unknown")
    );
    assert_eq!(
        error("outbox = 1", &[]),
        "conf/shop.toml:1: outbox is not a section, but an integer\nwrite it as a section: [outbox]"
    );
}

#[test]
fn what_an_outbox_can_not_be_is_said() {
    let wrong = |lines: &str, says: &str| {
        let text = error(&with("outbox", &format!("table = \"public.outbox\"\n{lines}")), &[]);
        assert!(text.starts_with("conf/shop.toml:10: ") && text.contains(says), "{text}");
    };
    wrong("on_update = \"crash\"", "outbox.on_update can't be \"crash\"\nallowed: warn, ignore, fail");
    wrong("headers.position = \"x\"", "outbox.headers.position is a header that pgsluice writes itself");
    wrong("headers.CC = \"x\"", "outbox.headers.CC is where RabbitMQ looks for a list of more routing keys");
    wrong("headers.parked_x = \"x\"", "outbox.headers.parked_x is a header that pgsluice writes itself");
    wrong(&format!("headers.{} = \"x\"", "h".repeat(256)), "is no name of a header");
    wrong("headers.x = \"{\"", "outbox.headers.x can't be used");
    wrong("headers.x = 1", "outbox.headers.x is not a string, but an integer");
    wrong("envelope.payload = \"x\"", "outbox.envelope.payload is where the payload is");
    wrong("envelope.x = \"\"", "outbox.envelope.x is no name in PostgreSQL");
    wrong("properties.priority = \"{\"", "outbox.properties.priority can't be used");
    wrong("route.pattern = \"(\"\nroute.replacement = \"x\"", "outbox.route.pattern can't be used: ");
    wrong("columns.timestamp = \"\"", "outbox.columns.timestamp is no name in PostgreSQL");
    wrong("headers.new = \"{new.}\"", "outbox.headers.new names no column behind {new.");
    wrong("headers.traceparent = \"x\"\ncolumns.trace_context = \"y\"", "is a header that pgsluice writes itself");
    let text = error(&with("outbox", "table = \"public.outbox\"\nroute.pattern = \"x\""), &[]);
    assert!(text.contains("outbox.route.replacement is missing"), "{text}");
    let text = error(&with("outbox", "exchange = \"x\""), &[]);
    assert!(text.contains("outbox.table is missing\nthe outbox table, as in"), "{text}");
}

#[test]
fn a_replacement_uses_groups_that_there_are() {
    let replaced = |pattern: &str, replacement: &str| {
        let lines = format!("route.pattern = '{pattern}'\nroute.replacement = '{replacement}'");
        with("outbox", &format!("table = \"public.outbox\"\n{lines}"))
    };
    for (pattern, replacement) in [
        ("(.*)", "$1"),
        ("(?<a>.*)", "${a}_x.$0$$b"),
        ("x", "$"),
        ("x", "${"),
        ("(?<routedByValue>.*)", "outbox.event.${routedByValue}"),
    ] {
        loaded(&replaced(pattern, replacement), &[]);
    }
    for (pattern, replacement, unknown) in [("(.*)", "$1_x", "$1_x"), ("(.*)", "$2", "$2"), ("(?<a>.*)", "${b}", "$b")]
    {
        let text = error(&replaced(pattern, replacement), &[]);
        assert!(text.contains(&format!("outbox.route.replacement uses {unknown}, which is no group")), "{text}");
    }
}

#[test]
fn an_outbox_of_messages_has_nothing_of_a_table() {
    let outbox =
        loaded(&with("outbox", "prefix = \"outbox.*\"\nheaders.traceparent = \"{trace}\""), &[]).outboxes.remove(0);
    assert!(matches!(&outbox.of, OutboxOf::Messages(it) if it.select("outbox.x") && !it.select("outbox")));
    for (line, key) in [
        ("table = \"public.outbox\"", "table"),
        ("on_update = \"warn\"", "on_update"),
        ("cleanup.batch_rows = 5", "cleanup"),
    ] {
        let text = error(&with("outbox", &format!("prefix = \"outbox\"\n{line}")), &[]);
        assert!(text.contains(&format!("outbox.{key} has no meaning beside outbox.prefix")), "{text}");
    }
    let text = error(&with("outbox", "prefix = \"\""), &[]);
    assert!(text.contains("outbox.prefix is empty"), "{text}");
}

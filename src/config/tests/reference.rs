//! The documents against the code: every key of the reference, and the commented configuration.

use super::*;

/// Every key, by asking for one that does not exist.
fn keys(section: &str) -> Vec<String> {
    let variable = format!("PGSLUICE__{}X", section.replace('.', "__").to_uppercase());
    let definite = load(SMALLEST, &[(&variable, "x")]).expect_err("an unknown key");
    let (_, known) = definite.hint.rsplit_once(": ").expect("a list of keys");
    let keys = known.split(", ").map(|key| format!("{section}{key}"));
    keys.flat_map(|key| match key.as_str() {
        "source"
        | "source.filters"
        | "changes"
        | "outbox"
        | "events"
        | "hash"
        | "outbox.columns"
        | "outbox.cleanup"
        | "outbox.properties"
        | "outbox.route"
        | "messages"
        | "rabbitmq"
        | "rabbitmq.unroutable"
        | "rabbitmq.poison"
        | "rabbitmq.parking"
        | "rabbitmq.exchanges"
        | "rabbitmq.queues"
        | "rabbitmq.bindings"
        | "checkpoint"
        | "http"
        | "otlp"
        | "replay"
        | "log" => keys_below(&key),
        _ => vec![key],
    })
    .collect()
}

fn keys_below(section: &str) -> Vec<String> {
    keys(&format!("{section}."))
}

#[test]
fn the_reference_describes_every_key_and_no_other() {
    let reference = include_str!("../../../docs/configuration.md");
    let described = reference.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let described: Vec<(&str, &str)> = described.filter(|(key, _)| !key.starts_with('-')).collect();
    assert_eq!(described.iter().map(|(key, _)| *key).collect::<Vec<_>>(), keys(""));
    for (key, cells) in described {
        let allowed = cells.split('|').nth(1).expect("what is allowed").trim();
        if let Some((unit, range)) = allowed.split_once(", ").filter(|(_, range)| range.contains(" to ")) {
            let variable = format!("PGSLUICE__{}", key.replace('.', "__").to_uppercase());
            let table = ("PGSLUICE__OUTBOX__TABLE", "public.outbox");
            let definite = load(SMALLEST, &[(&variable, "-1"), table]).expect_err("out of range");
            assert_eq!(definite.hint, format!("allowed: {range} {unit}"), "{key}");
        }
    }
}

#[test]
fn the_commented_configuration_holds_every_key_and_loads_with_and_without_them() {
    let text = include_str!("../../../config/pgsluice.toml");
    let defaults = format!("{:?}", loaded(text, &[]));
    let uncommented: Vec<&str> = text
        .lines()
        .map(|line| {
            line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| !c.is_whitespace())).unwrap_or(line)
        })
        .collect();
    let mut section = String::new();
    let mut found = Vec::new();
    for line in &uncommented {
        if line.starts_with('[') {
            section = format!("{}.", line.trim_start_matches('[').split(']').next().unwrap_or_default());
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            found.push(format!("{section}{key}"));
        }
    }
    let (mut found, mut known) = (found, keys(""));
    found.sort();
    known.sort();
    assert_eq!(found, known);
    let examples = [
        "password",
        "max_message_bytes",
        "format",
        "standby_timeout_ms",
        "listen",
        "endpoint",
        "token",
        "tls_",
        "ready_lag_",
        "retain_",
        "prefix",
        "prefixes",
        "timestamp = \"created_at\"",
        "schema_version",
        "trace_context",
        "drop_partitions_after_ms",
        "headers = {",
        "envelope = {",
        "correlation_id",
        "reply_to",
        "priority",
        "expiration",
        "content_type",
        "content_encoding",
        "app_id",
        "column =",
        "pattern",
        "replacement",
        "url = \"postgres://ops",
        "table = \"public.pgsluice",
        "[[",
        "name = \"{name}",
        "type = \"topic",
        "type = \"quorum",
        "durable",
        "auto_delete",
        "internal",
        "alternate_exchange",
        "arguments",
        "dead_letter_",
        "exchange = \"{name}.orders",
        "queue =",
        "to_exchange",
        "routing_key = \"order",
        "[events]",
        "table = \"public.orders",
        "on = ",
        "when = ",
        "type = \"Order",
        "name = \"order",
        "data = ",
        "rename = ",
        "compute = ",
        "mask = ",
        "hash = ",
        "exchange = \"{name}.events",
        "routing_key = \"{type}",
        "key = ",
        "key_file = ",
        "format = \"cloudevents",
        "[source.filters]",
        "table = \"public.orders",
        "where",
        "columns = [",
    ];
    let without_examples: Vec<&str> =
        uncommented.into_iter().filter(|line| !examples.iter().any(|example| line.starts_with(example))).collect();
    // What is commented out is the default, so that uncommenting it changes nothing.
    assert_eq!(format!("{:?}", loaded(&without_examples.join("\n"), &[])), defaults);
}

#[test]
fn the_sections_that_are_lists_are_those_that_the_schema_has_as_lists() {
    let mut sections: Vec<String> =
        keys("").into_iter().filter_map(|key| Some(key.rsplit_once('.')?.0.to_owned())).collect();
    sections.dedup();
    for section in sections {
        let Err(definite) = load(&format!("{SMALLEST}\n[[{section}]]\nno_such_key = 1"), &[]) else {
            panic!("{section} has no such key")
        };
        let is_list = definite.to_string().contains("no_such_key is unknown");
        assert_eq!(is_list, super::super::reference::LISTS.contains(&section.as_str()), "{section}: {definite}");
    }
}

//! The exact wording of what can be wrong, and the layers' order.

mod events;
mod otlp;
mod outbox;
mod pipelines;
mod reference;
mod topology;

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use super::{
    ChangeFormat, CloudEvents, ColumnChoice, DataFormat, LogFormat, Origin, OutboxOf, Settings, StoreSettings,
    Streaming, Unroutable,
};

const SMALLEST: &str = r#"
name = "shop"
[source]
url = "postgres://app@db1/shop"
tables = ["public.*"]
[rabbitmq]
url = "amqp://mq1"
"#;

fn load(text: &str, variables: &[(&str, &str)]) -> Result<Settings, crate::failure::Definite> {
    let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    super::pipelines::parse(Path::new("conf/shop.toml"), text, variables)?.one(None)
}

fn loaded(text: &str, variables: &[(&str, &str)]) -> Settings {
    load(text, variables).unwrap_or_else(|error| panic!("{error} ({})", error.hint))
}

/// The error and its hint, below each other.
fn error(text: &str, variables: &[(&str, &str)]) -> String {
    let definite = load(text, variables).expect_err("a configuration that is wrong");
    assert_eq!(definite.exit_code(), 2);
    format!("{definite}\n{}", definite.hint)
}

/// [`SMALLEST`] with one more line in a section.
fn with(section: &str, line: &str) -> String {
    let header = format!("[{section}]\n");
    match SMALLEST.split_once(&header) {
        Some((before, after)) => format!("{before}{header}{line}\n{after}"),
        None => format!("{SMALLEST}{header}{line}\n"),
    }
}

#[test]
fn the_smallest_configuration_gets_the_defaults() {
    let settings = loaded(SMALLEST, &[]);
    assert_eq!((settings.source.slot.as_str(), settings.source.publication.as_str()), ("shop", "shop"));
    assert!(settings.source.tables.selects("public", "orders"));
    assert_eq!(settings.source.report_every, Duration::from_secs(10));
    assert_eq!(settings.source.standby_timeout, None);
    assert_eq!((&settings.source.streaming, settings.source.origin), (&None, Origin::Any));
    assert_eq!(settings.changes.exchange.literal(), Some("shop.changes"));
    assert_eq!(settings.changes.routing_key.variables().collect::<Vec<_>>(), ["schema", "table", "op"]);
    assert!(settings.outboxes.is_empty());
    assert!(settings.rabbitmq.declare);
    assert_eq!(settings.rabbitmq.exchange_type, "topic");
    assert_eq!((settings.rabbitmq.in_flight.events, settings.rabbitmq.in_flight.bytes), (1000, 8 * 1024 * 1024));
    assert_eq!(settings.rabbitmq.confirm_timeout, Duration::from_mins(1));
    assert_eq!(settings.rabbitmq.max_message_bytes, None);
    assert_eq!(settings.rabbitmq.unroutable, Unroutable::Wait);
    assert_eq!(checkpoint_path(&settings), Path::new("/var/lib/pgsluice/shop"));
    assert_eq!(settings.checkpoint.interval, Duration::from_millis(200));
    assert_eq!(settings.shutdown_timeout, Duration::from_secs(30));
    assert!(!settings.fail_fast);
    assert_eq!((settings.log.format, settings.log.level.as_str()), (None, "info"));
}

#[test]
fn streaming_has_its_bound_and_its_folder_only_where_it_is_on() {
    let streaming = |lines: &str| loaded(&with("source", lines), &[]).source.streaming;
    assert_eq!(streaming("streaming_folder = \"spool\"\nstreaming_memory_bytes = 65536"), None);
    let expected = Streaming { memory_bytes: 64 * 1024 * 1024, folder: "/var/tmp".into() };
    assert_eq!(streaming("streaming = true"), Some(expected));
    let expected = Streaming { memory_bytes: 65_536, folder: "conf/spool".into() };
    let lines = "streaming = true\nstreaming_folder = \"spool\"\nstreaming_memory_bytes = 65536";
    assert_eq!(streaming(lines), Some(expected));
    assert_eq!(loaded(SMALLEST, &[("PGSLUICE__SOURCE__ORIGIN", "none")]).source.origin, Origin::None);
    assert_eq!(
        error(&with("source", "origin = \"local\""), &[]),
        "conf/shop.toml:4: source.origin can't be \"local\"\nallowed: any, none"
    );
}

#[test]
fn a_filter_is_of_a_selected_table_and_filters_something() {
    let filters = |lines: &str| format!("{}[[source.filters]]\n{lines}\n", with("outbox", "table = \"app.outbox\""));
    let text = filters("table = 'public.\"My orders\"'\nwhere = \"id > 1\"\ncolumns = [\"id\", \"Größe\"]");
    let two = format!("{text}[[source.filters]]\ntable = \"app.outbox\"\nwhere = \"true\"\n");
    let [first, second] = loaded(&two, &[]).source.filters.try_into().expect("two");
    assert!(first.is("public", "My orders") && second.is("app", "outbox"), "{first:?} {second:?}");
    assert_eq!((first.key.as_str(), first.rows.as_deref()), ("source.filters[0]", Some("id > 1")));
    assert_eq!(first.columns, Some(vec!["id".to_owned(), "Größe".to_owned()]));
    assert_eq!((second.key.as_str(), second.columns), ("source.filters[1]", None));
    let one = loaded(
        SMALLEST,
        &[("PGSLUICE__SOURCE__FILTERS__TABLE", "public.a"), ("PGSLUICE__SOURCE__FILTERS__COLUMNS", "a,b")],
    );
    assert_eq!(one.source.filters[0].key, "source.filters");
    let wrong = |lines: &str, says: &str| {
        let text = error(&filters(lines), &[]);
        assert!(text.starts_with("conf/shop.toml") && text.contains(says), "{text}");
    };
    wrong("where = \"true\"", "source.filters[0].table is missing");
    wrong("table = \"orders\"\nwhere = \"true\"", "source.filters[0].table can't be used: `orders` names no schema");
    wrong("table = \"public.*\"\nwhere = \"true\"", "source.filters[0].table can't be used: `public.*` has a wildcard");
    wrong(
        "table = \"other.orders\"\nwhere = \"true\"",
        "source.filters[0].table names a table that is not selected: other.orders",
    );
    wrong("table = \"public.orders\"", "source.filters[0].table has neither `where` nor `columns` beside it");
    wrong("table = \"public.orders\"\nwhere = \" \"", "source.filters[0].where is empty");
    wrong("table = \"public.orders\"\nwhere = 1", "source.filters[0].where is not a string");
    wrong("table = \"public.orders\"\ncolumns = []", "source.filters[0].columns is empty");
    wrong("table = \"public.orders\"\ncolumns = [\"a\", \"\"]", "source.filters[0].columns is no name in PostgreSQL");
    wrong("table = \"public.orders\"\ncolumns = [\"a\", \"b\", \"a\"]", "source.filters[0].columns names \"a\" twice");
    wrong("table = \"public.orders\"\nwhen = \"x\"", "source.filters[0].when is unknown");
    let twice =
        format!("{text}{}", text.split_once("[[").map(|(_, section)| format!("[[{section}")).expect("a section"));
    assert_eq!(
        error(&twice, &[]).lines().next(),
        Some("conf/shop.toml:15: source.filters[1].table is given twice: public.My orders")
    );
}

#[test]
fn variables_override_the_file_with_numbers_booleans_and_lists() {
    let settings = loaded(
        SMALLEST,
        &[
            ("PGSLUICE__NAME", "0123"),
            ("PGSLUICE__FAIL_FAST", "true"),
            ("PGSLUICE__RABBITMQ__IN_FLIGHT_EVENTS", "7"),
            ("PGSLUICE__RABBITMQ__UNROUTABLE__POLICY", "discard"),
            ("PGSLUICE__SOURCE__TABLES", "app.*, !app.x"),
            ("PGSLUICE__SOURCE__SLOT", ""),
            ("PGSLUICE__LOG__FORMAT", "json"),
            ("PGSLUICE_CONFIG", "ignored"),
        ],
    );
    assert_eq!(settings.name, "0123");
    assert_eq!(settings.source.slot, "0123");
    assert!(settings.fail_fast);
    assert_eq!(settings.rabbitmq.in_flight.events, 7);
    assert_eq!(settings.rabbitmq.unroutable, Unroutable::Discard);
    assert!(settings.source.tables.selects("app", "y") && !settings.source.tables.selects("app", "x"));
    assert_eq!(settings.log.format, Some(LogFormat::Json));
}

#[test]
fn a_relative_path_starts_at_the_files_folder() {
    assert_eq!(checkpoint_path(&loaded(&with("checkpoint", "path = \"state\""), &[])), Path::new("conf/state"));
    assert_eq!(checkpoint_path(&loaded(&with("checkpoint", "path = \"/state\""), &[])), Path::new("/state"));
}

fn checkpoint_path(settings: &Settings) -> &Path {
    match &settings.checkpoint.store {
        StoreSettings::File { path } => path,
        StoreSettings::Postgres { .. } => panic!("a file is the default"),
    }
}

#[test]
fn the_checkpoints_table_is_in_the_source_unless_set_and_never_selected() {
    let settings = loaded(&with("checkpoint", "store = \"postgres\""), &[]);
    let StoreSettings::Postgres { conninfo, schema, table } = &settings.checkpoint.store else { panic!("is a table") };
    assert_eq!(conninfo.dbname(), settings.source.conninfo.dbname());
    assert_eq!((schema.as_str(), table.as_str()), ("public", "pgsluice_checkpoints"));
    assert!(!settings.source.tables.selects(schema, table));
    let elsewhere = "store = \"postgres\"\nurl = \"postgres://ops@db9/ops\"\ntable = 'ops.\"Check Points\"'";
    let settings = loaded(&with("checkpoint", elsewhere), &[("PGSLUICE__CHECKPOINT__PASSWORD", "s3cret")]);
    let StoreSettings::Postgres { conninfo, schema, table } = &settings.checkpoint.store else { panic!("is a table") };
    assert_eq!((conninfo.user(), conninfo.dbname()), ("ops", "ops"));
    assert_eq!((schema.as_str(), table.as_str()), ("ops", "Check Points"));
}

#[test]
fn a_key_of_the_other_store_is_refused() {
    assert_eq!(
        error(&with("checkpoint", "url = \"postgres://ops@db9/ops\""), &[]),
        "conf/shop.toml:9: checkpoint.url has no meaning with checkpoint.store = \"file\"\n\
         remove the key, or set checkpoint.store = \"postgres\""
    );
    assert_eq!(
        error(&with("checkpoint", "store = \"postgres\"\npath = \"state\""), &[]),
        "conf/shop.toml:10: checkpoint.path has no meaning with checkpoint.store = \"postgres\"\n\
         remove the key, or set checkpoint.store = \"file\""
    );
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_known_ones() {
    assert_eq!(
        error(&with("checkpoint", "intervall_ms = 5"), &[]),
        "conf/shop.toml:9: checkpoint.intervall_ms is unknown\n\
         did you mean checkpoint.interval_ms? known in [checkpoint]: store, path, url, password, password_file, table, interval_ms"
    );
    assert_eq!(
        error(&format!("tabels = []\n{SMALLEST}"), &[]),
        "conf/shop.toml:1: tabels is unknown\n\
         known at the top: name, shutdown_timeout_ms, standby_timeout_ms, fail_fast, source, changes, outbox, events, hash, messages, rabbitmq, checkpoint, replay, http, otlp, log"
    );
    assert_eq!(
        error(SMALLEST, &[("PGSLUICE__CHECKPOINT__PAHT", "x")]),
        "PGSLUICE__CHECKPOINT__PAHT: checkpoint.paht is unknown\n\
         did you mean checkpoint.path? known in [checkpoint]: store, path, url, password, password_file, table, interval_ms"
    );
    assert_eq!(
        error(SMALLEST, &[("PGSLUICE__NAME__X", "x")]),
        "PGSLUICE__NAME__X: name is not a string, but a section\nname is a key, not a section"
    );
}

#[test]
fn a_value_of_the_wrong_type_is_described_and_not_shown() {
    assert_eq!(
        error(&with("source", "password = 1234"), &[]),
        "conf/shop.toml:4: source.password is not a string, but an integer\nput the value in quotes"
    );
    assert_eq!(
        error(&with("rabbitmq", "in_flight_events = \"many\""), &[]),
        "conf/shop.toml:7: rabbitmq.in_flight_events is not an integer: \"many\"\n\
         write a whole number without quotes; the unit is in the key's name"
    );
    assert_eq!(
        error(&with("rabbitmq", "in_flight_events = 1.5"), &[]),
        "conf/shop.toml:7: rabbitmq.in_flight_events is not an integer, but a fraction\n\
         write a whole number without quotes; the unit is in the key's name"
    );
    assert_eq!(
        error(SMALLEST, &[("PGSLUICE__RABBITMQ__DECLARE", "maybe")]),
        "PGSLUICE__RABBITMQ__DECLARE: rabbitmq.declare is not true or false: \"maybe\"\nallowed: true or false"
    );
    assert_eq!(
        error(&format!("checkpoint = \"file\"\n{SMALLEST}"), &[]),
        "conf/shop.toml:1: checkpoint is not a section, but a string\nwrite it as a section: [checkpoint]"
    );
    assert_eq!(
        error(&SMALLEST.replace("[\"public.*\"]", "[1]"), &[]),
        "conf/shop.toml:5: source.tables[0] is not a string, but an integer\nput the value in quotes"
    );
    assert_eq!(
        error(&SMALLEST.replace("[\"public.*\"]", "true"), &[]),
        "conf/shop.toml:5: source.tables is not a list of strings, but a boolean\n\
         write a list, as in [\"public.orders\", \"public.items\"]"
    );
}

#[test]
fn a_number_out_of_range_says_the_range() {
    assert_eq!(
        error(&with("rabbitmq", "in_flight_events = 0"), &[]),
        "conf/shop.toml:7: rabbitmq.in_flight_events is out of range: 0\nallowed: 1 to 1000000 events"
    );
    assert_eq!(
        error(SMALLEST, &[("PGSLUICE__CHECKPOINT__INTERVAL_MS", "-1")]),
        "PGSLUICE__CHECKPOINT__INTERVAL_MS: checkpoint.interval_ms is out of range: -1\n\
         allowed: 10 to 60000 milliseconds"
    );
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(
        error("", &[]),
        "conf/shop.toml: name is missing\n\
         a short name for this pipeline, as in name = \"shop\"; it names the slot"
    );
    assert_eq!(
        error("name = \"shop\"", &[]),
        "conf/shop.toml: source.url is missing\n\
         a PostgreSQL connection string, as in url = \"postgres://app@db1/shop?sslmode=verify-full\""
    );
    assert_eq!(
        error(&SMALLEST.replace("tables = [\"public.*\"]", ""), &[]),
        "conf/shop.toml: source.tables is missing, and there is no [outbox]: nothing is selected\n\
         write source.tables = [\"public.*\"] for the changes of tables, an [outbox] section, or both"
    );
    assert_eq!(
        error(&with("outbox", ""), &[]),
        "conf/shop.toml: outbox.table is missing\nthe outbox table, as in table = \"public.outbox\"; or else prefix, for logical messages"
    );
}

#[test]
fn names_and_choices_say_what_is_allowed() {
    assert_eq!(
        error(&SMALLEST.replace("\"shop\"", "\"my-shop\""), &[]),
        "conf/shop.toml:2: name is no name for a slot: \"my-shop\"\n\
         allowed: 1 to 63 of a-z, 0-9 and _, because it names the replication slot"
    );
    assert_eq!(
        error(&with("checkpoint", "store = \"redis\""), &[]),
        "conf/shop.toml:9: checkpoint.store can't be \"redis\"\nallowed: file, postgres"
    );
    assert_eq!(
        error(&with("rabbitmq.unroutable", "policy = \"drop\""), &[]),
        "conf/shop.toml:9: rabbitmq.unroutable.policy can't be \"drop\"\nallowed: wait, park, discard"
    );
    assert_eq!(
        error(&with("rabbitmq", "exchange_type = \"tpoic\""), &[]),
        "conf/shop.toml:7: rabbitmq.exchange_type is not a type of exchange: \"tpoic\"\n\
         allowed: topic, direct, fanout, headers, or the x-… type of a plugin"
    );
    assert_eq!(
        error(&with("log", "level = \"loud\""), &[]),
        "conf/shop.toml:9: log.level is not a level: \"loud\"\n\
         allowed: off, error, warn, info, debug, trace, or a filter as in \"warn,pgsluice::rabbit=debug\""
    );
}

#[test]
fn patterns_and_templates_say_why() {
    assert_eq!(
        error(&SMALLEST.replace("public.*", "orders"), &[]),
        "conf/shop.toml:5: source.tables holds a pattern that can't be used: `orders` names no schema\n\
         write schema.table, as in public.orders; a part that contains a dot goes in double quotes"
    );
    assert_eq!(
        error(&with("outbox", "table = \"public.Outbox\""), &[]),
        "conf/shop.toml:9: outbox.table can't be used: `public.Outbox` has upper-case letters outside quotes, \
         which PostgreSQL would fold to lower case\n\
         write lower case, or put the part in double quotes, as in 'public.\"Orders\"'"
    );
    assert_eq!(
        error(&with("changes", "routing_key = \"{schema}.{tabel}\""), &[]),
        "conf/shop.toml:9: changes.routing_key can't be used: the template `{schema}.{tabel}` uses {tabel}, \
         which is none of {schema}, {table}, {op}\n\
         allowed: {name}, {schema}, {table}, {op}"
    );
    assert_eq!(
        error(&with("changes", "exchange = \"{schema\""), &[]),
        "conf/shop.toml:9: changes.exchange can't be used: the template `{schema` has a `{` that is not closed\n\
         variables are written {name}; a literal brace is written twice: {{ or }}"
    );
    assert_eq!(
        error(&with("changes", "exchange = \"\""), &[]),
        "conf/shop.toml:9: changes.exchange is empty\nname an exchange, as in \"domain.events\""
    );
}

#[test]
fn what_is_not_toml_has_a_line_and_a_column() {
    assert_eq!(
        error("name = \"shop\"\n[source]\npassword = se cret\n", &[]).lines().next(),
        Some("conf/shop.toml:3:12: not valid TOML: string values must be quoted, expected literal string")
    );
    assert!(
        error("name = \"a\"\nname = \"b\"\n", &[]).starts_with("conf/shop.toml:2:1: not valid TOML: duplicate key")
    );
}

#[test]
fn a_password_comes_from_the_upper_layer_and_from_one_place_in_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("secret");
    std::fs::write(&file, "01234\n").expect("a secret");
    let line = format!("password_file = {:?}", file.to_str().expect("a path"));
    let text = with("source", &line);
    let settings = loaded(&text, &[]);
    assert!(!format!("{settings:?}").contains("01234"), "a secret is never printed");
    loaded(&text, &[("PGSLUICE__SOURCE__PASSWORD", "other")]);
    assert_eq!(
        error(&with("source", &format!("{line}\npassword = \"x\"")), &[]),
        "conf/shop.toml:4: source.password_file is given beside source.password\nkeep one of the two"
    );
    std::fs::write(&file, "\n").expect("an empty secret");
    assert_eq!(
        error(&text, &[]),
        format!(
            "conf/shop.toml:4: source.password_file names an empty file: {}\n\
             write the password into the file, or remove the key",
            file.display()
        )
    );
    assert_eq!(
        error(&with("rabbitmq", "password_file = \"gone\""), &[]),
        "conf/shop.toml:7: rabbitmq.password_file can't be read: conf/gone: \
         No such file or directory (os error 2)\n\
         the file holds the password alone, in UTF-8, readable by the user that pgsluice runs as"
    );
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_text_is_not_shown() {
    use std::os::unix::ffi::OsStringExt as _;
    let variable = (OsString::from("PGSLUICE__SOURCE__PASSWORD"), OsString::from_vec(vec![b'x', 0xFF]));
    let definite = super::pipelines::parse(Path::new("shop.toml"), SMALLEST, [variable]).expect_err("not text");
    assert_eq!(definite.to_string(), "PGSLUICE__SOURCE__PASSWORD: source.password is not UTF-8");
}

#[test]
fn http_listens_where_it_is_told_and_its_token_is_not_shown() {
    assert!(loaded(SMALLEST, &[]).http.is_none());
    let http = |lines: &str| loaded(&with("http", lines), &[]).http.expect("listens");
    assert_eq!(http("listen = \"9187\"").listen.to_string(), "127.0.0.1:9187");
    assert_eq!(http("listen = \"[::1]:9187\"").listen.to_string(), "[::1]:9187");
    let all =
        "listen = \"9187\"\ntoken = \"hunter2hunter2hunter2\"\ntls_certificate_file = \"a\"\ntls_key_file = \"b\"";
    let shown = format!("{:?}", http(&format!("{all}\nready_lag_bytes = 7\nready_lag_ms = 9")));
    assert!(
        !shown.contains("hunter2") && shown.contains("conf/a") && shown.contains("Some(7)") && shown.contains("9ms")
    );
    for (lines, expected) in [
        ("listen = \"db1\"", "http.listen is no address with a port: \"db1\": invalid socket address syntax"),
        ("token = \"hunter2hunter2hunter2\"", "http.token has no meaning without http.listen"),
        ("listen = \"9187\"\ntoken = \"hunter2\"", "http.token is no token that keeps anybody out"),
        ("listen = \"9187\"\ntls_key_file = \"b\"", "http.tls_certificate_file is missing"),
        ("listen = \"9187\"\ntls_certificate_file = \"b\"", "http.tls_key_file is missing"),
    ] {
        let error = error(&with("http", lines), &[]);
        assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn the_minimal_configuration_loads() {
    let text = include_str!("../../config/minimal.toml");
    assert!(text.lines().count() <= 12);
    assert!(loaded(text, &[]).outboxes.len() == 1);
}

#[test]
fn a_format_is_one_that_makes_sense_for_what_makes_the_event() {
    let settings = loaded(SMALLEST, &[]);
    assert_eq!((settings.changes.format, settings.messages.format), (ChangeFormat::Plain, DataFormat::Plain));
    let settings = loaded(&with("changes", "format = \"debezium-schema\""), &[]);
    assert_eq!(settings.changes.format, ChangeFormat::Debezium { with_schema: true });
    let settings = loaded(&with("messages", "format = \"raw\"\ncontent_type = \"text/csv\""), &[]);
    assert_eq!((settings.messages.format, settings.messages.content_type.as_str()), (DataFormat::Raw, "text/csv"));
    let outbox = |line: &str| with("outbox", &format!("table = \"public.outbox\"\n{line}"));
    let settings =
        loaded(&outbox("format = \"cloudevents-binary\"\nproperties = { content_encoding = \"gzip\" }"), &[]);
    assert_eq!(settings.outboxes[0].format, Some(CloudEvents::Binary));
    for (text, expected) in [
        (
            with("changes", "format = \"avro\""),
            "changes.format can't be \"avro\"\nallowed: plain, raw, cloudevents, cloudevents-binary, debezium, debezium-schema, canal",
        ),
        (
            outbox("format = \"debezium\""),
            "outbox.format can't be \"debezium\"\nallowed: raw, cloudevents, cloudevents-binary",
        ),
        (
            with("messages", "format = \"canal\""),
            "messages.format can't be \"canal\"\nallowed: plain, raw, cloudevents, cloudevents-binary",
        ),
        (
            with("messages", "content_type = \"text/csv\""),
            "messages.content_type has no meaning with messages.format = \"plain\"\nset messages.format, or remove the key: the event of format \"plain\" is JSON",
        ),
        (
            with("messages", "format = \"raw\"\ncontent_type = \"\""),
            "messages.content_type is no content type\nallowed: 1 to 255 bytes, as in content_type = \"application/json\"",
        ),
        (
            outbox("format = \"cloudevents\"\nproperties = { content_encoding = \"gzip\" }"),
            "outbox.properties.content_encoding would be of a body that is JSON\nformat = \"cloudevents-binary\" has the payload alone in its body",
        ),
    ] {
        let error = error(&text, &[]);
        let (_, error) = error.split_once(": ").expect("a place");
        assert_eq!(error, expected);
    }
}

#[test]
fn a_flag_may_come_from_the_environment() {
    for key in super::reference::keys().iter().filter(|key| key.takes == super::reference::Takes::Flag) {
        let variable = format!("PGSLUICE__{}", key.key.replace('.', "__").to_uppercase());
        let read = load(SMALLEST, &[(&variable, "yes")]).expect_err("no flag");
        assert!(read.to_string().contains("is not true or false"), "{}: {read}", key.key);
    }
}

//! The outbox event router: every option, against real servers.

mod cleanup;
mod debezium;
mod message;
mod payload;

use lapin::types::ShortString;
use serde_json::{Value, json};

use crate::bad_input::{says, streaming};
use crate::support::{Delivery, Process, SOON, Scene, folder, pgsluice, pgsluice_command};

/// An outbox with more columns, that nobody else's sections mention.
const TABLE: &str =
    "CREATE TABLE inbox (id text PRIMARY KEY, kind text, key text, type text, body bytea, at timestamptz,
    local timestamp, ms bigint, version int, tenant text, urgency text, ttl text, saga uuid, answers text, mime text,
    trace text, \"Größe \"\"q\"\"\" numeric)";

const COLUMNS: &str = "columns = { aggregate_type = \"kind\", aggregate_id = \"key\", payload = \"body\" }\n";

async fn scene() -> Scene {
    let scene = Scene::new().await;
    scene.database.execute(TABLE).await;
    scene
}

/// The scene's configuration with these sections in the place of its own.
fn config(scene: &Scene, outboxes: &str) -> String {
    let config = scene.config(outboxes);
    let own = "[outbox]\ntable = \"public.outbox\"\n";
    assert!(config.contains(own), "{config}");
    config.replacen(own, "", 1)
}

async fn run(scene: &Scene, outboxes: &str) -> Process {
    let process = pgsluice(&config(scene, outboxes));
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    process
}

fn section(more: &str) -> String {
    format!("[[outbox]]\ntable = \"public.inbox\"\nrouting_key = \"k\"\n{COLUMNS}{more}\n")
}

/// What becomes of these rows.
async fn events(scene: &Scene, more: &str, values: &[&str]) -> Vec<Delivery> {
    let _running = run(scene, &section(more)).await;
    for row in values {
        scene.database.execute(&format!("INSERT INTO inbox ({row})")).await;
    }
    scene.vhost.consume("all", values.len(), SOON).await
}

#[allow(clippy::ref_option, reason = "as lapin hands them out")]
fn text(property: &Option<ShortString>) -> Option<&str> {
    property.as_ref().map(ShortString::as_str)
}

#[tokio::test]
async fn columns_become_headers_and_one_that_is_empty_is_left_out() {
    let scene = self::scene().await;
    let more = "headers = { tenant = \"{tenant}\", both = \"{tenant}/{Größe \\\"q\\\"}\", fixed = \"x\", 'Ä \"q\"' = \"{key}\" }";
    let rows = ["id, key, tenant, \"Größe \"\"q\"\"\") VALUES ('1', 'a', 'Zoë \"Z\"', 1.50", "id) VALUES ('2'"];
    let events = events(&scene, more, &rows).await;
    let headers = &events[0].headers;
    assert_eq!((&headers["tenant"], &headers["both"]), (&json!("Zoë \"Z\""), &json!("Zoë \"Z\"/1.50")));
    assert_eq!((&headers["fixed"], &headers["Ä \"q\""]), (&json!("x"), &json!("a")));
    let headers = &events[1].headers;
    assert_eq!((headers.get("tenant"), headers.get("Ä \"q\""), &headers["both"]), (None, None, &json!("/")));
}

#[tokio::test]
async fn columns_become_amqp_properties() {
    let scene = self::scene().await;
    let more = "[outbox.properties]\ncorrelation_id = \"{saga}\"\nreply_to = \"{answers}\"\npriority = \"{urgency}\"\n\
                expiration = \"{ttl}\"\ncontent_type = \"{mime}\"\ncontent_encoding = \"{tenant}\"\napp_id = \"{schema}.{table}\"";
    let saga = "0191d6f0-0000-7000-8000-000000000001";
    let rows = [
        &*format!(
            "id, saga, answers, urgency, ttl, mime, tenant, body) VALUES ('1', '{saga}', 'replies', '7', '600000', \
             'text/csv', 'gzip', '\\x00ff'"
        ),
        "id, body) VALUES ('2', 'x'",
    ];
    let events = events(&scene, more, &rows).await;
    let it = &events[0].properties;
    assert_eq!((text(it.correlation_id()), text(it.reply_to())), (Some(saga), Some("replies")));
    assert_eq!((it.priority(), text(it.expiration())), (&Some(7), Some("600000")));
    assert_eq!((text(it.content_type()), text(it.content_encoding())), (Some("text/csv"), Some("gzip")));
    assert_eq!((text(it.app_id()), &*events[0].body), (Some("public.inbox"), &b"\x00\xff"[..]));
    let it = &events[1].properties;
    assert_eq!((text(it.correlation_id()), text(it.reply_to()), it.priority()), (None, None, &None));
    assert_eq!((text(it.expiration()), text(it.content_encoding())), (None, None));
    assert_eq!(text(it.content_type()), Some("application/octet-stream"));
}

/// The broker would close the channel over an expiration that is no number.
#[tokio::test]
async fn what_a_property_can_not_be_is_not_sent() {
    for (property, column, value, cause) in [
        ("priority", "urgency", "256", "its priority is no number from 0 to 255"),
        ("expiration", "ttl", "soon", "its expiration is no number of milliseconds"),
        ("expiration", "ttl", "-1", "its expiration is no number of milliseconds"),
    ] {
        let scene = self::scene().await;
        let properties = format!("properties = {{ {property} = \"{{{column}}}\" }}");
        let mut running = pgsluice(&format!(
            "fail_fast = true\n{}",
            config(&scene, &format!("poison.policy = \"stop\"\n{}", section(&properties)))
        ));
        running.wait_for_log("streaming from PostgreSQL", SOON).await;
        let insert = format!("INSERT INTO inbox (id, body, {column}) VALUES ('1', 'a', NULL), ('2', 'b', '{value}')");
        scene.database.execute(&insert).await;
        let (code, log) = running.wait(SOON).await;
        assert_eq!(code, Some(8), "{log}");
        says(&log, &["can't publish the insert of public.inbox at ", cause, "hint: "]);
        assert!(!log.contains("soon"), "a value is never told: {log}");
        assert_eq!(scene.vhost.consume("all", 1, SOON).await[0].message_id, "1");
    }
}

#[tokio::test]
async fn the_time_the_version_and_the_trace_come_from_columns() {
    let scene = self::scene().await;
    let at = "columns.timestamp = \"at\"\ncolumns.schema_version = \"version\"\ncolumns.trace_context = \"trace\"";
    let section = section("").replace(COLUMNS, &format!("{}{at}\n", dotted()));
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let _running = run(&scene, &section).await;
    for row in [
        format!("('1', '2026-11-21 02:37:00.9+00', 3, '{parent}')"),
        format!("('2', '1970-01-01', NULL, E'#Sat Nov 21\\ntraceparent={parent}\\ntracestate=a\\\\=b')"),
        "('3', NULL, NULL, NULL)".to_owned(),
        // No event waits for a trace that is none.
        format!("('4', NULL, NULL, '{}')", parent.replace("-b7ad", "-B7AD")),
        "('5', NULL, NULL, E'traceparent=none\\ntracestate=a=b')".to_owned(),
        "('6', NULL, NULL, '{}')".to_owned(),
    ] {
        scene.database.execute(&format!("INSERT INTO inbox (id, at, version, trace) VALUES {row}")).await;
    }
    let events = scene.vhost.consume("all", 6, SOON).await;
    let header = |event: usize, name: &str| events[event].headers.get(name).cloned().unwrap_or(Value::Null);
    assert_eq!(events[0].properties.timestamp(), &Some(1_795_228_620));
    assert_eq!((header(0, "schema_version"), header(0, "traceparent")), (json!(3), json!(parent)));
    assert_eq!(events[1].properties.timestamp(), &Some(0));
    assert_eq!((header(1, "traceparent"), header(1, "tracestate")), (json!(parent), json!("a=b")));
    assert_eq!((header(2, "schema_version"), header(2, "traceparent")), (Value::Null, Value::Null));
    for event in 2..6 {
        assert_eq!((header(event, "traceparent"), header(event, "tracestate")), (Value::Null, Value::Null), "{event}");
    }
    let committed_at_us = events[2].headers["committed_at_us"].as_u64().expect("a number");
    assert_eq!(*events[2].properties.timestamp(), Some(committed_at_us / 1_000_000), "the commit time");
}

fn dotted() -> String {
    "columns.aggregate_type = \"kind\"\ncolumns.aggregate_id = \"key\"\ncolumns.payload = \"body\"\n".to_owned()
}

#[tokio::test]
async fn a_timestamp_may_be_local_or_milliseconds() {
    for (column, value) in [("local", "'2026-11-21 02:37:00'"), ("ms", "1795228620999")] {
        let scene = self::scene().await;
        let section = section("").replace(COLUMNS, &format!("{}columns.timestamp = \"{column}\"\n", dotted()));
        let _running = run(&scene, &section).await;
        scene.database.execute(&format!("INSERT INTO inbox (id, {column}) VALUES ('1', {value})")).await;
        let event = scene.vhost.consume("all", 1, SOON).await.remove(0);
        assert_eq!(event.properties.timestamp(), &Some(1_795_228_620), "{column}");
    }
}

#[tokio::test]
async fn an_envelope_holds_the_payload_and_columns_with_their_types() {
    let scene = self::scene().await;
    let more = "envelope = { tenant = \"tenant\", \"n \\\"q\\\"\" = \"version\", at = \"at\", size = 'Größe \"q\"' }";
    let rows = [
        "id, body, tenant, version, at, \"Größe \"\"q\"\"\") VALUES ('1', '\\x00ff', 'Zoë', 7, '2026-11-21 02:37+00', 1.50",
        "id) VALUES ('2'",
    ];
    let events = events(&scene, more, &rows).await;
    let expected =
        json!({"payload": "AP8=", "tenant": "Zoë", "n \"q\"": 7, "at": "2026-11-21T02:37:00Z", "size": "1.50"});
    assert_eq!(events[0].json(), expected);
    assert_eq!(text(events[0].properties.content_type()), Some("application/json"));
    assert_eq!(events[1].json(), json!({"payload": null, "tenant": null, "n \"q\"": null, "at": null, "size": null}));
}

/// A payload of JSON is in it as it was written.
#[tokio::test]
async fn an_envelope_around_json_holds_it_as_it_is() {
    let scene = Scene::new().await;
    let _running = scene.run_with("[outbox.envelope]\nwhat = \"type\"\n").await;
    scene
        .database
        .execute("INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', '1', 'Placed', '{\"a\": [1.50]}')")
        .await;
    let event = scene.vhost.consume("all", 1, SOON).await.remove(0);
    assert_eq!(event.text(), r#"{"payload":{"a": [1.50]},"what":"Placed"}"#);
}

#[tokio::test]
async fn a_route_is_a_columns_value_through_a_pattern() {
    let scene = self::scene().await;
    let section = format!(
        "[[outbox]]\ntable = \"public.inbox\"\nexchange = \"shop.{{route}}\"\nrouting_key = \"{{route}}.{{key}}\"\n{COLUMNS}\
         [outbox.route]\ncolumn = \"kind\"\npattern = '(?i)shop_(?<what>[a-z]+)_v(\\d+)'\nreplacement = '${{what}}s'\n"
    );
    let _running = run(&scene, &section).await;
    for (id, kind) in [("1", "shop_event_v12"), ("2", "SHOP_event_v1"), ("3", "events"), ("4", "events")] {
        scene.database.execute(&format!("INSERT INTO inbox (id, kind, key) VALUES ('{id}', '{kind}', 'x')")).await;
    }
    for event in scene.vhost.consume("all", 4, SOON).await {
        assert_eq!((&*event.exchange, &*event.routing_key), ("shop.events", "events.x"));
    }
}

#[tokio::test]
async fn an_empty_payload_is_a_tombstone_if_it_is_asked_for() {
    for asked in [false, true] {
        let scene = self::scene().await;
        let more = format!("tombstone_on_empty_payload = {asked}");
        let rows = ["id, body) VALUES ('1', NULL", "id, body) VALUES ('2', 'x'"];
        let events = events(&scene, &more, &rows).await;
        assert_eq!(events[0].headers.get("tombstone"), asked.then_some(&json!(true)));
        assert!(events[0].body.is_empty() && !events[1].headers.contains_key("tombstone"));
    }
}

#[tokio::test]
async fn an_update_is_told_or_ignored_or_the_end() {
    const UPDATE: &str =
        "INSERT INTO inbox (id) VALUES ('1'); UPDATE inbox SET tenant = 'x'; UPDATE inbox SET tenant = 'y';
                          INSERT INTO inbox (id) VALUES ('2')";
    for (on_update, lines) in [("warn", 1), ("ignore", 0)] {
        let scene = self::scene().await;
        let running = run(&scene, &section(&format!("on_update = \"{on_update}\""))).await;
        scene.database.execute(UPDATE).await;
        let events = scene.vhost.consume("all", 2, SOON).await;
        assert_eq!((&*events[0].message_id, &*events[1].message_id), ("1", "2"));
        assert_eq!(running.stderr().matches("a row of the outbox was updated").count(), lines, "{on_update}");
    }
    let scene = self::scene().await;
    let mut running = run(&scene, &section("on_update = \"fail\"")).await;
    scene.database.execute(UPDATE).await;
    let (code, log) = running.wait(SOON).await;
    assert_eq!(code, Some(8), "{log}");
    says(&log, &["a row of the outbox public.inbox was updated at ", "hint: outbox.on_update = \"warn\""]);
    assert_eq!(scene.vhost.consume("all", 1, SOON).await[0].message_id, "1", "what came before is published");
    let _mended = run(&scene, &section("")).await;
    assert_eq!(scene.vhost.consume("all", 1, SOON).await[0].message_id, "2");
}

#[tokio::test]
async fn several_outboxes_go_each_their_way_in_commit_order() {
    let scene = self::scene().await;
    let both = format!("[[outbox]]\ntable = \"public.outbox\"\n{}", section("headers = { tenant = \"{tenant}\" }"));
    let _running = run(&scene, &both).await;
    scene
        .database
        .execute(
            "BEGIN; INSERT INTO inbox (id, tenant) VALUES ('1', 't');
             INSERT INTO outbox (id, aggregatetype, aggregateid, type) VALUES
                ('00000000-0000-0000-0000-000000000002', 'Order', '1', 'Placed');
             INSERT INTO inbox (id) VALUES ('3'); DELETE FROM inbox; COMMIT",
        )
        .await;
    let events = scene.vhost.consume("all", 3, SOON).await;
    let keys: Vec<_> = events.iter().map(|event| event.routing_key.as_str()).collect();
    assert_eq!(keys, ["k", "Order.Placed", "k"]);
    assert_eq!(events[0].headers["tenant"], "t");
    let last: Vec<_> = events.iter().map(|event| event.headers["transaction_last"].as_bool()).collect();
    assert_eq!(last, [Some(false), Some(false), Some(true)]);
}

#[tokio::test]
async fn columns_that_are_not_there_are_named_before_anything_is_created() {
    let scene = self::scene().await;
    let more = "headers = { x = \"{gone}\" }\nenvelope = { y = \"lost\" }\nroute = { column = \"missing\", pattern = \"x\", replacement = \"y\" }\n\
                properties = { reply_to = \"{nowhere}\" }";
    let mut running = pgsluice(&config(&scene, &section(more)));
    let (code, log) = running.wait(SOON).await;
    assert_eq!(code, Some(3), "{log}");
    says(
        &log,
        &[
            "the outbox table public.inbox lacks columns that the configuration needs",
            "\"gone\" (outbox.headers.x)",
            "\"lost\" (outbox.envelope.y)",
            "\"missing\" (outbox.route.column)",
            "\"nowhere\" (outbox.properties.reply_to)",
        ],
    );
    assert_eq!(
        scene.database.query_one("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()").await,
        "0"
    );
}

/// A column that a header is made of is renamed while rows from before and after are to be read.
#[tokio::test]
async fn a_renamed_column_is_told_and_nothing_is_lost() {
    let scene = self::scene().await;
    let section_before = section("headers = { tenant = \"{tenant}\" }");
    let mut running = run(&scene, &format!("poison.policy = \"stop\"\n{section_before}")).await;
    scene
        .database
        .execute("INSERT INTO inbox (id, tenant) VALUES ('1', 'a'); ALTER TABLE inbox RENAME tenant TO owner; INSERT INTO inbox (id, owner) VALUES ('2', 'b')")
        .await;
    let (code, log) = running.wait(SOON).await;
    assert_eq!(code, Some(8), "{log}");
    says(&log, &["can't publish the insert of public.inbox at ", "the outbox table has no column for", "{tenant}"]);
    assert_eq!(scene.vhost.consume("all", 1, SOON).await[0].headers["tenant"], "a");
    let _mended = run(&scene, &section("headers = { tenant = \"{owner}\" }")).await;
    assert_eq!(scene.vhost.consume("all", 1, SOON).await[0].headers["tenant"], "b");
}

#[tokio::test]
async fn rows_of_one_of_several_outboxes_can_be_sent_again() {
    let scene = self::scene().await;
    let both = format!("[[outbox]]\ntable = \"public.outbox\"\n{}", section(""));
    {
        let _running = run(&scene, &both).await;
        scene.database.execute("INSERT INTO inbox (id, body) VALUES ('1', 'x')").await;
        scene.vhost.consume("all", 1, SOON).await;
    }
    let file = folder("outbox").join("pgsluice.toml");
    std::fs::write(&file, config(&scene, &both)).expect("write the configuration");
    let replay = |arguments: &[&str]| {
        let command = ["replay", "--config", file.to_str().expect("text"), "--from-table"];
        pgsluice_command(&[&command, arguments].concat(), &[])
    };
    let (code, said) = replay(&[]).wait(SOON).await;
    assert_eq!(code, Some(2), "{said}");
    says(&said, &["--from-table: several outboxes are configured", "hint: choose one with --table"]);
    let (code, said) = replay(&["--table", "public.inbox"]).wait(SOON).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(scene.vhost.consume("all", 1, SOON).await[0].message_id, "1");
}

#[tokio::test]
async fn a_variable_reaches_the_one_section() {
    let scene = Scene::new().await;
    let _running = streaming(&scene, &[("outbox.routing_key", "{type}")]).await;
    scene
        .database
        .execute("INSERT INTO outbox (aggregatetype, aggregateid, type) VALUES ('Order', '1', 'Placed')")
        .await;
    assert_eq!(scene.vhost.consume("all", 1, SOON).await[0].routing_key, "Placed");
}

//! What an application finds that has used Debezium's outbox event router: `docs/debezium-outbox.md`, line by line.

use serde_json::{Value, json};

use super::{events, run, scene, text};
use crate::support::{SOON, Scene};

/// The table needs no column that Debezium's needs not.
#[tokio::test]
async fn a_table_may_lack_the_type_and_route_by_another_column() {
    let scene = Scene::new().await;
    scene
        .database
        .execute(
            "CREATE TABLE event (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), topic text, key text, payload jsonb)",
        )
        .await;
    let section = "[[outbox]]\ntable = \"public.event\"\nexchange = \"shop.events\"\nrouting_key = \"{route}\"\n\
        headers = { id = \"{id}\" }\ncolumns = { type = \"\", aggregate_type = \"\", aggregate_id = \"key\" }\n\
        route = { column = \"topic\", pattern = \"(?<routedByValue>.*)\", replacement = \"outbox.event.${routedByValue}\" }\n";
    let _running = run(&scene, section).await;
    scene.database.execute("INSERT INTO event (topic, key, payload) VALUES ('orders', '7', '{}')").await;
    let event = scene.vhost.consume("all", 1, SOON).await.remove(0);
    assert_eq!((&*event.routing_key, &*event.event_type), ("outbox.event.orders", ""));
    assert_eq!((&event.headers["id"], &event.headers["aggregate_id"]), (&json!(event.message_id), &json!("7")));
    assert!(!event.headers.contains_key("aggregate_type"));
}

/// `table.fields.additional.placement = version:header,live:header:is_live,tenant:header`
#[tokio::test]
async fn a_header_that_is_a_column_keeps_its_type() {
    let scene = scene().await;
    scene.database.execute("ALTER TABLE inbox ADD live boolean, ADD more jsonb").await;
    let more = "headers = { version = \"{version}\", ms = \"{ms}\", is_live = \"{live}\", tenant = \"{tenant}\", text = \"{version}.\", \
                size = '{Größe \"q\"}', more = \"{more}\" }";
    let rows = [
        "id, version, ms, live, tenant, \"Größe \"\"q\"\"\", more) VALUES ('1', 7, -9223372036854775808, true, '8', 1.50, '{\"a\": 1}'",
        "id, live, more) VALUES ('2', false, '5'",
    ];
    let events = events(&scene, more, &rows).await;
    let all = ["version", "ms", "is_live", "tenant", "text", "size", "more"];
    let headers = |event: usize| all.map(|name| events[event].headers.get(name).cloned().unwrap_or(Value::Null));
    assert_eq!(json!(headers(0)), json!([7, i64::MIN, true, "8", "7.", "1.50", "{\"a\": 1}"]));
    assert_eq!(json!(headers(1)), json!([null, null, false, null, ".", null, 5]));
}

/// `traceparent` as a column of its own.
#[tokio::test]
async fn a_trace_may_be_in_columns_of_its_own() {
    let scene = scene().await;
    let more = "headers = { traceparent = \"{trace}\", tracestate = \"{tenant}\" }";
    let events = events(&scene, more, &["id, trace, tenant) VALUES ('1', '00-a-b-01', 'x=1'"]).await;
    assert_eq!(
        (&events[0].headers["traceparent"], &events[0].headers["tracestate"]),
        (&json!("00-a-b-01"), &json!("x=1"))
    );
}

/// `table.expand.json.payload`
#[tokio::test]
async fn json_in_a_text_or_in_bytes_is_expanded_if_it_is_asked_for() {
    for (asked, kind) in [(true, "bytea"), (true, "text"), (false, "text")] {
        let scene = scene().await;
        scene.database.execute(&format!("ALTER TABLE inbox ALTER body TYPE {kind} USING body::text::{kind}")).await;
        let more = format!("expand_json_payload = {asked}\nenvelope = {{ n = \"version\" }}\n");
        let plain = format!("expand_json_payload = {asked}\n");
        let rows = [
            "id, body) VALUES ('1', ' {\"a\": [1.50]}'",
            "id, body) VALUES ('2', '{\"a\"'",
            "id, body) VALUES ('3', '5'",
        ];
        let enveloped = events(&scene, &more, &rows).await;
        let string = |text: &str| match kind {
            "bytea" => {
                json!({"payload": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text), "n": null})
            }
            _ => json!({"payload": text, "n": null}),
        };
        let expanded = json!({"payload": {"a": [1.50]}, "n": null});
        assert_eq!(enveloped[0].json(), if asked { expanded } else { string(" {\"a\": [1.50]}") });
        assert_eq!((enveloped[1].json(), enveloped[2].json()), (string("{\"a\""), string("5")));
        scene.database.execute("DELETE FROM inbox").await;
        let alone = events(&scene, &plain, &rows).await;
        let other = if kind == "bytea" { "application/octet-stream" } else { "text/plain; charset=utf-8" };
        let types: Vec<_> =
            alone.iter().map(|event| text(event.properties.content_type()).unwrap_or_default()).collect();
        assert_eq!(types, [if asked { "application/json" } else { other }, other, other]);
        assert_eq!(alone[0].text(), " {\"a\": [1.50]}");
    }
}

/// `route.tombstone.on.empty.payload`: white space is empty, too.
#[tokio::test]
async fn a_blank_payload_is_a_tombstone() {
    let scene = scene().await;
    scene.database.execute("ALTER TABLE inbox ALTER body TYPE text USING body::text").await;
    let rows = ["id, body) VALUES ('1', E' \\n'", "id, body) VALUES ('2', ''", "id, body) VALUES ('3', 'null'"];
    let events = events(&scene, "tombstone_on_empty_payload = true\nenvelope = { n = \"version\" }", &rows).await;
    let told: Vec<_> = events.iter().map(|it| (it.headers.contains_key("tombstone"), it.body.is_empty())).collect();
    assert_eq!(told, [(true, true), (true, true), (false, false)]);
}

//! `outbox.prefix`: an outbox without a table, whose rows are the JSON objects of logical messages.

use serde_json::{Value, json};

use super::{config, run, text};
use crate::bad_input::says;
use crate::support::{SOON, Scene, folder, pgsluice, pgsluice_command};

const OUTBOX: &str = "[[outbox]]\nprefix = \"outbox*\"\n";

async fn emit(scene: &Scene, transactional: bool, content: &str) -> String {
    let sql = "SELECT pg_logical_emit_message($1, 'outbox', $2::text)::text";
    let row = scene.database.client().await.query_one(sql, &[&transactional, &content]).await;
    row.expect("emits").get(0)
}

/// It takes no more than the defaults, and what a row of the outbox table would be.
#[tokio::test]
async fn an_object_is_a_row_of_an_outbox() {
    let scene = Scene::new().await;
    let _running = run(&scene, OUTBOX).await;
    let id = "0191d6f0-0000-7000-8000-000000000001";
    scene
        .database
        .execute(&format!(
            "SELECT pg_logical_emit_message(true, 'outbox.orders', jsonb_build_object('id', '{id}',
                'aggregatetype', 'Order', 'aggregateid', 7, 'type', 'OrderPlaced', 'payload', jsonb_build_object('total', 1.50),
                'unused', 'x')::text)"
        ))
        .await;
    let event = scene.vhost.consume("all", 1, SOON).await.remove(0);
    assert_eq!((&*event.exchange, &*event.routing_key), ("shop.events", "Order.OrderPlaced"));
    assert_eq!((&*event.message_id, &*event.event_type), (id, "OrderPlaced"));
    assert_eq!(
        (event.text(), text(event.properties.content_type())),
        (r#"{"total": 1.50}"#.to_owned(), Some("application/json"))
    );
    assert_eq!((&event.headers["aggregate_type"], &event.headers["aggregate_id"]), (&json!("Order"), &json!("7")));
    assert_eq!((&event.headers["transaction_number"], &event.headers["transaction_last"]), (&json!(1), &json!(true)));
    assert_eq!(event.properties.delivery_mode(), &Some(2), "persistent");
    scene.acknowledged().await;
}

#[tokio::test]
async fn every_option_is_one_of_its_fields() {
    let scene = Scene::new().await;
    let section = format!(
        "{OUTBOX}exchange = \"shop.{{route}}\"\nrouting_key = \"{{prefix}}/{{what}}/{{new.prefix}}\"\n\
         headers = {{ attempt = \"{{attempt}}\", test = \"{{test}}\", tenant = \"{{tenant}}\", both = \"{{tenant}}{{attempt}}\", tags = \"{{tags}}\" }}\n\
         envelope = {{ tenant = \"tenant\", tags = \"tags\", none = \"none\" }}\n\
         columns = {{ id = \"key\", type = \"what\", payload = \"body\", timestamp = \"at\", schema_version = \"v\", trace_context = \"trace\" }}\n\
         properties = {{ correlation_id = \"{{saga}}\", priority = \"{{urgency}}\", expiration = \"{{ttl}}\", reply_to = \"{{answers}}\", app_id = \"{{tenant}}\" }}\n\
         route = {{ column = \"group\", pattern = \"g-(.*)\", replacement = \"$1\" }}\n"
    );
    let _running = run(&scene, &section).await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let row = json!({"key": 5, "what": "Paid", "body": "text \"ü\"", "at": "2026-11-21T02:37:00.9", "v": 3, "trace": parent,
        "attempt": 2, "test": true, "tenant": "Zoë\n", "tags": ["a", 1.5], "saga": "s1", "urgency": 7, "ttl": "600000",
        "answers": "replies", "group": "g-events", "prefix": "own"});
    emit(&scene, true, &row.to_string()).await;
    let event = scene.vhost.consume("all", 1, SOON).await.remove(0);
    assert_eq!((&*event.exchange, &*event.routing_key, &*event.message_id), ("shop.events", "outbox/Paid/own", "5"));
    assert_eq!(event.json(), json!({"payload": "text \"ü\"", "tenant": "Zoë\n", "tags": ["a", 1.5], "none": null}));
    let headers = &event.headers;
    assert_eq!(
        (&headers["attempt"], &headers["test"], &headers["schema_version"]),
        (&json!(2), &json!(true), &json!(3))
    );
    assert_eq!(
        (&headers["tenant"], &headers["both"], &headers["traceparent"]),
        (&json!("Zoë\n"), &json!("Zoë\n2"), &json!(parent))
    );
    assert_eq!(headers["tags"], r#"["a",1.5]"#);
    let it = &event.properties;
    assert_eq!(
        (text(it.correlation_id()), it.priority(), text(it.expiration())),
        (Some("s1"), &Some(7), Some("600000"))
    );
    assert_eq!(
        (text(it.reply_to()), text(it.app_id()), it.timestamp()),
        (Some("replies"), Some("Zoë\n"), &Some(1_795_228_620))
    );
}

#[tokio::test]
async fn a_payload_is_any_json_or_text_or_nothing() {
    let scene = Scene::new().await;
    let _running = run(&scene, &format!("{OUTBOX}routing_key = \"k\"\ntombstone_on_empty_payload = true\n")).await;
    let large = "ü".repeat(100_000);
    let large_json = format!("\"{large}\"");
    let payloads = [
        ("[1, {}]", "[1, {}]", "application/json"),
        ("-1.50e3", "-1.50e3", "application/json"),
        ("true", "true", "application/json"),
        (r#""a\u0001\t\"\\ \ud83d\ude00""#, "a\u{1}\t\"\\ 😀", "text/plain; charset=utf-8"),
        (&large_json, &large, "text/plain; charset=utf-8"),
        ("\"\"", "", "text/plain; charset=utf-8"),
        ("null", "", "text/plain; charset=utf-8"),
    ];
    for (payload, ..) in &payloads {
        emit(&scene, true, &format!("{{\"payload\": {payload} }}")).await;
    }
    emit(&scene, true, "{}").await;
    for (event, (_, body, content_type)) in scene.vhost.consume("all", 7, SOON).await.iter().zip(payloads) {
        assert_eq!((event.text().as_str(), text(event.properties.content_type())), (body, Some(content_type)));
        assert_eq!(event.headers.contains_key("tombstone"), body.is_empty());
    }
    assert!(scene.vhost.consume("all", 1, SOON).await[0].body.is_empty());
}

/// Those inside come with their transaction or not at all; those outside at once, even from a transaction that fails.
#[tokio::test]
async fn they_come_in_their_order_among_the_changes_and_not_if_rolled_back() {
    let scene = Scene::new().await;
    let running = run(&scene, OUTBOX).await;
    let emit = |inside: bool, id: &str| {
        format!(
            "SELECT pg_logical_emit_message({inside}, 'outbox', '{{\"id\":\"{id}\",\"aggregatetype\":\"A\",\"type\":\"t\"}}')"
        )
    };
    let script = [
        "BEGIN".to_owned(),
        "INSERT INTO ledger DEFAULT VALUES".to_owned(),
        emit(true, "in"),
        "SAVEPOINT s".to_owned(),
        emit(true, "lost"),
        "ROLLBACK TO s".to_owned(),
        emit(true, "in too"),
        "COMMIT".to_owned(),
        "BEGIN".to_owned(),
        emit(true, "lost"),
        emit(false, "out"),
        "ROLLBACK".to_owned(),
        "INSERT INTO ledger DEFAULT VALUES".to_owned(),
    ];
    let client = scene.database.client().await;
    for sql in &script {
        client.batch_execute(sql).await.expect(sql);
    }
    let events = scene.vhost.consume("all", 5, SOON).await;
    let told: Vec<&str> =
        events.iter().map(|it| if it.exchange == "shop.events" { &*it.message_id } else { "row" }).collect();
    assert_eq!(told, ["row", "in", "in too", "out", "row"]);
    let numbers: Vec<_> =
        events.iter().map(|event| event.headers.get("transaction_number").and_then(Value::as_i64)).collect();
    assert_eq!(numbers, [Some(1), Some(2), Some(3), None, Some(1)]);
    scene.acknowledged().await;
    assert_eq!(scene.vhost.depth("all").await, 0);
    assert!(!running.stderr().contains("of the outbox"), "{}", running.stderr());
}

/// With and without an id of its own, inside and outside of a transaction.
#[tokio::test]
async fn what_comes_again_after_a_kill_has_the_same_id() {
    let scene = Scene::new().await;
    let section = format!("{OUTBOX}exchange = \"shop.nowhere\"\nrouting_key = \"k\"\n");
    let mut running = pgsluice(&config(&scene, &section));
    running.wait_for_log("streaming from PostgreSQL", SOON).await;
    scene.vhost.queue_on("some", "shop.nowhere").await;
    emit(&scene, true, r#"{"id":"own"}"#).await;
    emit(&scene, true, r#"{"id":null}"#).await;
    let outside = emit(&scene, false, "{}").await;
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    let ids =
        |events: Vec<crate::support::Delivery>| events.into_iter().map(|event| event.message_id).collect::<Vec<_>>();
    let first = ids(scene.vhost.consume("some", 3, SOON).await);
    assert!(first[0] == "own" && first[1].starts_with("shop:") && first[1].ends_with(":0"), "{first:?}");
    assert_eq!(first[2], format!("shop:{outside}:message"));
    scene.acknowledged().await;
    scene
        .vhost
        .channel()
        .await
        .queue_purge("all".into(), lapin::options::QueuePurgeOptions::default())
        .await
        .expect("purges");
    // Not confirmed while nothing is bound; killed; and sent again.
    scene
        .vhost
        .channel()
        .await
        .queue_delete("some".into(), lapin::options::QueueDeleteOptions::default())
        .await
        .expect("deletes");
    let position = emit(&scene, true, "{}").await;
    emit(&scene, false, r#"{"id":"outside"}"#).await;
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    running.wait_for_log("no queue takes event", SOON).await;
    let told = |log: &str| {
        log.lines().find_map(|line| {
            line.split_once("no queue takes event ")
                .map(|(_, id)| id.split_whitespace().next().unwrap_or_default().to_owned())
        })
    };
    let before = told(&running.stderr());
    running.restart();
    running.wait_for_log("no queue takes event", SOON).await;
    assert_eq!(told(&running.stderr()), before, "{position}");
    scene.vhost.queue_on("some", "shop.nowhere").await;
    scene.acknowledged().await;
    let depth = scene.vhost.depth("some").await as usize;
    let again = ids(scene.vhost.consume("some", depth, SOON).await);
    assert_eq!(again.last().map(String::as_str), Some("outside"), "{again:?}");
}

/// Nothing of it is told, and nothing behind it is lost.
#[tokio::test]
async fn what_is_no_object_or_does_not_fit_can_not_be_published() {
    for (transactional, content, cause) in [
        (true, "secret", "its content is no JSON object in UTF-8 (line 1, column 1)"),
        (false, "[\"secret\"]", "its content is no JSON object"),
        (true, r#"{"at": "secret"}"#, "its timestamp is no time after 1970"),
    ] {
        let scene = Scene::new().await;
        let section = format!("{OUTBOX}routing_key = \"k\"\ncolumns = {{ timestamp = \"at\" }}\n");
        let mut running = run(&scene, &section).await;
        emit(&scene, true, r#"{"id":"1"}"#).await;
        emit(&scene, transactional, content).await;
        emit(&scene, true, r#"{"id":"2"}"#).await;
        let (code, log) = running.wait(SOON).await;
        assert_eq!(code, Some(8), "{log}");
        says(&log, &["can't publish the message outbox at ", cause, "hint: "]);
        assert!(!log.contains("secret"), "a value is never told: {log}");
        assert_eq!(scene.vhost.consume("all", 1, SOON).await[0].message_id, "1", "what came before is published");
        assert_eq!(scene.vhost.depth("all").await, 0);
    }
}

/// It comes before `messages.prefixes`, and the first of several before the others.
#[tokio::test]
async fn outboxes_come_before_other_messages_and_in_their_order() {
    let scene = Scene::new().await;
    scene.vhost.declare_exchange("shop.messages", "topic").await;
    scene.vhost.bind("all", "shop.messages", "#").await;
    let section = "[[outbox]]\nprefix = \"a.b\"\nrouting_key = \"first\"\n[[outbox]]\nprefix = \"a.*\"\nrouting_key = \"second\"\n\
                   [messages]\nprefixes = [\"*\"]\n";
    let _running = run(&scene, section).await;
    for prefix in ["a.b", "a.c", "c"] {
        scene.database.execute(&format!("SELECT pg_logical_emit_message(true, '{prefix}', '{{}}')")).await;
    }
    let keys: Vec<_> = scene.vhost.consume("all", 3, SOON).await.into_iter().map(|event| event.routing_key).collect();
    assert_eq!(keys, ["first", "second", "c"]);
}

/// There is nothing to create or to publish a table for.
#[tokio::test]
async fn a_pipeline_may_have_it_alone() {
    let scene = Scene::new().await;
    let config = config(&scene, OUTBOX);
    let tables = "tables = [\"public.orders\", \"public.ledger\"]\n";
    assert!(config.contains(tables), "{config}");
    let process = pgsluice(&config.replace(tables, ""));
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    emit(&scene, true, r#"{"id":"alone","aggregatetype":"A","type":"b"}"#).await;
    assert_eq!(scene.vhost.consume("all", 1, SOON).await[0].message_id, "alone");
}

/// From the WAL that is retained; and of one table, nothing of it.
#[tokio::test]
async fn its_past_can_be_replayed() {
    let scene = Scene::new().await;
    let more = format!("{OUTBOX}routing_key = \"k\"\n[replay]\nretain_ms = 86400000\n");
    let _running = run(&scene, &more).await;
    let from = scene.database.query_one("SELECT pg_current_wal_flush_lsn()").await;
    emit(&scene, true, r#"{"payload":[1]}"#).await;
    emit(&scene, false, r#"{"id":"own","payload":[2]}"#).await;
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    let first = scene.vhost.consume("all", 3, SOON).await;
    let file = folder("outbox").join("pgsluice.toml");
    std::fs::write(&file, config(&scene, &more)).expect("write the configuration");
    let replay = |arguments: &[&str]| {
        let command = ["replay", "--config", file.to_str().expect("text")];
        pgsluice_command(&[&command, arguments].concat(), &[])
    };
    let (code, said) = replay(&["--from", &from]).wait(SOON).await;
    assert_eq!(code, Some(0), "{said}");
    for (first, again) in first.iter().zip(scene.vhost.consume("all", 3, SOON).await) {
        assert_eq!((&first.message_id, &first.body), (&again.message_id, &again.body));
    }
    let (code, said) = replay(&["--from", &from, "--table", "public.ledger"]).wait(SOON).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(scene.vhost.consume("all", 1, SOON).await[0].message_id, first[2].message_id);
    assert_eq!(scene.vhost.depth("all").await, 0);
    let (code, said) = replay(&["--from-table"]).wait(SOON).await;
    assert_eq!(code, Some(2), "{said}");
    says(&said, &["--from-table: no [outbox] is configured"]);
}

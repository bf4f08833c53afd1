//! Logical messages as events: in their transaction, or outside of any.

use std::time::Duration;

use ::pgsluice::checkpoint::file::read;
use base64::Engine as _;
use lapin::options::ExchangeDeleteOptions;
use lapin::types::FieldTable;
use serde_json::{Value, json};

use crate::support::{Delivery, Process, SOON, Scene, eventually, pgsluice_command};

const PREFIXES: &str = "[messages]\nprefixes = [\"app.*\"]\n";

/// A queue that gets messages, and all else, in their order.
async fn scene() -> Scene {
    let scene = Scene::new().await;
    scene.vhost.declare_exchange("shop.messages", "topic").await;
    scene.vhost.bind("all", "shop.messages", "#").await;
    scene
}

/// Writes a message; gives its LSN, as PostgreSQL returns it.
async fn emit(scene: &Scene, transactional: bool, prefix: &str, content: &[u8]) -> String {
    let sql = "SELECT pg_logical_emit_message($1, $2, $3::bytea)::text";
    let row = scene.database.client().await.query_one(sql, &[&transactional, &prefix, &content]).await;
    row.expect("emits").get(0)
}

/// A message outside of transactions is flushed by whoever commits next.
async fn row(scene: &Scene) {
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
}

fn content(event: &Value) -> Vec<u8> {
    let text = event["content"].as_str().expect("content");
    base64::engine::general_purpose::STANDARD.decode(text).expect("Base64")
}

#[tokio::test]
async fn those_that_are_selected_are_events_with_every_byte_of_their_content() {
    let scene = scene().await;
    let _pgsluice = scene.run_with(PREFIXES).await;
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let long = format!("app.{}", "ü".repeat(125));
    let (inside, outside) = (emit(&scene, true, "app.a", &bytes).await, emit(&scene, false, "app.b", b"").await);
    emit(&scene, true, "other", b"x").await;
    emit(&scene, false, "my app.", b"x").await;
    emit(&scene, true, &long, b"x").await;
    let deliveries = scene.vhost.consume("all", 3, SOON).await;

    let [first, second, third] = deliveries.as_slice() else { panic!("three") };
    let (one, two) = (first.json(), second.json());
    assert_eq!(content(&one), bytes);
    let position = format!("{}:{}", one["commit_lsn"].as_str().expect("commit_lsn"), one["ordinal"]);
    let expected = json!({"op": "message", "prefix": "app.a", "transactional": true, "lsn": inside});
    for (field, value) in expected.as_object().expect("an object") {
        assert_eq!(&one[field], value);
    }
    assert_eq!(
        (first.message_id.as_str(), &one["id"]),
        (&*format!("shop:{position}"), &json!(format!("shop:{position}")))
    );
    assert_eq!((&first.headers["position"], &one["ordinal"]), (&json!(position), &json!(0)));
    assert_eq!(
        two,
        json!({"id": format!("shop:{outside}:message"), "op": "message", "prefix": "app.b", "transactional": false,
               "lsn": outside, "commit_lsn": null, "ordinal": null, "xid": null, "committed_at": null, "content": ""})
    );
    assert_eq!((&second.message_id, second.properties.timestamp()), (&format!("shop:{outside}:message"), &None));
    assert!(second.headers.is_empty(), "{:?}", second.headers);
    for (delivery, prefix) in [(first, "app.a"), (second, "app.b"), (third, long.as_str())] {
        assert_eq!((delivery.exchange.as_str(), delivery.routing_key.as_str()), ("shop.messages", prefix));
        assert_eq!(delivery.event_type, prefix);
        assert_eq!(delivery.properties.delivery_mode(), &Some(2), "persistent");
    }
    scene.acknowledged().await;
    assert_eq!(scene.vhost.depth("all").await, 0);
}

/// A prefix may be longer than a property; the routing key must be something else then.
#[tokio::test]
async fn a_prefix_that_no_property_holds_is_cut_in_the_type_and_refused_as_routing_key() {
    let scene = scene().await;
    let more = format!("{PREFIXES}exchange = \"shop.{{prefix}}\"\nrouting_key = \"fixed\"\n").replace("app.*", "*");
    let mut pgsluice = scene.run_with(&more).await;
    let prefix = format!("x{}", "ü".repeat(200));
    emit(&scene, true, "messages", b"").await;
    let delivery = scene.vhost.consume("all", 1, SOON).await.remove(0);
    assert_eq!((delivery.exchange.as_str(), delivery.routing_key.as_str()), ("shop.messages", "fixed"));
    pgsluice.terminate();
    assert_eq!(pgsluice.wait(SOON).await.0, Some(0));

    emit(&scene, true, &prefix, b"").await;
    let mut pgsluice = scene.run_with("[messages]\nprefixes = [\"*\"]\nrouting_key = \"fixed\"\n").await;
    let delivery = scene.vhost.consume("all", 1, SOON).await.remove(0);
    assert_eq!(delivery.event_type, format!("x{}", "ü".repeat(127)));
    assert_eq!(delivery.json()["prefix"], prefix);
    pgsluice.terminate();
    assert_eq!(pgsluice.wait(SOON).await.0, Some(0));

    let lsn = emit(&scene, false, &prefix, b"").await;
    let mut pgsluice = scene.run_with("poison.policy = \"stop\"\n[messages]\nprefixes = [\"*\"]\n").await;
    row(&scene).await;
    let (code, log) = pgsluice.wait(SOON).await;
    assert!(code == Some(8) && log.contains(&format!("can't publish the message {prefix} at {lsn}")), "{code:?} {log}");
}

/// The order of the WAL: a message inside is where it was written, if its transaction commits; one outside comes before
/// everything that commits after it.
#[tokio::test]
async fn they_come_in_their_order_among_the_changes() {
    let scene = scene().await;
    let _pgsluice = scene.run_with(PREFIXES).await;
    let sql = "BEGIN; INSERT INTO ledger VALUES (1); SELECT pg_logical_emit_message(true, 'app.in', '1');
        SELECT pg_logical_emit_message(false, 'app.out', '2'); SAVEPOINT s; SELECT pg_logical_emit_message(true, 'app.lost', '3');
        SELECT pg_logical_emit_message(false, 'app.out', '4'); ROLLBACK TO s; INSERT INTO ledger VALUES (2);
        SELECT pg_logical_emit_message(true, 'other', '5'); INSERT INTO ledger VALUES (3); COMMIT;
        BEGIN; INSERT INTO ledger VALUES (4); SELECT pg_logical_emit_message(true, 'app.lost', '6');
        SELECT pg_logical_emit_message(false, 'app.out', '7'); ROLLBACK; SELECT pg_logical_emit_message(false, 'app.out', '8');
        INSERT INTO ledger VALUES (5)";
    let client = scene.database.client().await;
    for sql in sql.split(';') {
        client.batch_execute(sql).await.expect(sql);
    }
    let deliveries = scene.vhost.consume("all", 9, SOON).await;
    let told = |delivery: &Delivery| {
        let event = delivery.json();
        match event["op"].as_str() {
            Some("message") => {
                json!([event["prefix"], event["ordinal"], String::from_utf8(content(&event)).expect("text")])
            }
            _ => json!(["ledger", event["ordinal"], event["after"]["id"]]),
        }
    };
    let expected = json!([
        ["app.out", null, "2"],
        ["app.out", null, "4"],
        ["ledger", 0, 1],
        ["app.in", 1, "1"],
        ["ledger", 2, 2],
        ["ledger", 4, 3],
        ["app.out", null, "7"],
        ["app.out", null, "8"],
        ["ledger", 0, 5]
    ]);
    assert_eq!(json!(deliveries.iter().map(told).collect::<Vec<_>>()), expected);
    scene.acknowledged().await;
    assert_eq!(scene.vhost.depth("all").await, 0);
}

async fn unbind(scene: &Scene, exchange: &str) {
    let options = FieldTable::default();
    let done = scene.vhost.channel().await.queue_unbind("all".into(), exchange.into(), "#".into(), options).await;
    done.expect("unbinds");
}

async fn confirmed_flush(scene: &Scene) -> ::pgsluice::lsn::Lsn {
    let sql = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = current_database()";
    scene.database.query_one(sql).await.parse().expect("an LSN")
}

/// As long as one outside of transactions is not confirmed, nothing behind it is done with; killed, it comes again.
#[tokio::test]
async fn one_outside_of_transactions_that_is_not_confirmed_comes_again_after_a_kill() {
    let scene = scene().await;
    let path = crate::support::folder("kill").join("pgsluice.toml");
    std::fs::write(&path, scene.config(PREFIXES)).expect("write the configuration");
    let often = [("PGSLUICE__SOURCE__REPORT_EVERY_MS", "200"), ("PGSLUICE__CHECKPOINT__INTERVAL_MS", "10")];
    let mut pgsluice = pgsluice_command(&["run", "--config", path.to_str().expect("text")], &often);
    pgsluice.wait_for_log("streaming from PostgreSQL", SOON).await;
    row(&scene).await;
    scene.vhost.consume("all", 1, SOON).await;
    scene.acknowledged().await;
    unbind(&scene, "shop.messages").await;
    let before = emit(&scene, false, "app.first", b"1").await;
    row(&scene).await;
    let second = emit(&scene, false, "app.second", b"2").await;
    row(&scene).await;
    pgsluice.wait_for_log("no queue takes event", SOON).await;
    let lsn = |text: &str| text.parse::<::pgsluice::lsn::Lsn>().expect("an LSN");
    let now = scene.database.query_one("SELECT clock_timestamp()").await;
    let sql = format!(
        "SELECT reply_time > '{now}'::timestamptz + interval '1s' FROM pg_replication_slots s
        JOIN pg_stat_replication r ON r.pid = s.active_pid WHERE slot_name = current_database()"
    );
    eventually("there was time to store and to report", SOON, async || {
        (scene.database.query_one(&sql).await == "t").then_some(())
    })
    .await;
    let checkpoint = read(&scene.checkpoint()).expect("is whole").expect("is there");
    assert!(checkpoint.flushed < lsn(&before), "{} is before {before}", checkpoint.flushed);
    for _ in 0..2 {
        pgsluice.restart();
        pgsluice.wait_for_log(&format!("no queue takes event shop:{before}:message"), SOON).await;
        assert!(confirmed_flush(&scene).await < lsn(&before));
    }
    scene.vhost.bind("all", "shop.messages", "#").await;
    scene.acknowledged().await;
    let depth = scene.vhost.depth("all").await as usize;
    let ids: Vec<_> = scene.vhost.consume("all", depth, SOON).await.into_iter().map(|one| one.message_id).collect();
    let last = |id: &str| ids.iter().rposition(|other| other == id).unwrap_or_else(|| panic!("{id} in {ids:?}"));
    let [first, second] = [&before, &second].map(|lsn| last(&format!("shop:{lsn}:message")));
    assert!(first < second && second == ids.len() - 2, "the last deliveries are in order: {ids:?}");
    // All of it is settled: the next start repeats nothing.
    pgsluice.restart();
    row(&scene).await;
    let next = scene.vhost.consume("all", 1, SOON).await.remove(0);
    assert_eq!(next.json()["after"]["id"], 4);
    scene.acknowledged().await;
    assert_eq!(scene.vhost.depth("all").await, 0);
}

/// The message moves the checkpoint by itself: a restart right behind it does not repeat it.
#[tokio::test]
async fn one_outside_of_transactions_that_is_confirmed_is_not_repeated() {
    let scene = scene().await;
    let mut pgsluice = scene.run_with(PREFIXES).await;
    for number in 0..5 {
        let lsn = emit(&scene, false, "app.x", b"x").await;
        row(&scene).await;
        let ids: Vec<_> = scene.vhost.consume("all", 2, SOON).await.into_iter().map(|one| one.message_id).collect();
        assert_eq!(ids[0], format!("shop:{lsn}:message"), "{number}");
        scene.acknowledged().await;
        if number % 2 == 0 {
            pgsluice.restart();
        } else {
            let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = current_database()";
            eventually("the stream is cut", SOON, async || {
                let done = scene.database.client().await.query_one(end, &[]).await;
                done.is_ok_and(|row| row.get::<_, Option<bool>>(0) == Some(true)).then_some(())
            })
            .await;
        }
    }
    row(&scene).await;
    scene.vhost.consume("all", 1, SOON).await;
    scene.acknowledged().await;
    assert_eq!(scene.vhost.depth("all").await, 0);
}

/// It is in the window when the stream breaks, and is not taken in a second time.
#[tokio::test]
async fn a_stream_that_breaks_while_messages_are_in_flight_repeats_nothing() {
    let scene = scene().await;
    let pgsluice = scene.run_with(PREFIXES).await;
    row(&scene).await;
    scene.vhost.consume("all", 1, SOON).await;
    unbind(&scene, "shop.messages").await;
    emit(&scene, false, "app.1", b"").await;
    emit(&scene, false, "app.2", b"").await;
    // A big transaction that the stream breaks in, with messages outside of it before its commit.
    scene
        .database
        .execute("SELECT pg_logical_emit_message(false, 'app.3', ''); INSERT INTO ledger SELECT FROM generate_series(1, 5000);
                  SELECT pg_logical_emit_message(false, 'app.4', '')")
        .await;
    pgsluice.wait_for_log("no queue takes event", SOON).await;
    let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = current_database()";
    assert_eq!(scene.database.query_one(end).await, "t");
    pgsluice.wait_for_log("PostgreSQL is away", SOON).await;
    let again = "SELECT active FROM pg_replication_slots WHERE slot_name = current_database()";
    eventually("it streams again", SOON, async || (scene.database.query_one(again).await == "t").then_some(())).await;
    scene.vhost.bind("all", "shop.messages", "#").await;
    scene.acknowledged().await;
    let depth = scene.vhost.depth("all").await as usize;
    let all = scene.vhost.consume("all", depth, SOON).await;
    let kinds: Vec<_> = all.iter().map(|one| one.event_type.as_str()).filter(|kind| kind.starts_with("app.")).collect();
    assert_eq!(kinds, ["app.1", "app.2", "app.3", "app.4"]);
    let rows: std::collections::BTreeSet<_> = all.iter().map(|one| &one.message_id).collect();
    assert_eq!(rows.len(), 4 + 5000);
    assert!(!pgsluice.stderr().contains("can't be stored"), "{}", pgsluice.stderr());
}

async fn replay(scene: &Scene, arguments: &[&str], more: &str) -> (Option<i32>, String) {
    let path = crate::support::folder("messages").join("pgsluice.toml");
    std::fs::write(&path, scene.config(more)).expect("write the configuration");
    let mut all = vec!["replay", "--config", path.to_str().expect("text")];
    all.extend(arguments);
    let mut process: Process = pgsluice_command(&all, &[]);
    let (code, log) = process.wait(Duration::from_mins(1)).await;
    (code, log + &process.stdout())
}

#[tokio::test]
async fn they_are_replayed_with_their_bytes_and_names() {
    let scene = scene().await;
    let more = format!("{PREFIXES}[replay]\nretain_ms = 86400000\n");
    let _pgsluice = scene.run_with(&more).await;
    let from = scene.database.query_one("SELECT pg_current_wal_flush_lsn()").await;
    emit(&scene, false, "app.0", b"0").await;
    emit(&scene, false, "app.1", b"1").await;
    row(&scene).await;
    emit(&scene, true, "app.2", b"2").await;
    emit(&scene, false, "app.3", b"3").await;
    row(&scene).await;
    let first = scene.vhost.consume("all", 6, SOON).await;

    let (code, log) = replay(&scene, &["--from", &from, "--dry-run"], &more).await;
    assert!(code == Some(0) && log.contains("message app.1\t") && log.contains("6 events of 3 transactions"), "{log}");
    let (code, log) = replay(&scene, &["--from", &from], &more).await;
    assert!(code == Some(0) && log.contains("6 events of 3 transactions published, 6 confirmed"), "{log}");
    let again = scene.vhost.consume("all", 6, SOON).await;
    for (first, again) in first.iter().zip(&again) {
        assert_eq!((&first.message_id, &first.body), (&again.message_id, &again.body));
        assert!(again.headers.contains_key("replayed_at_us"));
    }
    // Up to a message's LSN, which leaves out the next one; and of a table alone.
    let to = first[0].json()["lsn"].as_str().expect("an LSN").to_owned();
    let (code, log) = replay(&scene, &["--from", &from, "--to", &to], &more).await;
    assert!(code == Some(0) && log.contains("1 events of 0 transactions published, 1 confirmed"), "{log}");
    assert_eq!(scene.vhost.consume("all", 1, SOON).await[0].message_id, first[0].message_id);
    let (code, log) = replay(&scene, &["--from", &from, "--table", "public.ledger"], &more).await;
    assert!(code == Some(0) && log.contains("2 events of 2 transactions published"), "{log}");
    let rows = scene.vhost.consume("all", 2, SOON).await;
    assert_eq!([&rows[0].message_id, &rows[1].message_id], [&first[2].message_id, &first[5].message_id]);
    assert_eq!(scene.vhost.depth("all").await, 0);
}

/// Messages need no table.
#[tokio::test]
async fn a_pipeline_may_have_messages_alone() {
    let scene = scene().await;
    let delete = ExchangeDeleteOptions::default();
    scene.vhost.channel().await.exchange_delete("shop.messages".into(), delete).await.expect("delete");
    let config = scene.config(PREFIXES);
    let tables = "tables = [\"public.orders\", \"public.ledger\"]\n";
    assert!(config.contains(tables));
    let config = config.replace(tables, "").replace("[outbox]\ntable = \"public.outbox\"\n", "");
    let process = crate::support::pgsluice(&config);
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    scene.vhost.bind("all", "shop.messages", "#").await;
    let lsn = emit(&scene, true, "app.alone", b"x").await;
    row(&scene).await;
    assert_eq!(scene.vhost.consume("all", 1, SOON).await[0].json()["lsn"], lsn);
    scene.acknowledged().await;
    assert_eq!(scene.vhost.depth("all").await, 0);
}

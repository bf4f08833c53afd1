//! `pgsluice replay`: events come again as they were at first, beside the pgsluice that runs, which does not notice.

mod formats;
mod limits;
mod retention;
mod table;
mod trouble;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::{
    Delivery, PostgresServer, Process, SOON, Scene, done, eventually, folder, pgsluice, pgsluice_command, rabbitmq,
    refused,
};

/// What every event is kept by.
const A_DAY: &str = "[replay]\nretain_ms = 86400000\n";

/// `pgsluice replay` with the scene's configuration and `more` of it.
fn replay_with(scene: &Scene, more: &str, arguments: &[&str]) -> Process {
    start(scene, more, arguments, &[])
}

fn start(scene: &Scene, more: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Process {
    let file = folder("replay").join("pgsluice.toml");
    std::fs::write(&file, scene.config(more)).expect("write the configuration");
    let mut all = vec!["replay", "--config", file.to_str().expect("text")];
    all.extend(arguments);
    pgsluice_command(&all, environment)
}

fn replay(scene: &Scene, arguments: &[&str]) -> Process {
    replay_with(scene, "", arguments)
}

async fn now(scene: &Scene) -> String {
    scene.database.query_one("SELECT pg_current_wal_flush_lsn()").await
}

/// A column of the slot that the running pgsluice reads from.
async fn slot(scene: &Scene, column: &str) -> String {
    let sql = format!("SELECT {column} FROM pg_replication_slots WHERE slot_name = current_database()");
    scene.database.query_one(&sql).await
}

/// Waits until the server has no slot but the one that runs.
async fn no_slot_is_left(scene: &Scene) {
    let sql = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND slot_name <> database";
    eventually("the copy is gone", SOON, async || (scene.database.query_one(sql).await == "0").then_some(())).await;
}

fn headers(delivery: &Delivery) -> BTreeMap<String, Value> {
    let mut headers = delivery.headers.clone();
    headers.remove("replayed_at_us");
    headers
}

/// Everything but the header that says so.
fn assert_same(first: &[Delivery], again: &[Delivery]) {
    for (first, again) in first.iter().zip(again) {
        assert_eq!(first.headers.get("replayed_at_us"), None);
        let replayed_at_us = again.headers["replayed_at_us"].as_i64().expect("a header");
        assert!(replayed_at_us >= first.headers["committed_at_us"].as_i64().expect("a header"));
        assert_eq!(headers(first), headers(again));
        let properties =
            |delivery: &Delivery| delivery.properties.clone().with_headers(lapin::types::FieldTable::default());
        assert_eq!(properties(first), properties(again));
        assert_eq!((&first.exchange, &first.routing_key), (&again.exchange, &again.routing_key));
        assert_eq!(first.body, again.body);
    }
    assert_eq!(first.len(), again.len());
}

/// All kinds of changes, and of values that are hard to write down.
const ALL_KINDS: &str = r#"
    BEGIN;
    INSERT INTO orders VALUES (7, E'Zoë "Z" \\ Ålund\n\t', 19.90, 'new'), (8, '', 'NaN', 'new');
    INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
        VALUES ('Order', '7', 'OrderPlaced', '{"a":   "größe \u0001", "n": 1.00}'), ('Order', '', '', NULL);
    UPDATE orders SET status = 'paid' WHERE id = 7;
    COMMIT;
    INSERT INTO ledger (filler) SELECT repeat(md5(n::text), 100) FROM generate_series(1, 20) n;
    UPDATE orders SET id = 9 WHERE id = 8;
    DELETE FROM orders;
    TRUNCATE orders;"#;
const EVENTS: usize = 4 + 1 + 20 + 1 + 2 + 1;

#[tokio::test]
async fn events_come_again_byte_for_byte_and_the_running_pgsluice_does_not_notice() {
    let scene = Scene::new().await;
    let running = scene.run_with(A_DAY).await;
    let from = now(&scene).await;
    for statement in [ALL_KINDS, ALL_KINDS] {
        scene.database.client().await.batch_execute(statement).await.expect("all kinds");
    }
    let first = scene.vhost.consume("all", 2 * EVENTS, SOON).await;
    let before = [slot(&scene, "active_pid").await, slot(&scene, "confirmed_flush_lsn").await];

    let text = done(replay(&scene, &["--from", &from])).await;
    assert!(
        text.contains(&format!("{} events of ", 2 * EVENTS)) && text.contains(&format!("{} confirmed", 2 * EVENTS))
    );
    let again = scene.vhost.consume("all", 2 * EVENTS, SOON).await;
    assert_same(&first, &again);

    let after = [slot(&scene, "active_pid").await, slot(&scene, "confirmed_flush_lsn").await];
    assert_eq!(before, after, "one stream, and nothing acknowledged for another");
    no_slot_is_left(&scene).await;
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    let next = scene.vhost.consume("all", 1, SOON).await;
    assert_eq!((next[0].json()["op"].as_str(), next[0].headers.get("replayed_at_us")), (Some("insert"), None));
    assert_eq!(scene.vhost.depth("all").await, 0);
    assert!(!running.stderr().contains("WARN"), "{}", running.stderr());
}

/// The slot lets go of the past while that is being replayed, and the copy does not.
#[tokio::test]
async fn what_was_copied_stays_although_the_slot_moves_on() {
    // Of its own, because the WAL is the whole server's.
    let postgres = PostgresServer::private(&[]);
    let scene = Scene::on(&postgres, rabbitmq()).await;
    let _running = scene.run_with("[replay]\nretain_bytes = 4194304\n").await;
    let from = now(&scene).await;
    scene.database.execute("INSERT INTO ledger SELECT FROM generate_series(1, 50)").await;
    let first = scene.vhost.consume("all", 50, SOON).await;
    let process = replay_with(&scene, "", &["--from", &from, "--exchange", "later"]);
    process.wait_for_log("no queue takes event", SOON).await;
    let mut ids = 51_u64..;
    eventually("the slot is past what is being replayed", SOON, async || {
        let insert = "INSERT INTO ledger (filler) SELECT repeat('x', 1000) FROM generate_series(1, 1000)";
        scene.database.execute(insert).await;
        for delivery in scene.vhost.consume("all", 1000, SOON).await {
            assert_eq!(delivery.json()["after"]["id"].as_u64(), ids.next());
        }
        let sql = format!("confirmed_flush_lsn > '{}'", first[49].json()["commit_lsn"].as_str().expect("commit_lsn"));
        (slot(&scene, &sql).await == "t").then_some(())
    })
    .await;
    let refusal = refused(replay(&scene, &["--from", &from]), 2).await;
    assert!(refusal.contains(&format!("{from} is no longer retained")), "{refusal}");
    scene.vhost.queue("copy", &[]).await;
    scene.vhost.bind("copy", "later", "#").await;
    done(process).await;
    let again = scene.vhost.consume("copy", 50, SOON).await;
    for (first, again) in first.iter().zip(&again) {
        assert_eq!((&first.message_id, &first.body), (&again.message_id, &again.body));
    }
    assert_eq!([scene.vhost.depth("copy").await, scene.vhost.depth("all").await], [0, 0]);
}

/// The table is described as it was when the row was written, not as it is now.
#[tokio::test]
async fn an_event_fits_the_table_as_it_was() {
    let scene = Scene::new().await;
    let _running = scene.run_with(A_DAY).await;
    let from = now(&scene).await;
    let statements = [
        "INSERT INTO ledger (filler) VALUES ('before')",
        "ALTER TABLE ledger RENAME filler TO note",
        "ALTER TABLE ledger ADD extra int DEFAULT 3",
        "INSERT INTO ledger (note) VALUES ('after')",
        "ALTER TABLE ledger DROP note",
        "INSERT INTO ledger DEFAULT VALUES",
    ];
    for statement in statements {
        scene.database.execute(statement).await;
    }
    let first = scene.vhost.consume("all", 3, SOON).await;
    done(replay(&scene, &["--from", &from])).await;
    let again = scene.vhost.consume("all", 3, SOON).await;
    assert_same(&first, &again);
    let after: Vec<_> = again.iter().map(|delivery| delivery.json()["after"].to_string()).collect();
    assert_eq!(
        after,
        [r#"{"filler":"before","id":1}"#, r#"{"extra":3,"id":2,"note":"after"}"#, r#"{"extra":3,"id":3}"#]
    );
}

#[tokio::test]
async fn an_exchange_and_a_routing_key_of_ones_own() {
    let scene = Scene::new().await;
    let _running = scene.run_with(A_DAY).await;
    let from = now(&scene).await;
    scene.database.client().await.batch_execute(ALL_KINDS).await.expect("all kinds");
    let first = scene.vhost.consume("all", EVENTS, SOON).await;
    scene.vhost.declare_exchange("repair.{events}", "topic").await;
    scene.vhost.queue("repair", &[]).await;
    scene.vhost.bind("repair", "repair.{events}", "only.{this}").await;
    let arguments = ["--from", &from, "--exchange", "repair.{events}", "--routing-key", "only.{this}"];
    done(replay(&scene, &arguments)).await;
    let again = scene.vhost.consume("repair", EVENTS, SOON).await;
    for (first, again) in first.iter().zip(&again) {
        assert_eq!((again.exchange.as_str(), again.routing_key.as_str()), ("repair.{events}", "only.{this}"));
        assert_eq!((&first.message_id, headers(first), &first.body), (&again.message_id, headers(again), &again.body));
    }
    assert_eq!([scene.vhost.depth("repair").await, scene.vhost.depth("all").await], [0, 0]);
    // It is declared as the configured ones are.
    let process = replay(&scene, &["--from", &from, "--exchange", "brand.new", "--table", "public.ledger"]);
    process.wait_for_log("no queue takes event", SOON).await;
    scene.vhost.bind("repair", "brand.new", "public.ledger.*").await;
    done(process).await;
    assert_eq!(scene.vhost.depth("repair").await, 20);
}

#[tokio::test]
async fn a_dry_run_publishes_nothing_and_prints_every_event() {
    let scene = Scene::new().await;
    let _running = scene.run_with(A_DAY).await;
    let from = now(&scene).await;
    scene.database.client().await.batch_execute(ALL_KINDS).await.expect("all kinds");
    let first = scene.vhost.consume("all", EVENTS, SOON).await;
    // No broker is asked.
    let nobody = [("PGSLUICE__RABBITMQ__URL", "amqp://127.0.0.1:1")];
    let text = done(start(&scene, "", &["--from", &from, "--dry-run"], &nobody)).await;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), EVENTS + 1, "{text}");
    for (line, delivery) in lines.iter().zip(&first) {
        let fields: Vec<_> = line.split('\t').collect();
        let [position, at, change, id, exchange, key, bytes] = fields[..] else { panic!("{line}") };
        assert_eq!(delivery.headers["position"], position);
        let at_us = ::pgsluice::encode::time::parse_rfc3339(at).expect("a time") + 946_684_800_000_000;
        assert_eq!(delivery.headers["committed_at_us"], at_us);
        let table = if exchange == "shop.events" {
            "insert of public.outbox".to_owned()
        } else {
            let event = delivery.json();
            format!("{} of public.{}", event["op"].as_str().expect("op"), event["table"].as_str().expect("table"))
        };
        assert_eq!(change, table);
        assert_eq!((id, exchange, key), (&*delivery.message_id, &*delivery.exchange, &*delivery.routing_key));
        assert_eq!(bytes, delivery.body.len().to_string());
    }
    assert!(lines[EVENTS].contains(&format!("{EVENTS} events of 2 transactions would be published")), "{text}");
    assert_eq!(scene.vhost.depth("all").await, 0);
}

/// Where a pgsluice that is stopped has left off, nobody need be running.
#[tokio::test]
async fn a_replay_needs_no_running_pgsluice_and_takes_names() {
    let scene = Scene::new().await;
    let mut running = scene.run_with(A_DAY).await;
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    scene.vhost.consume("all", 1, SOON).await;
    let lsn = now(&scene).await;
    let config = running.config_path();
    eventually("the checkpoint has come", SOON, async || {
        let stored = ::pgsluice::checkpoint::file::read(&scene.checkpoint()).expect("reads")?;
        (stored.flushed >= lsn.parse().expect("an LSN")).then_some(())
    })
    .await;
    let name = pgsluice_command(&["checkpoint", "name", "--config", config.to_str().expect("text"), "before-7"], &[]);
    done(name).await;
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    let first = scene.vhost.consume("all", 1, SOON).await;
    running.terminate();
    assert_eq!(running.wait(SOON).await.0, Some(0));
    done(replay(&scene, &["--from", "before-7"])).await;
    assert_same(&first, &scene.vhost.consume("all", 1, SOON).await);
    assert_eq!(scene.vhost.depth("all").await, 0);
    let unknown = refused(replay(&scene, &["--from", "before-8"]), 2).await;
    assert!(unknown.contains("before-8") && unknown.contains("before-7"), "{unknown}");
    let _again = pgsluice(&scene.config(A_DAY));
}

//! The outbox table as an event store: its rows are sent once more, as they were at first.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{done, refused, replay, replay_with};
use crate::support::{Delivery, RabbitServer, SOON, Scene, eventually, postgres};

/// What a row does not know.
fn known(delivery: &Delivery) -> (BTreeMap<String, Value>, lapin::BasicProperties) {
    let mut headers = delivery.headers.clone();
    let unknown = ["position", "committed_at_us", "replayed_at_us"];
    for unknown in unknown.into_iter().chain(["transaction_id", "transaction_number", "transaction_last"]) {
        headers.remove(unknown);
    }
    let p = &delivery.properties;
    let mut properties = lapin::BasicProperties::default();
    // All but headers and timestamp.
    if let Some(value) = p.content_type() {
        properties = properties.with_content_type(value.clone());
    }
    if let Some(value) = p.delivery_mode() {
        properties = properties.with_delivery_mode(*value);
    }
    if let Some(value) = p.message_id() {
        properties = properties.with_message_id(value.clone());
    }
    if let Some(value) = p.kind() {
        properties = properties.with_type(value.clone());
    }
    if let Some(value) = p.app_id() {
        properties = properties.with_app_id(value.clone());
    }
    (headers, properties)
}

fn assert_same(first: &[Delivery], again: &[Delivery]) {
    for (first, again) in first.iter().zip(again) {
        assert_eq!(known(first), known(again));
        assert!(again.headers["replayed_at_us"].is_i64() && !again.headers.contains_key("position"), "{again:?}");
        assert!(!again.headers.contains_key("committed_at_us") && again.properties.timestamp().is_none(), "{again:?}");
        assert_eq!((&first.exchange, &first.routing_key), (&again.exchange, &again.routing_key));
        assert_eq!(first.body, again.body);
    }
    assert_eq!(first.len(), again.len());
}

/// As `json`, `jsonb` or text.
const PAYLOADS: [&str; 3] = [r#"'{"a":   "größe \u00ff\n\\", "n": 1.00}'"#, r#"'"\\N"'"#, "'[]'"];
const BYTES: [&str; 3] = [r"'\x00ff5c0a094e'", "''", r"'\x5c4e'"];

/// Ids that rise, and values that are hard to write down, with a time and a column that is generated.
fn rows([first, second, third]: [&str; 3]) -> String {
    let id = "00000000-0000-7000-8000-00000000000";
    format!(
        r#"INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, created_at) VALUES
            ('{id}1', 'Order', '1', 'Placed', {first}, '2026-01-01Z'),
            ('{id}2', 'Order', E'\t\\N\n''"', 'Paid', NULL, '2026-01-02Z'),
            ('{id}3', '', '', '', {second}, '2026-01-02Z'),
            ('{id}4', 'Zoë', '4', E'tab\there', {third}, '2026-01-03Z');"#
    )
}

async fn scene() -> Scene {
    let scene = Scene::new().await;
    let alter = "ALTER TABLE outbox ADD created_at timestamptz,
                 ADD shout text GENERATED ALWAYS AS (upper(type)) STORED, ADD gone int; ALTER TABLE outbox DROP gone";
    scene.database.execute(alter).await;
    scene
}

/// Without `PostgreSQL`'s WAL: nothing is retained, and nobody runs.
#[tokio::test]
async fn rows_come_again_as_they_were_published_from_wal() {
    for payload in ["jsonb", "json", "text", "bytea"] {
        let scene = scene().await;
        let retype = match payload {
            "bytea" => "ALTER TABLE outbox ALTER payload TYPE bytea USING convert_to(payload::text, 'UTF8')".to_owned(),
            other => format!("ALTER TABLE outbox ALTER payload TYPE {other}"),
        };
        scene.database.execute(&retype).await;
        let mut running = scene.run().await;
        scene.database.execute(&rows(if payload == "bytea" { BYTES } else { PAYLOADS })).await;
        let first = scene.vhost.consume("all", 4, SOON).await;
        running.kill();
        let text = done(replay(&scene, &["--from-table"])).await;
        assert!(text.contains("public.outbox: 4 events of 4 transactions published, 4 confirmed"), "{text}");
        assert_same(&first, &scene.vhost.consume("all", 4, SOON).await);
        assert_eq!(scene.vhost.depth("all").await, 0);
    }
}

#[tokio::test]
async fn rows_are_chosen_and_ordered_by_id_or_by_another_column() {
    let scene = scene().await;
    scene.database.execute(&rows(PAYLOADS)).await;
    let id = |number: usize| format!("00000000-0000-7000-8000-00000000000{number}");
    scene.database.execute(&format!("UPDATE outbox SET created_at = '2025-01-01Z' WHERE id = '{}'", id(4))).await;
    scene.vhost.declare_exchange("shop.events", "topic").await;
    for (arguments, expected) in [
        (&["--from", &id(2)][..], &[2, 3, 4][..]),
        (&["--from", &id(2), "--to", &id(3)], &[2, 3]),
        (&["--order-by", "created_at"], &[4, 1, 2, 3]),
        (&["--order-by", "created_at", "--from", "2026-01-02 00:00Z"], &[2, 3]),
        (&["--order-by", "created_at", "--to", "2026-01-01T01:00:00+01:00"], &[4, 1]),
        (&["--to", "00000000-0000-7000-8000-000000000000"], &[]),
        (&["--exchange", "shop.changes", "--routing-key", "k"], &[1, 2, 3, 4]),
    ] {
        let mut all = vec!["--from-table"];
        all.extend(arguments);
        done(replay(&scene, &all)).await;
        let again = scene.vhost.consume("all", expected.len(), SOON).await;
        let ids: Vec<_> = again.iter().map(|delivery| delivery.message_id.clone()).collect();
        assert_eq!(ids, expected.iter().map(|number| id(*number)).collect::<Vec<_>>(), "{arguments:?}");
        assert_eq!(scene.vhost.depth("all").await, 0);
    }
    let text = done(replay(&scene, &["--from-table", "--dry-run", "--to", &id(1)])).await;
    let line = format!("-\t-\tinsert of public.outbox\t{}\tshop.events\tOrder.Placed\t", id(1));
    assert!(text.starts_with(&line) && text.contains("1 events of 1 transactions would be published"), "{text}");
    for (arguments, says) in [
        (&["--order-by", "written_at"][..], "has no column \"written_at\""),
        (&["--from", "it's \\' no uuid"], "it's \\' no uuid"),
    ] {
        let mut all = vec!["--from-table"];
        all.extend(arguments);
        let message = refused(replay(&scene, &all), 3).await;
        assert!(message.contains(says), "{message}");
    }
    assert_eq!(scene.vhost.depth("all").await, 0);
}

/// In the middle, by the broker's death and a signal: what was confirmed is named, and the rest follows from there.
#[tokio::test]
async fn an_early_end_says_up_to_which_row_all_was_confirmed() {
    const COUNT: usize = 5_000;
    let rabbitmq = RabbitServer::private(&[]);
    let scene = Scene::on(postgres(), &rabbitmq).await;
    scene.database.execute("ALTER TABLE outbox ALTER id DROP DEFAULT, ALTER id TYPE bigint USING 0").await;
    let insert = format!(
        "INSERT INTO outbox SELECT n, 'Order', n, 'Placed', to_jsonb(repeat('x', 500)) FROM generate_series(1, {COUNT}) n"
    );
    scene.database.execute(&insert).await;
    let mut process = replay_with(&scene, "in_flight_events = 10\n", &["--from-table"]);
    eventually("some rows have come", SOON, async || (scene.vhost.depth("all").await > 100).then_some(())).await;
    rabbitmq.kill();
    process.wait_for_log("not connected to RabbitMQ", SOON).await;
    rabbitmq.start();
    eventually("it goes on", SOON, async || (scene.vhost.depth("all").await > 500).then_some(())).await;
    process.terminate();
    let (code, log) = process.wait(SOON).await;
    assert_eq!(code, Some(0), "{log}");
    let text = process.stdout();
    let (_, last) = text.trim().rsplit_once("to go on: --from '").expect("where it ended");
    let last: usize = last.trim_end_matches('\'').parse().expect("an id");
    assert!((100..COUNT).contains(&last), "{text}");
    let depth = scene.vhost.depth("all").await as usize;
    let came = scene.vhost.consume("all", depth, SOON).await;
    let id = |delivery: &Delivery| delivery.message_id.parse::<usize>().expect("an id");
    // The end of a transaction may not have been read when its event was confirmed.
    assert!((last..=last + 1).contains(&id(&came[came.len() - 1])));
    assert!((1..=last).all(|row| came.iter().any(|delivery| id(delivery) == row)));

    done(replay(&scene, &["--from-table", "--from", &last.to_string()])).await;
    let rest = scene.vhost.consume("all", COUNT - last + 1, SOON).await;
    assert!(rest.iter().map(id).eq(last..=COUNT));
}

/// Half of the rows must not look like all of them.
#[tokio::test]
async fn a_reading_that_the_server_ends_is_not_its_end() {
    const COUNT: usize = 3_000;
    let scene = Scene::new().await;
    // More than the sockets hold.
    let insert = format!(
        "ALTER TABLE outbox ALTER id DROP DEFAULT, ALTER id TYPE bigint USING 0;
         INSERT INTO outbox SELECT n, 'Order', n, 'Placed', to_jsonb(repeat('x', 20000)) FROM generate_series(1, {COUNT}) n"
    );
    scene.database.execute(&insert).await;
    let mut process = replay_with(&scene, "in_flight_events = 10\n", &["--from-table", "--exchange", "nobody.listens"]);
    process.wait_for_log("no queue takes event", SOON).await;
    // Once the sockets are full: before that, nothing that was confirmed may come before the end.
    let end = "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE query LIKE 'COPY%' AND wait_event = 'ClientWrite' AND datname = current_database()";
    let ended = async || (scene.database.query_one(end).await == "1").then_some(());
    eventually("the reading is ended", SOON, ended).await;
    scene.vhost.bind("all", "nobody.listens", "#").await;
    let (code, log) = process.wait(SOON).await;
    assert!(code == Some(6) && log.contains("reading the outbox table"), "{code:?} {log}");
    let text = process.stdout();
    let (_, last) = text.trim().rsplit_once("to go on: --from '").expect("where it ended");
    let last: usize = last.trim_end_matches('\'').parse().expect("an id");
    let depth = scene.vhost.depth("all").await as usize;
    assert!((1..=depth).contains(&last) && last < COUNT, "{depth} came: {text}");
}

//! What changes under a stream that runs.

use serde_json::json;

use super::checkpoint::{move_away, read, stopped};
use super::{commit, delivered, ended, refused, says, streaming};
use crate::support::{SOON, Scene, eventually};

#[tokio::test]
async fn a_table_without_columns() {
    let scene = Scene::new().await;
    scene.database.execute("CREATE TABLE nothing (); ALTER TABLE nothing REPLICA IDENTITY FULL").await;
    let _process = streaming(&scene, &[("source.tables", "public.ledger,public.nothing")]).await;
    scene.database.execute("INSERT INTO nothing DEFAULT VALUES; TRUNCATE nothing").await;
    commit(&scene, 1).await;
    let deliveries = scene.vhost.consume("all", 3, SOON).await;
    let keys: Vec<_> = deliveries.iter().map(|it| it.routing_key.as_str()).collect();
    assert_eq!(keys, ["public.nothing.insert", "public.nothing.truncate", "public.ledger.insert"]);
    assert_eq!(deliveries[0].json()["after"], json!({}));
}

#[tokio::test]
async fn a_table_that_is_dropped_keeps_the_events_that_it_had() {
    let scene = Scene::new().await;
    let mut process = streaming(&scene, &[("source.tables", "public.*")]).await;
    scene.database.execute("INSERT INTO orders VALUES (1, 'a', 1, 'new'); DROP TABLE orders").await;
    let event = &scene.vhost.consume("all", 1, SOON).await[0];
    assert_eq!(event.routing_key, "public.orders.insert");
    commit(&scene, 1).await;
    delivered(&scene).await;
    scene.acknowledged().await;
    process.terminate();
    assert_eq!(process.wait(SOON).await.0, Some(0));

    // While nobody reads.
    scene.database.execute("CREATE TABLE later (id int PRIMARY KEY)").await;
    let mut process = streaming(&scene, &[("source.tables", "public.*")]).await;
    scene.acknowledged().await;
    process.kill();
    scene.database.execute("INSERT INTO later VALUES (1)").await;
    scene.database.execute("DROP TABLE later").await;
    let _process = streaming(&scene, &[("source.tables", "public.*")]).await;
    let event = &scene.vhost.consume("all", 1, SOON).await[0];
    assert_eq!(event.routing_key, "public.later.insert");
}

/// PostgreSQL ends the stream at the first change that it can't look up, and 18 skips it: neither is silent.
#[tokio::test]
async fn a_publication_that_is_dropped_is_in_doubt() {
    let scene = stopped().await;
    let mut process = streaming(&scene, &[]).await;
    scene.acknowledged().await;
    scene.database.execute("DROP PUBLICATION shop").await;
    commit(&scene, 1).await;
    let message = ended(&mut process, 5).await;
    let from = read(&scene).flushed;
    says(
        &message,
        &[&format!("error: changes committed after {from} may be missing"), "the replication stream can't go on"],
    );
    // PostgreSQL 18 only warns that it skips the publication; the others refuse to go on.
    says(&message, &["publication \"shop\"", "hint: the publication "]);
    let message = refused(&scene, &[], 5).await;
    says(&message, &["the publication \"shop\" does not exist", &format!("between {from} and ")]);
    // Creating it is not enough, and is not taken for it.
    scene.database.execute("CREATE PUBLICATION shop FOR TABLE ledger, orders, outbox").await;
    let message = refused(&scene, &[], 5).await;
    says(
        &message,
        &[&format!("error: changes committed after {from} may be missing"), "creating it again has no effect"],
    );
    let slot = scene.database.name();
    scene.database.execute(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
    move_away(&scene);
    let _process = streaming(&scene, &[]).await;
    commit(&scene, 1).await;
    let events = scene.vhost.consume("all", 2, SOON).await;
    let ids: Vec<_> = events.iter().map(|it| it.json()["after"]["id"].as_i64()).collect();
    assert_eq!(ids, [Some(2), Some(4)]);
}

#[tokio::test]
async fn an_outbox_column_that_is_renamed() {
    let scene = Scene::new().await;
    let mut process = streaming(&scene, &[("rabbitmq.poison.policy", "stop")]).await;
    let insert = "INSERT INTO outbox (aggregatetype, aggregateid, type, $) VALUES ('Order', '1', 'OrderPlaced', '1')";
    scene.database.execute(&insert.replace('$', "payload")).await;
    scene.vhost.consume("all", 1, SOON).await;
    scene.acknowledged().await;
    scene.database.execute("ALTER TABLE outbox RENAME payload TO body").await;
    scene.database.execute(&insert.replace('$', "body")).await;
    let message = ended(&mut process, 8).await;
    says(&message, &["error: can't publish the insert of public.outbox at ", "has no column for `payload`"]);
    says(&message, &["hint: when this row was written, its columns were id, aggregatetype, aggregateid, type, body"]);
    assert!(!message.contains(" 0/0\n"), "{message}");
    let _process = streaming(&scene, &[("outbox.columns.payload", "body")]).await;
    assert_eq!(scene.vhost.consume("all", 1, SOON).await[0].text(), "1");
}

#[tokio::test]
async fn a_slot_that_is_dropped_under_its_stream() {
    let scene = Scene::new().await;
    let mut process = streaming(&scene, &[]).await;
    scene.acknowledged().await;
    let slot = scene.database.name();
    process.signal(rustix::process::Signal::STOP);
    let end = format!(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active"
    );
    eventually("the slot is dropped", SOON, async || {
        scene.database.execute(&end).await;
        let dropped =
            scene.database.client().await.batch_execute(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
        dropped.ok()
    })
    .await;
    commit(&scene, 1).await;
    process.signal(rustix::process::Signal::CONT);
    let message = ended(&mut process, 5).await;
    says(&message, &["does not exist (any more)", "Changes committed between"]);
}

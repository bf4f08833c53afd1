//! The harness itself: what the other tests stand on.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use serde_json::json;

use crate::support::{self, PostgresServer, RabbitServer, SOON, Vhost, eventually};

async fn publish(vhost: &Vhost, exchange: &str, key: &str, id: &str) {
    let properties =
        BasicProperties::default().with_message_id(id.into()).with_type("OrderPlaced".into()).with_delivery_mode(2);
    let channel = vhost.channel().await;
    channel.confirm_select(lapin::options::ConfirmSelectOptions::default()).await.expect("confirms");
    let options = BasicPublishOptions::default();
    let confirm = channel.basic_publish(exchange.into(), key.into(), options, br#"{"id":1}"#, properties).await;
    assert!(confirm.expect("publish").await.expect("confirm").is_ack());
}

#[tokio::test]
async fn each_database_is_fresh_and_logical() {
    let (one, two) = tokio::join!(support::postgres().database(), support::postgres().database());
    assert_ne!(one.name(), two.name());
    one.execute("CREATE TABLE only_here (id int)").await;
    assert_eq!(one.query_one("SELECT count(*) FROM only_here").await, "0");
    assert_eq!(two.query_one("SELECT to_regclass('only_here') IS NULL").await, "t");
    assert_eq!(two.query_one("SHOW wal_level").await, "logical");
}

#[tokio::test]
async fn messages_come_off_a_queue_in_order_and_the_rest_stays() {
    let vhost = support::rabbitmq().vhost();
    vhost.queue_on("all", "events").await;
    for id in ["a", "b", "c", "d"] {
        publish(&vhost, "events", "order.placed", id).await;
    }

    let first = vhost.consume("all", 2, SOON).await;
    assert_eq!(first.iter().map(|one| one.message_id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((first[0].exchange.as_str(), first[0].routing_key.as_str()), ("events", "order.placed"));
    assert_eq!((first[0].event_type.as_str(), first[0].json()), ("OrderPlaced", json!({"id": 1})));
    assert!(!first[0].redelivered);

    let mut consumer = vhost.consumer("all").await;
    let rest = consumer.until(SOON, |all| all.last().is_some_and(|last| last.message_id == "d")).await;
    assert_eq!(rest.len(), 2);
    assert!(!rest[0].redelivered);
}

#[tokio::test]
async fn connections_can_be_closed_by_the_broker() {
    let vhost = support::rabbitmq().vhost();
    let connection = vhost.lapin().await;
    vhost.close_connections(support::rabbitmq()).await;
    eventually("the connection is closed", SOON, async || (!connection.status().connected()).then_some(())).await;
}

#[tokio::test]
async fn postgres_can_be_killed_paused_and_started_again() {
    let server = PostgresServer::private(&[("wal_sender_timeout", "5s")]);
    let database = server.database().await;
    assert_eq!(database.query_one("SHOW wal_sender_timeout").await, "5s");
    database.execute("CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)").await;

    server.kill();
    assert!(tokio_postgres::connect(&database.url(), tokio_postgres::NoTls).await.is_err());
    server.start();
    assert_eq!(database.query_one("SELECT id FROM kept").await, "1");

    server.pause();
    let silent = tokio::time::timeout(Duration::from_millis(300), database.client()).await;
    assert!(silent.is_err(), "a paused server answers nothing");
    server.resume();
    assert_eq!(database.query_one("SELECT id FROM kept").await, "1");

    server.stop();
    server.start();
    assert_eq!(database.query_one("SELECT id FROM kept").await, "1");
}

#[tokio::test]
async fn rabbitmq_can_be_killed_paused_and_started_again() {
    let server = RabbitServer::private(&[("channel_max", "7")]);
    let vhost = server.vhost();
    vhost.queue_on("all", "events").await;
    publish(&vhost, "events", "k", "a").await;

    server.kill();
    server.start();
    assert_eq!(vhost.lapin().await.configuration().channel_max(), 7);

    server.pause();
    let silent = tokio::time::timeout(Duration::from_millis(300), vhost.lapin()).await;
    assert!(silent.is_err(), "a paused node answers nothing");
    server.resume();

    server.stop();
    server.start();
    assert_eq!(vhost.consume("all", 1, SOON).await[0].message_id, "a");
    assert_eq!(vhost.depth("all").await, 0);
}

#[tokio::test]
async fn pgsluice_runs_as_a_process() {
    let mut process = support::pgsluice("unknown_key = true\n");
    assert!(process.config_path().exists());
    let (code, stderr) = process.wait(SOON).await;
    assert!(code.is_some(), "{stderr}");
    process.restart();
    process.kill();
    assert!(!process.runs());
}

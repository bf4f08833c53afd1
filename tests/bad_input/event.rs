//! Events that can't be published as configured: what comes before them is delivered, and nothing is lost.

use super::{Overrides, ended, says, streaming};
use crate::support::{Process, RabbitServer, SOON, Scene, postgres};

/// They end the process only where that is asked for.
const STOP: (&str, &str) = ("rabbitmq.poison.policy", "stop");

/// Commits an outbox row.
async fn commit(scene: &Scene, aggregate: &str, payload: &str) {
    let sql = format!(
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ({aggregate}, '1', 'OrderPlaced', {payload})"
    );
    scene.database.execute(&sql).await;
}

/// The position of the outbox's row that is too large.
async fn position(scene: &Scene, process: &mut Process) -> String {
    let message = ended(process, 8).await;
    says(&message, &["error: can't publish the insert of public.outbox at "]);
    let position = message.split_once("public.outbox at ").expect("a position").1.lines().next().expect("a line");
    let (lsn, ordinal) = position.split_once(':').expect("LSN:ordinal");
    assert_eq!(ordinal, "0");
    let committed = format!("SELECT '{lsn}'::pg_lsn < pg_current_wal_lsn()");
    assert_eq!(scene.database.query_one(&committed).await, "t");
    message
}

/// Commits a good row, the bad one and a good one; the message that ends the process.
async fn stopped_by(scene: &Scene, overrides: Overrides<'_>, aggregate: &str, payload: &str) -> String {
    let overrides = &[overrides, &[STOP]].concat();
    let mut process = streaming(scene, overrides).await;
    commit(scene, "'First'", "'1'").await;
    commit(scene, aggregate, payload).await;
    commit(scene, "'Last'", "'3'").await;
    let message = position(scene, &mut process).await;
    // A restart does not get past it, and does not repeat what came before it.
    let mut again = super::start(scene, overrides);
    assert_eq!(position(scene, &mut again).await, message);
    let keys: Vec<String> = scene.vhost.consume("all", 1, SOON).await.into_iter().map(|it| it.routing_key).collect();
    assert_eq!((keys.as_slice(), scene.vhost.depth("all").await), (&["First.OrderPlaced".to_owned()][..], 0));
    message
}

#[tokio::test]
async fn a_routing_key_that_is_too_long() {
    let scene = Scene::new().await;
    let message = stopped_by(&scene, &[], "repeat('x', 300)", "'2'").await;
    says(&message, &["cause: the routing key is 312 bytes long; AMQP takes at most 255", "hint: "]);
    let _mended = streaming(&scene, &[("outbox.routing_key", "order.{type}")]).await;
    let rest = scene.vhost.consume("all", 2, SOON).await;
    assert_eq!([rest[0].text(), rest[1].text()], ["2", "3"]);
    assert_eq!(rest[0].routing_key, "order.OrderPlaced");
}

#[tokio::test]
async fn an_event_that_is_larger_than_the_configuration_allows() {
    let scene = Scene::new().await;
    let large = "to_jsonb(repeat('x', 5000))";
    let message = stopped_by(&scene, &[("rabbitmq.max_message_bytes", "2000")], "'Large'", large).await;
    says(
        &message,
        &[
            "cause: the body would be at least 5002 bytes long; the broker takes at most 2000",
            "hint: ",
            "rabbitmq.max_message_bytes",
        ],
    );
    let _mended = streaming(&scene, &[]).await;
    let rest = scene.vhost.consume("all", 2, SOON).await;
    assert_eq!((rest[0].body.len(), rest[1].text().as_str()), (5002, "3"));
}

#[tokio::test]
async fn an_event_that_is_larger_than_the_broker_takes() {
    let server = RabbitServer::private(&[("max_message_size", "3000")]);
    let scene = Scene::on(postgres(), &server).await;
    let mut process = streaming(&scene, &[STOP]).await;
    commit(&scene, "'First'", "'1'").await;
    assert_eq!(scene.vhost.consume("all", 1, SOON).await[0].text(), "1");
    scene.acknowledged().await;
    commit(&scene, "'Large'", "to_jsonb(repeat('x', 5000))").await;
    commit(&scene, "'Last'", "'3'").await;
    let message = ended(&mut process, 8).await;
    says(
        &message,
        &["an event is larger than RabbitMQ takes", "message size 5002 is larger than configured max size 3000"],
    );
    says(&message, &["hint: raise max_message_size on the broker"]);
    // Whether the one after it was sent already, the broker decides by its haste.
    assert!(message.contains("error: can't publish the event at ") || message.contains("one of the 2 events from "));
    // As the hint says: then the event is named, and not sent.
    let mut named = super::start(&scene, &[("rabbitmq.max_message_bytes", "3000"), STOP]);
    position(&scene, &mut named).await;

    server.rabbitmqctl(&["eval", "application:set_env(rabbit, max_message_size, 10000)."]);
    let _mended = streaming(&scene, &[]).await;
    let rest = scene.vhost.consume("all", 2, SOON).await;
    assert_eq!((rest[0].body.len(), rest[1].text().as_str()), (5002, "3"));
}

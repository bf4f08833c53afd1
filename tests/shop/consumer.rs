//! The consumer: once, all or nothing, again later, and aside.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use messaging::{Consumer, Event, Handler, Migration, inbox};
use serde_json::{Value, json};
use tokio_postgres::Transaction;

use super::stage::{Message, Stage};
use crate::support::{SOON, eventually};

pub(super) const TABLES: &[Migration] = &[
    inbox::MIGRATION,
    Migration {
        name: "effects",
        sql: "CREATE TABLE known (n bigint PRIMARY KEY);
              CREATE TABLE effects (n bigint NOT NULL);
              CREATE TABLE checked (n bigint NOT NULL REFERENCES known DEFERRABLE INITIALLY DEFERRED);",
    },
];

/// Has an effect, and then does what the body says.
#[derive(Debug, Clone, Default)]
pub(super) struct Scripted {
    /// What was tried, in its order: the number, and how often it had failed.
    tried: Arc<Mutex<Vec<(i64, u32)>>>,
}

impl Scripted {
    fn tried(&self) -> Vec<(i64, u32)> {
        self.tried.lock().expect("no panic").clone()
    }
}

impl Handler for Scripted {
    async fn handle(&self, transaction: &Transaction<'_>, event: &Event) -> anyhow::Result<()> {
        let body: Value = event.payload()?;
        let n = body["n"].as_i64().unwrap_or_default();
        self.tried.lock().expect("no panic").push((n, event.failures));
        transaction.execute("INSERT INTO effects (n) VALUES ($1)", &[&n]).await?;
        let failures_wanted = body["failures"].as_u64().unwrap_or_default();
        anyhow::ensure!(u64::from(event.failures) >= failures_wanted, "it is not to be");
        if let Some(code) = body["until_known"].as_str() {
            let raise = format!("RAISE EXCEPTION 'not yet' USING ERRCODE = '{code}'");
            let unless_known = format!("IF NOT EXISTS (SELECT FROM known WHERE n = {n}) THEN {raise}; END IF");
            transaction.batch_execute(&format!("DO $$ BEGIN {unless_known}; END $$")).await?;
        }
        if body["at_commit"] == true {
            transaction.execute("INSERT INTO checked (n) VALUES ($1)", &[&n]).await?;
        }
        assert!(body["panics"] != true, "a bug in the handler");
        if body["hangs"] == true {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

pub(super) fn consumer() -> Consumer {
    Consumer::of("things").bind("events", "thing.*").retry_delay(Duration::from_millis(200)).attempts_max(3)
}

fn message<'a>(id: &'a str, body: &'a Value) -> Message<'a> {
    Message { id, event_type: "ThingHappened", body }
}

#[tokio::test]
async fn a_message_that_comes_again_has_its_effect_once() {
    let stage = Stage::new(TABLES).await;
    let _running = stage.consume(&consumer(), Scripted::default());
    for _ in 0..3 {
        stage.publish(&message("a", &json!({"n": 1}))).await;
    }
    stage.publish(&message("b", &json!({"n": 1}))).await;
    stage.publish(&message("last", &json!({"n": 2}))).await;

    stage.becomes("SELECT count(*) FROM inbox WHERE message_id = 'last'", "1").await;
    assert_eq!(stage.database.query_one("SELECT count(*) FROM effects WHERE n = 1").await, "2", "one of a, one of b");
    assert_eq!(stage.database.query_one("SELECT count(*) FROM inbox WHERE queue = 'things'").await, "3");
}

#[tokio::test]
async fn the_same_message_in_two_queues_is_two_things_to_do() {
    let stage = Stage::new(TABLES).await;
    let other = Consumer::of("others").bind("events", "thing.*");
    let _running = (stage.consume(&consumer(), Scripted::default()), stage.consume(&other, Scripted::default()));
    // Both have their queues once both have had one.
    eventually("both have had a message", SOON, async || {
        stage.publish(&message("warm-up", &json!({"n": 0}))).await;
        (stage.database.query_one("SELECT count(*) FROM inbox").await == "2").then_some(())
    })
    .await;
    stage.publish(&message("a", &json!({"n": 1}))).await;
    stage.becomes("SELECT count(*) FROM effects WHERE n = 1", "2").await;
}

#[tokio::test]
async fn the_effect_and_its_inbox_row_are_one_transaction() {
    let stage = Stage::new(TABLES).await;
    let handler = Scripted::default();
    let _running = stage.consume(&consumer(), handler.clone());
    // Fails in the handler, after its effect, once.
    stage.publish(&message("handler", &json!({"n": 1, "failures": 1}))).await;
    // Fails where nobody but the database sees it: at the commit, always.
    stage.publish(&message("commit", &json!({"n": 2, "at_commit": true}))).await;

    stage.becomes("SELECT count(*) FROM effects WHERE n = 1", "1").await;
    let dead = stage.vhost.consume(&consumer().dead_letter_queue(), 1, SOON).await;
    assert_eq!(dead[0].message_id, "commit");
    assert_eq!(stage.database.query_one("SELECT string_agg(message_id, ',') FROM inbox").await, "handler");
    assert_eq!(stage.database.query_one("SELECT string_agg(n::text, ',') FROM effects").await, "1");
    let mut tried = handler.tried();
    tried.sort_unstable();
    assert_eq!(tried, [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]);
}

#[tokio::test]
async fn what_always_fails_is_put_aside_and_nobody_waits_for_it() {
    let stage = Stage::new(TABLES).await;
    let handler = Scripted::default();
    let consumer = consumer().retry_delay(Duration::from_secs(2));
    let _running = stage.consume(&consumer, handler.clone());
    let poison = json!({"n": -1, "failures": 1000, "text": "Größe"});
    stage.publish(&message("poison", &poison)).await;
    for n in 1..=20 {
        stage.publish(&message(&format!("good-{n}"), &json!({ "n": n }))).await;
    }

    let dead = stage.vhost.consume(&consumer.dead_letter_queue(), 1, SOON).await.remove(0);
    let tried = handler.tried();
    assert_eq!((tried[0], tried.last().copied()), ((-1, 0), Some((-1, 2))), "{tried:?}");
    assert_eq!(tried.iter().filter(|(n, _)| *n == -1).count(), 3);
    assert_eq!(stage.database.query_one("SELECT count(*) FROM effects").await, "20");
    // As it came, with what a human wants to know.
    assert_eq!((dead.message_id.as_str(), dead.event_type.as_str()), ("poison", "ThingHappened"));
    assert_eq!(dead.json(), poison);
    assert_eq!(dead.properties.delivery_mode(), &Some(2));
    assert_eq!((&dead.headers["failures"], &dead.headers["position"]), (&json!(3), &json!("0/10:1")));
    assert_eq!((&dead.headers["exchange"], &dead.headers["routing_key"]), (&json!("events"), &json!("thing.happened")));
    assert_eq!(dead.headers["error"], "it is not to be");
    for queue in ["things", &consumer.retry_queue(), &consumer.dead_letter_queue()] {
        assert_eq!(stage.vhost.depth(queue).await, 0, "{queue}");
    }
}

#[tokio::test]
async fn so_are_a_panic_a_hang_and_a_message_without_an_id_that_can_be_kept() {
    let stage = Stage::new(TABLES).await;
    let consumer = consumer().handling_max(Duration::from_secs(2));
    let _running = stage.consume(&consumer, Scripted::default());
    stage.publish(&message("hangs", &json!({"n": 0, "hangs": true}))).await;
    stage.publish(&message("panics", &json!({"n": 1, "panics": true}))).await;
    stage.publish(&message("", &json!({"n": 2}))).await;
    stage.publish(&message("nul\0", &json!({"n": 4}))).await;
    stage.publish(&message("good", &json!({"n": 3}))).await;

    let mut dead = stage.vhost.consume(&consumer.dead_letter_queue(), 4, SOON).await;
    dead.sort_by(|one, other| one.message_id.cmp(&other.message_id));
    assert_eq!(dead.iter().map(|one| one.message_id.as_str()).collect::<Vec<_>>(), ["", "hangs", "nul\0", "panics"]);
    assert_eq!(stage.database.query_one("SELECT string_agg(n::text, ',') FROM effects").await, "3");
}

/// In the middle of a handler: a failover, a rotated password, a database that is renamed, a disk's error, a shutdown.
#[tokio::test]
async fn what_the_server_says_of_itself_is_waited_for() {
    let stage = Stage::new(TABLES).await;
    let handler = Scripted::default();
    let _running = stage.consume(&consumer(), handler.clone());
    for (n, code) in (0..).zip(["25006", "28P01", "3D000", "58030", "57P03"]) {
        stage.publish(&message(code, &json!({"n": n, "until_known": code}))).await;
        let tries = || handler.tried().iter().filter(|tried| **tried == (n, 0)).count();
        eventually("it is tried more often than it may fail", SOON, async || (tries() > 3).then_some(())).await;
        stage.database.execute(&format!("INSERT INTO known (n) VALUES ({n})")).await;
        stage.becomes(&format!("SELECT count(*) FROM effects WHERE n = {n}"), "1").await;
    }
    assert!(handler.tried().iter().all(|(_, failures)| *failures == 0), "{:?}", handler.tried());
    assert_eq!(stage.vhost.depth(&consumer().dead_letter_queue()).await, 0);
}

/// What kills the process whenever it is taken comes back without an answer, until the broker itself puts it aside.
#[tokio::test]
async fn a_message_that_nobody_ever_answers_is_put_aside_by_the_broker() {
    let stage = Stage::new(TABLES).await;
    let consumer = consumer();
    let running = stage.consume(&consumer, Scripted::default());
    stage.publish(&message("before", &json!({"n": 1}))).await;
    stage.becomes("SELECT count(*) FROM inbox", "1").await;
    drop(running);

    stage.publish(&message("deadly", &json!({"n": 2}))).await;
    let channel = stage.vhost.channel().await;
    let is_dead = async || {
        let got = channel.basic_get("things".into(), lapin::options::BasicGetOptions::default()).await.expect("get");
        let Some(got) = got else { return stage.vhost.depth(&consumer.dead_letter_queue()).await == 1 };
        got.nack(lapin::options::BasicNackOptions { requeue: true, ..Default::default() }).await.expect("nack");
        false
    };
    eventually("it is a dead letter", SOON, async || is_dead().await.then_some(())).await;
    let dead = stage.vhost.consume(&consumer.dead_letter_queue(), 1, SOON).await.remove(0);
    assert_eq!((dead.message_id.as_str(), dead.json()), ("deadly", json!({"n": 2})));
}

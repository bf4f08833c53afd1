//! Whatever dies while messages are consumed: each has its effect, and has it once.

use std::collections::BTreeSet;

use serde_json::json;

use super::consumer::{Scripted, TABLES, consumer};
use super::stage::{Message, Stage};
use crate::support::{PostgresServer, RabbitServer, SOON, eventually};

const MESSAGES: i64 = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_message_has_its_effect_once_whatever_is_killed() {
    let (postgres, rabbitmq) = (PostgresServer::private(&[]), RabbitServer::private(&[]));
    let stage = Stage::on(&postgres, &rabbitmq, TABLES).await;
    let mut running = Some(stage.consume(&consumer(), Scripted::default()));
    let mut kills = BTreeSet::from([MESSAGES / 4, MESSAGES / 2, MESSAGES * 3 / 4]);
    for n in 0..MESSAGES {
        let (id, body) = (format!("m-{n}"), json!({ "n": n }));
        let message = Message { id: &id, event_type: "ThingHappened", body: &body };
        // Sent again until it is confirmed, as pgsluice does; so some come twice.
        eventually("it is published", 4 * SOON, async || stage.try_publish(&message).await).await;
        match kills.pop_first() {
            Some(at) if at <= n => match kills.len() {
                // The database: what is in hand waits, and is no failed attempt.
                2 => {
                    postgres.kill();
                    postgres.start();
                }
                // The broker: what was not acked comes again.
                1 => {
                    rabbitmq.kill();
                    rabbitmq.start();
                }
                // The service itself, between any two of its steps.
                _ => {
                    drop(running.take());
                    running = Some(stage.consume(&consumer(), Scripted::default()));
                }
            },
            Some(at) => {
                kills.insert(at);
            }
            None => {}
        }
    }
    let done = async || {
        let sql = "SELECT count(DISTINCT n) FROM effects";
        let client = tokio_postgres::connect(&stage.database.url(), tokio_postgres::NoTls).await.ok()?;
        tokio::spawn(client.1);
        let count: i64 = client.0.query_one(sql, &[]).await.ok()?.get(0);
        (count == MESSAGES).then_some(())
    };
    eventually("all have their effect", 4 * SOON, done).await;
    assert_eq!(stage.database.query_one("SELECT count(*) FROM effects").await, MESSAGES.to_string());
    assert_eq!(stage.database.query_one("SELECT count(*) FROM inbox").await, MESSAGES.to_string());
    assert_eq!(stage.vhost.depth(&consumer().dead_letter_queue()).await, 0, "an outage is no message's fault");
    drop(running);
}

/// A database that answers and does not take the inbox's rows: read-only, as after a failover; and without the table.
#[tokio::test]
async fn a_database_that_refuses_the_inbox_is_waited_for() {
    let stage = Stage::new(TABLES).await;
    let _running = stage.consume(&consumer(), Scripted::default());
    let name = stage.database.name();
    let everybody_leaves = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                            WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let reads_only = format!("ALTER DATABASE \"{name}\" SET default_transaction_read_only = on");
    let writes = format!("BEGIN READ WRITE; ALTER DATABASE \"{name}\" RESET ALL; COMMIT");
    let faults = [
        (reads_only.as_str(), writes.as_str()),
        ("ALTER TABLE inbox RENAME TO elsewhere", "ALTER TABLE elsewhere RENAME TO inbox"),
    ];
    for (n, (fault, undo)) in (0_i64..).zip(faults) {
        stage.database.execute(fault).await;
        stage.database.execute(everybody_leaves).await;
        for part in 0..5 {
            let (id, body) = (format!("m-{n}-{part}"), json!({ "n": n }));
            stage.publish(&Message { id: &id, event_type: "ThingHappened", body: &body }).await;
        }
        // The first is tried more often than five may fail, or else they were put aside.
        let mut tries = BTreeSet::new();
        eventually("it is tried again and again", 2 * SOON, async || {
            let sql = "SELECT coalesce(max(query_start)::text, '') FROM pg_stat_activity
                       WHERE datname = current_database() AND query = 'ROLLBACK'";
            tries.insert(stage.database.query_one(sql).await);
            (tries.len() > 6 || stage.vhost.depth(&consumer().dead_letter_queue()).await > 0).then_some(())
        })
        .await;
        stage.database.execute(undo).await;
        stage.database.execute(everybody_leaves).await;
        stage.becomes(&format!("SELECT count(*) FROM effects WHERE n = {n}"), "5").await;
    }
    assert_eq!(stage.vhost.depth(&consumer().dead_letter_queue()).await, 0);
}

/// The task is dropped again and again while messages come, between any two of its steps.
#[tokio::test]
async fn a_consumer_that_is_killed_again_and_again_repeats_nothing() {
    let stage = Stage::new(TABLES).await;
    let mut running = stage.consume(&consumer(), Scripted::default());
    for n in 0..200 {
        let (id, body) = (format!("m-{n}"), json!({ "n": n }));
        stage.publish(&Message { id: &id, event_type: "ThingHappened", body: &body }).await;
        if n % 20 == 19 {
            drop(running);
            running = stage.consume(&consumer(), Scripted::default());
        }
    }
    stage.becomes("SELECT count(DISTINCT n) FROM effects", "200").await;
    stage.becomes("SELECT count(*) FROM inbox", "200").await;
    assert_eq!(stage.database.query_one("SELECT count(*) FROM effects").await, "200");
    drop(running);
}

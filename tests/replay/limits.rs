//! Which transactions are replayed: by LSN, by time, by table; and what is refused.

use pgsluice::encode::time::{parse_rfc3339, rfc3339};
use pgsluice::lsn::Lsn;

use super::{A_DAY, done, now, refused, replay, slot, start};
use crate::support::{Delivery, PostgresServer, SOON, Scene, rabbitmq};

/// Rows of the ledger, each in a transaction of its own, as they were delivered.
async fn rows(scene: &Scene, count: usize) -> Vec<Delivery> {
    for _ in 0..count {
        scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    }
    scene.vhost.consume("all", count, SOON).await
}

fn commit_lsn(delivery: &Delivery) -> String {
    delivery.json()["commit_lsn"].as_str().expect("commit_lsn").to_owned()
}

fn committed_at(delivery: &Delivery) -> String {
    delivery.json()["committed_at"].as_str().expect("committed_at").to_owned()
}

/// The ledger ids of what is replayed.
async fn replayed(scene: &Scene, arguments: &[&str]) -> Vec<u64> {
    let text = done(replay(scene, arguments)).await;
    let depth = scene.vhost.depth("all").await as usize;
    assert!(text.contains(&format!(": {depth} events of {depth} transactions published, {depth} confirmed")), "{text}");
    let deliveries = scene.vhost.consume("all", depth, SOON).await;
    deliveries.iter().map(|delivery| delivery.json()["after"]["id"].as_u64().expect("an id")).collect()
}

#[tokio::test]
async fn between_two_lsns_are_the_transactions_that_commit_from_the_first_and_before_the_second() {
    let scene = Scene::new().await;
    let _running = scene.run_with(A_DAY).await;
    let rows = rows(&scene, 5).await;
    let [second, fourth] = [commit_lsn(&rows[1]), commit_lsn(&rows[3])];
    assert_eq!(replayed(&scene, &["--from", &second, "--to", &fourth]).await, [2, 3]);
    assert_eq!(replayed(&scene, &["--from", &fourth]).await, [4, 5]);
    let after_fourth = Lsn(fourth.parse::<Lsn>().expect("an LSN").0 + 1).to_string();
    assert_eq!(replayed(&scene, &["--from", &second, "--to", &after_fourth]).await, [2, 3, 4]);
    assert_eq!(replayed(&scene, &["--from", &after_fourth]).await, [5]);
    assert_eq!(replayed(&scene, &["--from", &second, "--to", &second]).await, [0; 0]);
}

#[tokio::test]
async fn between_two_times_are_the_transactions_that_were_committed_from_the_first_to_the_second() {
    let scene = Scene::new().await;
    let _running = scene.run_with(A_DAY).await;
    let rows = rows(&scene, 5).await;
    let at: Vec<_> = rows.iter().map(committed_at).collect();
    assert_eq!(replayed(&scene, &["--from", &at[1], "--to", &at[3]]).await, [2, 3, 4]);
    // The same instants, written otherwise.
    let spaced = at[1].replace('T', " ").replace('Z', "+00");
    let micros = parse_rfc3339(&at[3]).expect("a time") + 3_600_000_000;
    let mut elsewhere = Vec::new();
    rfc3339(&mut elsewhere, micros);
    let elsewhere = String::from_utf8(elsewhere).expect("text").replace('Z', "+01:00");
    assert_eq!(replayed(&scene, &["--from", &spaced, "--to", &elsewhere]).await, [2, 3, 4]);
    assert_eq!(replayed(&scene, &["--from", &commit_lsn(&rows[2]), "--to", &at[3]]).await, [3, 4]);
    assert_eq!(replayed(&scene, &["--from", &at[3], "--to", &commit_lsn(&rows[4])]).await, [4]);
    // A minute of nothing that was asked for is read on, for those that were late with their place in the WAL.
    assert_eq!(replayed(&scene, &["--from", &at[4], "--to", "2999-01-01T00:00:00Z"]).await, [5]);
}

/// Nothing tells how far back the past goes, but a transaction of before.
#[tokio::test]
async fn a_time_from_which_on_the_past_is_not_known_to_be_there_is_refused() {
    let scene = Scene::new().await;
    let mut running = scene.run_with(A_DAY).await;
    let rows = rows(&scene, 2).await;
    let (at, lsn) = (committed_at(&rows[0]), commit_lsn(&rows[0]));
    let message = refused(replay(&scene, &["--from", &at]), 2).await;
    assert!(
        message.contains(&format!("committed at {at}")) && message.contains(&format!("`--from {lsn}`")),
        "{message}"
    );
    assert_eq!(replayed(&scene, &["--from", &lsn]).await, [1, 2]);
    // Nor does it go anywhere, without retention.
    running.terminate();
    assert_eq!(running.wait(SOON).await.0, Some(0));
    let _running = scene.run().await;
    scene.acknowledged().await;
    let message = refused(replay(&scene, &["--from", &committed_at(&rows[1])]), 2).await;
    assert!(message.contains("has no transaction before"), "{message}");
    assert_eq!(scene.vhost.depth("all").await, 0);
}

#[tokio::test]
async fn an_lsn_that_is_no_longer_retained_is_refused_with_the_earliest_that_is() {
    let scene = Scene::new().await;
    let mut running = scene.run().await;
    let from = now(&scene).await;
    rows(&scene, 2).await;
    scene.acknowledged().await;
    running.terminate();
    assert_eq!(running.wait(SOON).await.0, Some(0));
    let earliest = slot(&scene, "confirmed_flush_lsn").await;
    let message = refused(replay(&scene, &["--from", &from]), 2).await;
    let expected = format!("{from} is no longer retained: the earliest LSN that replication slot");
    assert!(message.contains(&expected) && message.contains(&format!("hint: `--from {earliest}`")), "{message}");
    assert_eq!(replayed(&scene, &["--from", &earliest]).await, [0; 0]);
}

#[tokio::test]
async fn tables_are_chosen_of_what_the_configuration_selects() {
    let scene = Scene::new().await;
    scene.database.execute("CREATE TABLE unselected (id int PRIMARY KEY)").await;
    let _running = scene.run_with(A_DAY).await;
    let from = now(&scene).await;
    let all = "INSERT INTO orders VALUES (1, 'a', 1, 'new'); INSERT INTO ledger DEFAULT VALUES;
               INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', '1', 'OrderPlaced', '{}')";
    scene.database.execute(all).await;
    scene.vhost.consume("all", 3, SOON).await;
    for (patterns, expected) in [
        (&["public.orders"][..], &["public.orders.insert"][..]),
        (&["public.outbox"], &["Order.OrderPlaced"]),
        (&["*.o*", "!public.outbox"], &["public.orders.insert"]),
        (&["public.ledger", "public.outbox"], &["public.ledger.insert", "Order.OrderPlaced"]),
        (&["other.*"], &[]),
    ] {
        let mut arguments = vec!["--from", &from];
        arguments.extend(patterns.iter().flat_map(|pattern| ["--table", *pattern]));
        done(replay(&scene, &arguments)).await;
        let again = scene.vhost.consume("all", expected.len(), SOON).await;
        let keys: Vec<_> = again.iter().map(|delivery| delivery.routing_key.as_str()).collect();
        assert_eq!((keys.as_slice(), scene.vhost.depth("all").await), (expected, 0));
    }
    let message = refused(replay(&scene, &["--from", &from, "--table", "public.unselected"]), 2).await;
    assert!(message.contains("the configuration does not select this table"), "{message}");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_anything_is_sent() {
    let scene = Scene::new().await;
    let _running = scene.run_with(A_DAY).await;
    let from = now(&scene).await;
    let row = &rows(&scene, 1).await[0];
    let (lsn, at) = (commit_lsn(row), committed_at(row));
    for (arguments, says) in [
        (&["--from", &lsn, "--to", &from][..], "would end"),
        (&["--from", &from, "--to", "FFFF/0"], "is in the future"),
        (&["--from", "FFFF/0"], "would end"),
        (&["--from", "2026-11-21 10:00:00"], "without its zone"),
        (&["--from", &at, "--to", "2000-01-01T00:00:00Z"], "would end"),
        (&["--from", "1/x"], "is not an LSN"),
        (&["--from", &from, "--to", "before-7"], "is not an LSN"),
        (&["--from", &from, "--exchange", ""], "--exchange is empty"),
        (&["--from", &from, "--table", "orders"], "names no schema"),
        (&[], "--from"),
        (&["--from-table", "--table", "public.orders"], "--table"),
        (&["--from", &from, "--order-by", "id"], "--from-table"),
    ] {
        let (code, log) = replay(&scene, arguments).wait(SOON).await;
        assert!(code == Some(2) && log.contains(says), "{arguments:?}: {code:?} {log}");
    }
    assert_eq!(scene.vhost.depth("all").await, 0);
}

#[tokio::test]
async fn without_a_slot_a_free_slot_or_a_free_walsender_it_is_said() {
    let postgres = PostgresServer::private(&[("max_replication_slots", "1"), ("max_wal_senders", "2")]);
    let scene = Scene::on(&postgres, rabbitmq()).await;
    let message = refused(replay(&scene, &["--from", "0/1"]), 3).await;
    assert!(message.contains("does not exist: there is no past to replay"), "{message}");
    let _running = scene.run_with(A_DAY).await;
    let from = now(&scene).await;
    let message = refused(replay(&scene, &["--from", &from]), 3).await;
    let parts =
        ["no replication slot is free", "max_replication_slots is 1", &format!("{} (active)", scene.database.name())];
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");

    let postgres = PostgresServer::private(&[("max_wal_senders", "1")]);
    let scene = Scene::on(&postgres, rabbitmq()).await;
    let _running = scene.run_with(A_DAY).await;
    let from = now(&scene).await;
    let message = refused(replay(&scene, &["--from", &from]), 3).await;
    assert!(message.contains("no walsender is free: max_wal_senders is 1"), "{message}");
}

/// The role that streams may replay; one that may not even stream is told what it lacks.
#[tokio::test]
async fn the_replication_attribute_is_all_that_it_takes() {
    let postgres = PostgresServer::private(&[]);
    let scene = Scene::on(&postgres, rabbitmq()).await;
    let _running = scene.run_with(A_DAY).await;
    let from = now(&scene).await;
    rows(&scene, 1).await;
    scene.database.execute("CREATE ROLE reader LOGIN REPLICATION; CREATE ROLE nobody LOGIN").await;
    let run = |user: &str| {
        let url = scene.database.url_as(user);
        start(&scene, "", &["--from", &from], &[("PGSLUICE__SOURCE__URL", &url)])
    };
    done(run("reader")).await;
    assert_eq!(scene.vhost.consume("all", 1, SOON).await[0].json()["after"]["id"], 1);
    let message = refused(run("nobody"), 3).await;
    assert!(message.contains("ALTER ROLE \"nobody\" REPLICATION"), "{message}");
}

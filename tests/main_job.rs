//! The main job, end to end: rows committed in PostgreSQL arrive in RabbitMQ's queues, in commit order, confirmed, from a
//! checkpointed LSN.

use std::time::Duration;

use lapin::options::ExchangeDeleteOptions;
use rustix::process::Signal;
use serde_json::json;

use crate::support::{Account, PostgresServer, SOON, Scene, eventually, folder, pgsluice_command, rabbitmq};

#[tokio::test]
async fn an_outbox_row_arrives_as_the_application_wrote_it() {
    let scene = Scene::new().await;
    let _pgsluice = scene.run().await;
    scene
        .database
        .execute(
            r#"BEGIN;
               INSERT INTO orders VALUES (7, 'Zoë "Z" Ålund', 19.90, 'new');
               INSERT INTO outbox VALUES ('0191d6f0-0000-7000-8000-000000000001', 'Order', '7', 'OrderPlaced',
                   '{"order": 7, "customer": "Zoë"}');
               COMMIT"#,
        )
        .await;
    let deliveries = scene.vhost.consume("all", 2, SOON).await;

    let change = &deliveries[0];
    let event = change.json();
    assert_eq!((change.exchange.as_str(), change.routing_key.as_str()), ("shop.changes", "public.orders.insert"));
    assert_eq!(change.event_type, "public.orders.insert");
    assert_eq!(event["after"], json!({"id": 7, "customer": "Zoë \"Z\" Ålund", "total": "19.90", "status": "new"}));
    assert_eq!((&event["op"], &event["before"], &event["ordinal"]), (&json!("insert"), &json!(null), &json!(0)));
    assert_eq!(change.message_id, format!("shop:{}:0", event["commit_lsn"].as_str().expect("commit_lsn")));

    let outbox = &deliveries[1];
    assert_eq!((outbox.exchange.as_str(), outbox.routing_key.as_str()), ("shop.events", "Order.OrderPlaced"));
    assert_eq!(outbox.message_id, "0191d6f0-0000-7000-8000-000000000001");
    assert_eq!(outbox.event_type, "OrderPlaced");
    assert_eq!(outbox.json(), json!({"order": 7, "customer": "Zoë"}));
    assert_eq!((&outbox.headers["aggregate_type"], &outbox.headers["aggregate_id"]), (&json!("Order"), &json!("7")));
    let position = format!("{}:1", event["commit_lsn"].as_str().expect("commit_lsn"));
    assert_eq!(outbox.headers["position"], position.as_str());
    for (delivery, number, is_last) in [(change, 1, false), (outbox, 2, true)] {
        let headers = &delivery.headers;
        assert_eq!(headers["transaction_id"], event["commit_lsn"]);
        assert_eq!((&headers["transaction_number"], &headers["transaction_last"]), (&json!(number), &json!(is_last)));
    }
    let properties = &outbox.properties;
    assert_eq!(properties.delivery_mode(), &Some(2), "persistent");
    assert_eq!(properties.app_id().as_ref().map(ToString::to_string).as_deref(), Some("shop"));
    assert_eq!(properties.content_type().as_ref().map(ToString::to_string).as_deref(), Some("application/json"));
    let committed_at_us = outbox.headers["committed_at_us"].as_i64().expect("committed_at_us");
    assert_eq!(properties.timestamp().map(i64::try_from), Some(Ok(committed_at_us / 1_000_000)));
    let now = scene.database.query_one("SELECT (extract(epoch FROM now()) * 1000000)::bigint").await;
    let age = now.parse::<i64>().expect("a number") - committed_at_us;
    assert!((0..60_000_000).contains(&age), "committed {age} µs ago");
}

#[tokio::test]
async fn every_operation_arrives_and_what_is_not_selected_does_not() {
    let scene = Scene::new().await;
    scene
        .database
        .execute("CREATE TABLE unselected (id int PRIMARY KEY); ALTER TABLE orders REPLICA IDENTITY FULL")
        .await;
    let _pgsluice = scene.run().await;
    scene
        .database
        .execute(
            "INSERT INTO unselected VALUES (1); INSERT INTO orders VALUES (1, 'a', 1, 'new');
             UPDATE orders SET status = 'paid'; DELETE FROM orders; TRUNCATE orders;
             INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', '1', 'OrderGone', '{}');
             DELETE FROM outbox",
        )
        .await;
    let deliveries = scene.vhost.consume("all", 5, SOON).await;
    let keys: Vec<_> = deliveries.iter().map(|delivery| delivery.routing_key.as_str()).collect();
    let expected = ["public.orders.insert", "public.orders.update", "public.orders.delete", "public.orders.truncate"];
    assert_eq!(keys[..4], expected);
    assert_eq!(keys[4], "Order.OrderGone");
    let update = deliveries[1].json();
    assert_eq!((&update["before"]["status"], &update["after"]["status"]), (&json!("new"), &json!("paid")));
    assert_eq!(deliveries[2].json()["before"]["status"], "paid");
    scene.acknowledged().await;
    assert_eq!(scene.vhost.depth("all").await, 0);
}

#[tokio::test]
async fn an_unchanged_toast_value_is_left_out_and_named() {
    let scene = Scene::new().await;
    scene.database.execute("ALTER TABLE ledger ALTER filler SET STORAGE EXTERNAL, ADD note text").await;
    let _pgsluice = scene.run().await;
    scene.database.execute("INSERT INTO ledger (filler) VALUES (repeat('x', 100000))").await;
    scene.database.execute("UPDATE ledger SET note = 'seen'").await;
    let update = scene.vhost.consume("all", 2, SOON).await[1].json();
    assert_eq!(update["unchanged"], json!(["filler"]));
    assert_eq!(update["after"], json!({"id": 1, "note": "seen"}));
}

#[tokio::test]
async fn a_restart_goes_on_where_the_last_one_stopped() {
    let scene = Scene::new().await;
    let mut pgsluice = scene.run().await;
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    account.settle(&scene, &mut consumer, SOON).await;
    pgsluice.terminate();
    assert_eq!(pgsluice.wait(SOON).await.0, Some(0));

    scene.database.execute("INSERT INTO ledger SELECT FROM generate_series(1, 50)").await;
    let _again = scene.run().await;
    account.settle(&scene, &mut consumer, SOON).await;
    scene.acknowledged().await;
    assert_eq!((account.len(), account.repeated, scene.vhost.depth("all").await), (51, 0, 0));
}

#[tokio::test]
async fn a_transaction_needs_no_memory_of_its_size() {
    const ROWS: usize = 60_000;
    let scene = Scene::new().await;
    let pgsluice = scene.run().await;
    let sql = format!("INSERT INTO ledger (filler) SELECT repeat(md5(n::text), 60) FROM generate_series(1, {ROWS}) n");
    scene.database.execute(&sql).await;
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    account.settle(&scene, &mut consumer, Duration::from_mins(2)).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", pgsluice.pid().as_raw_nonzero())).expect("procfs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    let peak_kib: usize = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    // The transaction is some 120 MB. A debug build is not lean, but it does not collect.
    assert!(peak_kib < 64 * 1024, "peak memory {peak_kib} KiB");
}

#[tokio::test]
async fn an_idle_publication_beside_a_busy_table_does_not_hold_the_wal() {
    let scene = Scene::new().await;
    scene.database.execute("CREATE TABLE busy (id bigserial PRIMARY KEY, filler text)").await;
    let _pgsluice = scene.run().await;
    for _ in 0..20 {
        scene
            .database
            .execute("INSERT INTO busy (filler) SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
            .await;
    }
    // 20 MB of WAL that concerns nobody: the slot passes it without an event being published.
    scene.acknowledged().await;
    let retained = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn) FROM pg_replication_slots
                    WHERE slot_name = current_database()";
    eventually("the slot retains next to nothing", SOON, async || {
        let retained: i64 = scene.database.query_one(retained).await.parse().expect("a number");
        (retained < 1_000_000).then_some(())
    })
    .await;
    assert_eq!(scene.vhost.depth("all").await, 0);
}

/// The WAL is the whole cluster's, and the slot holds it for one database, in which nothing happens.
#[tokio::test]
async fn an_idle_database_beside_a_busy_one_does_not_hold_the_wal() {
    let postgres = PostgresServer::private(&[("max_wal_size", "2GB")]);
    let (scene, busy) = (Scene::on(&postgres, rabbitmq()).await, postgres.database().await);
    busy.execute("CREATE TABLE busy (filler text)").await;
    let _pgsluice = scene.run().await;
    let retained = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint FROM pg_replication_slots";
    for _ in 0..10 {
        busy.execute("INSERT INTO busy SELECT repeat('x', 1000) FROM generate_series(1, 20000)").await;
        // A snapshot of the running transactions, which the server logs every 15 seconds: the slot can go on to it.
        busy.execute("CHECKPOINT").await;
        // More than 20 MB each; what lies between two snapshots stays.
        eventually("the slot retains next to nothing", SOON, async || {
            let retained: i64 = scene.database.query_one(retained).await.parse().expect("a number");
            (retained < 1_000_000).then_some(())
        })
        .await;
    }
    let written = "SELECT count(*) || ' ' || sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables";
    assert_eq!(scene.database.query_one(written).await, "3 0", "nothing is written to the database");
}

#[tokio::test]
async fn sigint_stops_as_sigterm_does_and_a_second_one_does_not_wait() {
    let scene = Scene::new().await;
    let mut process = scene.run().await;
    process.signal(Signal::INT);
    let (code, log) = process.wait(SOON).await;
    assert_eq!(code, Some(0), "{log}");

    // Without a binding the event stays in flight, so that the first signal waits.
    scene
        .vhost
        .channel()
        .await
        .exchange_delete("shop.changes".into(), ExchangeDeleteOptions::default())
        .await
        .expect("delete");
    let mut process = scene.run().await;
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    process.wait_for_log("no queue takes event", SOON).await;
    process.signal(Signal::INT);
    process.wait_for_log("waiting for what is in flight", SOON).await;
    process.signal(Signal::INT);
    let (code, log) = process.wait(SOON).await;
    assert_eq!(code, Some(130), "{log}");
}

#[tokio::test]
async fn the_flag_fail_fast_gives_up() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|bound| bound.local_addr()).expect("a free port");
    let config = folder("flag").join("shop.toml");
    let text = format!(
        "name = \"shop\"\n[source]\nurl = \"postgres://app@{nobody}/shop\"\ntables = [\"public.*\"]\n\
         [rabbitmq]\nurl = \"amqp://{nobody}\"\n[checkpoint]\npath = \"checkpoint\"\n"
    );
    std::fs::write(&config, text).expect("write the configuration");
    let mut process = pgsluice_command(&["run", "--fail-fast", "--config", config.to_str().expect("text")], &[]);
    let (code, log) = process.wait(SOON).await;
    assert_eq!(code, Some(6), "{log}");
}

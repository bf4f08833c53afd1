//! A pause: nothing new is read or published, what is in flight is settled, feedback goes on, and nothing is lost.

use std::time::{Duration, Instant};

use super::{config, streaming};
use crate::support::{Account, Load, PostgresServer, SOON, Scene, Web, eventually, rabbitmq};

async fn number(scene: &Scene, sql: &str) -> i64 {
    scene.database.query_one(sql).await.parse().expect("a number")
}

const ROWS: &str = "SELECT count(*) FROM ledger";

#[tokio::test]
async fn pauses_under_load_lose_and_repeat_nothing() {
    let scene = Scene::new().await;
    let process = streaming(&config(&scene, "", "")).await;
    let web = Web::of(&process).await;
    let load = Load::paced(&scene.database, Duration::from_millis(20));
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    for _ in 0..3 {
        for _ in 0..100 {
            account.take(&consumer.next(SOON).await);
        }
        let answer = web.post("/pause").await;
        assert_eq!((answer.code, answer.json()["paused"].as_bool()), (200, Some(true)));
        process.wait_for_log("paused", SOON).await;
        eventually("what is in flight is settled", SOON, async || {
            (web.metric("pgsluice_in_flight_events").await == 0.0).then_some(())
        })
        .await;
        let settled = web.status().await["events"]["settled"].as_u64().expect("a number");
        let rows = number(&scene, ROWS).await;
        eventually("the load goes on", SOON, async || (number(&scene, ROWS).await > rows + 100).then_some(())).await;
        // Rule 5: the server hears of us.
        let pid = format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{}'", scene.database.name());
        let heard = format!(
            "SELECT (extract(epoch FROM reply_time) * 1000)::bigint FROM pg_stat_replication WHERE pid = ({pid})"
        );
        let mut last = number(&scene, &heard).await;
        for _ in 0..2 {
            last = eventually("the server hears of us", SOON, async || {
                let now = number(&scene, &heard).await;
                (now > last).then_some(now)
            })
            .await;
        }
        let status = web.status().await;
        assert_eq!((&status["events"]["settled"], &status["state"]), (&settled.into(), &"paused".into()));
        assert_eq!((web.reasons().await, web.metric("pgsluice_paused").await), (vec!["paused".to_owned()], 1.0));
        assert_eq!(web.post("/pause").await.json()["changed"], false);
        assert_eq!(web.post("/resume").await.json()["changed"], true);
        web.becomes(&[]).await;
    }
    load.stop().await;
    account.settle(&scene, &mut consumer, SOON).await;
    assert_eq!(account.repeated, 0);
    scene.acknowledged().await;
}

#[tokio::test]
async fn a_paused_one_stops_as_asked_and_the_next_start_goes_on() {
    let scene = Scene::new().await;
    let config = config(&scene, "", "");
    let mut process = streaming(&config).await;
    let web = Web::of(&process).await;
    web.becomes(&[]).await;
    web.post("/pause").await;
    scene.database.execute("INSERT INTO ledger SELECT FROM generate_series(1, 500)").await;
    process.terminate();
    assert_eq!(process.wait(SOON).await.0, Some(0));
    assert_eq!(scene.vhost.depth("all").await, 0);
    process.restart();
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    account.settle(&scene, &mut consumer, SOON).await;
    assert_eq!((account.len(), account.repeated), (500, 0));
}

/// A server that shuts down waits for its streams; one that nobody reads must not hold it up.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_shuts_down_does_not_wait_for_a_paused_one() {
    let server = PostgresServer::private(&[("wal_sender_timeout", "10min")]);
    let scene = Scene::on(&server, rabbitmq()).await;
    let process = streaming(&config(&scene, "", "")).await;
    let web = Web::of(&process).await;
    web.becomes(&[]).await;
    web.post("/pause").await;
    web.becomes(&["paused"]).await;
    scene.database.execute("INSERT INTO ledger (filler) SELECT repeat('x', 1000) FROM generate_series(1, 20000)").await;
    // Nor for a stream that nobody has ever read.
    let slot = scene.database.name();
    let end =
        format!("SELECT pg_terminate_backend(active_pid)::text FROM pg_replication_slots WHERE slot_name = '{slot}'");
    scene.database.query_one(&end).await;
    eventually("it has another stream", SOON, async || {
        (web.metric("pgsluice_reconnects_total{peer=\"postgresql\"}").await == 1.0).then_some(())
    })
    .await;
    let start = Instant::now();
    tokio::task::block_in_place(|| server.stop());
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    server.start();
    // It has its slot again, and still reads nothing.
    web.becomes(&["paused"]).await;
    assert_eq!(scene.vhost.depth("all").await, 0);
    web.post("/resume").await;
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    account.settle(&scene, &mut consumer, SOON).await;
    assert_eq!((account.len(), account.repeated), (20_000, 0));
}

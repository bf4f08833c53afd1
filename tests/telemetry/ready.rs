//! Readiness in each state, with its reasons.

use super::{config, free_port, streaming};
use crate::support::{PostgresServer, RabbitServer, SOON, Scene, Web, pgsluice, postgres, rabbitmq};

#[tokio::test]
async fn a_standby_is_not_ready_and_says_why() {
    let scene = Scene::new().await;
    let config = config(&scene, "", "");
    let active = streaming(&config).await;
    Web::of(&active).await.becomes(&[]).await;
    let standby = pgsluice(&config);
    let web = Web::of(&standby).await;
    web.becomes(&["standby"]).await;
    assert_eq!(web.status().await["state"], "standby");
    assert_eq!(web.get("/healthz").await.code, 200, "alive, though not ready");
    let answer = web.get("/readyz?standby=ready").await;
    assert_eq!((answer.code, answer.json()["ready"].as_bool()), (200, Some(true)), "ready to take over");
}

#[tokio::test]
async fn a_broker_that_is_away_or_blocks_is_a_reason() {
    let broker = RabbitServer::private(&[]);
    let scene = Scene::on(postgres(), &broker).await;
    let process = streaming(&config(&scene, "", "")).await;
    let web = Web::of(&process).await;
    web.becomes(&[]).await;
    broker.rabbitmqctl(&["set_vm_memory_high_watermark", "0.0001"]);
    // It tells who publishes.
    scene.database.execute("INSERT INTO orders VALUES (1, 'ann', 1, 'new')").await;
    web.becomes(&["broker_blocked"]).await;
    assert_eq!(web.metric("pgsluice_broker_state{state=\"blocked\"}").await, 1.0);
    assert_eq!(web.status().await["state"], "waiting");
    broker.rabbitmqctl(&["set_vm_memory_high_watermark", "0.6"]);
    web.becomes(&[]).await;
    broker.stop();
    web.becomes(&["broker_connecting"]).await;
    assert_eq!(web.get("/readyz?standby=ready").await.code, 503);
    assert_eq!(web.status().await["last_error"]["part"], "broker");
    assert_eq!(web.get("/healthz").await.code, 200);
    broker.start();
    web.becomes(&[]).await;
}

#[tokio::test]
async fn a_database_that_is_away_is_a_reason() {
    let server = PostgresServer::private(&[]);
    let scene = Scene::on(&server, rabbitmq()).await;
    let process = streaming(&config(&scene, "", "")).await;
    let web = Web::of(&process).await;
    web.becomes(&[]).await;
    server.stop();
    web.becomes(&["source_connecting"]).await;
    assert_eq!(web.status().await["last_error"]["part"], "source");
    server.start();
    web.becomes(&[]).await;
}

#[tokio::test]
async fn an_event_that_no_queue_takes_is_a_reason() {
    let scene = Scene::new().await;
    let config = config(&scene, "", "").replace("[checkpoint]", "exchange = \"nowhere\"\n[checkpoint]");
    let process = streaming(&config).await;
    let web = Web::of(&process).await;
    scene.database.execute("INSERT INTO outbox (aggregatetype, aggregateid, type) VALUES ('a', '1', 't')").await;
    web.becomes(&["broker_retrying"]).await;
    assert!(web.metric("pgsluice_events_unroutable_total").await >= 1.0);
    assert_eq!(web.metric("pgsluice_in_flight_events").await, 1.0);
    let error = web.status().await["last_error"]["message"].to_string();
    assert!(error.contains("no queue takes event"), "{error}");
    scene.vhost.bind("all", "nowhere", "#").await;
    web.becomes(&[]).await;
    scene.vhost.consume("all", 1, SOON).await;
}

#[tokio::test]
async fn too_much_lag_is_a_reason_until_it_is_gone() {
    let scene = Scene::new().await;
    let process = streaming(&config(&scene, "ready_lag_bytes = 1000000\nready_lag_ms = 600000\n", "")).await;
    let web = Web::of(&process).await;
    web.becomes(&[]).await;
    web.post("/pause").await;
    web.becomes(&["paused"]).await;
    scene.database.execute("INSERT INTO ledger (filler) SELECT repeat('x', 1500) FROM generate_series(1, 1000)").await;
    web.becomes(&["paused", "lag_bytes"]).await;
    web.post("/resume").await;
    web.becomes(&[]).await;
    // By its age.
    let http = format!("listen = \"{}\"\nready_lag_ms = 1\n", free_port());
    drop(process);
    let process = streaming(&config(&scene, &http, "")).await;
    let web = Web::of(&process).await;
    web.post("/pause").await;
    scene.database.execute("INSERT INTO orders VALUES (1, 'ann', 1, 'new')").await;
    web.becomes(&["paused", "lag_ms"]).await;
    web.post("/resume").await;
    web.becomes(&[]).await;
}

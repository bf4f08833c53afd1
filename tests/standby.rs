//! A second pgsluice of the same name is a warm standby, and the checkpoint may be in a table instead of a folder.

use std::sync::Arc;
use std::time::Duration;

use ::pgsluice::checkpoint::postgres::PostgresStore;
use ::pgsluice::checkpoint::{Checkpoint, Store as _};
use ::pgsluice::failure::Failure;
use ::pgsluice::lsn::Lsn;
use ::pgsluice::postgres::conninfo::Conninfo;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{
    Account, Load, PostgresServer, Process, RabbitServer, SOON, Scene, eventually, pgsluice, pgsluice_command,
    postgres, rabbitmq,
};

/// The scene's configuration with the checkpoint in a table of the source, which the patterns would select.
fn in_a_table(scene: &Scene) -> String {
    let path = format!("path = \"{}\"\n", scene.checkpoint().display());
    let config = scene.config("");
    assert!(config.contains(&path));
    config.replace(&path, "store = \"postgres\"\n").replace("\"public.orders\", \"public.ledger\"", "\"public.*\"")
}

async fn streaming(config: &str) -> Process {
    let process = pgsluice(config);
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    process
}

/// What `/readyz` says: whether it is ready, and what the part says of itself.
async fn ready(process: &Process, part: &str) -> (bool, String) {
    let line = process.wait_for_log("answering /readyz", SOON).await;
    let line: serde_json::Value = serde_json::from_str(&line).expect("a JSON line");
    let address = line["address"].as_str().expect("an address").to_owned();
    let mut stream = tokio::net::TcpStream::connect(&address).await.expect("connects");
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.expect("asks");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let body: serde_json::Value = serde_json::from_str(body).expect("a JSON body");
    let is_ready = body["ready"].as_bool().expect("a boolean");
    assert_eq!(is_ready, head.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(is_ready || head.starts_with("HTTP/1.1 503 "), "{answer}");
    (is_ready, body[part].as_str().expect("the part's state").to_owned())
}

async fn becomes_ready(process: &Process) {
    eventually("it is ready", SOON, async || ready(process, "source").await.0.then_some(())).await;
    assert_eq!(ready(process, "broker").await, (true, "flowing".to_owned()));
}

const HTTP: &str = "[http]\nlisten = \"127.0.0.1:0\"\n";

/// How many streams there are from the scene's slot.
async fn streams(scene: &Scene) -> String {
    let slot = scene.database.name();
    let sql = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active");
    scene.database.query_one(&sql).await
}

/// Two instances with the same configuration: whichever is killed under load, the other one goes on.
async fn take_turns(scene: &Scene, config: &str) -> Account {
    let mut active = streaming(config).await;
    let load = Load::paced(&scene.database, Duration::from_millis(20));
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    for _ in 0..4 {
        let standby = pgsluice(config);
        standby.wait_for_log("standing by", SOON).await;
        becomes_ready(&active).await;
        assert_eq!(ready(&standby, "source").await, (false, "standby".to_owned()));
        for _ in 0..200 {
            account.take(&consumer.next(SOON).await);
        }
        assert_eq!(streams(scene).await, "1");
        assert!(!standby.stderr().contains("streaming from PostgreSQL"));
        active.kill();
        let killed = std::time::Instant::now();
        standby.wait_for_log("streaming from PostgreSQL", SOON).await;
        println!("taken over after {:?}", killed.elapsed());
        active = standby;
    }
    load.stop().await;
    account.settle(scene, &mut consumer, SOON).await;
    scene.acknowledged().await;
    active.terminate();
    assert_eq!(active.wait(SOON).await.0, Some(0));
    account
}

#[tokio::test]
async fn it_is_not_ready_while_either_end_or_the_checkpoint_is_away() {
    let (postgres, rabbitmq) = (PostgresServer::private(&[]), RabbitServer::private(&[]));
    let scene = Scene::on(&postgres, &rabbitmq).await;
    let pgsluice = streaming(&scene.config(HTTP)).await;
    becomes_ready(&pgsluice).await;
    let becomes = async |part: &'static str, state: &str| {
        let expected = (false, state.to_owned());
        eventually(state, SOON, async || (ready(&pgsluice, part).await == expected).then_some(())).await;
    };
    rabbitmq.kill();
    becomes("broker", "connecting").await;
    rabbitmq.start();
    becomes_ready(&pgsluice).await;
    postgres.kill();
    becomes("source", "connecting").await;
    postgres.start();
    becomes_ready(&pgsluice).await;
    let obstacle = scene.checkpoint().join("checkpoint.json.tmp");
    eventually("the obstacle stands", SOON, async || std::fs::create_dir(&obstacle).ok()).await;
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    becomes("checkpoint", "failing").await;
    std::fs::remove_dir(&obstacle).expect("removes the obstacle");
    becomes_ready(&pgsluice).await;
}

#[tokio::test]
async fn a_standby_takes_over_with_the_same_folder() {
    let scene = Scene::new().await;
    take_turns(&scene, &scene.config(HTTP)).await;
}

#[tokio::test]
async fn a_standby_takes_over_with_the_same_table() {
    let scene = Scene::new().await;
    take_turns(&scene, &format!("{}{HTTP}", in_a_table(&scene))).await;
}

/// The first one is stopped where it is, so that the server gives its slot to the second; then it goes on, with events
/// in flight and a checkpoint to store.
#[tokio::test]
async fn who_was_replaced_while_it_could_not_be_heard_ends() {
    let server = PostgresServer::private(&[("wal_sender_timeout", "1s")]);
    let scene = Scene::on(&server, rabbitmq()).await;
    let config = in_a_table(&scene);
    let mut first = streaming(&config).await;
    let second = pgsluice(&config);
    second.wait_for_log("standing by", SOON).await;
    let load = Load::paced(&scene.database, Duration::from_millis(20));
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    for _ in 0..100 {
        account.take(&consumer.next(SOON).await);
    }
    first.signal(Signal::STOP);
    second.wait_for_log("streaming from PostgreSQL", SOON).await;
    for _ in 0..300 {
        account.take(&consumer.next(SOON).await);
    }
    first.signal(Signal::CONT);
    let (code, output) = first.wait(SOON).await;
    assert_eq!(code, Some(7), "{output}");
    assert!(output.contains("another pgsluice has taken over"), "{output}");
    load.stop().await;
    account.settle(&scene, &mut consumer, SOON).await;
    scene.acknowledged().await;
}

/// Its first store never came through, and when the server is back its successor has stored: that is not taken for what
/// it goes on from, or the slot would seem to be ahead of it.
#[tokio::test]
async fn who_was_replaced_before_its_first_store_finds_that_when_it_reads_again() {
    let server = PostgresServer::private(&[]);
    let database = server.database().await;
    let conninfo = Conninfo::parse(&database.url()).expect("a URL");
    let store = || Arc::new(PostgresStore::new(conninfo.clone(), "public", "checkpoints", "shop"));
    let at = |flushed| {
        let name = || "shop".to_owned();
        let flushed = Lsn(flushed);
        Checkpoint {
            system_identifier: 1,
            timeline: 1,
            slot: name(),
            publication: name(),
            flushed,
            position: None,
            retained: Vec::new(),
        }
    };
    let (first, second, standby) = (store(), store(), store());
    let before = store();
    assert_eq!(Arc::clone(&before).load().await.expect("makes the table"), None);
    before.store(at(10)).await.expect("stores");
    for store in [&first, &second, &standby] {
        assert_eq!(Arc::clone(store).load().await.expect("reads"), Some(at(10)));
    }
    server.kill();
    let failure = Arc::clone(&first).store(at(10)).await.expect_err("the server is away");
    assert!(matches!(failure, Failure::Transient(_)), "{failure}");
    server.start();
    assert_eq!(eventually("it is back", SOON, async || Arc::clone(&first).load().await.ok()).await, Some(at(10)));
    Arc::clone(&second).load().await.expect("reads on a new connection");
    Arc::clone(&second).store(at(20)).await.expect("takes over");
    let Err(Failure::Definite(definite)) = Arc::clone(&first).load().await else { panic!("it was replaced") };
    assert!(definite.to_string().contains("another pgsluice has taken over"), "{definite}");
    assert_eq!(eventually("it is back", SOON, async || Arc::clone(&standby).load().await.ok()).await, Some(at(20)));
}

#[tokio::test]
async fn an_idle_stream_does_not_feed_itself_with_the_checkpoints_that_it_stores() {
    let scene = Scene::new().await;
    let _pgsluice = streaming(&in_a_table(&scene)).await;
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    Account::default().settle(&scene, &mut scene.vhost.consumer("all").await, SOON).await;
    let stored = "SELECT stored_at FROM pgsluice_checkpoints";
    eventually("the event is in the checkpoint", SOON, async || {
        let position = "SELECT checkpoint::json #>> '{checkpoint,position}' IS NOT NULL FROM pgsluice_checkpoints";
        (scene.database.query_one(position).await == "t").then_some(())
    })
    .await;
    // Twenty intervals of the store: long enough for many more, if it fed itself.
    let before = scene.database.query_one(stored).await;
    let later = format!("SELECT clock_timestamp() > '{before}'::timestamptz + interval '4s'");
    eventually("time passes", SOON, async || (scene.database.query_one(&later).await == "t").then_some(())).await;
    let after = scene.database.query_one(stored).await;
    let few = format!("SELECT '{after}'::timestamptz - '{before}'::timestamptz < interval '2s'");
    assert_eq!(scene.database.query_one(&few).await, "t", "stored at {before}, and again at {after}");
}

#[tokio::test]
async fn a_table_that_can_not_be_used_is_named() {
    let scene = Scene::new().await;
    let role = format!("reader_{}", scene.database.name());
    scene.database.execute(&format!("CREATE ROLE {role} LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC")).await;
    let url = scene.database.url().replace("postgres@", &format!("{role}@"));
    assert_ne!(url, scene.database.url());
    let config =
        in_a_table(&scene).replace("store = \"postgres\"\n", &format!("store = \"postgres\"\nurl = \"{url}\"\n"));
    let mut refused = pgsluice(&config);
    let (code, output) = refused.wait(SOON).await;
    assert_eq!(code, Some(3), "{output}");
    assert!(output.contains("\"public\".\"pgsluice_checkpoints\""), "{output}");
    assert!(output.contains("permission denied"), "{output}");
}

/// It can't store any more what it has received last, and the server waits until what it has sent is flushed, if it hears of any
/// flush.
#[tokio::test]
async fn a_server_that_has_the_checkpoints_too_can_be_stopped() {
    let postgres = PostgresServer::private(&[]);
    let scene = Scene::on(&postgres, rabbitmq()).await;
    let _pgsluice = streaming(&in_a_table(&scene)).await;
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    account.settle(&scene, &mut consumer, SOON).await;
    scene.acknowledged().await;
    postgres.stop();
    postgres.start();
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    account.settle(&scene, &mut consumer, SOON).await;
}

/// The positions' server goes away and comes back: nothing is acknowledged meanwhile, and nothing stops.
#[tokio::test]
async fn a_checkpoint_server_that_is_away_is_waited_for() {
    let elsewhere = PostgresServer::private(&[]);
    let keeper = elsewhere.database().await;
    let scene = Scene::on(postgres(), rabbitmq()).await;
    let with_url = format!("store = \"postgres\"\nurl = \"{}\"\n", keeper.url());
    let config = in_a_table(&scene).replace("store = \"postgres\"\n", &with_url);
    let pgsluice = streaming(&config).await;
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    account.settle(&scene, &mut consumer, SOON).await;
    scene.acknowledged().await;
    elsewhere.kill();
    let slot = scene.database.name();
    let confirmed = format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{slot}'");
    let before = scene.database.query_one(&confirmed).await;
    scene.database.execute("INSERT INTO ledger SELECT FROM generate_series(1, 100)").await;
    account.settle(&scene, &mut consumer, SOON).await;
    pgsluice.wait_for_log("the checkpoint can't be stored", SOON).await;
    assert_eq!(scene.database.query_one(&confirmed).await, before);
    elsewhere.start();
    scene.acknowledged().await;
    assert_eq!(account.repeated, 0);
    let show =
        pgsluice_command(&["checkpoint", "show", "--config", &pgsluice.config_path().display().to_string()], &[]);
    let mut show = show;
    let (code, output) = show.wait(SOON).await;
    assert_eq!(code, Some(0), "{output}");
    assert!(show.stdout().contains(slot), "{}", show.stdout());
}

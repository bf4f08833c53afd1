//! A second pgsluice of the same name is a warm standby, and the checkpoint may be in a table instead of a folder.

use std::time::Duration;

use rustix::process::Signal;

use crate::never_lose::Load;
use crate::support::{
    Account, PostgresServer, Process, SOON, Scene, eventually, pgsluice, pgsluice_command, postgres, rabbitmq,
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
        for _ in 0..200 {
            account.take(&consumer.next(SOON).await);
        }
        assert_eq!(streams(scene).await, "1");
        assert!(!standby.stderr().contains("streaming from PostgreSQL"));
        active.kill();
        standby.wait_for_log("streaming from PostgreSQL", SOON).await;
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
async fn a_standby_takes_over_with_the_same_folder() {
    let scene = Scene::new().await;
    take_turns(&scene, &scene.config("")).await;
}

#[tokio::test]
async fn a_standby_takes_over_with_the_same_table() {
    let scene = Scene::new().await;
    take_turns(&scene, &in_a_table(&scene)).await;
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

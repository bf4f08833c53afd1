//! Nothing is lost, nothing is out of order, and a repeat has the `message_id` of the first, whatever dies.

use std::time::Duration;

use ::pgsluice::checkpoint::file::read;

use crate::support::{
    Account, Load, PostgresServer, RabbitServer, SOON, Scene, eventually, folder, pgsluice_command, postgres,
};

#[tokio::test]
async fn sigkill_at_random_moments_under_load_loses_nothing() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let scene = Scene::new().await;
    let mut pgsluice = scene.run().await;
    let load = Load::paced(&scene.database, Duration::from_millis(20));
    let mut account = Account::default();
    let mut consumer = scene.vhost.consumer("all").await;
    for _ in 0..10 {
        // The moment: after so many more deliveries, wherever pgsluice then is.
        for _ in 0..random.usize(1..2_000) {
            account.take(&consumer.next(SOON).await);
        }
        pgsluice.restart();
    }
    load.stop().await;
    account.settle(&scene, &mut consumer, Duration::from_mins(2)).await;
    println!("{} rows, {} repeats", account.len(), account.repeated);
}

#[tokio::test]
async fn a_broker_that_is_stopped_under_load_and_started_again_misses_nothing() {
    let rabbitmq = RabbitServer::private(&[]);
    let scene = Scene::on(postgres(), &rabbitmq).await;
    let pgsluice = scene.run().await;
    let load = Load::start(&scene.database);
    let mut account = Account::default();
    for how in [RabbitServer::stop, RabbitServer::kill] {
        for delivery in scene.vhost.consume("all", 300, SOON).await {
            account.take(&delivery);
        }
        how(&rabbitmq);
        pgsluice.wait_for_log("RabbitMQ", SOON).await;
        rabbitmq.start();
    }
    let mut consumer = scene.vhost.consumer("all").await;
    for _ in 0..300 {
        account.take(&consumer.next(SOON).await);
    }
    load.stop().await;
    account.settle(&scene, &mut consumer, Duration::from_mins(2)).await;
    let walsenders = "SELECT count(*) FROM pg_stat_replication WHERE application_name LIKE 'pgsluice%'";
    assert_ne!(scene.database.query_one(walsenders).await, "0", "the stream stayed open");
}

/// A logical message counts in the ordinals. When it is read again, it must not turn the position back: what follows it
/// would be published a second time, and the checkpoint would be refused.
#[tokio::test]
async fn a_stream_that_breaks_in_a_transaction_with_a_logical_message_repeats_nothing() {
    const ROWS: usize = 20_000;
    let scene = Scene::new().await;
    let pgsluice = scene.run_with("in_flight_events = 100").await;
    let sql = format!(
        "BEGIN; SELECT pg_logical_emit_message(true, 'note', 'first');
         INSERT INTO ledger SELECT FROM generate_series(1, {ROWS}); COMMIT"
    );
    scene.database.execute(&sql).await;
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    for _ in 0..500 {
        account.take(&consumer.next(SOON).await);
    }
    let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = current_database()";
    assert_eq!(scene.database.query_one(end).await, "t");
    account.settle(&scene, &mut consumer, Duration::from_mins(2)).await;
    scene.acknowledged().await;
    assert_eq!((account.len(), account.repeated, scene.vhost.depth("all").await), (ROWS, 0, 0));
    assert!(!pgsluice.stderr().contains("can't be stored"), "{}", pgsluice.stderr());
}

/// A slot that nobody reads from is invalidated in the end (`idle_replication_slot_timeout`).
#[tokio::test]
async fn a_database_that_restarts_while_the_broker_is_away_gets_its_stream_back() {
    let postgres = PostgresServer::private(&[("wal_sender_timeout", "3s")]);
    let rabbitmq = RabbitServer::private(&[]);
    let scene = Scene::on(&postgres, &rabbitmq).await;
    let pgsluice = scene.run_with("in_flight_events = 10").await;
    rabbitmq.kill();
    pgsluice.wait_for_log("not connected to RabbitMQ", SOON).await;
    scene.database.execute("INSERT INTO ledger SELECT FROM generate_series(1, 1000)").await;
    let read = "SELECT count(*) FROM pg_stat_replication WHERE sent_lsn >= pg_current_wal_insert_lsn()";
    eventually("the rows wait for the broker", SOON, async || {
        (scene.database.query_one(read).await == "1").then_some(())
    })
    .await;
    postgres.kill();
    postgres.start();
    let active = "SELECT active FROM pg_replication_slots WHERE slot_name = current_database()";
    eventually("the slot is in use", SOON, async || (scene.database.query_one(active).await == "t").then_some(()))
        .await;
    rabbitmq.start();
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    account.settle(&scene, &mut consumer, SOON).await;
    scene.acknowledged().await;
}

#[tokio::test]
async fn without_room_for_the_checkpoint_nothing_is_acknowledged_and_the_stream_stays() {
    let postgres = PostgresServer::private(&[("wal_sender_timeout", "2s")]);
    let scene = Scene::on(&postgres, crate::support::rabbitmq()).await;
    let pgsluice = scene.run().await;
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    account.settle(&scene, &mut consumer, SOON).await;
    scene.acknowledged().await;
    // A folder where the file has to be: no checkpoint can be written.
    let obstacle = scene.checkpoint().join("checkpoint.json.tmp");
    eventually("the obstacle stands", SOON, async || {
        (std::fs::create_dir(&obstacle).is_ok() || obstacle.is_dir()).then_some(())
    })
    .await;
    let before = scene.database.query_one("SELECT confirmed_flush_lsn FROM pg_replication_slots").await;
    scene.database.execute("INSERT INTO ledger SELECT FROM generate_series(1, 10)").await;
    pgsluice.wait_for_log("the checkpoint can't be stored", SOON).await;
    account.settle(&scene, &mut consumer, SOON).await;
    let lives = "SELECT count(*) FROM pg_stat_replication WHERE backend_start < clock_timestamp() - interval '6s'";
    eventually("a stream outlives the server's patience", SOON, async || {
        (scene.database.query_one(lives).await == "1").then_some(())
    })
    .await;
    assert_eq!(scene.database.query_one("SELECT confirmed_flush_lsn FROM pg_replication_slots").await, before);
    std::fs::remove_dir(&obstacle).expect("remove the obstacle");
    scene.acknowledged().await;
    assert_eq!(account.repeated, 0);
}

/// The exchange of an outbox event may be named by the row. The broker closes the channel over one that does not exist, and
/// with it the confirms of all that was sent before: those must be had all the same, or they are repeated for ever.
#[tokio::test]
async fn an_event_for_an_exchange_that_does_not_exist_keeps_only_what_is_behind_it() {
    let scene = Scene::new().await;
    let exchange = ("PGSLUICE__OUTBOX__EXCHANGE", "{aggregatetype}");
    let path = folder("bad-exchange").join("pgsluice.toml");
    std::fs::write(&path, scene.config("")).expect("write the configuration");
    let pgsluice = pgsluice_command(&["run", "--config", path.to_str().expect("text")], &[exchange]);
    pgsluice.wait_for_log("streaming from PostgreSQL", SOON).await;
    let row = |exchange: &str| {
        format!(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('{exchange}', '', 't', '{{}}');"
        )
    };
    let sql = format!("BEGIN; {} {} {} COMMIT", row("shop.events").repeat(50), row("none"), row("shop.events"));
    scene.database.execute(&sql).await;
    eventually("the checkpoint is right before the event", SOON, async || {
        let checkpoint = read(&scene.checkpoint()).expect("is whole")?;
        (checkpoint.position?.ordinal == 49).then_some(())
    })
    .await;
    scene.vhost.declare_exchange("none", "topic").await;
    scene.vhost.bind("all", "none", "#").await;
    scene.acknowledged().await;
    let depth = scene.vhost.depth("all").await;
    assert!((52..200).contains(&depth), "{depth} deliveries of 52 events");
}

/// A server that shuts down waits for what it sent to be flushed, if it hears of a flush at all.
#[tokio::test]
async fn a_database_can_be_shut_down_while_the_broker_is_away() {
    let postgres = PostgresServer::private(&[]);
    let rabbitmq = RabbitServer::private(&[]);
    let scene = Scene::on(&postgres, &rabbitmq).await;
    let _pgsluice = scene.run().await;
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    scene.acknowledged().await;
    rabbitmq.kill();
    scene.database.execute("INSERT INTO ledger SELECT FROM generate_series(1, 5)").await;
    // Panics when the server has not ended in time.
    postgres.stop();
    postgres.start();
    rabbitmq.start();
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    account.settle(&scene, &mut consumer, Duration::from_mins(1)).await;
    assert_eq!(account.len(), 6);
}

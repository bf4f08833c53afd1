//! How much of the past the slot holds, and that it lets go of the rest.

use ::pgsluice::checkpoint::file::FileStore;
use ::pgsluice::checkpoint::{Checkpoint, Mark};
use ::pgsluice::lsn::Lsn;

use super::{A_DAY, assert_same, done, now, refused, replay, slot};
use crate::bad_input::streaming;
use crate::support::{
    Account, Delivery, PostgresServer, Process, RabbitServer, SOON, Scene, eventually, pgsluice, rabbitmq,
};

const MIB: u64 = 1 << 20;

async fn lsn(scene: &Scene, column: &str) -> Lsn {
    slot(scene, column).await.parse().expect("an LSN")
}

/// A MiB of WAL or a little more, in rows that are too short to be compressed.
const INSERT: &str = "INSERT INTO ledger (filler) SELECT repeat('x', 1900) FROM generate_series(1, 550)";

async fn write(scene: &Scene) {
    scene.database.execute(INSERT).await;
    passed(scene, &scene.vhost.consume("all", 550, SOON).await[0]).await;
}

/// Waits for a checkpoint after the event: only what was one can be told to PostgreSQL later.
async fn passed(scene: &Scene, event: &Delivery) {
    let commit: Lsn = event.json()["commit_lsn"].as_str().expect("commit_lsn").parse().expect("an LSN");
    eventually("it is stored", SOON, async || (stored(scene).flushed > commit).then_some(())).await;
}

fn stored(scene: &Scene) -> Checkpoint {
    ::pgsluice::checkpoint::file::read(&scene.checkpoint()).expect("reads").expect("is there")
}

#[tokio::test]
async fn so_many_bytes_are_held_and_the_rest_is_let_go() {
    let postgres = PostgresServer::private(&[]);
    let scene = Scene::on(&postgres, rabbitmq()).await;
    let _running = scene.run_with("[replay]\nretain_bytes = 8388608\n").await;
    let begin = lsn(&scene, "confirmed_flush_lsn").await;
    let held = async |confirmed: Lsn| stored(&scene).flushed.0 - confirmed.0;
    let mut kept = 0;
    for _ in 0..40 {
        write(&scene).await;
        // Decoding can start over only where the server has noted which transactions run, which it does every 15 s, too.
        scene.database.execute("CHECKPOINT").await;
        let confirmed = lsn(&scene, "confirmed_flush_lsn").await;
        let held = held(confirmed).await;
        assert!(confirmed == begin || held >= 8 * MIB, "{held} bytes are held behind {confirmed}");
        let end = scene.database.query_one("SELECT pg_current_wal_lsn()").await.parse::<Lsn>().expect("an LSN");
        kept = kept.max(end.0 - lsn(&scene, "restart_lsn").await.0);
    }
    // One part in 32 too much, and what lies between two checkpoints.
    let held = eventually("no more than that is held", SOON, async || {
        let held = held(lsn(&scene, "confirmed_flush_lsn").await).await;
        (held < 10 * MIB).then_some(held)
    });
    println!("at the end {} bytes behind the checkpoint; at most {kept} bytes of WAL", held.await);
    assert!(kept < 4 * 8 * MIB, "{kept}");
}

#[tokio::test]
async fn so_much_time_is_held_and_the_rest_is_let_go_in_an_idle_database_too() {
    let scene = Scene::new().await;
    let running = streaming(&scene, &[("replay.retain_ms", "8000"), ("source.report_every_ms", "100")]).await;
    let from = now(&scene).await;
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    let first = scene.vhost.consume("all", 1, SOON).await;
    passed(&scene, &first[0]).await;
    done(replay(&scene, &["--from", &from])).await;
    assert_same(&first, &scene.vhost.consume("all", 1, SOON).await);
    scene.acknowledged().await;
    let message = refused(replay(&scene, &["--from", &from]), 2).await;
    assert!(message.contains("is no longer retained"), "{message}");
    assert!(running.stderr().contains("the slot is held back for replays"), "{}", running.stderr());
}

async fn stop(running: &mut Process) {
    running.terminate();
    assert_eq!(running.wait(SOON).await.0, Some(0));
}

/// One that restarts more often than the retention is long would else never let go.
#[tokio::test]
async fn the_retention_goes_on_across_restarts() {
    let scene = Scene::new().await;
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    let mut running = scene.run_with(A_DAY).await;
    let begin = lsn(&scene, "confirmed_flush_lsn").await;
    let mut checkpoints = Vec::new();
    for restart in [Process::restart, Process::restart, Process::kill] {
        scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
        account.settle(&scene, &mut consumer, SOON).await;
        stop(&mut running).await;
        checkpoints.push(stored(&scene));
        restart(&mut running);
    }
    let [first, second, third] = checkpoints.as_slice() else { unreachable!() };
    // It is known since when, whoever has seen it.
    let [mark] = first.retained[..] else { panic!("{first:?}") };
    assert_eq!((mark.lsn, &second.retained, &third.retained), (begin, &first.retained, &first.retained));
    assert_eq!(lsn(&scene, "confirmed_flush_lsn").await, begin);

    // A day later, but for the last row, which was delivered half a day later.
    let before = |hours: u64| mark.at_ms - hours * 3_600_000;
    let retained = vec![
        Mark { lsn: begin, at_ms: before(30) },
        Mark { lsn: second.flushed, at_ms: before(25) },
        Mark { lsn: third.flushed, at_ms: before(12) },
    ];
    let folder = FileStore::new(&scene.checkpoint(), "shop", None);
    folder.take().expect("nobody has it");
    folder.overwrite(&Checkpoint { retained, ..third.clone() }).expect("is stored");
    drop(folder);
    running.restart();
    eventually("the slot moves on", SOON, async || {
        (lsn(&scene, "confirmed_flush_lsn").await == second.flushed).then_some(())
    })
    .await;
    done(replay(&scene, &["--from", &second.flushed.to_string()])).await;
    let again = consumer.next(SOON).await;
    assert_eq!((again.json()["after"]["id"].as_u64(), account.repeated), (Some(3), 0));
}

/// A server that shuts down waits until what it sent is flushed, if it hears of a flush; what is retained never is.
#[tokio::test]
async fn a_database_can_be_shut_down_while_its_past_is_retained() {
    let postgres = PostgresServer::private(&[]);
    let rabbitmq = RabbitServer::private(&[]);
    let scene = Scene::on(&postgres, &rabbitmq).await;
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    for retention in [A_DAY, "[replay]\nretain_ms = 1000\n", "[replay]\nretain_bytes = 1048576\n"] {
        let mut running = scene.run_with(retention).await;
        let begin = lsn(&scene, "confirmed_flush_lsn").await;
        scene.database.execute(&INSERT.repeat(2).replace("550)INSERT", "550); INSERT")).await;
        account.settle(&scene, &mut consumer, SOON).await;
        if retention != A_DAY {
            // A flush that is not the end was reported.
            eventually("something is let go of", SOON, async || {
                scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
                (lsn(&scene, "confirmed_flush_lsn").await > begin).then_some(())
            })
            .await;
        }
        let start = std::time::Instant::now();
        // Panics when the server has not ended in time.
        postgres.stop();
        println!("{retention:?}: stopped within {:?}", start.elapsed());
        postgres.start();
        scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
        account.settle(&scene, &mut consumer, SOON).await;
        running.wait_for_log("PostgreSQL is away", SOON).await;
        stop(&mut running).await;
    }
    assert_eq!(account.repeated, 0);
}

/// The server would invalidate the slot, and with it what was not delivered yet.
#[tokio::test]
async fn more_than_the_server_lets_a_slot_hold_is_refused() {
    let postgres = PostgresServer::private(&[("max_slot_wal_keep_size", "64MB")]);
    let scene = Scene::on(&postgres, rabbitmq()).await;
    let mut process = pgsluice(&scene.config("[replay]\nretain_bytes = 33554433\n"));
    let (code, log) = process.wait(SOON).await;
    assert!(code == Some(3) && log.contains("set replay.retain_bytes to at most 33554432"), "{code:?} {log}");
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(scene.database.query_one(slots).await, "0", "nothing is created before everything was judged");
    let running = scene.run_with(A_DAY).await;
    running.wait_for_log("replay.retain_ms holds WAL without a limit", SOON).await;
}

//! What dies while a replay runs: it, the broker, PostgreSQL. Nothing is skipped, and nothing is left behind.

use ::pgsluice::lsn::Lsn;
use rustix::process::Signal;

use super::{A_DAY, assert_same, done, no_slot_is_left, now, replay, replay_with, slot, start};
use crate::support::{Delivery, PostgresServer, Process, RabbitServer, SOON, Scene, eventually, postgres, rabbitmq};

const ROWS: usize = 3_000;
/// So that it is in the middle for long enough.
const SLOWLY: &str = "in_flight_events = 1\n";

/// Rows that were delivered, and where to replay them from.
async fn delivered(scene: &Scene) -> (String, Vec<Delivery>) {
    let from = now(scene).await;
    let half = format!("INSERT INTO ledger SELECT FROM generate_series(1, {})", ROWS / 2);
    scene.database.execute(&half).await;
    scene.database.execute(&half).await;
    (from, scene.vhost.consume("all", ROWS, SOON).await)
}

/// Where the copy of the slot is; none when there is none.
const COPY: &str = "SELECT count(*) FROM pg_replication_slots
                    WHERE database = current_database() AND slot_name <> database AND temporary AND active";

async fn copied(scene: &Scene) {
    eventually("there is a copy", SOON, async || (scene.database.query_one(COPY).await == "1").then_some(())).await;
}

/// Every row came, in order, from the first delivery that is not a repetition on.
async fn all_came(scene: &Scene, first: &[Delivery], mut process: Process) {
    let mut consumer = scene.vhost.consumer("all").await;
    let mut again: Vec<Delivery> = Vec::new();
    while again.len() < first.len() {
        let delivery = consumer.next(SOON).await;
        if !again.iter().any(|one| one.message_id == delivery.message_id) {
            again.push(delivery);
        }
    }
    assert_same(first, &again);
    let (code, log) = process.wait(SOON).await;
    assert_eq!(code, Some(0), "{log}");
}

#[tokio::test]
async fn a_replay_that_is_killed_leaves_no_slot() {
    let scene = Scene::new().await;
    let _running = scene.run_with(A_DAY).await;
    let (from, _) = delivered(&scene).await;
    // Nobody takes the first event, so that it goes on for ever.
    let mut process = replay(&scene, &["--from", &from, "--exchange", "nobody.listens"]);
    process.wait_for_log("no queue takes event", SOON).await;
    copied(&scene).await;
    process.signal(Signal::KILL);
    process.wait(SOON).await;
    no_slot_is_left(&scene).await;
    assert_eq!(slot(&scene, "active").await, "t");
}

#[tokio::test]
async fn a_signal_ends_it_and_says_how_to_go_on() {
    let scene = Scene::new().await;
    let _running = scene.run_with(A_DAY).await;
    let (from, first) = delivered(&scene).await;
    for signal in [Signal::TERM, Signal::INT] {
        let mut process = replay_with(&scene, SLOWLY, &["--from", &from]);
        eventually("some events have come", SOON, async || (scene.vhost.depth("all").await > 20).then_some(())).await;
        process.signal(signal);
        let (code, log) = process.wait(SOON).await;
        assert_eq!(code, Some(0), "{log}");
        no_slot_is_left(&scene).await;
        let text = process.stdout();
        let depth = scene.vhost.depth("all").await as usize;
        assert!(depth < ROWS && text.contains("ended early: "), "{depth} came: {text}");
        assert!(text.contains(&format!("{depth} confirmed")), "{depth} came: {text}");
        let (_, resume) = text.trim().rsplit_once("--from ").expect("how to go on");
        let part = scene.vhost.consume("all", depth, SOON).await;
        done(replay(&scene, &["--from", resume])).await;
        let depth = scene.vhost.depth("all").await as usize;
        let rest = scene.vhost.consume("all", depth, SOON).await;
        // The transaction that was cut is repeated as a whole.
        assert!([ROWS, ROWS / 2].contains(&rest.len()), "{} came", rest.len());
        assert_same(&first[ROWS - rest.len()..], &rest);
        assert_same(&first[..part.len()], &part);
    }
}

#[tokio::test]
async fn a_broker_that_goes_away_is_waited_for() {
    let rabbitmq = RabbitServer::private(&[]);
    let scene = Scene::on(postgres(), &rabbitmq).await;
    let mut running = scene.run_with(A_DAY).await;
    let (from, first) = delivered(&scene).await;
    running.terminate();
    assert_eq!(running.wait(SOON).await.0, Some(0));
    let process = replay_with(&scene, SLOWLY, &["--from", &from]);
    eventually("some events have come", SOON, async || (scene.vhost.depth("all").await > 20).then_some(())).await;
    rabbitmq.kill();
    process.wait_for_log("not connected to RabbitMQ", SOON).await;
    rabbitmq.start();
    all_came(&scene, &first, process).await;
}

/// The temporary slot goes with its connection; the next copy is taken where the replay has come to.
#[tokio::test]
async fn a_database_that_restarts_is_waited_for_and_nothing_is_skipped_or_sent_twice() {
    let postgres = PostgresServer::private(&[]);
    let scene = Scene::on(&postgres, rabbitmq()).await;
    let running = scene.run_with(A_DAY).await;
    let (from, first) = delivered(&scene).await;
    // A server that shuts down waits for a stream to catch up, unless that ends itself.
    let watchful = [("PGSLUICE__SOURCE__WATCH_EVERY_MS", "100"), ("PGSLUICE__SOURCE__REPORT_EVERY_MS", "100")];
    for how in [PostgresServer::stop, PostgresServer::kill] {
        let process = start(&scene, SLOWLY, &["--from", &from], &watchful);
        eventually("some events have come", SOON, async || (scene.vhost.depth("all").await > 20).then_some(())).await;
        how(&postgres);
        process.wait_for_log("PostgreSQL is away", SOON).await;
        let depth = scene.vhost.depth("all").await as usize;
        assert!(depth < ROWS, "the restart came too late");
        postgres.start();
        all_came(&scene, &first, process).await;
        assert_eq!(scene.vhost.depth("all").await, 0, "nothing is sent twice");
        no_slot_is_left(&scene).await;
    }
    running.wait_for_log("PostgreSQL is away", SOON).await;
}

/// However long it takes, a server that shuts down does not wait for its end.
#[tokio::test]
async fn a_database_can_be_shut_down_under_a_replay_that_stands_still() {
    let postgres = PostgresServer::private(&[]);
    let scene = Scene::on(&postgres, rabbitmq()).await;
    let _running = scene.run_with(A_DAY).await;
    let (from, first) = delivered(&scene).await;
    let process = replay_with(&scene, SLOWLY, &["--from", &from, "--exchange", "later"]);
    process.wait_for_log("no queue takes event", SOON).await;
    // Panics when the server has not ended in time.
    postgres.stop();
    process.wait_for_log("PostgreSQL is away", SOON).await;
    postgres.start();
    scene.vhost.queue("later", &[]).await;
    scene.vhost.bind("later", "later", "#").await;
    done(process).await;
    let again = scene.vhost.consume("later", ROWS, SOON).await;
    assert!(first.iter().map(|delivery| &delivery.message_id).eq(again.iter().map(|delivery| &delivery.message_id)));
}

/// Where the slot has let go of what was to come next, it says so rather than skip it.
#[tokio::test]
async fn a_lost_connection_whose_past_is_gone_by_now_ends_it() {
    let postgres = PostgresServer::private(&[]);
    let scene = Scene::on(&postgres, rabbitmq()).await;
    let mut running = scene.run_with(A_DAY).await;
    let (from, first) = delivered(&scene).await;
    let mut process = replay(&scene, &["--from", &from, "--exchange", "nobody.listens"]);
    process.wait_for_log("no queue takes event", SOON).await;
    running.kill();
    let _running = scene.run().await;
    scene.acknowledged().await;
    let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE temporary";
    assert_eq!(scene.database.query_one(end).await, "t");
    let (code, log) = process.wait(SOON).await;
    assert!(code == Some(3) && log.contains("was released up to"), "{code:?} {log}");
    let text = process.stdout();
    let (_, resume) = text.trim().rsplit_once("--from ").expect("how to go on");
    // Before PostgreSQL 15 an empty transaction is in the stream too, and one of autovacuum's may come before the first row.
    let lsn = |text: &str| text.parse::<Lsn>().expect("an LSN");
    let commit = first[0].json()["commit_lsn"].as_str().map(lsn).expect("commit_lsn");
    assert!((lsn(&from)..=commit).contains(&lsn(resume)), "{from} {resume} {commit}: {text}");
}

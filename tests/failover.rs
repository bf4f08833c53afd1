//! Failover to a standby, with and without a copy of the slot there: nothing is lost, or what may be is named.

use std::time::Duration;

use ::pgsluice::checkpoint::Checkpoint;
use ::pgsluice::checkpoint::file;
use ::pgsluice::lsn::Lsn;

use crate::bad_input::{ended, says, streaming};
use crate::support::{Account, Consumer, Database, Load, PostgresServer, Process, SOON, Scene, eventually, rabbitmq};

/// What the primary says when it waits for the standby of `synchronized_standby_slots`.
const WAITS: &str = "does not have active_pid";

/// A URL that names both servers, of which the primary is to be found.
fn both(scene: &Scene, standby: &PostgresServer) -> String {
    scene.database.url().replacen("@127.0.0.1", &format!("@127.0.0.1:{},127.0.0.1", standby.port()), 1)
}

fn checkpoint(scene: &Scene) -> Checkpoint {
    file::read(&scene.checkpoint()).expect("reads").expect("is there")
}

async fn row(database: &Database) {
    database.execute("INSERT INTO ledger DEFAULT VALUES").await;
}

async fn take(account: &mut Account, consumer: &mut Consumer, count: usize) {
    for _ in 0..count {
        account.take(&consumer.next(SOON).await);
    }
}

/// Has the standby keep a copy of the slot, and waits for one that survives a promotion. Comes before any load: the
/// standby takes no slot that needs older transactions than it knows, and the server lets a slot move on now and then.
async fn synchronize(scene: &Scene, standby: &PostgresServer) {
    let (here, there) = (&scene.database, scene.database.on(standby));
    let moved = "SELECT catalog_xmin::text = pg_snapshot_xmax(pg_current_snapshot())::text
                 FROM pg_replication_slots WHERE slot_name = current_database()";
    eventually("the slot has moved on", SOON, async || {
        here.execute("SELECT pg_log_standby_snapshot()").await;
        (here.query_one(moved).await == "t").then_some(())
    })
    .await;
    for sql in ["ALTER SYSTEM SET sync_replication_slots = on", "SELECT pg_reload_conf()"] {
        there.execute(sql).await;
    }
    let kept = "SELECT count(*) FROM pg_replication_slots
                WHERE slot_name = current_database() AND synced AND NOT temporary";
    eventually("the standby has the slot", SOON, async || (there.query_one(kept).await == "1").then_some(())).await;
}

/// Waits for the end, in doubt, with `parts`. Started again it is the same, with the `range` up to the checkpoint; and
/// nothing of the new primary is published.
async fn in_doubt(scene: &Scene, process: &mut Process, parts: &[&str], range: impl Fn(Lsn) -> String) {
    says(&ended(process, 5).await, parts);
    let before = checkpoint(scene);
    for _ in 0..2 {
        process.restart();
        let message = ended(process, 5).await;
        says(&message, parts);
        says(&message, &[&range(before.flushed), "may be missing", "hint: ", "pgsluice checkpoint reset"]);
    }
    assert_eq!((checkpoint(scene), scene.vhost.depth("all").await), (before, 0));
}

/// The whole of it: a standby that pgsluice is never ahead of takes over with the slot, while everybody writes.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_primary_under_load_goes_on_at_the_standby() {
    let primary = PostgresServer::private_of(17, &[("synchronized_standby_slots", "standby")]);
    let standby = primary.standby(&[]).await;
    let mut scene = Scene::on(&primary, rabbitmq()).await;
    let url = both(&scene, &standby);
    let mut pgsluice = streaming(&scene, &[("source.url", &url)]).await;
    synchronize(&scene, &standby).await;
    let load = Load::paced_at(&url, Duration::from_millis(20));
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    take(&mut account, &mut consumer, 3_000).await;
    // What is committed from here on is not with the standby.
    standby.stop();
    pgsluice.wait_for_log(WAITS, SOON).await;
    primary.kill();
    standby.start();
    standby.promote().await;
    scene.database = scene.database.on(&standby);
    take(&mut account, &mut consumer, 3_000).await;
    load.stop().await;
    // Not a row that the standby does not have.
    account.settle(&scene, &mut consumer, SOON).await;
    scene.acknowledged().await;
    assert_eq!(checkpoint(&scene).timeline, 2);
    println!("{} rows, {} repeats", account.len(), account.repeated);
    assert!(pgsluice.runs());
}

/// Nothing holds pgsluice back, but a primary that shuts down gives the standby everything. pgsluice is killed and
/// started again while there is no primary.
#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_under_load_goes_on_at_the_standby() {
    let primary = PostgresServer::private_of(18, &[]);
    let standby = primary.standby(&[]).await;
    let mut scene = Scene::on(&primary, rabbitmq()).await;
    let url = both(&scene, &standby);
    let mut pgsluice = streaming(&scene, &[("source.url", &url)]).await;
    synchronize(&scene, &standby).await;
    let load = Load::paced_at(&url, Duration::from_millis(20));
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    take(&mut account, &mut consumer, 3_000).await;
    primary.stop();
    pgsluice.restart();
    let away = pgsluice.wait_for_log("PostgreSQL is away", SOON).await;
    says(&away, &["it is a standby, and a primary is wanted"]);
    standby.promote().await;
    scene.database = scene.database.on(&standby);
    take(&mut account, &mut consumer, 3_000).await;
    load.stop().await;
    account.settle(&scene, &mut consumer, SOON).await;
    scene.acknowledged().await;
    assert_eq!(checkpoint(&scene).timeline, 2);
    println!("{} rows, {} repeats", account.len(), account.repeated);
}

/// Asynchronous replication loses what the standby had not received. What was published of it does not exist any more,
/// and what the new primary has in its place must not be taken for it.
#[tokio::test]
async fn a_standby_that_lacks_what_was_published_is_in_doubt() {
    let primary = PostgresServer::private_of(17, &[]);
    let standby = primary.standby(&[]).await;
    let scene = Scene::on(&primary, rabbitmq()).await;
    let mut pgsluice = streaming(&scene, &[("source.url", &both(&scene, &standby))]).await;
    synchronize(&scene, &standby).await;
    let there = scene.database.on(&standby);
    row(&scene.database).await;
    scene.acknowledged().await;
    standby.stop();
    row(&scene.database).await;
    scene.acknowledged().await;
    assert_eq!(scene.vhost.consume("all", 2, SOON).await.len(), 2);
    primary.kill();
    standby.start();
    standby.promote().await;
    row(&there).await;
    let switch = there.query_one("SELECT split_part(pg_read_file('pg_wal/00000002.history'), E'\\t', 2)").await;
    let switch: Lsn = switch.parse().expect("an LSN");
    let range =
        |delivered| format!("Changes between {switch} and {delivered} were delivered from timeline 1 and do not");
    in_doubt(&scene, &mut pgsluice, &["past the failover: the server is on timeline 2"], range).await;
}

/// Before 17 a promoted standby has no slot, whatever it has received.
#[tokio::test]
async fn a_standby_without_the_slot_is_in_doubt() {
    let primary = PostgresServer::private(&[]);
    let standby = primary.standby(&[]).await;
    let scene = Scene::on(&primary, rabbitmq()).await;
    let mut pgsluice = streaming(&scene, &[("source.url", &both(&scene, &standby))]).await;
    let there = scene.database.on(&standby);
    row(&scene.database).await;
    scene.acknowledged().await;
    assert_eq!(scene.vhost.consume("all", 1, SOON).await.len(), 1);
    primary.stop();
    standby.promote().await;
    row(&there).await;
    let parts = ["does not exist (any more)", "did not come along in a failover"];
    let range = |delivered| format!("Changes committed between {delivered} and ");
    in_doubt(&scene, &mut pgsluice, &parts, range).await;
}

/// What the standby does not have yet is not sent. That is said once, and neither a restart of the primary ends it.
#[tokio::test]
async fn a_standby_that_is_down_is_waited_for() {
    let primary = PostgresServer::private_of(17, &[("synchronized_standby_slots", "standby")]);
    let standby = primary.standby(&[]).await;
    let scene = Scene::on(&primary, rabbitmq()).await;
    let mut pgsluice = streaming(&scene, &[("source.report_every_ms", "100")]).await;
    row(&scene.database).await;
    scene.acknowledged().await;
    standby.stop();
    row(&scene.database).await;
    pgsluice.wait_for_log(WAITS, SOON).await;
    eventually("the server has said it often", SOON, async || {
        (primary.log().matches(WAITS).count() > 10).then_some(())
    })
    .await;
    assert_eq!(pgsluice.stderr().matches(WAITS).count(), 1, "{}", pgsluice.stderr());
    primary.stop();
    pgsluice.wait_for_log("PostgreSQL is away", SOON).await;
    primary.start();
    eventually("the stream is back", SOON, async || primary.log().contains(WAITS).then_some(())).await;
    assert_eq!(scene.vhost.depth("all").await, 1);
    standby.start();
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    account.settle(&scene, &mut consumer, SOON).await;
    assert!(account.len() == 2 && pgsluice.runs());
}

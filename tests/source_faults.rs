//! PostgreSQL breaks, restarts, crashes, runs full, gives us up, or is changed under way: nothing is lost, nothing is
//! repeated; and where a human is needed, it is said what for.
//!
//! What people do to slot, checkpoint and publication is in `bad_input`, `open` and `peers_losses`.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use ::pgsluice::checkpoint::file;
use ::pgsluice::lsn::Lsn;
use rustix::process::Signal;

use crate::bad_input::{ended, says, streaming};
use crate::support::{
    Account, Consumer, Cutter, Database, Load, PostgresServer, Process, SOON, Scene, eventually, folder, pgsluice,
    rabbitmq,
};

/// Some 2,000 rows a second, which leaves no backlog.
const PACE: Duration = Duration::from_millis(20);

async fn rows(database: &Database, count: usize) {
    database.execute(&format!("INSERT INTO ledger SELECT FROM generate_series(1, {count})")).await;
}

async fn take(account: &mut Account, consumer: &mut Consumer, count: usize) {
    for _ in 0..count {
        account.take(&consumer.next(SOON).await);
    }
}

fn stored(scene: &Scene) -> Lsn {
    file::read(&scene.checkpoint()).expect("reads").expect("is there").flushed
}

/// One column of our slot.
async fn slot(scene: &Scene, column: &str) -> String {
    let name = scene.database.name();
    scene.database.query_one(&format!("SELECT {column} FROM pg_replication_slots WHERE slot_name = '{name}'")).await
}

/// SIGTERM, and waits until the server knows.
async fn stop(scene: &Scene, process: &mut Process) {
    process.terminate();
    assert_eq!(process.wait(SOON).await.0, Some(0));
    eventually("the slot is free", SOON, async || (slot(scene, "active").await == "f").then_some(())).await;
}

/// Ends the stream from the server's side, as an administrator would.
async fn terminate(scene: &Scene) {
    assert_eq!(slot(scene, "pg_terminate_backend(active_pid)").await, "t");
}

/// How often a stream broke and was opened again.
fn broken(process: &Process) -> usize {
    process.stderr().matches("the replication stream can't go on").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_under_load_in_whatever_way_loses_and_repeats_nothing() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let postgres = PostgresServer::private(&[]);
    let scene = Scene::on(&postgres, rabbitmq()).await;
    let network = Cutter::before(postgres.port()).await;
    let url = scene.database.url().replace(&postgres.port().to_string(), &network.port().to_string());
    let pgsluice = streaming(&scene, &[("source.url", &url)]).await;
    let load = Load::paced(&scene.database, PACE);
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    let faults = ["restart", "crash", "network", "walsender"];
    for (done, fault) in faults.iter().enumerate() {
        let opened = || pgsluice.stderr().matches("streaming from PostgreSQL").count();
        eventually("the stream is back", SOON, async || (opened() == done + 1).then_some(())).await;
        // Most likely in the middle of these.
        rows(&scene.database, 5_000).await;
        take(&mut account, &mut consumer, random.usize(1..2_000)).await;
        match *fault {
            "restart" => postgres.stop(),
            "crash" => postgres.kill(),
            // Anywhere in a frame.
            "network" => network.cut_after(random.usize(1..10_000)),
            _ => terminate(&scene).await,
        }
        eventually(fault, SOON, async || (broken(&pgsluice) > done).then_some(())).await;
        postgres.start();
    }
    load.stop().await;
    account.settle(&scene, &mut consumer, SOON).await;
    scene.acknowledged().await;
    println!("{} rows", account.len());
    assert_eq!((broken(&pgsluice), account.repeated, scene.vhost.depth("all").await), (faults.len(), 0, 0));
}

/// What was acknowledged is in the server's memory until a checkpoint of its own. Our checkpoint says where to go on.
#[tokio::test]
async fn a_crash_that_turns_the_slot_back_repeats_nothing() {
    let postgres = PostgresServer::private(&[]);
    let scene = Scene::on(&postgres, rabbitmq()).await;
    let mut pgsluice = scene.run().await;
    rows(&scene.database, 100).await;
    scene.acknowledged().await;
    stop(&scene, &mut pgsluice).await;
    let acknowledged: Lsn = slot(&scene, "confirmed_flush_lsn").await.parse().expect("an LSN");
    postgres.kill();
    postgres.start();
    let after: Lsn = slot(&scene, "confirmed_flush_lsn").await.parse().expect("an LSN");
    assert!(after < acknowledged && acknowledged <= stored(&scene), "{after}, {acknowledged}, {}", stored(&scene));
    rows(&scene.database, 100).await;
    pgsluice.restart();
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    account.settle(&scene, &mut consumer, SOON).await;
    scene.acknowledged().await;
    assert_eq!((account.len(), account.repeated, scene.vhost.depth("all").await), (200, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_the_server_drops_for_its_silence_comes_back() {
    let postgres = PostgresServer::private(&[("wal_sender_timeout", "1s")]);
    let scene = Scene::on(&postgres, rabbitmq()).await;
    let pgsluice = scene.run().await;
    let load = Load::paced(&scene.database, PACE);
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    take(&mut account, &mut consumer, 1_000).await;
    pgsluice.signal(Signal::STOP);
    let dropped = "terminating walsender process due to replication timeout";
    eventually(dropped, SOON, async || postgres.log().contains(dropped).then_some(())).await;
    pgsluice.signal(Signal::CONT);
    eventually("it notices", SOON, async || (broken(&pgsluice) > 0).then_some(())).await;
    take(&mut account, &mut consumer, 1_000).await;
    load.stop().await;
    account.settle(&scene, &mut consumer, SOON).await;
    scene.acknowledged().await;
    assert_eq!((broken(&pgsluice), account.repeated), (1, 0));
}

/// PostgreSQL 18 gives up a slot that nobody has read from for so long.
#[tokio::test]
async fn a_slot_that_was_idle_for_too_long_is_in_doubt() {
    let postgres = PostgresServer::private_of(18, &[("idle_replication_slot_timeout", "1s")]);
    let scene = Scene::on(&postgres, rabbitmq()).await;
    let mut pgsluice = scene.run().await;
    rows(&scene.database, 1).await;
    scene.acknowledged().await;
    // Not while it is in use, however quiet it is.
    let old = "now() - backend_start > interval '2s' FROM pg_stat_replication";
    eventually("the stream is old", SOON, async || {
        (scene.database.query_one(&format!("SELECT {old}")).await == "t").then_some(())
    })
    .await;
    scene.database.execute("CHECKPOINT").await;
    assert_eq!(slot(&scene, "wal_status").await, "reserved");
    stop(&scene, &mut pgsluice).await;
    eventually("the slot is given up", SOON, async || {
        scene.database.execute("CHECKPOINT").await;
        (slot(&scene, "wal_status").await == "lost").then_some(())
    })
    .await;
    rows(&scene.database, 1).await;
    for _ in 0..2 {
        pgsluice.restart();
        let message = ended(&mut pgsluice, 5).await;
        let range = format!("Changes committed between {} and ", stored(&scene));
        says(&message, &["was invalidated by the server (idle_timeout)", &range, "may be missing"]);
        says(&message, &["hint: Drop it (SELECT pg_drop_replication_slot(", "idle_replication_slot_timeout"]);
    }
    assert_eq!(scene.vhost.depth("all").await, 1);
}

/// PostgreSQL 18 only notes that it skips a publication, and goes on without the rows.
#[tokio::test]
async fn a_publication_that_18_skips_is_in_doubt() {
    let postgres = PostgresServer::private_of(18, &[]);
    let scene = Scene::on(&postgres, rabbitmq()).await;
    let mut pgsluice = scene.run().await;
    rows(&scene.database, 1).await;
    scene.acknowledged().await;
    scene.database.execute("ALTER PUBLICATION shop RENAME TO shop_2").await;
    rows(&scene.database, 1).await;
    let message = ended(&mut pgsluice, 5).await;
    let missing = format!("error: changes committed after {} may be missing", stored(&scene));
    says(&message, &[&missing, "the server skips a publication that it can't find"]);
    // Back when it looks, but not where it decodes.
    scene.database.execute("ALTER PUBLICATION shop_2 RENAME TO shop").await;
    rows(&scene.database, 1).await;
    for _ in 0..2 {
        pgsluice.restart();
        says(&ended(&mut pgsluice, 5).await, &[&missing, "the server skips a publication that it can't find"]);
    }
    assert_eq!(scene.vhost.depth("all").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_dropped_under_load_keeps_the_events_that_it_had() {
    let scene = Scene::new().await;
    scene.database.execute("CREATE TABLE extra (id int PRIMARY KEY)").await;
    let pgsluice = streaming(&scene, &[("source.tables", "public.ledger,public.extra")]).await;
    scene.vhost.queue("extra", &[]).await;
    scene.vhost.bind("extra", "shop.changes", "public.extra.*").await;
    scene.vhost.queue("ledger", &[]).await;
    scene.vhost.bind("ledger", "shop.changes", "public.ledger.*").await;
    let load = Load::paced(&scene.database, PACE);
    let client = scene.database.client().await;
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("ledger").await);
    take(&mut account, &mut consumer, 500).await;
    for id in 1..=200 {
        client.execute("INSERT INTO extra VALUES ($1)", &[&id]).await.expect("a row");
    }
    client.batch_execute("BEGIN; INSERT INTO extra VALUES (201); DROP TABLE extra; COMMIT").await.expect("the end");
    take(&mut account, &mut consumer, 2_000).await;
    load.stop().await;
    account.settle(&scene, &mut consumer, SOON).await;
    scene.acknowledged().await;
    let events = scene.vhost.consume("extra", 201, SOON).await;
    let ids = events.iter().map(|event| event.json()["after"]["id"].as_i64());
    assert!(ids.eq((1..=201).map(Some)));
    assert_eq!((broken(&pgsluice), account.repeated, scene.vhost.depth("extra").await), (0, 0, 0));
}

#[tokio::test]
async fn a_database_that_was_renamed_goes_on_under_its_new_name() {
    let mut scene = Scene::new().await;
    let mut pgsluice = scene.run().await;
    rows(&scene.database, 1).await;
    scene.acknowledged().await;
    let (old, maintenance) = (scene.database.name().to_owned(), scene.database.named("postgres"));
    pgsluice.signal(Signal::STOP);
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{old}'");
    let rename = format!("ALTER DATABASE {old} RENAME TO {old}_new");
    eventually("nobody is connected", SOON, async || {
        maintenance.execute(&end).await;
        maintenance.client().await.batch_execute(&rename).await.ok()
    })
    .await;
    scene.database = scene.database.named(&format!("{old}_new"));
    rows(&scene.database, 1).await;
    pgsluice.signal(Signal::CONT);
    let message = ended(&mut pgsluice, 3).await;
    says(&message, &[&format!("database \"{old}\" does not exist"), "hint: ", "renamed", "keeps its slot"]);
    let slot = [("source.slot", old.as_str())];
    let _pgsluice = streaming(&scene, &slot).await;
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    account.settle(&scene, &mut consumer, SOON).await;
    assert_eq!((account.len(), account.repeated), (2, 0));
}

/// The server knows the new password before the password file does. `logins`: how many have to wait for it.
async fn waits_for_a_password(logins: usize, checkpoint: impl FnOnce(String) -> String) {
    let postgres = PostgresServer::private(&[]);
    let scene = Scene::on(&postgres, rabbitmq()).await;
    let hba = postgres.dir().join("data/pg_hba.conf");
    let trust = std::fs::read_to_string(&hba).expect("read pg_hba.conf");
    std::fs::write(&hba, format!("host all app 127.0.0.1/32 scram-sha-256\n{trust}")).expect("write pg_hba.conf");
    scene.database.execute("CREATE ROLE app SUPERUSER LOGIN PASSWORD 'one'; SELECT pg_reload_conf()").await;
    let passfile = folder("passfile").join("pgpass");
    let know = |password: &str| {
        std::fs::write(&passfile, format!("*:*:*:app:{password}\n")).expect("write the password file");
        std::fs::set_permissions(&passfile, PermissionsExt::from_mode(0o600)).expect("keep it private");
    };
    know("one");
    let url = format!("{}?passfile={}", scene.database.url_as("app"), passfile.display());
    let lets_in = async || tokio_postgres::connect(&scene.database.url_as("app"), tokio_postgres::NoTls).await.is_ok();
    eventually("the reload", SOON, async || (!lets_in().await).then_some(())).await;
    let path = format!("path = \"{}\"", scene.checkpoint().display());
    let config = scene.config("").replace(&scene.database.url(), &url).replace(&path, &checkpoint(path.clone()));
    let mut pgsluice = pgsluice(&config);
    pgsluice.wait_for_log("streaming from PostgreSQL", SOON).await;
    rows(&scene.database, 1).await;
    scene.acknowledged().await;

    let all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'";
    for sql in ["ALTER ROLE app PASSWORD 'two'", all] {
        scene.database.execute(sql).await;
    }
    let refused = pgsluice.wait_for_log("the login that worked before is refused", SOON).await;
    says(&refused, &["password authentication failed for user \\\"app\\\""]);
    rows(&scene.database, 1).await;
    eventually("it tries again", SOON, async || {
        (postgres.log().matches("password authentication failed").count() > 3).then_some(())
    })
    .await;
    assert!(pgsluice.runs());
    know("two");
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    account.settle(&scene, &mut consumer, SOON).await;
    scene.acknowledged().await;
    assert!((1..=logins).contains(&pgsluice.stderr().matches("is refused").count()), "{}", pgsluice.stderr());
    assert_eq!((account.len(), account.repeated), (2, 0));
}

#[tokio::test]
async fn a_password_that_is_changed_under_way_is_waited_for() {
    waits_for_a_password(1, |path| path).await;
}

#[tokio::test]
async fn a_password_that_is_changed_under_way_is_waited_for_by_the_checkpoint_too() {
    waits_for_a_password(2, |_| "store = \"postgres\"".to_owned()).await;
}

/// Makes the server's disk run full, see there.
fn disk_full() -> (PathBuf, PathBuf) {
    let folder = folder("disk_full");
    let (library, flag) = (folder.join("disk_full.so"), folder.join("full"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/disk_full.c");
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).args([source, "-ldl"]).status();
    assert!(made.expect("run cc (scripts/test installs it)").success());
    (library, flag)
}

/// First there is no room for a transaction that is decoded, then none for the WAL, which ends the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_the_database_is_waited_out() {
    const ROWS: usize = 5_000;
    let (library, full) = disk_full();
    let postgres = PostgresServer::private_with(&library, ("DISK_FULL", &full));
    let scene = Scene::on(&postgres, rabbitmq()).await;
    let url = format!("{}?options=-c%20logical_decoding_work_mem%3D64kB", scene.database.url());
    let mut pgsluice = streaming(&scene, &[("source.url", &url)]).await;
    scene.acknowledged().await;
    stop(&scene, &mut pgsluice).await;
    rows(&scene.database, ROWS).await;
    std::fs::write(&full, "").expect("fill the disk");
    pgsluice.restart();
    let spills = "could not write to data file for XID";
    eventually("there is no room again and again", SOON, async || {
        (postgres.log().matches(spills).count() > 2).then_some(())
    })
    .await;
    says(&pgsluice.stderr(), &["PostgreSQL is away; trying again", spills, "No space left on device"]);
    assert!(pgsluice.runs());
    std::fs::remove_file(&full).expect("make room");
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    account.settle(&scene, &mut consumer, SOON).await;
    assert_eq!((account.len(), account.repeated), (ROWS, 0));

    let load = Load::paced(&scene.database, PACE);
    take(&mut account, &mut consumer, 500).await;
    let breaks = broken(&pgsluice);
    std::fs::write(&full, "").expect("fill the disk");
    eventually("there is no room for the WAL", SOON, async || {
        if let Ok((client, connection)) = tokio_postgres::connect(&scene.database.url(), tokio_postgres::NoTls).await {
            tokio::spawn(connection);
            client.batch_execute("SELECT pg_logical_emit_message(true, '', ''), pg_switch_wal()").await.ok();
        }
        postgres.log().contains("PANIC").then_some(())
    })
    .await;
    eventually("the stream breaks", SOON, async || (broken(&pgsluice) > breaks).then_some(())).await;
    std::fs::remove_file(&full).expect("make room");
    postgres.kill();
    postgres.start();
    take(&mut account, &mut consumer, 1_000).await;
    load.stop().await;
    account.settle(&scene, &mut consumer, Duration::from_mins(1)).await;
    scene.acknowledged().await;
    assert_eq!(account.repeated, 0);
    assert!(pgsluice.runs());
}

//! What the machine does to the process: no room on its disk, no file descriptor left, a clock that jumps.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, prlimit};

use crate::support::{
    Account, Load, PostgresServer, RabbitServer, SOON, Scene, eventually, folder, pgsluice_command, pgsluice_under,
    rabbitmq,
};

/// Writes the scene's configuration to a file.
fn config(scene: &Scene) -> String {
    let path = folder("process_faults").join("pgsluice.toml");
    std::fs::write(&path, scene.config("")).expect("write the configuration");
    path.display().to_string()
}

/// A file system of 64 KiB, which only pgsluice sees, is filled and emptied again.
#[tokio::test]
async fn a_full_disk_is_waited_out() {
    let postgres = PostgresServer::private(&[("wal_sender_timeout", "2s")]);
    let scene = Scene::on(&postgres, rabbitmq()).await;
    let config = config(&scene);
    let disk = scene.checkpoint();
    std::fs::create_dir(&disk).expect("creates");
    let mount = format!("mount -t tmpfs -o size=64k disk '{}' && exec \"$@\"", disk.display());
    let mut wrapper = vec!["unshare", "--mount"];
    if !rustix::process::geteuid().is_root() {
        wrapper.push("--map-root-user");
    }
    wrapper.extend(["sh", "-c", &mount, "sh"]);
    let pgsluice = pgsluice_under(&wrapper, &["run", "--config", &config], &[]);
    pgsluice.wait_for_log("streaming from PostgreSQL", SOON).await;
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    account.settle(&scene, &mut consumer, SOON).await;
    scene.acknowledged().await;
    let seen = PathBuf::from(format!("/proc/{}/root{}", pgsluice.pid().as_raw_nonzero(), disk.display()));
    let filler = seen.join("filler");
    let full = std::fs::write(&filler, vec![0; 128 * 1024]).expect_err("is full");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);

    scene.database.execute("INSERT INTO ledger SELECT FROM generate_series(1, 100)").await;
    account.settle(&scene, &mut consumer, SOON).await;
    let error = pgsluice.wait_for_log("the checkpoint can't be stored", SOON).await;
    assert!(error.contains("No space left on device"), "{error}");
    let confirmed = "SELECT confirmed_flush_lsn FROM pg_replication_slots";
    let before = scene.database.query_one(confirmed).await;
    let lives = "SELECT count(*) FROM pg_stat_replication WHERE backend_start < clock_timestamp() - interval '5s'";
    eventually("a stream outlives the server's patience", SOON, async || {
        (scene.database.query_one(lives).await == "1").then_some(())
    })
    .await;
    assert_eq!(scene.database.query_one(confirmed).await, before);
    std::fs::remove_file(&filler).expect("makes room");
    scene.acknowledged().await;
    pgsluice.wait_for_log("the checkpoint is being stored again", SOON).await;
    assert_eq!((account.len(), account.repeated), (101, 0));
}

/// With no descriptor to spare, neither a checkpoint nor a connection can be made.
#[tokio::test]
async fn without_file_descriptors_it_waits_for_some() {
    let rabbitmq = RabbitServer::private(&[]);
    let scene = Scene::on(crate::support::postgres(), &rabbitmq).await;
    let mut pgsluice = scene.run().await;
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    account.settle(&scene, &mut consumer, SOON).await;
    scene.acknowledged().await;
    let limit = |current| Rlimit { current: Some(current), maximum: Some(1024) };
    let before = prlimit(Some(pgsluice.pid()), Resource::Nofile, limit(3)).expect("lowers the limit");
    assert!(before.current > Some(3));
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    let error = pgsluice.wait_for_log("the checkpoint can't be stored", SOON).await;
    assert!(error.contains("Too many open files"), "{error}");
    scene.vhost.close_connections(&rabbitmq).await;
    let terminate =
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = current_database()";
    scene.database.execute(terminate).await;
    pgsluice.wait_for_log("PostgreSQL is away", SOON).await;
    scene.database.execute("INSERT INTO ledger SELECT FROM generate_series(1, 100)").await;
    assert!(pgsluice.runs());
    prlimit(Some(pgsluice.pid()), Resource::Nofile, limit(1024)).expect("raises the limit");
    let mut consumer = scene.vhost.consumer("all").await;
    account.settle(&scene, &mut consumer, SOON).await;
    scene.acknowledged().await;
}

/// The library of Debian's package `faketime` gives the process a clock of its own.
fn faketime() -> PathBuf {
    let lib = std::fs::read_dir("/usr/lib").expect("is there").filter_map(Result::ok).map(|entry| entry.path());
    let found = lib.chain([PathBuf::from("/usr/lib64")]).map(|lib| lib.join("faketime/libfaketimeMT.so.1"));
    let mut found = found.filter(|path| path.exists());
    found.next().expect("libfaketime is missing: run scripts/lib/install")
}

#[tokio::test]
async fn a_clock_that_jumps_decades_changes_nothing() {
    let postgres = PostgresServer::private(&[("wal_sender_timeout", "2s")]);
    let scene = Scene::on(&postgres, rabbitmq()).await;
    let config = config(&scene);
    let clock = folder("clock").join("offset");
    let set = |offset: &str| {
        let next = clock.with_extension("next");
        std::fs::write(&next, offset).and_then(|()| std::fs::rename(&next, &clock)).expect("sets the clock");
    };
    set("+0");
    let (library, clock_file) = (faketime().display().to_string(), clock.display().to_string());
    let environment = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", clock_file.as_str()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let pgsluice = pgsluice_command(&["run", "--config", &config], &environment);
    pgsluice.wait_for_log("streaming from PostgreSQL", SOON).await;
    let load = Load::paced(&scene.database, Duration::from_millis(20));
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    let told = "SELECT FROM pg_stat_replication WHERE reply_time";
    // A time before PostgreSQL's epoch, 2000, is none.
    for (offset, condition) in
        [("+30y", "> now() + interval '29 years'"), ("-20y", "< now() - interval '19 years'"), ("-60y", "IS NULL")]
    {
        set(offset);
        // Seen by the server, so that the jump is known to have arrived.
        eventually("the server hears the new time", SOON, async || {
            let client = scene.database.client().await;
            client.query_opt(&format!("{told} {condition}"), &[]).await.expect("asks")
        })
        .await;
        for _ in 0..100 {
            account.take(&consumer.next(SOON).await);
        }
    }
    load.stop().await;
    account.settle(&scene, &mut consumer, SOON).await;
    scene.acknowledged().await;
    assert_eq!(account.repeated, 0);
    assert_eq!(pgsluice.stderr().matches("streaming from PostgreSQL").count(), 1, "{}", pgsluice.stderr());
}

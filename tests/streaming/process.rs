//! pgsluice itself, with streaming: what it costs, what it acknowledges, and what happens when it is killed, or its disk full.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pgsluice::checkpoint::file::read;
use rustix::process::Pid;

use super::recorder::STREAM_SOON;
use crate::bad_input::{start, streaming};
use crate::support::{
    Account, PostgresServer, Process, SOON, Scene, eventually, folder, pgsluice_command, pgsluice_under, postgres,
    rabbitmq,
};

/// A scene whose large transactions are streamed, and the folder where they are kept.
pub(super) async fn scene_on(server: &PostgresServer) -> (Scene, String) {
    let scene = Scene::on(server, rabbitmq()).await;
    scene.database.execute(&format!("ALTER DATABASE {} {STREAM_SOON}", scene.database.name())).await;
    (scene, folder("streamed").display().to_string())
}

/// pgsluice on it, which keeps nearly nothing in memory.
pub(super) async fn run(scene: &Scene, folder: &str) -> Process {
    let keys = [
        ("source.streaming", "true"),
        ("source.streaming_memory_bytes", "65536"),
        ("source.streaming_folder", folder),
        ("source.report_every_ms", "200"),
    ];
    streaming(scene, &keys).await
}

/// Waits until the server has streamed something for the scene's slot.
async fn is_streamed(scene: &Scene) {
    let slot = scene.database.name();
    let sql = format!("SELECT stream_txns > 0 FROM pg_stat_replication_slots WHERE slot_name = '{slot}'");
    eventually("a transaction is streamed", SOON, async || (scene.database.query_one(&sql).await == "t").then_some(()))
        .await;
}

/// Rows of the ledger, each of some 2 KB.
fn rows(count: usize) -> String {
    format!("INSERT INTO ledger (filler) SELECT repeat(md5(n::text), 60) FROM generate_series(1, {count}) n")
}

/// The files below a folder that a process has open, with their sizes.
fn files(pid: Pid, folder: &str) -> Vec<u64> {
    let open = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).expect("procfs");
    let below = |path: &PathBuf| std::fs::read_link(path).is_ok_and(|target| target.starts_with(Path::new(folder)));
    let paths = open.filter_map(|entry| Some(entry.ok()?.path())).filter(below);
    paths.filter_map(|path| Some(std::fs::metadata(path).ok()?.len())).collect()
}

fn peak_kib(pid: Pid) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).expect("procfs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    peak.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test]
async fn a_streamed_transaction_needs_no_memory_of_its_size_and_its_file_is_gone_with_it() {
    let (scene, folder) = scene_on(postgres()).await;
    let pgsluice = run(&scene, &folder).await;
    let client = scene.database.client().await;
    // A million rows, which are rolled back.
    let million = "BEGIN; INSERT INTO ledger SELECT n FROM generate_series(1, 1000000) n";
    client.batch_execute(million).await.expect("inserts");
    eventually("it is in a file", SOON, async || {
        files(pgsluice.pid(), &folder).iter().any(|size| *size > 50_000_000).then_some(())
    })
    .await;
    assert_eq!(
        std::fs::read_dir(&folder).expect("the folder").count(),
        0,
        "a file without a name goes with the process"
    );
    client.batch_execute("ROLLBACK").await.expect("rolls back");
    eventually("the file is gone", SOON, async || files(pgsluice.pid(), &folder).is_empty().then_some(())).await;
    // Some 120 MB, which are committed.
    scene.database.execute(&rows(60_000)).await;
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    account.settle(&scene, &mut consumer, Duration::from_mins(2)).await;
    assert_eq!((account.len(), account.repeated), (60_000, 0));
    eventually("the file is gone", SOON, async || files(pgsluice.pid(), &folder).is_empty().then_some(())).await;
    let peak = peak_kib(pgsluice.pid());
    assert!(peak < 64 * 1024, "peak memory {peak} KiB");
    let log = pgsluice.stderr();
    assert_eq!(log.matches("outgrow source.streaming_memory_bytes").count(), 1, "{log}");
}

/// Neither holds a transaction in progress back what is committed beside it, nor is it lost for that.
#[tokio::test]
async fn what_is_in_progress_holds_back_no_acknowledgement_and_is_not_lost() {
    let server = PostgresServer::private(&[("wal_sender_timeout", "2s")]);
    let (scene, folder) = scene_on(&server).await;
    let mut pgsluice = run(&scene, &folder).await;
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    let client = scene.database.client().await;
    client.batch_execute(&format!("BEGIN; {}", rows(3000))).await.expect("inserts");
    is_streamed(&scene).await;
    let lives = "SELECT count(*) FROM pg_stat_replication WHERE backend_start < clock_timestamp() - interval '5s'";
    eventually("the stream outlives the server's patience", SOON, async || {
        (scene.database.query_one(lives).await == "1").then_some(())
    })
    .await;
    for turn in 1..=4 {
        scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
        account.settle(&scene, &mut consumer, SOON).await;
        scene.acknowledged().await;
        client.batch_execute(&rows(3000)).await.expect("inserts");
        pgsluice.kill();
        // Every other time without streaming.
        pgsluice = if turn % 2 == 0 { run(&scene, &folder).await } else { scene.run().await };
    }
    assert_eq!(account.len(), 4);
    client.batch_execute("COMMIT").await.expect("commits");
    account.settle(&scene, &mut consumer, Duration::from_mins(1)).await;
    scene.acknowledged().await;
    assert_eq!((account.len(), account.repeated), (15_004, 0));
}

/// Killed in the middle of a transaction, and started again in the other mode.
#[tokio::test]
async fn the_option_may_be_changed_within_a_transaction() {
    let (scene, folder) = scene_on(postgres()).await;
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    for streams_first in [true, false] {
        let mut first = if streams_first { run(&scene, &folder).await } else { scene.run().await };
        let before = account.len();
        let sql = format!(
            "BEGIN; {0}; SAVEPOINT s; {0}; ROLLBACK TO s; {0}; SAVEPOINT s; {0}; RELEASE s; {0}; COMMIT",
            rows(4000)
        );
        scene.database.execute(&sql).await;
        while account.len() < before + 3000 {
            account.take(&consumer.next(SOON).await);
        }
        eventually("a checkpoint is within the transaction", SOON, async || {
            let checkpoint = read(&scene.checkpoint()).expect("is whole")?;
            let position = checkpoint.position?;
            (position.commit_lsn >= checkpoint.flushed && position.ordinal > 0).then_some(())
        })
        .await;
        first.kill();
        let mut second = if streams_first { scene.run().await } else { run(&scene, &folder).await };
        account.settle(&scene, &mut consumer, Duration::from_mins(1)).await;
        assert_eq!(account.len(), before + 16_000);
        scene.acknowledged().await;
        second.kill();
    }
    is_streamed(&scene).await;
}

/// The reader waits until all that it has read before is used up, and nobody else may wait for it with a part of that in hand.
#[tokio::test]
async fn a_row_that_is_larger_than_a_read_buffer_is_streamed() {
    let (scene, folder) = scene_on(postgres()).await;
    let _process = run(&scene, &folder).await;
    let large = "INSERT INTO ledger (filler) SELECT repeat('x', 2000000) FROM generate_series(1, 5)";
    scene.database.execute(&format!("BEGIN; {0}; {large}; {0}; {large}; COMMIT", rows(1000))).await;
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    account.settle(&scene, &mut consumer, SOON).await;
    assert_eq!((account.len(), account.repeated), (2010, 0));
    is_streamed(&scene).await;
}

/// A file system of 1 MiB, which only pgsluice sees.
#[tokio::test]
async fn without_room_for_it_a_transaction_is_read_when_it_is_committed() {
    let (scene, folder) = scene_on(postgres()).await;
    let config = crate::support::folder("streaming").join("pgsluice.toml");
    std::fs::write(&config, scene.config("")).expect("write the configuration");
    let mount = format!("mount -t tmpfs -o size=1m disk '{folder}' && exec \"$@\"");
    let mut wrapper = vec!["unshare", "--mount"];
    if !rustix::process::geteuid().is_root() {
        wrapper.push("--map-root-user");
    }
    wrapper.extend(["sh", "-c", &mount, "sh"]);
    let keys = [
        ("PGSLUICE__SOURCE__STREAMING", "true"),
        ("PGSLUICE__SOURCE__STREAMING_MEMORY_BYTES", "65536"),
        ("PGSLUICE__SOURCE__STREAMING_FOLDER", folder.as_str()),
    ];
    let pgsluice = pgsluice_under(&wrapper, &["run", "--config", config.to_str().expect("text")], &keys);
    pgsluice.wait_for_log("streaming from PostgreSQL", SOON).await;
    let client = scene.database.client().await;
    client.batch_execute(&format!("BEGIN; {}", rows(3000))).await.expect("inserts");
    let log = pgsluice.wait_for_log("No space left on device", SOON).await;
    assert!(log.contains(&format!("below source.streaming_folder, {folder}")), "{log}");
    // What is committed meanwhile need not wait.
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    account.settle(&scene, &mut consumer, SOON).await;
    client.batch_execute("COMMIT").await.expect("commits");
    account.settle(&scene, &mut consumer, SOON).await;
    assert_eq!((account.len(), account.repeated), (3001, 0));
    assert!(pgsluice.stderr().contains("as with source.streaming = false"));
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_said_before_anything_is_created() {
    let (scene, folder) = scene_on(postgres()).await;
    let missing = format!("{folder}/missing");
    let mut process = start(&scene, &[("source.streaming", "true"), ("source.streaming_folder", &missing)]);
    let (code, log) = process.wait(SOON).await;
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains(&format!("no file can be made below source.streaming_folder, {missing}")), "{log}");
    let slot = scene.database.name();
    let made = format!(
        "SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}') + (SELECT count(*) FROM pg_publication)"
    );
    assert_eq!(scene.database.query_one(&made).await, "0");
}

/// What was delivered without streaming is replayed with it.
#[tokio::test]
async fn a_replay_may_be_streamed() {
    let (scene, folder) = scene_on(postgres()).await;
    let _pgsluice = scene.run_with("[replay]\nretain_ms = 86400000\n").await;
    let from = scene.database.query_one("SELECT pg_current_wal_flush_lsn()").await;
    scene.database.execute(&format!("BEGIN; SAVEPOINT s; {0}; ROLLBACK TO s; {0}; COMMIT", rows(3000))).await;
    let first = scene.vhost.consume("all", 3000, SOON).await;
    let config = crate::support::folder("streaming").join("pgsluice.toml");
    std::fs::write(&config, scene.config("")).expect("write the configuration");
    let keys = [
        ("PGSLUICE__SOURCE__STREAMING", "true"),
        ("PGSLUICE__SOURCE__STREAMING_MEMORY_BYTES", "65536"),
        ("PGSLUICE__SOURCE__STREAMING_FOLDER", folder.as_str()),
    ];
    let arguments = ["replay", "--config", config.to_str().expect("text"), "--from", &from];
    let mut replay = pgsluice_command(&arguments, &keys);
    let (code, log) = replay.wait(SOON).await;
    assert!(code == Some(0) && log.contains("outgrow source.streaming_memory_bytes"), "{code:?}: {log}");
    let again = scene.vhost.consume("all", 3000, SOON).await;
    for (first, again) in first.iter().zip(&again) {
        assert_eq!((&first.message_id, &first.body), (&again.message_id, &again.body));
    }
    assert_eq!(scene.vhost.depth("all").await, 0);
}

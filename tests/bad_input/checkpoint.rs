//! A checkpoint that can't be used.

use pgsluice::checkpoint::Checkpoint;
use pgsluice::checkpoint::file::{FILE, FileStore, read as read_file};

use super::{commit, delivered, mended, path, refused, says, streaming};
use crate::support::{SOON, Scene, eventually, folder};

/// What is stored.
pub(super) fn read(scene: &Scene) -> Checkpoint {
    read_file(&scene.checkpoint()).expect("reads").expect("is there")
}

/// As the hints advise.
pub(super) fn move_away(scene: &Scene) {
    let file = scene.checkpoint().join(FILE);
    std::fs::rename(&file, file.with_extension("away")).expect("move the checkpoint away");
}

/// A scene whose pgsluice has delivered a row and stopped; another one is committed.
pub(super) async fn stopped() -> Scene {
    let scene = Scene::new().await;
    let mut process = streaming(&scene, &[]).await;
    commit(&scene, 1).await;
    assert_eq!(scene.vhost.consume("all", 1, SOON).await.len(), 1);
    scene.acknowledged().await;
    process.terminate();
    assert_eq!(process.wait(SOON).await.0, Some(0));
    let slot = scene.database.name();
    let active = format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}'");
    eventually("the slot is free", SOON, async || (scene.database.query_one(&active).await == "f").then_some(())).await;
    commit(&scene, 1).await;
    scene
}

/// The row that was committed after the stop, and another one.
async fn nothing_is_lost(scene: &Scene) {
    let _process = streaming(scene, &[]).await;
    commit(scene, 1).await;
    let rest = scene.vhost.consume("all", 2, SOON).await;
    let ids: Vec<_> = rest.iter().map(|it| it.json()["after"]["id"].as_i64()).collect();
    assert_eq!(ids, [Some(2), Some(3)]);
}

#[tokio::test]
async fn a_checkpoint_that_is_corrupt() {
    let scene = stopped().await;
    let file = scene.checkpoint().join(FILE);
    let good = std::fs::read_to_string(&file).expect("read the checkpoint");
    for (bad, what) in [
        (String::new(), "it is empty"),
        (good[..good.len() / 2].to_owned(), "it is truncated or corrupt"),
        (good.replacen("\"timeline\": 1", "\"timeline\": 2", 1), "it is corrupt, or was edited"),
    ] {
        assert_ne!(bad, good);
        std::fs::write(&file, bad).expect("spoil the checkpoint");
        let message = refused(&scene, &[], 7).await;
        says(&message, &[&format!("error: the checkpoint {} is not usable", file.display()), what]);
        says(&message, &["hint: Restore it from a backup", "or move it away"]);
    }
    move_away(&scene);
    nothing_is_lost(&scene).await;
}

#[tokio::test]
async fn a_checkpoint_of_another_system() {
    let scene = stopped().await;
    let ours = read(&scene);
    move_away(&scene);
    let foreign = Checkpoint { system_identifier: 1, ..ours.clone() };
    let store = FileStore::new(&scene.checkpoint(), "shop", None);
    store.take().expect("is free");
    store.replace(&foreign).expect("stores");
    drop(store);
    let message = refused(&scene, &[], 5).await;
    let systems = format!("is of the system 1, and the server is the system {}", ours.system_identifier);
    says(&message, &[&format!("error: the checkpoint ({}) {systems}", ours.flushed)]);
    says(
        &message,
        &[
            &format!("after {} is not known to be delivered", ours.flushed),
            "hint: If `source.url` leads to the wrong server",
        ],
    );
    move_away(&scene);
    nothing_is_lost(&scene).await;
}

#[tokio::test]
async fn a_checkpoint_of_another_slot() {
    let scene = stopped().await;
    let other = format!("{}_other", scene.database.name());
    let message = refused(&scene, &[("source.slot", &other)], 5).await;
    says(&message, &[&format!("is of replication slot \"{}\", and \"{other}\" is configured", scene.database.name())]);
    says(&message, &["hint: Set `source.slot = "]);
    nothing_is_lost(&scene).await;
}

#[tokio::test]
async fn a_checkpoint_that_can_not_be_written() {
    let scene = Scene::new().await;
    let file = folder("in_the_way").join("file");
    std::fs::write(&file, "").expect("write a file");
    let file = path(&file);
    for (folder, what) in [
        (file.clone(), "a file is in the way"),
        (format!("{file}/below"), "a file is in the way"),
        ("/proc/pgsluice".to_owned(), "hint: Set `checkpoint.path` to a folder"),
        ("/proc".to_owned(), "hint: Set `checkpoint.path` to a folder"),
    ] {
        let message = refused(&scene, &[("checkpoint.path", &folder)], 7).await;
        says(&message, &["error: cannot ", &folder, what, "`checkpoint.path`"]);
    }
    mended(&scene, &[]).await;
}

/// As on a disk that is full for a while: nothing is acknowledged, and nothing stops.
#[tokio::test]
async fn a_checkpoint_that_can_not_be_stored_for_a_while() {
    let scene = Scene::new().await;
    let process = streaming(&scene, &[]).await;
    // A new slot is acknowledged up to its start, which is stored a moment later.
    eventually("a checkpoint is stored", SOON, async || scene.checkpoint().join(FILE).exists().then_some(())).await;
    scene.acknowledged().await;
    let (store, aside) = (scene.checkpoint(), scene.checkpoint().with_extension("aside"));
    std::fs::rename(&store, &aside).expect("move the folder");
    std::fs::write(&store, "").expect("write a file");
    commit(&scene, 1).await;
    let log = process.wait_for_log("the checkpoint can't be stored", SOON).await;
    says(&log, &["nothing more is acknowledged to PostgreSQL until it can", "Not a directory"]);
    let confirmed =
        format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{}'", scene.database.name());
    let confirmed: pgsluice::lsn::Lsn = scene.database.query_one(&confirmed).await.parse().expect("an LSN");
    std::fs::remove_file(&store).expect("remove the file");
    std::fs::rename(&aside, &store).expect("move the folder back");
    assert!(confirmed <= read(&scene).flushed, "acknowledged is only what was stored");
    process.wait_for_log("the checkpoint is being stored again", SOON).await;
    scene.acknowledged().await;
    delivered(&scene).await;
}

#[tokio::test]
async fn a_checkpoint_that_another_process_uses() {
    let scene = Scene::new().await;
    let process = streaming(&scene, &[]).await;
    let message = refused(&scene, &[("standby_timeout_ms", "300")], 7).await;
    says(
        &message,
        &[
            "error: the checkpoint folder ",
            &format!("in use by another pgsluice (process {}, name \"shop\")", process.pid().as_raw_nonzero()),
        ],
    );
    says(&message, &["hint: Two processes must not share a checkpoint"]);
    commit(&scene, 1).await;
    delivered(&scene).await;
}

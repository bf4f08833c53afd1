//! `pgsluice checkpoint`, and `pgsluice run --from`.

use crate::support::{Account, Process, SOON, Scene, eventually, pgsluice_command};

/// Runs a command with a configuration: exit code, and what it printed.
async fn command(config: &str, arguments: &[&str]) -> (i32, String) {
    let mut arguments = arguments.to_vec();
    arguments.extend(["--config", config]);
    let mut process = pgsluice_command(&arguments, &[]);
    let (code, stderr) = process.wait(SOON).await;
    (code.expect("ends by itself"), format!("{}{stderr}", process.stdout()))
}

async fn stop(process: &mut Process) {
    process.terminate();
    assert_eq!(process.wait(SOON).await.0, Some(0));
}

async fn insert(scene: &Scene) {
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
}

#[tokio::test]
async fn a_position_gets_a_name_while_pgsluice_runs_and_is_gone_back_to() {
    for store in ["file", "postgres"] {
        let scene = Scene::new().await;
        let path = format!("path = \"{}\"\n", scene.checkpoint().display());
        let text = match store {
            "file" => scene.config(""),
            _ => scene.config("").replace(&path, "store = \"postgres\"\n"),
        };
        let mut process = crate::support::pgsluice(&text);
        let config = process.config_path().display().to_string();
        process.wait_for_log("streaming from PostgreSQL", SOON).await;
        let mut consumer = scene.vhost.consumer("all").await;
        insert(&scene).await;
        let first = consumer.next(SOON).await;
        scene.acknowledged().await;

        let (code, output) = command(&config, &["checkpoint", "name", "before-release-42"]).await;
        assert_eq!(code, 0, "{output}");
        let (code, output) = command(&config, &["checkpoint", "name", "before-release-42"]).await;
        assert_eq!(code, 2, "{output}");
        assert!(output.contains("there is a position called before-release-42"), "{output}");
        let (code, output) = command(&config, &["checkpoint", "name", "before-release-42", "--replace"]).await;
        assert_eq!(code, 0, "{output}");
        let named = output.trim().rsplit(' ').next().expect("an LSN").to_owned();
        let (code, output) = command(&config, &["checkpoint", "name", "../escape"]).await;
        assert_eq!(code, 2, "{output}");
        let (code, output) = command(&config, &["checkpoint", "show"]).await;
        assert_eq!(code, 0, "{output}");
        let line = output.lines().find(|line| line.starts_with("before-release-42")).expect("is shown");
        assert!(line.contains(&named), "{output}");

        let (code, output) = command(&config, &["checkpoint", "set", "before-release-42"]).await;
        assert!(matches!(code, 2 | 7), "{output}");
        assert!(output.contains("in use by"), "{output}");

        insert(&scene).await;
        let second = consumer.next(SOON).await;
        scene.acknowledged().await;
        stop(&mut process).await;
        let (code, output) = command(&config, &["checkpoint", "set", "before-release-42"]).await;
        assert_eq!(code, 2, "{output}");
        assert!(output.contains(&format!("{named} is no longer retained: the earliest position is ")), "{output}");
        assert!(output.contains("hint: ") && output.contains("replay.retain_bytes"), "{output}");
        assert_ne!(first.message_id, second.message_id);
    }
}

#[tokio::test]
async fn run_from_sends_again_what_the_slot_retains() {
    let scene = Scene::new().await;
    let mut process = scene.run().await;
    let config = process.config_path().display().to_string();
    let mut consumer = scene.vhost.consumer("all").await;
    insert(&scene).await;
    consumer.next(SOON).await;
    scene.acknowledged().await;
    let slot = scene.database.name();
    let start = format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{slot}'");
    stop(&mut process).await;
    let start = scene.database.query_one(&start).await;
    // What a slot that is held back would retain.
    let replace = format!("SELECT pg_copy_logical_replication_slot('{slot}', '{slot}_kept')");
    scene.database.execute(&replace).await;

    process.restart();
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    insert(&scene).await;
    insert(&scene).await;
    let sent = [consumer.next(SOON).await, consumer.next(SOON).await].map(|delivery| delivery.message_id);
    scene.acknowledged().await;
    stop(&mut process).await;
    let free = format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}'");
    eventually("the slot is free", SOON, async || (scene.database.query_one(&free).await == "f").then_some(())).await;
    let swap = format!(
        "SELECT pg_drop_replication_slot('{slot}'); SELECT pg_copy_logical_replication_slot('{slot}_kept', '{slot}');
         SELECT pg_drop_replication_slot('{slot}_kept')"
    );
    scene.database.execute(&swap).await;

    let nonsense = pgsluice_command(&["run", "--from", "yesterday", "--config", &config], &[]).wait(SOON).await;
    assert_eq!(nonsense.0, Some(2), "{}", nonsense.1);
    assert!(nonsense.1.contains("no LSN, and no position's name: \"yesterday\""), "{}", nonsense.1);
    let mut again = pgsluice_command(&["run", "--from", &start, "--config", &config], &[]);
    again.wait_for_log("the checkpoint was moved back", SOON).await;
    let resent = [consumer.next(SOON).await, consumer.next(SOON).await].map(|delivery| delivery.message_id);
    assert_eq!(resent, sent);
    scene.acknowledged().await;
    stop(&mut again).await;

    // Forward only with --skip: then what lies between never comes. Not to where WAL is inserted: what
    // other tests have not committed yet is not flushed, and in the future.
    insert(&scene).await;
    let end = scene.database.query_one("SELECT pg_current_wal_flush_lsn()").await;
    let (code, output) = command(&config, &["checkpoint", "set", &end]).await;
    assert_eq!(code, 2, "{output}");
    assert!(output.contains(&format!("{end} lies ahead of the checkpoint")), "{output}");
    let (code, output) = command(&config, &["checkpoint", "set", &end, "--skip"]).await;
    assert_eq!(code, 0, "{output}");
    let (code, output) = command(&config, &["checkpoint", "set", "FF/0", "--skip"]).await;
    assert_eq!((code, output.contains("is in the future")), (2, true), "{output}");
    process.restart();
    insert(&scene).await;
    let id = consumer.next(SOON).await.json()["after"]["id"].as_i64();
    let last = scene.database.query_one("SELECT max(id) FROM ledger").await;
    assert_eq!(id.map(|id| id.to_string()), Some(last));
}

#[tokio::test]
async fn a_checkpoint_that_is_reset_goes_on_from_the_slot() {
    let scene = Scene::new().await;
    let mut process = scene.run().await;
    let config = process.config_path().display().to_string();
    insert(&scene).await;
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    account.settle(&scene, &mut consumer, SOON).await;
    let (code, output) = command(&config, &["checkpoint", "reset"]).await;
    assert!(matches!(code, 2 | 7) && output.contains("in use by"), "{output}");
    stop(&mut process).await;
    let (code, output) = command(&config, &["checkpoint", "reset"]).await;
    assert_eq!((code, output.contains("is forgotten")), (0, true), "{output}");
    let (code, output) = command(&config, &["checkpoint", "reset"]).await;
    assert_eq!((code, output.contains("there was no checkpoint")), (0, true), "{output}");
    insert(&scene).await;
    // Without a checkpoint, what the slot was told is where everything may begin, and nothing ahead of it.
    let end = scene.database.query_one("SELECT pg_current_wal_flush_lsn()").await;
    for arguments in [&["run", "--from", &end][..], &["checkpoint", "set", &end]] {
        let (code, output) = command(&config, arguments).await;
        assert_eq!(code, 2, "{output}");
        assert!(output.contains(&format!("{end} lies ahead of the checkpoint")), "{output}");
    }
    // One that can't be read is no obstacle.
    std::fs::write(scene.checkpoint().join("checkpoint.json"), "{").expect("writes");
    let (code, output) = command(&config, &["checkpoint", "reset"]).await;
    assert_eq!((code, output.contains("is forgotten")), (0, true), "{output}");
    process.restart();
    process.wait_for_log("no checkpoint was found for the slot", SOON).await;
    account.settle(&scene, &mut consumer, SOON).await;
}

//! Bad input, end to end: pgsluice ends with the exit code of the README, one message and a hint that says what to
//! do, no back-trace and no secret; and once that is done, a restart delivers everything that was committed.

mod broker;
mod checkpoint;
mod event;
mod peers;
mod server;
mod slot;
mod source;
mod stream;

use std::path::Path;

use crate::support::{Account, Process, SOON, Scene, folder, pgsluice_command};

/// A password that must not show.
const SECRET: &str = "hunter2hunter2";

/// `key = value`, on top of the scene's configuration.
pub(crate) type Overrides<'a> = &'a [(&'a str, &'a str)];

/// pgsluice with the scene's configuration and `overrides`, which go through the environment.
pub(crate) fn start(scene: &Scene, overrides: Overrides<'_>) -> Process {
    let file = folder("bad_input").join("pgsluice.toml");
    std::fs::write(&file, scene.config("")).expect("write the configuration");
    let variable = |key: &str| format!("PGSLUICE__{}", key.replace('.', "__").to_uppercase());
    let variables: Vec<(String, &str)> = overrides.iter().map(|(key, value)| (variable(key), *value)).collect();
    let variables: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    pgsluice_command(&["run", "--config", &path(&file)], &variables)
}

/// [`start`], once it streams.
pub(crate) async fn streaming(scene: &Scene, overrides: Overrides<'_>) -> Process {
    let process = start(scene, overrides);
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    process
}

/// [`start`] where it can't work: the message.
async fn refused(scene: &Scene, overrides: Overrides<'_>, code: i32) -> String {
    let mut process = start(scene, overrides);
    ended(&mut process, code).await
}

/// Waits for the end. The message is the last that it writes, and looks as all of them do.
pub(crate) async fn ended(process: &mut Process, code: i32) -> String {
    let (ended, output) = process.wait(SOON).await;
    assert_eq!(ended, Some(code), "{output}");
    assert!(!output.contains(SECRET), "{output}");
    for trace in ["backtrace", "panicked", "   0: "] {
        assert!(!output.contains(trace), "{output}");
    }
    let message = output.split_once("error: ").unwrap_or_else(|| panic!("no message: {output}")).1;
    let message = format!("error: {message}");
    let log = output.strip_suffix(&message).expect("the message comes last");
    assert!(log.lines().all(|line| line.starts_with('{')), "only log lines come before the message: {output}");
    assert!(!log.contains("\"ERROR\""), "the message is the only error: {output}");
    let labels: Vec<&str> = message.lines().filter(|line| !line.starts_with("  ") && !line.is_empty()).collect();
    assert_eq!(labels.len(), 2, "one error, one hint: {message}");
    assert!(labels[1].starts_with("hint: "), "{message}");
    message
}

/// As a configuration has it.
fn path(path: &Path) -> String {
    path.to_str().expect("the path is text").to_owned()
}

/// The message holds every part.
pub(crate) fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` in: {message}");
    }
}

/// Commits so many rows, each in a transaction of its own.
async fn commit(scene: &Scene, rows: usize) {
    for _ in 0..rows {
        scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    }
}

/// Every row of the ledger arrives, or has arrived, and nothing else is left in the queue.
async fn delivered(scene: &Scene) -> Account {
    let mut account = Account::default();
    account.settle(scene, &mut scene.vhost.consumer("all").await, SOON).await;
    account
}

/// What was wrong is mended: what is committed now arrives as well as what was before.
async fn mended(scene: &Scene, overrides: Overrides<'_>) {
    let _process = streaming(scene, overrides).await;
    commit(scene, 1).await;
    delivered(scene).await;
}

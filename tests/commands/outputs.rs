//! What the commands print of a shop that runs, and what they and a start say when it can't be, held against snapshots.

use super::snapshots::{is_as_before, names};
use crate::docs::world::{World, lasting, server};
use crate::support::SOON;

/// While pgsluice runs.
const RUNNING: [(&str, &str); 17] = [
    ("check", "pgsluice check --config shop.toml"),
    ("check-json", "pgsluice check --config shop.toml --json"),
    ("check-no-broker", "PGSLUICE__RABBITMQ__URL=amqp://127.0.0.1:1 pgsluice check --config shop.toml"),
    ("checkpoint-name", "pgsluice checkpoint name --config shop.toml before-release-43"),
    ("checkpoint-name-taken", "pgsluice checkpoint name --config shop.toml before-release-42"),
    ("checkpoint-set-running", "pgsluice checkpoint set --config shop.toml 16/B374D848"),
    ("checkpoint-show", "pgsluice checkpoint show --config shop.toml"),
    ("config-show", "pgsluice config show --config shop.toml"),
    ("parked-list", "pgsluice parked list --config shop.toml"),
    ("parked-send", "pgsluice parked send --config shop.toml"),
    ("replay-dry-run", "pgsluice replay --config shop.toml --from 2026-11-21T10:00:00Z --dry-run"),
    ("replay-from-table", "pgsluice replay --config shop.toml --from-table --exchange repair"),
    ("replay-too-far", "pgsluice replay --config shop.toml --from 0/1000"),
    ("slot-drop-running", "pgsluice slot drop --config shop.toml --yes shop"),
    ("slot-list", "pgsluice slot list --config shop.toml"),
    ("status", "pgsluice status --config shop.toml"),
    ("status-database", "pgsluice status --database postgres://app@db1/shop --slot shop"),
];

/// Once it has stopped; what a start meets is before what is dropped for it.
const STOPPED: [(&str, &str); 11] = [
    ("status-stopped", "pgsluice status --config shop.toml"),
    (
        "run-nobody-there",
        "PGSLUICE__SOURCE__URL=postgres://app@127.0.0.1:1/shop pgsluice run --config shop.toml --fail-fast",
    ),
    ("run-wrong-password", "PGSLUICE__RABBITMQ__PASSWORD=wrong pgsluice run --config shop.toml"),
    ("run-no-such-outbox", "PGSLUICE__OUTBOX__TABLE=public.otbox pgsluice run --config shop.toml"),
    ("checkpoint-set-ahead", "pgsluice checkpoint set --config shop.toml FFFF/0"),
    ("checkpoint-set", "pgsluice checkpoint set --config shop.toml 16/B374D848"),
    ("slot-drop", "pgsluice slot drop --config shop.toml --yes shop"),
    ("slot-drop-again", "pgsluice slot drop --config shop.toml --yes shop"),
    ("run-slot-lost", "pgsluice run --config shop.toml"),
    ("run-checkpoint-corrupt", "echo >checkpoint/checkpoint.json; pgsluice run --config shop.toml"),
    ("checkpoint-reset", "pgsluice checkpoint reset --config shop.toml"),
];

#[tokio::test]
async fn what_the_commands_print_is_as_before() {
    let server = server().await;
    let mut world = World::new(&server).await;
    for (name, command) in RUNNING {
        is_as_before(&format!("outputs/{name}"), &printed(&world, command).await);
    }
    world.stop().await;
    for (name, command) in STOPPED {
        is_as_before(&format!("outputs/{name}"), &printed(&world, command).await);
    }
    let known = RUNNING.iter().chain(&STOPPED).map(|(name, _)| (*name).to_owned());
    assert_eq!(names("outputs"), known.collect());
}

/// The exit code, what it printed, and the error; without the log before that.
async fn printed(world: &World<'_>, command: &str) -> String {
    let mut process = world.shell(command);
    let (code, log) = process.wait(SOON).await;
    let code = code.unwrap_or_else(|| panic!("{command}: {log}"));
    let error = log.find("error: ").map(|at| &log[at..]).unwrap_or_default();
    let said = lasting(&format!("{}{}", world.there(&process.stdout()), world.there(error)));
    format!("$ {command}\nexit code {code}\n{said}")
}

//! Every command of the documents is run, against real servers, in the [`World`] that they speak of.

use std::collections::BTreeSet;

use rustix::process::{Pid, Signal, kill_process};

use super::elsewhere;
use super::pages::{Block, Page, commands, pages};
use super::world::{World, lasting, server};
use crate::support::{Process, SOON, eventually};

/// Pages with many commands have a test of their own, to run side by side; the last test takes all others.
const LONG: [&str; 4] = ["README.md", "docs/commands.md", "docs/replay.md", "docs/runbook.md"];

#[tokio::test]
async fn the_commands_of_the_readme_work() {
    page(&Page::read(LONG[0].as_ref())).await;
}

#[tokio::test]
async fn the_commands_of_the_page_of_commands_work() {
    page(&Page::read(LONG[1].as_ref())).await;
}

#[tokio::test]
async fn the_commands_of_replay_work() {
    page(&Page::read(LONG[2].as_ref())).await;
}

#[tokio::test]
async fn the_commands_of_the_runbook_work() {
    page(&Page::read(LONG[3].as_ref())).await;
}

#[tokio::test]
async fn the_commands_of_all_other_pages_work() {
    for other in pages().iter().filter(|page| !LONG.iter().any(|long| page.is(long))) {
        page(other).await;
    }
}

/// A list of what is not run must not grow old.
#[test]
fn what_is_not_run_here_is_still_in_the_documents() {
    let blocks = pages().into_iter().flat_map(|page| page.blocks_of("sh"));
    let told: BTreeSet<&str> =
        blocks.flat_map(|block| commands(&block.text)).filter_map(|command| elsewhere::is_for(&command)).collect();
    let old: Vec<&str> = elsewhere::entries().filter(|entry| !told.contains(entry)).collect();
    assert!(old.is_empty(), "no page has {old:?} any more");
}

/// Each block begins in a world of its own.
async fn page(page: &Page) {
    let mut running = None;
    let blocks = page.blocks();
    for (index, block) in blocks.iter().enumerate().filter(|(_, block)| block.language == "sh") {
        let is_there = |command: &String| elsewhere::is_all_of(page) || elsewhere::is_for(command).is_some();
        let (there, here): (Vec<_>, Vec<_>) = commands(&block.text).into_iter().partition(is_there);
        for command in there {
            elsewhere::check(&block.place, &command);
        }
        if here.is_empty() {
            continue;
        }
        if running.is_none() {
            running = Some(server().await);
        }
        let mut world = World::new(running.as_ref().expect("started")).await;
        let mut printed = String::new();
        for command in here {
            println!("{}: {command}", block.place);
            printed = work(&mut world, &block.place, &command).await;
        }
        let output = blocks.get(index + 1).filter(|next| next.follows && next.language == "text");
        if let Some(output) = output {
            is_as_shown(&world, output, &printed);
        }
        world.stop().await;
    }
}

/// What has to be seen of a command that goes on until it is stopped.
enum Effect {
    /// This line in its log.
    Logs(&'static str),
    /// This line in its log, and then a line of output for a change.
    ShowsChanges(&'static str),
    /// It prints, and again.
    Repeats,
}

fn effect(command: &str) -> Option<Effect> {
    let calls =
        |name: &str| command.contains(&format!("pgsluice {name} ")) || command.ends_with(&format!("pgsluice {name}"));
    if calls("run") {
        Some(Effect::Logs("streaming from PostgreSQL"))
    } else if calls("tail") {
        Some(Effect::ShowsChanges("showing what is committed from now on"))
    } else if command.contains("--watch") {
        Some(Effect::Repeats)
    } else {
        None
    }
}

/// Whether pgsluice must not run while this does.
fn wants_it_stopped(command: &str) -> bool {
    ["pgsluice run", "checkpoint set", "checkpoint reset", "slot drop"].iter().any(|it| command.contains(it))
}

/// Runs one command to its end, or until its effect is seen. Gives what it printed.
async fn work(world: &mut World<'_>, place: &str, command: &str) -> String {
    if wants_it_stopped(command) {
        world.stop().await;
    }
    make_room(world, command);
    let _ = std::fs::remove_file(world.folder().join("pids"));
    let mut process = world.shell(command);
    if let Some(effect) = effect(command) {
        see(world, &effect, &process).await;
        stop_what_it_called(world);
    }
    let (code, log) = process.wait(SOON).await;
    assert_eq!(code, Some(0), "{place}: {command}\n{log}{}", process.stdout());
    process.stdout()
}

async fn see(world: &World<'_>, effect: &Effect, process: &Process) {
    match effect {
        Effect::Logs(line) => drop(process.wait_for_log(line, SOON).await),
        Effect::ShowsChanges(line) => {
            process.wait_for_log(line, SOON).await;
            world.write().await;
            eventually("it shows the change", SOON, async || (!process.stdout().is_empty()).then_some(())).await;
        }
        Effect::Repeats => {
            let twice = async || (process.stdout().matches("shop: ").count() > 1).then_some(());
            eventually("it shows the state again", SOON, twice).await;
        }
    }
}

/// Nothing is written over, and no name is given twice: what the command makes is not there yet.
fn make_room(world: &World<'_>, command: &str) {
    let mut words = command.split_whitespace();
    if command.contains("pgsluice checkpoint name ") && !command.contains("replay") {
        let name = words.find(|word| word.starts_with("before-")).unwrap_or_default();
        let _ = std::fs::remove_file(world.folder().join(format!("checkpoint/named/{name}.json")));
    } else if command.contains("pgsluice init") {
        let file = words.skip_while(|word| *word != "--output").nth(1).unwrap_or("none");
        let _ = std::fs::remove_file(world.folder().join(file));
    }
}

/// As an operator, or systemd, would.
fn stop_what_it_called(world: &World<'_>) {
    let pids = std::fs::read_to_string(world.folder().join("pids")).expect("it has called pgsluice");
    for pid in pids.lines().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
        kill_process(pid, Signal::TERM).expect("it runs");
    }
}

/// The documents' output is what was printed, but for numbers and the width of columns.
fn is_as_shown(world: &World<'_>, shown: &Block, printed: &str) {
    let [shown_text, printed] = [shown.text.clone(), world.there(printed)].map(|text| lasting(&text));
    assert_eq!(shown_text, printed, "{}", shown.place);
}

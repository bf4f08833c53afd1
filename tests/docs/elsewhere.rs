//! What the documents tell to run and the test of the pages does not, and what is checked of it instead.

use std::path::Path;
use std::process::Command;

use super::pages::Page;

/// Lines that begin so, and why they are not run here.
const ELSEWHERE: [(&str, &str); 2] =
    [("scripts/demo", "builds for release, and starts servers of its own"), ("scripts/test", "runs this very test")];

/// Pages whose commands are of another world than the others': that of the worked example, which `tests/shop` runs.
const WORLDS: [&str; 1] = ["docs/shop.md"];

/// Programs that act on a machine, a daemon or a cluster which there is none of here.
const PROGRAMS: [&str; 3] = ["docker", "install", "systemctl"];

/// Whether it is for elsewhere; and if so, the entry that says so.
pub(super) fn is_for(command: &str) -> Option<&'static str> {
    let first = command.split_whitespace().next()?;
    let listed = ELSEWHERE.iter().map(|(prefix, _)| *prefix).find(|prefix| first == *prefix);
    listed.or_else(|| PROGRAMS.into_iter().find(|program| first == *program))
}

/// Whether all commands of the page are for elsewhere.
pub(super) fn is_all_of(page: &Page) -> bool {
    WORLDS.iter().any(|world| page.is(world))
}

/// Every entry of the list, of which one that is used no more is to go.
pub(super) fn entries() -> impl Iterator<Item = &'static str> {
    ELSEWHERE.iter().map(|(prefix, _)| *prefix).chain(PROGRAMS)
}

/// It is shell; a call of pgsluice is one; its scripts and files exist, the scripts are shell, and know the flags.
pub(super) fn check(place: &str, command: &str) {
    is_shell(place, &["-c", command]);
    let command = command.split(" #").next().unwrap_or(command);
    for word in command.split_whitespace().map(|word| word.trim_matches(['\'', '"'])) {
        let is_ours = word.contains('/') && !word.starts_with(['/', '-', '~', '$', '<']) && !word.contains("://");
        let file = word.split_once('=').map_or(word, |(_, file)| file);
        if is_ours && is_folder_of_ours(file) {
            assert!(Path::new(file).exists(), "{place}: {command}\nthere is no {file}");
        }
    }
    if let Some((_, call)) = command.split_once("pgsluice ").filter(|(before, _)| !before.contains('/')) {
        let call = call.split([';', '|', '>', '&']).next().unwrap_or_default();
        super::spans::exists(call).unwrap_or_else(|unknown| panic!("{place}: {command}\n{unknown}"));
    }
    let mut words = command.split_whitespace();
    let script = words.next().unwrap_or_default();
    if script.starts_with("scripts/") {
        is_shell(place, &[script]);
        let text = std::fs::read_to_string(script).expect("the script");
        // It hands on what follows `--shop`.
        let shop = std::fs::read_to_string("examples/shop/acceptance/src/main.rs").expect("the example's program");
        for flag in words.filter(|word| word.starts_with("--")) {
            let option = format!(" {}: ", flag.trim_start_matches('-').replace('-', "_"));
            let is_known = text.contains(flag) || (command.contains("--shop ") && shop.contains(&option));
            assert!(is_known, "{place}: {command}\n{script} does not know {flag}");
        }
    }
}

/// Names of images and resources have a stroke, too.
fn is_folder_of_ours(file: &str) -> bool {
    let first = file.trim_start_matches("./").split('/').next().unwrap_or_default();
    ["config", "scripts", "docs", "examples", "deploy", "benches", "target", "src", "tests", "packaging"]
        .contains(&first)
        && !file.starts_with("target/")
}

fn is_shell(place: &str, arguments: &[&str]) {
    let parsed = Command::new("bash").arg("-n").args(arguments).output().expect("run bash");
    assert!(parsed.status.success(), "{place}: {}", String::from_utf8_lossy(&parsed.stderr));
}

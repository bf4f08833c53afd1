//! The help of every command, common mistakes, completions, the man page, and the commands that the documents show.

use std::collections::BTreeSet;

use clap::{CommandFactory as _, Parser as _};
use pgsluice::cli::Arguments;

use super::snapshots::{is_as_before, names};
use super::{done, run};
use crate::support::{SOON, folder};

/// Every command as the words that call it, the first one empty.
fn commands() -> Vec<Vec<String>> {
    fn below(command: &clap::Command, path: &[String], all: &mut Vec<Vec<String>>) {
        all.push(path.to_vec());
        for inner in command.get_subcommands() {
            let path: Vec<String> = path.iter().cloned().chain([inner.get_name().to_owned()]).collect();
            below(inner, &path, all);
        }
    }
    let mut all = Vec::new();
    below(&Arguments::command(), &[], &mut all);
    all
}

#[tokio::test]
async fn the_help_of_every_command_is_as_before() {
    let commands = commands();
    let mut known = BTreeSet::new();
    for command in &commands {
        let mut arguments: Vec<&str> = command.iter().map(String::as_str).collect();
        arguments.push("--help");
        let name = if command.is_empty() { "pgsluice".to_owned() } else { command.join("-") };
        is_as_before(&format!("help/{name}"), &done(run(&arguments)).await);
        known.insert(name);
    }
    assert_eq!(names("help"), known);
}

#[tokio::test]
async fn common_mistakes_are_told_as_before() {
    let config = folder("mistakes").join("shop.toml");
    std::fs::write(&config, "name = \"shop\"\n[source]\nurl = \"postgres://app@127.0.0.1:1/shop\"\n").expect("written");
    let config = config.to_str().expect("text");
    let mistakes: [(&str, &[&str]); 9] = [
        ("no-command", &[]),
        ("misspelt-command", &["tial"]),
        ("no-configuration", &["run"]),
        ("no-such-configuration", &["check", "--config", "no-such.toml"]),
        ("nothing-selected", &["run", "--config", config]),
        ("no-database", &["tail"]),
        ("no-url", &["slot", "list", "--database", "db1/shop"]),
        ("no-pattern", &["tail", "--database", "postgres://app@127.0.0.1:1/shop", "--table", "orders"]),
        ("nobody-there", &["tail", "--database", "postgres://app@127.0.0.1:1/shop"]),
    ];
    for (name, arguments) in mistakes {
        let mut process = run(arguments);
        let (code, error) = process.wait(SOON).await;
        let code = code.expect("it ends by itself");
        assert_ne!(code, 0, "{error}");
        is_as_before(&format!("errors/{name}"), &format!("exit code {code}\n{}", error.replace(config, "shop.toml")));
    }
    assert_eq!(names("errors"), mistakes.iter().map(|(name, _)| (*name).to_owned()).collect());
}

#[tokio::test]
async fn shells_get_completions_and_man_gets_pages() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = done(run(&["completions", shell])).await;
        assert!(script.contains("tail") && script.contains("checkpoint"), "{shell}: {script}");
    }
    let script = done(run(&["completions", "bash"])).await;
    let parsed = std::process::Command::new("bash").args(["-n", "-c", &script]).status();
    assert!(parsed.expect("run bash").success());
    let page = done(run(&["man"])).await;
    assert!(page.contains(".TH pgsluice 1") && page.contains("Exit codes"), "{page}");
    let pages = folder("man");
    done(run(&["man", "--output", pages.to_str().expect("text")])).await;
    for command in commands() {
        let name: Vec<String> = std::iter::once("pgsluice".to_owned()).chain(command).collect();
        let page = pages.join(format!("{}.1", name.join("-")));
        assert!(page.exists(), "{}", page.display());
    }
}

/// Every line of shell in the documents that calls pgsluice is a command line that it takes.
#[test]
fn the_commands_in_the_documents_exist() {
    let docs = std::fs::read_dir("docs").expect("the pages").map(|entry| entry.expect("a page").path());
    let mut shown = 0;
    for page in docs.chain(["README.md".into(), "CONTRIBUTING.md".into()]) {
        let Ok(text) = std::fs::read_to_string(&page) else { continue };
        for block in text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            for line in block.replace("\\\n", " ").lines() {
                let Some(words) = words(line) else { continue };
                let parsed = Arguments::try_parse_from(&words);
                assert!(parsed.is_ok(), "{}: {line}\n{}", page.display(), parsed.expect_err("is wrong"));
                shown += 1;
            }
        }
    }
    assert!(shown > 20, "{shown}");
}

/// The words of a line that calls pgsluice, as far as the call goes; none for other lines.
fn words(line: &str) -> Option<Vec<String>> {
    let line = line.split(" #").next()?.split(" | ").next()?.split(" > ").next()?;
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for character in line.trim().chars().chain([' ']) {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (None, '\'' | '"') => quote = Some(character),
            (None, ' ') => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            _ => word.push(character),
        }
    }
    // Variables, `sudo`, `exec`, and what else stands before.
    let at = words.iter().position(|word| word == "pgsluice")?;
    let is_prefix = |word: &String| word.contains('=') || word == "sudo" || word == "exec";
    words[..at].iter().all(is_prefix).then(|| words.split_off(at))
}

/// Each command has a section in the page of the commands, and each section is a command.
#[test]
fn the_page_of_the_commands_has_them_all() {
    let page = std::fs::read_to_string("docs/commands.md").expect("the page");
    let sections: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("## `pgsluice ")?.strip_suffix('`')).collect();
    let commands: Vec<String> = commands().into_iter().filter(|it| it.len() == 1).map(|it| it.join(" ")).collect();
    let [sections, commands]: [BTreeSet<&str>; 2] =
        [sections.into_iter().collect(), commands.iter().map(String::as_str).collect()];
    assert_eq!(sections, commands);
    for section in page.split("\n## ").skip(1) {
        assert!(section.contains("```sh\npgsluice "), "an example: {section}");
    }
}

//! The help of every command, common mistakes, completions, the man page, and the page of the commands.

use std::collections::BTreeSet;

use clap::CommandFactory as _;
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
        assert!(section.contains("```sh\n") && section.contains("\npgsluice "), "an example: {section}");
    }
}

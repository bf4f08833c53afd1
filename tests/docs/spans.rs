//! Commands within the text: `pgsluice replay --from-table` is a command that exists, with a flag that it has.

use clap::CommandFactory as _;
use pgsluice::cli::Arguments;

use super::pages::pages;

#[test]
fn what_the_text_calls_exists() {
    let mut seen = 0;
    for page in pages() {
        for span in page.spans() {
            let Some(rest) = span.strip_prefix("pgsluice ") else { continue };
            if let Err(unknown) = exists(rest) {
                panic!("{}: `{span}`: {unknown}", page.file.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen}");
}

/// Follows the words down the commands, as far as they are such, and looks for each flag there.
pub(super) fn exists(words: &str) -> Result<(), String> {
    let mut command = Arguments::command();
    command.build();
    let mut words = words.split_whitespace().peekable();
    while let Some(inner) = words.peek().and_then(|word| of(&command, word)) {
        command = inner;
        words.next();
    }
    if command.has_subcommands() && words.peek().is_some_and(|word| is_name(word)) {
        return Err("there is no such command".to_owned());
    }
    for word in words.filter(|word| word.starts_with("--")) {
        let flag = word.trim_start_matches('-').split(['=', ',', '.']).next().unwrap_or_default();
        let is_known = command.get_arguments().any(|argument| argument.get_long() == Some(flag));
        if !is_known {
            return Err(format!("{} has no --{flag}", command.get_name()));
        }
    }
    Ok(())
}

/// `slot list|drop` is both.
fn of(command: &clap::Command, word: &str) -> Option<clap::Command> {
    let found: Vec<_> = word.split('|').map(|name| command.find_subcommand(name).cloned()).collect();
    found.into_iter().collect::<Option<Vec<_>>>()?.pop()
}

fn is_name(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-' || byte == b'|') && !word.starts_with('-')
}

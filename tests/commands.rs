//! The commands beside `run`: what they print, what they refuse, and what they leave behind.

mod config;
mod help;
mod init;
mod slot;
mod snapshots;
mod tail;

use crate::support::{Process, SOON, pgsluice_command};

/// What it printed, once it has ended well.
async fn done(mut process: Process) -> String {
    let (code, log) = process.wait(SOON).await;
    assert_eq!(code, Some(0), "{log}");
    process.stdout()
}

/// The message, once it has ended with this code.
async fn refused(mut process: Process, code: i32) -> String {
    let (ended, log) = process.wait(SOON).await;
    assert_eq!(ended, Some(code), "{log}");
    log[log.find("error: ").expect("a message")..].to_owned()
}

fn run(arguments: &[&str]) -> Process {
    pgsluice_command(arguments, &[])
}

//! The commands beside `run`: what they print, what they refuse, and what they leave behind.

mod config;
mod help;
mod init;
mod outputs;
mod slot;
mod snapshots;
mod tail;

use crate::support::{Process, done, pgsluice_command, refused};

fn run(arguments: &[&str]) -> Process {
    pgsluice_command(arguments, &[])
}

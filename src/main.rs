//! The `pgsluice` binary: parse, run the one command, report what stopped it.

use std::process::ExitCode;

use clap::Parser as _;
use pgsluice::cli::{self, Arguments};

fn main() -> ExitCode {
    match Arguments::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(definite) => {
            cli::report::print(&definite);
            ExitCode::from(definite.exit_code())
        }
    }
}

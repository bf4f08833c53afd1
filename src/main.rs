//! The `pgsluice` binary: parse, run the one command, report what stopped it.

use std::process::ExitCode;

use clap::Parser as _;
use pgsluice::cli::{self, Arguments, Command};

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run(arguments) => cli::run::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(definite) => {
            cli::report::print(&definite);
            ExitCode::from(definite.exit_code())
        }
    }
}

//! The program: what the command line says, and a stop by signal.

use clap::Parser as _;
use messaging::service;

fn main() -> std::process::ExitCode {
    let options = inventory::Options::parse();
    service::main(inventory::run(options))
}

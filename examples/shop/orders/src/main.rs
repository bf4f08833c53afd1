//! The program: what the command line says, and a stop by signal.

use clap::Parser as _;
use messaging::service;

fn main() -> std::process::ExitCode {
    let options = orders::Options::parse();
    service::main(orders::run(options))
}

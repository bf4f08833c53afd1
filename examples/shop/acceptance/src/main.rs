//! Runs the shop under load, kills its parts in turn, and proves that it comes out right.

use clap::Parser;

/// What the command line says.
#[derive(Debug, Parser)]
#[command(about)]
struct Options {
    /// Chooses the load and the kills; printed, so that a run can be had again
    #[arg(long)]
    seed: Option<u64>,
}

fn main() {
    let _ = Options::parse();
}

//! Runs one workload through the pipeline, for callgrind to count instructions: see `scripts/lib/callgrind`.
//!
//! `instructions` lists the workloads; `instructions WORKLOAD EVENTS` runs one, and says how many events came after it was warm
//! and how long they took.

#[path = "../tests/synthetic/mod.rs"]
mod synthetic;

use std::time::Instant;

use synthetic::steady::Steady;
use synthetic::workload::Workload;

/// Enough that every buffer has grown, and every table has been described.
const WARM_EVENTS: u64 = 5_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let workloads = Workload::all();
    let [name, events] = arguments.as_slice() else {
        for workload in workloads {
            println!("{}", workload.name);
        }
        return;
    };
    let workload = workloads.iter().find(|workload| workload.name == name).expect("a workload of the list");
    let mut steady = Steady::after(workload, WARM_EVENTS);
    let events = steady.write(events.parse().expect("a number of events"));
    let start = Instant::now();
    measured(&mut steady);
    println!("{events} events, {} ns each", start.elapsed().as_nanos() / u128::from(events));
}

/// By this name callgrind knows when to count.
#[inline(never)]
fn measured(steady: &mut Steady<'_>) {
    steady.run();
}

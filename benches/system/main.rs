//! The system benchmark: pgsluice, floors and peers on the same WAL, with real servers of its own. `scripts/bench` runs it.
//!
//! [`bench`] goes through the workloads ([`work`]) on a [`stage`]: for each it makes the WAL once, keeps a slot that lies
//! before it, and lets every [`contestant`] read a copy of that slot, in turn, run by run. A contestant is a process of
//! its own ([`process`]), so that what it costs is measured alone; those that are ours are this same binary, as a
//! [`child`]. What is timed besides throughput has a room of its own: [`latency`], [`outage`], [`restart`]. [`report`]
//! writes tables.
//!
//! The clock of a run starts when the slot is in use (`START_REPLICATION` was accepted), and stops when the last event is
//! where it goes: read, taken by the null broker, or in the queue.

mod arguments;
mod bench;
mod child;
mod contestant;
mod deliveries;
mod latency;
mod machine;
mod outage;
mod peers;
mod pgsluice;
mod process;
mod report;
mod restart;
mod run;
mod slot;
mod stage;
mod statistics;
#[path = "../../tests/support/mod.rs"]
mod support;
mod wire;
mod work;

use std::process::ExitCode;

use arguments::Arguments;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(child::FLAG) {
        return child::run(&words.collect::<Vec<_>>());
    }
    let arguments = Arguments::parsed();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().expect("start a runtime");
    if runtime.block_on(bench::run(&arguments)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

//! What the steady state takes from the heap: nothing.

mod synthetic;

use synthetic::steady::Steady;
use synthetic::workload::{self, Workload};

/// Enough that every buffer has grown, and every table has been described.
const WARM_EVENTS: u64 = 5_000;
const EVENTS: u64 = 20_000;

/// What the interpreter of CEL takes for one expression: it keeps its values on the heap. `name` may be that of a workload
/// without one.
fn of_expressions(name: &str) -> f64 {
    match name {
        "rule-when" => 3.0,
        "rule-compute" => 4.0,
        _ => 0.0,
    }
}

/// Heap allocations per event, and bytes.
fn taken(workload: &Workload) -> [f64; 2] {
    let mut steady = Steady::after(workload, WARM_EVENTS);
    let events = steady.write(EVENTS);
    let info = allocation_counter::measure(|| steady.run());
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    [info.count_total, info.bytes_total].map(|total| total as f64 / events as f64)
}

fn check(workloads: &[Workload]) {
    let mut exceeded = Vec::new();
    for workload in workloads {
        let ([allocations, bytes], name) = (taken(workload), workload.name);
        println!("{name:20} {allocations:8.4} allocations, {bytes:10.2} bytes an event");
        let limit = of_expressions(name) + 0.01;
        if allocations >= limit {
            exceeded.push(format!("{name}: {allocations} allocations an event; expected less than {limit}"));
        }
    }
    assert!(exceeded.is_empty(), "{}", exceeded.join("\n"));
}

#[test]
fn an_event_takes_nothing_from_the_heap() {
    check(&workload::main());
}

#[test]
fn nor_does_it_with_other_formats_and_options() {
    check(&workload::options());
}

/// The counter counts.
#[test]
fn what_is_taken_is_seen() {
    assert_eq!(allocation_counter::measure(|| drop(std::hint::black_box(Box::new(7)))).count_total, 1);
}

//! Goes through the workloads, and lets the contestants take turns.

use std::time::Instant;

use crate::arguments::Arguments;
use crate::contestant::{Contestant, Group};
use crate::machine::Machine;
use crate::report::{Report, Table};
use crate::run::{self, Measured};
use crate::stage::{Servers, Stage};
use crate::work::Workload;
use crate::{latency, outage, restart};

/// All that was asked for. Results go to stdout, what happens meanwhile to stderr. Returns whether all who were there could
/// do all of it.
pub(crate) async fn run(arguments: &Arguments) -> bool {
    let began = Instant::now();
    let servers = Servers::start();
    let machine = Machine::look(&servers);
    eprintln!("{}", machine.text);
    let mut report = Report::new(machine, arguments);
    for workload in arguments.workloads() {
        eprintln!("({}) {}", workload.letter(), workload.title());
        match workload {
            Workload::Latency => latency::run(arguments, &servers, &mut report).await,
            Workload::Outage => outage::run(arguments, &servers, &mut report).await,
            Workload::Restart => restart::run(arguments, &servers, &mut report).await,
            Workload::OneRow
            | Workload::Thousand
            | Workload::Giant
            | Workload::FullUpdates
            | Workload::Outbox
            | Workload::Wide
            | Workload::FanOut => throughput(arguments, &servers, workload, &mut report).await,
        }
        report.save(arguments);
    }
    report.took(began.elapsed());
    report.save(arguments);
    println!("{}", report.markdown());
    report.is_whole()
}

/// Those who read, and those who deliver: on the same WAL, unless it is one transaction. What reads it can't begin before
/// all of it is decoded, so that there is one of its own for those who are slower.
async fn throughput(arguments: &Arguments, servers: &Servers, workload: Workload, report: &mut Report) {
    let all = arguments.chosen(&Contestant::of_throughput(workload));
    let (readers, deliverers): (Vec<_>, Vec<_>) = all.into_iter().partition(|it| it.group() == Group::Source);
    let to_read = arguments.scaled(workload.rows());
    let to_deliver = arguments.scaled(workload.rows_to_broker());
    let mut table = Table::new(workload);
    if workload == Workload::Giant {
        for (contestants, rows) in [(readers, to_read), (deliverers, to_deliver)] {
            if !contestants.is_empty() {
                let stage = build(servers, workload, rows).await;
                take_turns(arguments, &stage, &contestants, [rows, to_deliver], (&mut table, report)).await;
                stage.clear().await;
            }
        }
    } else {
        let needed = if readers.is_empty() { to_deliver } else { to_read.max(to_deliver) };
        let stage = build(servers, workload, needed).await;
        let contestants: Vec<_> = readers.into_iter().chain(deliverers).collect();
        take_turns(arguments, &stage, &contestants, [needed, to_deliver], (&mut table, report)).await;
        stage.clear().await;
    }
    eprintln!("{}", table.markdown());
    report.add(&table);
}

async fn build(servers: &Servers, workload: Workload, rows: u64) -> Stage<'_> {
    let began = Instant::now();
    let stage = Stage::build(servers, workload, rows).await;
    eprintln!("  {rows} rows written in {:.1} s", began.elapsed().as_secs_f64());
    stage
}

/// Run by run, each after the other, so that what changes on the machine meanwhile meets all of them.
async fn take_turns(
    arguments: &Arguments,
    stage: &Stage<'_>,
    contestants: &[Contestant],
    [to_read, to_deliver]: [u64; 2],
    (table, report): (&mut Table, &mut Report),
) {
    if contestants.iter().any(|contestant| matches!(contestant, Contestant::ReadyMade(_) | Contestant::Relay(_)))
        && let Err(error) = run::capture(stage).await
    {
        eprintln!("  no ready-made messages: {error}");
    }
    let mut out = Vec::new();
    for turn in 0..arguments.runs() {
        for &contestant in contestants {
            if out.contains(&contestant) || turn >= contestant.runs_max(stage.workload) {
                continue;
            }
            let events = match contestant.group() {
                Group::Source => to_read,
                Group::Queue(_) => to_deliver,
            };
            match attempt(stage, contestant, events).await {
                Ok(measured) => {
                    tell(turn, contestant, &measured);
                    table.add(contestant, measured);
                }
                Err(error) => {
                    report.failed(contestant, &error);
                    table.fail(contestant, error);
                    out.push(contestant);
                }
            }
        }
    }
}

/// Begins what is said of a peer that is not there.
pub(crate) const MISSING: &str = "missing";

async fn attempt(stage: &Stage<'_>, contestant: Contestant, events: u64) -> Result<Measured, String> {
    if let Contestant::Peer(peer) = contestant
        && let Some(why) = peer.missing()
    {
        return Err(format!("{MISSING}: {why}"));
    }
    run::measure(stage, contestant, events).await
}

fn tell(turn: usize, contestant: Contestant, measured: &Measured) {
    eprintln!(
        "  run {}: {:<20} {:>8.1} k/s  {:>6.2} s  own CPU {:>5.2} s  {:>6.1} MiB",
        turn + 1,
        contestant.name(),
        measured.events_per_s() / 1e3,
        measured.seconds,
        measured.cpu_s,
        mebibytes(measured.peak_rss_kib),
    );
}

#[allow(clippy::cast_precision_loss)]
pub(crate) fn mebibytes(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

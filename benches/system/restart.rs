//! (r) How long it takes from a start to the first event, with a slot that is there already.
//!
//! What a raw reader needs for its first row is `PostgreSQL`'s part; what pgsluice takes longer is its own.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::arguments::Arguments;
use crate::child::Word;
use crate::contestant::{Contestant, Reading};
use crate::deliveries::Deliveries;
use crate::report::Report;
use crate::run;
use crate::slot::Slot;
use crate::stage::{QueueKind, SOON, Servers, Stage};
use crate::statistics::median;
use crate::work::Workload;

const CONTESTANTS: [Contestant; 2] = [Contestant::Discard(Reading::LowWater), Contestant::Amqp(QueueKind::Classic)];

pub(crate) async fn run(arguments: &Arguments, servers: &Servers, report: &mut Report) {
    let workload = Workload::Restart;
    let stage = Stage::build(servers, workload, arguments.scaled(workload.rows())).await;
    let mut all: Vec<(Contestant, f64)> = Vec::new();
    for _ in 0..arguments.runs() {
        for contestant in CONTESTANTS {
            match first_event(&stage, contestant).await {
                Ok(took) => {
                    eprintln!("  {:<20} {:.0} ms", contestant.name(), took.as_secs_f64() * 1e3);
                    all.push((contestant, took.as_secs_f64() * 1e3));
                }
                Err(error) => report.failed(contestant, &error),
            }
        }
    }
    stage.clear().await;
    let of = |contestant| median(all.iter().filter(|(of, _)| *of == contestant).map(|(_, ms)| *ms));
    let [floor, ours] = CONTESTANTS.map(of);
    let show = |ms: Option<f64>| ms.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.0}"));
    let beyond = floor.zip(ours).map(|(floor, ours)| ours - floor);
    let markdown = format!(
        "### ({}) {}\n\nFrom the start of the process, with a slot that has WAL to read; medians of {}.\n\n\
         | | ms |\n|---|---:|\n| floor: raw reader, first row | {} |\n| **pgsluice**, first event in a classic queue | {} |\n\
         | difference | {} |\n",
        workload.letter(),
        workload.title(),
        arguments.runs(),
        show(floor),
        show(ours),
        show(beyond),
    );
    let runs = all.iter().map(|(contestant, ms)| {
        json!({"workload": workload.letter(), "contestant": contestant.name(), "run": {"first_event_ms": ms}})
    });
    report.add_section(markdown, runs);
}

async fn first_event(stage: &Stage<'_>, contestant: Contestant) -> Result<Duration, String> {
    let slot = Slot::copy(&stage.client).await;
    let vhost = stage.servers.vhost(QueueKind::Classic).await;
    let deliveries = Deliveries::start(&stage.servers.amqp(&vhost))?;
    let mut running = run::start(stage, contestant, &slot, &vhost).await;
    let outcome = match contestant {
        Contestant::Discard(_) => loop {
            match running.next_word(SOON) {
                Ok((at, Word::First)) => break Ok(at),
                Ok((_, Word::Begin | Word::Done { .. })) => {}
                Err(error) => break Err(error),
            }
        },
        _ => first_delivery(&deliveries).await.ok_or_else(|| running.last_words()),
    };
    let took = outcome.map(|at| at - running.started);
    running.kill();
    deliveries.finish();
    slot.discard(&stage.client).await;
    stage.servers.remove(&vhost);
    took
}

async fn first_delivery(deliveries: &Deliveries) -> Option<Instant> {
    let end = Instant::now() + SOON;
    while Instant::now() < end {
        if let Some(at) = deliveries.first() {
            return Some(at);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    None
}

//! (i) The broker is stopped while a load goes on, and comes back: how long until everything is where it belongs, and how
//! much memory the wait took.
//!
//! The consumer begins when the broker is back, so that nothing is lost with its connection.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::bench::{MISSING, mebibytes};
use crate::contestant::Contestant;
use crate::deliveries::Deliveries;
use crate::latency::Load;
use crate::process::Running;
use crate::report::{Report, thousands};
use crate::run;
use crate::slot::Slot;
use crate::stage::{QueueKind, Servers, Stage};
use crate::statistics::median;
use crate::support::Vhost;
use crate::work::Workload;

/// Events in a second, and rows in a transaction.
const LOAD: (u64, u64) = (5_000, 10);
/// Before the outage.
const BEFORE: Duration = Duration::from_secs(3);
/// How long the broker is away, apart from its own start; scaled.
const AWAY: Duration = Duration::from_secs(10);
/// Caught up is who is not further behind than what was committed in so long.
const CLOSE: Duration = Duration::from_millis(100);
/// Who takes longer does not catch up.
const PATIENCE: Duration = Duration::from_mins(1);
/// Each takes most of a minute.
const RUNS_MAX: usize = 2;

pub(crate) async fn run(arguments: &Arguments, servers: &Servers, report: &mut Report) {
    let stage = Stage::build(servers, Workload::Outage, 0).await;
    // The floor has no memory of what it sent, and ends with its connection.
    let mut contestants = arguments.chosen(&Contestant::of_delivery());
    contestants.retain(|contestant| *contestant != Contestant::Forward);
    let runs = arguments.runs().min(RUNS_MAX);
    let mut lines: Vec<(Contestant, Vec<Caught>, Option<String>)> =
        contestants.into_iter().map(|contestant| (contestant, Vec::new(), None)).collect();
    for _ in 0..runs {
        for (contestant, all, failure) in lines.iter_mut().filter(|(_, _, failure)| failure.is_none()) {
            match outage(&stage, *contestant, AWAY.mul_f64(arguments.scale.min(1.0))).await {
                Ok(caught) => {
                    eprintln!("  {:<20} {}", contestant.name(), caught.json());
                    all.push(caught);
                }
                Err(error) => {
                    report.failed(*contestant, &error);
                    *failure = Some(error);
                }
            }
        }
    }
    stage.clear().await;
    let (rate, rows) = LOAD;
    let mut markdown = format!(
        "### (i) {}\n\n{} events/s in transactions of {rows}, to a classic queue; medians of {runs}.\n\n\
         | | away, s | backlog, events | caught up after, s | events/s meanwhile | peak RSS, MiB | repeated | lost |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|\n",
        Workload::Outage.title(),
        thousands(rate),
    );
    for (contestant, all, failure) in &lines {
        let _ = writeln!(markdown, "{}", line(*contestant, all, failure.as_deref()));
    }
    let runs = lines.iter().flat_map(|(contestant, all, _)| {
        all.iter().map(|caught| json!({"workload": "i", "contestant": contestant.name(), "run": caught.json()}))
    });
    report.add_section(markdown, runs.collect::<Vec<_>>());
}

fn line(contestant: Contestant, all: &[Caught], failure: Option<&str>) -> String {
    let title = contestant.title();
    if all.is_empty() {
        let why = failure.unwrap_or("not run").replace(['\n', '|'], " ");
        return format!("| {title} | {why} | | | | | | |");
    }
    let of = |value: &dyn Fn(&Caught) -> f64| median(all.iter().map(value)).unwrap_or(f64::NAN);
    let rss = all.iter().map(|caught| caught.peak_rss_kib).max().unwrap_or(0);
    #[allow(clippy::cast_precision_loss)]
    let backlog = of(&|caught| caught.backlog as f64);
    format!(
        "| {title} | {:.1} | {backlog:.0} | {:.1} | {:.0} | {:.1} | {} | {} |",
        of(&|caught| caught.away.as_secs_f64()),
        of(&|caught| caught.took.as_secs_f64()),
        of(&Caught::events_per_s),
        mebibytes(rss),
        all.iter().map(|caught| caught.repeated).max().unwrap_or(0),
        all.iter().map(|caught| caught.lost).max().unwrap_or(0),
    )
}

/// What came of an outage.
struct Caught {
    /// From the broker's stop until it took connections again.
    away: Duration,
    /// Committed meanwhile.
    backlog: u64,
    /// From then on.
    took: Duration,
    /// Of all that had come when it was caught up.
    delivered: u64,
    peak_rss_kib: u64,
    repeated: u64,
    lost: u64,
}

impl Caught {
    #[allow(clippy::cast_precision_loss)]
    fn events_per_s(&self) -> f64 {
        self.delivered as f64 / self.took.as_secs_f64()
    }

    fn json(&self) -> Value {
        json!({
            "away_s": self.away.as_secs_f64(), "backlog": self.backlog, "took_s": self.took.as_secs_f64(),
            "delivered": self.delivered, "peak_rss_kib": self.peak_rss_kib, "repeated": self.repeated, "lost": self.lost,
        })
    }
}

async fn outage(stage: &Stage<'_>, contestant: Contestant, away: Duration) -> Result<Caught, String> {
    if let Contestant::Peer(peer) = contestant
        && let Some(why) = peer.missing()
    {
        return Err(format!("{MISSING}: {why}"));
    }
    let slot = Slot::new(&stage.client).await;
    let vhost = stage.servers.vhost(QueueKind::Classic).await;
    let mut running = run::start(stage, contestant, &slot, &vhost).await;
    let outcome = match run::wait_for_walsender(&slot, &stage.client, &running).await {
        Ok(_) => observe(stage, &vhost, &running, away).await,
        Err(error) => Err(error),
    };
    running.terminate();
    slot.discard(&stage.client).await;
    stage.servers.remove(&vhost);
    stage.database.execute("TRUNCATE load").await;
    outcome
}

async fn observe(stage: &Stage<'_>, vhost: &Vhost, running: &Running, away: Duration) -> Result<Caught, String> {
    let (rate, rows) = LOAD;
    let load = Load::start(stage, 0, rate, rows);
    tokio::time::sleep(BEFORE).await;
    let (stopped, before) = (Instant::now(), load.last());
    tokio::task::block_in_place(|| stage.servers.rabbitmq.stop());
    tokio::time::sleep(away).await;
    tokio::task::block_in_place(|| stage.servers.rabbitmq.start());
    let (back, backlog) = (Instant::now(), load.last() - before);

    let deliveries = Deliveries::start(&stage.servers.amqp(vhost))?;
    let close = rate * u64::try_from(CLOSE.as_millis()).unwrap_or(0) / 1000;
    let caught = loop {
        let committed = load.last();
        let highest = deliveries.look(|arrived| arrived.highest);
        if highest + close >= committed {
            break Ok(back.elapsed());
        }
        if running.has_ended() {
            break Err(format!("it has ended: {}", running.last_words()));
        }
        if back.elapsed() > PATIENCE {
            break Err(format!("not caught up after {PATIENCE:?}: {highest} of {committed} events"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let delivered = deliveries.look(|arrived| arrived.count);
    let (committed, _) = load.finish()?;
    let took = caught?;
    // The rest.
    let all = committed.len() as u64;
    let end = Instant::now() + PATIENCE;
    let is_complete = || deliveries.look(|arrived| arrived.highest >= all);
    while !is_complete() && !running.has_ended() && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let peak_rss_kib = running.usage().peak_rss_kib;
    let arrived = deliveries.finish();
    let lost = (1..=all).filter(|id| arrived.of(*id).is_none()).count() as u64;
    Ok(Caught { away: back - stopped, backlog, took, delivered, peak_rss_kib, repeated: arrived.repeated, lost })
}

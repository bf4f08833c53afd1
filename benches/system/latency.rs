//! (g) From the acknowledgement of a commit to the arrival at a consumer, under a load in step with the clock.
//!
//! Both ends are threads of this process, with one clock. An event that arrives before its commit is acknowledged counts
//! as 0.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::bench::{MISSING, mebibytes};
use crate::contestant::Contestant;
use crate::deliveries::{Arrived, Deliveries};
use crate::process::{Running, Usage};
use crate::report::{Report, thousands};
use crate::run;
use crate::slot::Slot;
use crate::stage::{QueueKind, SOON, Servers, Stage};
use crate::statistics::{median, per_mille};
use crate::work::{Workload, commit_paced};

/// The loads: events in a second, and rows in a transaction. One connection can't commit 10,000 times in a second.
const LOADS: [(u64, u64); 2] = [(1_000, 1), (10_000, 10)];
/// What comes first does not count.
const WARM_UP: Duration = Duration::from_secs(2);
/// And what comes for so long does; scaled.
const MEASURE: Duration = Duration::from_secs(6);
/// More runs add little to so many samples.
const RUNS_MAX: usize = 3;
/// In a thousand; the maximum apart.
const SHARES: [usize; 3] = [500, 990, 999];

pub(crate) async fn run(arguments: &Arguments, servers: &Servers, report: &mut Report) {
    let stage = Stage::build(servers, Workload::Latency, 0).await;
    let contestants = arguments.chosen(&Contestant::of_delivery());
    let runs = arguments.runs().min(RUNS_MAX);
    let mut markdown = format!("### (g) {}\n", Workload::Latency.title());
    let mut json = Vec::new();
    for (rate, rows) in LOADS {
        let mut lines: Vec<Line> = contestants.iter().map(|contestant| Line::new(*contestant)).collect();
        for _ in 0..runs {
            for line in lines.iter_mut().filter(|line| line.failure.is_none()) {
                match sample(&stage, line.contestant, rate, rows, MEASURE.mul_f64(arguments.scale.min(1.0))).await {
                    Ok(sample) => {
                        eprintln!("  {rate}/s {:<16} {}", line.contestant.name(), sample.text());
                        json.push(sample.json(line.contestant, rate));
                        line.samples.push(sample);
                    }
                    Err(error) => {
                        report.failed(line.contestant, &error);
                        line.failure = Some(error);
                    }
                }
            }
        }
        let _ = write!(
            markdown,
            "\n{} events/s in transactions of {rows}, to a classic queue: milliseconds, medians of {runs}.\n\n\
             | | p50 | p99 | p99.9 | max | own CPU, % | peak RSS, MiB | not arrived |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|\n",
            thousands(rate)
        );
        for line in &lines {
            markdown += &line.markdown();
        }
    }
    stage.clear().await;
    report.add_section(markdown, json);
}

struct Line {
    contestant: Contestant,
    samples: Vec<Sample>,
    failure: Option<String>,
}

impl Line {
    fn new(contestant: Contestant) -> Self {
        Self { contestant, samples: Vec::new(), failure: None }
    }

    fn markdown(&self) -> String {
        let title = self.contestant.title();
        if self.samples.is_empty() {
            let why = self.failure.as_deref().unwrap_or("not run").replace(['\n', '|'], " ");
            return format!("| {title} | {why} | | | | | | |\n");
        }
        let of = |value: &dyn Fn(&Sample) -> f64| median(self.samples.iter().map(value)).unwrap_or(f64::NAN);
        let columns: Vec<_> = (0..4).map(|index| format!("{:.2}", of(&|sample| sample.ms[index]))).collect();
        let rss = self.samples.iter().map(|sample| sample.usage.peak_rss_kib).max().unwrap_or(0);
        let missing: u64 = self.samples.iter().map(|sample| sample.missing).sum();
        format!(
            "| {title} | {} | {:.1} | {:.1} | {missing} |\n",
            columns.join(" | "),
            of(&|sample| sample.cpu_percent),
            mebibytes(rss)
        )
    }
}

/// One run.
struct Sample {
    /// The shares, and the maximum.
    ms: [f64; 4],
    events: usize,
    missing: u64,
    usage: Usage,
    cpu_percent: f64,
    /// The load's.
    behind: Duration,
}

impl Sample {
    fn text(&self) -> String {
        let [p50, p99, p999, max] = self.ms;
        let behind_ms = self.behind.as_secs_f64() * 1e3;
        format!(
            "p50 {p50:.2}  p99 {p99:.2}  p99.9 {p999:.2}  max {max:.2} ms of {}; the load was {behind_ms:.0} ms late at worst",
            self.events
        )
    }

    fn json(&self, contestant: Contestant, rate: u64) -> Value {
        let [p50, p99, p999, max] = self.ms;
        json!({"workload": "g", "contestant": contestant.name(), "run": {
            "rate": rate, "events": self.events, "missing": self.missing, "p50_ms": p50, "p99_ms": p99, "p999_ms": p999,
            "max_ms": max, "cpu_percent": self.cpu_percent, "peak_rss_kib": self.usage.peak_rss_kib,
            "load_late_ms": self.behind.as_secs_f64() * 1e3,
        }})
    }
}

/// A load that runs in a thread of its own.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    last: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<std::io::Result<(Vec<Instant>, Duration)>>,
}

impl Load {
    /// After this id.
    pub(crate) fn start(stage: &Stage<'_>, after: u64, rate: u64, rows: u64) -> Self {
        let (stop, last) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(after)));
        let every =
            Duration::from_secs(1) * u32::try_from(rows).expect("few") / u32::try_from(rate).expect("not so fast");
        let (address, database) = (stage.servers.tcp(), stage.database.name().to_owned());
        let thread = std::thread::spawn({
            let (stop, last) = (Arc::clone(&stop), Arc::clone(&last));
            move || {
                let mut committed = Vec::new();
                let told = |ids: std::ops::RangeInclusive<u64>, at| committed.extend(ids.map(|_| at));
                let behind = commit_paced(&address, &database, rows, every, (&stop, &last), told)?;
                Ok((committed, behind))
            }
        });
        Self { stop, last, thread }
    }

    /// The highest id that is committed.
    pub(crate) fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// When each commit was acknowledged, from the first id on, and how late the load was at worst.
    pub(crate) fn finish(self) -> Result<(Vec<Instant>, Duration), String> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join().map_err(|_| "the load has failed".to_owned())?;
        ended.map_err(|error| format!("the load: {error}"))
    }
}

async fn sample(
    stage: &Stage<'_>,
    contestant: Contestant,
    rate: u64,
    rows: u64,
    measure: Duration,
) -> Result<Sample, String> {
    if let Contestant::Peer(peer) = contestant
        && let Some(why) = peer.missing()
    {
        return Err(format!("{MISSING}: {why}"));
    }
    let slot = Slot::new(&stage.client).await;
    let vhost = stage.servers.vhost(QueueKind::Classic).await;
    let deliveries = Deliveries::start(&stage.servers.amqp(&vhost))?;
    let mut running = run::start(stage, contestant, &slot, &vhost).await;
    let outcome = observe(stage, &slot, &mut running, &deliveries, (rate, rows), measure).await;
    running.terminate();
    let arrived = deliveries.finish();
    slot.discard(&stage.client).await;
    stage.servers.remove(&vhost);
    stage.database.execute("TRUNCATE load").await;
    let observed = outcome?;
    summary(&observed, &arrived)
}

/// What the load did, and what the contestant used meanwhile.
struct Observed {
    /// Ids from here on count.
    begin: usize,
    committed: Vec<Instant>,
    behind: Duration,
    usage: Usage,
    cpu_percent: f64,
}

async fn observe(
    stage: &Stage<'_>,
    slot: &Slot,
    running: &mut Running,
    deliveries: &Deliveries,
    (rate, rows): (u64, u64),
    measure: Duration,
) -> Result<Observed, String> {
    run::wait_for_walsender(slot, &stage.client, running).await?;
    let load = Load::start(stage, 0, rate, rows);
    tokio::time::sleep(WARM_UP).await;
    let begin = usize::try_from(load.last()).unwrap_or(0);
    let (before, since) = (running.usage(), Instant::now());
    tokio::time::sleep(measure).await;
    let (after, took) = (running.usage(), since.elapsed());
    let (committed, behind) = load.finish()?;
    let end = Instant::now() + SOON;
    while deliveries.look(|arrived| arrived.highest) < committed.len() as u64 && Instant::now() < end {
        if running.has_ended() {
            return Err(format!("it has ended: {}", running.last_words()));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let cpu_percent = 100.0 * (after.cpu_s - before.cpu_s) / took.as_secs_f64();
    Ok(Observed { begin, committed, behind, usage: after, cpu_percent })
}

fn summary(observed: &Observed, arrived: &Arrived) -> Result<Sample, String> {
    let mut missing = 0;
    let mut latencies_ms = Vec::new();
    for (index, committed) in observed.committed.iter().enumerate().skip(observed.begin) {
        match arrived.of(index as u64 + 1) {
            Some(at) => latencies_ms.push(at.saturating_duration_since(*committed).as_secs_f64() * 1e3),
            None => missing += 1,
        }
    }
    latencies_ms.sort_by(f64::total_cmp);
    let share = |share| per_mille(&latencies_ms, share).ok_or_else(|| "nothing has arrived".to_owned());
    let [p50, p99, p999] = SHARES.map(share);
    Ok(Sample {
        ms: [p50?, p99?, p999?, share(1000)?],
        events: latencies_ms.len(),
        missing,
        usage: observed.usage,
        cpu_percent: observed.cpu_percent,
        behind: observed.behind,
    })
}

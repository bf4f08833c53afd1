//! Runs one schedule, or a campaign of them.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::join_all;
use pgsluice::config::{self, Settings};

use super::machine;
use super::oracle::Delivery;
use super::world::{Shared, Story, World};

/// How long one schedule may take, in real time; it takes some milliseconds.
const LONGEST: Duration = Duration::from_secs(30);
/// How much is told of the end of a schedule that has failed.
const LINES: usize = 30;

const CONFIGURATION: &str = r#"
name = "sim"
shutdown_timeout_ms = 3000
[source]
url = "postgres://sim@localhost/sim"
tables = ["public.*", "!public.bills"]
[outbox]
table = "public.outbox"
[[events]]
name = "one"
table = "public.*"
on = ["insert", "update", "delete", "truncate"]
when = "table == 'bills' && (op == 'truncate' || (op == 'delete' ? old.id : new.id) % 3 > 0)"
type = "{op}"
[[events]]
name = "two"
table = "public.bills"
when = "(op == 'delete' ? old.id : new.id) % 3 == 2"
type = "{op}"
[[events]]
name = "three"
table = "public.bills"
when = "(op == 'delete' ? old.id : new.id) % 3 == 2"
type = "{op}"
data = ["id"]
[messages]
prefixes = ["app"]
[rabbitmq]
url = "amqp://localhost"
[checkpoint]
path = "unused"
"#;

pub(crate) fn settings() -> Settings {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pgsluice.toml");
    std::fs::write(&file, CONFIGURATION).expect("writes");
    config::load(&file).expect("is valid")
}

/// What became of a schedule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) violation: Option<String>,
    /// It ended before all was delivered, because changes may be missing.
    pub(crate) in_doubt: bool,
    queue: Vec<Option<Delivery>>,
    pub(crate) story: Story,
}

/// Runs one schedule.
pub(crate) fn run(seed: u64, settings: &Settings, with_story: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    // The backoffs' jitter comes from this thread's generator.
    fastrand::seed(seed);
    runtime.expect("a runtime").block_on(async {
        let shared: Shared = Arc::new(Mutex::new(World::new(seed, with_story)));
        let played = AssertUnwindSafe(play(&shared, settings.clone())).catch_unwind().await;
        let mut world = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if played.is_err() {
            world.oracle.violate("it panicked");
        }
        Outcome {
            violation: world.oracle.violation().map(str::to_owned),
            in_doubt: !world.is_done(),
            queue: world.oracle.queue().to_vec(),
            story: world.story(),
        }
    })
}

/// All machines, until all is done, or nothing can be done.
async fn play(shared: &Shared, mut settings: Settings) {
    let world = || shared.lock().unwrap_or_else(PoisonError::into_inner);
    let machines = {
        let schedule = &mut world().schedule;
        settings.rabbitmq.in_flight = schedule.limits;
        settings.rabbitmq.unroutable = schedule.unroutable;
        settings.rabbitmq.lanes = schedule.lanes;
        settings.rabbitmq.confirm_timeout = Duration::from_millis(schedule.confirm_timeout_ms);
        settings.checkpoint.interval = Duration::from_millis(schedule.checkpoint_interval_ms);
        settings.source.report_every = Duration::from_millis(schedule.report_every_ms);
        std::mem::take(&mut schedule.machines)
    };
    let running = machines.into_iter().zip('a'..).map(|(lives, name)| machine::run(shared, name, lives, &settings));
    join_all(running).await;
    let mut world = world();
    world.arrive(u64::MAX);
    if world.is_done() {
        let history: Vec<_> = world.database.history().collect();
        let lanes = world.schedule.lanes;
        world.oracle.judge_queue(&history, lanes);
    } else if world.database.damage().is_none() {
        world.oracle.violate("it ended too early");
    }
}

/// What a worker tells.
enum News {
    Begun { worker: usize, seed: u64 },
    Ended { worker: usize, in_doubt: bool },
    Failed { seed: u64, violation: String },
}

/// Runs that many schedules on all processors, until one fails; how many ended in doubt.
pub(crate) fn campaign(first: u64, schedules: u64) -> Result<u64, String> {
    let next = Arc::new(AtomicU64::new(first));
    let (tell, told) = mpsc::channel();
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    for worker in 0..workers {
        let (next, tell) = (Arc::clone(&next), tell.clone());
        // Not scoped: one that never ends must not keep the test from failing.
        std::thread::spawn(move || {
            let settings = settings();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + schedules || tell.send(News::Begun { worker, seed }).is_err() {
                    return;
                }
                let Outcome { violation, in_doubt, .. } = run(seed, &settings, false);
                let news =
                    violation.map_or(News::Ended { worker, in_doubt }, |violation| News::Failed { seed, violation });
                if tell.send(news).is_err() {
                    return;
                }
            }
        });
    }
    drop(tell);
    let mut running = vec![None; workers];
    let mut doubts = 0;
    loop {
        match told.recv_timeout(Duration::from_secs(1)) {
            Ok(News::Begun { worker, seed }) => running[worker] = Some((seed, Instant::now())),
            Ok(News::Ended { worker, in_doubt }) => {
                running[worker] = None;
                doubts += u64::from(in_doubt);
            }
            Ok(News::Failed { seed, violation }) => {
                let story = run(seed, &settings(), true).story;
                let end = story[story.len().saturating_sub(LINES)..].join("\n");
                return Err(format!("{end}\nSIM_SEED={seed} (schedule {}): {violation}", seed - first));
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(doubts),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if let Some((seed, since)) = running.iter().flatten().find(|(_, since)| since.elapsed() > LONGEST) {
            return Err(format!("SIM_SEED={seed} runs for {} s", since.elapsed().as_secs()));
        }
    }
}

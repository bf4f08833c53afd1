//! A seeded simulation of PostgreSQL and RabbitMQ around the real pipeline, under paused time.
//!
//! Everything between the two traits is the product's own code: loop, decoder, router, encoder, publisher, lane,
//! window, checkpointer, and the checkpoint file. Around it, [`postgres`] serves committed transactions as pgoutput
//! frames by the server's rule, and [`rabbit`] reads the published bytes back. Both fail as their schedule wants:
//! connections that fail to open, break or fall silent at any step, writes cut at any byte, late, reordered, multiple
//! and negative confirms, returns, alarms; and the process is killed at any step of a peer, or stopped, and starts
//! again from its checkpoint. In the end all faults stop, and [`world`] judges:
//!
//! - every selected change is in the queue, within a bounded time; nothing else ever is
//! - each event has one `message_id` and one body, at every delivery
//! - PostgreSQL is told only LSNs that it named itself, never less than before, never what is not in the checkpoint
//!   file, and never past a change that no queue has
//! - the stream goes on from no place before what was acknowledged, and reports come in time, whatever the broker does
//! - the last deliveries of all events are in commit order, and without refusals the first ones too
//! - no more than the configured events and bytes are in flight; every frame is whole and fits
//!
//! `SIM_SEED=n cargo test --test sim` replays one schedule; `SIM_SCHEDULES=n` sets how many are run. A replay is the same
//! but for a step that, once in some hundred seeds, races the thread that writes the checkpoint.
//!
//! It finds bugs. Each of these changes to the source was tried, with how many schedules it took; all were found in
//! less than a second:
//!
//! | what was broken | schedules | found as |
//! |---|---|---|
//! | reports the watermark, stored or not | 3 | acknowledged, while stored is less |
//! | a returned event counts as confirmed | 3 | acknowledged, although no queue has it |
//! | a refused event counts as confirmed | 7 | acknowledged, although no queue has it |
//! | confirmed events are not sent again after a refused one | 1 | panic in the lane |
//! | what is unconfirmed on a lost connection counts as confirmed | 3 | acknowledged, although no queue has it |
//! | every confirm counts as `multiple` | 2 | acknowledged, although no queue has it |
//! | a return is not noted | 3 | acknowledged, although no queue has it |
//! | delivery tags go on counting on a new channel | 5 | stuck |
//! | the watermark moves when an event is published | 1 | acknowledged, although no queue has it |
//! | a commit passes what is in flight | 2 | acknowledged, although no queue has it |
//! | a keepalive counts inside a transaction | 1 | acknowledged, although no queue has it |
//! | a keepalive counts while events are in flight | 1 | acknowledged, although no queue has it |
//! | the Begin's LSN counts as settled | 1 | acknowledged an LSN that was never named |
//! | what comes again is published again | 5 | checkpoint goes backwards |
//! | a half-read transaction is kept across a reconnect | 5 | transaction within a transaction |
//! | a reconnect starts where the process did | 3 | starts before what was acknowledged |
//! | logical messages are not counted | 1 | another `message_id` |
//! | an event cut by a lost connection is not sent from its start | 7 | stuck |
//! | no reports but for new checkpoints | 5 | no report in time |
//! | the window has no limit of events | 4 | over the limit |
//!
//! Not found, because nothing is lost or reordered by it: publishing again before all confirms of the failed pass have
//! come (the late ones end the connection, and a new one begins), publishing on after a failure, taking a return for
//! the first event without an answer, and stopping before the last checkpoint is stored.
//!
//! Time stands still while a checkpoint is written, so a loop that writes without an end hangs here.

#[path = "sim/frames.rs"]
mod frames;
#[path = "sim/postgres.rs"]
mod postgres;
#[path = "sim/rabbit.rs"]
mod rabbit;
#[path = "sim/world.rs"]
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pgsluice::checkpoint::file::{FileStore, read};
use pgsluice::config::{self, Settings};
use pgsluice::pipeline::Pipeline;
use pgsluice::telemetry::health::Health;
use tokio::sync::Notify;
use tokio::time::sleep;

use postgres::SimSource;
use rabbit::SimBroker;
use world::{Life, Shared, Trace, World};

/// How many schedules are run unless `SIM_SCHEDULES` says so.
const SCHEDULES: u64 = 1_000;
/// How long everything may take once nothing fails any more, in virtual time.
const STUCK_AFTER_MS: u64 = 180_000;

const CONFIGURATION: &str = r#"
name = "sim"
shutdown_timeout_ms = 3000
[source]
url = "postgres://sim@localhost/sim"
tables = ["public.*"]
[outbox]
table = "public.outbox"
[rabbitmq]
url = "amqp://localhost"
[checkpoint]
path = "unused"
"#;

fn settings() -> Settings {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pgsluice.toml");
    std::fs::write(&file, CONFIGURATION).expect("writes");
    config::load(&file).expect("is valid")
}

/// A folder in memory where there is one: each schedule stores many checkpoints.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a folder")
}

/// Runs one schedule from its first life to its last.
fn run(seed: u64, settings: &Settings) -> Result<Trace, String> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).max_blocking_threads(1).build();
    let folder = folder();
    // The backoffs' jitter comes from this thread's generator.
    fastrand::seed(seed);
    let schedule = || runtime.expect("a runtime").block_on(schedule(seed, settings.clone(), folder.path()));
    catch_unwind(AssertUnwindSafe(schedule)).unwrap_or_else(|_| Err("it panicked".to_owned()))
}

async fn schedule(seed: u64, mut settings: Settings, folder: &Path) -> Result<Trace, String> {
    let shared = Shared::new(World::new(seed, folder.to_owned()));
    let lives = std::mem::take(&mut shared.lock().lives);
    {
        let world = shared.lock();
        settings.rabbitmq.in_flight = world.limits;
        settings.rabbitmq.unroutable = world.unroutable;
        settings.rabbitmq.confirm_timeout = Duration::from_millis(world.confirm_timeout_ms);
        settings.checkpoint.interval = Duration::from_millis(world.checkpoint_interval_ms);
        settings.source.report_every = Duration::from_millis(world.report_every_ms);
    }
    for life in lives {
        live(life, &settings, &shared, folder).await;
        let world = shared.lock();
        if let Some(violation) = world.violation() {
            return Err(violation.clone());
        }
        if world.is_done() {
            break;
        }
    }
    let mut world = shared.lock();
    world.judge_order();
    if let Some(violation) = world.violation() { Err(violation.clone()) } else { Ok(world.trace()) }
}

/// One process, from its start to its end; the last one ends when all is done, or some rule is broken.
async fn live(life: Life, settings: &Settings, shared: &Shared, folder: &Path) {
    let crashed = Arc::clone(&shared.lock().crashed);
    let stop = Notify::new();
    let shutdown = async {
        match life {
            Life::StopAt(at_ms) => tokio::select! { biased;
                () = shared.at(at_ms) => {}
                () = stop.notified() => {}
            },
            Life::CrashAt(_) | Life::Last => stop.notified().await,
        }
    };
    {
        let mut world = shared.lock();
        world.crash_at = if let Life::CrashAt(step) = life { Some(world.steps + step) } else { None };
    }
    let store = Arc::new(FileStore::new(folder, world::NAME, None));
    let pipeline =
        Pipeline::new(settings.clone(), SimSource(shared.clone()), SimBroker(shared.clone()), store, Health::default());
    let mut run = pin!(pipeline.run(shutdown));
    tokio::select! { biased;
        () = crashed.notified() => return,
        () = finished(shared) => {}
        result = &mut run => {
            if let Err(definite) = result {
                shared.lock().violate(format!("the pipeline gave up: {definite}"));
            }
            return;
        }
    }
    if shared.lock().violation().is_some() {
        return;
    }
    // All is delivered and acknowledged: the end must be clean, and leave nothing to repeat.
    stop.notify_one();
    tokio::select! { biased;
        () = crashed.notified() => return,
        result = &mut run => if let Err(definite) = result {
            shared.lock().violate(format!("the pipeline did not stop cleanly: {definite}"));
        },
    }
    let mut world = shared.lock();
    let end = world.transactions.last().map_or(0, |transaction| transaction.end_lsn);
    match read(folder) {
        Ok(Some(stored)) if stored.flushed.0 >= end => {}
        stored => world.violate(format!("stopped cleanly with the checkpoint {stored:?}, but all ends at {end}")),
    }
}

/// All is done, or never will be.
async fn finished(shared: &Shared) {
    loop {
        sleep(Duration::from_millis(50)).await;
        let mut world = shared.lock();
        if world.now_ms() > world.calm_ms + STUCK_AFTER_MS && !world.is_done() {
            let standing = world.standing();
            world.violate(standing);
        }
        if world.is_done() || world.violation().is_some() {
            return;
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn no_schedule_loses_repeats_wrongly_or_reorders_an_event() {
    let settings = settings();
    if let Some(seed) = number("SIM_SEED") {
        if let Err(violation) = run(seed, &settings) {
            panic!("SIM_SEED={seed}: {violation}");
        }
        return;
    }
    let first = fastrand::u64(..1 << 40);
    let schedules = number("SIM_SCHEDULES").unwrap_or(SCHEDULES);
    println!("{schedules} schedules from SIM_SEED={first} on");
    let (next, failed, begin) = (AtomicU64::new(0), AtomicBool::new(false), std::time::Instant::now());
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= schedules {
                return None;
            }
            if let Err(violation) = run(first + index, &settings) {
                failed.store(true, Ordering::Relaxed);
                let seconds = begin.elapsed().as_secs_f32();
                return Some(format!("SIM_SEED={} (schedule {index}, {seconds:.1} s): {violation}", first + index));
            }
        }
        None
    };
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let failures: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().filter_map(|worker| worker.join().expect("reports its panics")).collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    println!("{schedules} schedules in {:.1} s", begin.elapsed().as_secs_f32());
}

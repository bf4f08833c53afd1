//! A machine that runs pgsluice, kills it or stops it as its schedule wants, and starts it again.

use std::pin::pin;
use std::time::Duration;

use pgsluice::config::Settings;
use pgsluice::failure::{Definite, Kind};
use pgsluice::pipeline::Pipeline;
use pgsluice::telemetry::health::Health;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::channel::SimBroker;
use super::disk::SimStore;
use super::schedule::{End, Life};
use super::source::SimSource;
use super::world::{Process, Shared};

/// How long everything may take once nothing fails any more, in virtual time.
const STUCK_AFTER_MS: u64 = 180_000;
/// How much longer than its timeout a stop may take.
const STOP_SLACK_MS: u64 = 100;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Killed, or stopped as asked.
    AsPlanned,
    /// Another went on from the checkpoint.
    Superseded,
    /// Changes may be missing.
    InDoubt,
    /// All is done, or some rule was broken.
    Over,
}

/// Runs one life after the other, until all is done or a human is needed.
pub(crate) async fn run(shared: &Shared, name: char, lives: Vec<Life>, settings: &Settings) {
    let mut doubts = 0;
    for Life { pause_ms, end } in lives {
        loop {
            sleep(Duration::from_millis(pause_ms)).await;
            match Box::pin(live(shared, name, end, settings)).await {
                Ending::AsPlanned => break,
                Ending::Superseded => {}
                // Started again, it may go on from a checkpoint that is not in doubt; else it stays as it is.
                Ending::InDoubt if doubts == 0 => doubts += 1,
                Ending::InDoubt | Ending::Over => return,
            }
        }
    }
}

/// One process, from its start to its end.
async fn live(shared: &Shared, name: char, end: End, settings: &Settings) -> Ending {
    let steps = if let End::Killed(step) = end { step } else { u64::MAX };
    let process = Process::new(shared, name, steps);
    process.note(&mut process.world(), || format!("starts, to end as {end:?}"));
    let stop = Notify::new();
    let told_to_stop = async {
        match end {
            End::Stopped(after_ms) => tokio::select! { biased;
                () = sleep(Duration::from_millis(after_ms)) => {}
                () = stop.notified() => {}
            },
            End::Killed(_) | End::Done => stop.notified().await,
        }
        let mut world = process.world();
        process.note(&mut world, || "is told to stop".to_owned());
        world.now_ms()
    };
    let mut stopping_ms = None;
    let shutdown = async { stopping_ms = Some(told_to_stop.await) };
    let (source, broker) = (SimSource(process.clone()), SimBroker(process.clone()));
    let store = SimStore::new(process.clone());
    let pipeline = Pipeline::new(settings.clone(), source, broker, store, Health::default());
    let ended = {
        let mut running = pin!(pipeline.run(shutdown));
        let all = async {
            finished(&process).await;
            stop.notify_one();
            std::future::pending::<()>().await;
        };
        tokio::select! { biased;
            () = process.killed() => None,
            ended = &mut running => Some(ended),
            () = all => None,
        }
    };
    let ending = judge_end(&process, ended);
    judge_stop(&process, ending, stopping_ms, settings);
    if ending == Ending::AsPlanned && is_over(&process) { Ending::Over } else { ending }
}

fn judge_end(process: &Process, ended: Option<Result<(), Definite>>) -> Ending {
    let mut world = process.world();
    let definite = match ended {
        None => {
            process.note(&mut world, || "is killed".to_owned());
            return Ending::AsPlanned;
        }
        Some(Ok(())) => {
            process.note(&mut world, || "ends".to_owned());
            return Ending::AsPlanned;
        }
        Some(Err(definite)) => definite,
    };
    process.note(&mut world, || format!("gives up: {definite}"));
    match definite.kind {
        Kind::InDoubt if world.database.damage().is_some() => Ending::InDoubt,
        Kind::Checkpoint if world.disk.is_superseded(process.id) => Ending::Superseded,
        kind => {
            world.oracle.violate(format!("the pipeline gave up for no reason ({kind:?}): {definite}"));
            Ending::Over
        }
    }
}

/// Whoever is asked to stop does so in time, and if there was time enough leaves nothing to repeat.
fn judge_stop(process: &Process, ending: Ending, stopping_ms: Option<u64>, settings: &Settings) {
    let Some(stopping_ms) = stopping_ms else { return };
    let mut world = process.world();
    let took_ms = world.now_ms() - stopping_ms;
    let most_ms = u64::try_from(settings.shutdown_timeout.as_millis()).expect("short");
    if took_ms > most_ms + STOP_SLACK_MS {
        world.oracle.violate(format!("took {took_ms} ms to stop"));
    }
    let Some(published) = world.rabbit.published(process.id) else { return };
    let is_covered = world.disk.stored().is_some_and(|stored| world.oracle.covers(stored, published));
    if ending == Ending::AsPlanned && took_ms < most_ms && !is_covered && world.database.damage().is_none() {
        let name = world.oracle.name(published).to_owned();
        world.oracle.violate(format!("stopped with less in the checkpoint than {name}, which it published"));
    }
}

/// All is done, or never will be.
async fn finished(process: &Process) {
    while !is_over(process) {
        sleep(Duration::from_millis(50)).await;
        let mut world = process.world();
        if world.now_ms() > world.schedule.calm_ms + STUCK_AFTER_MS && !world.is_done() {
            let missing = world.oracle.missing(world.database.history()).map(str::to_owned);
            let (server, stored) = (&world.database.server, world.disk.stored());
            let stuck = format!(
                "stuck: of WAL up to {:X}, {:?} is acknowledged; {stored:?} is stored; {missing:?} is missing",
                server.end, server.slot,
            );
            world.oracle.violate(stuck);
        }
    }
}

fn is_over(process: &Process) -> bool {
    let world = process.world();
    world.oracle.violation().is_some() || world.is_done()
}

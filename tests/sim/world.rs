//! What is outside of pgsluice: the time, chance, and the peers, which all processes share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::database::Database;
use super::disk::Disk;
use super::oracle::Oracle;
use super::rabbit::Rabbit;
use super::schedule::Schedule;

/// The pipeline's name, and so the slot's.
pub(crate) const NAME: &str = "sim";

/// What happened, line by line.
pub(crate) type Story = Vec<String>;

pub(crate) struct World {
    pub(crate) schedule: Schedule,
    pub(crate) random: fastrand::Rng,
    pub(crate) database: Database,
    pub(crate) rabbit: Rabbit,
    pub(crate) disk: Disk,
    pub(crate) oracle: Oracle,
    base: Instant,
    processes: u32,
    story: Option<Story>,
}

pub(crate) type Shared = Arc<Mutex<World>>;

impl World {
    /// The world of this seed; keeps a story of what happens in it when it is asked for.
    pub(crate) fn new(seed: u64, with_story: bool) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut schedule = Schedule::new(&mut random);
        Self {
            database: Database::new(&mut schedule),
            rabbit: Rabbit::default(),
            disk: Disk::default(),
            oracle: Oracle::default(),
            base: Instant::now(),
            processes: 0,
            story: with_story.then(Vec::new),
            schedule,
            random,
        }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_millis()).expect("schedules are short")
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.now_ms() >= self.schedule.calm_ms
    }

    /// Whether a fault of this probability happens now.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && !self.is_calm() && self.random.f64() < probability
    }

    /// A time from now on.
    pub(crate) fn soon(&mut self, within_ms: u64) -> u64 {
        self.now_ms() + self.random.u64(..=within_ms)
    }

    pub(crate) fn note(&mut self, who: &str, what: impl FnOnce() -> String) {
        let now_ms = self.now_ms();
        if let Some(story) = &mut self.story {
            story.push(format!("{now_ms:>7} ms  {who:<10}{}", what()));
        }
    }

    pub(crate) fn story(&mut self) -> Story {
        self.story.take().unwrap_or_default()
    }

    /// Whether everything that was committed is delivered, stored, and acknowledged.
    pub(crate) fn is_done(&self) -> bool {
        let stored = self.disk.stored().map_or(0, |stored| stored.flushed.0);
        self.is_calm()
            && self.database.is_acknowledged(stored)
            && self.oracle.missing(self.database.history()).is_none()
    }

    /// What was to happen by now has happened.
    fn catch_up(&mut self) {
        let now = self.now_ms();
        self.happen(now);
        self.arrive(now);
        self.land(now);
    }
}

/// Takes out what is due first, if it is due by now.
pub(crate) fn take_due<T>(of: &mut Vec<(u64, T)>, now_ms: u64) -> Option<T> {
    let index = (0..of.len()).filter(|index| of[*index].0 <= now_ms).min_by_key(|index| of[*index].0)?;
    Some(of.remove(index).1)
}

/// One process; its peers act through it, and with it they die.
#[derive(Clone)]
pub(crate) struct Process {
    shared: Shared,
    /// Counts all processes of the schedule.
    pub(crate) id: u32,
    name: Arc<str>,
    steps_left: Arc<AtomicU64>,
    death: Arc<Notify>,
}

impl Process {
    /// A process on this machine, that dies after so many steps.
    pub(crate) fn new(shared: &Shared, machine: char, steps: u64) -> Self {
        let mut world = shared.lock().unwrap_or_else(PoisonError::into_inner);
        world.processes += 1;
        let id = world.processes;
        drop(world);
        let name = format!("{machine} ({id})").into();
        Self { shared: shared.clone(), id, name, steps_left: Arc::new(steps.into()), death: Arc::default() }
    }

    /// The world as it is now.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        let mut world = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        world.catch_up();
        world
    }

    pub(crate) fn instant(&self, at_ms: u64) -> Instant {
        self.world().base + Duration::from_millis(at_ms)
    }

    pub(crate) async fn at(&self, at_ms: u64) {
        sleep_until(self.instant(at_ms)).await;
    }

    /// Time passes, up to so much.
    pub(crate) async fn pause(&self, within_ms: u64) {
        let until = self.world().soon(within_ms);
        self.at(until).await;
    }

    /// A step of a peer, at which the process may be killed.
    pub(crate) async fn step(&self) {
        if self.dies() {
            std::future::pending::<()>().await;
        }
    }

    /// A step of a peer: whether the process is killed at it, and does no more.
    pub(crate) fn dies(&self) -> bool {
        let dies = self.steps_left.fetch_sub(1, Ordering::Relaxed) <= 1;
        if dies {
            self.steps_left.store(0, Ordering::Relaxed);
            self.death.notify_one();
        }
        dies
    }

    pub(crate) async fn killed(&self) {
        self.death.notified().await;
    }

    pub(crate) fn note(&self, world: &mut World, what: impl FnOnce() -> String) {
        world.note(&self.name, what);
    }
}

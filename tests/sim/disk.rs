//! Where the checkpoint is kept: a file in a locked folder, or a row of a table. Both are slow, and fail.
//!
//! A file belongs to one process for as long as that lives. A process that is killed while it writes leaves the old
//! checkpoint or the new one; so does a write that failed, and its process may store others after it. A row can be
//! replaced only by who read it last; a statement on its way may be carried out after its process died, and its
//! answer may be lost. `pgsluice::checkpoint::{file, postgres}` are the real ones.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgsluice::checkpoint::{Checkpoint, Loading, Store, Storing};
use pgsluice::failure::{Failure, Kind};

use super::schedule::StoreKind;
use super::world::{Process, World, take_due};

/// How often a standby looks whether the folder is free.
const POLL_MS: u64 = 250;

#[derive(Default)]
pub(crate) struct Disk {
    /// What would be read now.
    stored: Option<Checkpoint>,
    /// Who has the folder, or stored last in the row.
    owner: Option<u32>,
    /// In the folder, and not known to survive a crash.
    unsure: Vec<Write>,
    /// Statements of dead processes, and when they are carried out.
    late: Vec<(u64, Write)>,
}

/// A checkpoint on its way.
#[derive(Debug, Clone)]
struct Write {
    process: u32,
    checkpoint: Checkpoint,
    /// What the process read, if it has not stored yet: then the row may be that, too, and not only its own.
    read: Option<Checkpoint>,
    owned: bool,
}

pub(crate) struct SimStore {
    process: Process,
    known: Mutex<Known>,
}

/// What one process knows.
#[derive(Default)]
struct Known {
    last: Option<Checkpoint>,
    /// It has tried to store, and what it read must be what it goes on from.
    begun: bool,
    /// It was told that it has stored.
    owned: bool,
    writing: Option<Write>,
}

impl Disk {
    pub(crate) fn stored(&self) -> Option<&Checkpoint> {
        self.stored.as_ref()
    }

    /// Whether this process has the folder, or stored last.
    pub(crate) fn is_owned_by(&self, process: u32) -> bool {
        self.owner == Some(process)
    }

    /// Whether another has stored since this process did.
    pub(crate) fn is_superseded(&self, process: u32) -> bool {
        self.owner.is_some_and(|owner| owner != process)
    }
}

impl World {
    /// Carries out a statement; false when the row is not what it has to be.
    fn replace(&mut self, write: Write) -> bool {
        let is_own = self.disk.owner == Some(write.process);
        if !is_own && (write.owned || write.read != self.disk.stored) {
            return false;
        }
        self.disk.owner = Some(write.process);
        self.put(write);
        true
    }

    fn put(&mut self, write: Write) {
        let before = self.disk.stored.replace(write.checkpoint);
        if self.disk.stored != before {
            self.oracle.stored(write.process);
        }
    }

    /// Statements that are carried out late, by now.
    pub(crate) fn land(&mut self, by_ms: u64) {
        while let Some(write) = take_due(&mut self.disk.late, by_ms) {
            let landed = self.replace(write);
            self.note("store", || format!("carries out a statement of the dead: {landed}"));
        }
    }
}

impl SimStore {
    pub(crate) fn new(process: Process) -> Arc<Self> {
        Arc::new(Self { process, known: Mutex::default() })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kind(&self) -> StoreKind {
        self.process.world().schedule.store
    }

    /// Waits for the folder; what a process that was killed has left there is durable from now on.
    async fn take(&self) {
        loop {
            {
                let mut world = self.process.world();
                if world.disk.owner.is_none() {
                    world.disk.owner = Some(self.process.id);
                    let mut unsure = std::mem::take(&mut world.disk.unsure);
                    if !unsure.is_empty() && world.random.bool() {
                        let survivor = world.random.usize(..unsure.len());
                        world.put(unsure.swap_remove(survivor));
                    }
                }
                if world.disk.owner == Some(self.process.id) {
                    return;
                }
            }
            self.process.pause(POLL_MS).await;
        }
    }

    async fn load(&self) -> Result<Option<Checkpoint>, Failure> {
        self.process.pause(5).await;
        self.process.step().await;
        match self.kind() {
            StoreKind::File => self.take().await,
            StoreKind::Table => {
                let mut world = self.process.world();
                let fails = world.schedule.faults.open_fails;
                if world.chance(fails) {
                    return Err(Failure::transient(anyhow::anyhow!("the server with the table is away")));
                }
            }
        }
        let mut world = self.process.world();
        let mut known = self.known();
        let is_replaced = world.disk.is_superseded(self.process.id) && (known.owned || world.disk.stored != known.last);
        if known.begun && is_replaced {
            return Err(superseded());
        }
        known.last.clone_from(&world.disk.stored);
        let stored = known.last.clone();
        self.process.note(&mut world, || format!("reads the checkpoint {}", told(stored.as_ref())));
        Ok(known.last.clone())
    }

    /// The write begins at once. When it ends, and whether it fails.
    fn begin(&self, checkpoint: Checkpoint) -> u64 {
        let mut world = self.process.world();
        let mut known = self.known();
        self.process.note(&mut world, || format!("begins to store {}", told(Some(&checkpoint))));
        if known.last.as_ref().is_some_and(|last| !checkpoint.follows(last)) {
            world.oracle.violate(format!("{checkpoint:?} is stored after {:?}", known.last));
        }
        world.judge_checkpoint(&checkpoint);
        known.begun = true;
        let (process, read, owned) = (self.process.id, known.last.clone(), known.owned);
        known.writing = Some(Write { process, checkpoint, read, owned });
        let slow = world.schedule.faults.store_slow;
        let within_ms = if world.chance(slow) { 2_000 } else { 20 };
        world.soon(within_ms)
    }

    fn end(&self) -> Result<(), Failure> {
        let mut world = self.process.world();
        let mut known = self.known();
        let Some(write) = known.writing.take() else { return Err(Failure::transient(anyhow::anyhow!("no write"))) };
        let now = world.now_ms();
        let fails = world.schedule.faults.store_fails;
        let fails = world.chance(fails) || world.schedule.disk_full.iter().any(|phase| phase.contains(&now));
        let has_effect = !fails || world.random.bool();
        self.process.note(&mut world, || format!("stored: {}, failed: {fails}", told(Some(&write.checkpoint))));
        match world.schedule.store {
            StoreKind::File if fails && has_effect => world.disk.unsure.push(write),
            StoreKind::File if fails => {}
            StoreKind::File => {
                world.disk.unsure.clear();
                known.last = Some(write.checkpoint.clone());
                world.put(write);
            }
            StoreKind::Table => {
                let checkpoint = write.checkpoint.clone();
                if has_effect && !world.replace(write) {
                    return Err(superseded());
                }
                if !fails {
                    (known.last, known.owned) = (Some(checkpoint), true);
                }
            }
        }
        if fails { Err(Failure::transient(anyhow::anyhow!("no space left on device"))) } else { Ok(()) }
    }
}

impl Store for SimStore {
    fn idle_interval(&self) -> Duration {
        match self.kind() {
            StoreKind::File => Duration::ZERO,
            StoreKind::Table => Duration::from_secs(10),
        }
    }

    fn load(self: Arc<Self>) -> Loading {
        Box::pin(async move { SimStore::load(&self).await })
    }

    fn store(self: Arc<Self>, checkpoint: Checkpoint) -> Storing {
        let done_ms = self.begin(checkpoint);
        Box::pin(async move {
            self.process.at(done_ms).await;
            self.process.step().await;
            self.end()
        })
    }
}

impl Drop for SimStore {
    /// The process is over.
    fn drop(&mut self) {
        let mut world = self.process.world();
        let writing = self.known().writing.take();
        match world.schedule.store {
            StoreKind::File => {
                world.disk.unsure.extend(writing);
                if world.disk.owner == Some(self.process.id) {
                    world.disk.owner = None;
                }
            }
            StoreKind::Table => {
                let at_ms = world.soon(1_000);
                let lands = world.random.bool();
                world.disk.late.extend(writing.filter(|_| lands).map(|write| (at_ms, write)));
            }
        }
    }
}

impl fmt::Debug for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimStore")
    }
}

fn superseded() -> Failure {
    Failure::definite(Kind::Checkpoint, anyhow::anyhow!("superseded"), "start it again")
}

fn told(checkpoint: Option<&Checkpoint>) -> String {
    checkpoint.map_or_else(|| "none".to_owned(), |it| format!("{} {:?}", it.flushed, it.position))
}

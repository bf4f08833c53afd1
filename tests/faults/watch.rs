//! What must hold all the time: memory is bounded, and PostgreSQL is told nothing that the checkpoint does not hold.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use ::pgsluice::checkpoint::Checkpoint;
use ::pgsluice::checkpoint::file::read;
use ::pgsluice::lsn::Lsn;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, NoTls};

use crate::support::Scene;

const EVERY: Duration = Duration::from_millis(100);

/// Looks until it is stopped.
pub(super) struct Watch {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Of the pgsluice that runs now; others come after it.
    pid: AtomicI32,
    memory_max_kb: AtomicU64,
    slots_seen: AtomicU64,
}

impl Watch {
    /// The checkpoint exists.
    pub(super) fn start(scene: &Scene) -> Self {
        let shared = Arc::<Shared>::default();
        let slot = scene.database.name().to_owned();
        let task = tokio::spawn(run(Arc::clone(&shared), scene.database.url(), slot, scene.checkpoint()));
        Self { shared, task }
    }

    pub(super) fn process(&self, pid: rustix::process::Pid) {
        self.shared.pid.store(pid.as_raw_nonzero().get(), Ordering::Relaxed);
    }

    /// What must hold has held so far.
    pub(super) fn runs(&self) {
        assert!(!self.task.is_finished(), "the watch has found something");
    }

    /// The most memory that a process took, in kB, and how often the slot was looked at.
    pub(super) async fn stop(&mut self) -> (u64, u64) {
        self.shared.stop.store(true, Ordering::Relaxed);
        (&mut self.task).await.expect("the watch");
        (self.shared.memory_max_kb.load(Ordering::Relaxed), self.shared.slots_seen.load(Ordering::Relaxed))
    }
}

async fn run(shared: Arc<Shared>, url: String, slot: String, folder: PathBuf) {
    let mut client = None;
    let mut is_stored = false;
    while !shared.stop.load(Ordering::Relaxed) {
        if let Some(memory_kb) = memory_kb(shared.pid.load(Ordering::Relaxed)) {
            shared.memory_max_kb.fetch_max(memory_kb, Ordering::Relaxed);
        }
        // The file after the slot: it is stored before it is told.
        if let Ok(Some(confirmed)) = timeout(EVERY * 50, confirmed(&mut client, &url, &slot)).await {
            let checkpoint = read(&folder).expect("is whole");
            // A new slot is acknowledged up to its start before anything is stored.
            assert!(checkpoint.is_some() || !is_stored, "the checkpoint is there");
            if let Some(Checkpoint { flushed, .. }) = checkpoint {
                is_stored = true;
                assert!(confirmed <= flushed, "PostgreSQL was told {confirmed}, and the checkpoint is at {flushed}");
            }
            shared.slots_seen.fetch_add(1, Ordering::Relaxed);
        }
        sleep(EVERY).await;
    }
}

/// The high-water mark of the resident memory.
fn memory_kb(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// What PostgreSQL was told; none when it is away.
async fn confirmed(client: &mut Option<Client>, url: &str, slot: &str) -> Option<Lsn> {
    if client.as_ref().is_none_or(Client::is_closed) {
        let (new, connection) = tokio_postgres::connect(url, NoTls).await.ok()?;
        tokio::spawn(connection);
        *client = Some(new);
    }
    let sql = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1";
    let row = client.as_ref()?.query_one(sql, &[&slot]).await.ok()?;
    Some(row.get::<_, &str>(0).parse().expect("an LSN"))
}

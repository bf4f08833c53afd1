//! The checkpoint as a file: one small JSON document in a folder of its own.
//!
//! Invariant: at any moment, power loss included, `checkpoint.json` is a whole checkpoint, the last
//! stored one or the one before it. Hence temporary file, fsync, rename, fsync of the folder; and
//! only when all four have happened is it stored, and can be reported to PostgreSQL. A checksum finds
//! what the file system or an editor did to it.
//!
//! The folder is locked for as long as the store lives. Another pgsluice of the same name waits for it as a
//! warm standby. Knows nothing of slots or servers (`postgres::slot` judges whether a checkpoint fits them).

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Checkpoint, Loading, Store, Storing};
use crate::failure::{Definite, Failure, Kind};

/// The checkpoint, within the folder.
pub const FILE: &str = "checkpoint.json";
/// Where the next one is written before it replaces the last. A leftover is overwritten, never read.
const TEMPORARY: &str = "checkpoint.json.tmp";
/// Held locked by the process that owns the folder; holds its process id and its name.
const LOCK: &str = "lock";
/// How often a standby looks whether the folder is free.
const POLL: Duration = Duration::from_millis(250);
/// Of the format. Raise it when an older pgsluice would misread a newer file.
const VERSION: u32 = 1;
/// A checkpoint takes some 300 bytes; what is larger is something else.
const LARGEST_BYTES: u64 = 64 * 1024;

const START_FROM_THE_SLOT: &str = "Restore the file from a backup taken from this same folder, or move it away: pgsluice \
    then goes on from the slot's confirmed_flush_lsn, which is never past what was stored, so that nothing is lost and \
    some events may be sent again.";

/// The store in one folder.
#[derive(Debug)]
pub struct FileStore {
    dir: PathBuf,
    /// Of this pgsluice.
    name: String,
    /// How long to wait for a folder that is in use; none: for ever.
    patience: Option<Duration>,
    held: Mutex<Option<Held>>,
}

/// What the owner of the folder has.
#[derive(Debug)]
struct Held {
    /// The last checkpoint known to be on disk.
    last: Option<Checkpoint>,
    _lock: File,
}

/// Why the folder was not taken into possession.
#[derive(Debug)]
pub enum TakeError {
    /// Another process of the same name has it.
    InUse(Definite),
    /// It can't be used.
    Unusable(Definite),
}

impl From<Definite> for TakeError {
    fn from(definite: Definite) -> Self {
        Self::Unusable(definite)
    }
}

impl TakeError {
    /// For who does not wait.
    #[must_use]
    pub fn definite(self) -> Definite {
        match self {
            Self::InUse(definite) | Self::Unusable(definite) => definite,
        }
    }
}

/// Why a checkpoint was not stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full, gone, read-only: go on without acknowledging, and try again.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// `write`, `fsync`, `rename`, …
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A bug of the caller.
    #[error("nothing can be stored in a folder that was not taken into possession")]
    NotTaken,
    /// A bug of the caller: progress never goes back, and its server and slot never change.
    #[error("refusing to replace the stored checkpoint ({stored:?}) with one that is not further on ({given:?})")]
    Backwards {
        /// What is on disk.
        stored: Box<Checkpoint>,
        /// What should have replaced it.
        given: Box<Checkpoint>,
    },
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Io { .. } => Self::transient(error),
            StoreError::NotTaken | StoreError::Backwards { .. } => Self::definite(
                Kind::Checkpoint,
                error,
                "This is a bug in pgsluice; nothing was acknowledged. Please report it.",
            ),
        }
    }
}

/// The file's content.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    checkpoint: Checkpoint,
    /// See [`checksum`].
    sha256: String,
}

/// What every version of the format has.
#[derive(Debug, Deserialize)]
struct Versioned {
    version: u32,
}

impl FileStore {
    /// The store in `dir` for the pgsluice called `name`, which waits so long for it; none: for ever. Touches nothing
    /// yet.
    #[must_use]
    pub fn new(dir: &Path, name: &str, patience: Option<Duration>) -> Self {
        Self { dir: dir.to_owned(), name: name.to_owned(), patience, held: Mutex::new(None) }
    }

    /// Takes the folder into possession, creating it when it is missing, and reads the checkpoint; none when none was
    /// stored yet.
    ///
    /// # Errors
    /// The folder can't be created or written, is no folder, or another process has it; the file can't be read, or is
    /// not what a store has written. Never guessed around: a wrong position can lose events.
    pub fn take(&self) -> Result<Option<Checkpoint>, TakeError> {
        let mut held = self.held();
        if let Some(held) = held.as_ref() {
            return Ok(held.last.clone());
        }
        create(&self.dir)?;
        let lock = lock(&self.dir, &self.name)?;
        let temporary = self.dir.join(TEMPORARY);
        // Found now rather than at the first store, minutes into the stream.
        File::create(&temporary).and_then(|_| fs::remove_file(&temporary)).map_err(|error| {
            unusable(&self.dir, &format!("cannot create {} in the checkpoint folder", temporary.display()), error)
        })?;
        let last = read(&self.dir)?;
        if last.is_some() {
            // The process that stored it may have died between rename and fsync.
            let path = self.file();
            File::open(&path)
                .and_then(|file| file.sync_all())
                .and_then(|()| sync_dir(&self.dir))
                .map_err(|error| unusable(&self.dir, &format!("cannot fsync {}", path.display()), error))?;
        }
        *held = Some(Held { last: last.clone(), _lock: lock });
        Ok(last)
    }

    /// Replaces the stored checkpoint, and returns once it would survive a power loss.
    ///
    /// # Errors
    /// [`StoreError::Io`] leaves the last checkpoint in place (or this one, not known to be durable);
    /// storing again is safe, because every attempt writes a new file.
    pub fn replace(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let mut held = self.held();
        let Some(held) = held.as_mut() else { return Err(StoreError::NotTaken) };
        if let Some(stored) = held.last.as_ref().filter(|stored| !follows(stored, checkpoint)) {
            return Err(StoreError::Backwards { stored: stored.clone().into(), given: checkpoint.clone().into() });
        }
        let temporary = self.dir.join(TEMPORARY);
        // A retry must not fsync a file whose last fsync failed: the kernel may have dropped its pages
        // and would report success. So the old one is unlinked, and a new one made.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &temporary)(error)),
            Ok(()) | Err(_) => {}
        }
        let mut file = File::create(&temporary).map_err(io_error("create", &temporary))?;
        file.write_all(render(checkpoint).as_bytes()).map_err(io_error("write", &temporary))?;
        file.sync_all().map_err(io_error("fsync", &temporary))?;
        drop(file);
        let path = self.file();
        fs::rename(&temporary, &path).map_err(io_error("rename to", &path))?;
        sync_dir(&self.dir).map_err(io_error("fsync", &self.dir))?;
        held.last = Some(checkpoint.clone());
        Ok(())
    }

    /// Where the checkpoint is.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take_when_free(self: Arc<Self>) -> Result<Option<Checkpoint>, Failure> {
        let deadline = self.patience.map(|patience| Instant::now() + patience);
        let mut told = false;
        loop {
            let store = Arc::clone(&self);
            match blocking(move || store.take()).await? {
                Ok(checkpoint) => return Ok(checkpoint),
                Err(TakeError::InUse(definite)) if deadline.is_none_or(|deadline| Instant::now() < deadline) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!("standing by: {definite}");
                    }
                    tokio::time::sleep(POLL).await;
                }
                Err(error) => return Err(error.definite().into()),
            }
        }
    }
}

impl Store for FileStore {
    fn load(self: Arc<Self>) -> Loading {
        Box::pin(self.take_when_free())
    }

    fn store(self: Arc<Self>, checkpoint: Checkpoint) -> Storing {
        // Begins at once, not when it is waited for.
        let storing = tokio::task::spawn_blocking(move || self.replace(&checkpoint));
        Box::pin(async { storing.await.map_err(panicked)?.map_err(Failure::from) })
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(panicked)
}

fn panicked(panic: tokio::task::JoinError) -> Failure {
    Failure::definite(Kind::Checkpoint, panic, "This is a bug in pgsluice; please report it.")
}

/// Reads the checkpoint in `dir` without taking the folder into possession, for commands that only
/// look; none when there is no file.
///
/// # Errors
/// As [`FileStore::take`].
pub fn read(dir: &Path) -> Result<Option<Checkpoint>, Definite> {
    let path = dir.join(FILE);
    let mut text = Vec::new();
    match File::open(&path).and_then(|file| file.take(LARGEST_BYTES + 1).read_to_end(&mut text)) {
        Ok(_) => parse(&path, &text).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unusable(dir, &format!("cannot read the checkpoint {}", path.display()), error)),
    }
}

fn parse(path: &Path, text: &[u8]) -> Result<Checkpoint, Definite> {
    let corrupt = |what: anyhow::Error| {
        let what = what.context(format!("the checkpoint {} is not usable", path.display()));
        Definite::new(Kind::Checkpoint, what, START_FROM_THE_SLOT)
    };
    if text.is_empty() {
        return Err(corrupt(anyhow!("it is empty")));
    }
    if text.len() as u64 > LARGEST_BYTES {
        return Err(corrupt(anyhow!("it is larger than {LARGEST_BYTES} bytes, so something else has written it")));
    }
    let Versioned { version } = serde_json::from_slice(text).context("it is truncated or corrupt").map_err(corrupt)?;
    if version != VERSION {
        let what = anyhow!("it has format version {version}, and this pgsluice reads version {VERSION}");
        let what = what.context(format!("the checkpoint {} is not usable", path.display()));
        return Err(Definite::new(
            Kind::Checkpoint,
            what,
            format!("Run the pgsluice that wrote it, or a newer one. {START_FROM_THE_SLOT}"),
        ));
    }
    let stored: Stored = serde_json::from_slice(text).context("it is truncated or corrupt").map_err(corrupt)?;
    let expected = checksum(&stored.checkpoint);
    if stored.sha256 != expected {
        let found = stored.sha256;
        return Err(corrupt(anyhow!(
            "its checksum is {found} where its content has {expected}: it is corrupt, or was edited"
        )));
    }
    Ok(stored.checkpoint)
}

fn render(checkpoint: &Checkpoint) -> String {
    let sha256 = checksum(checkpoint);
    let stored = Stored { version: VERSION, checkpoint: checkpoint.clone(), sha256 };
    let mut text = serde_json::to_string_pretty(&stored).expect("numbers and strings always serialize");
    text.push('\n');
    text
}

/// SHA-256 in lowercase hexadecimal over the JSON array `[version,checkpoint]` without white space, so that
/// the document's layout does not matter.
fn checksum(checkpoint: &Checkpoint) -> String {
    let content = serde_json::to_vec(&(VERSION, checkpoint)).expect("numbers and strings always serialize");
    Sha256::digest(content).iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Whether `next` is the same stream as `stored`, and not behind it.
fn follows(stored: &Checkpoint, next: &Checkpoint) -> bool {
    stored.system_identifier == next.system_identifier
        && stored.slot == next.slot
        && stored.timeline <= next.timeline
        && stored.flushed <= next.flushed
        && stored.position <= next.position
}

fn create(dir: &Path) -> Result<(), Definite> {
    if dir.is_dir() {
        return Ok(());
    }
    let failed = |error| unusable(dir, &format!("cannot create the checkpoint folder {}", dir.display()), error);
    fs::create_dir_all(dir).map_err(failed)?;
    // `checkpoint.path = "state"` has the empty path as its parent.
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync_dir(parent).map_err(failed)
}

fn lock(dir: &Path, name: &str) -> Result<File, TakeError> {
    let path = dir.join(LOCK);
    let failed = |error| unusable(dir, &format!("cannot lock {}", path.display()), error);
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::Error(error)) => return Err(failed(error).into()),
        Err(TryLockError::WouldBlock) => return Err(in_use(dir, name, file)),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{} {name}", std::process::id())).map_err(failed)?;
    Ok(file)
}

fn in_use(dir: &Path, name: &str, lock: File) -> TakeError {
    let mut text = String::new();
    // Only to name the holder; it may be writing just now.
    let _ = lock.take(1024).read_to_string(&mut text);
    let (pid, holder) = text.trim().split_once(' ').unwrap_or(("", ""));
    let of = if holder.is_empty() { String::new() } else { format!(" (process {pid}, name \"{holder}\")") };
    let error = anyhow!("the checkpoint folder {} is in use by another pgsluice{of}", dir.display());
    let hint = "Two processes must not share a checkpoint: stop the other one, or give this one a `name` and a \
                `checkpoint.path` of its own.";
    let definite = Definite::new(Kind::Checkpoint, error, hint);
    if holder.is_empty() || holder == name { TakeError::InUse(definite) } else { TakeError::Unusable(definite) }
}

/// Makes a rename or a new entry in `dir` durable.
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn io_error<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io { doing, path: path.to_owned(), source }
}

/// What the system refused, with the hint that fits its reason.
fn unusable(dir: &Path, what: &str, error: io::Error) -> Definite {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("Let the user that runs pgsluice read and write {}, or set `checkpoint.path`.", dir.display())
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "`checkpoint.path` names a folder, which pgsluice creates; a file is in the way.".to_owned()
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "Make room on that file system.".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => {
            "That file system is mounted read-only: set `checkpoint.path` to a folder that outlives the process and can \
             be written."
                .to_owned()
        }
        _ => "Set `checkpoint.path` to a folder on a local disk that pgsluice can read and write.".to_owned(),
    };
    Definite::new(Kind::Checkpoint, anyhow::Error::new(error).context(what.to_owned()), hint)
}

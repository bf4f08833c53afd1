//! The checkpoint as a file: one small JSON document in a folder of its own.
//!
//! Invariant: at any moment, power loss included, `checkpoint.json` is a whole checkpoint, the last
//! stored one or the one before it. Hence temporary file, fsync, rename, fsync of the folder; and
//! only when all four have happened is it stored, and can be reported to PostgreSQL. A checksum finds
//! what the file system or an editor did to it.
//!
//! The folder is locked for as long as the store lives. Another pgsluice of the same name waits for it as a
//! warm standby. Knows nothing of slots or servers (`postgres::slot` judges whether a checkpoint fits them).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::anyhow;

use super::{Checkpoint, Loading, Store, Storing, document};
use crate::failure::{Definite, Failure, Kind};
use crate::telemetry::health::{self, Health};

/// The checkpoint, within the folder.
pub const FILE: &str = "checkpoint.json";
/// Where the next one is written before it replaces the last. A leftover is overwritten, never read.
const TEMPORARY: &str = "checkpoint.json.tmp";
/// Held locked by the process that owns the folder; holds its process id and its name.
const LOCK: &str = "lock";
/// What was forgotten last.
const OLD: &str = "checkpoint.json.old";
/// The folder of the positions that were given a name, within the folder.
const KEPT: &str = "named";
/// How often a standby looks whether the folder is free.
const POLL: Duration = Duration::from_millis(250);
/// The store in one folder.
#[derive(Debug)]
pub struct FileStore {
    dir: PathBuf,
    /// Of this pgsluice.
    name: String,
    /// How long to wait for a folder that is in use; none: for ever.
    patience: Option<Duration>,
    health: Health,
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

impl FileStore {
    /// The store in `dir` for the pgsluice called `name`, which waits so long for it; none: for ever. Touches nothing
    /// yet.
    #[must_use]
    pub fn new(dir: &Path, name: &str, patience: Option<Duration>) -> Self {
        Self { dir: dir.to_owned(), name: name.to_owned(), patience, health: Health::default(), held: Mutex::new(None) }
    }

    /// Lets `health` know when it stands by.
    #[must_use]
    pub fn with_health(self, health: Health) -> Self {
        Self { health, ..self }
    }

    /// Takes the folder into possession, creating it when it is missing, and reads the checkpoint; none when none was
    /// stored yet.
    ///
    /// # Errors
    /// As [`possess`](Self::possess); or the file can't be read, or is not what a store has written. Never guessed around: a
    /// wrong position can lose events.
    pub fn take(&self) -> Result<Option<Checkpoint>, TakeError> {
        self.possess()?;
        let mut held = self.held();
        let Some(held) = held.as_mut() else { return Ok(None) };
        if held.last.is_none() {
            held.last = read(&self.dir)?;
            if held.last.is_some() {
                // The process that stored it may have died between rename and fsync.
                let path = self.file();
                File::open(&path)
                    .and_then(|file| file.sync_all())
                    .and_then(|()| sync_dir(&self.dir))
                    .map_err(|error| unusable(&self.dir, &format!("cannot fsync {}", path.display()), error))?;
            }
        }
        Ok(held.last.clone())
    }

    /// Takes the folder into possession, creating it when it is missing.
    ///
    /// # Errors
    /// The folder can't be created or written, is no folder, or another process has it.
    pub fn possess(&self) -> Result<(), TakeError> {
        let mut held = self.held();
        if held.is_some() {
            return Ok(());
        }
        create(&self.dir)?;
        let lock = lock(&self.dir, &self.name)?;
        let temporary = self.dir.join(TEMPORARY);
        // Found now rather than at the first store, minutes into the stream.
        File::create(&temporary).and_then(|_| fs::remove_file(&temporary)).map_err(|error| {
            unusable(&self.dir, &format!("cannot create {} in the checkpoint folder", temporary.display()), error)
        })?;
        *held = Some(Held { last: None, _lock: lock });
        Ok(())
    }

    /// Replaces the stored checkpoint, and returns once it would survive a power loss.
    ///
    /// # Errors
    /// [`StoreError::Io`] leaves the last checkpoint in place (or this one, not known to be durable);
    /// storing again is safe, because every attempt writes a new file.
    pub fn replace(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let mut held = self.held();
        let Some(held) = held.as_mut() else { return Err(StoreError::NotTaken) };
        if let Some(stored) = held.last.as_ref().filter(|stored| !checkpoint.follows(stored)) {
            return Err(StoreError::Backwards { stored: stored.clone().into(), given: checkpoint.clone().into() });
        }
        self.write(&self.file(), checkpoint)?;
        held.last = Some(checkpoint.clone());
        Ok(())
    }

    /// Replaces the checkpoint, wherever it is.
    ///
    /// # Errors
    /// As [`replace`](Self::replace).
    pub fn overwrite(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let mut held = self.held();
        let Some(held) = held.as_mut() else { return Err(StoreError::NotTaken) };
        self.write(&self.file(), checkpoint)?;
        held.last = Some(checkpoint.clone());
        Ok(())
    }

    /// Moves the checkpoint out of the way, to `checkpoint.json.old`; false when there was none.
    ///
    /// # Errors
    /// [`StoreError::Io`]
    pub fn forget(&self) -> Result<bool, StoreError> {
        let mut held = self.held();
        let Some(held) = held.as_mut() else { return Err(StoreError::NotTaken) };
        let old = self.dir.join(OLD);
        match fs::rename(self.file(), &old) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            renamed => renamed.map_err(io_error("rename to", &old))?,
        }
        held.last = None;
        sync_dir(&self.dir).map_err(io_error("fsync", &self.dir))?;
        Ok(true)
    }

    /// Stores a position under a name, whoever has the folder; false when the name is taken, and was not to be replaced.
    ///
    /// # Errors
    /// [`StoreError::Io`]
    pub fn keep(&self, label: &str, checkpoint: &Checkpoint, replace: bool) -> Result<bool, StoreError> {
        let folder = self.dir.join(KEPT);
        fs::create_dir_all(&folder).and_then(|()| sync_dir(&self.dir)).map_err(io_error("create", &folder))?;
        let path = folder.join(format!("{label}.json"));
        if path.exists() && !replace {
            return Ok(false);
        }
        self.write(&path, checkpoint)?;
        Ok(true)
    }

    /// The positions that have a name, in its order.
    ///
    /// # Errors
    /// One can't be read.
    pub fn kept(&self) -> Result<Vec<(String, Checkpoint)>, Definite> {
        let folder = self.dir.join(KEPT);
        let unreadable = |error| unusable(&self.dir, &format!("cannot read {}", folder.display()), error);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(unreadable)?,
        };
        let mut kept = Vec::new();
        for entry in entries {
            let path = entry.map_err(unreadable)?.path();
            let label = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".json"));
            if let (Some(label), Some(checkpoint)) = (label, read_file(&self.dir, &path)?) {
                kept.push((label.to_owned(), checkpoint));
            }
        }
        kept.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(kept)
    }

    /// Puts a whole document where `path` is, durably.
    fn write(&self, path: &Path, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let folder = path.parent().unwrap_or(&self.dir);
        let temporary = path.with_extension("json.tmp");
        // A retry must not fsync a file whose last fsync failed: the kernel may have dropped its pages
        // and would report success. So the old one is unlinked, and a new one made.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &temporary)(error)),
            Ok(()) | Err(_) => {}
        }
        let mut file = File::create(&temporary).map_err(io_error("create", &temporary))?;
        file.write_all(document::render(checkpoint).as_bytes()).map_err(io_error("write", &temporary))?;
        file.sync_all().map_err(io_error("fsync", &temporary))?;
        drop(file);
        fs::rename(&temporary, path).map_err(io_error("rename to", path))?;
        sync_dir(folder).map_err(io_error("fsync", folder))
    }

    /// Where it stores.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.dir
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
                Ok(checkpoint) => {
                    if told {
                        self.health.source(health::Source::Connecting);
                    }
                    return Ok(checkpoint);
                }
                Err(TakeError::InUse(definite)) if deadline.is_none_or(|deadline| Instant::now() < deadline) => {
                    self.health.source(health::Source::Standby);
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
    read_file(dir, &dir.join(FILE))
}

fn read_file(dir: &Path, path: &Path) -> Result<Option<Checkpoint>, Definite> {
    let mut text = Vec::new();
    match File::open(path).and_then(|file| file.take(document::LARGEST_BYTES + 1).read_to_end(&mut text)) {
        Ok(_) => document::parse(&format!("the checkpoint {}", path.display()), &text).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unusable(dir, &format!("cannot read the checkpoint {}", path.display()), error)),
    }
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

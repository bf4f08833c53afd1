//! What is kept on disk: files without a name, written and read by another thread, since a disk may be slow, and the loop must
//! go on reporting.
//!
//! One thing at a time. The task is kept until it has ended, so that dropping whoever waits for it loses nothing. What fails is
//! transient: the stream is opened again, and the server sends again what was kept.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use tokio::task::JoinHandle;

use crate::failure::{Failure, Kind};

/// What the disk is busy with.
#[derive(Debug)]
pub(super) struct Task(JoinHandle<anyhow::Result<Done>>);

/// What it has done.
#[derive(Debug)]
pub(super) enum Done {
    /// What a transaction had in memory is in this file.
    Written { xid: u32, file: Arc<File>, bytes: u64 },
    /// This was read.
    Read(Vec<u8>),
}

impl Task {
    /// Writes chunks behind the first `at` bytes of a file, which is made if there is none.
    pub(super) fn write(folder: &Path, xid: u32, file: Option<Arc<File>>, at: u64, chunks: VecDeque<Vec<u8>>) -> Self {
        let folder = folder.to_owned();
        Self(tokio::task::spawn_blocking(move || {
            let write = || {
                let file = file.map_or_else(|| tempfile::tempfile_in(&folder).map(Arc::new), Ok)?;
                let mut bytes = 0;
                for chunk in chunks {
                    file.write_all_at(&chunk, at + bytes)?;
                    bytes += chunk.len() as u64;
                }
                Ok(Done::Written { xid, file, bytes })
            };
            write().map_err(|error| in_folder(error, "keep a transaction that is in progress", &folder))
        }))
    }

    /// Reads so many bytes, which were written.
    pub(super) fn read(folder: &Path, file: Arc<File>, at: u64, length: usize) -> Self {
        let folder = folder.to_owned();
        Self(tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; length];
            let read = file.read_exact_at(&mut bytes, at);
            read.map_err(|error| in_folder(error, "read back a transaction", &folder))?;
            Ok(Done::Read(bytes))
        }))
    }

    /// Waits for it. Cancel-safe.
    pub(super) async fn done(&mut self) -> Result<Done, Failure> {
        let done = (&mut self.0).await.context("the thread for source.streaming_folder was lost").flatten();
        done.map_err(Failure::Transient)
    }
}

fn in_folder(error: std::io::Error, what: &str, folder: &Path) -> anyhow::Error {
    anyhow!(error).context(format!("can't {what} below source.streaming_folder, {}", folder.display()))
}

/// Whether files can be made there.
pub(super) async fn check(folder: &Path) -> Result<(), Failure> {
    let path: PathBuf = folder.to_owned();
    let made = tokio::task::spawn_blocking(move || tempfile::tempfile_in(path)).await;
    match made.context("the thread for source.streaming_folder was lost").map_err(Failure::Transient)? {
        Ok(_) => Ok(()),
        Err(error) => {
            let what = format!("no file can be made below source.streaming_folder, {}", folder.display());
            let hint = "Create the folder, writable for the user that pgsluice runs as, or name another one. It holds what is \
                        in progress and not committed, for source.streaming = true.";
            Err(Failure::definite(Kind::Usage, anyhow!(error).context(what), hint))
        }
    }
}

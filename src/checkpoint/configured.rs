//! The store that the configuration names, with all that a person may ask of it.

use std::sync::Arc;

use super::Checkpoint;
use super::Store;
use super::file::{self, FileStore};
use super::postgres::PostgresStore;
use crate::config::{Settings, StoreSettings};
use crate::failure::Failure;
use crate::telemetry::health::Health;

/// One of the stores.
#[derive(Debug, Clone)]
pub enum Configured {
    /// A folder.
    File(Arc<FileStore>),
    /// A table.
    Postgres(Arc<PostgresStore>),
}

impl Configured {
    /// Touches nothing yet.
    #[must_use]
    pub fn new(settings: &Settings, health: &Health) -> Self {
        let name = &settings.name;
        match &settings.checkpoint.store {
            StoreSettings::File { path } => {
                let store = FileStore::new(path, name, settings.source.standby_timeout);
                Self::File(Arc::new(store.with_health(health.clone())))
            }
            StoreSettings::Postgres { conninfo, schema, table } => {
                Self::Postgres(Arc::new(PostgresStore::new(conninfo.as_ref().clone(), schema, table, name)))
            }
        }
    }

    /// For the pipeline.
    #[must_use]
    pub fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::File(store) => Arc::clone(store) as Arc<dyn Store>,
            Self::Postgres(store) => Arc::clone(store) as Arc<dyn Store>,
        }
    }

    /// The checkpoint as it is now, whoever has the store; none when none was stored yet.
    ///
    /// # Errors
    /// It can't be read.
    pub async fn current(&self) -> Result<Option<Checkpoint>, Failure> {
        match self {
            Self::File(store) => Ok(file::read(store.folder())?),
            Self::Postgres(store) => store.peek().await,
        }
    }

    /// Takes the store into possession, without waiting for it, and reads the checkpoint.
    ///
    /// # Errors
    /// A pgsluice that runs has it (only a folder's possession shows), or it can't be read.
    pub async fn take(&self) -> Result<Option<Checkpoint>, Failure> {
        match self {
            Self::File(store) => Ok(store.take().map_err(file::TakeError::definite)?),
            Self::Postgres(store) => Arc::clone(store).load().await,
        }
    }

    /// Replaces the checkpoint, wherever it is; the store must have been taken.
    ///
    /// # Errors
    /// It can't be written.
    pub async fn overwrite(&self, checkpoint: &Checkpoint) -> Result<(), Failure> {
        match self {
            Self::File(store) => Ok(store.overwrite(checkpoint)?),
            Self::Postgres(store) => store.overwrite(checkpoint).await,
        }
    }

    /// Takes the store into possession, whatever is in it, without waiting for it.
    ///
    /// # Errors
    /// A pgsluice that runs has it (only a folder's possession shows).
    pub fn possess(&self) -> Result<(), Failure> {
        match self {
            Self::File(store) => Ok(store.possess().map_err(file::TakeError::definite)?),
            Self::Postgres(_) => Ok(()),
        }
    }

    /// Removes the checkpoint, whatever it holds; false when there was none. The store must have been possessed.
    ///
    /// # Errors
    /// It can't be removed.
    pub async fn forget(&self) -> Result<bool, Failure> {
        match self {
            Self::File(store) => Ok(store.forget()?),
            Self::Postgres(store) => store.forget().await,
        }
    }

    /// Stores a position under a name; false when the name is taken, and was not to be replaced.
    ///
    /// # Errors
    /// It can't be written.
    pub async fn keep(&self, label: &str, checkpoint: &Checkpoint, replace: bool) -> Result<bool, Failure> {
        match self {
            Self::File(store) => Ok(store.keep(label, checkpoint, replace)?),
            Self::Postgres(store) => store.keep(label, checkpoint, replace).await,
        }
    }

    /// The positions that have a name, in its order.
    ///
    /// # Errors
    /// They can't be read.
    pub async fn kept(&self) -> Result<Vec<(String, Checkpoint)>, Failure> {
        match self {
            Self::File(store) => Ok(store.kept()?),
            Self::Postgres(store) => store.kept().await,
        }
    }
}

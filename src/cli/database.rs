//! What commands are given that need a database, and not a whole configuration.

use std::path::PathBuf;

use anyhow::anyhow;

use crate::config::{self, Settings};
use crate::failure::{Definite, Kind};
use crate::postgres::conninfo::Conninfo;

/// A database, by itself or as a configuration has it.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_field_names, reason = "the name of the flag")]
pub struct Database {
    #[arg(
        short,
        long,
        value_name = "URL",
        help = "The database, as in postgres://app@db1/shop; then no configuration is read. The password is best in \
                PGSLUICE__SOURCE__PASSWORD or ~/.pgpass"
    )]
    database: Option<String>,

    /// The configuration
    #[arg(short, long, value_name = "FILE", env = "PGSLUICE_CONFIG")]
    config: Option<PathBuf>,

    /// Which pipeline, where the configuration has several
    #[arg(long, value_name = "NAME", conflicts_with = "database")]
    pipeline: Option<String>,
}

/// Where the settings came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    /// The command line: `--database`.
    Url,
    /// A configuration file.
    File,
}

impl Database {
    /// `tables`: what is selected of a database that is given by itself.
    pub(super) fn load(&self, tables: &[String]) -> Result<(Settings, Given), Definite> {
        match (&self.database, &self.config) {
            (Some(url), _) => Ok((config::of_database(url, tables)?, Given::Url)),
            (None, Some(file)) => Ok((config::load_all(file)?.one(self.pipeline.as_deref())?, Given::File)),
            (None, None) => Err(Definite::new(
                Kind::Usage,
                anyhow!("no database is given"),
                "--database URL, or --config FILE (PGSLUICE_CONFIG)",
            )),
        }
    }

    /// How to connect, and the settings if a configuration is given.
    pub(super) fn connect(&self) -> Result<(Conninfo, Option<Settings>), Definite> {
        let (settings, given) = self.load(&["*.*".to_owned()])?;
        let conninfo = settings.source.conninfo.clone();
        Ok((conninfo, Some(settings).filter(|_| given == Given::File)))
    }
}

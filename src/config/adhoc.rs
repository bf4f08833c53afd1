//! Settings of commands that need no configuration file: a database, and which of its tables.

use std::path::Path;

use super::layers::{self, Layered, Layers, VARIABLE_PREFIX};
use super::{Settings, resolve};
use crate::failure::Definite;

/// What the command line says in place of a file; errors name it.
const FLAG: &str = "--database";
/// What of the environment is about the database, and not about a configuration that is not there.
const OF_A_PASSWORD: [&str; 2] = ["SOURCE__PASSWORD", "SOURCE__PASSWORD_FILE"];

/// Settings for the database at `url`, with all defaults. Of the environment only the password is read. There is no broker:
/// its settings are those of one on this machine.
///
/// # Errors
/// As [`super::load`]: the URL, a pattern, or the password's file can't be used.
pub fn of_database(url: &str, tables: &[String]) -> Result<Settings, Definite> {
    let is_of_a_password = |name: &std::ffi::OsStr| {
        name.to_str()
            .and_then(|name| name.strip_prefix(VARIABLE_PREFIX))
            .is_some_and(|name| OF_A_PASSWORD.contains(&name))
    };
    let environment = std::env::vars_os().filter(|(name, _)| is_of_a_password(name));
    let Layered { table, origins, .. } = layers::layered(Path::new(FLAG), "", environment)?;
    let mut written = layers::written(table, &origins)?;
    written.name = Some("pgsluice".to_owned());
    written.source.url = Some(url.to_owned());
    written.source.tables = Some(tables.to_vec());
    written.rabbitmq.url = Some("amqp://localhost".to_owned());
    resolve::settings(Layers { written, origins })
}

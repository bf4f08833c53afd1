//! `pgsluice config`: the configuration as it holds, and its JSON Schema.

use serde_json::Value;

use super::{Configuration, print_line};
use crate::config::effective::{Line, effective};
use crate::config::schema::schema;
use crate::failure::Definite;

/// What to print of it.
#[derive(Debug, clap::Subcommand)]
pub enum ConfigCommand {
    /// Print what holds for every key, and where it came from: a line of the file, a variable, or the default; never a
    /// secret. Of several pipelines all, unless one is named
    Show {
        /// Which.
        #[command(flatten)]
        configuration: Configuration,
        /// Print a JSON array of objects: key, value, words (of a default that has no value), origin (file, environment,
        /// default), place
        #[arg(long)]
        json: bool,
    },
    /// Print a JSON Schema of the configuration file, for editors
    Schema,
}

/// Prints one of them.
///
/// # Errors
/// A configuration that can't be used.
pub fn run(command: &ConfigCommand) -> Result<(), Definite> {
    match command {
        ConfigCommand::Show { configuration, json } => {
            let lines = effective(&configuration.config, configuration.pipeline.as_deref())?;
            if *json {
                let all: Vec<Value> = lines.iter().filter_map(Line::json).collect();
                return print_line(&format!("{:#}", Value::from(all)));
            }
            lines.iter().try_for_each(|line| print_line(&line.toml()))
        }
        ConfigCommand::Schema => print_line(&format!("{:#}", schema())),
    }
}

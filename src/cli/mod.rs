//! The command line: one file a command, and how an error looks to a person.
//!
//! Nothing here knows how a change flows; commands turn arguments into settings and hand them on.

pub mod report;
pub mod run;

use clap::{Parser, Subcommand};

/// Streams the row changes of a PostgreSQL database into `RabbitMQ`, in commit order, without losing one.
#[derive(Debug, Parser)]
#[command(
    name = "pgsluice",
    version,
    about = "Streams the row changes of a PostgreSQL database into RabbitMQ, in commit order, without losing one",
    after_help = EXIT_CODES,
    max_term_width = 100
)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Stream until told to stop (SIGTERM or SIGINT)
    #[command(after_help = EXIT_CODES)]
    Run(run::RunArguments),
}

/// Follows [`crate::failure::Kind`].
const EXIT_CODES: &str = "\
Exit codes:
  0  stopped as asked; everything in flight was settled or will be sent again
  1  the process itself cannot go on: no thread, no descriptor (101 is a bug)
  2  the command line or the configuration is wrong
  3  PostgreSQL refuses: password, privilege, wal_level, publication, slot in use
  4  RabbitMQ refuses: password, permission, an exchange with other properties
  5  changes may be missing: the slot or the checkpoint is not what it was
  6  a server can't be reached, and --fail-fast was given
  7  the checkpoint can't be read or written
  8  an event can't be published as configured
  128 + signal  a second signal ended the process at once";

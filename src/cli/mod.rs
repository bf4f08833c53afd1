//! The command line: one file a command, and how an error looks to a person.
//!
//! Nothing here knows how a change flows; commands turn arguments into settings and hand them on.

pub mod check;
pub mod checkpoint;
pub mod config;
pub mod database;
pub mod init;
pub mod paint;
pub mod parked;
mod pipelines;
pub mod replay;
pub mod report;
pub mod run;
pub mod schema;
pub mod shell;
pub mod slot;
pub mod status;
pub mod tail;

use std::io::{Write as _, stdout};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::config::{self as configuration, Pipelines, Settings};
use crate::failure::{Definite, Failure, Kind};

/// Streams the row changes of a PostgreSQL database into `RabbitMQ`, in commit order, without losing one.
#[derive(Debug, Parser)]
#[command(
    name = "pgsluice",
    version,
    long_version = LONG_VERSION,
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
    /// Look at a database, and write a configuration for it, or the SQL for a role with the least privileges
    #[command(after_help = EXIT_CODES)]
    Init(init::InitArguments),
    /// Say what a start would find and do at both servers, without doing it
    #[command(after_help = EXIT_CODES)]
    Check(check::CheckArguments),
    /// Show, name or move the stored position
    #[command(subcommand)]
    Checkpoint(checkpoint::CheckpointCommand),
    /// Show the configuration as it holds, or its JSON Schema
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Show the events that are parked, or send them again
    #[command(subcommand)]
    Parked(parked::ParkedCommand),
    /// Say how it is: state, lag, rates, what the slot costs, from the pgsluice that runs or from the database
    #[command(after_help = EXIT_CODES)]
    Status(status::StatusArguments),
    /// Send events again that were delivered before, beside the pgsluice that runs
    #[command(after_help = EXIT_CODES)]
    Replay(replay::ReplayArguments),
    /// Write down every event that the configuration can publish, with its JSON Schema, or check that against an older one
    #[command(after_help = EXIT_CODES)]
    Schema(schema::SchemaArguments),
    /// List the replication slots of a server and what they cost, or drop one
    #[command(subcommand)]
    Slot(slot::SlotCommand),
    /// Print events as JSON lines as they are committed: no broker, no configuration, nothing left behind
    #[command(after_help = EXIT_CODES)]
    Tail(tail::TailArguments),
    /// Print a script that completes commands and flags in a shell
    Completions(shell::CompletionsArguments),
    /// Print the man page, or write one for each command
    Man(shell::ManArguments),
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    /// Whatever ends it before its time.
    pub fn run(self) -> Result<(), Definite> {
        match self {
            Self::Run(arguments) => run::run(&arguments),
            Self::Init(arguments) => init::run(&arguments),
            Self::Check(arguments) => check::run(&arguments),
            Self::Checkpoint(command) => block_on(checkpoint::run(command)),
            Self::Config(command) => config::run(&command),
            Self::Parked(command) => block_on(parked::run(command)),
            Self::Replay(arguments) => replay::run(&arguments),
            Self::Status(arguments) => status::run(&arguments),
            Self::Schema(arguments) => schema::run(&arguments),
            Self::Slot(command) => block_on(slot::run(command)),
            Self::Tail(arguments) => tail::run(&arguments),
            Self::Completions(arguments) => shell::completions(&arguments),
            Self::Man(arguments) => shell::man(&arguments),
        }
    }
}

/// `-V` is the first line alone.
const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit: ",
    env!("PGSLUICE_COMMIT"),
    "\nrustc: ",
    env!("PGSLUICE_RUSTC"),
    "\ntarget: ",
    env!("PGSLUICE_TARGET"),
    "\nprofile: ",
    env!("PGSLUICE_PROFILE")
);

/// What every command reads.
#[derive(Debug, clap::Args)]
pub struct Configuration {
    /// The configuration
    #[arg(short, long, value_name = "FILE", env = "PGSLUICE_CONFIG")]
    config: PathBuf,

    /// Which pipeline, where the configuration has several
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
}

impl Configuration {
    /// For what is about one pipeline.
    fn load(&self) -> Result<Settings, Definite> {
        configuration::load_all(&self.config)?.one(self.pipeline.as_deref())
    }

    /// All, unless one is named.
    fn load_all(&self) -> Result<Pipelines, Definite> {
        configuration::load_all(&self.config)?.only(self.pipeline.as_deref())
    }
}

/// Runs `work` to its end on this thread.
fn block_on<T>(work: impl Future<Output = Result<T, Definite>>) -> Result<T, Definite> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().context("runtime").map_err(cannot_start)?;
    let outcome = runtime.block_on(work);
    // A name lookup that still hangs must not hold up the exit.
    runtime.shutdown_background();
    outcome
}

/// Nobody waits here for a server to come back.
fn now_or_never(failure: Failure, hint: &str) -> Definite {
    match failure {
        Failure::Definite(definite) => definite,
        Failure::Transient(error) => Definite::new(Kind::Unreachable, error, hint),
    }
}

/// A line on standard output, which must not look whole when it is not.
fn print_line(text: &str) -> Result<(), Definite> {
    let written = writeln!(stdout(), "{text}").context("cannot write to standard output");
    written.map_err(|error| Definite::new(Kind::Process, error, "is the disk full, or the reader gone?"))
}

fn cannot_start(error: anyhow::Error) -> Definite {
    Definite::new(Kind::Process, error.context("cannot start"), "the system is out of threads, memory or descriptors")
}

/// Follows [`crate::failure::Kind`].
const EXIT_CODES: &str = "\
Exit codes:
  0  stopped as asked; everything in flight was settled or will be sent again
  1  the process itself cannot go on: no thread, no descriptor (101 is a bug)
  2  the command line or the configuration is wrong
  3  PostgreSQL refuses: password, privilege, wal_level, publication
  4  RabbitMQ refuses: password, permission, an exchange with other properties
  5  changes may be missing: the slot or the checkpoint is not what it was
  6  a server can't be reached, and --fail-fast was given, or the command is not run
  7  the checkpoint can't be read or written, or another instance has taken it over
  8  an event can't be published as configured (rabbitmq.poison.policy is stop), or stays parked
  9  pgsluice schema --check has found incompatible changes
  128 + signal  a second signal ended the process at once";

//! This binary as a contestant: one job, told in an argument, and what it says on stdout while it does it.
//!
//! Each job ends by itself only when stdin does: until then its end can be looked at from outside.

mod discard;
mod forward;
mod null;
mod ready_made;

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use crate::wire::{amqp, postgres};

/// The first argument of a child; the job follows.
pub(crate) const FLAG: &str = "child";

/// Messages of pgsluice's that are kept for [`Job::ReadyMade`].
pub(crate) const CAPTURED: u64 = 2_000;

/// What a child does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Job {
    /// Reads a stream of so many rows, and forgets them.
    Discard { address: postgres::Address, database: String, slot: String, rows: u64, waiting: postgres::Waiting },
    /// pgsluice's own pipeline, with a broker that takes everything at once; the first messages may be kept in a file.
    Null { config: PathBuf, events: u64, capture: Option<PathBuf> },
    /// Publishes the messages of a file again and again, with pgsluice's window, until so many are confirmed; with a stream,
    /// one for each row.
    ReadyMade { address: amqp::Address, frames: PathBuf, events: u64, window: u64, stream: Option<Stream> },
    /// Sends each row on, as it came.
    Forward { from: postgres::Address, database: String, slot: String, to: amqp::Address },
}

/// What a child reads beside its work.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Stream {
    pub(crate) address: postgres::Address,
    pub(crate) database: String,
    pub(crate) slot: String,
}

/// What a child says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Word {
    /// It is ready, and its work begins.
    Begin,
    /// The first row has come.
    First,
    /// All is done.
    Done {
        /// Read from PostgreSQL.
        stream_bytes: u64,
        /// Written to a broker.
        message_bytes: u64,
        /// System calls that read.
        reads: u64,
    },
}

/// Does the job.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let job = arguments.first().map(|job| serde_json::from_str(job));
    let Some(Ok(job)) = job else { panic!("no job: {arguments:?}") };
    let done = match job {
        Job::Discard { address, database, slot, rows, waiting } => {
            discard::run(&address, &database, &slot, rows, waiting)
        }
        Job::Null { config, events, capture } => null::run(&config, events, capture.as_deref()),
        Job::ReadyMade { address, frames, events, window, stream } => {
            ready_made::run(&address, &frames, events, window, stream)
        }
        Job::Forward { from, database, slot, to } => forward::run(&from, &database, &slot, &to),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Tells the parent.
fn say(word: Word) {
    let mut line = serde_json::to_vec(&word).expect("a word is JSON");
    line.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&line).and_then(|()| stdout.flush()).expect("the parent listens");
}

/// Until the parent has seen enough.
fn wait_for_parent() {
    let _ = std::io::stdin().read(&mut [0]);
}

//! What can go wrong, sorted by what to do about it: try again, or stop and call a human.
//!
//! Everything that talks to a peer returns a [`Failure`]. The loop backs off and retries the
//! transient ones; a definite one ends the process with its exit code, its message and its hint.

use std::fmt;
use std::time::Duration;

/// An error, and whether trying again can help.
#[derive(Debug)]
pub enum Failure {
    /// The peer is away, restarting or overloaded: back off, reconnect, go on.
    Transient(anyhow::Error),
    /// Trying again can't help: stop, and say what a human can do.
    Definite(Definite),
}

/// Why the process stops, and what to do about it.
///
/// Displays its cause chain on one line; the hint is printed apart (see `cli`).
#[derive(Debug)]
pub struct Definite {
    /// Decides the exit code.
    pub kind: Kind,
    /// What happened, where, and which LSNs are concerned. Never a row's values, never a secret.
    pub error: anyhow::Error,
    /// What a human can do now; one or two sentences.
    pub hint: String,
}

/// The exit code of each kind of definite failure. Documented in the README; 0 is a clean stop; a panic is 101, a bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The process itself can't go on: no thread, no descriptor.
    Process = 1,
    /// The command line or the configuration is wrong (also clap's own code).
    Usage = 2,
    /// PostgreSQL refuses: password, privilege, `wal_level`, publication, slot in use, …
    Source = 3,
    /// RabbitMQ refuses: password, permission, an exchange with other properties, …
    Broker = 4,
    /// Changes may be missing: a slot gone, invalidated or advanced by somebody else; a checkpoint of
    /// another system. Never retried, never skipped.
    InDoubt = 5,
    /// A peer was unreachable and `--fail-fast` was given.
    Unreachable = 6,
    /// The checkpoint can't be read or written.
    Checkpoint = 7,
    /// One event can't be published as configured: too large, routing key too long, …
    Event = 8,
    /// The contract was checked against an older one, and breaks it.
    Contract = 9,
}

impl Definite {
    /// A definite failure with its hint.
    pub fn new(kind: Kind, error: impl Into<anyhow::Error>, hint: impl Into<String>) -> Self {
        Self { kind, error: error.into(), hint: hint.into() }
    }

    /// Says what was being done when this happened.
    #[must_use]
    pub fn context(self, doing: impl fmt::Display + Send + Sync + 'static) -> Self {
        Self { error: self.error.context(doing), ..self }
    }

    /// The process's exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.kind as u8
    }
}

impl fmt::Display for Definite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

impl Failure {
    /// A transient failure.
    pub fn transient(error: impl Into<anyhow::Error>) -> Self {
        Self::Transient(error.into())
    }

    /// A definite failure with its hint.
    pub fn definite(kind: Kind, error: impl Into<anyhow::Error>, hint: impl Into<String>) -> Self {
        Self::Definite(Definite::new(kind, error, hint))
    }

    /// Says what was being done when this happened.
    #[must_use]
    pub fn context(self, doing: impl fmt::Display + Send + Sync + 'static) -> Self {
        match self {
            Self::Transient(error) => Self::Transient(error.context(doing)),
            Self::Definite(definite) => Self::Definite(definite.context(doing)),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transient(error) => write!(f, "{error:#}"),
            Self::Definite(definite) => definite.fmt(f),
        }
    }
}

impl From<Definite> for Failure {
    fn from(definite: Definite) -> Self {
        Self::Definite(definite)
    }
}

/// IO with a peer that broke: the connection is gone, try again.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::transient(error)
    }
}

/// Runs `future` for at most `limit`; past it the peer counts as dead (transient).
///
/// # Errors
/// Whatever `future` fails with, or "no answer within …" naming what was being done.
pub async fn within<T>(
    limit: Duration,
    doing: &str,
    future: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(limit, future).await {
        Ok(result) => result.map_err(|failure| failure.context(doing.to_owned())),
        Err(_) => Err(Failure::transient(anyhow::anyhow!("{doing}: no answer within {} ms", limit.as_millis()))),
    }
}

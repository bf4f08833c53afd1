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
    /// It is about one event, which `rabbitmq.poison.policy` disposes of; none: the process stops.
    pub poison: Option<Poison>,
}

/// Why an event can't be published as it is: the header `parked_reason`, and what `/readyz` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Poison {
    /// Its body is larger than the broker takes.
    TooLarge,
    /// Its routing key, or another text that AMQP keeps short, is too long.
    NameTooLong,
    /// Its headers don't fit one frame.
    HeadersTooLarge,
    /// The name of its exchange is empty.
    NoExchange,
    /// The broker has no exchange of that name.
    UnknownExchange,
    /// We may not publish to the exchange of that name, or with this routing key.
    NotPermitted,
    /// What a column says can't be said in an AMQP property.
    Property,
    /// The table lacks a column that an outbox or a rule uses.
    Columns,
    /// An expression of a rule has no value for the row.
    Expression,
    /// Anything else, as the error says.
    Other,
}

impl Poison {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::NameTooLong => "name_too_long",
            Self::HeadersTooLarge => "headers_too_large",
            Self::NoExchange => "no_exchange",
            Self::UnknownExchange => "unknown_exchange",
            Self::NotPermitted => "not_permitted",
            Self::Property => "property",
            Self::Columns => "columns",
            Self::Expression => "expression",
            Self::Other => "other",
        }
    }
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
    /// One event can't be published as configured: too large, routing key too long, …; and the configuration asks to stop there.
    Event = 8,
    /// The contract was checked against an older one, and breaks it.
    Contract = 9,
}

impl Definite {
    /// A definite failure with its hint.
    pub fn new(kind: Kind, error: impl Into<anyhow::Error>, hint: impl Into<String>) -> Self {
        let poison = (kind == Kind::Event).then_some(Poison::Other);
        Self { kind, error: error.into(), hint: hint.into(), poison }
    }

    /// An event that can't be published as it is.
    pub fn poison(poison: Poison, error: impl Into<anyhow::Error>, hint: impl Into<String>) -> Self {
        Self { poison: Some(poison), ..Self::new(Kind::Event, error, hint) }
    }

    /// The configuration asks for a stop here, whatever the policy is for events that can't be published.
    #[must_use]
    pub fn as_asked(self) -> Self {
        Self { poison: None, ..self }
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

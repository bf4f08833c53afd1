//! What can go wrong with a PostgreSQL connection, as types. What to do about it: [`super::verdict`].

use std::fmt;
use std::io;
use std::time::Duration;

use super::wire::Fields;
use crate::lsn::Lsn;
use crate::postgres::tls::{HandshakeError, TlsError};

/// A connection to PostgreSQL failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The network, or the server's end of it.
    #[error("the connection to PostgreSQL broke")]
    Io(#[from] io::Error),
    /// No answer in time.
    #[error("{doing}: no answer within {} ms", limit.as_millis())]
    Timeout {
        /// What was being done.
        doing: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
    /// PostgreSQL said so.
    #[error(transparent)]
    Server(#[from] Box<ServerError>),
    /// Bytes that the protocol does not know.
    #[error("the server broke the protocol")]
    Protocol(#[from] ProtocolError),
    /// No encrypted connection.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No login.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// A primary is wanted.
    #[error("it is a standby, and a primary is wanted")]
    Standby,
    /// The replication stream ended without an error; a server that shuts down does that.
    #[error("the server ended the stream")]
    EndOfStream,
    /// PostgreSQL 18 goes on without a publication that it can't find, and drops the rows.
    #[error("the server skips a publication that it can't find, and with it the changes")]
    SkippedPublication(#[source] Box<ServerError>),
    /// No host would do.
    #[error(transparent)]
    Connect(#[from] Box<ConnectError>),
}

impl From<HandshakeError> for ClientError {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::Tls(error) => Self::Tls(error),
            HandshakeError::Io(error) => Self::Io(error),
        }
    }
}

impl ClientError {
    /// What the server said, if it is the server that refused (for several hosts: the last that did).
    #[must_use]
    pub fn server(&self) -> Option<&ServerError> {
        match self {
            Self::Server(error) | Self::SkippedPublication(error) => Some(error),
            Self::Connect(error) => error.attempts.iter().rev().find_map(|attempt| attempt.error.server()),
            _ => None,
        }
    }

    /// The SQLSTATE, if the server sent one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.server().map(|error| error.code.as_str())
    }
}

/// No server could be used: who was tried, and why each failed.
#[derive(Debug)]
pub struct ConnectError {
    /// The role that was to log in.
    pub user: String,
    /// In the order in which they were tried; never empty.
    pub attempts: Vec<Attempt>,
}

/// One address that was tried.
#[derive(Debug)]
pub struct Attempt {
    /// As in the connection string.
    pub host: String,
    /// What its name resolved to.
    pub address: Option<String>,
    /// Why it would not do.
    pub error: ClientError,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("can't connect to PostgreSQL")?;
        for (at, attempt) in self.attempts.iter().enumerate() {
            write!(f, "{}{}", if at == 0 { ": " } else { "; " }, attempt.host)?;
            if let Some(address) = attempt.address.as_ref().filter(|address| **address != attempt.host) {
                write!(f, " ({address})")?;
            }
            write!(f, ": {}", Chain(&attempt.error))?;
        }
        Ok(())
    }
}

/// Holds its causes in its text, because there may be several.
impl std::error::Error for ConnectError {}

struct Chain<'a>(&'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// An `ErrorResponse` or a `NoticeResponse`: the fields of "Error and Notice Message Fields" in the manual.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerError {
    /// `V`, or `S` before PostgreSQL 9.6: ERROR, FATAL, PANIC, WARNING, NOTICE, …
    pub severity: String,
    /// `C`: the SQLSTATE, five characters.
    pub code: String,
    /// `M`
    pub message: String,
    /// `D`
    pub detail: Option<String>,
    /// `H`
    pub hint: Option<String>,
    /// `P`: a character of the query, from 1.
    pub position: Option<u32>,
    /// `W`: the call stack, and what the output plugin was doing.
    pub context: Option<String>,
    /// `R`: the C function; unlike the message never translated.
    pub routine: Option<String>,
}

impl ServerError {
    /// Reads the body of an `ErrorResponse` or `NoticeResponse`. Unknown fields are ignored, as the protocol asks.
    ///
    /// # Errors
    /// The body ends too early.
    pub fn parse(body: &[u8]) -> Result<Self, ProtocolError> {
        let mut fields = Fields::new(b'E', body);
        let mut error = Self::default();
        loop {
            let field = fields.byte()?;
            if field == 0 {
                return Ok(error);
            }
            let value = fields.text()?;
            match field {
                b'V' => error.severity = value,
                b'S' if error.severity.is_empty() => error.severity = value,
                b'C' => error.code = value,
                b'M' => error.message = value,
                b'D' => error.detail = Some(value),
                b'H' => error.hint = Some(value),
                b'P' => error.position = value.parse().ok(),
                b'W' => error.context = Some(value),
                b'R' => error.routine = Some(value),
                _ => {}
            }
        }
    }
}

impl ServerError {
    /// Which change it was about to hand out, if the server says so, as in `slot "shop", output plugin "pgoutput", in the
    /// change callback, associated LSN 0/1926798` (`output_plugin_error_callback` in logical.c; the words may be translated).
    #[must_use]
    pub fn change_lsn(&self) -> Option<Lsn> {
        self.context.as_deref()?.lines().rev().find_map(|line| line.rsplit(' ').next()?.parse().ok())
    }
}

/// Severity, message, SQLSTATE, detail and the change's LSN. No other context: it may hold a row's values.
impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (SQLSTATE {})", self.severity, self.message, self.code)?;
        if let Some(detail) = &self.detail {
            write!(f, ", {detail}")?;
        }
        match self.change_lsn() {
            Some(lsn) => write!(f, ", at the change at {lsn}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ServerError {}

/// Bytes that make no sense. Section "Message Formats" of the manual says what would.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A length field that can't be true.
    #[error("message `{}` says that it has {length} bytes; allowed: 4 to {limit}", char(*tag))]
    Length {
        /// The message's first byte.
        tag: u8,
        /// As written.
        length: u32,
        /// The most that is taken here.
        limit: usize,
    },
    /// A message that has no place here.
    #[error("message `{}` came while {during}", char(*tag))]
    Unexpected {
        /// The message's first byte.
        tag: u8,
        /// What was going on.
        during: &'static str,
    },
    /// A message shorter than its fields.
    #[error("message `{}` ends within its fields", char(*tag))]
    Truncated {
        /// The message's first byte.
        tag: u8,
    },
    /// None of `S`, `N` and `E` in answer to the `SSLRequest`.
    #[error("byte {0:#04x} came in answer to the request for TLS: is this PostgreSQL?")]
    NotPostgres(u8),
    /// A request was abandoned before its answer was complete.
    #[error("an earlier request on this connection was abandoned")]
    Abandoned,
    /// A query with a zero byte in it, or longer than a message can be.
    #[error("a request can't be encoded: {0}")]
    Request(String),
    /// What `tokio-postgres` can't make sense of.
    #[error("{0}")]
    Other(String),
}

pub(super) fn char(tag: u8) -> String {
    tag.escape_ascii().to_string()
}

/// The login failed on our side.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The server asks for a password and there is none.
    #[error("the server asks for the password of `{user}`, and none is configured")]
    NoPassword {
        /// The role.
        user: String,
    },
    /// GSSAPI and the like.
    #[error("the server asks for {0}, which is not supported")]
    Unsupported(String),
    /// `channel_binding=require`, and the server did not.
    #[error("`channel_binding=require`, but the login did without channel binding")]
    NoChannelBinding,
    /// The SCRAM exchange went wrong: a server that does not know the password, for instance.
    #[error("the SCRAM exchange failed")]
    Scram(#[source] io::Error),
}

//! A span, as we have it until it is written for the wire.

use crate::encode::trace_context::TraceContext;

/// What it is, for who draws a map of services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Of what the process does by itself.
    Internal,
    /// Of what it asks a server for. So is a publish whose context is not the message's: by the conventions, only who makes
    /// that is a producer.
    Client,
}

/// What an attribute says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// In words.
    Text(String),
    /// In its unit.
    Int(i64),
    /// Whether.
    Flag(bool),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

/// What a span goes on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// Where.
    pub context: TraceContext,
    /// The `tracestate` of that; may be empty.
    pub state: String,
}

/// One span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Few different ones.
    pub name: String,
    /// See there.
    pub kind: Kind,
    /// That of its parent, or its own.
    pub trace_id: [u8; 16],
    /// At random.
    pub span_id: [u8; 8],
    /// None: it begins a trace.
    pub parent: Option<Parent>,
    /// Microseconds since 1970.
    pub start_us: i64,
    /// Not before `start_us`.
    pub end_us: i64,
    /// Each name once.
    pub attributes: Vec<(&'static str, Value)>,
    /// It came to nothing, and why.
    pub error: Option<String>,
}

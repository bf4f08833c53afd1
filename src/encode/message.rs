//! A message as the publisher takes it: borrowed, so that building one allocates nothing.

/// One event, ready to be framed.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Where to; at most 255 bytes.
    pub exchange: &'a str,
    /// At most 255 bytes.
    pub routing_key: &'a str,
    /// AMQP basic properties; delivery mode 2 (persistent) is implied.
    pub properties: Properties<'a>,
    /// The payload.
    pub body: &'a [u8],
}

/// The properties that an event carries. Text of at most 255 bytes each.
#[derive(Debug, Clone, Copy)]
pub struct Properties<'a> {
    /// Names the event; the same at every re-delivery.
    pub message_id: &'a str,
    /// The event's type.
    pub event_type: &'a str,
    /// The pipeline's name.
    pub app_id: &'a str,
    /// MIME type of the body.
    pub content_type: &'a str,
    /// Commit time, seconds since 1970 (AMQP knows no finer unit); none when it is not known.
    pub timestamp_s: Option<u64>,
    /// Scalars only: tables and arrays are dropped on streams.
    pub headers: &'a [(&'a str, Header<'a>)],
}

/// The value of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header<'a> {
    /// A long string.
    Text(&'a str),
    /// A signed 64-bit integer. There is no unsigned one: LSNs go as text.
    Int(i64),
}

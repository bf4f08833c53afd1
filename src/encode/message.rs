//! An event on its way to the publisher, in buffers that are used again for the next one; and as the publisher takes it:
//! borrowed, so that it is copied once, into its frames.

pub use super::headers::{Header, HeaderTable, Headers};

/// A buffer that a large event has made larger than this is given back, in bytes.
const KEEP_BYTES: usize = 16 << 20;

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

/// The properties that an event carries. Text of at most 255 bytes each; those that may be left out are, when empty.
#[derive(Debug, Clone, Copy, Default)]
pub struct Properties<'a> {
    /// MIME type of the body.
    pub content_type: &'a str,
    /// How the body is packed, as in `gzip`; may be left out.
    pub content_encoding: &'a str,
    /// All of them.
    pub headers: Headers<'a>,
    /// 0 to 255; what it means is up to the queue.
    pub priority: Option<u8>,
    /// May be left out.
    pub correlation_id: &'a str,
    /// May be left out.
    pub reply_to: &'a str,
    /// Milliseconds, as text; may be left out.
    pub expiration: &'a str,
    /// Names the event; the same at every re-delivery.
    pub message_id: &'a str,
    /// Commit time, seconds since 1970 (AMQP knows no finer unit); none when it is not known.
    pub timestamp_s: Option<u64>,
    /// The event's type.
    pub event_type: &'a str,
    /// The pipeline's name, unless an outbox column says otherwise.
    pub app_id: &'a str,
}

/// One event in memory: see [`Message`] and [`Properties`] for what each is.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "said there")]
pub struct Event {
    pub exchange: String,
    pub routing_key: String,
    pub content_type: String,
    pub content_encoding: String,
    pub headers: HeaderTable,
    pub priority: Option<u8>,
    pub correlation_id: String,
    pub reply_to: String,
    pub expiration: String,
    pub message_id: String,
    pub timestamp_s: Option<u64>,
    pub event_type: String,
    pub app_id: String,
    pub body: Vec<u8>,
    /// What a CloudEvent is about: the aggregate's id, or what names the row; may be empty.
    pub subject: String,
    /// What it was made of, in words: `insert of public.orders`.
    pub origin: String,
    /// Microseconds since 2000-01-01 00:00 UTC; none outside of transactions.
    pub committed_at: Option<i64>,
}

impl Event {
    /// Forgets the event. What a large one took is given back.
    pub fn clear(&mut self) {
        let Self {
            exchange,
            routing_key,
            content_type,
            content_encoding,
            headers,
            priority,
            correlation_id,
            reply_to,
            expiration,
            message_id,
            timestamp_s,
            event_type,
            app_id,
            body,
            subject,
            origin,
            committed_at,
        } = self;
        let texts = [exchange, routing_key, content_type, content_encoding, correlation_id, reply_to, expiration];
        texts.into_iter().chain([message_id, event_type, app_id, subject, origin]).for_each(String::clear);
        headers.clear();
        body.clear();
        // Does nothing to a buffer that is no larger.
        body.shrink_to(KEEP_BYTES);
        (*priority, *timestamp_s, *committed_at) = (None, None, None);
    }

    /// As the publisher takes it.
    #[must_use]
    pub fn message(&self) -> Message<'_> {
        Message {
            exchange: &self.exchange,
            routing_key: &self.routing_key,
            properties: Properties {
                content_type: &self.content_type,
                content_encoding: &self.content_encoding,
                headers: self.headers.all(),
                priority: self.priority,
                correlation_id: &self.correlation_id,
                reply_to: &self.reply_to,
                expiration: &self.expiration,
                message_id: &self.message_id,
                timestamp_s: self.timestamp_s,
                event_type: &self.event_type,
                app_id: &self.app_id,
            },
            body: &self.body,
        }
    }
}

//! CloudEvents 1.0.2 (<https://github.com/cloudevents/spec>, `cloudevents/spec.md`), around data that anybody makes.
//!
//! Structured mode is `cloudevents/formats/json-format.md`: the body is an object of the attributes, with the data as `data`,
//! or as `data_base64` where it is bytes. In binary mode the body is the data, and the attributes are headers. AMQP 0-9-1 has no
//! binding of its own, so the headers are named as in that of AMQP 1.0 (`cloudevents/bindings/amqp-protocol-binding.md`, 3.1.3).
//!
//! The attributes `id`, `type` and `datacontenttype` are the event's properties. `partitionkey`, `sequence`, `traceparent` and
//! `tracestate` are documented extensions (`cloudevents/extensions/`). Invariant: the data is written once, into the body; nothing
//! is allocated but its growth.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::IgnoredAny;

use super::message::{Event, Header};
use super::text::json_string;
use super::time::rfc3339;
use super::values::{Kind, json_base64, json_value, raw_bytes};
use crate::config::CloudEvents;
use crate::lsn::Position;
use crate::postgres::pgoutput::Value;
use crate::postgres::relation::Relation;

/// The content type of an event in structured mode.
pub const STRUCTURED: &str = "application/cloudevents+json; charset=utf-8";
/// All but the unreserved characters of RFC 3986, section 2.3.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What the events of one source have in common.
#[derive(Debug, Clone)]
pub struct Wrapper {
    mode: CloudEvents,
    /// A URI reference.
    source: String,
}

/// What an event says of itself, beside its properties and its subject.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes {
    /// When it happened: microseconds since 2000-01-01 00:00 UTC.
    pub time: Option<i64>,
    /// Its place in the stream.
    pub position: Option<Position>,
}

/// A required attribute is missing (`spec.md`, "REQUIRED Attributes").
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its {0} is empty, which that of a CloudEvent must not be")]
pub struct Incomplete(&'static str);

impl Wrapper {
    /// For the pipeline of this name: events of a table, or of none.
    #[must_use]
    pub fn new(mode: CloudEvents, name: &str, relation: Option<&Relation>) -> Self {
        let mut source = format!("/pgsluice/{name}");
        for part in relation.into_iter().flat_map(|relation| [&relation.schema, &relation.name]) {
            source.push('/');
            source.extend(utf8_percent_encode(part, RESERVED));
        }
        Self { mode, source }
    }

    /// Whether it is the body that has the attributes.
    #[must_use]
    pub fn mode(&self) -> CloudEvents {
        self.mode
    }

    /// The attribute.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Makes an event of data that is JSON, which `write` appends.
    ///
    /// # Errors
    /// The event's id or type is empty.
    pub fn json(
        &self,
        event: &mut Event,
        attributes: Attributes,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Incomplete> {
        self.begin(event, attributes, true)?;
        match self.mode {
            CloudEvents::Binary => write(&mut event.body),
            CloudEvents::Structured => {
                event.body.extend_from_slice(b",\"data\":");
                write(&mut event.body);
                end(event);
            }
        }
        Ok(())
    }

    /// Makes an event of data that somebody else has made: a value of this kind. Null is no data.
    ///
    /// # Errors
    /// The event's id or type is empty.
    pub fn payload(
        &self,
        event: &mut Event,
        attributes: Attributes,
        kind: &Kind,
        value: Value<'_>,
    ) -> Result<(), Incomplete> {
        let has_data = !matches!(value, Value::Null | Value::Unchanged);
        self.begin(event, attributes, has_data)?;
        match self.mode {
            CloudEvents::Binary => raw_bytes(&mut event.body, kind, value),
            CloudEvents::Structured => {
                member(&mut event.body, &event.content_type, kind, value);
                end(event);
            }
        }
        Ok(())
    }

    /// The attributes.
    fn begin(&self, event: &mut Event, attributes: Attributes, has_data: bool) -> Result<(), Incomplete> {
        for (name, text) in [("id", &event.message_id), ("type", &event.event_type)] {
            if text.is_empty() {
                return Err(Incomplete(name));
            }
        }
        match self.mode {
            CloudEvents::Structured => self.object(event, attributes, has_data),
            CloudEvents::Binary => self.headers(event, attributes),
        }
        Ok(())
    }

    fn object(&self, event: &mut Event, attributes: Attributes, has_data: bool) {
        let Event { body, message_id, event_type, subject, content_type, headers, .. } = event;
        body.extend_from_slice(b"{\"specversion\":\"1.0\"");
        text(body, "id", message_id);
        text(body, "source", &self.source);
        text(body, "type", event_type);
        text(body, "subject", subject);
        if let Some(time) = attributes.time {
            body.extend_from_slice(b",\"time\":\"");
            rfc3339(body, time);
            body.push(b'"');
        }
        text(body, "datacontenttype", if has_data { content_type } else { "" });
        text(body, "partitionkey", subject);
        if let Some(position) = attributes.position {
            body.extend_from_slice(b",\"sequence\":\"");
            body.extend_from_slice(&sequence(position));
            body.push(b'"');
        }
        for name in ["traceparent", "tracestate"] {
            text(body, name, headers.all().text(name).unwrap_or_default());
        }
    }

    fn headers(&self, event: &mut Event, attributes: Attributes) {
        let Event { headers, message_id, event_type, subject, .. } = event;
        headers.push("cloudEvents:specversion", Header::Text("1.0"));
        headers.push("cloudEvents:id", Header::Text(message_id));
        headers.push("cloudEvents:source", Header::Text(&self.source));
        headers.push("cloudEvents:type", Header::Text(event_type));
        if let Some(time) = attributes.time {
            headers.push_with("cloudEvents:time", |out| rfc3339(out, time));
        }
        if !subject.is_empty() {
            headers.push("cloudEvents:subject", Header::Text(subject));
            headers.push("cloudEvents:partitionkey", Header::Text(subject));
        }
        if let Some(position) = attributes.position {
            headers.push_with("cloudEvents:sequence", |out| out.extend_from_slice(&sequence(position)));
        }
        headers.push_copy("cloudEvents:traceparent", "traceparent");
        headers.push_copy("cloudEvents:tracestate", "tracestate");
    }
}

/// An optional attribute is left out, where the event has none.
fn text(out: &mut Vec<u8>, name: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    json_string(out, value.as_bytes());
}

/// `data` or `data_base64` (json-format.md, 3.1.1), or neither.
fn member(out: &mut Vec<u8>, content_type: &str, kind: &Kind, value: Value<'_>) {
    let (bytes, is_text) = match value {
        Value::Null | Value::Unchanged => return,
        Value::Text(text) if matches!(kind, Kind::Bytea) => {
            out.extend_from_slice(b",\"data_base64\":");
            return json_value(out, kind, text);
        }
        Value::Text(text) => (text, true),
        Value::Binary(bytes) => (bytes, content_type.starts_with("text/") && std::str::from_utf8(bytes).is_ok()),
    };
    let is_trusted = matches!((kind, value), (Kind::Json, Value::Text(_)));
    if declares_json(content_type) {
        // PostgreSQL has validated the values of its own types of JSON, and nobody those of others.
        if is_trusted || is_json(bytes) {
            out.extend_from_slice(b",\"data\":");
            return out.extend_from_slice(bytes);
        }
    } else if is_text {
        out.extend_from_slice(b",\"data\":");
        return json_string(out, bytes);
    }
    out.extend_from_slice(b",\"data_base64\":");
    json_base64(out, bytes);
}

fn end(event: &mut Event) {
    event.body.push(b'}');
    STRUCTURED.clone_into(&mut event.content_type);
}

/// `*/json` or `*/*+json`, whatever its parameters.
fn declares_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim_end();
    let subtype = media_type.split_once('/').map_or("", |(_, subtype)| subtype);
    let suffix = subtype.rsplit('+').next().unwrap_or_default();
    suffix.eq_ignore_ascii_case("json")
}

fn is_json(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

/// The position, so that texts compare as positions do: the LSN and the ordinal, in 16 hexadecimal digits each.
fn sequence(position: Position) -> [u8; 33] {
    let mut out = [b'/'; 33];
    let hex = |out: &mut [u8], mut number: u64| {
        for digit in out.iter_mut().rev() {
            *digit = b"0123456789ABCDEF"[(number & 15) as usize];
            number >>= 4;
        }
    };
    hex(&mut out[..16], position.commit_lsn.0);
    hex(&mut out[17..], position.ordinal);
    out
}

#[cfg(test)]
mod tests;

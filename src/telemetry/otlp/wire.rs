//! What is sent, by the field numbers of <https://github.com/open-telemetry/opentelemetry-proto> (v1; stable).
//!
//! Only what we write. The tests read it with the official definitions, which bring a whole SDK with them.

#![allow(clippy::struct_field_names, reason = "they are the specification's")]

use prost::Message as _;

use super::span::{self, Parent, Value};
use super::tracer::Ended;
use crate::encode::trace_context::TraceContext;

/// `Content-Type` of all of it.
pub(super) const CONTENT_TYPE: &str = "application/x-protobuf";
/// The name by which we are known as who made the spans.
const SCOPE: &str = "pgsluice";
/// Of `SpanFlags`: whether the parent is of another process is known (bit 8), and it is (bit 9).
const HAS_REMOTE_PARENT: u32 = 0x300;
/// See [`HAS_REMOTE_PARENT`].
const HAS_NO_REMOTE_PARENT: u32 = 0x100;
/// We export what is recorded.
const SAMPLED: u32 = 1;
/// Of `Status`.
const STATUS_ERROR: i32 = 2;

/// `ExportTraceServiceRequest`, encoded: spans of the pipeline of this name.
pub(super) fn request(name: &str, spans: &[Ended]) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    let text = |key: &str, text: &str| KeyValue::new(key, &Value::from(text));
    let spans = spans.iter().map(|ended| Span::of(&ended.span)).collect();
    let scope = Some(Scope { name: SCOPE.to_owned(), version: version.to_owned() });
    let resource = Some(Resource { attributes: vec![text("service.name", name), text("service.version", version)] });
    let scope_spans = vec![ScopeSpans { scope, spans }];
    Request { resource_spans: vec![ResourceSpans { resource, scope_spans }] }.encode_to_vec()
}

/// How many spans the collector has not taken of a request that it has answered well, and why. An answer that can't be read
/// says nothing.
pub(super) fn rejected(answer: &[u8]) -> (u64, String) {
    let partial = Response::decode(answer).ok().and_then(|response| response.partial_success).unwrap_or_default();
    (u64::try_from(partial.rejected_spans).unwrap_or(0), partial.error_message)
}

#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, repeated, tag = "13")]
    links: Vec<Link>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Link {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(fixed32, tag = "6")]
    flags: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnyValue {
    #[prost(oneof = "AnyOf", tags = "1, 2, 3")]
    value: Option<AnyOf>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum AnyOf {
    #[prost(string, tag = "1")]
    String(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(int64, tag = "3")]
    Int(i64),
}

/// `ExportTraceServiceResponse`
#[derive(Clone, PartialEq, prost::Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

impl Span {
    fn of(span: &span::Span) -> Self {
        let nanos = |us: i64| u64::try_from(us).unwrap_or(0).saturating_mul(1_000);
        let is_child = if span.parent.is_some() { HAS_REMOTE_PARENT } else { HAS_NO_REMOTE_PARENT };
        Self {
            trace_id: span.trace_id.to_vec(),
            span_id: span.span_id.to_vec(),
            trace_state: span.parent.as_ref().map(|parent| parent.state.clone()).unwrap_or_default(),
            parent_span_id: span.parent.as_ref().map(|parent| parent.context.span_id.to_vec()).unwrap_or_default(),
            name: span.name.clone(),
            // Of `SpanKind`.
            kind: match span.kind {
                span::Kind::Internal => 1,
                span::Kind::Client => 3,
            },
            start_time_unix_nano: nanos(span.start_us),
            end_time_unix_nano: nanos(span.end_us),
            attributes: span.attributes.iter().map(|(key, value)| KeyValue::new(key, value)).collect(),
            // To the context that the message brings, which is that of the parent.
            links: span.parent.iter().map(Link::to).collect(),
            status: span.error.as_ref().map(|message| Status { message: message.clone(), code: STATUS_ERROR }),
            flags: SAMPLED | is_child,
        }
    }
}

impl Link {
    fn to(Parent { context, state }: &Parent) -> Self {
        let TraceContext { trace_id, span_id, flags } = context;
        let flags = u32::from(*flags) | HAS_REMOTE_PARENT;
        Self { trace_id: trace_id.to_vec(), span_id: span_id.to_vec(), trace_state: state.clone(), flags }
    }
}

impl KeyValue {
    fn new(key: &str, value: &Value) -> Self {
        let value = match value {
            Value::Text(text) => AnyOf::String(text.clone()),
            Value::Int(number) => AnyOf::Int(*number),
            Value::Flag(flag) => AnyOf::Bool(*flag),
        };
        Self { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
    }
}

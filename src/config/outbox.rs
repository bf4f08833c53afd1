//! What `[outbox]` says, validated.

use std::time::Duration;

use regex::Regex;

use super::Ordering;
use crate::route::template::Template;

/// `[outbox]`, or one `[[outbox]]`: rows inserted into this table are events that the application wrote.
#[derive(Debug, Clone)]
pub struct OutboxSettings {
    /// Where it is in the configuration: `outbox`, `outbox[1]`.
    pub key: String,
    /// The table's schema, unquoted.
    pub schema: String,
    /// The table's name, unquoted.
    pub table: String,
    /// `{name}.events` unless set. Variables: `{schema}`, `{table}`, `{route}` and every column of the outbox table;
    /// `{name}` is already filled in.
    pub exchange: Template,
    /// `{aggregatetype}.{type}` unless set; same variables.
    pub routing_key: Template,
    /// Which column holds what.
    pub columns: OutboxColumns,
    /// AMQP properties beside those that every event has; same variables.
    pub properties: Vec<(Property, Template)>,
    /// More headers, by name; same variables.
    pub headers: Vec<(String, Template)>,
    /// Fields of the body beside `payload`, and the columns that they are; none: the payload is the body.
    pub envelope: Vec<(String, String)>,
    /// What `{route}` stands for.
    pub route: Option<RouteSettings>,
    /// Whether the events of an aggregate stay in order.
    pub ordering: Ordering,
    /// What to do when a row is updated.
    pub on_update: OnUpdate,
    /// An event without a payload gets the header `tombstone`.
    pub tombstone_on_empty_payload: bool,
    /// Whether rows are deleted once the checkpoint has passed their events.
    pub cleanup: Option<CleanupSettings>,
}

/// `[outbox.cleanup]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanupSettings {
    /// So many rows are deleted in one transaction, at the most.
    pub batch_rows: usize,
    /// How long rows are gathered for one.
    pub every: Duration,
    /// An empty partition whose range of times ended so long ago is dropped; none: none is.
    pub drop_partitions_after: Option<Duration>,
}

/// The outbox table's column names; Debezium's unless set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxColumns {
    /// `id`: becomes `message_id`.
    pub id: String,
    /// `aggregatetype`: becomes the header `aggregate_type`.
    pub aggregate_type: String,
    /// `aggregateid`: becomes the header `aggregate_id`.
    pub aggregate_id: String,
    /// `type`: becomes the property `type`.
    pub event_type: String,
    /// `payload`: becomes the body, as it was written.
    pub payload: String,
    /// Becomes the property `timestamp`, instead of the commit time.
    pub timestamp: Option<String>,
    /// Becomes the header `schema_version`.
    pub schema_version: Option<String>,
    /// Becomes the headers `traceparent` and `tracestate`.
    pub trace_context: Option<String>,
}

/// An AMQP property that an outbox row may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are AMQP's")]
pub enum Property {
    AppId,
    ContentEncoding,
    ContentType,
    CorrelationId,
    Expiration,
    Priority,
    ReplyTo,
}

/// `[outbox.route]`: a column's value through a pattern and its replacement.
#[derive(Debug, Clone)]
pub struct RouteSettings {
    /// Whose value; `aggregatetype` unless set.
    pub column: String,
    /// Matches the whole value.
    pub pattern: Regex,
    /// With `$1` and `$name` for its groups.
    pub replacement: String,
}

/// What to do when a row of the outbox is updated: its event is out already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnUpdate {
    /// Nothing, and say so once.
    #[default]
    Warn,
    /// Nothing.
    Ignore,
    /// End.
    Fail,
}

impl OutboxSettings {
    /// Whether it is this table. Names as PostgreSQL has them, unquoted.
    #[must_use]
    pub fn is(&self, schema: &str, table: &str) -> bool {
        self.schema == schema && self.table == table
    }

    /// The variables that are no columns. A column of the name `route` is one, unless there is a route.
    #[must_use]
    pub fn built_in(&self) -> &'static [&'static str] {
        if self.route.is_some() { &["name", "schema", "table", "route"] } else { &["name", "schema", "table"] }
    }

    /// All templates, each with its key.
    pub fn templates(&self) -> impl Iterator<Item = (String, &Template)> {
        let to = [("exchange", &self.exchange), ("routing_key", &self.routing_key)];
        let to = to.into_iter().map(|(name, template)| (name.to_owned(), template));
        let properties = self.properties.iter().map(|(it, template)| (format!("properties.{}", it.name()), template));
        let headers = self.headers.iter().map(|(name, template)| (format!("headers.{name}"), template));
        to.chain(properties).chain(headers).map(|(name, template)| (format!("{}.{name}", self.key), template))
    }

    /// All columns that are named, each with its key. Templates may use others.
    pub fn named_columns(&self) -> impl Iterator<Item = (String, &str)> {
        let OutboxColumns {
            id,
            aggregate_type,
            aggregate_id,
            event_type,
            payload,
            timestamp,
            schema_version,
            trace_context,
        } = &self.columns;
        let required = [
            ("id", Some(id)),
            ("aggregate_type", Some(aggregate_type)),
            ("aggregate_id", Some(aggregate_id)),
            ("type", Some(event_type)),
            ("payload", Some(payload)),
        ];
        let optional = [
            ("timestamp", timestamp.as_ref()),
            ("schema_version", schema_version.as_ref()),
            ("trace_context", trace_context.as_ref()),
        ];
        let columns = required.into_iter().chain(optional);
        let columns = columns.filter_map(|(name, column)| Some((format!("columns.{name}"), column?.as_str())));
        let envelope = self.envelope.iter().map(|(field, column)| (format!("envelope.{field}"), column.as_str()));
        let route = self.route.iter().map(|route| ("route.column".to_owned(), route.column.as_str()));
        columns.chain(envelope).chain(route).map(|(name, column)| (format!("{}.{name}", self.key), column))
    }
}

impl Property {
    /// As the configuration, and AMQP, call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AppId => "app_id",
            Self::ContentEncoding => "content_encoding",
            Self::ContentType => "content_type",
            Self::CorrelationId => "correlation_id",
            Self::Expiration => "expiration",
            Self::Priority => "priority",
            Self::ReplyTo => "reply_to",
        }
    }
}

//! What `[outbox]` says, validated.

use std::time::Duration;

use regex::Regex;

use super::CloudEvents;
use crate::route::messages::Prefixes;
use crate::route::template::Template;

/// `[outbox]`, or one `[[outbox]]`: where the application writes its events, and what they are made of.
#[derive(Debug, Clone)]
pub struct OutboxSettings {
    /// Where it is in the configuration: `outbox`, `outbox[1]`.
    pub key: String,
    /// What its rows are.
    pub of: OutboxOf,
    /// `{name}.events` unless set. Variables: [`Self::built_in`], and every column as `{column}` or `{new.column}`;
    /// `{name}` is already filled in.
    pub exchange: Template,
    /// `{aggregatetype}.{type}` unless set; same variables.
    pub routing_key: Template,
    /// How the events look; none: the payload, or the envelope, alone.
    pub format: Option<CloudEvents>,
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
    /// A payload that is a JSON object or array is one, whatever its column's type.
    pub expand_json_payload: bool,
    /// An event without a payload gets the header `tombstone`.
    pub tombstone_on_empty_payload: bool,
}

/// What an outbox's rows are.
#[derive(Debug, Clone)]
pub enum OutboxOf {
    /// Those that are inserted into this table.
    Table(OutboxTableSettings),
    /// The JSON objects that are logical messages with these prefixes: their fields are the columns.
    Messages(Prefixes),
}

/// A table of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxTableSettings {
    /// Unquoted.
    pub schema: String,
    /// Its name, unquoted.
    pub table: String,
    /// What to do when a row is updated.
    pub on_update: OnUpdate,
    /// Whether rows are deleted once the checkpoint has passed their events.
    pub cleanup: Option<CleanupSettings>,
}

/// In a template, what comes before a column's name where that alone would be a variable of another meaning.
pub(crate) const OF_COLUMN: &str = "new.";

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

/// The outbox's column names; Debezium's unless set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxColumns {
    /// `id`: becomes `message_id`.
    pub id: String,
    /// `aggregatetype`: becomes the header `aggregate_type`; none if it is set to be empty.
    pub aggregate_type: Option<String>,
    /// `aggregateid`: becomes the header `aggregate_id`; none if it is set to be empty.
    pub aggregate_id: Option<String>,
    /// `type`: becomes the property `type`; none if it is set to be empty.
    pub event_type: Option<String>,
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
    /// Its table, if it has one.
    #[must_use]
    pub fn table(&self) -> Option<&OutboxTableSettings> {
        match &self.of {
            OutboxOf::Table(table) => Some(table),
            OutboxOf::Messages(_) => None,
        }
    }

    /// Whether it is this table. Names as PostgreSQL has them, unquoted.
    #[must_use]
    pub fn is(&self, schema: &str, table: &str) -> bool {
        self.table().is_some_and(|it| it.schema == schema && it.table == table)
    }

    /// The variables that are no columns, and hide those of their names. A column of the name `route` is one, unless there
    /// is a route.
    #[must_use]
    pub fn built_in(&self) -> &'static [&'static str] {
        match (&self.of, self.route.is_some()) {
            (OutboxOf::Table(_), true) => &["name", "schema", "table", "route"],
            (OutboxOf::Table(_), false) => &["name", "schema", "table"],
            (OutboxOf::Messages(_), true) => &["name", "prefix", "route"],
            (OutboxOf::Messages(_), false) => &["name", "prefix"],
        }
    }

    /// Every column that is used, with the key that uses it.
    #[must_use]
    pub fn used_columns(&self) -> Vec<(&str, String)> {
        let of_templates = self.templates().flat_map(|(key, template)| {
            let columns = template.variables().filter(|variable| !self.built_in().contains(variable));
            let columns = columns.map(|variable| variable.strip_prefix(OF_COLUMN).unwrap_or(variable));
            columns.map(move |column| (column, key.clone())).collect::<Vec<_>>()
        });
        self.named_columns().map(|(key, column)| (column, key)).chain(of_templates).collect()
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
    fn named_columns(&self) -> impl Iterator<Item = (String, &str)> {
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
        let required = [("id", Some(id)), ("payload", Some(payload))];
        let optional = [
            ("aggregate_type", aggregate_type.as_ref()),
            ("aggregate_id", aggregate_id.as_ref()),
            ("type", event_type.as_ref()),
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

//! The outbox event router: which column of the outbox row becomes which part of the message.
//!
//! The application wrote the event; its payload goes out as it was written. Column names are
//! configurable, Debezium's are the defaults. `encode::outbox` makes the message.

use crate::config::{OnUpdate, Ordering, OutboxSettings, Property, RouteSettings};
use crate::encode::values::{Kind as ValueKind, Kinds};
use crate::postgres::relation::Relation;
use crate::route::template::{Bound, Template};

/// How rows of one outbox table become events; columns are indexes into the relation as it is now.
#[derive(Debug)]
pub struct OutboxPlan {
    /// Becomes `message_id`.
    pub id: usize,
    /// Becomes the header `aggregate_type`.
    pub aggregate_type: usize,
    /// Becomes the header `aggregate_id`.
    pub aggregate_id: usize,
    /// Becomes the property `type`.
    pub event_type: usize,
    /// Becomes the body.
    pub payload: usize,
    /// Becomes the property `timestamp`; and what it is.
    pub timestamp: Option<(usize, ValueKind)>,
    /// Becomes the header `schema_version`.
    pub schema_version: Option<usize>,
    /// Becomes the headers `traceparent` and `tracestate`.
    pub trace_context: Option<usize>,
    /// Where the event goes.
    pub exchange: Bound<Part>,
    /// Where the event goes.
    pub routing_key: Bound<Part>,
    /// AMQP properties that are set from columns.
    pub properties: Vec<(Property, Bound<Part>)>,
    /// Headers that are set from columns, by name.
    pub headers: Vec<(String, Bound<Part>)>,
    /// Fields of the body beside the payload, with their columns; none: the payload is the body.
    pub envelope: Vec<(String, usize, ValueKind)>,
    /// What [`Part::Route`] stands for.
    pub route: Option<Route>,
    /// MIME type of the payload, by its column's type.
    pub content_type: &'static str,
    /// How the payload's bytes are got back from its text.
    pub payload_kind: ValueKind,
    /// Whether the events of an aggregate stay in order.
    pub ordering: Ordering,
    /// What to do when a row is updated.
    pub on_update: OnUpdate,
    /// An event without a payload gets the header `tombstone`.
    pub tombstone_on_empty_payload: bool,
    /// Its place in the configuration, if its rows are to be deleted once they are published.
    pub cleanup: Option<usize>,
}

/// The table had all columns at the start, and was changed since: its rows can't be events as they are. Those that are
/// out already are none of its concern, so a configuration that fits what comes next is enough to go on.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the outbox table has no column for {what}")]
pub struct Misfit {
    what: String,
    /// Those that there are.
    pub columns: Vec<String>,
    /// What to do when a row is updated.
    pub on_update: OnUpdate,
}

/// What a template's variable stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The same for every row.
    Fixed(String),
    /// The text of a column; empty for null.
    Column(usize),
    /// What the route makes of its column.
    Route,
}

/// A column's value through a pattern and its replacement.
#[derive(Debug)]
pub struct Route {
    column: usize,
    settings: RouteSettings,
}

impl Route {
    /// Which column.
    #[must_use]
    pub fn column(&self) -> usize {
        self.column
    }

    /// Appends what becomes of the column's value: itself, when it does not match.
    pub fn render(&self, value: &str, out: &mut String) {
        match self.settings.pattern.captures(value) {
            Some(captures) => captures.expand(&self.settings.replacement, out),
            None => out.push_str(value),
        }
    }
}

impl OutboxPlan {
    pub(super) fn new(
        name: &str,
        (index, settings): (usize, &OutboxSettings),
        relation: &Relation,
        kinds: Kinds<'_>,
    ) -> Result<Self, Misfit> {
        let missing = |what: String| Misfit {
            what,
            columns: relation.columns.iter().map(|column| column.name.clone()).collect(),
            on_update: settings.on_update,
        };
        let column = |column: &str| relation.column(column).ok_or_else(|| missing(format!("`{column}`")));
        let optional = |name: &Option<String>| name.as_deref().map(column).transpose();
        let kind = |column: usize| kinds.of(relation.columns[column].type_oid);
        let fixed = [("name", name), ("schema", &relation.schema), ("table", &relation.name)];
        let fixed = fixed.map(|(variable, value)| (variable, Part::Fixed(value.to_owned())));
        let route = settings.route.iter().map(|_| ("route", Part::Route));
        let columns = relation.columns.iter().enumerate();
        let columns = columns.map(|(index, column)| (column.name.as_str(), Part::Column(index)));
        let known: Vec<(&str, Part)> = fixed.into_iter().chain(route).chain(columns).collect();
        let bind = |template: &Template| template.bind(&known).map_err(|unknown| missing(unknown.to_string()));
        let names = &settings.columns;
        let payload = column(&names.payload)?;
        let payload_kind = kind(payload);
        let envelope = settings.envelope.iter().map(|(field, name)| {
            let column = column(name)?;
            Ok((field.clone(), column, kind(column)))
        });
        let route = settings
            .route
            .as_ref()
            .map(|route| Ok::<_, Misfit>(Route { column: column(&route.column)?, settings: route.clone() }));
        Ok(Self {
            id: column(&names.id)?,
            aggregate_type: column(&names.aggregate_type)?,
            aggregate_id: column(&names.aggregate_id)?,
            event_type: column(&names.event_type)?,
            payload,
            timestamp: optional(&names.timestamp)?.map(|column| (column, kind(column))),
            schema_version: optional(&names.schema_version)?,
            trace_context: optional(&names.trace_context)?,
            exchange: bind(&settings.exchange)?,
            routing_key: bind(&settings.routing_key)?,
            properties: settings
                .properties
                .iter()
                .map(|(it, text)| Ok((*it, bind(text)?)))
                .collect::<Result<_, _>>()?,
            headers: settings
                .headers
                .iter()
                .map(|(it, text)| Ok((it.clone(), bind(text)?)))
                .collect::<Result<_, _>>()?,
            envelope: envelope.collect::<Result<_, Misfit>>()?,
            route: route.transpose()?,
            content_type: match payload_kind {
                ValueKind::Json => "application/json",
                ValueKind::Bytea => "application/octet-stream",
                _ => "text/plain; charset=utf-8",
            },
            payload_kind,
            ordering: settings.ordering,
            on_update: settings.on_update,
            tombstone_on_empty_payload: settings.tombstone_on_empty_payload,
            cleanup: settings.cleanup.map(|_| index),
        })
    }
}

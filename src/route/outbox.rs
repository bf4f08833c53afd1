//! The outbox event router: which column of the outbox row becomes which part of the message.
//!
//! The application wrote the event; its payload goes out as it was written. Column names are
//! configurable, Debezium's are the defaults. A row is one of a table, or the JSON object of a logical message, whose
//! fields are its columns. `encode::outbox` makes the message.

use crate::config::{OF_COLUMN, OnUpdate, OutboxSettings, Property, RouteSettings};
use crate::encode::cloudevents::Wrapper;
use crate::encode::values::{Kind as ValueKind, Kinds};
use crate::postgres::relation::Relation;
use crate::route::template::{Bound, Template};

/// How rows of one outbox become events; columns are indexes into the relation as it is now, or into
/// [`MessageOutbox::fields`].
#[derive(Debug)]
pub struct OutboxPlan {
    /// Becomes `message_id`.
    pub id: usize,
    /// Becomes the header `aggregate_type`.
    pub aggregate_type: Option<usize>,
    /// Becomes the header `aggregate_id`.
    pub aggregate_id: Option<usize>,
    /// Becomes the property `type`.
    pub event_type: Option<usize>,
    /// Becomes the body.
    pub payload: usize,
    /// Becomes the property `timestamp`; and what it is.
    pub timestamp: Option<(usize, ValueKind)>,
    /// Becomes the header `schema_version`; and what it is.
    pub schema_version: Option<(usize, ValueKind)>,
    /// Becomes the headers `traceparent` and `tracestate`.
    pub trace_context: Option<usize>,
    /// Where the event goes.
    pub exchange: Bound<Part>,
    /// Where the event goes.
    pub routing_key: Bound<Part>,
    /// AMQP properties that are set from columns.
    pub properties: Vec<(Property, Bound<Part>)>,
    /// Headers that are set from columns, by name.
    pub headers: Vec<(String, HeaderPlan)>,
    /// Fields of the body beside the payload, with their columns; none: the payload is the body.
    pub envelope: Vec<(String, usize, ValueKind)>,
    /// Makes it a CloudEvent.
    pub cloudevents: Option<Wrapper>,
    /// What [`Part::Route`] stands for.
    pub route: Option<Route>,
    /// How the payload's bytes are got back from its text.
    pub payload_kind: ValueKind,
    /// A payload that is a JSON object or array is one, whatever its kind.
    pub expand_json_payload: bool,
    /// What to do when a row is updated.
    pub on_update: OnUpdate,
    /// An event without a payload gets the header `tombstone`.
    pub tombstone_on_empty_payload: bool,
    /// Its place in the configuration, if its rows are to be deleted once they are published.
    pub cleanup: Option<usize>,
}

/// What a header is made of.
#[derive(Debug)]
pub enum HeaderPlan {
    /// One column alone, which keeps its type where a header has it.
    Column(usize, ValueKind),
    /// Text.
    Text(Bound<Part>),
}

/// An outbox of logical messages.
#[derive(Debug)]
pub struct MessageOutbox {
    /// How their objects become events.
    pub plan: OutboxPlan,
    /// The names of the fields that are used; others are passed over.
    pub fields: Vec<String>,
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
    /// The prefix of the message.
    Prefix,
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

impl MessageOutbox {
    pub(super) fn new(name: &str, settings: &OutboxSettings) -> Self {
        let mut fields: Vec<String> = settings.used_columns().iter().map(|(field, _)| (*field).to_owned()).collect();
        fields.sort();
        fields.dedup();
        // What a field is, its row says.
        let columns: Vec<(&str, ValueKind)> = fields.iter().map(|field| (field.as_str(), ValueKind::Text)).collect();
        let plan = OutboxPlan::bind(settings, None, &[("prefix", Part::Prefix)], &columns);
        let cloudevents = settings.format.map(|mode| Wrapper::new(mode, name, None));
        let plan = OutboxPlan { cloudevents, ..plan.expect("the fields are those that are used") };
        Self { plan, fields }
    }
}

impl OutboxPlan {
    /// Of a table.
    pub(super) fn new(
        name: &str,
        (index, settings): (usize, &OutboxSettings),
        relation: &Relation,
        kinds: Kinds<'_>,
    ) -> Result<Self, Misfit> {
        let fixed = [("schema", &relation.schema), ("table", &relation.name)];
        let fixed = fixed.map(|(variable, value)| (variable, Part::Fixed(value.clone())));
        let columns = relation.columns.iter().map(|column| (column.name.as_str(), kinds.of(column.type_oid)));
        let plan = Self::bind(settings, Some(index), &fixed, &columns.collect::<Vec<_>>())?;
        let cloudevents = settings.format.map(|mode| Wrapper::new(mode, name, Some(relation)));
        Ok(Self { cloudevents, ..plan })
    }

    fn bind(
        settings: &OutboxSettings,
        index: Option<usize>,
        built_in: &[(&str, Part)],
        columns: &[(&str, ValueKind)],
    ) -> Result<Self, Misfit> {
        let on_update = settings.table().map_or(OnUpdate::Ignore, |table| table.on_update);
        let missing = |what: String| Misfit {
            what,
            columns: columns.iter().map(|(name, _)| (*name).to_owned()).collect(),
            on_update,
        };
        let column = |name: &str| {
            columns.iter().position(|(column, _)| *column == name).ok_or_else(|| missing(format!("`{name}`")))
        };
        let optional = |name: &Option<String>| name.as_deref().map(column).transpose();
        let kind = |column: usize| columns[column].1.clone();
        let with_kind = |column: usize| (column, kind(column));
        let qualified: Vec<String> = columns.iter().map(|(name, _)| format!("{OF_COLUMN}{name}")).collect();
        let route = settings.route.iter().map(|_| ("route", Part::Route));
        let plain = columns.iter().enumerate().map(|(index, (name, _))| (*name, Part::Column(index)));
        let qualified = qualified.iter().enumerate().map(|(index, name)| (name.as_str(), Part::Column(index)));
        let known: Vec<(&str, Part)> = built_in.iter().cloned().chain(route).chain(qualified).chain(plain).collect();
        let bind = |template: &Template| template.bind(&known).map_err(|unknown| missing(unknown.to_string()));
        let header = |(name, template): &(String, Template)| {
            let bound = bind(template)?;
            let header = match bound.alone() {
                Some(Part::Column(column)) => HeaderPlan::Column(*column, kind(*column)),
                Some(Part::Fixed(_) | Part::Prefix | Part::Route) | None => HeaderPlan::Text(bound),
            };
            Ok((name.clone(), header))
        };
        let names = &settings.columns;
        let payload = column(&names.payload)?;
        let envelope = settings.envelope.iter().map(|(field, name)| {
            let column = column(name)?;
            Ok((field.clone(), column, kind(column)))
        });
        let route = settings
            .route
            .as_ref()
            .map(|route| Ok::<_, Misfit>(Route { column: column(&route.column)?, settings: route.clone() }));
        let properties = settings.properties.iter().map(|(property, template)| Ok((*property, bind(template)?)));
        Ok(Self {
            id: column(&names.id)?,
            aggregate_type: optional(&names.aggregate_type)?,
            aggregate_id: optional(&names.aggregate_id)?,
            event_type: optional(&names.event_type)?,
            payload,
            timestamp: optional(&names.timestamp)?.map(with_kind),
            schema_version: optional(&names.schema_version)?.map(with_kind),
            trace_context: optional(&names.trace_context)?,
            exchange: bind(&settings.exchange)?,
            routing_key: bind(&settings.routing_key)?,
            properties: properties.collect::<Result<_, _>>()?,
            headers: settings.headers.iter().map(header).collect::<Result<_, _>>()?,
            envelope: envelope.collect::<Result<_, Misfit>>()?,
            cloudevents: None,
            route: route.transpose()?,
            payload_kind: kind(payload),
            expand_json_payload: settings.expand_json_payload,
            on_update,
            tombstone_on_empty_payload: settings.tombstone_on_empty_payload,
            cleanup: index.filter(|_| settings.table().is_some_and(|table| table.cleanup.is_some())),
        })
    }
}

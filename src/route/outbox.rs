//! The outbox event router: which column of the outbox row becomes which part of the message.
//!
//! The application wrote the event; its payload goes out as it was written. Column names are
//! configurable, Debezium's are the defaults.

use anyhow::anyhow;

use crate::config::OutboxSettings;
use crate::encode::values::{Kind as ValueKind, Kinds};
use crate::failure::{Definite, Kind};
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
    /// Where the event goes.
    pub exchange: Bound<Part>,
    /// Where the event goes.
    pub routing_key: Bound<Part>,
    /// MIME type of the payload, by its column's type.
    pub content_type: &'static str,
    /// How the payload's bytes are got back from its text.
    pub payload_kind: ValueKind,
}

/// What a template's variable stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The same for every row.
    Fixed(String),
    /// The text of a column; empty for null.
    Column(usize),
}

impl OutboxPlan {
    pub(super) fn new(
        name: &str,
        settings: &OutboxSettings,
        relation: &Relation,
        kinds: Kinds<'_>,
    ) -> Result<Self, Definite> {
        let missing = |what: String| {
            let columns: Vec<&str> = relation.columns.iter().map(|column| column.name.as_str()).collect();
            Definite::new(
                // Not PostgreSQL's refusal: the table had all of them at the start, and was changed since.
                Kind::Event,
                anyhow!("the outbox table {}.{} has no column for {what}", relation.schema, relation.name),
                format!(
                    "when this row was written, its columns were {}: name those in [outbox.columns] and in the templates. \
                     Changing the table has no effect on rows that were written before",
                    columns.join(", ")
                ),
            )
        };
        let column = |column: &str| relation.column(column).ok_or_else(|| missing(format!("`{column}`")));
        let fixed = [("name", name), ("schema", &relation.schema), ("table", &relation.name)];
        let fixed = fixed.map(|(variable, value)| (variable, Part::Fixed(value.to_owned())));
        let columns = relation.columns.iter().enumerate();
        let columns = columns.map(|(index, column)| (column.name.as_str(), Part::Column(index)));
        let known: Vec<(&str, Part)> = fixed.into_iter().chain(columns).collect();
        let bind = |template: &Template| template.bind(&known).map_err(|unknown| missing(unknown.to_string()));
        let payload = column(&settings.columns.payload)?;
        let payload_kind = kinds.of(relation.columns[payload].type_oid);
        Ok(Self {
            id: column(&settings.columns.id)?,
            aggregate_type: column(&settings.columns.aggregate_type)?,
            aggregate_id: column(&settings.columns.aggregate_id)?,
            event_type: column(&settings.columns.event_type)?,
            payload,
            exchange: bind(&settings.exchange)?,
            routing_key: bind(&settings.routing_key)?,
            content_type: match payload_kind {
                ValueKind::Json => "application/json",
                ValueKind::Bytea => "application/octet-stream",
                _ => "text/plain; charset=utf-8",
            },
            payload_kind,
        })
    }
}

//! The outbox event router: which column of the outbox row becomes which part of the message.
//!
//! The application wrote the event; its payload goes out as it was written. Column names are
//! configurable, Debezium's are the defaults.

use anyhow::anyhow;

use crate::config::OutboxSettings;
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
    /// Whether the payload's text is `\x…` and stands for bytes.
    pub payload_is_bytea: bool,
}

/// What a template's variable stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The same for every row.
    Fixed(String),
    /// The text of a column; empty for null.
    Column(usize),
}

const BYTEA: u32 = 17;
const JSON: u32 = 114;
const JSONB: u32 = 3802;

impl OutboxPlan {
    pub(super) fn new(name: &str, settings: &OutboxSettings, relation: &Relation) -> Result<Self, Definite> {
        let find = |column: &str| relation.columns.iter().position(|candidate| candidate.name == column);
        let missing = |what: String| {
            let columns: Vec<&str> = relation.columns.iter().map(|column| column.name.as_str()).collect();
            Definite::new(
                Kind::Source,
                anyhow!("the outbox table {}.{} has no column for {what}", relation.schema, relation.name),
                format!("its columns are {}; set [outbox.columns] or change the table", columns.join(", ")),
            )
        };
        let column = |column: &str| find(column).ok_or_else(|| missing(format!("`{column}`")));
        let bind = |template: &Template| {
            let bound = template.bind(|variable| match variable {
                "name" => Some(Part::Fixed(name.to_owned())),
                "schema" => Some(Part::Fixed(relation.schema.clone())),
                "table" => Some(Part::Fixed(relation.name.clone())),
                column => find(column).map(Part::Column),
            });
            bound.map_err(|unknown| missing(unknown.to_string()))
        };
        let payload = column(&settings.columns.payload)?;
        let payload_type = relation.columns[payload].type_oid;
        Ok(Self {
            id: column(&settings.columns.id)?,
            aggregate_type: column(&settings.columns.aggregate_type)?,
            aggregate_id: column(&settings.columns.aggregate_id)?,
            event_type: column(&settings.columns.event_type)?,
            payload,
            exchange: bind(&settings.exchange)?,
            routing_key: bind(&settings.routing_key)?,
            content_type: match payload_type {
                JSON | JSONB => "application/json",
                BYTEA => "application/octet-stream",
                _ => "text/plain; charset=utf-8",
            },
            payload_is_bytea: payload_type == BYTEA,
        })
    }
}

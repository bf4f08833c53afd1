//! The events that the application writes into an outbox: what `encode::outbox` makes of a row.
//!
//! What the application writes into the payload is its own: of a payload that is no envelope, only the type is known.

use serde_json::{Value, json};

use super::catalog::Described;
use super::event::{
    Address, Event, LSN, Parameter, Presence, boolean, constant, described, integer, object, pattern, position_headers,
    text,
};
use super::rows::{as_text, column};
use super::types::Schemas;
use crate::config::{OutboxSettings, Property};
use crate::encode::values::Kind;
use crate::route::outbox::OutboxPlan;
use crate::route::template::Template;

/// An outbox as its columns are.
struct Outbox<'a, 's> {
    schemas: &'s mut Schemas<'a>,
    settings: &'s OutboxSettings,
    plan: &'s OutboxPlan,
    table: &'a Described,
}

/// The events of one outbox.
pub(super) fn event<'a>(
    schemas: &mut Schemas<'a>,
    pipeline: &str,
    settings: &OutboxSettings,
    plan: &OutboxPlan,
    table: &'a Described,
) -> Event {
    let mut outbox = Outbox { schemas, settings, plan, table };
    let relation = &table.relation;
    Event {
        name: relation.to_string(),
        summary: format!("What the application writes into the outbox {relation}"),
        description: table.comment.clone(),
        exchange: outbox.address(&settings.exchange),
        routing_key: outbox.address(&settings.routing_key),
        content_type: outbox.content_type(),
        format: "plain",
        payload: outbox.payload(),
        headers: outbox.headers(),
        properties: outbox.properties(pipeline),
        schema_version: Some(relation.version(outbox.schemas.types())),
    }
}

impl Outbox<'_, '_> {
    /// None where each row says it itself.
    fn content_type(&self) -> Option<String> {
        if !self.plan.envelope.is_empty() {
            return Some("application/json".to_owned());
        }
        match self.settings.properties.iter().find(|(property, _)| *property == Property::ContentType) {
            Some((_, template)) => template.literal().map(str::to_owned),
            None => Some(self.plan.content_type.to_owned()),
        }
    }

    fn payload(&mut self) -> Value {
        if self.plan.envelope.is_empty() {
            let comment = self.table.columns[self.plan.payload].comment.as_deref();
            let schema = match self.plan.payload_kind {
                Kind::Json => json!({}),
                Kind::Bytea => json!({"type": "string", "format": "binary"}),
                // As the column's text, whatever that is.
                Kind::Bool
                | Kind::Integer
                | Kind::Number
                | Kind::Timestamp
                | Kind::TimestampTz
                | Kind::Text
                | Kind::Array(_)
                | Kind::Composite(_)
                | Kind::Hstore => text(),
            };
            return described(schema, comment);
        }
        let fields = self.plan.envelope.iter().map(|(field, column, _)| (field.as_str(), *column));
        let fields: Vec<_> = [("payload", self.plan.payload)].into_iter().chain(fields).collect();
        object(
            fields.into_iter().map(|(field, column)| (field, self.value(column), Presence::Always)).collect::<Vec<_>>(),
        )
    }

    /// A column's JSON.
    fn value(&mut self, index: usize) -> Value {
        column(self.schemas, &self.table.relation.columns[index], &self.table.columns[index])
    }

    /// A column's text, and whether it is there.
    fn text(&mut self, index: usize) -> (Value, Presence) {
        let (column, facts) = (&self.table.relation.columns[index], &self.table.columns[index]);
        let schema = described(as_text(self.schemas, column, facts), facts.comment.as_deref());
        (schema, Presence::always_if(facts.not_null || self.schemas.refuses_null(column.type_oid)))
    }

    /// What is replayed from the table has no place in the stream.
    fn headers(&mut self) -> Value {
        let mut headers = position_headers(Presence::Sometimes);
        let version = self.plan.schema_version.map(|column| ("schema_version", column));
        let columns = [("aggregate_type", self.plan.aggregate_type), ("aggregate_id", self.plan.aggregate_id)];
        for (header, column) in columns.into_iter().chain(version) {
            let (schema, presence) = self.text(column);
            headers.push((header.to_owned(), schema, presence));
        }
        if self.plan.trace_context.is_some() {
            headers.push(("traceparent".to_owned(), text(), Presence::Sometimes));
            headers.push(("tracestate".to_owned(), text(), Presence::Sometimes));
        }
        for (header, template) in &self.settings.headers {
            let presence = Presence::always_if(template.literal().is_some_and(|text| !text.is_empty()));
            headers.push((header.clone(), self.rendered(template), presence));
        }
        if self.settings.tombstone_on_empty_payload {
            let tombstone = described(boolean(), Some("the event has no payload"));
            headers.push(("tombstone".to_owned(), tombstone, Presence::Sometimes));
        }
        object(headers)
    }

    fn properties(&mut self, pipeline: &str) -> Value {
        let (id, presence) = self.text(self.plan.id);
        let id = match presence {
            Presence::Always => id,
            // Without one, the position names the event.
            Presence::Sometimes => json!({"anyOf": [id, pattern(&format!("^{pipeline}:{LSN}:[0-9]+$"))]}),
        };
        let (event_type, _) = self.text(self.plan.event_type);
        let time = match self.plan.timestamp {
            Some(_) => "seconds since 1970, by the row",
            None => "commit time, seconds since 1970",
        };
        let mut properties = vec![
            ("message_id", id, Presence::Always),
            ("type", event_type, Presence::Sometimes),
            ("timestamp", described(integer(0), Some(time)), Presence::Sometimes),
        ];
        if !self.settings.properties.iter().any(|(property, _)| *property == Property::AppId) {
            properties.push(("app_id", constant(pipeline), Presence::Always));
        }
        for (property, template) in &self.settings.properties {
            let schema = match property {
                Property::Priority => json!({"type": "integer", "minimum": 0, "maximum": 255}),
                Property::ContentType => continue,
                Property::AppId
                | Property::ContentEncoding
                | Property::CorrelationId
                | Property::Expiration
                | Property::ReplyTo => self.rendered(template),
            };
            properties.push((property.name(), schema, Presence::Sometimes));
        }
        object(properties)
    }

    /// What a template becomes.
    fn rendered(&self, template: &Template) -> Value {
        let address = self.address(template);
        match (address.parameters.as_slice(), template.literal()) {
            (_, Some(fixed)) => constant(fixed),
            ([parameter], None)
                if !parameter.values.is_empty() && address.text == format!("{{{}}}", parameter.name) =>
            {
                json!({"type": "string", "enum": parameter.values})
            }
            (_, None) => described(text(), Some(&address.text)),
        }
    }

    fn address(&self, template: &Template) -> Address {
        let relation = &self.table.relation;
        let template = template.clone().fill("schema", &relation.schema).fill("table", &relation.name);
        super::events::address(&template, &|variable| self.parameter(variable))
    }

    fn parameter(&self, variable: &str) -> Parameter {
        let name: String = variable
            .chars()
            .map(|it| if it.is_ascii_alphanumeric() || matches!(it, '_' | '-') { it } else { '_' })
            .collect();
        if let (Some(route), "route") = (&self.settings.route, variable) {
            let description =
                format!("the column {} through {} as {}", route.column, route.pattern.as_str(), route.replacement);
            return Parameter { name, description, values: Vec::new() };
        }
        let column = self.table.relation.columns.iter().find(|column| column.name == variable);
        let labels = column.and_then(|column| self.schemas.labels(column.type_oid)).unwrap_or_default();
        Parameter { name, description: format!("the column {variable}"), values: labels.to_vec() }
    }
}

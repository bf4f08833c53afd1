//! The events that the application writes into an outbox: what `encode::outbox` makes of a row.
//!
//! What the application writes into the payload is its own: of a payload that is no envelope, only the type is known.

use serde_json::{Value, json};

use super::catalog::Described;
use super::event::{
    Address, Event, Parameter, Presence, boolean, constant, described, integer, object, parameter_name,
    position_headers, text,
};
use super::formats::{self, Attributes, Body, message_id};
use super::rows::{as_text, column};
use super::types::Schemas;
use crate::config::{OF_COLUMN, OutboxSettings, Property};
use crate::encode::values::Kind;
use crate::route::outbox::{HeaderPlan, OutboxPlan};
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
    let body = outbox.body(pipeline);
    Event {
        name: relation.to_string(),
        summary: format!("What the application writes into the outbox {relation}"),
        description: table.comment.clone(),
        exchange: outbox.address(&settings.exchange),
        routing_key: outbox.address(&settings.routing_key),
        content_type: body.content_type,
        format: body.format,
        payload: body.payload,
        headers: object(outbox.headers().into_iter().chain(body.headers)),
        properties: outbox.properties(pipeline),
        schema_version: Some(relation.version(outbox.schemas.types())),
    }
}

impl Outbox<'_, '_> {
    fn body(&mut self, pipeline: &str) -> Body {
        let payload = self.payload();
        let body = Body { format: "raw", headers: Vec::new(), content_type: self.content_type(), payload };
        let Some(wrapper) = &self.plan.cloudevents else { return body };
        let attributes = Attributes {
            id: self.id(pipeline),
            event_type: self.plan.event_type.map_or_else(text, |column| self.text(column).0),
            time: Presence::Sometimes,
            sequence: Presence::Sometimes,
            is_traced: self.plan.trace_context.is_some(),
        };
        // Text is a string, or is what its content type says it is.
        let is_own = self.plan.envelope.is_empty() && !matches!(self.plan.payload_kind, Kind::Json);
        let data = formats::data(if is_own { json!({}) } else { body.payload.clone() });
        formats::cloud_event(wrapper, attributes, body, data)
    }

    /// None where each row says it itself.
    fn content_type(&self) -> Option<String> {
        match self.settings.properties.iter().find(|(property, _)| *property == Property::ContentType) {
            Some((_, template)) => template.literal().map(str::to_owned),
            None if !self.plan.envelope.is_empty() => Some("application/json".to_owned()),
            None => match self.plan.payload_kind {
                Kind::Json => Some("application/json".to_owned()),
                // It may be JSON, too.
                _ if self.plan.expand_json_payload => None,
                Kind::Bytea => Some("application/octet-stream".to_owned()),
                _ => Some("text/plain; charset=utf-8".to_owned()),
            },
        }
    }

    fn payload(&mut self) -> Value {
        let comment = self.table.columns[self.plan.payload].comment.as_deref();
        let is_any = self.plan.expand_json_payload || matches!(self.plan.payload_kind, Kind::Json);
        if self.plan.envelope.is_empty() {
            let schema = match self.plan.payload_kind {
                _ if is_any => json!({}),
                Kind::Bytea => json!({"type": "string", "format": "binary"}),
                // As the column's text, whatever that is.
                _ => text(),
            };
            return described(schema, comment);
        }
        let payload = if is_any { described(json!({}), comment) } else { self.value(self.plan.payload) };
        let mut fields = vec![("payload", payload, Presence::Always)];
        for (field, column, _) in &self.plan.envelope {
            fields.push((field, self.value(*column), Presence::Always));
        }
        object(fields)
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

    /// What a header of this column is: numbers and booleans keep their type. One whose text is empty is left out.
    fn typed(&mut self, index: usize, kind: &Kind) -> (Value, Presence) {
        let (schema, presence) = self.text(index);
        match kind {
            Kind::Integer | Kind::Bool => (self.value(index), presence),
            Kind::Json => (json!({"type": ["string", "integer", "boolean"]}), Presence::Sometimes),
            _ => (schema, Presence::Sometimes),
        }
    }

    fn id(&mut self, pipeline: &str) -> Value {
        let (id, presence) = self.text(self.plan.id);
        match presence {
            Presence::Always => id,
            // Without one, the position names the event.
            Presence::Sometimes => json!({"anyOf": [id, message_id(pipeline)]}),
        }
    }

    /// What is replayed from the table has no place in the stream.
    fn headers(&mut self) -> Vec<(String, Value, Presence)> {
        let mut headers = position_headers(Presence::Sometimes);
        for (header, column) in [("aggregate_type", self.plan.aggregate_type), ("aggregate_id", self.plan.aggregate_id)]
        {
            if let Some(column) = column {
                let (schema, presence) = self.text(column);
                headers.push((header.to_owned(), schema, presence));
            }
        }
        if let Some((column, kind)) = &self.plan.schema_version {
            let (schema, _) = self.typed(*column, kind);
            headers.push(("schema_version".to_owned(), schema, Presence::Sometimes));
        }
        if self.plan.trace_context.is_some() {
            headers.push(("traceparent".to_owned(), text(), Presence::Sometimes));
            headers.push(("tracestate".to_owned(), text(), Presence::Sometimes));
        }
        for ((header, template), (_, of)) in self.settings.headers.iter().zip(&self.plan.headers) {
            let (schema, presence) = match of {
                HeaderPlan::Column(column, kind) => self.typed(*column, kind),
                HeaderPlan::Text(_) => {
                    let fixed = template.literal().is_some_and(|text| !text.is_empty());
                    (self.rendered(template), Presence::always_if(fixed))
                }
            };
            headers.push((header.clone(), schema, presence));
        }
        if self.settings.tombstone_on_empty_payload {
            let tombstone = described(boolean(), Some("the event has no payload"));
            headers.push(("tombstone".to_owned(), tombstone, Presence::Sometimes));
        }
        headers
    }

    fn properties(&mut self, pipeline: &str) -> Value {
        let id = self.id(pipeline);
        let event_type = self.plan.event_type.map_or_else(text, |column| self.text(column).0);
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
        let name = parameter_name(variable);
        if let (Some(route), "route") = (&self.settings.route, variable) {
            let description =
                format!("the column {} through {} as {}", route.column, route.pattern.as_str(), route.replacement);
            return Parameter { name, description, values: Vec::new() };
        }
        let variable = variable.strip_prefix(OF_COLUMN).unwrap_or(variable);
        let column = self.table.relation.columns.iter().find(|column| column.name == variable);
        let labels = column.and_then(|column| self.schemas.labels(column.type_oid)).unwrap_or_default();
        Parameter { name, description: format!("the column {variable}"), values: labels.to_vec() }
    }
}

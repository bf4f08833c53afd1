//! The events of rules: what `encode::domain` writes, one kind for each rule and table.

use serde_json::{Value, json};

use super::catalog::{ColumnFacts, Described};
use super::event::{
    Address, Event, LSN, Parameter, Presence, committed_at, constant, described, integer, nullable, object,
    parameter_name, pattern, position_headers, text,
};
use super::formats::{self, Attributes, Body};
use super::rows::{self, column};
use super::types::Schemas;
use crate::config::RuleSettings;
use crate::encode::format::RowFormat;
use crate::postgres::relation::{Column, ReplicaIdentity};
use crate::route::domain::{DomainFormat, Field, RulePlan, Shown};
use crate::route::template::Template;

/// The event of a rule for one table; none if the rule is of operations that can't happen to it.
pub(super) fn event<'a>(
    schemas: &mut Schemas<'a>,
    pipeline: &str,
    settings: &RuleSettings,
    plan: &RulePlan,
    table: &'a Described,
) -> Option<Event> {
    let relation = &table.relation;
    let operations = table.operations.iter().copied().filter(|op| plan.is_on(op));
    let rule = Rule { settings, table, operations: operations.collect() };
    if rule.operations.is_empty() {
        return None;
    }
    let version = relation.version(schemas.types());
    let event_type = rule.rendered(schemas, &settings.event_type);
    // A rule's name may be any text.
    let name: String = plan.name.chars().map(literal).collect();
    let id = || pattern(&format!("^{pipeline}:{LSN}:[0-9]+:{name}$"));
    let data = rule.data(schemas, plan);
    let fields = [
        ("id", id()),
        ("type", event_type.clone()),
        ("op", json!({"enum": rule.operations})),
        ("schema", constant(relation.schema.as_str())),
        ("table", constant(relation.name.as_str())),
        ("schema_version", pattern("^[0-9a-f]{16}$")),
        ("commit_lsn", pattern(&format!("^{LSN}$"))),
        ("ordinal", integer(0)),
        ("xid", integer(0)),
        ("committed_at", committed_at()),
        ("data", data.clone()),
        ("missing", json!({"type": "array", "items": {"type": "string"}})),
    ];
    let enveloped = object(fields.map(|(name, schema)| (name, schema, Presence::Always)));
    let body = match &plan.format {
        DomainFormat::Plain => Body::json("plain", enveloped),
        DomainFormat::Raw => Body::json("raw", data),
        DomainFormat::Row(format) => rule.whole(schemas, pipeline, format),
        DomainFormat::CloudEvents(wrapper, _) => {
            let (time, sequence) = (Presence::Always, Presence::Always);
            let event_type = event_type.clone();
            let attributes = Attributes { id: id(), event_type, time, sequence, is_traced: true };
            let member = vec![("data".to_owned(), data.clone(), Presence::Always)];
            formats::cloud_event(wrapper, attributes, Body::json("raw", data), member)
        }
    };
    let headers = settings.headers.iter().map(|(header, template)| {
        let presence = Presence::always_if(template.literal().is_some_and(|text| !text.is_empty()));
        (header.clone(), rule.rendered(schemas, template), presence)
    });
    let headers: Vec<_> = position_headers(Presence::Always).into_iter().chain(headers).chain(body.headers).collect();
    Some(Event {
        name: format!("{}.{relation}", plan.name),
        summary: format!("{} by the rule {}, of {relation}", rule.operations.join(", "), plan.name),
        description: table.comment.clone(),
        exchange: rule.address(schemas, &settings.exchange),
        routing_key: rule.address(schemas, &settings.routing_key),
        content_type: body.content_type,
        format: body.format,
        payload: body.payload,
        headers: object(headers),
        properties: object([
            ("message_id", id(), Presence::Always),
            ("type", event_type, Presence::Sometimes),
            ("app_id", constant(pipeline), Presence::Always),
            ("timestamp", described(integer(0), Some("commit time, seconds since 1970")), Presence::Always),
        ]),
        schema_version: Some(version),
    })
}

/// A character that stands for itself in a pattern.
fn literal(character: char) -> String {
    if r"^$\.*+?()[]{}|/".contains(character) { format!("\\{character}") } else { character.to_string() }
}

struct Rule<'r, 'a> {
    settings: &'r RuleSettings,
    table: &'a Described,
    /// Those of the rule that can happen to the table.
    operations: Vec<&'static str>,
}

impl<'a> Rule<'_, 'a> {
    /// One of those of its operations.
    fn whole(&self, schemas: &mut Schemas<'a>, pipeline: &str, format: &RowFormat) -> Body {
        let of = |op: &&'static str| rows::body(schemas, pipeline, format, self.table, (*op, ""));
        let mut bodies: Vec<Body> = self.operations.iter().map(of).collect();
        let payloads: Vec<Value> = bodies.iter().map(|body| body.payload.clone()).collect();
        let last = bodies.pop().unwrap_or_else(|| Body::json("plain", json!({})));
        let headers = last.headers.into_iter().map(|(name, _, _)| (name, json!({}), Presence::Sometimes)).collect();
        Body { payload: json!({"anyOf": payloads}), headers, ..last }
    }

    /// What the rule lets through; null if the table is truncated.
    fn data(&self, schemas: &mut Schemas<'a>, plan: &RulePlan) -> Value {
        let mut fields = Vec::new();
        for field in &plan.fields {
            let (of, facts) = (&self.table.relation.columns[field.index], &self.table.columns[field.index]);
            let schema = shown(schemas, field, of, facts);
            let is_always = self.operations.iter().all(|op| self.has(op, of, facts, field.is_key));
            fields.push((name(&field.label), schema, Presence::always_if(is_always)));
        }
        let computed = plan.computed.iter().map(|computed| (name(&computed.label), json!({}), Presence::Always));
        let data = object(fields.into_iter().chain(computed));
        match self.operations.as_slice() {
            ["truncate"] => json!({"type": "null"}),
            operations if operations.contains(&"truncate") => json!({"anyOf": [data, {"type": "null"}]}),
            _ => data,
        }
    }

    /// Whether the stream always has the column's value of the row that is shown.
    fn has(&self, op: &str, of: &Column, facts: &ColumnFacts, is_key: bool) -> bool {
        let full = self.table.relation.identity == ReplicaIdentity::Full;
        match op {
            "insert" => !self.table.filtered || !facts.apart || of.key,
            "update" => full || !facts.apart || is_key,
            "delete" => full || is_key,
            // There is no row.
            _ => true,
        }
    }

    /// What a template becomes.
    fn rendered(&self, schemas: &Schemas<'a>, template: &Template) -> Value {
        let address = self.address(schemas, template);
        if address.parameters.is_empty() { constant(address.text) } else { described(text(), Some(&address.text)) }
    }

    fn address(&self, schemas: &Schemas<'a>, template: &Template) -> Address {
        let relation = &self.table.relation;
        let fill = |it: &Template| it.clone().fill("schema", &relation.schema).fill("table", &relation.name);
        let mut template = fill(template);
        if let Some(event_type) = fill(&self.settings.event_type).literal() {
            template = template.fill("type", event_type);
        }
        if let [op] = self.operations.as_slice() {
            template = template.fill("op", op);
        }
        super::events::address(&template, &|variable| self.parameter(schemas, variable))
    }

    fn parameter(&self, schemas: &Schemas<'a>, variable: &str) -> Parameter {
        let name = parameter_name(variable);
        let (description, values) = match variable.split_once('.') {
            None if variable == "op" => {
                ("the operation".to_owned(), self.operations.iter().map(ToString::to_string).collect())
            }
            None => (format!("the event's {variable}"), Vec::new()),
            Some((image, column)) => {
                let of = self.table.relation.columns.iter().find(|it| it.name == column);
                let labels = of.and_then(|of| schemas.labels(of.type_oid)).unwrap_or_default();
                (format!("the column {column} of the {image} row"), labels.to_vec())
            }
        };
        Parameter { name, description, values }
    }
}

/// What of a column may be seen.
fn shown<'a>(schemas: &mut Schemas<'a>, field: &Field, of: &Column, facts: &'a ColumnFacts) -> Value {
    match &field.shown {
        Shown::Value => column(schemas, of, facts),
        Shown::Mask(text) => constant(serde_json::from_slice::<Value>(text).unwrap_or_default()),
        Shown::Hash(_) if facts.not_null => pattern("^[0-9a-f]{64}$"),
        Shown::Hash(_) => nullable(pattern("^[0-9a-f]{64}$")),
    }
}

/// A label is the name as JSON, and a colon.
fn name(label: &[u8]) -> String {
    serde_json::from_slice(label.strip_suffix(b":").unwrap_or(label)).unwrap_or_default()
}

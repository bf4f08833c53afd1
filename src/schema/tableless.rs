//! The events of an outbox without a table: the JSON objects that logical messages hold. What their fields are, each says
//! itself, so that little is known of them before.

use serde_json::{Value, json};

use super::event::{
    Address, Event, Parameter, Presence, boolean, constant, described, integer, object, parameter_name,
    position_headers, text,
};
use super::formats::{self, Attributes, Body};
use super::messages::{is_literal, written};
use crate::config::{OF_COLUMN, OutboxOf, OutboxSettings, Property};
use crate::encode::cloudevents::Wrapper;
use crate::postgres::ident::Glyph;
use crate::route::template::Template;

/// One kind of event for each pattern of prefixes.
pub(super) fn events(pipeline: &str, settings: &OutboxSettings) -> Vec<Event> {
    match &settings.of {
        OutboxOf::Table(_) => Vec::new(),
        OutboxOf::Messages(prefixes) => prefixes.patterns().map(|prefix| event(pipeline, settings, prefix)).collect(),
    }
}

fn event(pipeline: &str, settings: &OutboxSettings, prefix: &[Glyph]) -> Event {
    let written = written(prefix);
    let fixed = is_literal(prefix).then_some(written.as_str());
    let payload = match settings.envelope.as_slice() {
        [] => json!({}),
        fields => {
            let fields = fields.iter().map(|(field, _)| field.as_str());
            object(["payload"].into_iter().chain(fields).map(|field| (field, json!({}), Presence::Always)))
        }
    };
    let content_type = match settings.properties.iter().find(|(property, _)| *property == Property::ContentType) {
        Some((_, template)) => template.literal().map(str::to_owned),
        None if settings.envelope.is_empty() => None,
        None => Some("application/json".to_owned()),
    };
    let mut body = Body { format: "raw", payload, headers: Vec::new(), content_type };
    if let Some(mode) = settings.format {
        let attributes = Attributes {
            id: text(),
            event_type: text(),
            time: Presence::Sometimes,
            sequence: Presence::Sometimes,
            is_traced: settings.columns.trace_context.is_some(),
        };
        let data = formats::data(body.payload.clone());
        body = formats::cloud_event(&Wrapper::new(mode, pipeline, None), attributes, body, data);
    }
    Event {
        name: format!("outbox.{written}"),
        summary: format!("What the application writes into logical messages with the prefix {written}"),
        description: None,
        exchange: address(&settings.exchange, fixed),
        routing_key: address(&settings.routing_key, fixed),
        content_type: body.content_type,
        format: body.format,
        payload: body.payload,
        headers: object(headers(settings).into_iter().chain(body.headers)),
        properties: properties(pipeline, settings),
        schema_version: None,
    }
}

fn headers(settings: &OutboxSettings) -> Vec<(String, Value, Presence)> {
    let scalar = || json!({"type": ["string", "integer", "boolean"]});
    let columns = &settings.columns;
    let named = [
        ("aggregate_type", columns.aggregate_type.is_some(), text()),
        ("aggregate_id", columns.aggregate_id.is_some(), text()),
        ("schema_version", columns.schema_version.is_some(), scalar()),
        ("traceparent", columns.trace_context.is_some(), text()),
        ("tracestate", columns.trace_context.is_some(), text()),
        ("tombstone", settings.tombstone_on_empty_payload, boolean()),
    ];
    let named = named.into_iter().filter(|(_, is_there, _)| *is_there);
    let named = named.map(|(name, _, schema)| (name.to_owned(), schema, Presence::Sometimes));
    let own = settings.headers.iter().map(|(name, _)| (name.clone(), scalar(), Presence::Sometimes));
    position_headers(Presence::Sometimes).into_iter().chain(named).chain(own).collect()
}

fn properties(pipeline: &str, settings: &OutboxSettings) -> Value {
    let has_app_id = settings.properties.iter().any(|(property, _)| *property == Property::AppId);
    let app_id = if has_app_id { text() } else { constant(pipeline) };
    let named = [
        ("message_id", text(), Presence::Always),
        ("type", text(), Presence::Sometimes),
        ("app_id", app_id, Presence::Always),
        ("timestamp", described(integer(0), Some("seconds since 1970")), Presence::Sometimes),
    ];
    let own = settings.properties.iter().filter_map(|(property, _)| {
        let schema = match property {
            Property::AppId | Property::ContentType => return None,
            Property::Priority => json!({"type": "integer", "minimum": 0, "maximum": 255}),
            Property::ContentEncoding | Property::CorrelationId | Property::Expiration | Property::ReplyTo => text(),
        };
        Some((property.name(), schema, Presence::Sometimes))
    });
    object(named.into_iter().chain(own))
}

fn address(template: &Template, fixed: Option<&str>) -> Address {
    let template = match fixed {
        Some(prefix) => template.clone().fill("prefix", prefix),
        None => template.clone(),
    };
    super::events::address(&template, &|variable| {
        let field = variable.strip_prefix(OF_COLUMN).unwrap_or(variable);
        let name = parameter_name(variable);
        let description = match variable {
            "prefix" => "the message's prefix".to_owned(),
            "route" => "the route".to_owned(),
            _ => format!("the field {field}"),
        };
        Parameter { name, description, values: Vec::new() }
    })
}

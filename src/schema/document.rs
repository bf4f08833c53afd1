//! The `AsyncAPI` 3.0 document: one message for each kind of event, one channel for each exchange and routing key, one
//! operation for each channel. Schemas are of `AsyncAPI`'s own dialect, which is JSON Schema draft-07.
//!
//! Specifications: <https://www.asyncapi.com/docs/reference/specification/v3.0.0>, and the bindings of AMQP 0-9-1, version
//! 0.3.0: <https://github.com/asyncapi/bindings/tree/master/amqp>.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::event::{Address, Event, free_key};
use super::events::Contract;
use crate::config::Settings;

/// Of the bindings.
const BINDING_VERSION: &str = "0.3.0";

/// Writes it. `info.version` names the rest: two documents with the same version are the same.
#[must_use]
pub fn write(settings: &Settings, contract: Contract) -> Value {
    let Contract { events, components } = contract;
    let message_keys = keys(events.iter().map(|event| event.name.clone()));
    let mut messages = Map::new();
    let mut channels: BTreeMap<(&Address, &Address), Vec<&str>> = BTreeMap::new();
    for (event, key) in events.iter().zip(&message_keys) {
        messages.insert(key.clone(), message(event));
        channels.entry((&event.exchange, &event.routing_key)).or_default().push(key);
    }
    let names = keys(channels.keys().map(|(exchange, routing_key)| channel_name(exchange, routing_key)));
    let operations = names.iter().map(|name| (format!("send.{name}"), operation(name)));
    let operations: Map<String, Value> = operations.collect();
    let channels = channels.iter().zip(&names);
    let channels: Map<String, Value> = channels
        .map(|(((exchange, routing_key), messages), name)| {
            (name.clone(), channel(settings, exchange, routing_key, messages))
        })
        .collect();
    let mut document = sorted(json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": settings.name,
            "version": "",
            "description": "What pgsluice publishes. Written by pgsluice schema; the version names the content.",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": components.into_iter().collect::<Map<_, _>>()},
    }));
    let mut version = format!("{:x}", Sha256::digest(document.to_string()));
    version.truncate(16);
    document["info"]["version"] = version.into();
    document
}

fn message(event: &Event) -> Value {
    let mut message = json!({
        "name": event.name,
        "title": event.name,
        "summary": event.summary,
        "payload": event.payload,
        "headers": event.headers,
        "x-amqp-properties": event.properties,
        "x-format": event.format,
    });
    let optional = [
        ("description", &event.description),
        ("contentType", &event.content_type),
        ("x-schema-version", &event.schema_version),
    ];
    for (field, value) in optional {
        if let Some(value) = value {
            message[field] = value.as_str().into();
        }
    }
    message
}

fn channel(settings: &Settings, exchange: &Address, routing_key: &Address, messages: &[&str]) -> Value {
    let messages = messages.iter().map(|key| ((*key).to_owned(), reference(&format!("components/messages/{key}"))));
    let parameters = exchange.parameters.iter().chain(&routing_key.parameters).map(|parameter| {
        let mut described = json!({"description": parameter.description});
        if !parameter.values.is_empty() {
            described["enum"] = parameter.values.as_slice().into();
        }
        (parameter.name.clone(), described)
    });
    let mut channel = json!({
        "address": routing_key.text,
        "messages": messages.collect::<Map<_, _>>(),
        "bindings": {"amqp": {
            "is": "routingKey",
            "exchange": self::exchange(settings, exchange),
            "bindingVersion": BINDING_VERSION,
        }},
    });
    let parameters: Map<String, Value> = parameters.collect();
    if !parameters.is_empty() {
        channel["parameters"] = parameters.into();
    }
    channel
}

fn exchange(settings: &Settings, name: &Address) -> Value {
    let mut exchange = json!({"name": name.text, "vhost": settings.rabbitmq.uri.vhost});
    // What somebody else declares is not known here; what a plugin brings, the binding has no word for.
    let described = settings.rabbitmq.topology.exchange(&name.text);
    if settings.rabbitmq.declare || described.is_some() {
        exchange["durable"] = described.is_none_or(|it| it.durable).into();
        let kind = described.map_or(settings.rabbitmq.exchange_type.as_str(), |it| it.kind.as_str());
        if !kind.starts_with("x-") {
            exchange["type"] = kind.into();
        }
    }
    exchange
}

fn operation(channel: &str) -> Value {
    json!({
        "action": "send",
        "channel": reference(&format!("channels/{channel}")),
        "bindings": {"amqp": {
            "deliveryMode": 2, "mandatory": true, "timestamp": true, "bindingVersion": BINDING_VERSION,
        }},
    })
}

fn reference(path: &str) -> Value {
    json!({"$ref": format!("#/{path}")})
}

fn channel_name(exchange: &Address, routing_key: &Address) -> String {
    format!("{}.{}", exchange.text, routing_key.text).replace(['{', '}'], "")
}

/// A key for each name.
fn keys(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let free = |name: String| {
        let key = free_key(&name, |key| taken.contains(key));
        taken.insert(key.clone());
        key
    };
    names.map(free).collect()
}

/// By name, whichever way `serde_json` keeps its maps.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<String, Value> =
                fields.into_iter().map(|(name, value)| (name, sorted(value))).collect();
            Value::Object(fields.into_iter().collect())
        }
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

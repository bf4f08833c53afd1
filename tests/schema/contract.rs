//! A document that `pgsluice schema` has written, and deliveries held against it.

use std::path::{Path, PathBuf};

use jsonschema::{Draft, Validator};
use regex::Regex;
use serde_json::{Map, Value, json};

use crate::support::{Delivery, SOON, folder, pgsluice_command};

/// Runs the command: exit code, standard output, standard error.
pub(crate) async fn schema(config: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let mut arguments = vec!["schema", "--config", config.to_str().expect("the path is text")];
    arguments.extend(more);
    let mut process = pgsluice_command(&arguments, &[]);
    let (code, stderr) = process.wait(SOON).await;
    (code, process.stdout(), stderr)
}

/// A configuration as a file.
pub(crate) fn file(config: &str) -> PathBuf {
    let path = folder("schema").join("pgsluice.toml");
    std::fs::write(&path, config).expect("write the configuration");
    path
}

/// A document.
#[derive(Debug)]
pub(crate) struct Contract {
    pub(crate) text: String,
    pub(crate) document: Value,
    messages: Vec<Message>,
}

/// What may come through a channel, and what is checked of it.
#[derive(Debug)]
struct Message {
    name: String,
    exchange: Regex,
    routing_key: Regex,
    content_type: Option<String>,
    payload: Validator,
    headers: Validator,
    properties: Validator,
}

impl Contract {
    /// Of the database as it is now.
    pub(crate) async fn of(config: &Path) -> Self {
        let (code, text, stderr) = schema(config, &[]).await;
        assert_eq!(code, Some(0), "{stderr}");
        let document: Value = serde_json::from_str(&text).expect("a document");
        let mut closed = document.clone();
        close(&mut closed);
        let channels = document["channels"].as_object().expect("channels").values();
        let messages = channels.flat_map(|channel| messages(channel, &closed)).collect();
        Self { text, document, messages }
    }

    /// Which event of the document the delivery is, to the last field.
    pub(crate) fn judge(&self, delivery: &Delivery) -> Result<&str, String> {
        let Delivery { exchange, routing_key, headers, properties, .. } = delivery;
        let text = |property: &Option<lapin::types::ShortString>| property.as_ref().map(ToString::to_string);
        let known = [
            ("message_id", text(properties.message_id()).map(Value::from)),
            ("type", text(properties.kind()).map(Value::from)),
            ("app_id", text(properties.app_id()).map(Value::from)),
            ("timestamp", properties.timestamp().map(Value::from)),
            ("correlation_id", text(properties.correlation_id()).map(Value::from)),
            ("reply_to", text(properties.reply_to()).map(Value::from)),
            ("expiration", text(properties.expiration()).map(Value::from)),
            ("content_encoding", text(properties.content_encoding()).map(Value::from)),
            ("priority", properties.priority().map(Value::from)),
        ];
        let known = known.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let properties_of = Value::Object(known.collect());
        let headers = Value::Object(headers.clone().into_iter().collect());
        let content_type = text(properties.content_type()).unwrap_or_default();
        let mut why = format!("no channel for {exchange} with {routing_key}");
        let through = |it: &&Message| it.exchange.is_match(exchange) && it.routing_key.is_match(routing_key);
        for message in self.messages.iter().filter(through) {
            let body = match content_type.as_str() {
                // A payload that is null.
                "application/json" if delivery.body.is_empty() => Value::Null,
                "application/json" | "application/cloudevents+json; charset=utf-8" => {
                    serde_json::from_slice(&delivery.body).expect("JSON")
                }
                _ => Value::String(delivery.text()),
            };
            let parts = [
                ("payload", &message.payload, &body),
                ("headers", &message.headers, &headers),
                ("properties", &message.properties, &properties_of),
            ];
            let wrong = parts.iter().flat_map(|(part, validator, value)| {
                validator.iter_errors(value).map(move |error| format!("{part}{}: {error}", error.instance_path()))
            });
            let mut wrong: Vec<String> = wrong.collect();
            if message.content_type.as_ref().is_some_and(|expected| *expected != content_type) {
                wrong.push(format!("content_type: {content_type}"));
            }
            if wrong.is_empty() {
                return Ok(&message.name);
            }
            why = format!("{}: {}\n{}", message.name, wrong.join("; "), delivery.text());
        }
        Err(why)
    }

    /// Whether a row may be one of this table.
    pub(crate) fn has_row(&self, table: &str, row: &Value) -> bool {
        validator(&format!("#/components/schemas/row.{table}"), &self.document).is_valid(row)
    }

    /// A part of the document.
    pub(crate) fn at(&self, pointer: &str) -> &Value {
        self.document.pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {}", self.text))
    }

    /// A column of a table.
    pub(crate) fn column(&self, table: &str, column: &str) -> &Value {
        self.at(&format!("/components/schemas/row.{table}/properties/{column}"))
    }
}

fn messages(channel: &Value, closed: &Value) -> Vec<Message> {
    let exchange = pattern(&channel["bindings"]["amqp"]["exchange"]["name"]);
    let routing_key = pattern(&channel["address"]);
    let references = channel["messages"].as_object().expect("messages").values();
    let message = |reference: &Value| {
        let pointer = reference["$ref"].as_str().and_then(|it| it.strip_prefix('#')).expect("a reference");
        let message = closed.pointer(pointer).expect("a message");
        let part = |part: &str| validator(&format!("#{pointer}/{part}"), closed);
        Message {
            name: message["name"].as_str().expect("a name").to_owned(),
            exchange: exchange.clone(),
            routing_key: routing_key.clone(),
            content_type: message.get("contentType").and_then(Value::as_str).map(str::to_owned),
            payload: part("payload"),
            headers: part("headers"),
            properties: part("x-amqp-properties"),
        }
    };
    references.map(message).collect()
}

/// Anything for a parameter.
fn pattern(address: &Value) -> Regex {
    let address = regex::escape(address.as_str().expect("an address"));
    let parameter = Regex::new(r"\\\{[^}]*\\\}").expect("a pattern");
    Regex::new(&format!("^{}$", parameter.replace_all(&address, "(?s:.*)"))).expect("a pattern")
}

fn validator(reference: &str, document: &Value) -> Validator {
    let schema = json!({"allOf": [{"$ref": reference}], "components": document["components"]});
    let options = jsonschema::options().with_draft(Draft::Draft7).should_validate_formats(true);
    options.build(&schema).unwrap_or_else(|error| panic!("{reference}: {error}"))
}

/// Nothing that the document does not name.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(close);
            if fields.get("type") == Some(&json!("object")) && fields.contains_key("properties") {
                fields.entry("additionalProperties").or_insert(json!(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// With another value at a place, or without it.
pub(crate) fn with(delivery: &Delivery, pointer: &str, value: Option<Value>) -> Delivery {
    let mut body = delivery.json();
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    let parent: &mut Map<String, Value> =
        body.pointer_mut(parent).and_then(Value::as_object_mut).unwrap_or_else(|| panic!("no {parent}"));
    match value {
        Some(value) => parent.insert(name.to_owned(), value),
        None => parent.remove(name),
    };
    Delivery {
        exchange: delivery.exchange.clone(),
        routing_key: delivery.routing_key.clone(),
        redelivered: false,
        message_id: delivery.message_id.clone(),
        event_type: delivery.event_type.clone(),
        headers: delivery.headers.clone(),
        properties: delivery.properties.clone(),
        body: body.to_string().into_bytes(),
    }
}

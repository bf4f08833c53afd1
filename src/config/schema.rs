//! The configuration as JSON Schema, for editors: `pgsluice config schema`.
//!
//! Draft 2020-12, of what `reference` says. It is about the file: no key is required that a variable of the environment may
//! give, and a number is a number, where a variable's is text.

use serde_json::{Map, Value, json};

use super::pipelines::OF_PROCESS;
use super::reference::{Default, Key, LISTS, Takes, keys};

/// The document.
#[must_use]
pub fn schema() -> Value {
    let mut root = section("");
    let head = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pgsluice",
        "description": "The configuration of pgsluice, as TOML",
    });
    if let (Some(root), Value::Object(head)) = (root.as_object_mut(), head) {
        root.extend(head);
    }
    root["properties"]["pipelines"] = pipelines(&root);
    root
}

/// Each as a whole configuration is, but for what is of the process.
fn pipelines(root: &Value) -> Value {
    let mut properties = root["properties"].as_object().cloned().unwrap_or_default();
    properties.retain(|name, _| !OF_PROCESS.contains(&name.as_str()));
    let items = json!({
        "type": "object", "properties": properties, "additionalProperties": false, "required": ["name"],
    });
    let description =
        "Several pipelines in one process, each laid over the top level, which holds what they have in common.";
    json!({"type": "array", "items": items, "minItems": 1, "description": description})
}

/// What is directly below `prefix`: empty, or `section.`
fn section(prefix: &str) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for key in keys() {
        let Some(rest) = key.key.strip_prefix(prefix) else { continue };
        if let Some((name, _)) = rest.split_once('.') {
            if !properties.contains_key(name) {
                properties.insert(name.to_owned(), named_section(&format!("{prefix}{name}")));
            }
            continue;
        }
        if key.default == Default::Required && LISTS.contains(&prefix.trim_end_matches('.')) {
            required.push(rest);
        }
        properties.insert(rest.to_owned(), property(key));
    }
    let mut object = json!({"type": "object", "properties": properties, "additionalProperties": false});
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    object
}

fn named_section(key: &str) -> Value {
    let section = section(&format!("{key}."));
    if LISTS.contains(&key) { json!({"anyOf": [section, {"type": "array", "items": section}]}) } else { section }
}

fn property(key: &Key) -> Value {
    let mut property = match &key.takes {
        Takes::Text => json!({"type": "string"}),
        Takes::Integer { min, max } => json!({"type": "integer", "minimum": min, "maximum": max}),
        Takes::Flag => json!({"type": "boolean"}),
        Takes::OneOf { words, or_plugin: false, or_list: false } => json!({"enum": words}),
        Takes::OneOf { words, or_plugin: true, .. } => {
            json!({"anyOf": [{"enum": words}, {"type": "string", "pattern": "^x-"}]})
        }
        // Of one text, with commas between, only that it is one.
        Takes::OneOf { words, or_list: true, .. } => {
            json!({"anyOf": [{"enum": words}, {"type": "array", "items": {"enum": words}}, {"type": "string", "pattern": ","}]})
        }
        Takes::Texts => json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
        Takes::TableOfTexts => json!({"type": "object", "additionalProperties": {"type": "string"}}),
        Takes::Table => json!({"type": "object"}),
    };
    property["description"] = Value::from(key.meaning.as_str());
    if let Default::Value(value) = &key.default {
        // A condition's is the text `true`.
        let is_text = key.takes == Takes::Text && value.is_boolean();
        property["default"] = if is_text { value.to_string().into() } else { value.clone() };
    }
    property
}

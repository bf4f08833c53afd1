//! One kind of event, as the document describes it; and the few words of JSON Schema that all of them need.

use serde_json::{Map, Value, json};

/// A kind of event: what a consumer would write a handler for.
#[derive(Debug, Clone)]
pub struct Event {
    /// Names it, in this document and in the next one: `public.orders.insert`.
    pub name: String,
    /// One sentence.
    pub summary: String,
    /// What the table's owner says of it.
    pub description: Option<String>,
    /// Where to.
    pub exchange: Address,
    /// With which routing key.
    pub routing_key: Address,
    /// MIME type of the body; none where each row says it itself.
    pub content_type: Option<String>,
    /// The format of the body: `plain`, …
    pub format: &'static str,
    /// The body.
    pub payload: Value,
    /// The AMQP headers.
    pub headers: Value,
    /// The other AMQP properties.
    pub properties: Value,
    /// Of the table, as in its events.
    pub schema_version: Option<String>,
}

/// A text with `{parameters}`: the name of an exchange, or a routing key.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// With braces around the parameters' names.
    pub text: String,
    /// What is between them, in order.
    pub parameters: Vec<Parameter>,
}

/// What differs from one event to the next.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Parameter {
    /// Of letters, digits, `-` and `_`, as `AsyncAPI` wants it.
    pub name: String,
    /// Where it comes from.
    pub description: String,
    /// All values that it can have, where they are known.
    pub values: Vec<String>,
}

impl Address {
    /// Without parameters.
    #[must_use]
    pub fn fixed(text: &str) -> Self {
        Self { text: text.to_owned(), parameters: Vec::new() }
    }
}

/// What `AsyncAPI` allows as a key: everything else becomes `_`.
fn key(name: &str) -> String {
    let allowed = |it: char| it.is_ascii_alphanumeric() || matches!(it, '.' | '_' | '-');
    name.chars().map(|it| if allowed(it) { it } else { '_' }).collect()
}

/// The key for a name, with a number if another name has it already: names may differ in what a key can't have.
pub(super) fn free_key(name: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let plain = key(name);
    let numbered = (2_u32..).map(|number| format!("{plain}-{number}"));
    let free = std::iter::once(plain.clone()).chain(numbered).find(|key| !is_taken(key));
    free.unwrap_or(plain)
}

/// An object: fields with their schemas, and whether they are always there. Others may join later.
pub(super) fn object<N: Into<String>>(fields: impl IntoIterator<Item = (N, Value, Presence)>) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for (name, schema, presence) in fields {
        let name = name.into();
        if presence == Presence::Always {
            required.push(Value::from(name.as_str()));
        }
        properties.insert(name, schema);
    }
    json!({"type": "object", "properties": properties, "required": required})
}

/// Whether a field is always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    Always,
    Sometimes,
}

impl Presence {
    pub(super) fn always_if(always: bool) -> Self {
        if always { Self::Always } else { Self::Sometimes }
    }
}

/// The schema of anything.
pub(super) fn nothing() -> &'static Value {
    &Value::Bool(true)
}

pub(super) fn constant(value: impl Into<Value>) -> Value {
    json!({"const": value.into()})
}

pub(super) fn text() -> Value {
    json!({"type": "string"})
}

pub(super) fn boolean() -> Value {
    json!({"type": "boolean"})
}

pub(super) fn pattern(pattern: &str) -> Value {
    json!({"type": "string", "pattern": pattern})
}

pub(super) fn integer(minimum: u64) -> Value {
    json!({"type": "integer", "minimum": minimum})
}

/// As an `Lsn` is written.
pub(super) const LSN: &str = "[0-9A-F]{1,8}/[0-9A-F]{1,8}";

/// Commit time, in the body.
pub(super) fn committed_at() -> Value {
    json!({"type": "string", "format": "date-time", "pattern": r"^\d{4,6}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z$"})
}

/// The schema with what it is, for a person.
pub(super) fn described(mut schema: Value, description: Option<&str>) -> Value {
    let Some(description) = description else { return schema };
    // In this dialect, nothing counts beside a reference.
    if schema.get("$ref").is_some() {
        schema = json!({"allOf": [schema]});
    }
    schema["description"] = description.into();
    schema
}

/// The schema, or null.
pub(super) fn nullable(mut schema: Value) -> Value {
    let Some(fields) = schema.as_object_mut() else { return schema };
    if fields.is_empty() {
        // Anything is null, too.
        return schema;
    }
    match fields.get_mut("type") {
        Some(Value::String(one)) => {
            let one = std::mem::take(one);
            fields.insert("type".to_owned(), json!([one, "null"]));
            schema
        }
        Some(Value::Array(several)) => {
            several.push("null".into());
            schema
        }
        Some(_) => schema,
        None => match fields.get_mut("anyOf").and_then(Value::as_array_mut) {
            Some(choices) => {
                choices.push(json!({"type": "null"}));
                schema
            }
            None => json!({"anyOf": [schema, {"type": "null"}]}),
        },
    }
}

/// A variable of a template as `AsyncAPI` wants the name of a parameter.
pub(super) fn parameter_name(variable: &str) -> String {
    let allowed = |it: char| it.is_ascii_alphanumeric() || matches!(it, '_' | '-');
    variable.chars().map(|it| if allowed(it) { it } else { '_' }).collect()
}

/// Headers that say where an event stands in the stream, as far as they are there.
pub(super) fn position_headers(presence: Presence) -> Vec<(String, Value, Presence)> {
    let headers = [
        ("position", described(pattern(&format!("^{LSN}:[0-9]+$")), Some("{commit_lsn}:{ordinal}"))),
        ("committed_at_us", described(json!({"type": "integer"}), Some("commit time, microseconds since 1970"))),
        ("transaction_id", described(pattern(&format!("^{LSN}$")), Some("the LSN of the transaction's commit"))),
        ("transaction_number", described(integer(1), Some("the event's number in its transaction"))),
        ("transaction_last", described(boolean(), Some("whether it is the last of its transaction"))),
    ];
    let headers = headers.into_iter().map(|(name, schema)| (name.to_owned(), schema, presence));
    let replayed = "only when it is sent again by pgsluice replay: when that began, microseconds since 1970";
    let replayed = described(json!({"type": "integer"}), Some(replayed));
    headers.chain([("replayed_at_us".to_owned(), replayed, Presence::Sometimes)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_joins_whatever_the_schema_says() {
        let reference = json!({"$ref": "#/x"});
        for (schema, expected) in [
            (json!({}), json!({})),
            (json!({"type": "string"}), json!({"type": ["string", "null"]})),
            (json!({"type": ["number", "string"]}), json!({"type": ["number", "string", "null"]})),
            (json!({"anyOf": [{}]}), json!({"anyOf": [{}, {"type": "null"}]})),
            (reference.clone(), json!({"anyOf": [reference, {"type": "null"}]})),
        ] {
            assert_eq!(nullable(schema.clone()), expected, "{schema}");
        }
    }

    #[test]
    fn names_that_a_key_can_not_have_are_told_apart() {
        assert_eq!(free_key("public.a b", |_| false), "public.a_b");
        let taken = ["public.a_b", "public.a_b-2"];
        assert_eq!(free_key("public.a\"b", |key| taken.contains(&key)), "public.a_b-3");
    }
}

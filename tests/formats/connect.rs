//! What Kafka Connect's JSON converter would refuse: a payload that is not what its schema says.

use base64::Engine as _;
use serde_json::Value;

/// Checks a payload against its schema, to the last field.
pub(crate) fn check(schema: &Value, value: &Value) -> Result<(), String> {
    let wrong = || Err(format!("{value} is no {schema}"));
    if value.is_null() {
        return if schema["optional"] == true { Ok(()) } else { wrong() };
    }
    let integer = |bits: u32| value.as_i64().is_some_and(|number| number >> (bits - 1) == number >> 63);
    let text = value.as_str();
    let fits = match schema["type"].as_str().expect("a type") {
        "boolean" => value.is_boolean(),
        "int16" => integer(16),
        "int32" => integer(32),
        "int64" => integer(64),
        "float" | "double" => value.is_number() || matches!(text, Some("NaN" | "Infinity" | "-Infinity")),
        "string" => text.is_some(),
        "bytes" => text.is_some_and(|text| base64::engine::general_purpose::STANDARD.decode(text).is_ok()),
        "array" => {
            return value
                .as_array()
                .map_or_else(wrong, |items| items.iter().try_for_each(|item| check(&schema["items"], item)));
        }
        "struct" => return structure(schema, value),
        other => return Err(format!("no type: {other}")),
    };
    if fits { Ok(()) } else { wrong() }
}

fn structure(schema: &Value, value: &Value) -> Result<(), String> {
    let (Some(fields), Some(values)) = (schema["fields"].as_array(), value.as_object()) else {
        return Err(format!("{value} is no structure"));
    };
    for field in fields {
        let name = field["field"].as_str().expect("a name");
        check(field, values.get(name).unwrap_or(&Value::Null)).map_err(|error| format!("{name}: {error}"))?;
    }
    let known = |name: &str| fields.iter().any(|field| field["field"] == name);
    match values.keys().find(|name| !known(name)) {
        Some(unknown) => Err(format!("{unknown} is in no schema")),
        None => Ok(()),
    }
}

#[test]
fn what_a_schema_does_not_say_is_refused() {
    let schema: Value = serde_json::from_str(
        r#"{"type":"struct","optional":false,"fields":[{"type":"int16","optional":false,"field":"a"},
            {"type":"array","items":{"type":"bytes","optional":true},"optional":true,"field":"b"}]}"#,
    )
    .expect("JSON");
    for (value, fits) in [
        (r#"{"a":1}"#, true),
        (r#"{"a":-32768,"b":["AP8=",null]}"#, true),
        (r#"{"a":32768}"#, false),
        (r#"{"b":null}"#, false),
        (r#"{"a":1,"b":["?"]}"#, false),
        (r#"{"a":1,"c":1}"#, false),
        ("null", false),
    ] {
        let value = serde_json::from_str(value).expect("JSON");
        assert_eq!(check(&schema, &value).is_ok(), fits, "{value}");
    }
}

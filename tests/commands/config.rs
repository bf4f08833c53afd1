//! `pgsluice config`: what holds and where it came from, and the JSON Schema.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{done, refused, run};
use crate::support::{folder, pgsluice_command};

const SECRET: &str = "hunter2hunter2";

fn file(text: &str) -> PathBuf {
    let file = folder("config").join("shop.toml");
    std::fs::write(&file, text).expect("write the configuration");
    file
}

async fn schema() -> Value {
    serde_json::from_str(&done(run(&["config", "schema"])).await).expect("JSON")
}

/// A TOML text as JSON.
fn toml(text: &str) -> Value {
    let table: toml::Table = toml::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    serde_json::to_value(table).expect("JSON")
}

#[tokio::test]
async fn what_holds_is_shown_with_where_it_came_from_and_no_secret() {
    let file = file(&format!(
        "name = \"shop\"\n[source]\nurl = \"postgres://app:{SECRET}@db1/shop\"\ntables = [\"public.*\"]\n\
         [[outbox]]\ntable = \"public.outbox\"\n[hash]\nkey = \"{SECRET}{SECRET}\"\n\
         [rabbitmq]\nurl = \"amqp://app@mq1\"\nlanes = 2\n"
    ));
    let path = file.to_str().expect("text");
    let environment = [("PGSLUICE__RABBITMQ__PASSWORD", SECRET), ("PGSLUICE__RABBITMQ__LANES", "4")];
    let text = done(pgsluice_command(&["config", "show", "--config", path], &environment)).await;
    let all = done(pgsluice_command(&["config", "show", "--json", "--config", path], &environment)).await;
    assert!(!text.contains(SECRET) && !all.contains(SECRET), "{text}");
    let all: Vec<Value> = serde_json::from_str(&all).expect("JSON");
    let of = |key: &str| {
        let entry = all.iter().find(|entry| entry["key"] == key).unwrap_or_else(|| panic!("{key}"));
        (entry["value"].clone(), entry["origin"].as_str().expect("an origin").to_owned(), entry["place"].clone())
    };
    let environment = |key: &str, variable: &str, value: Value| {
        assert_eq!(of(key), (value, "environment".to_owned(), Value::from(variable)), "{key}");
    };
    environment("rabbitmq.password", "PGSLUICE__RABBITMQ__PASSWORD", "***".into());
    environment("rabbitmq.lanes", "PGSLUICE__RABBITMQ__LANES", 4.into());
    let written = |key: &str, line: u32, value: Value| {
        assert_eq!(of(key), (value, "file".to_owned(), format!("{path}:{line}").into()), "{key}");
    };
    written("source.url", 3, "postgres://app:***@db1/shop".into());
    written("source.tables", 4, json!(["public.*"]));
    written("outbox[0].table", 6, "public.outbox".into());
    written("hash.key", 8, "***".into());
    let default = |key: &str, value: Value| assert_eq!(of(key), (value, "default".to_owned(), Value::Null), "{key}");
    default("changes.exchange", "shop.changes".into());
    default("source.slot", "shop".into());
    default("outbox[0].columns.id", "id".into());
    default("checkpoint.interval_ms", 200.into());
    default("source.password", Value::Null);
    assert!(
        !all.iter().any(|entry| entry["key"].as_str().is_some_and(|key| key.starts_with("events"))),
        "no such section"
    );
    // It is TOML, which says the same.
    let shown = toml(&text);
    assert_eq!(
        shown["outbox"],
        json!([{"table": "public.outbox", "columns": {}, "properties": {}, "route": {}, "cleanup": {}}])
    );
    assert_eq!(shown["rabbitmq"]["lanes"], 4);
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_is_not_shown() {
    let file = file("name = \"shop\"\nnmae = 1\n");
    let error = refused(run(&["config", "show", "--config", file.to_str().expect("text")]), 2).await;
    assert!(error.contains("nmae is unknown"), "{error}");
}

#[tokio::test]
async fn the_schema_takes_every_example_and_refuses_every_wrong_key() {
    let schema = schema().await;
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let check = |what: &str, text: &str| {
        let errors: Vec<String> =
            validator.iter_errors(&toml(text)).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{what}: {errors:?}\n{text}");
    };
    for example in ["config/minimal.toml", "config/pgsluice.toml", "config/pipelines.toml"] {
        let text = std::fs::read_to_string(example).expect("the example");
        check(example, &text);
        let uncomment = |line: &str| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(char::is_whitespace) => rest.to_owned(),
            _ => line.to_owned(),
        };
        let whole: Vec<String> = text.lines().map(uncomment).collect();
        check(example, &whole.join("\n"));
    }
    let mut examples = 0;
    for page in std::fs::read_dir("docs").expect("the pages").map(|entry| entry.expect("a page").path()) {
        let Ok(text) = std::fs::read_to_string(&page) else { continue };
        for block in text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            check(&page.display().to_string(), block);
            examples += 1;
        }
    }
    assert!(examples > 5, "{examples}");

    let mut refused = 0;
    each_section(&schema, &mut Vec::new(), &mut |path, section| {
        let at = |key: &str, value: Value| {
            path.iter().rev().fold(json!({key: value}), |value, (name, is_list)| {
                let mut object = value;
                if let Some(required) = section["required"].as_array().filter(|_| object.get(key).is_some()) {
                    for name in required.iter().filter_map(Value::as_str).filter(|name| *name != key) {
                        object[name] = json!("x");
                    }
                }
                if *is_list { json!({name: [object]}) } else { json!({name: object}) }
            })
        };
        assert!(!validator.is_valid(&at("no_such_key", json!(1))), "{path:?}");
        for (key, property) in section["properties"].as_object().expect("properties") {
            if property.get("properties").is_some() || property["anyOf"][0].get("properties").is_some() {
                continue;
            }
            assert!(!validator.is_valid(&at(key, json!(1.5))), "{path:?} {key} is no fraction");
            if let (Some(min), Some(max)) = (property["minimum"].as_i64(), property["maximum"].as_i64()) {
                for (value, fits) in [(min, true), (max, true), (min - 1, false), (max + 1, false)] {
                    assert_eq!(validator.is_valid(&at(key, json!(value))), fits, "{path:?} {key} {value}");
                }
            }
            refused += 1;
        }
    });
    assert!(refused > 100, "{refused}");
}

type Visit<'v> = dyn FnMut(&[(String, bool)], &Value) + 'v;

/// Calls `visit` with each section's path (its names, and whether each is a list) and its schema.
fn each_section(section: &Value, path: &mut Vec<(String, bool)>, visit: &mut Visit<'_>) {
    visit(path, section);
    for (name, property) in section["properties"].as_object().expect("properties") {
        let is_list = property["anyOf"][1]["items"].get("properties").is_some();
        let inner = if is_list { &property["anyOf"][0] } else { property };
        if inner.get("properties").is_some() {
            path.push((name.clone(), is_list));
            each_section(inner, path, visit);
            path.pop();
        }
    }
}

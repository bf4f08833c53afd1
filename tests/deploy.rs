//! The files in deploy/: that they are what their readers take (systemd, Docker, Compose, Kubernetes, Prometheus, Grafana), and
//! that all they name of pgsluice is there.

mod container;
mod kubernetes;
mod monitoring;
mod systemd;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{done, folder, pgsluice_command};

/// Where the container listens, and what is scraped.
const PORT: u64 = 9187;
/// A stop takes so long at most: the default of `shutdown_timeout_ms`, and what ends after it.
const STOP_MAX_SECONDS: u64 = 30 + 12;

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All documents of a YAML file.
fn yaml(path: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The text at this place.
fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no text at {pointer}: {value}"))
}

/// The strings of a list.
fn texts(value: &Value) -> Vec<&str> {
    value.as_array().expect("a list").iter().map(|item| item.as_str().expect("text")).collect()
}

/// Panics unless the document is as the schema says.
fn valid(document: &Value, schema: &Value, what: &str) {
    let schema = jsonschema::options().with_draft(jsonschema::Draft::Draft7).build(schema).expect("a schema");
    let errors: Vec<String> =
        schema.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{what}: {errors:#?}");
}

/// Runs a program that `scripts/lib/install` has installed.
fn program(name: &str, arguments: &[&str]) -> Output {
    let ran = Command::new(name).args(arguments).output();
    ran.unwrap_or_else(|error| panic!("{name}: {error} (scripts/lib/install {name})"))
}

/// What the program wrote, once it has ended well.
fn ran(name: &str, arguments: &[&str]) -> String {
    let output = program(name, arguments);
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} {arguments:?}: {text}");
    text
}

/// A configuration as a file.
fn config(toml: &str) -> PathBuf {
    let path = folder("deploy").join("pgsluice.toml");
    std::fs::write(&path, toml).expect("write the configuration");
    path
}

/// What holds for each key: `pgsluice config show`, which refuses what `pgsluice run` would.
async fn shown(path: &Path, environment: &[(&str, &str)]) -> Vec<Value> {
    let path = path.to_str().expect("text");
    let shown = done(pgsluice_command(&["config", "show", "--json", "--config", path], environment)).await;
    serde_json::from_str(&shown).expect("JSON")
}

/// The value of one key.
fn holds<'a>(shown: &'a [Value], key: &str) -> &'a Value {
    &shown.iter().find(|entry| entry["key"] == key).unwrap_or_else(|| panic!("no {key}"))["value"]
}

/// Every file that the page links to is there.
#[test]
fn the_page_names_files_that_are_there() {
    let page = read("docs/deployment.md");
    let links: Vec<&str> = page.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()).collect();
    assert!(links.iter().filter(|link| link.starts_with("../deploy")).count() > 5, "{links:?}");
    for link in links.into_iter().filter(|link| !link.is_empty()) {
        assert!(Path::new("docs").join(link).exists(), "{link}");
    }
}

//! The configuration as it holds, and where each value came from: `pgsluice config show`.
//!
//! Invariant: no secret comes out of here. Passwords and keys are replaced as a whole, those within a URL where they are.

use std::path::Path;

use serde_json::json;
use toml::{Table, Value};

use super::layers::{self, Origin, Origins};
use super::pipelines::{self, OF_PROCESS};
use super::reference::{Default, Key, LISTS, Takes, keys};
use super::secrets::{self, REDACTED};
use crate::failure::Definite;

/// One key, or the head of one section of a list.
#[derive(Debug)]
pub enum Line {
    /// `[section]`, or `[[section]]`.
    Section {
        /// Without brackets.
        name: String,
        /// One of several.
        of_list: bool,
    },
    /// A key with what holds for it.
    Entry(Entry),
}

/// A key with what holds for it.
#[derive(Debug)]
pub struct Entry {
    /// In full, as in `outbox[0].table`.
    pub key: String,
    /// What holds, as TOML; none when it is said in words.
    value: Option<Value>,
    /// What holds where there is no value.
    words: String,
    /// Where it came from; none: the default.
    origin: Option<Origin>,
}

/// Reads the file and the environment, as [`super::load_all`], and says what holds: of all pipelines, or only of the one with
/// that name.
///
/// # Errors
/// As [`super::load_all`]: what can't be used is not shown. There is no such pipeline.
pub fn effective(file: &Path, pipeline: Option<&str>) -> Result<Vec<Line>, Definite> {
    let laid = pipelines::lay(layers::layered(file, &layers::text_of(file)?, std::env::vars_os())?)?;
    let all = pipelines::settings(&laid)?;
    let shown = all.clone().only(pipeline)?;
    let mut lines = Vec::new();
    if laid.is_list {
        let (table, origins) = &laid.top;
        let mut show = Show { origins, name: "", at: None, lines: Vec::new() };
        show.of_process(table);
        lines.append(&mut show.lines);
    }
    for ((index, settings), (table, origins)) in all.all().iter().enumerate().zip(&laid.each) {
        if !shown.all().iter().any(|shown| shown.name == settings.name) {
            continue;
        }
        let at = laid.is_list.then(|| format!("pipelines[{index}]"));
        let mut show = Show { origins, name: &settings.name, at, lines: Vec::new() };
        if laid.is_list {
            show.lines.push(Line::Section { name: "pipelines".to_owned(), of_list: true });
        }
        show.section("", "", table);
        lines.append(&mut show.lines);
    }
    Ok(lines)
}

struct Show<'a> {
    origins: &'a Origins,
    name: &'a str,
    /// Which pipeline of several, as in `pipelines[1]`.
    at: Option<String>,
    lines: Vec<Line>,
}

impl Show<'_> {
    /// The sections that no pipeline of several has.
    fn of_process(&mut self, written: &Table) {
        for section in OF_PROCESS {
            match written.get(section) {
                Some(Value::Table(table)) => self.begin(section, section, false, table),
                Some(_) | None => self.begin(section, section, false, &Table::new()),
            }
        }
    }

    /// `section`: without positions, as in `outbox.columns`; `at`: with them.
    fn section(&mut self, section: &str, at: &str, written: &Table) {
        let prefix = if section.is_empty() { String::new() } else { format!("{section}.") };
        let below = || keys().iter().filter_map(|key| Some((key, key.key.strip_prefix(&prefix)?)));
        for (key, name) in below().filter(|(_, name)| !name.contains('.')) {
            let at = if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
            self.entry(key, &at, written.get(name));
        }
        let mut seen = "";
        for (_, name) in below() {
            let Some((name, _)) = name.split_once('.').filter(|(name, _)| *name != seen) else { continue };
            seen = name;
            let section = format!("{prefix}{name}");
            if self.at.is_some() && OF_PROCESS.contains(&section.as_str()) {
                continue;
            }
            let at = if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
            match written.get(name) {
                None if LISTS.contains(&section.as_str()) => {}
                None => self.begin(&section, &at, false, &Table::new()),
                Some(Value::Table(table)) => self.begin(&section, &at, false, table),
                Some(Value::Array(items)) => {
                    for (index, item) in items.iter().filter_map(Value::as_table).enumerate() {
                        self.begin(&section, &format!("{at}[{index}]"), true, item);
                    }
                }
                Some(_) => {}
            }
        }
    }

    fn begin(&mut self, section: &str, at: &str, of_list: bool, written: &Table) {
        let name = if self.at.is_some() { format!("pipelines.{section}") } else { section.to_owned() };
        self.lines.push(Line::Section { name, of_list });
        self.section(section, at, written);
    }

    fn entry(&mut self, key: &Key, at: &str, written: Option<&Value>) {
        let (value, words) = match (written, &key.default) {
            (Some(value), _) => (Some(typed(key, redacted(key.key, value))), String::new()),
            (None, Default::Value(value)) => (Some(self.default(key, value)), String::new()),
            (None, Default::Words(words)) if words == "name" => {
                (Some(Value::String(self.name.to_owned())), String::new())
            }
            (None, Default::Words(words)) => (None, words.clone()),
            (None, Default::None | Default::Required) => (None, "none".to_owned()),
        };
        let origin = written.map(|_| self.origins.of(at));
        let key = self.at.as_ref().map_or_else(|| at.to_owned(), |pipeline| format!("{pipeline}.{at}"));
        self.lines.push(Line::Entry(Entry { key, value, words, origin }));
    }

    fn default(&self, key: &Key, value: &serde_json::Value) -> Value {
        match value {
            serde_json::Value::Number(number) => Value::Integer(number.as_i64().unwrap_or_default()),
            serde_json::Value::Bool(value) if key.takes == Takes::Flag => Value::Boolean(*value),
            serde_json::Value::String(text) => Value::String(text.replace("{name}", self.name)),
            serde_json::Value::Array(items) => {
                Value::Array(items.iter().filter_map(|item| Some(Value::String(item.as_str()?.to_owned()))).collect())
            }
            other => Value::String(other.to_string()),
        }
    }
}

/// A variable is text; where that stands for a number or a flag it is shown as one.
fn typed(key: &Key, value: Value) -> Value {
    match (&key.takes, &value) {
        (Takes::Integer { .. }, Value::String(text)) => text.trim().parse().map_or(value, Value::Integer),
        (Takes::Flag, Value::String(text)) => text.trim().parse().map_or(value, Value::Boolean),
        _ => value,
    }
}

fn redacted(key: &str, value: &Value) -> Value {
    match value {
        _ if is_secret(key) => Value::String(REDACTED.to_owned()),
        Value::String(text) if key.ends_with("url") => Value::String(secrets::redacted(text)),
        other => other.clone(),
    }
}

fn is_secret(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key);
    ["hash.key", "otlp.headers"].contains(&key)
        || ["password", "token", "secret", "passphrase"].contains(&name)
        || name.ends_with("_token")
}

impl Line {
    /// As a line of TOML with its origin as a comment; what is not set is a comment as a whole.
    #[must_use]
    pub fn toml(&self) -> String {
        match self {
            Self::Section { name, of_list: false } => format!("\n[{name}]"),
            Self::Section { name, of_list: true } => format!("\n[[{name}]]"),
            Self::Entry(entry) => {
                let name = entry.key.rsplit('.').next().unwrap_or_default();
                let assignment = match &entry.value {
                    Some(value) => format!("{name} = {value}"),
                    None => format!("{name}: {}", entry.words),
                };
                match &entry.origin {
                    Some(origin) => format!("{assignment:<40} # {origin}"),
                    None => format!("#{assignment:<39} # default"),
                }
            }
        }
    }

    /// As a JSON object; sections are none, their keys are given in full.
    #[must_use]
    pub fn json(&self) -> Option<serde_json::Value> {
        let Self::Entry(Entry { key, value, words, origin }) = self else { return None };
        let default = value.is_none().then_some(words).filter(|words| *words != "none");
        Some(json!({
            "key": key,
            "value": value,
            "words": default,
            "origin": origin.as_ref().map_or("default", Origin::kind),
            "place": origin.as_ref().map(ToString::to_string),
        }))
    }
}

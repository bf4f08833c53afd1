//! What there is to be configured: the tables of `docs/configuration.md`, which tests hold against the code, read as data.
//!
//! So that the page, the JSON Schema and `pgsluice config show` can't say different things. What a key takes is read from
//! the words of its second column; `schema` and `effective` use it.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

const PAGE: &str = include_str!("../../docs/configuration.md");

/// Sections of which there may be several: `[x]`, or `[[x]]`. `written` has them as lists (a test compares the two).
pub(super) const LISTS: [&str; 6] =
    ["source.filters", "outbox", "events", "rabbitmq.exchanges", "rabbitmq.queues", "rabbitmq.bindings"];

/// One row of the page's tables.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// As in `source.report_every_ms`.
    pub key: &'static str,
    /// What it takes.
    pub takes: Takes,
    /// What holds when it is not written.
    pub default: Default,
    /// In one or two sentences of Markdown.
    pub meaning: String,
}

/// What a key takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Takes {
    /// Any text; what is good text only its reader knows.
    Text,
    /// A whole number, both ends included.
    Integer {
        /// The least.
        min: i64,
        /// The greatest.
        max: i64,
    },
    /// true or false.
    Flag,
    /// One of these.
    OneOf {
        /// As they are written.
        words: Vec<&'static str>,
        /// Or a word that begins with `x-`.
        or_plugin: bool,
        /// Or several of them, in a list.
        or_list: bool,
    },
    /// A list of texts; or one text, with commas between them.
    Texts,
    /// A table of texts.
    TableOfTexts,
    /// A table of anything.
    Table,
}

/// What holds when a key is not written.
#[derive(Debug, Clone, PartialEq)]
pub enum Default {
    /// The key must be written wherever its section is.
    Required,
    /// Nothing.
    None,
    /// This. Text may have `{name}` in it.
    Value(Value),
    /// Something that depends on others, in words.
    Words(String),
}

/// All of them, in the order of the page.
#[must_use]
pub fn keys() -> &'static [Key] {
    static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
        let rows: Vec<[&str; 4]> = PAGE.lines().filter_map(row).collect();
        let is_key = |text: &str| rows.iter().any(|row| row[0] == text);
        let key = |[key, takes, default, meaning]: &[&'static str; 4]| Key {
            key,
            takes: self::takes(takes),
            default: self::default(default, &is_key),
            meaning: without_links(meaning),
        };
        rows.iter().map(key).collect()
    });
    &KEYS
}

/// `| `key` | what it takes | default | meaning |`; flags have tables of their own.
fn row(line: &'static str) -> Option<[&'static str; 4]> {
    let (key, rest) = line.strip_prefix("| `")?.split_once("` |")?;
    let mut cells = rest.trim_end().trim_end_matches('|').splitn(3, " | ").map(str::trim);
    let cells = [key, cells.next()?, cells.next()?, cells.next()?];
    (!key.starts_with('-')).then_some(cells)
}

fn takes(cell: &'static str) -> Takes {
    static RANGE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r", (\d+) to (\d+)$").expect("is valid"));
    if let Some(range) = RANGE.captures(cell) {
        let end = |group: usize| range[group].parse().unwrap_or(i64::MAX);
        return Takes::Integer { min: end(1), max: end(2) };
    }
    if cell == "true or false" || cell == "boolean" {
        return Takes::Flag;
    }
    if cell.starts_with("table: ") {
        return if cell.ends_with("= value") { Takes::Table } else { Takes::TableOfTexts };
    }
    let words: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
    // Nothing else than words, and what joins them.
    let joins = cell.split('`').step_by(2).all(|between| matches!(between, "" | ", " | ", or a list"));
    if words.len() > 1 && joins {
        let or_plugin = words.contains(&"x-…");
        let words = words.into_iter().filter(|word| *word != "x-…").collect();
        return Takes::OneOf { words, or_plugin, or_list: cell.ends_with("or a list") };
    }
    if cell.starts_with("list") || cell.contains("or list of") { Takes::Texts } else { Takes::Text }
}

fn default(cell: &str, is_key: &dyn Fn(&str) -> bool) -> Default {
    if cell.starts_with("required") {
        return Default::Required;
    }
    if cell == "none" {
        return Default::None;
    }
    if let Ok(value @ (Value::Number(_) | Value::Bool(_))) = serde_json::from_str(cell) {
        return Default::Value(value);
    }
    let quoted = cell.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')).filter(|text| !text.contains('`'));
    match quoted {
        Some(text) if !is_key(text) => Default::Value(serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))),
        Some(_) | None => Default::Words(cell.replace('`', "")),
    }
}

/// `[text](address)` → `text`
fn without_links(text: &str) -> String {
    static LINK: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\[([^\]]*)\]\([^)]*\)").expect("is valid"));
    LINK.replace_all(text, "$1").into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> &'static Key {
        keys().iter().find(|key| key.key == name).expect("a key")
    }

    #[test]
    fn the_page_is_read_as_it_is_meant() {
        assert_eq!(key("shutdown_timeout_ms").takes, Takes::Integer { min: 1, max: 86_400_000 });
        assert_eq!(key("shutdown_timeout_ms").default, Default::Value(30_000.into()));
        assert_eq!(key("fail_fast").takes, Takes::Flag);
        assert_eq!(key("outbox.expand_json_payload").takes, Takes::Flag);
        assert_eq!(key("source.slot").takes, Takes::Text);
        assert_eq!(key("source.slot").default, Default::Words("name".to_owned()), "the value of that key");
        assert_eq!(key("outbox.columns.type").default, Default::Value("type".into()), "this word");
        assert_eq!(key("changes.exchange").default, Default::Value("{name}.changes".into()));
        assert_eq!(key("events.data").default, Default::Value(serde_json::json!(["*"])));
        assert_eq!(key("events.when").default, Default::Value(true.into()));
        assert_eq!(key("rabbitmq.exchanges.name").default, Default::Required);
        for list in ["source.tables", "events.table", "events.data", "events.hash", "messages.prefixes"] {
            assert_eq!(key(list).takes, Takes::Texts, "{list}");
        }
        for table in ["outbox.headers", "events.compute", "events.mask"] {
            assert_eq!(key(table).takes, Takes::TableOfTexts, "{table}");
        }
        assert_eq!(key("rabbitmq.queues.arguments").takes, Takes::Table);
        let topic =
            Takes::OneOf { words: vec!["topic", "direct", "fanout", "headers"], or_plugin: true, or_list: false };
        assert_eq!(key("rabbitmq.exchange_type").takes, topic);
        let on =
            Takes::OneOf { words: vec!["insert", "update", "delete", "truncate"], or_plugin: false, or_list: true };
        assert_eq!(key("events.on").takes, on);
        assert!(!keys().iter().any(|key| key.meaning.contains("](")), "links lead nowhere outside of the page");
    }
}

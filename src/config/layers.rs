//! File and environment, laid over each other and read as one; and where each value came from.
//!
//! The `config` crate lays them over each other. The environment's values go in as text and are never guessed at
//! (`written` reads numbers from text where a number is wanted). What comes out is read as a TOML table by one
//! strict pass of serde, because `config`'s own reading takes `1.5` for 2 and its errors quote values;
//! `Origins` gives each error the file's line or the variable. Values are never quoted from text that may
//! be a secret. `resolve` takes over from here.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::pipelines::OF_PROCESS;
use super::written::Written;
use crate::failure::{Definite, Kind};

/// What the variables of the configuration start with.
pub const VARIABLE_PREFIX: &str = "PGSLUICE__";

/// Everything that was written, and where.
pub(super) struct Layers {
    pub(super) written: Written,
    pub(super) origins: Origins,
}

/// Where each key's value came from.
#[derive(Clone)]
pub(super) struct Origins {
    file: PathBuf,
    /// Full key → line in the file, from 1.
    lines: BTreeMap<String, usize>,
    /// Full key → the variable that overrides it.
    variables: BTreeMap<String, String>,
    /// Of one pipeline of several: which of it are its own.
    own: Option<Own>,
}

/// What one pipeline of several does not have from the top level.
#[derive(Clone)]
struct Own {
    /// As in `pipelines[1]`.
    at: String,
    keys: BTreeSet<String>,
}

/// A variable about one pipeline of several.
pub(super) struct OfPipeline {
    /// In full.
    pub(super) name: String,
    pub(super) value: String,
}

/// All layers as one table that nobody has looked at yet.
pub(super) struct Layered {
    pub(super) table: Table,
    pub(super) origins: Origins,
    /// What is in no table yet.
    pub(super) of_pipelines: Vec<OfPipeline>,
}

/// Where one value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// File and line.
    File(String),
    /// A variable.
    Environment(String),
}

impl Origin {
    /// As a word.
    #[must_use]
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Environment(_) => "environment",
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(place) => f.write_str(place),
            Self::Environment(variable) => f.write_str(variable),
        }
    }
}

/// The file.
pub(super) fn text_of(file: &Path) -> Result<String, Definite> {
    std::fs::read_to_string(file).map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::IsADirectory => {
                "give the path of the configuration: --config FILE"
            }
            std::io::ErrorKind::InvalidData => "the file must be TOML, in UTF-8",
            _ => "the user that pgsluice runs as must be allowed to read the file",
        };
        let error = anyhow!(error).context(format!("cannot read the configuration {}", file.display()));
        Definite::new(Kind::Usage, error, hint)
    })
}

/// Lays the variables over the file, whose text is at hand.
pub(super) fn layered(
    file: &Path,
    text: &str,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Layered, Definite> {
    let spanned = DeTable::parse(text).map_err(|error| not_toml(file, text, &error))?;
    let mut origins = Origins { file: file.to_owned(), lines: BTreeMap::new(), variables: BTreeMap::new(), own: None };
    origins.note_lines("", spanned.get_ref(), text);
    let (variables, of_pipelines) = origins.note_variables(environment)?;
    let table = config::Config::builder()
        .add_source(config::File::from_str(text, config::FileFormat::Toml))
        .add_source(config::Environment::with_prefix("PGSLUICE").separator("__").source(Some(variables)))
        .build()
        .and_then(config::Config::try_deserialize::<Table>)
        .map_err(|error| Definite::new(Kind::Usage, error, "a key can't be both a value and a section"))?;
    Ok(Layered { table, origins, of_pipelines })
}

/// Reads the table strictly.
pub(super) fn written(layered: Table, origins: &Origins) -> Result<Written, Definite> {
    serde_path_to_error::deserialize(Value::Table(layered))
        .map_err(|error| origins.misread(&error.path().to_string(), error.inner().message()))
}

impl Origins {
    /// The folder that relative paths start from.
    pub(super) fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    /// Whether the sections of that name are a list, `[[x]]`.
    pub(super) fn is_list(&self, key: &str) -> bool {
        self.lines.contains_key(&format!("{key}[0]"))
    }

    /// Where the key's value came from, in the order in which one wins over another: a pipeline of several over the top level,
    /// and in each of the two the environment over the file.
    pub(super) fn rank(&self, key: &str) -> (bool, bool) {
        (self.is_own(key), self.variables.contains_key(key))
    }

    /// Whether the key is written at the pipeline itself, and not at the top.
    fn is_own(&self, key: &str) -> bool {
        self.own.as_ref().is_some_and(|own| own.keys.contains(key))
    }

    /// The key as it is to be written: below its pipeline, unless it is at the top.
    fn full(&self, key: &str) -> String {
        let is_at_top = || self.lines.contains_key(key) || self.variables.contains_key(key);
        match &self.own {
            Some(own) if self.is_own(key) || !is_at_top() => format!("{}.{key}", own.at),
            Some(_) | None => key.to_owned(),
        }
    }

    /// What stands in the brackets of a section.
    fn heading(&self, section: &str) -> String {
        if self.is_own(section) { format!("pipelines.{section}") } else { section.to_owned() }
    }

    /// Of the pipeline `at`, when it is laid over the top level, of which nothing is left of what is `replaced`.
    pub(super) fn of_pipeline(&self, at: &str, replaced: &[String], set: BTreeMap<String, String>) -> Self {
        let is_left = |key: &str| {
            let is_below = |root: &String| {
                key.strip_prefix(root.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            };
            !replaced.iter().any(is_below)
        };
        let written =
            self.lines.iter().filter_map(|(key, line)| Some((key.strip_prefix(at)?.strip_prefix('.')?, line)));
        let written: BTreeMap<String, usize> = written.map(|(key, line)| (key.to_owned(), *line)).collect();
        let own = Own { at: at.to_owned(), keys: written.keys().chain(set.keys()).cloned().collect() };
        let mut origins = Self { own: Some(own), ..self.clone() };
        origins.lines.retain(|key, _| is_left(key));
        origins.lines.extend(written);
        origins.variables.retain(|key, _| is_left(key));
        origins.variables.extend(set);
        origins
    }

    /// The key of one of the sections of a list, which may be written as a single section.
    pub(super) fn item(&self, list: &str, index: usize) -> String {
        let key = format!("{list}[{index}]");
        if self.lines.contains_key(&key) { key } else { list.to_owned() }
    }

    /// An error at `key`: where it was written, the full key, what is wrong, and what is allowed.
    pub(super) fn wrong(&self, key: &str, what: impl AsRef<str>, hint: impl Into<String>) -> Definite {
        Definite::new(Kind::Usage, anyhow!("{}: {} {}", self.place(key), self.full(key), what.as_ref()), hint)
    }

    /// The same, with the reason as its cause.
    pub(super) fn wrong_because(
        &self,
        key: &str,
        what: &str,
        cause: impl Into<anyhow::Error>,
        hint: impl Into<String>,
    ) -> Definite {
        let error = cause.into().context(format!("{}: {} {what}", self.place(key), self.full(key)));
        Definite::new(Kind::Usage, error, hint)
    }

    /// Where the value of a key that was written came from.
    pub(super) fn of(&self, key: &str) -> Origin {
        match self.variables.get(key) {
            Some(variable) => Origin::Environment(variable.clone()),
            None => Origin::File(self.place(key)),
        }
    }

    /// `shop.toml:12`, or the variable, or only the file when the key was not written.
    fn place(&self, key: &str) -> String {
        // A variable may have made a section of a key: PGSLUICE__NAME__X.
        let below = || self.variables.iter().find(|(set, _)| set.strip_prefix(key).is_some_and(|s| s.starts_with('.')));
        let variable = self.variables.get(key).or_else(|| below().map(|(_, name)| name));
        let line = self.lines.get(key).or_else(|| self.lines.get(&self.own.as_ref()?.at));
        match (variable, line) {
            (Some(variable), _) => variable.clone(),
            (None, Some(line)) => format!("{}:{line}", self.file.display()),
            (None, None) => self.file.display().to_string(),
        }
    }

    fn note_lines(&mut self, parent: &str, table: &DeTable<'_>, text: &str) {
        for (name, value) in table {
            let key = join(parent, name.get_ref());
            self.lines.insert(key.clone(), line_and_column(text, name.span().start).0);
            match value.get_ref() {
                DeValue::Table(section) => self.note_lines(&key, section, text),
                DeValue::Array(items) => {
                    for (index, item) in items.iter().enumerate() {
                        let key = format!("{key}[{index}]");
                        self.lines.insert(key.clone(), line_and_column(text, item.span().start).0);
                        if let DeValue::Table(section) = item.get_ref() {
                            self.note_lines(&key, section, text);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// The variables that are ours, by name, and apart from them those about one pipeline of several. One that is set to nothing
    /// counts as not set.
    fn note_variables(
        &mut self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(config::Map<String, String>, Vec<OfPipeline>), Definite> {
        let (mut ours, mut of_pipelines) = (config::Map::new(), Vec::new());
        for (variable, value) in environment {
            let Some(variable) = variable.to_str().filter(|name| name.starts_with(VARIABLE_PREFIX)) else { continue };
            if value.is_empty() {
                continue;
            }
            let key = variable[VARIABLE_PREFIX.len()..].to_lowercase().replace("__", ".");
            self.variables.insert(key.clone(), variable.to_owned());
            let value = value.into_string().map_err(|_| self.wrong(&key, "is not UTF-8", "set it to text in UTF-8"))?;
            if key.starts_with("pipelines.") {
                of_pipelines.push(OfPipeline { name: variable.to_owned(), value });
            } else {
                ours.insert(variable.to_owned(), value);
            }
        }
        Ok((ours, of_pipelines))
    }

    /// What serde says, in the words of the configuration. Quotes no value that may be a secret: only
    /// numbers and booleans are read from text by our own visitors, whose errors quote it.
    fn misread(&self, path: &str, message: &str) -> Definite {
        if let Some((_, known)) = message.strip_prefix("unknown field `").and_then(|m| m.split_once('`')) {
            return self.unknown(path, known.split('`').skip(1).step_by(2));
        }
        let (found, expected) = message.split_once(", expected ").unwrap_or((message, "another type"));
        let expected = if expected.starts_with("struct ") { "a section" } else { expected };
        let what = if let Some(value) = found.strip_prefix("invalid value: string ") {
            format!("is not {expected}: {value}")
        } else {
            let found = found.strip_prefix("invalid type: ").unwrap_or(found);
            let kind = found.split(['`', '"']).next().unwrap_or(found).trim();
            format!("is not {expected}, but {}", described(kind))
        };
        let hint = match expected {
            _ if found == "invalid type: map" => format!("{path} is a key, not a section"),
            "a section" => format!("write it as a section: [{}]", self.heading(path)),
            "a string" => "put the value in quotes".to_owned(),
            "a list of strings" => "write a list, as in [\"public.orders\", \"public.items\"]".to_owned(),
            "an integer" => "write a whole number without quotes; the unit is in the key's name".to_owned(),
            _ => format!("allowed: {expected}"),
        };
        self.wrong(path, what, hint)
    }

    fn unknown<'k>(&self, path: &str, known: impl Iterator<Item = &'k str>) -> Definite {
        let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
        let is_own = self.is_own(path);
        let known: Vec<&str> = known.filter(|known| !(is_own && OF_PROCESS.contains(known))).collect();
        let sections = Some("pipelines").filter(|_| section.is_empty() && !is_own);
        let candidates = known.iter().copied().chain(sections);
        let nearest = candidates.min_by_key(|candidate| strsim::damerau_levenshtein(candidate, name));
        let near = nearest.filter(|candidate| strsim::damerau_levenshtein(candidate, name) <= 1 + name.len() / 4);
        let meant = near.map(|near| format!("did you mean {}? ", join(section, near))).unwrap_or_default();
        let of = match (section, is_own) {
            ("", false) => "known at the top".to_owned(),
            ("", true) => "known in [[pipelines]]".to_owned(),
            (section, false) => format!("known in [{section}]"),
            (section, true) => format!("known in [pipelines.{section}]"),
        };
        self.wrong(path, "is unknown", format!("{meant}{of}: {}", known.join(", ")))
    }
}

/// Syntax: the parser knows where, but not in which file. Its own rendering would quote the line, which may hold a secret.
fn not_toml(file: &Path, text: &str, error: &toml::de::Error) -> Definite {
    let (line, column) = line_and_column(text, error.span().map_or(0, |span| span.start));
    let place = format!("{}:{line}:{column}", file.display());
    let message = error.message().replace('\n', ", ");
    Definite::new(
        Kind::Usage,
        anyhow!("{message}").context(format!("{place}: not valid TOML")),
        "see https://toml.io; text goes in quotes, sections in [brackets]",
    )
}

/// serde's word for what was found, as a TOML writer would say it.
fn described(kind: &str) -> &'static str {
    match kind {
        "integer" => "an integer",
        "floating point" => "a fraction",
        "boolean" => "a boolean",
        "string" => "a string",
        "sequence" => "a list",
        "map" => "a section",
        _ => "something else",
    }
}

fn join(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

/// Both from 1; the column in characters.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

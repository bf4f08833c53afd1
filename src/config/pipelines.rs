//! `[[pipelines]]`: several pipelines in one file, each laid over the top level, which holds what they have in common.
//!
//! A section of a pipeline is laid over the same section of the top level, key by key; anything else (a value, a list of
//! sections) takes its place. `layers` knows where each value came from, `resolve` turns each pipeline into settings as if it
//! were alone; what two of them can't share is found here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use anyhow::anyhow;
use toml::{Table, Value};

use super::layers::{self, Layered, Layers, OfPipeline, Origins, VARIABLE_PREFIX};
use super::{Settings, StoreSettings, resolve};
use crate::failure::{Definite, Kind};
use crate::postgres::conninfo::Conninfo;

/// Sections of the process, which no pipeline has for itself.
pub(super) const OF_PROCESS: [&str; 3] = ["http", "otlp", "log"];

/// What a configuration describes: at least one pipeline.
#[derive(Debug, Clone)]
pub struct Pipelines {
    all: Vec<Settings>,
    is_list: bool,
}

impl Pipelines {
    /// In the order of the file; never empty.
    #[must_use]
    pub fn all(&self) -> &[Settings] {
        &self.all
    }

    /// The same, to change.
    pub fn all_mut(&mut self) -> &mut [Settings] {
        &mut self.all
    }

    /// Whether they are written as a list, so that what is said of one has its name with it.
    #[must_use]
    pub fn is_list(&self) -> bool {
        self.is_list
    }

    /// Only the one with this name; none: all.
    ///
    /// # Errors
    /// There is no such one.
    pub fn only(self, name: Option<&str>) -> Result<Self, Definite> {
        let Some(name) = name else { return Ok(self) };
        let names = self.names();
        let all: Vec<Settings> = self.all.into_iter().filter(|settings| settings.name == name).collect();
        if all.is_empty() {
            let error = anyhow!("the configuration has no pipeline \"{name}\"");
            return Err(Definite::new(Kind::Usage, error, format!("there is: {names}")));
        }
        Ok(Self { all, ..self })
    }

    /// The one with this name, or else the only one.
    ///
    /// # Errors
    /// There is no such one; there are several and none was named.
    pub fn one(self, name: Option<&str>) -> Result<Settings, Definite> {
        let mut all = self.only(name)?.all;
        match (all.pop(), all.as_slice()) {
            (Some(settings), []) => Ok(settings),
            (last, others) => {
                let names: Vec<&str> = others.iter().chain(&last).map(|settings| settings.name.as_str()).collect();
                let error = anyhow!("the configuration has several pipelines, and this is about one");
                Err(Definite::new(Kind::Usage, error, format!("say which by --pipeline: {}", names.join(", "))))
            }
        }
    }

    fn names(&self) -> String {
        self.all.iter().map(|settings| settings.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// Everything that was written, as one table for each pipeline, and where.
pub(super) struct Laid {
    pub(super) each: Vec<(Table, Origins)>,
    /// What is written at the top.
    pub(super) top: (Table, Origins),
    pub(super) is_list: bool,
}

/// Reads the text and the variables, and validates the whole.
pub(super) fn parse(
    file: &Path,
    text: &str,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Pipelines, Definite> {
    settings(&lay(layers::layered(file, text, environment)?)?)
}

/// What holds for each of them.
pub(super) fn settings(laid: &Laid) -> Result<Pipelines, Definite> {
    let one = |(table, origins): &(Table, Origins)| {
        resolve::settings(Layers { written: layers::written(table.clone(), origins)?, origins: origins.clone() })
    };
    let all = laid.each.iter().map(one).collect::<Result<Vec<Settings>, Definite>>()?;
    for (at, (settings, (_, origins))) in all.iter().zip(&laid.each).enumerate() {
        all[..at].iter().try_for_each(|other| apart(origins, settings, other))?;
    }
    Ok(Pipelines { all, is_list: laid.is_list })
}

/// Lays each pipeline over the top level.
pub(super) fn lay(layered: Layered) -> Result<Laid, Definite> {
    let Layered { table: mut top, origins, of_pipelines } = layered;
    let Some(pipelines) = top.remove("pipelines") else {
        if let Some(OfPipeline { name, .. }) = of_pipelines.first() {
            let error = anyhow!("{name}: there are no [[pipelines]]");
            return Err(Definite::new(Kind::Usage, error, "without them a variable is PGSLUICE__ and the key"));
        }
        return Ok(Laid { each: vec![(top.clone(), origins.clone())], top: (top, origins), is_list: false });
    };
    if top.contains_key("name") {
        let hint = "remove it: each of the [[pipelines]] has a name of its own";
        return Err(origins.wrong("name", "has no meaning beside [[pipelines]]", hint));
    }
    let entries = entries(&origins, pipelines)?;
    let names: Vec<&str> = entries.iter().map(name_of).collect();
    let mut variables: Vec<BTreeMap<String, OfPipeline>> = entries.iter().map(|_| BTreeMap::new()).collect();
    for variable in of_pipelines {
        let (index, key) = addressed(&names, &variable)?;
        variables[index].insert(key, variable);
    }
    let each = entries.iter().zip(variables).enumerate();
    let each = each.map(|(index, (entry, variables))| one(&top, &origins, index, entry.clone(), variables));
    Ok(Laid { each: each.collect::<Result<_, _>>()?, top: (top, origins), is_list: true })
}

fn entries(origins: &Origins, pipelines: Value) -> Result<Vec<Table>, Definite> {
    const HINT: &str = "write a section [[pipelines]] for each, with its name in it";
    let Value::Array(items) = pipelines else {
        return Err(origins.wrong("pipelines", "is not a list of sections", HINT));
    };
    if items.is_empty() {
        return Err(origins.wrong("pipelines", "is empty", HINT));
    }
    let entry = |(index, item): (usize, Value)| {
        let at = format!("pipelines[{index}]");
        let Value::Table(entry) = item else { return Err(origins.wrong(&at, "is not a section", HINT)) };
        match OF_PROCESS.iter().find(|section| entry.contains_key(**section)) {
            None => Ok(entry),
            Some(section) => {
                let hint = format!("write [{section}] at the top: all pipelines have it in common");
                Err(origins.wrong(&format!("{at}.{section}"), "is of the process, and not of a pipeline", hint))
            }
        }
    };
    items.into_iter().enumerate().map(entry).collect()
}

/// Empty where there is none, which `resolve` finds.
fn name_of(entry: &Table) -> &str {
    entry.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// Which pipeline a variable is about, and its key there: `PGSLUICE__PIPELINES__SHOP__SOURCE__PASSWORD`.
fn addressed(names: &[&str], variable: &OfPipeline) -> Result<(usize, String), Definite> {
    let rest = variable.name[VARIABLE_PREFIX.len()..].to_lowercase();
    let rest = rest.strip_prefix("pipelines__").unwrap_or(&rest);
    let key = |name: &&str| Some(rest.strip_prefix(*name)?.strip_prefix("__")?.replace("__", "."));
    let found = names.iter().enumerate().filter(|(_, name)| !name.is_empty());
    let found = found.filter_map(|(index, name)| Some((name.len(), index, key(name)?)));
    // A name may begin as another does.
    match found.max_by_key(|(length, ..)| *length) {
        Some((_, index, key)) if !key.is_empty() => Ok((index, key)),
        Some(_) | None => {
            let error = anyhow!("{}: there is no such pipeline", variable.name);
            let hint =
                format!("after PGSLUICE__PIPELINES__ comes one of these in upper case, and __: {}", names.join(", "));
            Err(Definite::new(Kind::Usage, error, hint))
        }
    }
}

/// A pipeline of the list, with what it has from the top.
fn one(
    top: &Table,
    origins: &Origins,
    index: usize,
    mut entry: Table,
    variables: BTreeMap<String, OfPipeline>,
) -> Result<(Table, Origins), Definite> {
    let mut set = BTreeMap::new();
    for (key, OfPipeline { name, value }) in variables {
        if !insert(&mut entry, &key, value) {
            let error = anyhow!("{name}: a key can't be both a value and a section");
            return Err(Definite::new(Kind::Usage, error, "remove the variable, or write the key in the file"));
        }
        set.insert(key, name);
    }
    let (mut table, mut replaced) = (top.clone(), Vec::new());
    merge(&mut table, entry, "", &mut replaced);
    Ok((table, origins.of_pipeline(&format!("pipelines[{index}]"), &replaced, set)))
}

/// False: a part of the key is a value.
fn insert(table: &mut Table, key: &str, value: String) -> bool {
    let Some((section, rest)) = key.split_once('.') else {
        table.insert(key.to_owned(), Value::String(value));
        return true;
    };
    match table.entry(section).or_insert_with(|| Value::Table(Table::new())) {
        Value::Table(table) => insert(table, rest, value),
        _ => false,
    }
}

/// `replaced`: the keys of which nothing is left.
fn merge(below: &mut Table, above: Table, at: &str, replaced: &mut Vec<String>) {
    for (name, value) in above {
        let key = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        match (below.get_mut(&name), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above, &key, replaced),
            (_, value) => {
                below.insert(name, value);
                replaced.push(key);
            }
        }
    }
}

/// What only one pipeline can have.
fn apart(at: &Origins, settings: &Settings, other: &Settings) -> Result<(), Definite> {
    let (source, other_source, of) = (&settings.source, &other.source, &other.name);
    if settings.name == *of {
        return Err(at.wrong("name", format!("is that of another pipeline: \"{of}\""), "give each a name of its own"));
    }
    let is_same_server = share_a_server(&source.conninfo, &other_source.conninfo);
    if is_same_server && source.slot == other_source.slot {
        let what = format!("is that of pipeline \"{of}\" too, on the same server: \"{}\"", source.slot);
        return Err(at.wrong("source.slot", what, "a slot has one reader: leave the key out, or name another"));
    }
    let is_same_database = is_same_server && source.conninfo.dbname() == other_source.conninfo.dbname();
    if is_same_database && source.publication == other_source.publication {
        let what = format!("is that of pipeline \"{of}\" too, in the same database: \"{}\"", source.publication);
        let hint = "what is in a publication follows from one pipeline's tables and filters: leave the key out, or name another";
        return Err(at.wrong("source.publication", what, hint));
    }
    match (&settings.checkpoint.store, &other.checkpoint.store) {
        (StoreSettings::File { path }, StoreSettings::File { path: other }) if path == other => {
            let what = format!("is the folder of pipeline \"{of}\" too: {}", path.display());
            Err(at.wrong("checkpoint.path", what, "leave the key out, or name another folder"))
        }
        // A row of a table has the pipeline's name.
        (StoreSettings::File { .. } | StoreSettings::Postgres { .. }, _) => Ok(()),
    }
}

fn share_a_server(one: &Conninfo, other: &Conninfo) -> bool {
    one.hosts().iter().any(|host| other.hosts().contains(host))
}

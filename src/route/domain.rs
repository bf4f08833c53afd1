//! Rules: which changes of plain tables are events of the domain, and what is in them.
//!
//! A [`RulePlan`] is a rule that was bound to a table as it is at this place of the WAL: names of columns are indexes. A table
//! that lacks one gives a [`Misfit`], for the rows that are written from then on. Pure. `encode::domain` makes the event.

use std::sync::Arc;

use super::expression::row::{Used, Variables};
use super::expression::{EvaluationError, Expression, Image, Use};
use super::ordering::RowKey;
use super::template::{Bound, Template};
use crate::change::Change;
use crate::config::{DataFormat, DataSettings, HashKey, RuleFormat, RuleSettings};
use crate::encode::cloudevents::Wrapper;
use crate::encode::format::RowFormat;
use crate::encode::row::Key;
use crate::encode::text::json_string;
use crate::encode::values::{Kind, Kinds, Numeric};
use crate::postgres::relation::{Relation, ReplicaIdentity};

/// What templates may use, beside columns, and the type where it is known. `{name}` is filled in before.
pub const VARIABLES: [&str; 3] = ["schema", "table", "op"];

/// How changes of one table become the events of one rule.
#[derive(Debug)]
pub struct RulePlan {
    /// Where the rule is in the configuration.
    pub key: String,
    /// The end of `message_id`.
    pub name: String,
    on: Vec<&'static str>,
    when: Option<Arc<Expression>>,
    /// The columns that the expressions use.
    used: Vec<Used>,
    /// The event's type.
    pub event_type: Bound<Part>,
    /// Where the event goes.
    pub exchange: Bound<Part>,
    /// Where the event goes.
    pub routing_key: Bound<Part>,
    /// What events stay in order with.
    pub order: RuleKey,
    /// More headers, by name.
    pub headers: Vec<(String, Bound<Part>)>,
    /// How the event looks.
    pub format: DomainFormat,
    /// `"schema":…,"table":…,"schema_version":…`
    pub table: Vec<u8>,
    /// The columns that are fields, in the table's order.
    pub fields: Vec<Field>,
    /// The fields that are computed, in the order of their names.
    pub computed: Vec<Computed>,
}

/// How the event of a rule looks.
#[derive(Debug)]
pub enum DomainFormat {
    /// Our own envelope around the data.
    Plain,
    /// The data alone.
    Raw,
    /// Around the data; the key is its subject.
    CloudEvents(Wrapper, Key),
    /// Debezium's or Canal's event, of the whole row.
    Row(RowFormat),
}

/// What the events of a rule stay in order with.
#[derive(Debug)]
pub enum RuleKey {
    /// The row that they are about.
    Row(RowKey),
    /// What the rule says; all events, where that is empty.
    Template(Bound<Part>),
}

/// What a template's variable stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The same for every row.
    Fixed(String),
    /// The operation.
    Op,
    /// The event's type.
    Type,
    /// The text of a column; empty for null, and for what is not known.
    Column {
        /// Of which row.
        image: Image,
        /// Its index in every tuple.
        index: usize,
        /// See [`Used::is_key`].
        is_key: bool,
    },
}

/// A column that is a field of the event.
#[derive(Debug)]
pub struct Field {
    /// Its index in every tuple.
    pub index: usize,
    /// `"name":`
    pub label: Vec<u8>,
    /// How its text becomes JSON.
    pub kind: Kind,
    /// See [`Used::is_key`].
    pub is_key: bool,
    /// What of it may be seen.
    pub shown: Shown,
}

/// What of a column's value may be seen.
#[derive(Debug)]
pub enum Shown {
    /// All.
    Value,
    /// Nothing: this JSON is in its place.
    Mask(Vec<u8>),
    /// Whether it is the same as another.
    Hash(HashKey),
}

/// A field that is computed.
#[derive(Debug)]
pub struct Computed {
    /// `"name":`
    pub label: Vec<u8>,
    /// Where its expression is in the configuration.
    pub key: String,
    expression: Arc<Expression>,
}

/// The table is not what the rule says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` {what}")]
pub struct Misfit {
    /// Where the rule is in the configuration.
    pub key: String,
    /// The end of `message_id`.
    pub name: String,
    what: String,
    /// The columns that there are.
    pub columns: Vec<String>,
    /// Of which operations the rule is.
    on: Vec<&'static str>,
}

/// An expression of a rule has no value for a row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` can't be evaluated")]
pub struct RuleError {
    key: String,
    #[source]
    error: EvaluationError,
}

impl RulePlan {
    /// The rule of the pipeline of this name, bound to a table of this database.
    ///
    /// # Errors
    /// The table lacks a column, or two fields would have the same name.
    pub fn new(
        (pipeline, database): (&str, &str),
        settings: &RuleSettings,
        relation: &Relation,
        kinds: Kinds<'_>,
        row_key: &RowKey,
    ) -> Result<Self, Misfit> {
        let bind = Bind { settings, relation };
        for (key, column) in settings.named_columns() {
            bind.column(&key, column)?;
        }
        let template = |name: &str, template: &Template| bind.template(&format!("{}.{name}", settings.key), template);
        let header =
            |(header, it): &(String, Template)| Ok((header.clone(), template(&format!("headers.{header}"), it)?));
        let computed = settings.data.compute.iter().map(|(field, expression)| Computed {
            label: label(field),
            key: format!("{}.compute.{field}", settings.key),
            expression: Arc::clone(expression),
        });
        Ok(Self {
            key: settings.key.clone(),
            name: settings.name.clone(),
            on: settings.on.clone(),
            when: settings.when.clone(),
            used: bind.used(kinds)?,
            event_type: template("type", &settings.event_type)?,
            exchange: template("exchange", &settings.exchange)?,
            routing_key: template("routing_key", &settings.routing_key)?,
            order: match &settings.ordering_key {
                Some(it) if *row_key != RowKey::None => RuleKey::Template(template("key", it)?),
                Some(_) | None => RuleKey::Row(row_key.clone()),
            },
            headers: settings.headers.iter().map(header).collect::<Result<_, _>>()?,
            format: match settings.format {
                RuleFormat::Data(DataFormat::Plain) => DomainFormat::Plain,
                RuleFormat::Data(DataFormat::Raw) => DomainFormat::Raw,
                RuleFormat::Row(format) => {
                    DomainFormat::Row(RowFormat::new(format, pipeline, database, relation, kinds))
                }
                RuleFormat::Data(DataFormat::CloudEvents(mode)) => {
                    DomainFormat::CloudEvents(Wrapper::new(mode, pipeline, Some(relation)), Key::of(relation))
                }
            },
            table: table(relation, kinds),
            fields: bind.fields(kinds)?,
            computed: computed.collect(),
        })
    }

    /// Whether it is of this operation.
    #[must_use]
    pub fn is_on(&self, op: &str) -> bool {
        self.on.contains(&op)
    }

    /// Whether this change is an event: the same whenever it is asked.
    ///
    /// # Errors
    /// The condition can't be evaluated.
    pub fn wants(&self, change: &Change<'_>) -> Result<bool, RuleError> {
        let Some(when) = &self.when else { return Ok(true) };
        let failed = |error| RuleError { key: format!("{}.when", self.key), error };
        when.holds(&self.variables(change)).map_err(failed)
    }

    /// What the expressions see of a change.
    #[must_use]
    pub fn variables<'a>(&'a self, change: &'a Change<'a>) -> Variables<'a> {
        Variables::new(change, &self.used)
    }
}

impl Computed {
    /// Appends its value.
    ///
    /// # Errors
    /// It has none.
    pub fn json(&self, variables: &Variables<'_>, out: &mut Vec<u8>) -> Result<(), RuleError> {
        self.expression.json(variables, out).map_err(|error| RuleError { key: self.key.clone(), error })
    }
}

impl Misfit {
    /// Whether the rule is of this operation.
    #[must_use]
    pub fn is_on(&self, op: &str) -> bool {
        self.on.contains(&op)
    }
}

/// A rule, on its way to a table.
struct Bind<'b> {
    settings: &'b RuleSettings,
    relation: &'b Relation,
}

impl Bind<'_> {
    fn misfit(&self, key: &str, what: String) -> Misfit {
        let columns = self.relation.columns.iter().map(|column| column.name.clone()).collect();
        Misfit { key: key.to_owned(), name: self.settings.name.clone(), what, columns, on: self.settings.on.clone() }
    }

    fn column(&self, key: &str, column: &str) -> Result<usize, Misfit> {
        let missing =
            || self.misfit(key, format!("uses the column \"{column}\", which {} does not have", self.relation));
        self.relation.column(column).ok_or_else(missing)
    }

    /// With FULL the server marks every column as key, which says nothing.
    fn is_key(&self, index: usize) -> bool {
        self.relation.identity != ReplicaIdentity::Full && self.relation.columns[index].key
    }

    fn template(&self, key: &str, template: &Template) -> Result<Bound<Part>, Misfit> {
        let column = |image, column: &str| {
            let index = self.column(key, column)?;
            Ok(Part::Column { image, index, is_key: self.is_key(index) })
        };
        template.bind_by(|variable| match (variable.split_once('.'), variable) {
            (Some(("new", name)), _) => column(Image::New, name),
            (Some(("old", name)), _) => column(Image::Old, name),
            (_, "schema") => Ok(Part::Fixed(self.relation.schema.clone())),
            (_, "table") => Ok(Part::Fixed(self.relation.name.clone())),
            (_, "op") => Ok(Part::Op),
            (_, "type") => Ok(Part::Type),
            _ => Err(self.misfit(key, format!("uses {{{variable}}}, which is no variable"))),
        })
    }

    fn used(&self, kinds: Kinds<'_>) -> Result<Vec<Used>, Misfit> {
        let kinds = Kinds { numeric: Numeric::String, ..kinds };
        let mut used: Vec<Used> = Vec::new();
        for (key, expression) in self.settings.expressions() {
            for Use { column: name, .. } in expression.uses() {
                let index = self.column(&key, name)?;
                if !used.iter().any(|used| used.index == index) {
                    let kind = kinds.of(self.relation.columns[index].type_oid);
                    used.push(Used { name: name.clone(), index, kind, is_key: self.is_key(index) });
                }
            }
        }
        Ok(used)
    }

    fn fields(&self, kinds: Kinds<'_>) -> Result<Vec<Field>, Misfit> {
        let DataSettings { columns, rename, compute, mask, hash, hash_key } = &self.settings.data;
        let mut names: Vec<&str> = Vec::new();
        let mut fields = Vec::new();
        for (index, column) in self.relation.columns.iter().enumerate() {
            let name = rename.get(&column.name).unwrap_or(&column.name);
            // What is computed takes the place of the column.
            if !columns.has(&column.name) || compute.iter().any(|(field, _)| field == name) {
                continue;
            }
            if names.contains(&name.as_str()) {
                let key = format!("{}.rename", self.settings.key);
                return Err(self.misfit(&key, format!("gives a field the name \"{name}\", which another one has")));
            }
            names.push(name);
            let shown = match (mask.get(&column.name), hash_key) {
                (Some(text), _) => Shown::Mask(string(text)),
                (None, Some(key)) if hash.contains(&column.name) => Shown::Hash(key.clone()),
                (None, _) => Shown::Value,
            };
            let kind = kinds.of(column.type_oid);
            fields.push(Field { index, label: label(name), kind, is_key: self.is_key(index), shown });
        }
        Ok(fields)
    }
}

fn table(relation: &Relation, kinds: Kinds<'_>) -> Vec<u8> {
    let mut out = b"\"schema\":".to_vec();
    json_string(&mut out, relation.schema.as_bytes());
    out.extend_from_slice(b",\"table\":");
    json_string(&mut out, relation.name.as_bytes());
    out.extend_from_slice(b",\"schema_version\":\"");
    out.extend_from_slice(relation.version(kinds.types).as_bytes());
    out.push(b'"');
    out
}

fn string(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 3);
    json_string(&mut out, text.as_bytes());
    out
}

fn label(name: &str) -> Vec<u8> {
    let mut out = string(name);
    out.push(b':');
    out
}

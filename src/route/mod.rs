//! Which changes are published, and where to.
//!
//! A [`Router`] makes one [`Plan`] for each relation, at the moment when the stream describes it, so that a
//! change costs a look-up and a match. A plan always fits the relation as it is at this place of the WAL.
//! Pure: no IO, no clock.

pub mod domain;
pub mod expression;
pub mod messages;
pub mod ordering;
pub mod outbox;
pub mod select;
pub mod template;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::change::{Change, Row};
use crate::config::topology::Topology;
use crate::config::{ChangesSettings, OnUpdate, Ordering, OutboxOf, OutboxSettings, RuleSettings, Settings};
use crate::encode::format::RowFormat;
use crate::encode::values::Kinds;
use crate::failure::{Definite, Kind};
use crate::postgres::pgoutput::Tuple;
use crate::postgres::relation::{OidMap, Relation};
use crate::postgres::types::Types;
use crate::route::domain::RulePlan;
use crate::route::messages::{MessagesPlan, Prefixes};
use crate::route::ordering::RowKey;
use crate::route::outbox::{MessageOutbox, Misfit, OutboxPlan};
use crate::route::select::Selection;
use crate::route::template::{Template, UnknownVariable};
use crate::source::Named;

/// Decides what becomes of each change.
#[derive(Debug)]
pub struct Router {
    name: String,
    database: String,
    tables: Selection,
    changes: ChangesSettings,
    outboxes: Vec<OutboxSettings>,
    rules: Vec<RuleSettings>,
    /// Of the rules.
    ordering: Ordering,
    /// Of each of them that has no table.
    message_outboxes: Vec<(Prefixes, MessageOutbox)>,
    types: Arc<Types>,
    messages: MessagesPlan,
    plans: OidMap<Plan>,
    /// What has selected a table by a name that it had since we began.
    selectors: OidMap<Selectors>,
}

/// What becomes of one relation's changes.
#[derive(Debug)]
pub enum Plan {
    /// Every change is an event, and may be others too.
    Table(Box<TablePlan>),
    /// Every inserted row is an event that the application wrote.
    Outbox(Box<OutboxPlan>),
    /// Every inserted row should be one.
    Misfit(Box<Misfit>),
}

/// What becomes of a plain table's changes. Nothing, when PostgreSQL publishes it and nothing selects it.
#[derive(Debug)]
pub struct TablePlan {
    /// What the changes of a row stay in order with, unless the configuration says otherwise.
    key: RowKey,
    /// None: its changes are no row events.
    changes: Option<ChangesPlan>,
    rules: Vec<Result<RulePlan, domain::Misfit>>,
    /// What selects it by another name, and does not by this one; none of nearly all tables.
    lost: Option<Box<Selectors>>,
}

impl TablePlan {
    /// How its changes become row events; none: they don't.
    #[must_use]
    pub fn changes(&self) -> Option<&ChangesPlan> {
        self.changes.as_ref()
    }

    /// The rules that select it, as far as it is what they say.
    pub fn rules(&self) -> impl Iterator<Item = &RulePlan> {
        self.rules.iter().filter_map(|rule| rule.as_ref().ok())
    }
}

/// What selects a table by its name.
#[derive(Debug, Default)]
struct Selectors {
    /// Its changes are row events.
    changes: bool,
    /// It is an outbox.
    outbox: bool,
    /// By their places.
    rules: Vec<usize>,
}

/// What to do about a table that was renamed to what nothing selects.
pub const RENAMED_HINT: &str = "Let what selected the table select this name too (a pattern with a wildcard may name what is not \
     there); where that is a list of patterns, an exclusion (`\"!schema.table\"`) leaves its changes out. For an outbox, \
     set `outbox.table` to this name: what came before it is published.";

/// What becomes of one change.
#[derive(Debug, Clone, Copy)]
pub enum Verdict<'r, 'c> {
    /// Publish it as a row event.
    Change(&'r ChangesPlan, &'r Destination),
    /// Publish it as the event of a rule, if the rule wants it.
    Rule(&'r RulePlan),
    /// It can't be published: the table is not what the rule says.
    RuleMisfit(&'r domain::Misfit),
    /// Publish this row as the application's own event.
    Outbox(&'r OutboxPlan, Tuple<'c>),
    /// It can't be published: the table is not what the configuration says.
    Misfit(&'r Misfit),
    /// It can't be passed over: by another name, the table is selected.
    Renamed,
    /// Settle it at once.
    Skip(Skip),
}

/// What becomes of one logical message.
#[derive(Debug, Clone, Copy)]
pub enum MessageVerdict<'r> {
    /// Publish it as it is.
    Message(&'r MessagesPlan),
    /// Its content is the application's own event.
    Outbox(&'r MessageOutbox),
    /// Settle it at once.
    Skip,
}

/// Why a change is not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// Rows leave an outbox when they are no longer needed; that is no event.
    OutboxCleanup,
    /// An outbox row was changed after it was written. Its event is out already.
    OutboxUpdate(OnUpdate),
}

/// How the changes of one plain table become events.
#[derive(Debug)]
pub struct ChangesPlan {
    /// How they become bodies.
    pub format: RowFormat,
    /// What they stay in order with.
    pub key: RowKey,
    insert: Destination,
    update: Destination,
    delete: Destination,
    truncate: Destination,
}

/// Where an event goes, and what it is called.
#[derive(Debug)]
pub struct Destination {
    /// The exchange.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// The property `type`: `{schema}.{table}.{op}`.
    pub event_type: String,
}

impl Router {
    /// A router for these settings, knowing no relation yet.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let (mut changes, mut outboxes) = (settings.changes.clone(), settings.outboxes.clone());
        // In one lane all is in order; nothing has to look for a key.
        let ordering = if settings.rabbitmq.lanes == 1 { Ordering::None } else { Ordering::Key };
        if ordering == Ordering::None {
            changes.ordering = Ordering::None;
            for outbox in &mut outboxes {
                outbox.ordering = Ordering::None;
            }
        }
        Self {
            name: settings.name.clone(),
            database: settings.source.conninfo.dbname().to_owned(),
            tables: settings.source.tables.clone(),
            message_outboxes: outboxes.iter().filter_map(|outbox| message_outbox(&settings.name, outbox)).collect(),
            changes,
            outboxes,
            rules: settings.rules.clone(),
            ordering,
            types: Arc::default(),
            messages: MessagesPlan::new(&settings.name, &settings.messages),
            plans: OidMap::default(),
            selectors: OidMap::default(),
        }
    }

    /// What is known of types from now on. What was learned before is to be learned again.
    pub fn set_types(&mut self, types: Arc<Types>) {
        self.types = types;
    }

    /// These tables are selected by the names that they have now. What is known of others, and of their former names, stays.
    pub fn select(&mut self, tables: &[Named]) {
        for Named { oid, schema, table } in tables {
            let now = self.selectors(schema, table);
            let known = self.selectors.entry(*oid).or_default();
            known.changes |= now.changes;
            known.outbox |= now.outbox;
            let new: Vec<usize> = now.rules.into_iter().filter(|rule| !known.rules.contains(rule)).collect();
            known.rules.extend(new);
        }
    }

    fn selectors(&self, schema: &str, table: &str) -> Selectors {
        if self.outboxes.iter().any(|outbox| outbox.is(schema, table)) {
            return Selectors { outbox: true, ..Selectors::default() };
        }
        let rules = self.rules.iter().enumerate().filter(|(_, rule)| rule.tables.selects(schema, table));
        let rules = rules.map(|(rule, _)| rule).collect();
        Selectors { changes: self.tables.selects(schema, table), outbox: false, rules }
    }

    /// What selects it by another name, and neither selects nor excludes it by this one.
    fn lost(&self, Relation { oid, schema, name, .. }: &Relation) -> Option<Box<Selectors>> {
        let known = self.selectors.get(oid)?;
        let now = self.selectors(schema, name);
        let is_lost = |rule: &&usize| !now.rules.contains(rule) && !self.rules[**rule].tables.excludes(schema, name);
        let lost = Selectors {
            changes: known.changes && !now.changes && !self.tables.excludes(schema, name),
            outbox: known.outbox && !now.outbox,
            rules: known.rules.iter().filter(is_lost).copied().collect(),
        };
        (lost.changes || lost.outbox || !lost.rules.is_empty()).then(|| Box::new(lost))
    }

    fn is_lost(&self, lost: &Selectors, op: &str) -> bool {
        lost.changes
            || (lost.outbox && op == "insert")
            || lost.rules.iter().any(|rule| self.rules[*rule].on.contains(&op))
    }

    /// Makes the plan for a relation that the stream has just described. True: what comes next may have another key than what
    /// came before, though it is of the same row.
    ///
    /// # Errors
    /// A template of `[changes]` can't be filled in.
    pub fn learn(&mut self, relation: &Relation) -> Result<bool, Definite> {
        let kinds = Kinds { types: &self.types, numeric: self.changes.numeric };
        let plan =
            match self.outboxes.iter().enumerate().find(|(_, outbox)| outbox.is(&relation.schema, &relation.name)) {
                Some(outbox) => match OutboxPlan::new(&self.name, outbox, relation, kinds) {
                    Ok(plan) => Plan::Outbox(Box::new(plan)),
                    Err(misfit) => Plan::Misfit(Box::new(misfit)),
                },
                None => Plan::Table(Box::new(self.table(relation, kinds)?)),
            };
        let key = plan.key().cloned();
        let before = self.plans.insert(relation.oid, plan);
        Ok(before.is_some_and(|before| before.key() != key.as_ref()))
    }

    fn table(&self, relation: &Relation, kinds: Kinds<'_>) -> Result<TablePlan, Definite> {
        let is_selected = self.tables.selects(&relation.schema, &relation.name);
        let changes =
            is_selected.then(|| ChangesPlan::new((&self.name, &self.database), &self.changes, relation, kinds));
        let rules = self.rules.iter().filter(|rule| rule.tables.selects(&relation.schema, &relation.name));
        let key = RowKey::new(self.ordering, relation);
        let rules =
            rules.map(|rule| RulePlan::new((&self.name, &self.database), rule, relation, kinds, &key)).collect();
        Ok(TablePlan { changes: changes.transpose()?, rules, key, lost: self.lost(relation) })
    }

    /// What becomes of the changes of a relation that was learned.
    #[must_use]
    pub fn plan(&self, relation: u32) -> Option<&Plan> {
        self.plans.get(&relation)
    }

    /// What becomes of a logical message with this prefix. As with tables, outboxes come first.
    #[must_use]
    pub fn message(&self, prefix: &str) -> MessageVerdict<'_> {
        match self.message_outboxes.iter().find(|(prefixes, _)| prefixes.select(prefix)) {
            Some((_, outbox)) => MessageVerdict::Outbox(outbox),
            None if self.messages.selects(prefix) => MessageVerdict::Message(&self.messages),
            None => MessageVerdict::Skip,
        }
    }

    /// What becomes of a change: of its row first, then by each rule, in the order of the configuration.
    ///
    /// # Panics
    /// When the change's relation was not learned: the assembler refuses such a change first.
    pub fn verdicts<'r, 'c>(&'r self, change: &Change<'c>) -> impl Iterator<Item = Verdict<'r, 'c>> + use<'r, 'c> {
        let plan = self.plans.get(&change.relation.oid).expect("the assembler hands out described relations only");
        let (first, rules): (_, &[_]) = match plan {
            Plan::Table(plan) => {
                let row = plan.changes.as_ref().map(|plan| Verdict::Change(plan, plan.destination(&change.row)));
                let is_lost = plan.lost.as_ref().is_some_and(|lost| self.is_lost(lost, change.row.op()));
                (if is_lost { Some(Verdict::Renamed) } else { row }, &plan.rules)
            }
            Plan::Outbox(plan) => (Some(outbox(change, plan.on_update, |row| Verdict::Outbox(plan, row))), &[]),
            Plan::Misfit(misfit) => (Some(outbox(change, misfit.on_update, |_| Verdict::Misfit(misfit))), &[]),
        };
        let op = change.row.op();
        let rules = rules.iter().filter_map(move |rule| match rule {
            Ok(plan) => plan.is_on(op).then_some(Verdict::Rule(plan)),
            Err(misfit) => misfit.is_on(op).then_some(Verdict::RuleMisfit(misfit)),
        });
        first.into_iter().chain(rules)
    }
}

impl Plan {
    fn key(&self) -> Option<&RowKey> {
        match self {
            Self::Table(plan) => Some(&plan.key),
            // Those of an outbox have the key that the row says, whatever the table is.
            Self::Outbox(_) | Self::Misfit(_) => None,
        }
    }
}

fn message_outbox(name: &str, settings: &OutboxSettings) -> Option<(Prefixes, MessageOutbox)> {
    match &settings.of {
        OutboxOf::Table(_) => None,
        OutboxOf::Messages(prefixes) => Some((prefixes.clone(), MessageOutbox::new(name, settings))),
    }
}

/// What becomes of a change of an outbox, by what becomes of a row that is inserted.
fn outbox<'r, 'c>(
    change: &Change<'c>,
    on_update: OnUpdate,
    insert: impl FnOnce(Tuple<'c>) -> Verdict<'r, 'c>,
) -> Verdict<'r, 'c> {
    match change.row {
        Row::Insert { new } => insert(new),
        Row::Update { .. } => Verdict::Skip(Skip::OutboxUpdate(on_update)),
        Row::Delete { .. } | Row::Truncate { .. } => Verdict::Skip(Skip::OutboxCleanup),
    }
}

/// The exchanges whose names are known before the first event, for the topology.
#[must_use]
pub fn exchanges(settings: &Settings) -> Vec<String> {
    let changes = (!settings.source.tables.is_empty()).then_some(&settings.changes.exchange);
    let outboxes = settings.outboxes.iter().map(|outbox| &outbox.exchange);
    let messages = (!settings.messages.prefixes.is_empty()).then_some(&settings.messages.exchange);
    let rules = settings.rules.iter().map(|rule| &rule.exchange);
    let known = changes.into_iter().chain(outboxes).chain(rules).chain(messages).filter_map(Template::literal);
    let mut names: Vec<String> = known.map(str::to_owned).collect();
    names.sort();
    names.dedup();
    names
}

/// What is declared: the configuration's, and the exchanges that events go to unless they are described there.
#[must_use]
pub fn topology(settings: &Settings) -> Topology {
    let rabbitmq = &settings.rabbitmq;
    let topology = rabbitmq.topology.clone().with_destinations(exchanges(settings), &rabbitmq.exchange_type);
    match rabbitmq.parking() {
        Some(parking) => topology.with_parking(parking, rabbitmq.declare),
        None => topology,
    }
}

/// Where the changes of a table go: one exchange, unless its template has `{op}`. What is not among [`exchanges`] nobody
/// declares.
///
/// # Errors
/// The template uses what it may not.
pub fn exchanges_of(settings: &Settings, schema: &str, table: &str) -> Result<BTreeSet<String>, UnknownVariable> {
    let of_operation = |op| {
        let known = [("name", settings.name.as_str()), ("schema", schema), ("table", table), ("op", op)];
        let mut text = String::new();
        settings.changes.exchange.bind(&known)?.render(&mut text, |value, text| text.push_str(value));
        Ok(text)
    };
    ["insert", "update", "delete", "truncate"].map(of_operation).into_iter().collect()
}

impl ChangesPlan {
    /// For the pipeline of this name, of this database.
    fn new(
        (name, database): (&str, &str),
        settings: &ChangesSettings,
        relation: &Relation,
        kinds: Kinds<'_>,
    ) -> Result<Self, Definite> {
        let destination = |op: &'static str| -> Result<Destination, Definite> {
            let known = [("name", name), ("schema", &relation.schema), ("table", &relation.name), ("op", op)];
            let render = |template: &Template| {
                let bound = template
                    .bind(&known)
                    .map_err(|unknown| Definite::new(Kind::Usage, unknown, "correct the template in [changes]"))?;
                let mut text = String::new();
                bound.render(&mut text, |value, text| text.push_str(value));
                Ok::<_, Definite>(text)
            };
            Ok(Destination {
                exchange: render(&settings.exchange)?,
                routing_key: render(&settings.routing_key)?,
                event_type: format!("{}.{}.{op}", relation.schema, relation.name),
            })
        };
        Ok(Self {
            format: RowFormat::new(settings.format, name, database, relation, kinds),
            key: RowKey::new(settings.ordering, relation),
            insert: destination("insert")?,
            update: destination("update")?,
            delete: destination("delete")?,
            truncate: destination("truncate")?,
        })
    }

    /// All destinations, by the `op` of the event.
    #[must_use]
    pub fn destinations(&self) -> [(&'static str, &Destination); 4] {
        let Self { format: _, key: _, insert, update, delete, truncate } = self;
        [("insert", insert), ("update", update), ("delete", delete), ("truncate", truncate)]
    }

    fn destination(&self, row: &Row<'_>) -> &Destination {
        match row {
            Row::Insert { .. } => &self.insert,
            Row::Update { .. } => &self.update,
            Row::Delete { .. } => &self.delete,
            Row::Truncate { .. } => &self.truncate,
        }
    }
}

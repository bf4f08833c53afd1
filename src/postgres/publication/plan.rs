//! What has to be done to a publication. Decides without IO; `apply`, beside it, runs what was decided.

use std::collections::BTreeMap;

use anyhow::anyhow;
use tracing::{info, warn};

use super::record::digest;
use super::{Member, Publication, Sent};
use crate::failure::{Definite, Kind};
use crate::postgres::catalog::{Table, Wanted};
use crate::postgres::filters::Filter;
use crate::postgres::ident::{quote_ident, quote_qualified};
use crate::postgres::preflight::Server;

/// What to do, and what to say about it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// To run in one transaction; none when the publication is fine as it is.
    pub statements: Vec<Statement>,
    /// The tables of which PostgreSQL sends more, less or something else from then on: by `pg_class.oid`, quoted.
    pub locked: BTreeMap<u32, String>,
    /// What may surprise the user, or hurt the database.
    pub warnings: Vec<String>,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

/// One statement, and for which filter of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// SQL, without a semicolon.
    pub sql: String,
    /// The filter's key, when it is there for one.
    pub filter: Option<String>,
}

/// What has to be done so that `publication` sends what is `wanted`.
///
/// # Errors
/// When a publication that is the user's own lacks something: its changes would be missing.
pub fn plan(name: &str, publication: Option<&Publication>, wanted: &Wanted, server: &Server) -> Result<Plan, Definite> {
    let mut plan = match publication {
        None => create(name, wanted, server),
        Some(publication) if publication.managed => alter(name, publication, wanted),
        Some(publication) => use_as_it_is(name, publication, wanted)?,
    };
    warn_of_refused_updates(&mut plan, publication, wanted);
    if publication.is_none_or(|publication| publication.managed || publication.via_root) {
        warn_of_other_identities(&mut plan, wanted);
    }
    Ok(plan)
}

/// What a publication of ours sends.
const PARAMETERS: &str = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true";
/// Before it is there, generated columns are in no stream; virtual ones never are.
const GENERATED: &str = ", publish_generated_columns = stored";

fn create(name: &str, wanted: &Wanted, server: &Server) -> Plan {
    let tables: Vec<&Table> = wanted.tables.iter().filter(|table| filter_of(wanted, table).is_none()).collect();
    let tables = if tables.is_empty() { String::new() } else { format!(" FOR TABLE {}", list(&tables)) };
    let quoted = quote_ident(name);
    let generated = if server.version >= 180_000 { GENERATED } else { "" };
    let mut plan = Plan::default();
    plan.run(format!("CREATE PUBLICATION {quoted}{tables} WITH ({PARAMETERS}{generated})"));
    plan.add_filtered(&quoted, wanted, wanted.tables.iter());
    if wanted.tables.is_empty() {
        plan.warnings.push("no table matches the configured patterns, so that no rows are published yet".to_owned());
    }
    plan
}

/// Brings a publication of ours up to the configuration.
fn alter(name: &str, publication: &Publication, wanted: &Wanted) -> Plan {
    let quoted = quote_ident(name);
    let member = |table: &Table| publication.members.iter().find(|member| member.membership.table == table.oid);
    let (mut joining, mut altered, mut staying) = (Vec::new(), Vec::new(), Vec::new());
    for table in &wanted.tables {
        match member(table) {
            None => joining.push(table),
            Some(member) if is_as_wanted(publication, member, filter_of(wanted, table)) => staying.push(table.oid),
            Some(_) => altered.push(table),
        }
    }
    let dropped = publication.members.iter().filter(|member| !staying.contains(&member.membership.table));
    let dropped: BTreeMap<u32, String> =
        dropped.map(|member| (member.membership.table, member.quoted.clone())).collect();
    let mut plan = Plan::default();
    let sent = || publication.sent.iter().map(|sent| (sent.oid, quote_qualified(&sent.schema, &sent.table)));
    plan.locked.extend(joining.iter().chain(&altered).map(|table| (table.oid, table.quoted())));
    if !publication.schemas.is_empty() {
        plan.locked.extend(sent());
        // Of a schema that is in it as a whole no filter holds.
        let schemas: Vec<String> = publication.schemas.iter().map(|schema| quote_ident(schema)).collect();
        plan.run(format!("ALTER PUBLICATION {quoted} DROP TABLES IN SCHEMA {}", schemas.join(", ")));
    }
    // In one transaction with what follows: no change is decoded between the two.
    if !dropped.is_empty() {
        plan.run(format!("ALTER PUBLICATION {quoted} DROP TABLE {}", only(dropped.values())));
        plan.locked.extend(dropped);
    }
    let added = || joining.iter().chain(&altered).copied();
    let whole: Vec<&Table> = added().filter(|table| filter_of(wanted, table).is_none()).collect();
    if !whole.is_empty() {
        plan.run(format!("ALTER PUBLICATION {quoted} ADD TABLE {}", list(&whole)));
    }
    plan.add_filtered(&quoted, wanted, added());
    if !joining.is_empty() {
        plan.notes.push(format!("{} published from now on: earlier rows are not sent", names(joining.into_iter())));
    }
    for table in altered {
        let now = if filter_of(wanted, table).is_some() { "filtered anew" } else { "not filtered any more" };
        let name = names(std::iter::once(table));
        plan.notes.push(format!("{name} is {now} from here on: what was left out before does not come"));
    }
    if !publication.via_root || !publication.unpublished.is_empty() || publication.generated == Some(false) {
        let generated = if publication.generated.is_some() { GENERATED } else { "" };
        plan.run(format!("ALTER PUBLICATION {quoted} SET ({PARAMETERS}{generated})"));
        plan.locked.extend(sent().chain(wanted.tables.iter().map(|table| (table.oid, table.quoted()))));
    }
    plan
}

impl Plan {
    /// Says what will be done.
    pub fn tell(&self, name: &str) {
        for warning in &self.warnings {
            warn!(publication = name, "{warning}");
        }
        for note in &self.notes {
            info!(publication = name, "{note}");
        }
        for statement in &self.statements {
            info!(publication = name, statement = statement.sql, "changing the publication");
        }
    }

    /// As somebody would run it; empty when nothing has to be done.
    #[must_use]
    pub fn script(&self) -> String {
        let statements: Vec<&str> = self.statements.iter().map(|it| it.sql.as_str()).collect();
        let statements = statements.join("; ");
        if self.locked.is_empty() { statements } else { without_writers(self.locked.values(), &statements) }
    }

    fn run(&mut self, sql: String) {
        self.statements.push(Statement { sql, filter: None });
    }

    /// One statement a filter, so that it is known of which one PostgreSQL speaks.
    fn add_filtered<'a>(&mut self, publication: &str, wanted: &Wanted, tables: impl Iterator<Item = &'a Table>) {
        for table in tables {
            let Some(filter) = filter_of(wanted, table) else { continue };
            let sql = format!("ALTER PUBLICATION {publication} ADD TABLE ONLY {}{}", table.quoted(), filter.sql());
            self.statements.push(Statement { sql, filter: Some(filter.settings.key.clone()) });
        }
    }
}

/// The statements as a transaction in which nobody else writes to `tables`.
fn without_writers<T: AsRef<str>>(tables: impl Iterator<Item = T>, statements: &str) -> String {
    format!("BEGIN; SET LOCAL statement_timeout = '500ms'; {}; {statements}; COMMIT", lock(tables, NO_WRITERS))
}

/// A mode of LOCK TABLE that no writer's goes with.
pub(super) const NO_WRITERS: &str = "SHARE ROW EXCLUSIVE";

/// Without ONLY: it is partitions that are written to.
pub(super) fn lock<T: AsRef<str>>(tables: impl Iterator<Item = T>, mode: &str) -> String {
    format!("LOCK TABLE {} IN {mode} MODE", joined(tables, ""))
}

fn filter_of<'a>(wanted: &'a Wanted, table: &Table) -> Option<&'a Filter> {
    wanted.filters.iter().find(|filter| filter.table == table.oid)
}

/// Whether a table is in a publication of ours with this filter.
fn is_as_wanted(publication: &Publication, member: &Member, filter: Option<&Filter>) -> bool {
    let settings = filter.map(|filter| &filter.settings);
    let columns = settings.and_then(|settings| settings.columns.clone()).map(|mut columns| {
        columns.sort();
        columns
    });
    let rows = match (settings.and_then(|settings| settings.rows.as_ref()), &member.rows) {
        (None, None) => true,
        (Some(written), Some(made)) => publication.rows_on_record(member) == Some(digest(written, made).as_str()),
        (Some(_), None) | (None, Some(_)) => false,
    };
    rows && member.columns == columns
}

/// A publication of the user's: whatever it lacks is an error, whatever it has more is skipped.
fn use_as_it_is(name: &str, publication: &Publication, wanted: &Wanted) -> Result<Plan, Definite> {
    if let Some(filter) = wanted.filters.first() {
        return Err(not_ours(name, &filter.settings.key));
    }
    let lacking: Vec<&Table> = wanted.tables.iter().filter(|table| !sends(publication, wanted, table)).collect();
    if !lacking.is_empty() {
        return Err(lacks_tables(name, publication, &lacking));
    }
    for outbox in &wanted.outboxes {
        check_outbox(name, publication, outbox.oid, &outbox.columns)?;
    }
    let mut plan = Plan::default();
    let known = |oid: u32| wanted.tables.iter().chain(&wanted.partitions).any(|table| table.oid == oid);
    let (selected, extra): (Vec<&Sent>, Vec<&Sent>) = publication.sent.iter().partition(|sent| known(sent.oid));
    if !extra.is_empty() && !publication.all_tables {
        let extra: Vec<String> = extra.iter().map(|sent| format!("{}.{}", sent.schema, sent.table)).collect();
        let extra = extra.join(", ");
        plan.warnings.push(format!("publishes tables that are not selected; their changes are skipped: {extra}"));
    }
    if !publication.unpublished.is_empty() {
        plan.warnings
            .push(format!("does not publish {}; no such events will come", publication.unpublished.join(", ")));
    }
    for sent in selected {
        let what = match (sent.filtered, sent.cut) {
            (true, true) => "a row filter and a column list",
            (true, false) => "a row filter",
            (false, true) => "a column list",
            (false, false) => continue,
        };
        plan.notes.push(format!("{}.{} has {what}: what it leaves out is in no event", sent.schema, sent.table));
    }
    Ok(plan)
}

fn not_ours(name: &str, key: &str) -> Definite {
    let quoted = quote_ident(name);
    let error =
        anyhow!("`{key}` can't be applied: pgsluice did not create the publication {quoted}, so it does not alter it");
    let hint = format!(
        "Filter in the publication (ALTER PUBLICATION {quoted} SET TABLE …), which pgsluice uses as it is, and remove \
         `source.filters`; or set `source.publication` to a name that pgsluice creates."
    );
    Definite::new(Kind::Source, error, hint)
}

/// Whether the rows of `table` come under a name that is selected.
fn sends(publication: &Publication, wanted: &Wanted, table: &Table) -> bool {
    let sent = |oid: u32| publication.sent.iter().any(|sent| sent.oid == oid);
    if sent(table.oid) {
        return true;
    }
    // Without publish_via_partition_root, rows come under their partition's name.
    let mut partitions = wanted.partitions_of(table.oid).peekable();
    table.partitioned
        && !publication.via_root
        && partitions.peek().is_some()
        && partitions.all(|partition| sent(partition.oid) && wanted.selected_partitions.contains(&partition.oid))
}

fn lacks_tables(name: &str, publication: &Publication, lacking: &[&Table]) -> Definite {
    let quoted = quote_ident(name);
    let error = anyhow!(
        "the publication {quoted} does not send {} under the name that is selected, so that changes would be missing",
        names(lacking.iter().copied())
    );
    let sent = |oid: &u32| publication.sent.iter().any(|sent| sent.oid == *oid);
    let hint = if !publication.via_root && lacking.iter().any(|table| table.partitioned) {
        format!(
            "Run ALTER PUBLICATION {quoted} SET (publish_via_partition_root = true); without it, rows come under their \
             partition's name. Or select every partition by its name too."
        )
    } else if publication.via_root && lacking.iter().any(|table| table.ancestors.iter().any(sent)) {
        format!(
            "Select the partitioned table, under whose name the rows of its partitions come; or run ALTER PUBLICATION \
             {quoted} SET (publish_via_partition_root = false);"
        )
    } else {
        format!(
            "pgsluice did not create this publication, so it does not alter it. Run {}; or select other tables, or set \
             `source.publication` to a name that pgsluice creates.",
            without_writers(
                lacking.iter().map(|table| table.quoted()),
                &format!("ALTER PUBLICATION {quoted} ADD TABLE {}", list(lacking))
            )
        )
    };
    Definite::new(Kind::Source, error, hint)
}

fn check_outbox(name: &str, publication: &Publication, oid: u32, needed: &[String]) -> Result<(), Definite> {
    let quoted = quote_ident(name);
    if publication.unpublished.contains(&"insert") {
        let error = anyhow!("the publication {quoted} does not publish inserts, of which the outbox consists");
        let hint = format!("Run ALTER PUBLICATION {quoted} SET (publish = 'insert, update, delete, truncate');");
        return Err(Definite::new(Kind::Source, error, hint));
    }
    let Some(sent) = publication.sent.iter().find(|sent| sent.oid == oid) else { return Ok(()) };
    let Some(columns) = &sent.columns else { return Ok(()) };
    let missing: Vec<&str> = needed.iter().filter(|column| !columns.contains(column)).map(String::as_str).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let error = anyhow!(
        "the publication {quoted} leaves out columns of the outbox table {}.{} that the configuration needs: {}",
        sent.schema,
        sent.table,
        missing.join(", ")
    );
    Err(Definite::new(Kind::Source, error, format!("Extend the table's column list in the publication {quoted}.")))
}

/// PostgreSQL rejects an UPDATE or DELETE whose row it can't identify to subscribers: it is the application
/// that would fail, and only once the publication is there.
fn warn_of_refused_updates(plan: &mut Plan, publication: Option<&Publication>, wanted: &Wanted) {
    let published = |operation| publication.is_none_or(|it| it.managed || !it.unpublished.contains(&operation));
    if !published("update") && !published("delete") {
        return;
    }
    let tables: Vec<&Table> = wanted.without_identity().collect();
    if tables.is_empty() {
        return;
    }
    let statements: Vec<String> =
        tables.iter().map(|table| format!("ALTER TABLE {} REPLICA IDENTITY FULL", table.quoted())).collect();
    let when = if plan.statements.is_empty() { "while" } else { "from now on, because" };
    plan.warnings.push(format!(
        "PostgreSQL rejects every UPDATE and DELETE on {} {when} they are published without a primary key or another \
         replica identity. Give them a primary key, or run {}; or exclude them from `source.tables`",
        names(tables.into_iter()),
        statements.join("; ")
    ));
}

/// A row of a partition is described by its root, but logged as the partition has it: `ALTER TABLE root REPLICA IDENTITY FULL`
/// leaves the partitions as they are, and an old row would seem whole, with nulls for all that was not logged.
fn warn_of_other_identities(plan: &mut Plan, wanted: &Wanted) {
    let partitions: Vec<&Table> = wanted.with_another_identity().collect();
    if let Some(first) = partitions.first() {
        plan.warnings.push(format!(
            "the replica identity of {} is not that of the partitioned table, under whose name the rows come: `before` and \
             `changed` will be wrong. Give partitions their table's, also those that are made later, as in ALTER TABLE {} \
             REPLICA IDENTITY FULL",
            names(partitions.iter().copied()),
            first.quoted()
        ));
    }
}

/// `ONLY`, because a table's inheritance children are tables of their own, selected or not.
fn list(tables: &[&Table]) -> String {
    only(tables.iter().map(|table| table.quoted()))
}

fn only<T: AsRef<str>>(tables: impl Iterator<Item = T>) -> String {
    joined(tables, "ONLY ")
}

fn joined<T: AsRef<str>>(tables: impl Iterator<Item = T>, before: &str) -> String {
    tables.map(|table| format!("{before}{}", table.as_ref())).collect::<Vec<_>>().join(", ")
}

fn names<'a>(tables: impl Iterator<Item = &'a Table>) -> String {
    tables.map(|table| format!("{}.{}", table.schema, table.name)).collect::<Vec<_>>().join(", ")
}

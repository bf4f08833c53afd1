//! The publication: what the server sends of the selected tables.
//!
//! Invariants: every selected table is in it under the name that the configuration selects, else its
//! changes would be missing without a sign; it never publishes all tables of its own accord; and only
//! a publication that carries our mark is ever altered. It must exist before the slot, whose decoding
//! looks it up as it was at each change. [`plan`] decides without IO, [`apply`] runs what it decided;
//! `open` calls both, between the judgement of the slot and its creation.

use anyhow::anyhow;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tracing::{info, warn};

use super::catalog::{Table, Wanted};
use super::ident::{quote_ident, quote_literal};
use super::preflight::{Server, sql_failure};
use crate::failure::{Definite, Failure, Kind};
use crate::lsn::Lsn;

/// How the comment of a publication begins that pgsluice may alter.
pub const MARK: &str = "managed by pgsluice";
/// The comment, with the way out of it. What follows is a [`Record`]: a table that somebody takes out, and be it for a
/// moment, has lost changes.
const COMMENT: &str = "managed by pgsluice: its tables follow the configuration; remove this comment to manage it yourself; tables as of ";
/// A publication locks its tables against VACUUM, not against writers; it must not queue for long behind DDL.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '10s'";

/// A publication as the server has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Publication {
    /// Carries our mark.
    pub managed: bool,
    /// `FOR ALL TABLES`
    pub all_tables: bool,
    /// Sends the rows of partitions under their root's name.
    pub via_root: bool,
    /// Sends the generated columns that are stored; none before PostgreSQL 18, which can't.
    pub generated: Option<bool>,
    /// Which of `insert`, `update`, `delete`, `truncate` it does not publish.
    pub unpublished: Vec<&'static str>,
    /// The tables under whose names rows are sent.
    pub sent: Vec<Sent>,
    /// The tables that were put into it one by one, as quoted names.
    pub members: Vec<(Membership, String)>,
    /// What was in it when we looked after it last; none when it is not ours.
    pub record: Option<Record>,
}

/// Which tables were in a publication of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When that was so.
    pub as_of: Lsn,
    /// Those that we have put into it, and not taken out.
    pub members: Vec<Membership>,
}

/// That a table is in the publication: another one once it was taken out and put back, or its row filter or columns
/// were changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    /// `pg_class.oid` of the table.
    pub table: u32,
    /// `pg_publication_rel.oid`
    pub entry: u32,
}

/// One row of `pg_publication_tables`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sent {
    /// Its `pg_class.oid`.
    pub oid: u32,
    /// Its schema, unquoted.
    pub schema: String,
    /// Its name, unquoted.
    pub table: String,
    /// Its columns in the stream; none before PostgreSQL 15, which sends all.
    pub columns: Option<Vec<String>>,
    /// Has a column list that leaves columns out.
    pub cut: bool,
    /// Has a row filter.
    pub filtered: bool,
}

/// What to do, and what to say about it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// To run in one transaction; none when the publication is fine as it is.
    pub statements: Vec<String>,
    /// What may surprise the user, or hurt the database.
    pub warnings: Vec<String>,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

/// Reads the publication called `name`; none when there is none.
///
/// # Errors
/// When the server can't answer.
pub async fn read(client: &Client, name: &str) -> Result<Option<Publication>, Failure> {
    let failed = |error: tokio_postgres::Error| sql_failure("reading the publication", &error);
    let sql = "SELECT COALESCE(obj_description(oid, 'pg_publication'), ''), puballtables, pubviaroot, \
                      pubinsert, pubupdate, pubdelete, pubtruncate, \
                      to_json(p) ->> 'pubgencols' = 's' FROM pg_publication p WHERE pubname = $1";
    let Some(row) = client.query_opt(sql, &[&name]).await.map_err(failed)? else { return Ok(None) };
    let head = || {
        let comment: String = row.try_get(0)?;
        let mut unpublished = Vec::new();
        for (index, operation) in (3..).zip(["insert", "update", "delete", "truncate"]) {
            if !row.try_get::<_, bool>(index)? {
                unpublished.push(operation);
            }
        }
        Ok(Publication {
            managed: comment.starts_with(MARK),
            record: record(&comment),
            all_tables: row.try_get(1)?,
            via_root: row.try_get(2)?,
            generated: row.try_get(7)?,
            unpublished,
            sent: Vec::new(),
            members: Vec::new(),
        })
    };
    let mut publication = head().map_err(failed)?;
    publication.sent = sent(client, name).await.map_err(failed)?;
    publication.members = members(client, name).await.map_err(failed)?;
    Ok(Some(publication))
}

async fn sent(client: &Client, name: &str) -> Result<Vec<Sent>, tokio_postgres::Error> {
    // Column lists and row filters came with PostgreSQL 15; asked through JSON, one statement serves all versions.
    let sql = "\
        SELECT c.oid, p.schemaname::text, \
               ARRAY(SELECT json_array_elements_text(to_json(p) -> 'attnames') \
                     WHERE json_typeof(to_json(p) -> 'attnames') = 'array'), \
               to_json(p) ->> 'attnames' IS NOT NULL, to_json(p) ->> 'rowfilter' IS NOT NULL, \
               EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
                       AND a.attgenerated = '' AND NOT to_jsonb(p) -> 'attnames' ? a.attname), p.tablename::text \
        FROM pg_publication_tables p JOIN pg_namespace n ON n.nspname = p.schemaname \
             JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename \
        WHERE p.pubname = $1 ORDER BY p.schemaname, p.tablename";
    let read = |row: &tokio_postgres::Row| {
        let columns: Vec<String> = row.try_get(2)?;
        let listed: bool = row.try_get(3)?;
        let cut = listed && row.try_get(5)?;
        let columns = listed.then_some(columns);
        let (schema, table): (String, String) = (row.try_get(1)?, row.try_get(6)?);
        Ok(Sent { oid: row.try_get(0)?, schema, table, columns, cut, filtered: row.try_get(4)? })
    };
    client.query(sql, &[&name]).await?.iter().map(read).collect()
}

async fn members(client: &Client, name: &str) -> Result<Vec<(Membership, String)>, tokio_postgres::Error> {
    let sql = "SELECT r.prrelid, r.oid, format('%I.%I', n.nspname, c.relname) FROM pg_publication_rel r \
               JOIN pg_publication p ON p.oid = r.prpubid JOIN pg_class c ON c.oid = r.prrelid \
               JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = $1 ORDER BY 3";
    let read = |row: &tokio_postgres::Row| {
        Ok((Membership { table: row.try_get(0)?, entry: row.try_get(1)? }, row.try_get(2)?))
    };
    client.query(sql, &[&name]).await?.iter().map(read).collect()
}

/// `… tables as of 0/16B3748: 16390:16401 16395:16402`
fn record(comment: &str) -> Option<Record> {
    let membership = |text: &str| {
        let (table, entry) = text.split_once(':')?;
        Some(Membership { table: table.parse().ok()?, entry: entry.parse().ok()? })
    };
    let (as_of, members) = comment.strip_prefix(COMMENT)?.split_once(": ")?;
    Some(Record { as_of: as_of.parse().ok()?, members: members.split(' ').filter_map(membership).collect() })
}

/// What was taken out of a publication of ours behind our back, if only for a moment: of the tables that are on record,
/// those which still exist; and what else decides which changes come.
///
/// # Errors
/// When the server can't answer.
pub async fn removed(client: &Client, record: &Record, now: &Publication) -> Result<Vec<String>, Failure> {
    let is_in = |before: &&Membership| now.members.iter().any(|(member, _)| member == *before);
    let tables = record.members.iter().filter(|before| !is_in(before)).map(|before| before.table).collect();
    let mut removed = existing(client, tables).await?;
    removed.extend(now.unpublished.iter().map(|operation| format!("every {operation}")));
    if !now.via_root {
        removed.push("the rows of partitions under their root's name".to_owned());
    }
    Ok(removed)
}

/// Which of the tables that were sent are sent no more, and still exist.
///
/// # Errors
/// When the server can't answer.
pub async fn unsent(client: &Client, before: &[u32], now: &Publication) -> Result<Vec<String>, Failure> {
    let is_sent = |before: &&u32| now.sent.iter().any(|sent| sent.oid == **before);
    existing(client, before.iter().filter(|before| !is_sent(before)).copied().collect()).await
}

async fn existing(client: &Client, tables: Vec<u32>) -> Result<Vec<String>, Failure> {
    if tables.is_empty() {
        return Ok(Vec::new());
    }
    // One that was dropped as a table has left it by that.
    let sql = "SELECT format('%s.%s', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.oid = ANY($1) ORDER BY 1";
    let failed = |error: tokio_postgres::Error| sql_failure("looking for tables that left the publication", &error);
    let rows = client.query(sql, &[&tables]).await.map_err(failed)?;
    rows.iter().map(|row| row.try_get(0).map_err(failed)).collect()
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

/// Says what is planned, then does it.
///
/// # Errors
/// Definite without the privilege, with the statements for somebody who has it.
pub async fn apply(client: &Client, name: &str, plan: &Plan) -> Result<(), Failure> {
    for warning in &plan.warnings {
        warn!(publication = name, "{warning}");
    }
    for note in &plan.notes {
        info!(publication = name, "{note}");
    }
    if plan.statements.is_empty() {
        return Ok(());
    }
    for statement in &plan.statements {
        info!(publication = name, statement, "changing the publication");
    }
    // Several statements in one message are one transaction.
    let script = format!("{LOCK_TIMEOUT}; {}; {}", plan.statements.join("; "), write_record(name));
    client.batch_execute(&script).await.map_err(|error| refused(name, plan, &error))
}

/// Writes down which tables are in it now, unless that is on record.
///
/// # Errors
/// Definite when it is not ours.
pub async fn keep_record(client: &Client, name: &str, publication: &Publication) -> Result<(), Failure> {
    let members = publication.members.iter().map(|(member, _)| member);
    let is_kept = publication.record.as_ref().is_some_and(|record| {
        record.members.len() == publication.members.len() && members.clone().all(|it| record.members.contains(it))
    });
    if is_kept || !publication.managed { Ok(()) } else { renew_record(client, name).await }
}

/// Writes down which tables are in a publication of ours, whatever was on record.
///
/// # Errors
/// Definite when it is not ours.
pub async fn renew_record(client: &Client, name: &str) -> Result<(), Failure> {
    let failed = |error: tokio_postgres::Error| sql_failure("keeping the record of the publication's tables", &error);
    client.batch_execute(&format!("{LOCK_TIMEOUT}; {}", write_record(name))).await.map_err(failed)
}

fn write_record(name: &str) -> String {
    let [name, comment] = [name, COMMENT].map(quote_literal);
    let tables = format!(
        "SELECT string_agg(r.prrelid || ':' || r.oid, ' ' ORDER BY r.prrelid) FROM pg_publication_rel r \
         JOIN pg_publication p ON p.oid = r.prpubid WHERE p.pubname = {name}"
    );
    format!(
        "DO $record$ BEGIN EXECUTE format('COMMENT ON PUBLICATION %I IS %L', {name}, \
         {comment} || pg_current_wal_lsn() || ': ' || COALESCE(({tables}), '')); END $record$"
    )
}

fn refused(name: &str, plan: &Plan, error: &tokio_postgres::Error) -> Failure {
    let failure = sql_failure(&format!("can't create or change the publication \"{name}\""), error);
    let Failure::Definite(definite) = failure else { return failure };
    match error.code() {
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            let hint = format!(
                "A publication takes CREATE on the database and ownership of its tables. Let somebody who has both run: \
                 {};",
                plan.statements.join("; ")
            );
            Definite { hint, ..definite }.into()
        }
        // Another pgsluice was quicker, a table went away between, or DDL holds it: look again.
        Some(
            &SqlState::DUPLICATE_OBJECT
            | &SqlState::UNDEFINED_TABLE
            | &SqlState::UNDEFINED_OBJECT
            | &SqlState::LOCK_NOT_AVAILABLE,
        ) => Failure::Transient(definite.error),
        Some(_) | None => definite.into(),
    }
}

/// What a publication of ours sends.
const PARAMETERS: &str = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true";
/// Before it is there, generated columns are in no stream; virtual ones never are.
const GENERATED: &str = ", publish_generated_columns = stored";

fn create(name: &str, wanted: &Wanted, server: &Server) -> Plan {
    let tables = if wanted.tables.is_empty() { String::new() } else { format!(" FOR TABLE {}", list(&wanted.tables)) };
    let quoted = quote_ident(name);
    let generated = if server.version >= 180_000 { GENERATED } else { "" };
    let statements = vec![format!("CREATE PUBLICATION {quoted}{tables} WITH ({PARAMETERS}{generated})")];
    let mut plan = Plan { statements, ..Plan::default() };
    if wanted.tables.is_empty() {
        plan.warnings.push("no table matches the configured patterns, so that no rows are published yet".to_owned());
    }
    plan
}

/// Brings a publication of ours up to the configuration.
fn alter(name: &str, publication: &Publication, wanted: &Wanted) -> Plan {
    let quoted = quote_ident(name);
    let is_member = |oid: u32| publication.members.iter().any(|(member, _)| member.table == oid);
    let added: Vec<Table> = wanted.tables.iter().filter(|table| !is_member(table.oid)).cloned().collect();
    let is_wanted = |oid: u32| wanted.tables.iter().any(|table| table.oid == oid);
    let dropped: Vec<String> = publication
        .members
        .iter()
        .filter(|(member, _)| !is_wanted(member.table))
        .map(|(_, quoted)| format!("ONLY {quoted}"))
        .collect();
    let mut plan = Plan::default();
    if !added.is_empty() {
        plan.statements.push(format!("ALTER PUBLICATION {quoted} ADD TABLE {}", list(&added)));
        plan.notes.push(format!("{} published from now on: earlier rows are not sent", names(added.iter())));
    }
    if !dropped.is_empty() {
        plan.statements.push(format!("ALTER PUBLICATION {quoted} DROP TABLE {}", dropped.join(", ")));
    }
    if !publication.via_root || !publication.unpublished.is_empty() || publication.generated == Some(false) {
        let generated = if publication.generated.is_some() { GENERATED } else { "" };
        plan.statements.push(format!("ALTER PUBLICATION {quoted} SET ({PARAMETERS}{generated})"));
    }
    plan
}

/// A publication of the user's: whatever it lacks is an error, whatever it has more is skipped.
fn use_as_it_is(name: &str, publication: &Publication, wanted: &Wanted) -> Result<Plan, Definite> {
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
        let tables: Vec<Table> = lacking.iter().map(|table| (*table).clone()).collect();
        format!(
            "pgsluice did not create this publication, so it does not alter it. Run ALTER PUBLICATION {quoted} ADD TABLE \
             {}; or select other tables, or set `source.publication` to a name that pgsluice creates.",
            list(&tables)
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
fn list(tables: &[Table]) -> String {
    tables.iter().map(|table| format!("ONLY {}", table.quoted())).collect::<Vec<_>>().join(", ")
}

fn names<'a>(tables: impl Iterator<Item = &'a Table>) -> String {
    tables.map(|table| format!("{}.{}", table.schema, table.name)).collect::<Vec<_>>().join(", ")
}

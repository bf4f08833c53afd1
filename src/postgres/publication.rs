//! The publication: what the server sends of the selected tables.
//!
//! Invariants: every selected table is in it under the name that the configuration selects, else its
//! changes would be missing without a sign; it never publishes all tables of its own accord; and only
//! a publication that carries our mark is ever altered. It must exist before the slot, whose decoding
//! looks it up as it was at each change. [`plan`](plan()) decides without IO, [`apply`] runs what it decided;
//! `open` calls both, between the judgement of the slot and its creation. `record` remembers what was in it.

mod plan;
mod record;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::catalog::Wanted;
use super::filters::{self, Filter};
use super::ident::quote_qualified;
use super::preflight::sql_failure;
use crate::config::{OutboxSettings, RuleSettings, SourceSettings};
use crate::failure::{Definite, Failure};

pub use plan::{Plan, Statement, plan};
pub use record::{MARK, Record, Recorded, digest, keep_record, removed, renew_record, unsent};

/// A publication locks its tables against VACUUM; it must not queue for long behind DDL.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '10s'";
/// Whoever waits for a lock of ours must not wait for a host of ours that has vanished.
const IDLE_TIMEOUT: &str = "SET LOCAL idle_in_transaction_session_timeout = '10s'";

/// Writers have to wait behind us while we wait for one that is open: for less than `deadlock_timeout`, so that it is never the
/// application's transaction that is ended.
const WRITERS_TIMEOUT: &str = "SELECT set_config('statement_timeout', LEAST(500, GREATEST(1, setting::int / 2))::text, true) \
     FROM pg_settings WHERE name = 'deadlock_timeout'";
/// And while we have the lock.
const LOCKED_TIMEOUTS: &str = "SET LOCAL statement_timeout = '30s'; SET LOCAL lock_timeout = '500ms'";

/// The name of a table, as the configuration has it, without wildcards.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Its schema, unquoted.
    pub schema: String,
    /// Its name, unquoted.
    pub table: String,
}

impl Name {
    fn is(&self, schema: &str, table: &str) -> bool {
        self.schema == schema && self.table == table
    }

    fn quoted(&self) -> String {
        quote_qualified(&self.schema, &self.table)
    }
}

/// The tables that the configuration names one by one.
#[must_use]
pub fn named(settings: &SourceSettings, outboxes: &[OutboxSettings], rules: &[RuleSettings]) -> Vec<Name> {
    let of_outboxes = outboxes.iter().filter_map(OutboxSettings::table);
    let of_outboxes = of_outboxes.map(|table| (table.schema.clone(), table.table.clone()));
    let of_rules = rules.iter().flat_map(|rule| rule.tables.named());
    let all = settings.tables.named().chain(of_rules).chain(of_outboxes);
    let mut named: Vec<Name> = all.map(|(schema, table)| Name { schema, table }).collect();
    named.sort();
    named.dedup();
    named
}

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
    /// The tables that were put into it one by one.
    pub members: Vec<Member>,
    /// The schemas that were put into it as a whole, unquoted.
    pub schemas: Vec<String>,
    /// What was in it when we looked after it last; none when it is not ours.
    pub record: Option<Record>,
}

impl Publication {
    /// Whether it sends a table of that name, by itself or as a part of another.
    fn has(&self, name: &Name) -> bool {
        let quoted = name.quoted();
        self.sent.iter().any(|sent| name.is(&sent.schema, &sent.table))
            || self.members.iter().any(|member| member.quoted == quoted)
    }

    /// The tables that are sent by another name than is on record, unless another has that one now.
    pub fn renamed(&self) -> impl Iterator<Item = &Sent> {
        record::renamed(self)
    }

    /// The digest of a member's row filter, if that is as we have made it.
    fn rows_on_record(&self, member: &Member) -> Option<&str> {
        let record = self.record.as_ref()?;
        let recorded = record.members.iter().find(|recorded| recorded.membership == member.membership)?;
        recorded.rows.as_deref()
    }
}

/// A table that was put into a publication by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// That it is in it.
    pub membership: Membership,
    /// As SQL has it, quoted.
    pub quoted: String,
    /// Its column list, in the order of the bytes; none: all columns.
    pub columns: Option<Vec<String>>,
    /// Its row filter, as PostgreSQL writes it; none: all rows.
    pub rows: Option<String>,
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

/// Reads the publication called `name`; none when there is none.
///
/// # Errors
/// When the server can't answer.
pub async fn read(client: &Client, name: &str) -> Result<Option<Publication>, Failure> {
    let failed = |error: tokio_postgres::Error| sql_failure("reading the publication", &error);
    let sql = "SELECT COALESCE(obj_description(oid, 'pg_publication'), ''), puballtables, pubviaroot, \
                      pubinsert, pubupdate, pubdelete, pubtruncate, \
                      to_json(p) ->> 'pubgencols' = 's' \
               FROM pg_publication p WHERE pubname = $1";
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
            record: record::parse(&comment),
            all_tables: row.try_get(1)?,
            via_root: row.try_get(2)?,
            generated: row.try_get(7)?,
            unpublished,
            sent: Vec::new(),
            members: Vec::new(),
            schemas: Vec::new(),
        })
    };
    let mut publication = head().map_err(failed)?;
    publication.sent = sent(client, name).await.map_err(failed)?;
    let has_filters = has_filters(client).await.map_err(failed)?;
    publication.members = members(client, name, has_filters).await.map_err(failed)?;
    if has_filters {
        publication.schemas = schemas(client, name).await.map_err(failed)?;
    }
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

/// Its members, by oid.
async fn members(client: &Client, name: &str, has_filters: bool) -> Result<Vec<Member>, tokio_postgres::Error> {
    let filters = if has_filters {
        "CASE WHEN r.prattrs IS NOT NULL THEN ARRAY(SELECT a.attname::text FROM pg_attribute a \
         WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs) ORDER BY a.attname::text COLLATE \"C\") END, \
         pg_get_expr(r.prqual, r.prrelid)"
    } else {
        "NULL::text[], NULL::text"
    };
    let sql = format!(
        "SELECT r.prrelid, r.oid, n.nspname::text, c.relname::text, {filters} FROM pg_publication_rel r \
         JOIN pg_publication p ON p.oid = r.prpubid JOIN pg_class c ON c.oid = r.prrelid \
         JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = $1 ORDER BY r.prrelid"
    );
    let read = |row: &tokio_postgres::Row| {
        let membership = Membership { table: row.try_get(0)?, entry: row.try_get(1)? };
        let quoted = quote_qualified(row.try_get(2)?, row.try_get(3)?);
        Ok(Member { membership, quoted, columns: row.try_get(4)?, rows: row.try_get(5)? })
    };
    client.query(&sql, &[&name]).await?.iter().map(read).collect()
}

async fn schemas(client: &Client, name: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let sql = "SELECT n.nspname::text FROM pg_publication_namespace s JOIN pg_publication p ON p.oid = s.pnpubid \
               JOIN pg_namespace n ON n.oid = s.pnnspid WHERE p.pubname = $1 ORDER BY 1";
    client.query(sql, &[&name]).await?.iter().map(|row| row.try_get(0)).collect()
}

/// Row filters, column lists and whole schemas came with PostgreSQL 15.
async fn has_filters(client: &Client) -> Result<bool, tokio_postgres::Error> {
    let sql = "SELECT current_setting('server_version_num')::int >= 150000";
    client.query_one(sql, &[]).await?.try_get(0)
}

/// Does what is planned, as a whole or not at all; not, and then gives false, while a transaction is open that has written to one
/// of [`Plan::locked`].
///
/// # Errors
/// Definite without the privilege, with the statements for somebody who has it; and for a filter with which PostgreSQL would
/// reject the application's own UPDATEs.
pub async fn apply(client: &Client, name: &str, plan: &Plan, wanted: &Wanted) -> Result<bool, Failure> {
    if plan.statements.is_empty() {
        return Ok(true);
    }
    let failed = |error: tokio_postgres::Error| sql_failure("changing the publication", &error);
    client.batch_execute(&format!("BEGIN; {LOCK_TIMEOUT}; {IDLE_TIMEOUT}")).await.map_err(failed)?;
    let done = change(client, name, plan, wanted).await;
    let end = if matches!(done, Ok(true)) { "COMMIT" } else { "ROLLBACK" };
    client.batch_execute(end).await.map_err(failed).and(done)
}

async fn change(client: &Client, name: &str, plan: &Plan, wanted: &Wanted) -> Result<bool, Failure> {
    if !lock_out_writers(client, name, plan).await? {
        return Ok(false);
    }
    for statement in &plan.statements {
        // Prepared, it is one statement, whatever the text of a filter says.
        let done = client.execute(&statement.sql, &[]).await;
        done.map_err(|error| refused(name, plan, statement.filter.as_deref(), &error))?;
    }
    let is_altered =
        |filter: &&Filter| plan.statements.iter().any(|it| it.filter.as_ref() == Some(&filter.settings.key));
    let altered: Vec<&Filter> = wanted.filters.iter().filter(is_altered).collect();
    if !altered.is_empty() {
        for unfit in filters::unfit(client, name).await? {
            if let Some(filter) = altered.iter().find(|filter| filter.table == unfit.table) {
                return Err(unfit.refuse(&filter.settings.key).into());
            }
        }
    }
    record::write_altered(client, name, wanted).await.and(Ok(true))
}

/// Keeps all others from writing to the tables of `plan` until our transaction ends. What PostgreSQL sends of one that spans it
/// depends on what the session has decoded before, and a checkpoint counts the changes of a transaction.
async fn lock_out_writers(client: &Client, name: &str, plan: &Plan) -> Result<bool, Failure> {
    if plan.locked.is_empty() {
        return Ok(true);
    }
    let failed = |error: tokio_postgres::Error| refused(name, plan, None, &error);
    let lock = |mode| plan::lock(plan.locked.values(), mode);
    // A VACUUM is waited for before writers have to wait for us; an autovacuum gives way.
    for sql in [&lock("SHARE UPDATE EXCLUSIVE"), WRITERS_TIMEOUT, &lock(plan::NO_WRITERS), LOCKED_TIMEOUTS] {
        match client.batch_execute(sql).await {
            Err(error) if matches!(error.code(), Some(&SqlState::QUERY_CANCELED | &SqlState::LOCK_NOT_AVAILABLE)) => {
                return Ok(false);
            }
            done => done.map_err(failed)?,
        }
    }
    Ok(true)
}

/// A transaction that is open and has written to a table.
#[derive(Debug, Clone)]
pub struct Writer {
    /// `pg_locks.virtualtransaction`
    transaction: String,
    /// For a person.
    pub who: String,
}

impl Writer {
    /// Is the same transaction.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.transaction == other.transaction
    }
}

/// Who is in the way of locking these tables (`pg_class.oid`) and their partitions.
///
/// # Errors
/// When the server can't answer.
pub async fn writers(client: &Client, tables: impl Iterator<Item = u32>) -> Result<Vec<Writer>, Failure> {
    let sql = "\
        WITH RECURSIVE tables (oid) AS (
            SELECT unnest($1::oid[]) UNION SELECT inhrelid FROM pg_inherits JOIN tables ON inhparent = oid)
        SELECT l.virtualtransaction, string_agg(DISTINCT CASE WHEN l.pid IS NULL
                   THEN 'a prepared transaction (pg_prepared_xacts)'
                   ELSE format('PID %s (user %s, %s, since %s)', l.pid, COALESCE(a.usename, 'unknown'),
                               COALESCE(a.state, 'unknown'), COALESCE(a.xact_start::timestamptz(0)::text, 'unknown'))
               END, ', ')
        FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.relation IN (SELECT oid FROM tables) AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
              AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')
              AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        GROUP BY 1 ORDER BY 1";
    let failed = |error: tokio_postgres::Error| sql_failure("looking for open transactions", &error);
    let read = |row: &tokio_postgres::Row| Ok(Writer { transaction: row.try_get(0)?, who: row.try_get(1)? });
    let tables: Vec<u32> = tables.collect();
    client.query(sql, &[&tables]).await.and_then(|rows| rows.iter().map(read).collect()).map_err(failed)
}

fn refused(name: &str, plan: &Plan, filter: Option<&str>, error: &tokio_postgres::Error) -> Failure {
    let doing = match filter {
        Some(key) => format!("PostgreSQL refuses the filter `{key}`"),
        None => format!("can't create or change the publication \"{name}\""),
    };
    let failure = sql_failure(&doing, error);
    let Failure::Definite(definite) = failure else { return failure };
    match error.code() {
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            let is_filtered = plan.statements.iter().any(|statement| statement.filter.is_some());
            let then = if is_filtered { " The publication is yours then: remove `source.filters`." } else { "" };
            let hint = format!(
                "A publication takes CREATE on the database, ownership of its tables, and the right to write to them. Let \
                 somebody who has all that run: {};{then}",
                plan.script()
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
        Some(_) | None if filter.is_some() => Definite { hint: filters::ROWS_HINT.to_owned(), ..definite }.into(),
        Some(_) | None => definite.into(),
    }
}

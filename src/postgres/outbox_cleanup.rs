//! Deletes the rows of an outbox that were published, in small transactions beside the stream.
//!
//! Invariants: only rows that `cleanup` handed out, by their ids; no lock is waited for or held for long; and trouble here is
//! logged and waited out, never the pipeline's: the rows stay, which is all that it costs. A row that can't be deleted is in
//! the way of no other. `refusal` says what an error is about, `aside` keeps what is tried again.

mod aside;
mod refusal;

use std::collections::HashSet;
use std::time::Duration;

use anyhow::anyhow;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_postgres::Client;

use self::aside::Aside;
use self::refusal::{is_of_rows, refused};
use super::conninfo::Conninfo;
use super::ident::{quote_ident, quote_qualified};
use super::preflight::sql_failure;
use super::sql;
use crate::backoff::Backoff;
use crate::cleanup::Cleanup;
use crate::config::{CleanupSettings, OutboxSettings, Settings};
use crate::failure::{Failure, Kind};

/// So many rows are on their way here.
const CHANNEL_ROWS: usize = 10_000;
/// A deletion that has to wait for a lock is tried again later; one that takes so long, too. It costs the database no
/// flush of the WAL: a row that comes back with a crash is only left in the table. A policy that hides rows must not hide
/// them silently.
const SESSION: &str =
    "SET lock_timeout = '500ms'; SET statement_timeout = '10s'; SET synchronous_commit = off; SET row_security = off";
/// Between two attempts.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// A session that is not used for so long is ended: it would hold up a smart shutdown of the server.
const LINGER: Duration = Duration::from_secs(3);
/// How long the end waits for what is passed by then.
const END_LIMIT: Duration = Duration::from_secs(5);
/// So many rows are found in one go to be in the way; the others that may be are looked for in the next.
const ALONE_MAX: usize = 16;
const RIGHTS: &str = "the role needs SELECT and DELETE on it";
const OWNERSHIP: &str = "the role needs to own the outbox and its partitions";
const LEFT: &str = "stopped before all published rows of the outbox were deleted; they are left in the table";

/// Deletes, until the [`Cleanup`] that it came with is dropped.
pub struct Cleaner(JoinSet<()>);

impl Cleaner {
    /// Starts it, if one of the outboxes is to be cleaned; each by itself. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(settings: &Settings) -> Option<(Cleanup, Self)> {
        let mut tasks = JoinSet::new();
        let senders: Vec<_> = settings
            .outboxes
            .iter()
            .map(|outbox| {
                let (sender, receiver) = mpsc::channel(CHANNEL_ROWS);
                let conninfo = settings.source.conninfo.clone();
                tasks.spawn(Work::new(conninfo, outbox, receiver)?.run());
                Some(sender)
            })
            .collect();
        (!tasks.is_empty()).then(|| (Cleanup::new(senders), Self(tasks)))
    }

    /// Waits for the last rows, for a while.
    pub async fn finish(mut self) {
        let all = async { while self.0.join_next().await.is_some() {} };
        if timeout(END_LIMIT, all).await.is_err() {
            tracing::warn!("{LEFT}");
        }
    }
}

/// The clean-up of one outbox.
struct Work {
    conninfo: Conninfo,
    schema: String,
    table: String,
    /// The id's column.
    id: String,
    cleanup: CleanupSettings,
    receiver: mpsc::Receiver<String>,
    session: Option<Client>,
    aside: Aside,
    /// What was warned of, since all was well; none: an error without a SQLSTATE.
    told: HashSet<Option<String>>,
    /// Partitions could not be dropped: when that is tried again.
    partitions: Option<(Instant, Backoff)>,
}

/// What to delete.
enum Batch {
    /// What has come.
    New(Vec<String>),
    /// What was put aside and is due; maybe nothing.
    Again(Vec<String>),
}

/// Why rows could not be deleted now.
struct Trouble {
    failure: Failure,
    /// The SQLSTATE, if there is one.
    code: Option<String>,
    /// One of the rows may be to blame, or their number.
    is_of_rows: bool,
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self { failure, code: None, is_of_rows: false }
    }
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        Self {
            code: error.code().map(|code| code.code().to_owned()),
            is_of_rows: is_of_rows(&error),
            failure: refused(error, RIGHTS),
        }
    }
}

impl Work {
    fn new(conninfo: Conninfo, outbox: &OutboxSettings, receiver: mpsc::Receiver<String>) -> Option<Self> {
        let table = outbox.table()?;
        Some(Self {
            conninfo,
            schema: table.schema.clone(),
            table: table.table.clone(),
            id: outbox.columns.id.clone(),
            cleanup: table.cleanup?,
            receiver,
            session: None,
            aside: Aside::new(RETRY),
            told: HashSet::new(),
            partitions: None,
        })
    }

    async fn run(mut self) {
        while let Some(batch) = self.batch().await {
            match batch {
                Batch::New(ids) => _ = self.delete_all(ids).await,
                Batch::Again(ids) => self.delete_again(ids).await,
            }
            if self.aside.is_empty() {
                self.told.clear();
            }
            if let Some(after) = self.cleanup.drop_partitions_after {
                self.drop_partitions_now_and_then(after).await;
            }
        }
        let rest = self.aside.take(usize::MAX);
        self.delete_again(rest).await;
        if !self.aside.is_empty() {
            tracing::warn!("{LEFT}");
        }
    }

    /// What comes within the interval, up to the batch's size, or what is to be tried again. None at the end.
    async fn batch(&mut self) -> Option<Batch> {
        let partitions_due = self.partitions.as_ref().map(|(due, _)| *due);
        let due = self.aside.due().into_iter().chain(partitions_due).min();
        // New rows may come without end.
        if due.is_some_and(|due| due <= Instant::now()) {
            return Some(self.due());
        }
        let first = loop {
            let unused = self.session.as_ref().map(|_| Instant::now() + LINGER);
            let Some(until) = due.into_iter().chain(unused).min() else { break self.receiver.recv().await };
            match timeout_at(until, self.receiver.recv()).await {
                Ok(first) => break first,
                Err(_) if due.is_some_and(|due| due <= Instant::now()) => return Some(self.due()),
                Err(_) => self.session = None,
            }
        };
        let mut ids = vec![first?];
        let until = Instant::now() + self.cleanup.every;
        if self.cleanup.every > LINGER {
            self.session = None;
        }
        while ids.len() < self.cleanup.batch_rows
            && let Ok(Some(id)) = timeout_at(until, self.receiver.recv()).await
        {
            ids.push(id);
        }
        Some(Batch::New(ids))
    }

    fn due(&mut self) -> Batch {
        let is_due = self.aside.due().is_some_and(|due| due <= Instant::now());
        Batch::Again(if is_due { self.aside.take(self.cleanup.batch_rows) } else { Vec::new() })
    }

    async fn delete_again(&mut self, ids: Vec<String>) {
        if !ids.is_empty() {
            let has_deleted = self.delete_all(ids).await;
            self.aside.tried(has_deleted);
        }
    }

    /// Rows that are in the way of others are found by halves, and put aside. What concerns all rows is waited out, however
    /// long it takes. Whether any were deleted.
    async fn delete_all(&mut self, ids: Vec<String>) -> bool {
        let (mut backoff, mut alone, mut has_deleted) = (Backoff::new(RETRY.0, RETRY.1), 0, false);
        let mut parts = vec![ids];
        while let Some(mut ids) = parts.pop() {
            let Err(Trouble { failure, code, is_of_rows }) = self.delete(&ids).await else {
                backoff.reset();
                has_deleted = true;
                continue;
            };
            if self.told.insert(code) {
                self.tell(&failure, "can't delete published rows of the outbox; trying again");
            }
            if !is_of_rows {
                parts.push(ids);
                self.session = None;
                sleep(backoff.next_wait()).await;
            } else if ids.len() == 1 {
                alone += 1;
                self.aside.put_last(ids.remove(0));
            } else if alone < ALONE_MAX {
                parts.push(ids.split_off(ids.len() / 2));
                parts.push(ids);
            } else {
                self.aside.put_first(ids);
            }
        }
        has_deleted
    }

    /// After each batch; and where it fails, after a while: it takes a lock that the application waits for.
    async fn drop_partitions_now_and_then(&mut self, after: Duration) {
        if self.partitions.as_ref().is_some_and(|(due, _)| *due > Instant::now()) {
            return;
        }
        let Err(failure) = self.drop_partitions(after).await else {
            self.partitions = None;
            return;
        };
        let mut backoff = if let Some((_, backoff)) = self.partitions.take() {
            backoff
        } else {
            self.tell(&failure, "can't drop empty partitions of the outbox; trying again");
            Backoff::new(RETRY.0, RETRY.1)
        };
        self.partitions = Some((Instant::now() + backoff.next_wait(), backoff));
    }

    fn tell(&self, failure: &Failure, what: &str) {
        let hint = match failure {
            Failure::Definite(definite) => definite.hint.as_ref(),
            Failure::Transient(_) => "see whether PostgreSQL is there, and its log at this time",
        };
        tracing::warn!(
            error = format!("{failure:#}"),
            table = format!("{}.{}", self.schema, self.table),
            hint,
            "{what}"
        );
    }

    async fn session(&mut self) -> Result<&mut Client, Failure> {
        self.session.take_if(|client| client.is_closed());
        match &mut self.session {
            Some(client) => Ok(client),
            none => {
                let client = sql::connect(&self.conninfo).await?;
                client.batch_execute(SESSION).await.map_err(failed)?;
                Ok(none.insert(client))
            }
        }
    }

    async fn delete(&mut self, ids: &[String]) -> Result<(), Trouble> {
        let (schema, table, id) = (self.schema.clone(), self.table.clone(), self.id.clone());
        let client = self.session().await?;
        // A partitioned table's unique index has the partition's columns, too.
        let sql = "SELECT format_type(atttypid, atttypmod), EXISTS (SELECT FROM pg_index i WHERE indrelid = c.oid \
                   AND indisunique AND indisvalid AND indpred IS NULL AND indkey[0] = attnum \
                   AND (indnkeyatts = 1 OR relkind = 'p')) \
                   FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
                   WHERE nspname = $1 AND relname = $2 AND attname = $3 AND NOT attisdropped";
        let row = client.query_opt(sql, &[&schema, &table, &id]).await.map_err(failed)?;
        let Some(row) = row else {
            let error = anyhow!("the table {schema}.{table} has no column \"{id}\"");
            return Err(Failure::definite(Kind::Usage, error, "see outbox.columns.id").into());
        };
        let id_type: String = row.try_get(0).map_err(failed)?;
        if !row.try_get::<_, bool>(1).map_err(failed)? {
            // Another row of the same id may not be published; and every batch would read the whole table.
            let error = anyhow!("no unique index of {schema}.{table} is on \"{id}\", by which rows are deleted");
            let hint = "make it the primary key, or create a unique index on it alone";
            return Err(Failure::definite(Kind::Usage, error, hint).into());
        }
        let (table, id) = (quote_qualified(&schema, &table), quote_ident(&id));
        // As the type itself, so that the index is used.
        let sql = format!("DELETE FROM {table} WHERE {id} = ANY ($1::text[]::{id_type}[])");
        client.execute(&sql, &[&ids]).await?;
        Ok(())
    }

    /// An empty partition holds nothing that was not published, whenever it was written.
    ///
    /// # Errors
    /// The first partition's that can't be dropped, once all were tried.
    async fn drop_partitions(&mut self, after: Duration) -> Result<(), Failure> {
        let (schema, table) = (self.schema.clone(), self.table.clone());
        let client = self.session().await?;
        // The upper bound reads `… TO ('2026-11-21 00:00:00+00')`, or MAXVALUE.
        let sql = "SELECT quote_ident(pn.nspname) || '.' || quote_ident(p.relname) FROM pg_class c \
               JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_partitioned_table t ON t.partrelid = c.oid \
               JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = t.partattrs[0] \
               JOIN pg_inherits i ON i.inhparent = c.oid JOIN pg_class p ON p.oid = i.inhrelid \
               JOIN pg_namespace pn ON pn.oid = p.relnamespace, \
               LATERAL substring(pg_get_expr(p.relpartbound, p.oid) from $$TO \\('([^']*)'\\)$$) AS bound \
               WHERE n.nspname = $1 AND c.relname = $2 AND p.relkind = 'r' AND t.partstrat = 'r' AND t.partnatts = 1 \
               AND CASE WHEN a.atttypid IN ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype) \
               THEN bound::timestamptz < now() - $3::text::interval ELSE false END";
        let after = format!("{} milliseconds", after.as_millis());
        let rows = client.query(sql, &[&schema, &table, &after]).await.map_err(failed)?;
        let mut result = Ok(());
        for row in rows {
            let partition: String = row.try_get(0).map_err(failed)?;
            let dropped = drop_if_empty(client, &quote_qualified(&schema, &table), &partition).await;
            match dropped.map_err(|error| refused(error, OWNERSHIP)) {
                Ok(true) => tracing::info!(partition, "dropped an empty partition of the outbox"),
                Ok(false) => {}
                Err(failure) => result = result.and(Err(failure.context(format!("dropping {partition}")))),
            }
        }
        result
    }
}

/// Whether it was.
async fn drop_if_empty(client: &mut Client, parent: &str, partition: &str) -> Result<bool, tokio_postgres::Error> {
    // Without the lock, which only a dropped table is worth; with it, because a row may have come meanwhile.
    let sql = format!("SELECT EXISTS (SELECT FROM {partition})");
    if client.query_one(&sql, &[]).await?.try_get(0)? {
        return Ok(false);
    }
    let transaction = client.transaction().await?;
    // What DROP takes of the two, in the order in which the application takes them.
    let mode = "IN ACCESS EXCLUSIVE MODE";
    let lock = format!("LOCK TABLE ONLY {parent} {mode}; LOCK TABLE {partition} {mode}");
    transaction.batch_execute(&lock).await?;
    if transaction.query_one(&sql, &[]).await?.try_get(0)? {
        return Ok(false);
    }
    transaction.batch_execute(&format!("DROP TABLE {partition}")).await?;
    transaction.commit().await?;
    Ok(true)
}

#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn failed(error: tokio_postgres::Error) -> Failure {
    sql_failure("cleaning up the outbox", &error)
}

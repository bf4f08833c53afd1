//! Deletes the rows of an outbox that were published, in small transactions beside the stream.
//!
//! Invariants: only rows that `cleanup` handed out, by their ids; no lock is waited for or held for long; and trouble here is
//! logged and waited out, never the pipeline's: the rows stay, which is all that it costs.

use std::time::Duration;

use anyhow::anyhow;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

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
/// How long the end waits for what is passed by then.
const END_LIMIT: Duration = Duration::from_secs(5);
const RIGHTS: &str = "the role needs SELECT and DELETE on it";

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
            tracing::warn!("stopped before all published rows of the outbox were deleted; they are left in the table");
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
}

/// Why rows could not be deleted now.
struct Trouble {
    failure: Failure,
    /// Fewer rows might be less trouble: one of them is locked, or they take too long.
    is_of_many: bool,
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self { failure, is_of_many: false }
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
        })
    }

    async fn run(mut self) {
        let mut partitions_told = false;
        while let Some(ids) = self.batch().await {
            self.delete_all(ids).await;
            if let Some(after) = self.cleanup.drop_partitions_after {
                match self.drop_partitions(after).await {
                    Ok(()) => partitions_told = false,
                    // With the next rows, again.
                    Err(failure) if !std::mem::replace(&mut partitions_told, true) => {
                        let hint = "the role needs to own the outbox and its partitions";
                        self.tell(&failure, hint, "can't drop empty partitions of the outbox; trying again");
                    }
                    Err(_) => {}
                }
            }
        }
    }

    /// What comes within the interval, up to the batch's size. None at the end.
    async fn batch(&mut self) -> Option<Vec<String>> {
        let mut ids = vec![self.receiver.recv().await?];
        let until = Instant::now() + self.cleanup.every;
        while ids.len() < self.cleanup.batch_rows
            && let Ok(Some(id)) = timeout_at(until, self.receiver.recv()).await
        {
            ids.push(id);
        }
        Some(ids)
    }

    /// However long it takes. Rows that are in the way of others are left behind by halves, and come last.
    async fn delete_all(&mut self, ids: Vec<String>) {
        let (mut backoff, mut told, mut parts) = (Backoff::new(RETRY.0, RETRY.1), false, vec![ids]);
        while let Some(mut ids) = parts.pop() {
            let Err(Trouble { failure, is_of_many }) = self.delete(&ids).await else {
                backoff.reset();
                continue;
            };
            if !std::mem::replace(&mut told, true) {
                self.tell(&failure, RIGHTS, "can't delete published rows of the outbox; trying again");
            }
            if is_of_many && ids.len() > 1 {
                parts.push(ids.split_off(ids.len() / 2));
                parts.push(ids);
            } else {
                parts.insert(0, ids);
                sleep(backoff.next_wait()).await;
            }
        }
    }

    fn tell(&self, failure: &Failure, hint: &str, what: &str) {
        let hint = match failure {
            Failure::Definite(definite) if definite.kind == Kind::Usage => definite.hint.as_ref(),
            Failure::Definite(_) | Failure::Transient(_) => hint,
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
        client.execute(&sql, &[&ids]).await.map_err(|error| {
            let of_many = [SqlState::LOCK_NOT_AVAILABLE, SqlState::QUERY_CANCELED, SqlState::T_R_DEADLOCK_DETECTED];
            let is_of_many = error.code().is_some_and(|code| of_many.contains(code));
            Trouble { failure: failed(error), is_of_many }
        })?;
        Ok(())
    }

    /// An empty partition holds nothing that was not published, whenever it was written.
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
        for row in rows {
            let partition: String = row.try_get(0).map_err(failed)?;
            // Without the lock, which only a dropped table is worth; with it, because a row may have come meanwhile.
            let sql = format!("SELECT EXISTS (SELECT FROM {partition})");
            let is_filled = |row: tokio_postgres::Row| row.try_get::<_, bool>(0).map_err(failed);
            if is_filled(client.query_one(&sql, &[]).await.map_err(failed)?)? {
                continue;
            }
            let transaction = client.transaction().await.map_err(failed)?;
            let lock = format!("LOCK TABLE {partition} IN ACCESS EXCLUSIVE MODE");
            transaction.batch_execute(&lock).await.map_err(failed)?;
            if !is_filled(transaction.query_one(&sql, &[]).await.map_err(failed)?)? {
                transaction.batch_execute(&format!("DROP TABLE {partition}")).await.map_err(failed)?;
                transaction.commit().await.map_err(failed)?;
                tracing::info!(partition, "dropped an empty partition of the outbox");
            }
        }
        Ok(())
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn failed(error: tokio_postgres::Error) -> Failure {
    sql_failure("cleaning up the outbox", &error)
}

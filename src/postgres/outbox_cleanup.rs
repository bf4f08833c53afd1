//! Deletes the rows of an outbox that were published, in small transactions beside the stream.
//!
//! Invariants: only rows that `cleanup` handed out, by their ids; no lock is waited for or held for long; and trouble here is
//! logged and waited out, never the pipeline's: the rows stay, which is all that it costs.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_postgres::Client;

use super::conninfo::Conninfo;
use super::ident::{quote_ident, quote_qualified};
use super::preflight::sql_failure;
use super::sql;
use crate::backoff::Backoff;
use crate::cleanup::{Cleanup, Published};
use crate::config::{OutboxSettings, Settings};
use crate::failure::{Failure, Kind};

/// So many rows are on their way here.
const CHANNEL_ROWS: usize = 10_000;
/// A deletion that has to wait for a lock is tried again later; one that takes so long, too. It costs the database no
/// flush of the WAL: a row that comes back with a crash is only left in the table.
const SESSION: &str = "SET lock_timeout = '500ms'; SET statement_timeout = '10s'; SET synchronous_commit = off";
/// Between two attempts.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// How long the end waits for what is passed by then.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Deletes, until the [`Cleanup`] that it came with is dropped.
pub struct Cleaner(JoinHandle<()>);

impl Cleaner {
    /// Starts it, if one of the outboxes is to be cleaned. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(settings: &Settings) -> Option<(Cleanup, Self)> {
        let outboxes = &settings.outboxes;
        let every = outboxes.iter().filter_map(|outbox| outbox.cleanup).map(|cleanup| cleanup.every).min()?;
        let (sender, receiver) = mpsc::channel(CHANNEL_ROWS);
        let work = Work { conninfo: settings.source.conninfo.clone(), outboxes: outboxes.clone(), every, receiver };
        Some((Cleanup::new(sender), Self(tokio::spawn(work.run()))))
    }

    /// Waits for the last rows, for a while.
    pub async fn finish(mut self) {
        if timeout(END_LIMIT, &mut self.0).await.is_err() {
            self.0.abort();
            tracing::warn!("stopped before all published rows of the outbox were deleted; they are left in the table");
        }
    }
}

struct Work {
    conninfo: Conninfo,
    outboxes: Vec<OutboxSettings>,
    every: Duration,
    receiver: mpsc::Receiver<Published>,
}

impl Work {
    async fn run(mut self) {
        let (mut backoff, mut session) = (Backoff::new(RETRY.0, RETRY.1), None);
        while let Some(batches) = self.batches().await {
            for (outbox, ids) in batches {
                while let Err(failure) = self.clean(&mut session, &self.outboxes[outbox], &ids).await {
                    session = None;
                    let wait = backoff.next_wait();
                    if backoff.attempts() == 1 {
                        let hint = "the role needs SELECT and DELETE on it, and to own it where partitions are dropped";
                        let error = format!("{failure:#}");
                        tracing::warn!(error, hint, "can't delete published rows of the outbox; trying again");
                    }
                    sleep(wait).await;
                }
                backoff.reset();
            }
        }
    }

    async fn clean(
        &self,
        session: &mut Option<Client>,
        outbox: &OutboxSettings,
        ids: &[String],
    ) -> Result<(), Failure> {
        let client = match session {
            Some(client) => client,
            none => {
                let client = sql::connect(&self.conninfo).await?;
                client.batch_execute(SESSION).await.map_err(failed)?;
                none.insert(client)
            }
        };
        delete(client, outbox, ids).await?;
        match outbox.cleanup.and_then(|cleanup| cleanup.drop_partitions_after) {
            Some(after) => drop_partitions(client, outbox, after).await,
            None => Ok(()),
        }
    }

    /// What comes within the interval, in batches of one table each. None at the end.
    async fn batches(&mut self) -> Option<Vec<(usize, Vec<String>)>> {
        let mut batches: Vec<(usize, Vec<String>)> = Vec::new();
        let mut next = self.receiver.recv().await;
        next.as_ref()?;
        let until = Instant::now() + self.every;
        let rows_max = |outbox: usize| self.outboxes[outbox].cleanup.map_or(usize::MAX, |cleanup| cleanup.batch_rows);
        while let Some(Published { outbox, id }) = next {
            let batch = batches.iter_mut().rfind(|(of, ids)| *of == outbox && ids.len() < rows_max(outbox));
            match batch {
                Some((_, ids)) => ids.push(id),
                None => batches.push((outbox, vec![id])),
            }
            if batches.iter().any(|(outbox, ids)| ids.len() >= rows_max(*outbox)) {
                break;
            }
            next = timeout_at(until, self.receiver.recv()).await.unwrap_or_default();
        }
        Some(batches)
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn failed(error: tokio_postgres::Error) -> Failure {
    sql_failure("deleting published rows of the outbox", &error)
}

async fn delete(client: &Client, outbox: &OutboxSettings, ids: &[String]) -> Result<(), Failure> {
    let (schema, table, id) = (&outbox.schema, &outbox.table, &outbox.columns.id);
    let sql = "SELECT format_type(atttypid, NULL) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
               JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE nspname = $1 AND relname = $2 AND attname = $3 AND NOT attisdropped";
    let row = client.query_opt(sql, &[schema, table, id]).await.map_err(failed)?;
    let Some(row) = row else {
        let error = anyhow::anyhow!("the table {schema}.{table} has no column \"{id}\"");
        return Err(Failure::definite(Kind::Source, error, "see outbox.columns.id"));
    };
    let id_type: String = row.try_get(0).map_err(failed)?;
    let (table, id) = (quote_qualified(schema, table), quote_ident(id));
    // As the type itself, so that its index is used.
    let sql = format!("DELETE FROM {table} WHERE {id} = ANY ($1::text[]::{id_type}[])");
    client.execute(&sql, &[&ids]).await.map_err(failed)?;
    Ok(())
}

/// An empty partition holds nothing that was not published, whenever it was written.
async fn drop_partitions(client: &mut Client, outbox: &OutboxSettings, after: Duration) -> Result<(), Failure> {
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
    let rows = client.query(sql, &[&outbox.schema, &outbox.table, &after]).await.map_err(failed)?;
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

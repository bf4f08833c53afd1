//! What a start waits for, and who that is: the slot, a walsender, those who write to a table that joins the publication.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use tokio_postgres::Client;
use tracing::warn;

use super::{POLL, limited};
use crate::backoff::Backoff;
use crate::failure::{Failure, Kind, within};
use crate::postgres::client::ClientError;
use crate::postgres::preflight::{self, sql_failure};
use crate::postgres::publication::{self, Plan};
use crate::postgres::walsender::ANSWER_LIMIT;

/// The longest pause for those who write to a table that joins.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for something that another client of the server holds, says so once, and gives up at the deadline.
pub(super) struct Waiting {
    /// None: no hurry.
    deadline: Option<Instant>,
    told: bool,
    /// Each time that writers come in between, they have longer until the next.
    writers: Backoff,
    told_of_writers: bool,
}

impl Waiting {
    /// Waits for whoever has the slot or the walsenders until `deadline`, and for writers without end.
    pub(super) fn until(deadline: Option<Instant>) -> Self {
        Self { deadline, told: false, writers: Backoff::new(POLL, PATIENCE), told_of_writers: false }
    }

    /// There was reason to wait for the slot or a walsender.
    pub(super) fn has_waited(&self) -> bool {
        self.told
    }

    /// Has given way to writers.
    pub(super) fn has_given_way(&self) -> bool {
        self.writers.attempts() > 0
    }

    fn given_up(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    pub(super) async fn for_slot(&mut self, sql: &Client, slot: &str, holder: i32) -> Result<(), Failure> {
        let given_up = self.given_up();
        if given_up || !self.told {
            let who = within(ANSWER_LIMIT, "looking for who uses the slot", describe(sql, holder)).await?;
            if given_up {
                let error = anyhow!("replication slot \"{slot}\" is in use by {who}");
                let hint = format!(
                    "Another pgsluice with the same name, or another client, reads from it. Stop that one, give this one a \
                     `name` of its own, or end a connection that is dead (SELECT pg_terminate_backend({holder})). \
                     `standby_timeout_ms` says how long to wait."
                );
                return Err(Failure::definite(Kind::Source, error, hint));
            }
            warn!(slot, "standing by: the replication slot is in use by {who}");
            self.told = true;
        }
        tokio::time::sleep(POLL).await;
        Ok(())
    }

    /// Waits for the transactions that are in the way by now; not for those that come, so that it ends, and without a lock, so
    /// that nobody has to wait for us.
    pub(super) async fn for_writers(&mut self, sql: &Client, publication: &str, plan: &Plan) -> Result<(), Failure> {
        let look = async || {
            let looking = publication::writers(sql, plan.locked.keys().copied());
            limited("looking for open transactions", looking).await
        };
        let mut writers = look().await?;
        if let Some(writer) = writers.first()
            && !std::mem::replace(&mut self.told_of_writers, true)
        {
            let tables = plan.locked.values().map(String::as_str).collect::<Vec<_>>().join(", ");
            let who = &writer.who;
            warn!(
                publication,
                tables, "waiting for an open transaction that has written to what joins or leaves: {who}"
            );
        }
        tokio::time::sleep(self.writers.next_wait()).await;
        while !writers.is_empty() {
            let now = look().await?;
            writers.retain(|writer| now.iter().any(|it| it.is(writer)));
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    pub(super) async fn for_walsender(&mut self, sql: &Client, error: ClientError) -> Result<(), Failure> {
        if self.given_up() {
            let asking = preflight::no_free_walsender(sql);
            let failure = within(ANSWER_LIMIT, "looking for who uses the walsenders", asking).await?;
            // When it is the ordinary connections that are used up, it may pass.
            return Err(failure.unwrap_or_else(|| error.into()));
        }
        if !self.told {
            warn!(error = %error, "the server has no walsender for us: waiting for one");
            self.told = true;
        }
        tokio::time::sleep(POLL).await;
        Ok(())
    }
}

/// Who `pid` is. Others' details are hidden from a role without `pg_read_all_stats`.
async fn describe(sql: &Client, pid: i32) -> Result<String, Failure> {
    let query = "SELECT format('PID %s (user %s, application_name %s, client %s)', $1::int4, usename, \
                 COALESCE(NULLIF(application_name, ''), 'unknown'), COALESCE(host(client_addr), 'unknown')) \
                 FROM pg_stat_activity WHERE pid = $1";
    let failed = |error: tokio_postgres::Error| sql_failure("looking for who uses the slot", &error);
    match sql.query_opt(query, &[&pid]).await.map_err(failed)? {
        Some(row) => row.try_get(0).map_err(failed),
        None => Ok(format!("PID {pid}")),
    }
}

/// The transactions that have written something and are open; those that were prepared and forgotten too.
pub(in crate::postgres) async fn blockers(sql: &Client, creator: i32) -> Result<String, Failure> {
    let query = "\
        SELECT COALESCE(string_agg(who, ', '), 'none that this role may see (pg_read_all_stats shows all)') FROM ( \
          (SELECT format('PID %s (user %s, database %s, %s, since %s)', pid, usename, datname, \
                         COALESCE(state, 'unknown'), COALESCE(xact_start::timestamptz(0)::text, 'unknown')) AS who \
           FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid NOT IN ($1, pg_backend_pid()) \
           ORDER BY xact_start LIMIT 5) \
          UNION ALL \
          (SELECT format('the prepared transaction %L (user %s, database %s, since %s)', gid, owner, database, \
                         prepared::timestamptz(0)::text) \
           FROM pg_prepared_xacts ORDER BY prepared LIMIT 5)) open";
    let failed = |error: tokio_postgres::Error| sql_failure("looking for open transactions", &error);
    sql.query_one(query, &[&creator]).await.and_then(|row| row.try_get(0)).map_err(failed)
}

//! All replication slots of a server, as an operator looks at them; `slot` judges the one that is ours.

use tokio_postgres::Client;

use super::held::Bytes;
use super::preflight::sql_failure;
use super::walsender::ANSWER_LIMIT;
use crate::failure::{Failure, within};

/// One row of `pg_replication_slots`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// The database that it decodes; none for physical slots.
    pub database: Option<String>,
    /// That is the one connected to.
    pub is_here: bool,
    /// The output plugin; none for physical slots.
    pub plugin: Option<String>,
    /// The backend that reads from it.
    pub active_pid: Option<i32>,
    /// It is gone with its session.
    pub temporary: bool,
    /// `reserved`, `extended`, `unreserved` or `lost`; none when no WAL is reserved.
    pub wal_status: Option<String>,
    /// Why the server gave it up.
    pub invalidation: Option<String>,
    /// From where WAL is kept for it; an LSN.
    pub restart: Option<String>,
    /// Up to where its consumer has acknowledged; an LSN.
    pub confirmed_flush: Option<String>,
    /// WAL from `restart` to the end.
    pub retained_bytes: Option<u64>,
}

impl Slot {
    /// For a person: `1.5 GiB`.
    #[must_use]
    pub fn retained(&self) -> String {
        self.retained_bytes.map_or_else(|| "-".to_owned(), |bytes| Bytes(bytes).to_string())
    }
}

/// By name.
///
/// # Errors
/// The server can't answer.
pub async fn list(client: &Client) -> Result<Vec<Slot>, Failure> {
    let doing = "listing the replication slots";
    // Newer columns through JSON, so that one statement serves all versions; a standby has no insert position.
    let sql = "SELECT slot_name::text, database::text, COALESCE(database = current_database(), false), plugin::text, \
                      active_pid, temporary, wal_status, \
                      COALESCE(to_jsonb(s) ->> 'invalidation_reason', \
                               CASE WHEN to_jsonb(s) ->> 'conflicting' = 'true' THEN 'conflict with recovery' END), \
                      restart_lsn::text, confirmed_flush_lsn::text, \
                      GREATEST(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() \
                                                    ELSE pg_current_wal_lsn() END, restart_lsn), 0)::int8 \
               FROM pg_replication_slots s ORDER BY slot_name";
    let read = |row: &tokio_postgres::Row| {
        Ok(Slot {
            name: row.try_get(0)?,
            database: row.try_get(1)?,
            is_here: row.try_get(2)?,
            plugin: row.try_get(3)?,
            active_pid: row.try_get(4)?,
            temporary: row.try_get(5)?,
            wal_status: row.try_get(6)?,
            invalidation: row.try_get(7)?,
            restart: row.try_get(8)?,
            confirmed_flush: row.try_get(9)?,
            retained_bytes: row.try_get::<_, Option<i64>>(10)?.and_then(|bytes| u64::try_from(bytes).ok()),
        })
    };
    let listing = async {
        let rows = client.query(sql, &[]).await;
        rows.and_then(|rows| rows.iter().map(read).collect()).map_err(|error| sql_failure(doing, &error))
    };
    within(ANSWER_LIMIT, doing, listing).await
}

/// Drops one that nobody reads from.
///
/// # Errors
/// Somebody does after all; the role may not; the server can't answer.
pub async fn drop(client: &Client, name: &str) -> Result<(), Failure> {
    let doing = "dropping the replication slot";
    let dropping = async {
        let dropped = client.execute("SELECT pg_drop_replication_slot($1::text::name)", &[&name]).await;
        dropped.map(|_| ()).map_err(|error| sql_failure(doing, &error))
    };
    within(ANSWER_LIMIT, doing, dropping).await
}

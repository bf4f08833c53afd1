//! All replication slots of a server, as an operator looks at them; `slot` judges the one that is ours.

use serde::Serialize;
use tokio_postgres::Client;

use super::held::Bytes;
use super::preflight::sql_failure;
use super::walsender::ANSWER_LIMIT;
use crate::failure::{Failure, within};

/// One row of `pg_replication_slots`, with what is to be seen of its reader. LSNs are text, as PostgreSQL writes them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// The database that it decodes; none for physical slots.
    pub database: Option<String>,
    /// That is the one connected to.
    #[serde(skip)]
    pub is_here: bool,
    /// The output plugin; none for physical slots.
    pub plugin: Option<String>,
    /// The backend that reads from it.
    pub active_pid: Option<i32>,
    /// Who that is: `application_name` and address, as far as this role may see it.
    pub reader: Option<String>,
    /// It is gone with its session.
    pub temporary: bool,
    /// `reserved`, `extended`, `unreserved` or `lost`; none when no WAL is reserved.
    pub wal_status: Option<String>,
    /// Why the server gave it up.
    pub invalidation_reason: Option<String>,
    /// From where WAL is kept for it.
    pub restart_lsn: Option<String>,
    /// Up to where its consumer has acknowledged.
    pub confirmed_flush_lsn: Option<String>,
    /// The end of the WAL; on a standby, of what was received.
    pub wal_end_lsn: Option<String>,
    /// From `confirmed_flush_lsn` to that.
    pub lag_bytes: Option<u64>,
    /// From `restart_lsn` to that.
    pub retained_bytes: Option<u64>,
    /// How much may be written until it is in danger; none: there is no limit.
    pub safe_bytes: Option<u64>,
    /// `max_slot_wal_keep_size` in bytes; none: there is no limit.
    pub keep_max_bytes: Option<u64>,
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
                      active_pid, NULLIF(concat_ws(' ', NULLIF(reader.application_name, ''), host(reader.client_addr)), ''), \
                      temporary, wal_status, \
                      COALESCE(to_jsonb(s) ->> 'invalidation_reason', \
                               CASE WHEN to_jsonb(s) ->> 'conflicting' = 'true' THEN 'conflict with recovery' END), \
                      restart_lsn::text, confirmed_flush_lsn::text, now_at::text, \
                      GREATEST(pg_wal_lsn_diff(now_at, confirmed_flush_lsn), 0)::int8, \
                      GREATEST(pg_wal_lsn_diff(now_at, restart_lsn), 0)::int8, CASE WHEN safe_wal_size IS NOT NULL THEN GREATEST(safe_wal_size, 0) END, \
                      (SELECT NULLIF(setting::int8, -1) * 1048576 FROM pg_settings WHERE name = 'max_slot_wal_keep_size') \
               FROM (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END \
                    ) AS w (now_at), pg_replication_slots s \
               LEFT JOIN pg_stat_replication reader ON reader.pid = active_pid ORDER BY slot_name";
    let read = |row: &tokio_postgres::Row| {
        let bytes = |column: usize| {
            Ok::<_, tokio_postgres::Error>(
                row.try_get::<_, Option<i64>>(column)?.and_then(|bytes| u64::try_from(bytes).ok()),
            )
        };
        Ok(Slot {
            name: row.try_get(0)?,
            database: row.try_get(1)?,
            is_here: row.try_get(2)?,
            plugin: row.try_get(3)?,
            active_pid: row.try_get(4)?,
            reader: row.try_get(5)?,
            temporary: row.try_get(6)?,
            wal_status: row.try_get(7)?,
            invalidation_reason: row.try_get(8)?,
            restart_lsn: row.try_get(9)?,
            confirmed_flush_lsn: row.try_get(10)?,
            wal_end_lsn: row.try_get(11)?,
            lag_bytes: bytes(12)?,
            retained_bytes: bytes(13)?,
            safe_bytes: bytes(14)?,
            keep_max_bytes: bytes(15)?,
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

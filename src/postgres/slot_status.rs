//! The slots of a server as an operator sees them, without a pgsluice that runs: for `pgsluice status`. Changes nothing.

use serde::Serialize;
use tokio_postgres::Client;

use super::preflight::sql_failure;
use crate::failure::Failure;

/// One logical slot of `pgoutput`. LSNs are text, as PostgreSQL writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SlotSeen {
    /// Its name.
    pub slot: String,
    /// The database that it decodes.
    pub database: Option<String>,
    /// Somebody reads from it.
    pub active: bool,
    /// Who: `application_name` and address, as far as this role may see it.
    pub reader: Option<String>,
    /// `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: Option<String>,
    /// The end of the WAL.
    pub wal_end_lsn: String,
    /// Up to where its reader has acknowledged.
    pub confirmed_flush_lsn: Option<String>,
    /// From that to the end of the WAL, in bytes.
    pub lag_bytes: Option<i64>,
    /// WAL that it holds, in bytes.
    pub retained_bytes: Option<i64>,
    /// How much may be written until it is in danger, in bytes; none: there is no limit.
    pub safe_bytes: Option<i64>,
    /// `max_slot_wal_keep_size` in bytes; none: there is no limit.
    pub keep_max_bytes: Option<i64>,
}

/// All of them, or the one with this name, in the order of their names.
///
/// # Errors
/// The server does not answer, or is a standby.
pub async fn list(client: &Client, name: Option<&str>) -> Result<Vec<SlotSeen>, Failure> {
    let failed = |error: tokio_postgres::Error| sql_failure("looking at the replication slots", &error);
    let sql = "SELECT slot_name::text, database::text, active, \
                      NULLIF(concat_ws(' ', NULLIF(reader.application_name, ''), host(reader.client_addr)), ''), \
                      wal_status, now_at::text, confirmed_flush_lsn::text, \
                      GREATEST(pg_wal_lsn_diff(now_at, confirmed_flush_lsn), 0)::int8, \
                      GREATEST(pg_wal_lsn_diff(now_at, restart_lsn), 0)::int8, safe_wal_size, \
                      (SELECT NULLIF(setting::int8, -1) * 1048576 FROM pg_settings WHERE name = 'max_slot_wal_keep_size') \
               FROM pg_current_wal_lsn() AS now_at, pg_replication_slots \
               LEFT JOIN pg_stat_replication reader ON reader.pid = active_pid \
               WHERE plugin = 'pgoutput' AND ($1::text IS NULL OR slot_name = $1) ORDER BY slot_name";
    let rows = client.query(sql, &[&name]).await.map_err(failed)?;
    let read = |row: &tokio_postgres::Row| {
        Ok(SlotSeen {
            slot: row.try_get(0)?,
            database: row.try_get(1)?,
            active: row.try_get(2)?,
            reader: row.try_get(3)?,
            wal_status: row.try_get(4)?,
            wal_end_lsn: row.try_get(5)?,
            confirmed_flush_lsn: row.try_get(6)?,
            lag_bytes: row.try_get(7)?,
            retained_bytes: row.try_get(8)?,
            safe_bytes: row.try_get(9)?,
            keep_max_bytes: row.try_get(10)?,
        })
    };
    rows.iter().map(read).collect::<Result<_, _>>().map_err(failed)
}

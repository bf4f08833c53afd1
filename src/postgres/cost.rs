//! What a slot costs the server: the WAL that it holds back, and how much of that the server bears. For the metrics; changes
//! nothing and judges nothing.

use tokio_postgres::Client;

use super::preflight::sql_failure;
use crate::failure::Failure;
use crate::lsn::Lsn;
use crate::telemetry::metrics::slot::SlotCost;

/// Looks at a slot, and at the end of the WAL; nothing is held by one that does not exist.
///
/// # Errors
/// The server does not answer, or is a standby.
pub async fn look(client: &Client, slot: &str) -> Result<SlotCost, Failure> {
    let failed = |error: tokio_postgres::Error| sql_failure("looking at what the slot costs", &error);
    let sql = "SELECT pg_wal_lsn_diff(now_at, '0/0')::int8, \
                      GREATEST(pg_wal_lsn_diff(now_at, slot.restart_lsn), 0)::int8, slot.wal_status, slot.safe_wal_size, \
                      (SELECT setting::int8 * 1048576 FROM pg_settings WHERE name = 'max_slot_wal_keep_size') \
               FROM pg_current_wal_lsn() AS now_at \
               LEFT JOIN pg_replication_slots slot ON slot_name = $1";
    let row = client.query_one(sql, &[&slot]).await.map_err(failed)?;
    let size = |at: usize| {
        let bytes: Option<i64> = row.try_get(at).map_err(failed)?;
        Ok::<_, Failure>(bytes)
    };
    // Nothing is left where less than nothing is; but a limit of -1 is none.
    let bytes = |value: Option<i64>| value.map(|bytes| u64::try_from(bytes).unwrap_or(0));
    Ok(SlotCost {
        wal_end: Lsn(bytes(size(0)?).unwrap_or(0)),
        retained_bytes: bytes(size(1)?).unwrap_or(0),
        wal_status: row.try_get(2).map_err(failed)?,
        safe_bytes: bytes(size(3)?),
        keep_bytes_max: size(4)?.and_then(|bytes| u64::try_from(bytes).ok()),
    })
}

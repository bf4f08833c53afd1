//! What a slot holds back at the server, and what that costs.
//!
//! The retention of `[replay]` is paid for here: PostgreSQL moves a slot's `restart_lsn` only once its consumer has
//! acknowledged what was read when the next one was found (`LogicalIncreaseRestartDecodingForSlot`), so that a slot which
//! is always `n` bytes behind holds up to twice as many. Changes nothing; `open` and a replay ask.

use std::fmt;

use anyhow::anyhow;
use tokio_postgres::Client;

use super::preflight::sql_failure;
use crate::config::Retain;
use crate::failure::{Definite, Failure, Kind};

/// What a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    /// WAL from `restart_lsn` to the end.
    pub(super) bytes: u64,
    /// `max_slot_wal_keep_size`; none: no limit.
    limit_bytes: Option<u64>,
}

/// Looks at a slot; nothing is held by one that does not exist.
pub(super) async fn look(client: &Client, slot: &str) -> Result<Held, Failure> {
    let failed = |error: tokio_postgres::Error| sql_failure("looking at what the slot holds", &error);
    let sql = "SELECT (SELECT GREATEST(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::int8 \
                       FROM pg_replication_slots WHERE slot_name = $1), setting::int8 * 1048576 \
               FROM pg_settings WHERE name = 'max_slot_wal_keep_size'";
    let row = client.query_one(sql, &[&slot]).await.map_err(failed)?;
    let read = || Ok::<_, tokio_postgres::Error>((row.try_get(0)?, row.try_get(1)?));
    let (bytes, limit): (Option<i64>, Option<i64>) = read().map_err(failed)?;
    let size = |bytes: i64| u64::try_from(bytes).ok();
    Ok(Held { bytes: bytes.and_then(size).unwrap_or(0), limit_bytes: limit.and_then(size) })
}

/// Tells what the retention costs, once for each start, and whether the server bears it.
pub(super) async fn check(client: &Client, slot: &str, retain: Retain) -> Result<(), Failure> {
    if !retain.is_set() {
        return Ok(());
    }
    let held = look(client, slot).await?;
    judge(&held, retain)?;
    tracing::info!(slot, wal_held = %Bytes(held.bytes), "the slot is held back for replays ([replay])");
    Ok(())
}

/// Whether the server lets the slot hold what is to be retained. Beyond its limit it invalidates the slot, and changes
/// that were not delivered yet are lost.
///
/// # Errors
/// The retention is sure to reach the limit.
pub(super) fn judge(held: &Held, retain: Retain) -> Result<(), Definite> {
    let Some(limit) = held.limit_bytes else { return Ok(()) };
    match retain.bytes {
        Some(bytes) if bytes.saturating_mul(2) <= limit => Ok(()),
        Some(bytes) => Err(Definite::new(
            Kind::Source,
            anyhow!(
                "replay.retain_bytes is {bytes}, for which the slot holds up to {} of WAL, and the server's \
                 max_slot_wal_keep_size is {}: it would invalidate the slot",
                Bytes(bytes.saturating_mul(2)),
                Bytes(limit)
            ),
            format!("set replay.retain_bytes to at most {}, or raise max_slot_wal_keep_size", limit / 2),
        )),
        None => {
            tracing::warn!(
                max_slot_wal_keep_bytes = limit,
                "replay.retain_ms holds WAL without a limit, and the server invalidates slots that hold more than \
                 max_slot_wal_keep_size: set replay.retain_bytes too, to half of it at most"
            );
            Ok(())
        }
    }
}

/// A number of bytes, for a person: `1.5 GiB`.
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        match units.into_iter().find(|(_, shift)| self.0 >> shift > 0) {
            None => write!(f, "{} bytes", self.0),
            Some((unit, shift)) => {
                let tenths = (u128::from(self.0) * 10) >> shift;
                write!(f, "{}.{} {unit}", tenths / 10, tenths % 10)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_retention_that_the_server_would_not_bear_is_refused() {
        let held = Held { bytes: 0, limit_bytes: Some(10 * GIB) };
        let age = Some(Duration::from_hours(24));
        assert!(judge(&held, Retain { bytes: Some(5 * GIB), age }).is_ok());
        let error = judge(&held, Retain { bytes: Some(5 * GIB + 1), age }).expect_err("is refused");
        assert!(error.to_string().contains("10.0 GiB") && error.hint.contains(&(5 * GIB).to_string()), "{error}");
        assert!(judge(&Held { limit_bytes: None, ..held }, Retain { bytes: Some(1 << 60), age }).is_ok());
    }

    #[test]
    fn bytes_are_readable() {
        for (bytes, text) in [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (GIB - 1, "1023.9 MiB")] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}

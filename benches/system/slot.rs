//! The slots that contestants read from.
//!
//! Each run of a throughput reads a copy of one kept slot, so that all of them read the same WAL.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_postgres::Client;

use crate::stage::SOON;
use crate::support::eventually;

/// Lies before the load, and is never read from.
pub(crate) const KEPT: &str = "kept";

/// A slot of one run, to be dropped with [`Self::discard`].
pub(crate) struct Slot {
    pub(crate) name: String,
}

impl Slot {
    /// A copy of the kept one.
    pub(crate) async fn copy(client: &Client) -> Self {
        let name = Self::name();
        let sql = format!("SELECT pg_copy_logical_replication_slot('{KEPT}', '{name}')");
        client.batch_execute(&sql).await.expect("copy the kept slot");
        Self { name }
    }

    /// One that begins at the present.
    pub(crate) async fn new(client: &Client) -> Self {
        let name = Self::name();
        let sql = format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')");
        client.batch_execute(&sql).await.expect("create a slot");
        Self { name }
    }

    fn name() -> String {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);

        format!("run_{}", NUMBER.fetch_add(1, Ordering::Relaxed))
    }

    /// The walsender that reads from it now.
    pub(crate) async fn walsender(&self, client: &Client) -> Option<i32> {
        let sql = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1";
        client.query_one(sql, &[&self.name]).await.expect("look at the slot").get(0)
    }

    /// Once nobody reads from it.
    pub(crate) async fn discard(self, client: &Client) {
        eventually("the slot is free", SOON, async || self.walsender(client).await.is_none().then_some(())).await;
        let sql = format!("SELECT pg_drop_replication_slot('{}')", self.name);
        client.batch_execute(&sql).await.expect("drop a slot");
    }
}

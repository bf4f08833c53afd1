//! What this service keeps of the orders' members.

use anyhow::Context as _;
use messaging::{Event, Handler};
use tokio_postgres::Transaction;

use crate::events::{MemberAddress, MemberDeleted};

/// Keeps the addresses.
#[derive(Debug, Clone, Copy)]
pub struct ShipTo;

impl Handler for ShipTo {
    /// The newest position wins: an older event that is tried again later must not bring back an older address, nor a member
    /// that is gone; whose row therefore stays.
    async fn handle(&self, transaction: &Transaction<'_>, event: &Event) -> anyhow::Result<()> {
        let (member, address) = match event.event_type.as_str() {
            "MemberChanged" => {
                let MemberAddress { id, address } = event.payload()?;
                (id, Some(address))
            }
            "MemberDeleted" => (event.payload::<MemberDeleted>()?.id, None),
            _ => return Ok(()),
        };
        let (lsn, ordinal) = event.position.context("the event has no position")?.columns();
        let sql = "INSERT INTO ship_to AS known (member_id, address, lsn, ordinal) VALUES ($1, $2, $3, $4)
            ON CONFLICT (member_id) DO UPDATE
            SET address = excluded.address, lsn = excluded.lsn, ordinal = excluded.ordinal
            WHERE (known.lsn, known.ordinal) < (excluded.lsn, excluded.ordinal)";
        transaction.execute(sql, &[&member, &address, &lsn, &ordinal]).await?;
        Ok(())
    }
}

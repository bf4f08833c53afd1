//! What this service keeps of the inventory's products.

use anyhow::Context as _;
use messaging::{Event, Handler};
use tokio_postgres::Transaction;

use crate::events::ProductPrice;

/// Keeps the prices.
#[derive(Debug, Clone, Copy)]
pub struct Prices;

impl Handler for Prices {
    /// The newest position wins: an older event that is tried again later must not bring back an older price.
    async fn handle(&self, transaction: &Transaction<'_>, event: &Event) -> anyhow::Result<()> {
        let ProductPrice { id, price } = event.payload()?;
        let (lsn, ordinal) = event.position.context("the event has no position")?.columns();
        let sql = "INSERT INTO product_prices AS known (product_id, price, lsn, ordinal)
            VALUES ($1, $2::text::numeric, $3, $4)
            ON CONFLICT (product_id) DO UPDATE SET price = excluded.price, lsn = excluded.lsn, ordinal = excluded.ordinal
            WHERE (known.lsn, known.ordinal) < (excluded.lsn, excluded.ordinal)";
        transaction.execute(sql, &[&id, &price, &lsn, &ordinal]).await?;
        Ok(())
    }
}

//! What can be done with the stock. Each function is a part of the caller's transaction, with the event in it.
//!
//! Rows are locked in the same order by all: the order's, then the products' by their ids. So two never wait for each other.

use std::collections::BTreeMap;

use messaging::outbox::{self, Aggregate};
use serde::Serialize;
use tokio_postgres::Transaction;
use uuid::Uuid;

use crate::events::{AGGREGATE, InventoryLocked, InventoryReleased, Line, LockFailed};

/// How far an order is, as this service sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its products are taken off the stock.
    Locked,
    /// The same, and the order is confirmed.
    Confirmed,
    /// Its products are back; or it was cancelled before it could be locked.
    Released,
    /// It could not be had.
    Failed,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Locked => "locked",
            Self::Confirmed => "confirmed",
            Self::Released => "released",
            Self::Failed => "failed",
        }
    }
}

/// Why an order can't be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shortage {
    OutOfStock,
    UnknownProduct,
}

impl Shortage {
    fn reason(self) -> &'static str {
        match self {
            Self::OutOfStock => "out of stock",
            Self::UnknownProduct => "unknown product",
        }
    }
}

/// How far an order is, which nobody changes before the transaction ends. None if it was never heard of.
///
/// # Errors
/// The database's.
pub async fn state(transaction: &Transaction<'_>, order: Uuid) -> anyhow::Result<Option<State>> {
    let sql = "SELECT state FROM reservation_state WHERE order_id = $1 FOR UPDATE";
    let row = transaction.query_opt(sql, &[&order]).await?;
    let all = [State::Locked, State::Confirmed, State::Released, State::Failed];
    Ok(row.and_then(|row| all.into_iter().find(|state| state.name() == row.get::<_, &str>(0))))
}

/// Notes an order that was never heard of. False if it was: somebody else may have been quicker.
///
/// # Errors
/// The database's.
pub async fn begin(transaction: &Transaction<'_>, order: Uuid, state: State) -> anyhow::Result<bool> {
    let sql = "INSERT INTO reservation_state (order_id, state) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    Ok(transaction.execute(sql, &[&order, &state.name()]).await? == 1)
}

/// Sets how far an order is.
///
/// # Errors
/// The database's.
pub async fn set(transaction: &Transaction<'_>, order: Uuid, state: State) -> anyhow::Result<()> {
    let sql = "UPDATE reservation_state SET state = $2 WHERE order_id = $1";
    transaction.execute(sql, &[&order, &state.name()]).await?;
    Ok(())
}

/// Takes all lines of an order that has [begun](begin) off the stock, or none of them, and tells which it was.
///
/// # Errors
/// The database's.
pub async fn lock(transaction: &Transaction<'_>, order: Uuid, lines: &[Line]) -> anyhow::Result<()> {
    let (products, quantities): (Vec<i64>, Vec<i64>) = lines.iter().map(|line| (line.product, line.quantity)).unzip();
    if let Err(shortage) = check(&on_hand(transaction, &products).await?, lines) {
        set(transaction, order, State::Failed).await?;
        let reason = shortage.reason().to_owned();
        return tell(transaction, order, "LockFailed", &LockFailed { order, reason }).await;
    }
    let sql = "INSERT INTO reservations (order_id, product_id, quantity) SELECT $1, * FROM unnest($2::bigint[], $3::bigint[])";
    transaction.execute(sql, &[&order, &products, &quantities]).await?;
    let sql =
        "UPDATE products SET on_hand = on_hand - quantity FROM reservations WHERE order_id = $1 AND id = product_id";
    transaction.execute(sql, &[&order]).await?;
    tell(transaction, order, "InventoryLocked", &InventoryLocked { order }).await
}

/// Puts back what an order holds, and tells it.
///
/// # Errors
/// The database's.
pub async fn release(transaction: &Transaction<'_>, order: Uuid) -> anyhow::Result<()> {
    let sql = "SELECT product_id FROM reservations WHERE order_id = $1";
    let held: Vec<i64> = transaction.query(sql, &[&order]).await?.iter().map(|row| row.get(0)).collect();
    on_hand(transaction, &held).await?;
    let sql =
        "UPDATE products SET on_hand = on_hand + quantity FROM reservations WHERE order_id = $1 AND id = product_id";
    transaction.execute(sql, &[&order]).await?;
    set(transaction, order, State::Released).await?;
    tell(transaction, order, "InventoryReleased", &InventoryReleased { order }).await
}

/// What there is of these products, which nobody changes before the transaction ends.
async fn on_hand(transaction: &Transaction<'_>, products: &[i64]) -> anyhow::Result<BTreeMap<i64, i64>> {
    let sql = "SELECT id, on_hand FROM products WHERE id = ANY($1) ORDER BY id FOR UPDATE";
    Ok(transaction.query(sql, &[&products]).await?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn check(on_hand: &BTreeMap<i64, i64>, lines: &[Line]) -> Result<(), Shortage> {
    for line in lines {
        let there = on_hand.get(&line.product).ok_or(Shortage::UnknownProduct)?;
        if *there < line.quantity {
            return Err(Shortage::OutOfStock);
        }
    }
    Ok(())
}

async fn tell(
    transaction: &Transaction<'_>,
    order: Uuid,
    event_type: &str,
    payload: &(impl Serialize + Sync),
) -> anyhow::Result<()> {
    outbox::append(transaction, Aggregate { kind: AGGREGATE, id: order }, event_type, payload).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_had_as_a_whole_or_not_at_all() {
        let on_hand = BTreeMap::from([(1, 5), (2, 0)]);
        let order = |lines: &[(i64, i64)]| {
            let line = |&(product, quantity)| Line { product, quantity };
            check(&on_hand, &lines.iter().map(line).collect::<Vec<_>>())
        };
        assert_eq!(order(&[(1, 5)]), Ok(()));
        assert_eq!(order(&[(1, 6)]), Err(Shortage::OutOfStock));
        assert_eq!(order(&[(1, 1), (2, 1)]), Err(Shortage::OutOfStock));
        assert_eq!(order(&[(1, 1), (3, 1)]), Err(Shortage::UnknownProduct));
    }
}

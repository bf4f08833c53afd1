//! The queries: what the view answers, from its own database alone.
//!
//! The list is in pages, newest first. A page goes on after the last order of the one before (keyset), so that orders
//! which are placed meanwhile neither repeat nor hide any, and page 1,000 costs as much as page 1.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, anyhow};
use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio_postgres::GenericClient;
use uuid::Uuid;

/// Which orders, all conditions together.
#[derive(Debug, Default)]
pub struct Filter {
    /// Of this member.
    pub member: Option<i64>,
    /// In this state.
    pub status: Option<String>,
    /// With this product among their lines.
    pub product: Option<i64>,
}

/// Where a page ends, and the next one goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    placed_at: DateTime<Utc>,
    order: Uuid,
}

/// Some orders, and where to go on, if there are more.
#[derive(Debug)]
pub struct Page {
    /// Newest first.
    pub items: Vec<Value>,
    /// None at the end.
    pub next: Option<Cursor>,
}

/// An order as JSON, joined with what is known of its member and its products. `on_hand` is of now.
const ITEM: &str = "
    jsonb_build_object(
        'order', o.order_id, 'status', o.status, 'reason', o.reason, 'stock', o.stock, 'placed_at', o.placed_at,
        'member', jsonb_build_object('id', o.member_id, 'name', m.name),
        'lines', (SELECT jsonb_agg(jsonb_build_object(
                          'product', l.product_id, 'name', p.name, 'quantity', l.quantity, 'on_hand', p.on_hand)
                      ORDER BY l.product_id)
                  FROM view_order_lines l LEFT JOIN view_products p ON p.id = l.product_id
                  WHERE l.order_id = o.order_id))
    FROM view_orders o LEFT JOIN view_members m ON m.id = o.member_id";

/// A page of at most `limit` orders, after the cursor.
///
/// # Errors
/// The database's.
pub async fn list(
    client: &impl GenericClient,
    filter: &Filter,
    after: Option<Cursor>,
    limit: i64,
) -> anyhow::Result<Page> {
    let query = format!(
        "SELECT o.placed_at, o.order_id, {ITEM}
         WHERE o.placed_at IS NOT NULL
           AND ($1::bigint IS NULL OR o.member_id = $1)
           AND ($2::text IS NULL OR o.status = $2)
           AND ($3::bigint IS NULL OR EXISTS (
               SELECT FROM view_order_lines l WHERE l.order_id = o.order_id AND l.product_id = $3))
           AND ($4::timestamptz IS NULL OR (o.placed_at, o.order_id) < ($4, $5::uuid))
         ORDER BY o.placed_at DESC, o.order_id DESC LIMIT $6"
    );
    let (placed_at, order) = after.map(|cursor| (cursor.placed_at, cursor.order)).unzip();
    let Filter { member, status, product } = filter;
    // One more than asked for says whether there are more.
    let rows = client.query(&query, &[member, status, product, &placed_at, &order, &(limit + 1)]).await?;
    let size = usize::try_from(limit).context("a limit that fits")?;
    let shown = &rows[..rows.len().min(size)];
    let next = (rows.len() > size).then(|| shown.last()).flatten();
    Ok(Page {
        items: shown.iter().map(|row| row.get(2)).collect(),
        next: next.map(|row| Cursor { placed_at: row.get(0), order: row.get(1) }),
    })
}

/// One order.
///
/// # Errors
/// The database's.
pub async fn one(client: &impl GenericClient, order: Uuid) -> anyhow::Result<Option<Value>> {
    let query = format!("SELECT {ITEM} WHERE o.order_id = $1 AND o.placed_at IS NOT NULL");
    Ok(client.query_opt(&query, &[&order]).await?.map(|row| row.get(0)))
}

impl fmt::Display for Cursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.placed_at.timestamp_micros(), self.order)
    }
}

impl FromStr for Cursor {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let not_one = || anyhow!("not the `next` of a page");
        let (micros, order) = text.split_once('.').ok_or_else(not_one)?;
        let placed_at = micros.parse().ok().and_then(DateTime::from_timestamp_micros).ok_or_else(not_one)?;
        Ok(Self { placed_at, order: order.parse().map_err(|_| not_one())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_was() {
        let placed_at = DateTime::from_timestamp_micros(1_795_885_754_123_456).expect("a time");
        let cursor = Cursor { placed_at, order: Uuid::from_u128(7) };
        assert_eq!(cursor.to_string().parse::<Cursor>().expect("its own text"), cursor);
        for wrong in ["", "1", "x.y", "1.", "99999999999999999999.00000000-0000-0000-0000-000000000007"] {
            assert!(wrong.parse::<Cursor>().is_err(), "{wrong:?}");
        }
    }
}

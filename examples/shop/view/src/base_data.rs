//! Products and members, as their services broadcast them: each row's newest version, in the columns that the view needs.
//!
//! A retry, a re-delivery or a replay may bring an older version after a newer one. pgsluice's header `position` says
//! which is which: it rises with the commits of a database, and is the same at every delivery.

use messaging::Position;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_postgres::GenericClient;
use tokio_postgres::types::PgLsn;

/// What the view knows of a product. The contract's `product.for_view` has these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Product {
    /// Its key.
    pub id: i64,
    /// What a reader calls it.
    pub name: String,
    /// How many there are, and not set aside.
    pub on_hand: i64,
}

/// What the view knows of a member. The contract's `member.for_view` has these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Member {
    /// Their key.
    pub id: i64,
    /// Their name.
    pub name: String,
}

/// The key alone: all that a deletion tells for certain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Key {
    /// Of a product or a member.
    pub id: i64,
}

/// A row of `view_products` or `view_members`: its values, or none when it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<T> {
    /// It is so now.
    Is(T),
    /// It was deleted.
    Gone(Key),
}

/// Takes a product's change in, unless a newer one is there.
///
/// # Errors
/// The database's.
pub async fn product(client: &impl GenericClient, at: Position, change: &Change<Product>) -> anyhow::Result<()> {
    let upsert = "INSERT INTO view_products AS old (id, name, on_hand, commit_lsn, ordinal, deleted)
        VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (id) DO UPDATE SET name = excluded.name, on_hand = excluded.on_hand,
            commit_lsn = excluded.commit_lsn, ordinal = excluded.ordinal, deleted = excluded.deleted
        WHERE (old.commit_lsn, old.ordinal) < (excluded.commit_lsn, excluded.ordinal)";
    let (id, name, on_hand, deleted) = match change {
        Change::Is(Product { id, name, on_hand }) => (id, Some(name), Some(on_hand), false),
        Change::Gone(Key { id }) => (id, None, None, true),
    };
    let (lsn, ordinal) = columns(at)?;
    client.execute(upsert, &[id, &name, &on_hand, &lsn, &ordinal, &deleted]).await?;
    Ok(())
}

/// Takes a member's change in, unless a newer one is there.
///
/// # Errors
/// The database's.
pub async fn member(client: &impl GenericClient, at: Position, change: &Change<Member>) -> anyhow::Result<()> {
    let upsert = "INSERT INTO view_members AS old (id, name, commit_lsn, ordinal, deleted)
        VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (id) DO UPDATE SET name = excluded.name,
            commit_lsn = excluded.commit_lsn, ordinal = excluded.ordinal, deleted = excluded.deleted
        WHERE (old.commit_lsn, old.ordinal) < (excluded.commit_lsn, excluded.ordinal)";
    let (id, name, deleted) = match change {
        Change::Is(Member { id, name }) => (id, Some(name), false),
        Change::Gone(Key { id }) => (id, None, true),
    };
    let (lsn, ordinal) = columns(at)?;
    client.execute(upsert, &[id, &name, &lsn, &ordinal, &deleted]).await?;
    Ok(())
}

fn columns(at: Position) -> anyhow::Result<(PgLsn, i64)> {
    Ok((PgLsn::from(at.lsn), at.ordinal.try_into()?))
}

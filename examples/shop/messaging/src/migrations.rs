//! The tables of a service, made and altered by the service when it starts.
//!
//! Each migration is applied once, in the order of the list, all in one transaction: a service that is killed meanwhile has
//! applied none of them. Several instances that start at once wait for each other.

use anyhow::Context as _;
use deadpool_postgres::Pool;

/// Anything, but the same in every instance.
const LOCK: i64 = 0x006d_6967_7261_7465;

/// Statements that change the database once. Never altered after it was applied somewhere: another one follows it.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// By which it is remembered.
    pub name: &'static str,
    /// One or more statements, none of which must be outside of a transaction.
    pub sql: &'static str,
}

/// Applies what is not applied yet. Gives how many that were.
///
/// # Errors
/// The database's, with the migration's name.
pub async fn apply(pool: &Pool, migrations: &[Migration]) -> anyhow::Result<usize> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    let table =
        "CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())";
    transaction.batch_execute(table).await?;
    let mut applied = 0;
    for Migration { name, sql } in migrations {
        let note = "INSERT INTO migrations (name) VALUES ($1) ON CONFLICT DO NOTHING";
        if transaction.execute(note, &[name]).await? == 1 {
            transaction.batch_execute(sql).await.with_context(|| format!("the migration {name:?}"))?;
            applied += 1;
        }
    }
    transaction.commit().await?;
    Ok(applied)
}

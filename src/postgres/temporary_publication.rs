//! A publication that lasts as long as a `pgsluice tail`.
//!
//! PostgreSQL has temporary slots, and no temporary publications. So it is dropped at the end of the command, and what a
//! command left that was killed is dropped by the next one. Whether its owner lives is told by a session lock that the owner
//! holds: it ends with the owner's connection, however that ends. Invariant: no table is in it whose UPDATEs and DELETEs
//! PostgreSQL would refuse while it is published, so that looking never breaks the application. `temporary_slot` streams
//! from it.

use anyhow::anyhow;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tracing::{debug, warn};

use super::catalog::{self, Table, Wanted};
use super::conninfo::Conninfo;
use super::ident::{quote_ident, quote_literal};
use super::open::limited;
use super::preflight::{self, Look, sql_failure};
use super::publication;
use super::sql;
use crate::config::Settings;
use crate::failure::{Definite, Failure, Kind};

/// Begins the comment of those that are ours to drop.
const MARK: &str = "pgsluice tail: dropped at its end";
/// The first key of the session locks: the letters `pgsl`, so that no other application's are met.
const LOCK_CLASS: i32 = 0x7067_736c;
/// So many tables are named.
const NAMED: usize = 10;

/// What can be published for a while.
#[derive(Debug)]
pub struct Prepared {
    client: Client,
    conninfo: Conninfo,
    tables: Vec<Table>,
    /// That one of our own would send generated columns; none before it can.
    generated: &'static str,
}

/// A publication, and the session that holds its lock.
#[derive(Debug)]
pub struct TemporaryPublication {
    client: Client,
    conninfo: Conninfo,
    name: String,
}

/// Looks at the database, and drops what commands left that were killed.
///
/// # Errors
/// The server or the role does not fit; no table is left to be published.
pub async fn prepare(settings: &Settings) -> Result<Prepared, Failure> {
    let conninfo = settings.source.conninfo.clone();
    let client = sql::connect(&conninfo).await?;
    let looking = limited("looking at the database", async {
        let server = preflight::check(&client, Look::First).await?;
        sweep(&client).await?;
        let wanted = catalog::resolve(&client, &settings.source.tables, &settings.outboxes, &settings.rules).await?;
        let generated = if server.version >= 180_000 { ", publish_generated_columns = stored" } else { "" };
        Ok((publishable(&wanted)?, generated))
    });
    let (tables, generated) = looking.await?;
    Ok(Prepared { client, conninfo, tables, generated })
}

/// Whether there is a publication of that name.
///
/// # Errors
/// The server can't answer.
pub async fn exists(settings: &Settings, name: &str) -> Result<bool, Failure> {
    let client = sql::connect(&settings.source.conninfo).await?;
    Ok(publication::read(&client, name).await?.is_some())
}

/// Without those that would keep the application from its UPDATEs.
fn publishable(wanted: &Wanted) -> Result<Vec<Table>, Definite> {
    let mute = |table: &&Table| {
        !(wanted.without_identity().any(|it| it.oid == table.oid)
            || wanted.partitions_of(table.oid).any(|partition| !partition.has_identity))
    };
    let (tables, left): (Vec<&Table>, Vec<&Table>) = wanted.tables.iter().partition(mute);
    let left: Vec<String> = left.into_iter().map(Table::quoted).collect();
    let more = left.len().saturating_sub(NAMED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let named = format!("{}{more}", left[..left.len().min(NAMED)].join(", "));
    let why = "without a primary key or another replica identity PostgreSQL would refuse every UPDATE and DELETE on them \
               while they are published";
    if tables.is_empty() {
        return Err(match left.len() {
            0 => Definite::new(Kind::Source, anyhow!("no table matches"), "Name tables as in --table 'public.*'."),
            _ => Definite::new(
                Kind::Source,
                anyhow!("no table can be published: {named}; {why}"),
                "Give them a primary key, or run ALTER TABLE … REPLICA IDENTITY FULL.",
            ),
        });
    }
    if !left.is_empty() {
        warn!("left out: {named}; {why}");
    }
    Ok(tables.into_iter().cloned().collect())
}

impl Prepared {
    /// Creates it. To be waited for to its end: who gives up in between may leave it behind.
    ///
    /// # Errors
    /// Definite without the privilege, with what to do instead.
    pub async fn create(self) -> Result<TemporaryPublication, Failure> {
        let Self { client, conninfo, tables, generated } = self;
        let name = format!("pgsluice_tail_{:08x}", fastrand::u32(..));
        let quoted = quote_ident(&name);
        let list: Vec<String> = tables.iter().map(|table| format!("ONLY {}", table.quoted())).collect();
        // An idle session must not lose its lock.
        let statements = format!(
            "SET idle_session_timeout = 0; SELECT pg_advisory_lock({LOCK_CLASS}, hashtext({})); \
             BEGIN; SET LOCAL lock_timeout = '10s'; \
             CREATE PUBLICATION {quoted} FOR TABLE {} WITH (publish_via_partition_root = true{generated}); \
             COMMENT ON PUBLICATION {quoted} IS {}; COMMIT",
            quote_literal(&name),
            list.join(", "),
            quote_literal(MARK)
        );
        let created = limited("creating a publication", async {
            client.batch_execute(&statements).await.map_err(|error| refused(&error))
        });
        created.await?;
        debug!(publication = name, "created a publication for a while");
        Ok(TemporaryPublication { client, conninfo, name })
    }
}

fn refused(error: &tokio_postgres::Error) -> Failure {
    let doing = "can't create a publication for the time of the command";
    let failure = sql_failure(doing, error);
    match failure {
        Failure::Definite(definite) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            let hint = "It takes CREATE on the database and ownership of the tables. Narrow the tables down with --table, or \
                        let somebody who may create a publication, and name it: --publication NAME.";
            Definite { hint: hint.to_owned(), ..definite }.into()
        }
        failure => failure,
    }
}

impl TemporaryPublication {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Drops it; says so where that can't be done.
    pub async fn drop_it(self) {
        let Self { client, conninfo, name } = self;
        let mut dropped = drop(&client, &name).await;
        if client.is_closed() {
            // The server may be back.
            dropped = match sql::connect(&conninfo).await {
                Ok(client) => drop(&client, &name).await,
                Err(failure) => Err(failure),
            };
        }
        if let Err(failure) = dropped {
            warn!(
                error = %failure,
                "the publication \"{name}\" was not dropped: the next `pgsluice tail` does, or DROP PUBLICATION {}",
                quote_ident(&name)
            );
        }
    }
}

async fn drop(client: &Client, name: &str) -> Result<(), Failure> {
    let doing = "dropping the publication";
    let sql = format!("DROP PUBLICATION IF EXISTS {}", quote_ident(name));
    let dropping = async { client.batch_execute(&sql).await.map_err(|error| sql_failure(doing, &error)) };
    limited(doing, dropping).await
}

/// Drops those whose owner is gone, as far as we may.
async fn sweep(client: &Client) -> Result<(), Failure> {
    let failed = |error: tokio_postgres::Error| sql_failure("looking for publications that were left", &error);
    let sql = "SELECT pubname::text FROM pg_publication WHERE obj_description(oid, 'pg_publication') = $1 \
               AND pg_has_role(pubowner, 'USAGE')";
    for row in client.query(sql, &[&MARK]).await.map_err(failed)? {
        let name: String = row.try_get(0).map_err(failed)?;
        let lock = format!("pg_try_advisory_lock({LOCK_CLASS}, hashtext({}))", quote_literal(&name));
        let is_left: bool =
            client.query_one(&format!("SELECT {lock}"), &[]).await.and_then(|row| row.try_get(0)).map_err(failed)?;
        if is_left {
            drop(client, &name).await?;
            let unlock = lock.replacen("pg_try_advisory_lock", "pg_advisory_unlock", 1);
            client.query_one(&format!("SELECT {unlock}"), &[]).await.map_err(failed)?;
            debug!(publication = name, "dropped a publication that was left by a killed command");
        }
    }
    Ok(())
}

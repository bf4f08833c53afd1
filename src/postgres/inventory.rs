//! What a database has that events could be made of: for `pgsluice init`. Changes nothing.

use tokio_postgres::Client;

use super::catalog::{Table, publishable};
use super::preflight::sql_failure;
use super::walsender::ANSWER_LIMIT;
use crate::failure::{Failure, within};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// `server_version_num`
    pub version: i32,
    /// The database connected to.
    pub database: String,
    /// `minimal`, `replica` or `logical`.
    pub wal_level: String,
    /// Who runs the server, as far as its roles tell.
    pub service: Service,
    /// Ordinary and partitioned tables, without partitions, by name.
    pub tables: Vec<Table>,
    /// Those that look like an outbox.
    pub outboxes: Vec<Outbox>,
}

/// Who runs the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Service {
    /// The user.
    #[value(name = "self")]
    SelfHosted,
    /// Amazon RDS and Aurora.
    Rds,
    /// Google Cloud SQL.
    CloudSql,
    /// Azure Database, flexible server.
    Azure,
    /// Supabase.
    Supabase,
    /// Neon.
    Neon,
}

/// A table with the columns that an outbox has, under Debezium's names or a common variant of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbox {
    /// Its `pg_class.oid`.
    pub oid: u32,
    /// Keys of `[outbox.columns]` whose column has another name than the default.
    pub columns: Vec<(&'static str, &'static str)>,
}

/// A key of `[outbox.columns]`, and the names that its column may have, the default first.
const COLUMNS: [(&str, &[&str]); 5] = [
    ("id", &["id"]),
    ("aggregate_type", &["aggregatetype", "aggregate_type"]),
    ("aggregate_id", &["aggregateid", "aggregate_id"]),
    ("type", &["type", "event_type"]),
    ("payload", &["payload"]),
];

/// The role that tells a service; each is theirs alone.
const ROLES: [(&str, Service); 5] = [
    ("rds_replication", Service::Rds),
    ("cloudsqladmin", Service::CloudSql),
    ("azure_pg_admin", Service::Azure),
    ("supabase_admin", Service::Supabase),
    ("neon_superuser", Service::Neon),
];

/// Looks at the database.
///
/// # Errors
/// The server can't answer.
pub async fn look(client: &Client) -> Result<Inventory, Failure> {
    within(ANSWER_LIMIT, "looking at the database", async {
        let failed = |error: tokio_postgres::Error| sql_failure("looking at the database", &error);
        let sql = "SELECT current_setting('server_version_num')::int4, current_database()::text, \
                          current_setting('wal_level'), ARRAY(SELECT rolname::text FROM pg_roles)";
        let row = client.query_one(sql, &[]).await.map_err(failed)?;
        let roles: Vec<String> = row.try_get(3).map_err(failed)?;
        let service = ROLES.iter().find(|(role, _)| roles.iter().any(|it| it == role));
        let mut tables = publishable(client).await?;
        let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
        let is_identified =
            |root: u32| !tables.iter().any(|it| it.ancestors.contains(&root) && !it.partitioned && !it.has_identity);
        let identified: Vec<bool> = oids.iter().map(|oid| is_identified(*oid)).collect();
        for (table, of_partitions) in tables.iter_mut().zip(identified) {
            table.has_identity = if table.partitioned { of_partitions } else { table.has_identity };
        }
        tables.retain(|table| table.ancestors.is_empty());
        Ok(Inventory {
            version: row.try_get(0).map_err(failed)?,
            database: row.try_get(1).map_err(failed)?,
            wal_level: row.try_get(2).map_err(failed)?,
            service: service.map_or(Service::SelfHosted, |(_, service)| *service),
            outboxes: outboxes(client, &tables).await?,
            tables,
        })
    })
    .await
}

async fn outboxes(client: &Client, tables: &[Table]) -> Result<Vec<Outbox>, Failure> {
    let failed = |error: tokio_postgres::Error| sql_failure("reading the tables' columns", &error);
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let sql = "SELECT attrelid, array_agg(attname::text) FROM pg_attribute \
               WHERE attrelid = ANY ($1) AND attnum > 0 AND NOT attisdropped AND attgenerated = '' GROUP BY attrelid";
    let rows = client.query(sql, &[&oids]).await.map_err(failed)?;
    let mut found = Vec::new();
    for row in rows {
        let (oid, columns): (u32, Vec<String>) =
            row.try_get(0).and_then(|oid| Ok((oid, row.try_get(1)?))).map_err(failed)?;
        if let Some(columns) = as_outbox(&columns) {
            found.push(Outbox { oid, columns });
        }
    }
    let place = |outbox: &Outbox| tables.iter().position(|table| table.oid == outbox.oid);
    found.sort_by_key(place);
    Ok(found)
}

/// The keys whose column has another name than the default; none for what is no outbox.
fn as_outbox(columns: &[String]) -> Option<Vec<(&'static str, &'static str)>> {
    let mut others = Vec::new();
    for (key, names) in COLUMNS {
        let name = names.iter().find(|name| columns.iter().any(|column| column == *name))?;
        if *name != names[0] {
            others.push((key, *name));
        }
    }
    Some(others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outbox_is_told_by_its_columns() {
        let of = |columns: &str| as_outbox(&columns.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(of("id aggregatetype aggregateid type payload created_at"), Some(Vec::new()));
        let others =
            vec![("aggregate_type", "aggregate_type"), ("aggregate_id", "aggregate_id"), ("type", "event_type")];
        assert_eq!(of("id aggregate_type aggregate_id event_type payload"), Some(others));
        assert_eq!(of("id type payload"), None);
    }
}

//! The selected tables as the stream would describe them if a row were written now, and what only the catalog knows: which
//! columns may be null, what their owners say of them, the labels of enums.
//!
//! Invariant: changes nothing, and needs no more than to read the catalog: no replication, no slot, no publication.

use std::collections::BTreeMap;

use tokio_postgres::{Client, Row};

use super::types::Detail;
use crate::config::Settings;
use crate::failure::Failure;
use crate::postgres::catalog::{self, Table, Wanted};
use crate::postgres::preflight::sql_failure;
use crate::postgres::publication::{self, Publication};
use crate::postgres::relation::{Column, Relation, ReplicaIdentity};
use crate::postgres::types::{FIRST_UNKNOWN, Types, describe};

/// All that the document is made of.
#[derive(Debug, Default)]
pub struct Catalog {
    /// The selected tables and the outboxes, by name.
    pub tables: Vec<Described>,
    /// What their types are made of.
    pub types: Types,
    /// And what is known of these beside.
    pub details: BTreeMap<u32, Detail>,
}

/// A table.
#[derive(Debug, Clone)]
pub struct Described {
    /// As the stream would describe it.
    pub relation: Relation,
    /// What is known of each of the relation's columns beside.
    pub columns: Vec<ColumnFacts>,
    /// `COMMENT ON TABLE`
    pub comment: Option<String>,
    /// `insert`, `update`, `delete`, `truncate`, as far as they can happen to it and are published.
    pub operations: Vec<&'static str>,
    /// A row filter of the publication may make an insert of an update.
    pub filtered: bool,
}

/// A column, beyond what the stream says of it.
#[derive(Debug, Clone, Default)]
pub struct ColumnFacts {
    /// As SQL writes its type.
    pub written: String,
    /// It refuses null.
    pub not_null: bool,
    /// Its values may be stored apart (TOAST), so that an update that leaves one alone may not say it.
    pub apart: bool,
    /// `COMMENT ON COLUMN`
    pub comment: Option<String>,
}

/// Reads it.
///
/// # Errors
/// A table that is named isn't there, or an outbox lacks a column (definite); the server can't answer.
pub async fn read(client: &Client, settings: &Settings) -> Result<Catalog, Failure> {
    let failed = |error: tokio_postgres::Error| sql_failure("reading the catalog", &error);
    // So that every type is written with its schema, wherever this runs.
    client.batch_execute("SET search_path = ''").await.map_err(failed)?;
    let wanted = catalog::resolve(client, &settings.source.tables, &settings.outboxes, &settings.rules).await?;
    // A publication of ours is yet to be altered: what it will send is decided here, as there.
    let publication = publication::read(client, &settings.source.publication).await?;
    let publication = publication.filter(|publication| !publication.managed);
    let version = "SELECT pg_catalog.current_setting('server_version_num')::int4";
    let version: i32 = client.query_one(version, &[]).await.and_then(|row| row.try_get(0)).map_err(failed)?;
    let oids: Vec<u32> = wanted.tables.iter().map(|table| table.oid).collect();
    let columns = client.query(COLUMNS, &[&oids]).await.map_err(failed)?;
    let mut tables = Vec::with_capacity(wanted.tables.len());
    for table in &wanted.tables {
        let mut described = described(table, &wanted, publication.as_ref());
        let filter = settings.source.filters.iter().find(|filter| filter.is(&table.schema, &table.name));
        described.filtered |= filter.is_some_and(|filter| filter.rows.is_some());
        let listed = filter.and_then(|filter| filter.columns.as_ref());
        for row in &columns {
            if row.try_get::<_, u32>(0).map_err(failed)? == table.oid {
                let (column, facts, comment, generated) = column(row).map_err(failed)?;
                described.comment = comment;
                let is_listed = listed.is_none_or(|columns| columns.contains(&column.name));
                if is_listed && is_sent(publication.as_ref(), version, table.oid, &column.name, &generated) {
                    described.relation.columns.push(column);
                    described.columns.push(facts);
                }
            }
        }
        tables.push(described);
    }
    let types = tables.iter().flat_map(|table| &table.relation.columns).map(|column| column.type_oid);
    let types: Vec<u32> = types.filter(|oid| *oid >= FIRST_UNKNOWN).collect();
    let types = Types::of(describe(client, &types).await?);
    let known: Vec<u32> = types.described().map(|(oid, _)| oid).collect();
    let details = client.query(DETAILS, &[&known]).await.map_err(failed)?;
    let details = details.iter().map(detail).collect::<Result<_, _>>().map_err(failed)?;
    Ok(Catalog { tables, types, details })
}

fn described(table: &Table, wanted: &Wanted, publication: Option<&Publication>) -> Described {
    let identity = match table.identity.as_str() {
        "f" => ReplicaIdentity::Full,
        "n" => ReplicaIdentity::Nothing,
        "i" => ReplicaIdentity::Index,
        _ => ReplicaIdentity::Default,
    };
    // Without one, the server refuses them as long as they are published.
    let has_identity = table.has_identity || wanted.partitions_of(table.oid).any(|partition| partition.has_identity);
    let can_happen = |operation: &&str| has_identity || !matches!(*operation, "update" | "delete");
    let is_published = |operation: &&str| publication.is_none_or(|it| !it.unpublished.contains(operation));
    let operations = ["insert", "update", "delete", "truncate"].into_iter();
    let sent = publication.and_then(|publication| publication.sent.iter().find(|sent| sent.oid == table.oid));
    Described {
        relation: Relation {
            oid: table.oid,
            schema: table.schema.clone(),
            name: table.name.clone(),
            identity,
            columns: Vec::new(),
        },
        columns: Vec::new(),
        comment: None,
        operations: operations.filter(can_happen).filter(is_published).collect(),
        filtered: sent.is_some_and(|sent| sent.filtered),
    }
}

/// Whether the stream has the column: what a publication of somebody else's lists, or all but what is generated and not sent.
fn is_sent(publication: Option<&Publication>, version: i32, table: u32, column: &str, generated: &str) -> bool {
    let sent = publication.and_then(|publication| publication.sent.iter().find(|sent| sent.oid == table));
    if let Some(columns) = sent.and_then(|sent| sent.columns.as_ref()) {
        return columns.iter().any(|sent| sent == column);
    }
    generated.is_empty() || (generated == "s" && version >= 180_000 && publication.is_none())
}

/// A key has the columns of an index, without those that it only includes (`RelationGetIndexAttrBitmap`).
const COLUMNS: &str = "\
    SELECT a.attrelid, a.attname::text, a.atttypid, a.atttypmod, \
           CASE c.relreplident WHEN 'f' THEN true WHEN 'n' THEN false ELSE EXISTS ( \
               SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate \
               AND CASE c.relreplident WHEN 'd' THEN i.indisprimary ELSE i.indisreplident END \
               AND a.attnum = ANY ((i.indkey::pg_catalog.int2[])[0:i.indnkeyatts - 1])) END, \
           pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attlen = -1 AND a.attstorage <> 'p', \
           pg_catalog.col_description(c.oid, a.attnum), pg_catalog.obj_description(c.oid, 'pg_class'), \
           a.attgenerated::pg_catalog.text \
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
    WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum";

/// The column, what is known of it beside, the table's comment, and how it is generated.
fn column(row: &Row) -> Result<(Column, ColumnFacts, Option<String>, String), tokio_postgres::Error> {
    let column = Column {
        name: row.try_get(1)?,
        type_oid: row.try_get(2)?,
        type_modifier: row.try_get(3)?,
        key: row.try_get(4)?,
    };
    let facts = ColumnFacts {
        written: row.try_get(5)?,
        not_null: row.try_get(6)?,
        apart: row.try_get(7)?,
        comment: row.try_get(8)?,
    };
    Ok((column, facts, row.try_get(9)?, row.try_get(10)?))
}

const DETAILS: &str = "\
    SELECT t.oid, t.typnotnull, t.typtypmod, \
           CASE t.typtype WHEN 'd' THEN pg_catalog.format_type(t.typbasetype, t.typtypmod) ELSE '' END, \
           ARRAY(SELECT enumlabel::pg_catalog.text FROM pg_catalog.pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder), \
           f.modifiers, f.written \
    FROM pg_catalog.pg_type t, LATERAL ( \
        SELECT COALESCE(pg_catalog.array_agg(atttypmod ORDER BY attnum), '{}') AS modifiers, \
               COALESCE(pg_catalog.array_agg(pg_catalog.format_type(atttypid, atttypmod) ORDER BY attnum), '{}') AS written \
        FROM pg_catalog.pg_attribute \
        WHERE t.typtype = 'c' AND attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped) f \
    WHERE t.oid = ANY ($1)";

fn detail(row: &Row) -> Result<(u32, Detail), tokio_postgres::Error> {
    let (modifiers, written): (Vec<i32>, Vec<String>) = (row.try_get(5)?, row.try_get(6)?);
    let detail = Detail {
        not_null: row.try_get(1)?,
        base_modifier: row.try_get(2)?,
        base_written: row.try_get(3)?,
        labels: row.try_get(4)?,
        fields: modifiers.into_iter().zip(written).collect(),
    };
    Ok((row.try_get(0)?, detail))
}

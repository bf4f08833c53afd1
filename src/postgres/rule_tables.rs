//! Whether the tables are what the rules say of them, asked before anything is changed.
//!
//! The check is the one that the stream's description of a table goes through later (`route::domain`), so that what passes
//! here is fine until somebody alters the table; and whether PostgreSQL sends of an old row what the conditions want to know.

use anyhow::anyhow;
use tokio_postgres::Client;

use super::catalog::{Table, Wanted};
use super::preflight::sql_failure;
use super::publication::Publication;
use super::relation::{Column, Relation, ReplicaIdentity};
use super::types::Types;
use crate::config::{Ordering, RuleSettings};
use crate::encode::values::{Kinds, Numeric};
use crate::failure::{Definite, Failure, Kind};
use crate::route::domain::RulePlan;
use crate::route::expression::Image;
use crate::route::ordering::RowKey;

/// Each rule against each of its tables, as they will be sent.
///
/// # Errors
/// Definite when a rule does not fit a table; transient when the server can't answer.
pub(super) async fn check(
    client: &Client,
    wanted: &Wanted,
    publication: Option<&Publication>,
    rules: &[RuleSettings],
) -> Result<(), Failure> {
    let foreign = publication.filter(|publication| !publication.managed);
    if foreign.is_none_or(|publication| publication.via_root) {
        for rule in rules {
            let is_named = |partition: &&Table| rule.tables.names(&partition.schema, &partition.name);
            if let Some(partition) = wanted.partitions.iter().find(is_named) {
                return Err(hidden(partition, wanted, rule).into());
            }
        }
    }
    for table in &wanted.tables {
        let is_outbox = wanted.outboxes.iter().any(|outbox| outbox.oid == table.oid);
        let rules = rules.iter().filter(|rule| rule.tables.selects(&table.schema, &table.name));
        let rules: Vec<&RuleSettings> = rules.collect();
        // An outbox is none of theirs, whatever they select.
        if rules.is_empty() || is_outbox {
            continue;
        }
        let mut relation = describe(client, table).await?;
        if let Some(sent) = columns_sent(table, wanted, foreign) {
            relation.columns.retain(|column| sent.contains(&column.name));
        }
        for rule in rules {
            fits(rule, &relation)?;
        }
    }
    Ok(())
}

/// The column list that the table has in the publication, or will have; none: all are sent.
fn columns_sent<'p>(table: &Table, wanted: &'p Wanted, foreign: Option<&'p Publication>) -> Option<&'p Vec<String>> {
    match foreign {
        Some(publication) => publication.sent.iter().find(|sent| sent.oid == table.oid)?.columns.as_ref(),
        None => wanted.filters.iter().find(|filter| filter.table == table.oid)?.settings.columns.as_ref(),
    }
}

/// A partition that is named, and whose rows come under the name of a partitioned table that is selected too.
fn hidden(partition: &Table, wanted: &Wanted, rule: &RuleSettings) -> Definite {
    let root = wanted
        .root_of(&partition.schema, &partition.name)
        .map_or_else(String::new, |root| format!(" {}", root.quoted()));
    let error = anyhow!(
        "{}.{}, which `{}.table` names, is a partition: its rows come under the name of the partitioned table{root}, which is \
         selected too",
        partition.schema,
        partition.name,
        rule.key
    );
    Definite::new(Kind::Source, error, "Name the partitioned table in the rule, and tell its rows apart by `when`.")
}

fn fits(rule: &RuleSettings, relation: &Relation) -> Result<(), Definite> {
    let kinds = Kinds { types: &Types::default(), numeric: Numeric::default() };
    if let Err(misfit) = RulePlan::new("", rule, relation, kinds, &RowKey::new(Ordering::Key, relation)) {
        let hint = format!("PostgreSQL sends of {relation}: {}. A pattern can be narrowed.", misfit.columns.join(", "));
        return Err(Definite::new(Kind::Source, misfit, hint));
    }
    let hint = format!(
        "Run ALTER TABLE {} REPLICA IDENTITY FULL; or ask for it first: has(old.column), \"column\" in old.",
        super::ident::quote_qualified(&relation.schema, &relation.name)
    );
    match unsent(rule, relation) {
        Some(error) => Err(Definite::new(Kind::Source, error, hint)),
        None => Ok(()),
    }
}

/// What an expression wants to know, and PostgreSQL does not tell.
fn unsent(rule: &RuleSettings, relation: &Relation) -> Option<anyhow::Error> {
    let sees_old_rows = rule.on.iter().any(|op| matches!(*op, "update" | "delete"));
    if relation.identity == ReplicaIdentity::Full || !sees_old_rows {
        return None;
    }
    let is_key = |name: &str| relation.column(name).is_some_and(|column| relation.columns[column].key);
    for (key, expression) in rule.expressions() {
        let needed = expression.uses().iter().find(|it| it.image == Image::Old && !it.is_tested && !is_key(&it.column));
        let needed = match needed {
            Some(needed) => format!("old.{}", needed.column),
            None if expression.uses_changed() && rule.on.contains(&"update") => "changed".to_owned(),
            None => continue,
        };
        let identity = relation.identity.name().to_uppercase();
        return Some(anyhow!(
            "`{key}` uses {needed}, which PostgreSQL does not send of {relation}: its replica identity is {identity}"
        ));
    }
    None
}

/// The table as the stream will describe it.
async fn describe(client: &Client, table: &Table) -> Result<Relation, Failure> {
    let failed = |error: tokio_postgres::Error| sql_failure("reading a table's columns", &error);
    // A publication of PostgreSQL 18 can send the generated columns that are stored.
    let sql = "\
        SELECT a.attname, a.atttypid, a.atttypmod, EXISTS ( \
               SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE i.indrelid = a.attrelid AND \
               a.attnum = ANY(i.indkey) AND i.indisvalid AND i.indimmediate AND \
               CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END) \
        FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated IN \
               ('', CASE WHEN current_setting('server_version_num')::int >= 180000 THEN 's' ELSE '' END) ORDER BY a.attnum";
    let rows = client.query(sql, &[&table.oid]).await.map_err(failed)?;
    let column = |row: &tokio_postgres::Row| {
        let (name, type_oid, type_modifier, key) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
        Ok(Column { name, type_oid, type_modifier, key })
    };
    Ok(Relation {
        oid: table.oid,
        schema: table.schema.clone(),
        name: table.name.clone(),
        identity: match table.identity.as_str() {
            "f" => ReplicaIdentity::Full,
            "i" => ReplicaIdentity::Index,
            "n" => ReplicaIdentity::Nothing,
            _ => ReplicaIdentity::Default,
        },
        columns: rows.iter().map(column).collect::<Result<_, _>>().map_err(failed)?,
    })
}

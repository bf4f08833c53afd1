//! Whether the tables are what the rules say of them, asked before anything is changed.
//!
//! The check is the one that the stream's description of a table goes through later (`route::domain`), so that what passes
//! here is fine until somebody alters the table; and whether PostgreSQL sends of an old row what the rules want to know.

use std::sync::Arc;

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
use crate::route::expression::{Expression, Image, Use};
use crate::route::ordering::RowKey;
use crate::route::template::Template;

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
    let via_root = foreign.is_none_or(|publication| publication.via_root);
    if via_root {
        for rule in rules {
            let is_named = |partition: &&Table| rule.tables.names(&partition.schema, &partition.name);
            if let Some(partition) = wanted.partitions.iter().find(is_named) {
                return Err(hidden(partition, wanted, rule).into());
            }
        }
    }
    for table in &wanted.tables {
        let is_outbox = wanted.outboxes.iter().any(|outbox| outbox.oid == table.oid);
        let of_table = rules.iter().filter(|rule| rule.tables.selects(&table.schema, &table.name));
        let of_table: Vec<&RuleSettings> = of_table.collect();
        // An outbox is none of theirs, whatever they select.
        if of_table.is_empty() || is_outbox {
            continue;
        }
        let mut relation = describe(client, table).await?;
        if let Some(sent) = columns_sent(table, wanted, foreign) {
            relation.columns.retain(|column| sent.contains(&column.name));
        }
        let is_below = |partition: &&Table| partition.ancestors.contains(&table.oid);
        let other = wanted.with_another_identity().find(is_below).filter(|_| via_root);
        for rule in of_table {
            fits(rule, &relation)?;
            if let Some(partition) = other.filter(|_| sees_old_rows(rule)) {
                return Err(otherwise_logged(partition, &relation, rule).into());
            }
        }
    }
    Ok(rules.iter().try_for_each(has_its_rows)?)
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

/// A partition whose old rows would seem whole, with nulls for all that was not logged.
fn otherwise_logged(partition: &Table, root: &Relation, rule: &RuleSettings) -> Definite {
    let error = anyhow!(
        "`{}` sees old rows, and the replica identity of {}.{} is not that of {root}, under whose name they come",
        rule.key,
        partition.schema,
        partition.name
    );
    let hint = format!(
        "Run ALTER TABLE {} REPLICA IDENTITY FULL, and so for every such partition, also those that are made later.",
        partition.quoted()
    );
    Definite::new(Kind::Source, error, hint)
}

/// Whether its events depend on what an old row holds.
fn sees_old_rows(rule: &RuleSettings) -> bool {
    let of_updates = || {
        let uses_old = |it: &Arc<Expression>| it.uses_changed() || it.uses().iter().any(|it| it.image == Image::Old);
        rule.expressions().any(|(_, it)| uses_old(it))
            || templates(rule).any(|(_, it)| old_columns(it).next().is_some())
    };
    // What is told of a delete is its old row.
    rule.on.contains(&"delete") || rule.on.contains(&"update") && of_updates()
}

/// Those of its templates that rows can be in, each with its key.
fn templates(rule: &RuleSettings) -> impl Iterator<Item = (String, &Template)> {
    let named = [("type", &rule.event_type), ("exchange", &rule.exchange), ("routing_key", &rule.routing_key)];
    let named = named.into_iter().chain(rule.ordering_key.iter().map(|it| ("key", it)));
    let headers = rule.headers.iter().map(|(header, it)| (format!("{}.headers.{header}", rule.key), it));
    named.map(|(name, it)| (format!("{}.{name}", rule.key), it)).chain(headers)
}

fn old_columns(template: &Template) -> impl Iterator<Item = &str> {
    template.variables().filter_map(|variable| variable.strip_prefix("old."))
}

/// An expression that takes a row for granted fails where there is none: its first delete would be poison.
fn has_its_rows(rule: &RuleSettings) -> Result<(), Definite> {
    // What does not pass the condition is not computed.
    if rule.when.as_ref().is_some_and(|when| when.is_guarded()) {
        return Ok(());
    }
    let has = |op: &str, image| match image {
        Image::Old => matches!(op, "update" | "delete"),
        Image::New => matches!(op, "insert" | "update"),
    };
    for (key, expression) in rule.expressions().filter(|(_, it)| !it.is_guarded()) {
        for Use { image, column, .. } in expression.uses() {
            let Some(op) = rule.on.iter().find(|op| !has(op, *image)) else { continue };
            let image_name = image.name();
            let error = anyhow!(
                "`{key}` uses {image_name}.{column}, and the rule is on {op} too, of which there is no {image_name} row"
            );
            let those: Vec<&str> = rule.on.iter().copied().filter(|op| has(op, *image)).collect();
            let ask = format!("ask for it first: op != '{op}', {image_name} != null");
            let hint = if those.is_empty() { ask } else { format!("set `{}.on` = {those:?}; or {ask}", rule.key) };
            return Err(Definite::new(Kind::Source, error, hint));
        }
    }
    Ok(())
}

fn fits(rule: &RuleSettings, relation: &Relation) -> Result<(), Definite> {
    let kinds = Kinds { types: &Types::default(), numeric: Numeric::default() };
    if let Err(misfit) = RulePlan::new(("", ""), rule, relation, kinds, &RowKey::new(Ordering::Key, relation)) {
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

/// What an expression or a template wants to know, and PostgreSQL does not tell.
fn unsent(rule: &RuleSettings, relation: &Relation) -> Option<anyhow::Error> {
    let sees_old_rows = rule.on.iter().any(|op| matches!(*op, "update" | "delete"));
    if relation.identity == ReplicaIdentity::Full || !sees_old_rows {
        return None;
    }
    let is_key = |name: &str| relation.column(name).is_some_and(|column| relation.columns[column].key);
    let unsent = |key: &str, needed: &str| {
        let identity = relation.identity.name().to_uppercase();
        Some(anyhow!(
            "`{key}` uses {needed}, which PostgreSQL does not send of {relation}: its replica identity is {identity}"
        ))
    };
    for (key, expression) in rule.expressions() {
        let needed = expression.uses().iter().find(|it| it.image == Image::Old && !it.is_tested && !is_key(&it.column));
        let needed = match needed {
            Some(needed) => format!("old.{}", needed.column),
            None if expression.uses_changed() && rule.on.contains(&"update") => "changed".to_owned(),
            None => continue,
        };
        return unsent(&key, &needed);
    }
    let is_tested = |it: &Use, name: &str| it.image == Image::Old && it.is_tested && it.column == name;
    let is_asked_for = |name: &str| rule.when.iter().any(|when| when.uses().iter().any(|it| is_tested(it, name)));
    for (key, template) in templates(rule) {
        if let Some(name) = old_columns(template).find(|name| !is_key(name) && !is_asked_for(name)) {
            return unsent(&key, &format!("{{old.{name}}}"));
        }
    }
    None
}

/// The table as the stream will describe it.
async fn describe(client: &Client, table: &Table) -> Result<Relation, Failure> {
    let failed = |error: tokio_postgres::Error| sql_failure("reading a table's columns", &error);
    // A publication of PostgreSQL 18 can send the generated columns that are stored. What an index includes is no key.
    let sql = "\
        SELECT a.attname, a.atttypid, a.atttypmod, EXISTS ( \
               SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE i.indrelid = a.attrelid AND \
               a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]) AND i.indisvalid AND i.indimmediate AND \
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

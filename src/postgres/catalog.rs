//! The tables that a publication can hold, and which of them the configuration asks for.
//!
//! Invariant: what [`resolve`] returns is exactly what has to be published, each table once: a
//! partition is not listed beside its root, under whose name its rows are sent. A table that was
//! named and isn't there is an error; a pattern that matches nothing yet is not. `preflight` has
//! checked the server before; `publication` makes it so.

use anyhow::anyhow;
use tokio_postgres::Client;

use super::filters::Filter;
use super::ident::{parse_qualified, quote_qualified};
use super::preflight::sql_failure;
use crate::config::{OutboxSettings, OutboxTableSettings, RuleSettings};
use crate::failure::{Definite, Failure, Kind};
use crate::route::select::Selection;

/// An ordinary or a partitioned table, permanent, and none of the system's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its `pg_class.oid`.
    pub oid: u32,
    /// Unquoted.
    pub schema: String,
    /// Unquoted.
    pub name: String,
    /// Has partitions rather than rows.
    pub partitioned: bool,
    /// The partitioned tables that it is a partition of, at any level.
    pub ancestors: Vec<u32>,
    /// Whether PostgreSQL can log its UPDATEs and DELETEs once it is published.
    pub has_identity: bool,
    /// `pg_class.relreplident`.
    pub identity: String,
}

impl Table {
    /// As SQL has it, quoted.
    #[must_use]
    pub fn quoted(&self) -> String {
        quote_qualified(&self.schema, &self.name)
    }

    fn is(&self, schema: &str, name: &str) -> bool {
        self.schema == schema && self.name == name
    }
}

/// What has to be published.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// The selected tables and the outbox, by name.
    pub tables: Vec<Table>,
    /// The partitions, at the lowest level, of those that are partitioned.
    pub partitions: Vec<Table>,
    /// Those of the partitions that are selected by their own name too.
    pub selected_partitions: Vec<u32>,
    /// The outboxes.
    pub outboxes: Vec<Outbox>,
    /// What of the tables is left out, at most one a table.
    pub filters: Vec<Filter>,
}

/// An outbox, and what is read of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbox {
    /// Its `pg_class.oid`; the table is among [`Wanted::tables`].
    pub oid: u32,
    /// The columns that the configuration uses, each once.
    pub columns: Vec<String>,
}

impl Wanted {
    /// The tables that hold rows and whose UPDATEs and DELETEs PostgreSQL refuses while they are published.
    pub fn without_identity(&self) -> impl Iterator<Item = &Table> {
        let rows = self.tables.iter().filter(|table| !table.partitioned).chain(&self.partitions);
        rows.filter(|table| !table.has_identity)
    }

    /// The partitions whose old rows are logged by an identity of their own, that tells less than, or something else than,
    /// the one of their root.
    pub fn with_another_identity(&self) -> impl Iterator<Item = &Table> {
        let other = |partition: &&Table| {
            let root = self.tables.iter().find(|table| partition.ancestors.contains(&table.oid));
            partition.identity != "f" && root.is_some_and(|root| root.identity != partition.identity)
        };
        self.partitions.iter().filter(other)
    }

    /// The table under whose name the rows of this partition come; none for what is no partition.
    #[must_use]
    pub fn root_of(&self, schema: &str, name: &str) -> Option<&Table> {
        let partition = self.partitions.iter().find(|table| table.is(schema, name))?;
        self.tables.iter().find(|table| partition.ancestors.contains(&table.oid))
    }

    /// Those of [`Self::partitions`] that belong to `root`.
    pub fn partitions_of(&self, root: u32) -> impl Iterator<Item = &Table> {
        self.partitions.iter().filter(move |table| table.ancestors.contains(&root))
    }
}

/// Which tables `selection`, `outboxes` and `rules` ask for, as the catalog is now.
///
/// # Errors
/// Definite when a table that is named isn't there (or can't be published), or when an outbox, or the table of a rule, lacks a
/// column that the configuration needs; transient when the server can't answer.
pub async fn resolve(
    client: &Client,
    selection: &Selection,
    outboxes: &[OutboxSettings],
    rules: &[RuleSettings],
) -> Result<Wanted, Failure> {
    let tables = publishable(client).await?;
    let of_rules = rules.iter().map(|rule| (format!("{}.table", rule.key), &rule.tables));
    for (key, selection) in std::iter::once(("source.tables".to_owned(), selection)).chain(of_rules) {
        let missing = selection.unmatched(tables.iter().map(|table| (table.schema.as_str(), table.name.as_str())));
        if let Some(written) = missing.first() {
            // `unmatched` returns names without wildcards, which always parse.
            let (schema, name) = parse_qualified(written).unwrap_or_else(|_| (String::new(), (*written).to_owned()));
            return Err(not_there(client, &tables, &schema, &name, &key).await);
        }
    }
    let mut found = Vec::new();
    for (settings, OutboxTableSettings { schema, table, .. }) in
        outboxes.iter().filter_map(|settings| Some((settings, settings.table()?)))
    {
        let Some(table) = tables.iter().find(|it| it.is(schema, table)) else {
            return Err(not_there(client, &tables, schema, table, &format!("{}.table", settings.key)).await);
        };
        found.push(Outbox { oid: table.oid, columns: outbox_columns(client, table, settings).await? });
    }
    Ok(choose(&tables, selection, found, rules))
}

/// The selected tables without the partitions of other selected tables.
fn choose(tables: &[Table], selection: &Selection, outboxes: Vec<Outbox>, rules: &[RuleSettings]) -> Wanted {
    let is_outbox = |table: &Table| outboxes.iter().any(|outbox| outbox.oid == table.oid);
    let is_selected = |table: &Table| {
        let mut selections = std::iter::once(selection).chain(rules.iter().map(|rule| &rule.tables));
        selections.any(|selection| selection.selects(&table.schema, &table.name))
    };
    let selected: Vec<&Table> = tables.iter().filter(|table| is_selected(table) || is_outbox(table)).collect();
    let below = |table: &Table| selected.iter().any(|other| table.ancestors.contains(&other.oid));
    Wanted {
        tables: selected.iter().copied().filter(|table| !below(table)).cloned().collect(),
        partitions: tables.iter().filter(|table| !table.partitioned && below(table)).cloned().collect(),
        selected_partitions: selected.iter().filter(|table| below(table)).map(|table| table.oid).collect(),
        outboxes,
        filters: Vec::new(),
    }
}

/// What `CREATE PUBLICATION` accepts (`is_publishable_class` in `catalog/pg_publication.c`): objects
/// below OID 16384 are the system's.
pub(super) async fn publishable(client: &Client) -> Result<Vec<Table>, Failure> {
    // An index that is deferrable or not valid does not identify rows (`RelationGetIndexList`).
    let sql = "\
        SELECT c.oid, n.nspname, c.relname, c.relkind = 'p', \
               CASE WHEN c.relispartition THEN ARRAY(SELECT a.relid::oid FROM pg_partition_ancestors(c.oid) a \
                    WHERE a.relid <> c.oid) ELSE '{}' END, \
               CASE c.relreplident WHEN 'f' THEN true WHEN 'n' THEN false ELSE EXISTS ( \
                    SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate AND \
                    CASE c.relreplident WHEN 'd' THEN i.indisprimary ELSE i.indisreplident END) END, c.relreplident::text \
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
        WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND c.oid >= 16384 AND n.nspname !~ '^pg_' \
        ORDER BY n.nspname, c.relname";
    let rows = client.query(sql, &[]).await.map_err(|error| sql_failure("listing the tables", &error))?;
    let table = |row: &tokio_postgres::Row| {
        Ok(Table {
            oid: row.try_get(0)?,
            schema: row.try_get(1)?,
            name: row.try_get(2)?,
            partitioned: row.try_get(3)?,
            ancestors: row.try_get(4)?,
            has_identity: row.try_get(5)?,
            identity: row.try_get(6)?,
        })
    };
    rows.iter().map(table).collect::<Result<_, _>>().map_err(|error| sql_failure("listing the tables", &error))
}

/// A table that was named, and that can't be published: why, and what was perhaps meant.
async fn not_there(client: &Client, tables: &[Table], schema: &str, name: &str, key: &str) -> Failure {
    let sql = "\
        SELECT current_database()::text, (SELECT CASE \
               WHEN c.relkind = 'v' THEN 'a view' WHEN c.relkind = 'm' THEN 'a materialized view' \
               WHEN c.relkind = 'f' THEN 'a foreign table' WHEN c.relkind NOT IN ('r', 'p') THEN 'no table' \
               WHEN c.relpersistence = 'u' THEN 'an unlogged table' \
               WHEN c.relpersistence = 't' THEN 'a temporary table' ELSE 'a system table' END \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = $1 AND c.relname = $2)";
    let answer = match client.query_one(sql, &[&schema, &name]).await {
        Ok(row) => row.try_get(0).and_then(|database| Ok((database, row.try_get(1)?))),
        Err(error) => Err(error),
    };
    let (database, what): (String, Option<String>) = match answer {
        Ok(answer) => answer,
        Err(error) => return sql_failure("looking for a table", &error),
    };
    let table = format!("{schema}.{name}");
    if let Some(what) = what {
        let error = anyhow!("{table}, which `{key}` names, is {what}: its changes are not in the write-ahead log");
        return Failure::definite(Kind::Source, error, "Name an ordinary or a partitioned table.");
    }
    let error = anyhow!("the table {table}, which `{key}` names, does not exist in the database \"{database}\"");
    let similar = similar(tables, schema, name);
    let hint = if similar.is_empty() {
        "Create it before pgsluice starts, or correct the name.".to_owned()
    } else {
        format!("Did you mean {}? Names are compared exactly, with their case.", similar.join(", "))
    };
    Failure::definite(Kind::Source, error, hint)
}

/// Up to three tables whose name is close, the closest first; those of the same name elsewhere count as close.
fn similar(tables: &[Table], schema: &str, name: &str) -> Vec<String> {
    let wanted = name.to_lowercase();
    let mut near: Vec<(usize, String)> = tables
        .iter()
        .map(|table| {
            let elsewhere = usize::from(table.schema != schema);
            (distance(&wanted, &table.name.to_lowercase()) + elsewhere, format!("{}.{}", table.schema, table.name))
        })
        .filter(|(distance, _)| *distance <= (name.len() / 3).clamp(1, 3))
        .collect();
    near.sort();
    near.into_iter().take(3).map(|(_, table)| table).collect()
}

/// Levenshtein's, in characters, with one row of its matrix.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, left) in left.chars().enumerate() {
        let mut diagonal = above;
        row[0] = above + 1;
        for (index, right) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(left != *right);
            diagonal = row[index + 1];
            row[index + 1] = replaced.min(diagonal + 1).min(row[index] + 1);
        }
    }
    row[right.len()]
}

/// The columns that the configuration needs, when the outbox has them all.
async fn outbox_columns(client: &Client, table: &Table, settings: &OutboxSettings) -> Result<Vec<String>, Failure> {
    let doing = "reading the outbox table's columns";
    // A publication of PostgreSQL 18 can send those that are stored.
    let sql = "SELECT attname, attgenerated NOT IN ('', CASE WHEN current_setting('server_version_num')::int >= 180000 \
               THEN 's' ELSE '' END) FROM pg_attribute \
               WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    let rows = client.query(sql, &[&table.oid]).await.map_err(|error| sql_failure(doing, &error))?;
    let existing = rows
        .iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect::<Result<Vec<(String, bool)>, _>>()
        .map_err(|error| sql_failure(doing, &error))?;
    let needed = settings.used_columns();
    check_columns(&format!("{}.{}", table.schema, table.name), &needed, &existing)?;
    let mut columns: Vec<String> = needed.into_iter().map(|(column, _)| column.to_owned()).collect();
    columns.sort();
    columns.dedup();
    Ok(columns)
}

/// Columns as (name, generated): a generated column is not in the stream.
fn check_columns(table: &str, needed: &[(&str, String)], existing: &[(String, bool)]) -> Result<(), Definite> {
    let in_stream = |column: &str| existing.iter().any(|(name, generated)| name == column && !generated);
    let missing: Vec<String> = needed
        .iter()
        .filter(|(column, _)| !in_stream(column))
        .map(|(column, key)| {
            let generated = existing.iter().any(|(name, _)| name == column);
            format!("\"{column}\" ({key}{})", if generated { "; it is generated, so the stream lacks it" } else { "" })
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let existing: Vec<&str> = existing.iter().map(|(name, _)| name.as_str()).collect();
    let error = anyhow!(
        "the outbox table {table} lacks columns that the configuration needs: {}; it has {}",
        missing.join(", "),
        existing.join(", ")
    );
    let hint = "Add them to the table, or name the table's own columns in the configuration.";
    Err(Definite::new(Kind::Source, error, hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(oid: u32, name: &str, partitioned: bool, ancestors: &[u32]) -> Table {
        Table {
            oid,
            schema: "public".to_owned(),
            name: name.to_owned(),
            partitioned,
            ancestors: ancestors.to_vec(),
            has_identity: true,
            identity: "d".to_owned(),
        }
    }

    fn selection(patterns: &[&str]) -> Selection {
        Selection::parse(&patterns.iter().map(ToString::to_string).collect::<Vec<_>>()).expect("valid patterns")
    }

    fn names(tables: &[Table]) -> Vec<&str> {
        tables.iter().map(|table| table.name.as_str()).collect()
    }

    fn catalog() -> Vec<Table> {
        vec![
            table(1, "events", true, &[]),
            table(2, "events_eu", true, &[1]),
            table(3, "events_eu_2024", false, &[2, 1]),
            table(4, "events_us", false, &[1]),
            table(5, "orders", false, &[]),
            table(6, "outbox", false, &[]),
        ]
    }

    #[test]
    fn a_partition_is_not_listed_beside_its_root() {
        let wanted = choose(&catalog(), &selection(&["public.*", "!public.outbox"]), Vec::new(), &[]);
        assert_eq!(names(&wanted.tables), ["events", "orders"]);
        assert_eq!(names(&wanted.partitions), ["events_eu_2024", "events_us"]);
        assert_eq!(wanted.selected_partitions, [2, 3, 4]);
    }

    #[test]
    fn a_partition_that_is_named_alone_is_published_alone() {
        let wanted = choose(&catalog(), &selection(&["public.events_eu"]), Vec::new(), &[]);
        assert_eq!(names(&wanted.tables), ["events_eu"]);
        assert_eq!(names(&wanted.partitions), ["events_eu_2024"]);
        assert!(wanted.selected_partitions.is_empty());
    }

    #[test]
    fn the_outbox_comes_along_once_selected_or_not() {
        for patterns in [&["public.orders"][..], &["public.orders", "public.outbox"]] {
            let outbox = Outbox { oid: 6, columns: Vec::new() };
            let wanted = choose(&catalog(), &selection(patterns), vec![outbox], &[]);
            assert_eq!(names(&wanted.tables), ["orders", "outbox"]);
        }
    }

    #[test]
    fn tables_whose_rows_cannot_be_identified_are_found_in_partitions_too() {
        let mut tables = catalog();
        for oid in [0, 2, 4] {
            tables[oid].has_identity = false;
        }
        let wanted = choose(&tables, &selection(&["public.*"]), Vec::new(), &[]);
        let found: Vec<&str> = wanted.without_identity().map(|table| table.name.as_str()).collect();
        assert_eq!(found, ["orders", "events_eu_2024"]);
    }

    #[test]
    fn similar_names_are_suggested_and_others_are_not() {
        let tables = [table(1, "orders", false, &[]), table(2, "Order", false, &[]), table(3, "t", false, &[])];
        assert_eq!(similar(&tables, "public", "order"), ["public.Order", "public.orders"]);
        assert_eq!(similar(&tables, "sales", "orders"), ["public.orders", "public.Order"]);
        assert!(similar(&tables, "public", "customers").is_empty());
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn missing_and_generated_columns_are_named_with_their_keys() {
        let existing = [("id".to_owned(), false), ("body".to_owned(), false), ("kind".to_owned(), true)];
        assert!(check_columns("public.outbox", &[("id", "outbox.columns.id".to_owned())], &existing).is_ok());
        let needed = [
            ("id", "outbox.columns.id".to_owned()),
            ("payload", "outbox.columns.payload".to_owned()),
            ("kind", "outbox.routing_key".to_owned()),
        ];
        let error = check_columns("public.outbox", &needed, &existing).expect_err("two are missing").to_string();
        for part in
            ["\"payload\" (outbox.columns.payload)", "\"kind\" (outbox.routing_key; it is generated", "id, body, kind"]
        {
            assert!(error.contains(part), "{part} in {error}");
        }
    }
}

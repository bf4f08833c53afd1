//! Row filters and column lists: what of a table never leaves the database.
//!
//! Invariant: no filter is put into the publication that would make the application's own UPDATE or DELETE fail, or that means
//! something else there than in the configuration. Before anything is touched, [`resolve`] asks PostgreSQL what it makes of
//! the text; within the transaction that alters the publication, [`unfit`] finds what the table's replica identity does not
//! allow, and so it does later, when somebody has altered that. `publication` puts the statements together.

use anyhow::anyhow;
use tokio_postgres::Client;

use super::catalog::{Table, Wanted};
use super::ident::{quote_ident, quote_qualified};
use super::preflight::{Server, sql_failure};
use crate::config::FilterSettings;
use crate::failure::{Definite, Failure, Kind};

/// What a row filter may be.
pub(super) const ROWS_HINT: &str = "`where` takes one condition over the table's own columns, with PostgreSQL's own types, operators and immutable \
     functions: no sub-query, no now() or current_user, no function or type of your own.";

/// A filter of a table that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// `pg_class.oid` of the table.
    pub table: u32,
    /// What was configured.
    pub settings: FilterSettings,
}

impl Filter {
    /// What follows a table's name in `ALTER PUBLICATION … ADD TABLE`.
    pub(super) fn sql(&self) -> String {
        let columns = self.settings.columns.as_ref().map(|columns| {
            let quoted: Vec<String> = columns.iter().map(|column| quote_ident(column)).collect();
            format!(" ({})", quoted.join(", "))
        });
        let rows = self.settings.rows.as_ref().map(|rows| format!(" WHERE {}", in_parentheses(rows)));
        columns.into_iter().chain(rows).collect()
    }
}

/// A row filter as one term of a query's condition. Between the words of a `CASE` nothing of it binds to what is around.
pub(super) fn condition(rows: &str) -> String {
    format!("CASE WHEN {} THEN true END", in_parentheses(rows))
}

/// A comment at its end must not take the parenthesis with it.
fn in_parentheses(rows: &str) -> String {
    if rows.contains("--") { format!("({rows}\n)") } else { format!("({rows})") }
}

/// The filters of what is wanted, judged as far as that can be without touching anything.
///
/// # Errors
/// Definite when the server is too old, when a table is not published under its own name, when a column is not there, is
/// none that can be sent, or is left out although it is needed, and when PostgreSQL can't read a condition.
pub async fn resolve(
    client: &Client,
    settings: &[FilterSettings],
    wanted: &Wanted,
    server: &Server,
) -> Result<Vec<Filter>, Failure> {
    let mut filters = Vec::new();
    for settings in settings {
        let key = &settings.key;
        if server.version < 150_000 {
            let version = format!("{}.{}", server.version / 10_000, server.version % 10_000);
            let error = anyhow!("`{key}` needs PostgreSQL 15 or newer, and the server is {version}");
            return Err(Failure::definite(Kind::Source, error, "Remove the filter, or upgrade the server."));
        }
        let table = published(settings, wanted)?;
        if let Some(columns) = &settings.columns {
            check_columns(client, settings, columns, table).await?;
            check_outbox(settings, columns, table, wanted)?;
        }
        if let Some(rows) = &settings.rows {
            check_rows(client, settings, rows).await?;
        }
        filters.push(Filter { table: table.oid, settings: settings.clone() });
    }
    Ok(filters)
}

fn published<'a>(settings: &FilterSettings, wanted: &'a Wanted) -> Result<&'a Table, Definite> {
    let FilterSettings { key, schema, table, .. } = settings;
    if let Some(table) = wanted.tables.iter().find(|it| it.schema == *schema && it.name == *table) {
        return Ok(table);
    }
    let (error, hint) = match wanted.root_of(schema, table) {
        Some(root) => (
            anyhow!(
                "`{key}.table` names {schema}.{table}, a partition, whose rows come as those of {}.{}",
                root.schema,
                root.name
            ),
            "Filter the partitioned table.",
        ),
        None => (
            anyhow!("`{key}.table` names {schema}.{table}, and there is no such table that is published"),
            "Create it before pgsluice starts, or correct the name: it is compared exactly, with its case.",
        ),
    };
    Err(Definite::new(Kind::Source, error, hint))
}

/// What a column list takes (`pub_collist_validate` in `catalog/pg_publication.c`).
async fn check_columns(
    client: &Client,
    settings: &FilterSettings,
    columns: &[String],
    table: &Table,
) -> Result<(), Failure> {
    let failed = |error: tokio_postgres::Error| sql_failure("reading a filtered table's columns", &error);
    // Before PostgreSQL 18 no generated column can be sent, and never a virtual one.
    let sql = "SELECT attname::text, attgenerated NOT IN ('', CASE WHEN current_setting('server_version_num')::int >= 180000 \
               THEN 's' ELSE '' END) FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    let mut existing: Vec<(String, bool)> = Vec::new();
    for row in client.query(sql, &[&table.oid]).await.map_err(failed)? {
        existing.push((row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?));
    }
    let FilterSettings { key, schema, table, .. } = settings;
    for column in columns {
        match existing.iter().find(|(name, _)| name == column) {
            Some((_, false)) => {}
            Some((_, true)) => {
                let error = anyhow!(
                    "`{key}.columns` names \"{column}\" of {schema}.{table}, a generated column that can't be sent"
                );
                let hint =
                    "PostgreSQL sends generated columns from 18 on, and only stored ones. Take it out of the list.";
                return Err(Failure::definite(Kind::Source, error, hint));
            }
            None => {
                let names: Vec<&str> = existing.iter().map(|(name, _)| name.as_str()).collect();
                let error =
                    anyhow!("`{key}.columns` names \"{column}\", and {schema}.{table} has {}", names.join(", "));
                let hint = "Correct the name: it is compared exactly, with its case, and without quotes.";
                return Err(Failure::definite(Kind::Source, error, hint));
            }
        }
    }
    Ok(())
}

fn check_outbox(settings: &FilterSettings, columns: &[String], table: &Table, wanted: &Wanted) -> Result<(), Definite> {
    let Some(outbox) = wanted.outboxes.iter().find(|outbox| outbox.oid == table.oid) else { return Ok(()) };
    let missing: Vec<&str> = outbox.columns.iter().filter(|it| !columns.contains(it)).map(String::as_str).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let FilterSettings { key, schema, table, .. } = settings;
    let error = anyhow!(
        "`{key}.columns` leaves out columns of the outbox table {schema}.{table} that its events need: {}",
        missing.join(", ")
    );
    Err(Definite::new(Kind::Source, error, "Add them to the list, or leave `columns` out."))
}

/// PostgreSQL's parser reads the condition at the place where a query has it. Prepared, the query is not run and is but one
/// statement; and whatever closes the parenthesis early would have to go on as a query does, which a publication can't.
async fn check_rows(client: &Client, settings: &FilterSettings, rows: &str) -> Result<(), Failure> {
    let FilterSettings { key, schema, table, .. } = settings;
    let query = format!("SELECT 1 FROM ONLY {} WHERE {}", quote_qualified(schema, table), in_parentheses(rows));
    match client.prepare(&query).await {
        Ok(statement) if statement.params().is_empty() => Ok(()),
        Ok(_) => {
            let error = anyhow!("`{key}.where` has a parameter ($1), and nothing to put in its place");
            Err(Failure::definite(Kind::Source, error, ROWS_HINT))
        }
        Err(error) => match sql_failure(&format!("PostgreSQL can't read `{key}.where`"), &error) {
            Failure::Definite(definite) => Err(Definite { hint: ROWS_HINT.to_owned(), ..definite }.into()),
            transient @ Failure::Transient(_) => Err(transient),
        },
    }
}

/// A table of a publication whose UPDATEs and DELETEs PostgreSQL rejects because of its filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// `pg_class.oid` of the table that is filtered.
    pub table: u32,
    /// The table that holds the rows, itself or a partition.
    name: String,
    why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    /// The row filter uses these columns, which do not name a row.
    Rows(Vec<String>),
    /// The column list lacks these, which name a row.
    Columns(Vec<String>),
    /// The whole row names it, and PostgreSQL takes no column list.
    Full,
}

impl Unfit {
    /// The error of the filter at `key`, before it does harm.
    pub(super) fn refuse(&self, key: &str) -> Definite {
        let error = anyhow!("{}", self.said(&format!("`{key}.where`"), &format!("`{key}.columns`"), "would reject"));
        Definite::new(Kind::Source, error, self.hint())
    }

    /// What it does, where it is in place.
    #[must_use]
    pub fn warning(&self) -> String {
        format!("{}. {}", self.said("its row filter", "its column list", "rejects"), self.hint())
    }

    fn said(&self, rows: &str, columns: &str, rejects: &str) -> String {
        let table = &self.name;
        let because = match &self.why {
            Why::Rows(used) => format!("{rows} uses {}, not part of the table's replica identity", used.join(", ")),
            Why::Columns(lacking) => format!("{columns} lacks {}, of the table's replica identity", lacking.join(", ")),
            Why::Full => format!("{columns} is one of a table with REPLICA IDENTITY FULL"),
        };
        format!("PostgreSQL {rejects} every UPDATE and DELETE on {table}: {because}")
    }

    fn hint(&self) -> &'static str {
        match &self.why {
            Why::Rows(_) => {
                "Use columns of the primary key only; or let the replica identity hold the others: ALTER TABLE … REPLICA IDENTITY \
                 USING INDEX a unique index over them and the key, of columns that are NOT NULL, or REPLICA IDENTITY FULL (which \
                 goes without `columns`)."
            }
            Why::Columns(_) => "Add them to `columns`.",
            Why::Full => {
                "Leave `columns` out, or give the table another replica identity: ALTER TABLE … REPLICA IDENTITY DEFAULT, or \
                 USING INDEX."
            }
        }
    }
}

/// The filtered tables of a publication that publishes updates and deletes, and whose replica identity does not fit (`RelationBuildPublicationDesc` in
/// `utils/cache/relcache.c`). One without any replica identity is none of them: its UPDATEs are rejected without a filter, too.
///
/// # Errors
/// When the server can't answer.
pub async fn unfit(client: &Client, publication: &str) -> Result<Vec<Unfit>, Failure> {
    let failed = |error: tokio_postgres::Error| sql_failure("comparing filters with replica identities", &error);
    let rows = client.query(UNFIT, &[&publication]).await.map_err(failed)?;
    let mut found = Vec::new();
    for row in &rows {
        let read = || {
            let (full, listed): (bool, bool) = (row.try_get(2)?, row.try_get(3)?);
            let (used, lacking): (Vec<String>, Vec<String>) = (row.try_get(4)?, row.try_get(5)?);
            let whys = [
                (!used.is_empty()).then_some(Why::Rows(used)),
                (!lacking.is_empty()).then_some(Why::Columns(lacking)),
                (full && listed).then_some(Why::Full),
            ];
            let (table, name): (u32, String) = (row.try_get(0)?, row.try_get(1)?);
            Ok(whys.into_iter().flatten().map(move |why| Unfit { table, name: name.clone(), why }))
        };
        found.extend(read().map_err(failed)?);
    }
    Ok(found)
}

/// A column that is in the list and in the condition is depended on twice.
const UNFIT: &str = "\
    WITH entry AS ( \
        SELECT r.prrelid, r.prattrs IS NOT NULL AS listed, \
               ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs)) AS list, \
               ARRAY(SELECT a.attname FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid \
                     WHERE d.classid = 'pg_publication_rel'::regclass AND d.objid = r.oid AND d.refobjsubid > 0 \
                       AND d.refclassid = 'pg_class'::regclass AND d.refobjid = r.prrelid \
                     GROUP BY a.attname, a.attnum HAVING count(*) > CASE WHEN a.attnum = ANY (r.prattrs) THEN 1 ELSE 0 END) AS used \
        FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid \
        WHERE p.pubname = $1 AND (r.prattrs IS NOT NULL OR r.prqual IS NOT NULL) \
    ), holder AS ( \
        SELECT e.*, c.oid, c.relreplident = 'f' AS is_full, format('%s.%s', n.nspname, c.relname) AS name, \
               ARRAY(SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid \
                       AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]) \
                     WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate \
                       AND CASE c.relreplident WHEN 'd' THEN i.indisprimary ELSE i.indisreplident END) AS identity \
        FROM entry e, LATERAL (SELECT e.prrelid AS oid UNION SELECT relid FROM pg_partition_tree(e.prrelid)) part \
             JOIN pg_class c ON c.oid = part.oid AND c.relkind = 'r' JOIN pg_namespace n ON n.oid = c.relnamespace \
    ), compared AS ( \
        SELECT prrelid, name, is_full, listed, \
               CASE WHEN is_full THEN '{}' ELSE ARRAY(SELECT unnest(used) EXCEPT SELECT unnest(identity) ORDER BY 1)::text[] END AS used, \
               CASE WHEN is_full OR NOT listed THEN '{}' \
                    ELSE ARRAY(SELECT unnest(identity) EXCEPT SELECT unnest(list) ORDER BY 1)::text[] END AS lacking \
        FROM holder WHERE is_full OR cardinality(identity) > 0 \
    ) SELECT * FROM compared WHERE used <> '{}' OR lacking <> '{}' OR is_full AND listed ORDER BY name";

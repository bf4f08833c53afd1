//! Which tables were in a publication of ours, kept in its comment: pgoutput does not tell when one is taken out.
//!
//! Invariant: what is written down was read before, so that what somebody alters meanwhile is missing from the publication
//! and not from the record.

use sha2::{Digest as _, Sha256};
use tokio_postgres::Client;

use super::{LOCK_TIMEOUT, Member, Membership, Name, Publication, Sent, has_filters, members};
use crate::failure::Failure;
use crate::lsn::Lsn;
use crate::postgres::catalog::{Table, Wanted};
use crate::postgres::ident::{quote_ident, quote_literal, quote_qualified};
use crate::postgres::preflight::sql_failure;
use crate::postgres::watch::end_of_wal;

/// How the comment of a publication begins that pgsluice may alter.
pub const MARK: &str = "managed by pgsluice";
/// The comment, with the way out of it. What follows is a [`Record`]: a table that somebody takes out, and be it for a
/// moment, has lost changes.
const COMMENT: &str = "managed by pgsluice: its tables follow the configuration; remove this comment to manage it yourself; tables as of ";

/// Which tables were in a publication of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When that was so.
    pub as_of: Lsn,
    /// Those that we have put into it, and not taken out.
    pub members: Vec<Recorded>,
}

/// A table that was in a publication of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// That it was in it.
    pub membership: Membership,
    /// A digest of the name that it had; none where an older pgsluice wrote it down.
    pub name: Option<String>,
    /// The [`digest`] of its row filter; none without one that the configuration asked for.
    pub rows: Option<String>,
}

/// `… tables as of 0/16B3748: 16390:16401:=5f3a9c01 16395:16402:=e77a0b3d:055557a359c75ed7`
pub(super) fn parse(comment: &str) -> Option<Record> {
    let recorded = |text: &str| {
        let mut parts = text.split(':');
        let membership = Membership { table: parts.next()?.parse().ok()?, entry: parts.next()?.parse().ok()? };
        let mut recorded = Recorded { membership, name: None, rows: None };
        for part in parts {
            match part.strip_prefix('=') {
                Some(name) => recorded.name = Some(name.to_owned()),
                None => recorded.rows = Some(part.to_owned()),
            }
        }
        Some(recorded)
    };
    let (as_of, members) = comment.strip_prefix(COMMENT)?.split_once(": ")?;
    Some(Record { as_of: as_of.parse().ok()?, members: members.split(' ').filter_map(recorded).collect() })
}

/// Names a row filter by its text in the configuration and by what PostgreSQL has made of it: 16 hexadecimal digits.
///
/// Neither is enough. Of the same text PostgreSQL may have made something else, as of a column that was renamed; and what it
/// has made does not look like the text.
#[must_use]
pub fn digest(written: &str, made: &str) -> String {
    let mut digest = format!("{:x}", Sha256::digest(format!("{written}\0{made}")));
    digest.truncate(16);
    digest
}

/// Stands for a table's name: 8 hexadecimal digits. A name can be anything, and the comment is read by its spaces.
fn name_digest(quoted: &str) -> String {
    let mut digest = format!("{:x}", Sha256::digest(quoted));
    digest.truncate(8);
    digest
}

/// What was taken out of a publication of ours behind our back, if only for a moment, or filtered otherwise: of the tables
/// that are on record, those which still exist; of those that the configuration names, those which have another table in their
/// place; and what else decides which changes come.
///
/// # Errors
/// When the server can't answer.
pub async fn removed(
    client: &Client,
    record: &Record,
    named: &[Name],
    now: &Publication,
) -> Result<Vec<String>, Failure> {
    let is_in = |before: &Membership| now.members.iter().any(|member| member.membership == *before);
    let before = record.members.iter().map(|recorded| recorded.membership);
    let mut removed = existing(client, before.filter(|it| !is_in(it)).map(|it| it.table).collect()).await?;
    let had_name = |name: &Name| {
        let digest = name_digest(&name.quoted());
        let of_name = |recorded: &&Recorded| recorded.name.as_ref() == Some(&digest);
        record.members.iter().find(of_name).map(|recorded| recorded.membership.table)
    };
    removed.extend(replaced(client, named, had_name, now).await?);
    removed.extend(now.unpublished.iter().map(|operation| format!("every {operation}")));
    if !now.via_root {
        removed.push("the rows of partitions under their root's name".to_owned());
    }
    Ok(removed)
}

/// The tables that are sent by another name than is on record, unless another has that one now: then it was put in its place.
pub(super) fn renamed(publication: &Publication) -> impl Iterator<Item = &Sent> {
    let names: Vec<String> = publication.members.iter().map(|member| name_digest(&member.quoted)).collect();
    publication.sent.iter().filter(move |sent| {
        let recorded = publication.record.iter().flat_map(|record| &record.members);
        let mut before = recorded.filter(|it| it.membership.table == sent.oid).filter_map(|it| it.name.as_ref());
        let now = name_digest(&quote_qualified(&sent.schema, &sent.table));
        before.any(|before| *before != now && !names.contains(before))
    })
}

/// Which of the tables that were sent are sent no more, and still exist; of those that the configuration names, also those
/// which have another table in their place.
///
/// # Errors
/// When the server can't answer.
pub async fn unsent(
    client: &Client,
    before: &[Sent],
    named: &[Name],
    now: &Publication,
) -> Result<Vec<String>, Failure> {
    let is_sent = |before: &&Sent| now.sent.iter().any(|sent| sent.oid == before.oid);
    let mut unsent = existing(client, before.iter().filter(|it| !is_sent(it)).map(|it| it.oid).collect()).await?;
    let had_name = |name: &Name| before.iter().find(|sent| name.is(&sent.schema, &sent.table)).map(|sent| sent.oid);
    unsent.extend(replaced(client, named, had_name, now).await?);
    Ok(unsent)
}

/// Of the tables that the configuration names and that were published under that name (with this oid, says `had_name`), those
/// in whose place there is another one that is not. (Where there is none, the stream says so at the first change.)
async fn replaced(
    client: &Client,
    named: &[Name],
    had_name: impl Fn(&Name) -> Option<u32>,
    now: &Publication,
) -> Result<Vec<String>, Failure> {
    let (mut schemas, mut tables, mut oids) = (Vec::new(), Vec::new(), Vec::new());
    for name in named.iter().filter(|name| !now.has(name)) {
        if let Some(oid) = had_name(name) {
            schemas.push(&name.schema);
            tables.push(&name.table);
            oids.push(oid);
        }
    }
    if oids.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "SELECT format('%s.%s (another table by now)', was.schema, was.name) \
               FROM unnest($1::text[], $2::text[], $3::oid[]) AS was (schema, name, oid) \
               JOIN pg_namespace n ON n.nspname = was.schema \
               JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = was.name \
               WHERE c.oid <> was.oid AND c.relkind IN ('r', 'p') ORDER BY 1";
    let failed = |error: tokio_postgres::Error| sql_failure("looking for tables that were replaced", &error);
    let rows = client.query(sql, &[&schemas, &tables, &oids]).await.map_err(failed)?;
    rows.iter().map(|row| row.try_get(0).map_err(failed)).collect()
}

async fn existing(client: &Client, tables: Vec<u32>) -> Result<Vec<String>, Failure> {
    if tables.is_empty() {
        return Ok(Vec::new());
    }
    // One that was dropped as a table has left it by that.
    let sql = "SELECT format('%s.%s', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.oid = ANY($1) ORDER BY 1";
    let failed = |error: tokio_postgres::Error| sql_failure("looking for tables that left the publication", &error);
    let rows = client.query(sql, &[&tables]).await.map_err(failed)?;
    rows.iter().map(|row| row.try_get(0).map_err(failed)).collect()
}

/// Writes down which tables are in it now, unless that is on record.
///
/// # Errors
/// Definite when it is not ours.
pub async fn keep_record(client: &Client, name: &str, publication: &Publication) -> Result<(), Failure> {
    if !publication.managed {
        return Ok(());
    }
    let on_record = |member: &Member| {
        let record = publication.record.as_ref()?;
        record.members.iter().find(|recorded| recorded.membership == member.membership)
    };
    let has_name = |member| on_record(member).is_some_and(|it| it.name.as_ref() == Some(&name_digest(&member.quoted)));
    let is_kept = publication.record.as_ref().is_some_and(|record| record.members.len() == publication.members.len())
        && publication.members.iter().all(|member| on_record(member).is_some());
    if is_kept && publication.members.iter().all(has_name) {
        return Ok(());
    }
    match renew_record(client, name, publication).await {
        // Not its owner any more; but the tables are on record, if not by these names.
        Err(Failure::Definite(definite)) if is_kept => {
            tracing::debug!(error = %definite, "can't write down the names of the publication's tables");
            Ok(())
        }
        renewed => renewed,
    }
}

/// Writes down which tables are in a publication of ours, whatever was on record. A row filter that is not as it was on
/// record counts as somebody's own.
///
/// # Errors
/// Definite when it is not ours.
pub async fn renew_record(client: &Client, name: &str, publication: &Publication) -> Result<(), Failure> {
    let rows = |member: &Member| publication.rows_on_record(member).map(str::to_owned);
    let read = |member: &Member| publication.members.iter().find(|it| it.membership == member.membership);
    write(client, name, rows, |member| read(member).unwrap_or(member).quoted.clone()).await
}

/// Writes down which tables are in it, after we have altered it.
pub(super) async fn write_altered(client: &Client, name: &str, wanted: &Wanted) -> Result<(), Failure> {
    let rows = |member: &Member| {
        let filter = wanted.filters.iter().find(|filter| filter.table == member.membership.table)?;
        Some(digest(filter.settings.rows.as_ref()?, member.rows.as_ref()?))
    };
    let read = |member: &Member| wanted.tables.iter().find(|table| table.oid == member.membership.table);
    write(client, name, rows, |member| read(member).map_or_else(|| member.quoted.clone(), Table::quoted)).await
}

/// `quoted`: the table's name as it was read when the publication was judged.
async fn write(
    client: &Client,
    name: &str,
    rows: impl Fn(&Member) -> Option<String>,
    quoted: impl Fn(&Member) -> String,
) -> Result<(), Failure> {
    let failed = |error: tokio_postgres::Error| sql_failure("keeping the record of the publication's tables", &error);
    let as_of = end_of_wal(client).await?;
    let has_filters = has_filters(client).await.map_err(failed)?;
    let members = members(client, name, has_filters).await.map_err(failed)?;
    let recorded = members.iter().map(|member| {
        let Membership { table, entry } = member.membership;
        let rows = rows(member).map(|digest| format!(":{digest}")).unwrap_or_default();
        format!("{table}:{entry}:={}{rows}", name_digest(&quoted(member)))
    });
    let comment = format!("{COMMENT}{as_of}: {}", recorded.collect::<Vec<_>>().join(" "));
    let sql = format!("{LOCK_TIMEOUT}; COMMENT ON PUBLICATION {} IS {}", quote_ident(name), quote_literal(&comment));
    client.batch_execute(&sql).await.map_err(failed)
}

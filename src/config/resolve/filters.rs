//! `[source.filters]`, or several `[[source.filters]]`. What only the server knows is judged by `postgres::filters`.

use super::super::layers::Origins;
use super::super::written;
use super::super::{FilterSettings, OutboxSettings};
use super::{identifier, qualified, required};
use crate::failure::Definite;
use crate::route::select::Selection;

const KEY: &str = "source.filters";

/// Filters of tables that are selected, one a table.
pub(super) fn filters(
    at: &Origins,
    written: Vec<written::Filter>,
    tables: &Selection,
    outboxes: &[OutboxSettings],
) -> Result<Vec<FilterSettings>, Definite> {
    let key = |index: usize| if at.is_list(KEY) { format!("{KEY}[{index}]") } else { KEY.to_owned() };
    let filters = written.into_iter().enumerate().map(|(index, written)| filter(at, key(index), written));
    let filters = filters.collect::<Result<Vec<_>, _>>()?;
    for (index, filter) in filters.iter().enumerate() {
        let FilterSettings { key, schema, table, .. } = filter;
        let key = format!("{key}.table");
        if filters[..index].iter().any(|other| other.is(schema, table)) {
            let hint = "write one section for each table, with `where`, `columns`, or both";
            return Err(at.wrong(&key, format!("is given twice: {schema}.{table}"), hint));
        }
        if !tables.selects(schema, table) && !outboxes.iter().any(|outbox| outbox.is(schema, table)) {
            let hint = "select the table in source.tables, or remove the filter";
            return Err(at.wrong(&key, format!("names a table that is not selected: {schema}.{table}"), hint));
        }
    }
    Ok(filters)
}

fn filter(at: &Origins, key: String, written: written::Filter) -> Result<FilterSettings, Definite> {
    let sub = |name: &str| format!("{key}.{name}");
    let table = required(at, &sub("table"), written.table, "one table, as in table = \"public.orders\"")?;
    let (schema, table) = qualified(at, &sub("table"), &table)?;
    if written.rows.is_none() && written.columns.is_none() {
        let hint = "write where = \"…\" for some of the rows, columns = […] for some of the columns, or both";
        return Err(at.wrong(&sub("table"), "has neither `where` nor `columns` beside it: nothing is filtered", hint));
    }
    if written.rows.as_ref().is_some_and(|rows| rows.trim().is_empty() || rows.contains('\0')) {
        let hint = "a condition of SQL, as in where = \"region = 'eu'\"; leave the key out for all rows";
        return Err(at.wrong(&sub("where"), "is empty, or no text", hint));
    }
    for (index, column) in written.columns.iter().flatten().enumerate() {
        identifier(at, &sub("columns"), column)?;
        if written.columns.iter().flatten().take(index).any(|other| other == column) {
            return Err(at.wrong(&sub("columns"), format!("names \"{column}\" twice"), "name each column once"));
        }
    }
    if written.columns.as_ref().is_some_and(Vec::is_empty) {
        let hint = "name the columns to send; leave the key out for all columns";
        return Err(at.wrong(&sub("columns"), "is empty", hint));
    }
    Ok(FilterSettings { key, schema, table, rows: written.rows, columns: written.columns })
}

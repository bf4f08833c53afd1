//! What `[source.filters]` says, validated.

/// One `[[source.filters]]`: of this table PostgreSQL sends only some rows, or only some columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterSettings {
    /// Where it is in the configuration: `source.filters`, `source.filters[1]`.
    pub key: String,
    /// The table's schema, unquoted.
    pub schema: String,
    /// The table's name, unquoted.
    pub table: String,
    /// `where`: SQL that is true of the rows that are sent, as it was written; none: all are.
    pub rows: Option<String>,
    /// The columns that are sent, unquoted; none: all are.
    pub columns: Option<Vec<String>>,
}

impl FilterSettings {
    /// Whether it is of this table. Names as PostgreSQL has them, unquoted.
    #[must_use]
    pub fn is(&self, schema: &str, table: &str) -> bool {
        self.schema == schema && self.table == table
    }
}

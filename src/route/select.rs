//! Which tables are selected: `schema.table` patterns to include, and `!schema.table` patterns to exclude.
//!
//! Invariant: a table is selected if an include pattern matches it and no exclude pattern does; the order
//! of the patterns does not matter. Written names are read by `postgres::ident`. `config` parses a
//! [`Selection`] at start; preflight and the publication ask it about the tables that exist.

use crate::postgres::ident::{Glyph, NameError, quote_qualified, read_pattern};

/// Include and exclude patterns of tables.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    includes: Vec<Pattern>,
    excludes: Vec<Pattern>,
    /// Of what these patterns select, only this.
    within: Option<Box<Selection>>,
}

#[derive(Debug, Clone)]
struct Pattern {
    /// As the user wrote it, with its `!`.
    written: String,
    schema: Vec<Glyph>,
    table: Vec<Glyph>,
}

/// A list of patterns that selects nothing that makes sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// One pattern is no `schema.table`.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Excluding from nothing leaves nothing.
    #[error("`{0}` excludes, but no pattern includes")]
    OnlyExcludes(String),
}

impl PatternError {
    /// What to write instead.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Name(error) => error.hint(),
            Self::OnlyExcludes(_) => "include something first, as in [\"public.*\", \"!public.audit_*\"]",
        }
    }
}

impl Selection {
    /// Reads patterns: `*` is any number of characters, `?` any one, parts in double quotes are literal,
    /// a leading `!` excludes.
    ///
    /// # Errors
    /// The first pattern that is no `schema.table`, or only excluding patterns.
    pub fn parse(patterns: &[String]) -> Result<Self, PatternError> {
        let mut selection = Self::default();
        for written in patterns {
            let text = written.trim();
            let excluded = text.strip_prefix('!');
            let [schema, table] = read_pattern(excluded.unwrap_or(text).trim_start())?;
            let list = if excluded.is_some() { &mut selection.excludes } else { &mut selection.includes };
            list.push(Pattern { written: text.to_owned(), schema, table });
        }
        match (selection.includes.is_empty(), selection.excludes.first()) {
            (true, Some(exclude)) => Err(PatternError::OnlyExcludes(exclude.written.clone())),
            (true, None) | (false, _) => Ok(selection),
        }
    }

    /// Excludes one table. Names as PostgreSQL has them, unquoted.
    pub fn exclude(&mut self, schema: &str, table: &str) {
        let literal = |name: &str| name.chars().map(Glyph::Literal).collect();
        let written = format!("!{}", quote_qualified(schema, table));
        self.excludes.push(Pattern { written, schema: literal(schema), table: literal(table) });
    }

    /// Whether the table's changes become events. Names as PostgreSQL has them, unquoted.
    #[must_use]
    pub fn selects(&self, schema: &str, table: &str) -> bool {
        self.includes.iter().any(|pattern| pattern.matches(schema, table)) && !self.excludes(schema, table)
    }

    /// Whether a pattern leaves the table out, whatever the others select. Names as PostgreSQL has them, unquoted.
    #[must_use]
    pub fn excludes(&self, schema: &str, table: &str) -> bool {
        let is_left_out = self.excludes.iter().any(|pattern| pattern.matches(schema, table));
        is_left_out || self.within.as_ref().is_some_and(|within| !within.selects(schema, table))
    }

    /// Whether a pattern is the name of just this table. Names as PostgreSQL has them, unquoted.
    #[must_use]
    pub fn names(&self, schema: &str, table: &str) -> bool {
        self.includes.iter().any(|pattern| pattern.is_one_table() && pattern.matches(schema, table))
    }

    /// The tables that are selected by their names, whether they exist or not: schema and table, unquoted.
    pub fn named(&self) -> impl Iterator<Item = (String, String)> {
        let one_table = self.includes.iter().filter(|pattern| pattern.is_one_table());
        let names = one_table.map(|pattern| (text(&pattern.schema), text(&pattern.table)));
        names.filter(|(schema, table)| self.selects(schema, table))
    }

    /// The tables that both select.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { within: Some(Box::new(other)), ..self }
    }

    /// Whether nothing is selected, because no pattern was given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.includes.is_empty()
    }

    /// The patterns as the user wrote them, includes first.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.includes.iter().chain(&self.excludes).map(|pattern| pattern.written.as_str())
    }

    /// The include patterns that name one table which is not among `tables`: a table that isn't there.
    ///
    /// A pattern with a wildcard may match nothing yet.
    pub fn unmatched<'t>(&self, tables: impl IntoIterator<Item = (&'t str, &'t str)>) -> Vec<&str> {
        let mut missing: Vec<&Pattern> = self.includes.iter().filter(|pattern| pattern.is_one_table()).collect();
        for (schema, table) in tables {
            missing.retain(|pattern| !pattern.matches(schema, table));
        }
        missing.into_iter().map(|pattern| pattern.written.as_str()).collect()
    }
}

impl Pattern {
    fn matches(&self, schema: &str, table: &str) -> bool {
        matches(&self.schema, schema) && matches(&self.table, table)
    }

    fn is_one_table(&self) -> bool {
        self.schema.iter().chain(&self.table).all(|glyph| matches!(glyph, Glyph::Literal(_)))
    }
}

/// Of a pattern without wildcards.
fn text(pattern: &[Glyph]) -> String {
    let character = |glyph: &Glyph| match glyph {
        Glyph::Literal(character) => Some(*character),
        Glyph::AnyOne | Glyph::AnyMany => None,
    };
    pattern.iter().filter_map(character).collect()
}

/// Matches with one point of return, the last `*`: a later `*` can always take over from an earlier one.
pub(super) fn matches(pattern: &[Glyph], name: &str) -> bool {
    let (mut pattern, mut name) = (pattern, name.chars());
    let mut retry: Option<(&[Glyph], std::str::Chars<'_>)> = None;
    loop {
        let mut rest = name.clone();
        let matched = match (pattern.first(), rest.next()) {
            (None, None) => return true,
            (Some(Glyph::AnyMany), _) => {
                pattern = &pattern[1..];
                retry = Some((pattern, name.clone()));
                continue;
            }
            (Some(Glyph::AnyOne), Some(_)) => true,
            (Some(Glyph::Literal(expected)), Some(found)) => *expected == found,
            (None, Some(_)) | (Some(Glyph::AnyOne | Glyph::Literal(_)), None) => false,
        };
        if matched {
            (pattern, name) = (&pattern[1..], rest);
            continue;
        }
        // The last `*` takes one more character.
        let Some((after, from)) = &mut retry else { return false };
        if from.next().is_none() {
            return false;
        }
        (pattern, name) = (*after, from.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(patterns: &[&str]) -> Selection {
        let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        Selection::parse(&patterns).expect("valid patterns")
    }

    #[test]
    fn includes_select_and_excludes_win_in_any_order() {
        for patterns in [["public.*", "!public.audit_*"], ["! public.audit_*", "public.*"]] {
            let selection = selection(&patterns);
            assert!(selection.selects("public", "orders"));
            assert!(!selection.selects("public", "audit_log"));
            assert!(!selection.selects("private", "orders"));
        }
    }

    #[test]
    fn wildcards_match_characters_and_quotes_make_them_literal() {
        let cases = [
            ("*.*", "s", "t", true),
            ("public.a*b*c", "public", "a-b-b-c", true),
            ("public.a*b*c", "public", "a-b-c-d", false),
            ("public.*aab", "public", "aaab", true),
            ("public.gr??e", "public", "größe", true),
            ("public.gr?e", "public", "größe", false),
            ("public.größe", "public", "größe", true),
            (r#"public."*""#, "public", "*", true),
            (r#"public."*""#, "public", "orders", false),
            (r#"public."a.b""c""#, "public", "a.b\"c", true),
            (r#"public."Or"*"#, "public", "Orders", true),
            ("public.**", "public", "x", true),
            ("public.t?", "public", "t", false),
            ("public.t{1}[a]\\", "public", "t{1}[a]\\", true),
        ];
        for (pattern, schema, table, expected) in cases {
            assert_eq!(selection(&[pattern]).selects(schema, table), expected, "{pattern} {schema}.{table}");
        }
    }

    #[test]
    fn a_pattern_needs_a_schema_and_an_exclude_needs_an_include() {
        let error = |patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
            Selection::parse(&patterns).expect_err("invalid patterns").to_string()
        };
        assert_eq!(error(&["orders"]), "`orders` names no schema");
        assert_eq!(error(&["!orders"]), "`orders` names no schema");
        assert_eq!(error(&["!public.x"]), "`!public.x` excludes, but no pattern includes");
        assert_eq!(error(&[""]), "`` has an empty part");
    }

    #[test]
    fn two_selections_select_what_both_do() {
        let both = selection(&["public.*", "!public.audit_*"]).and(selection(&["*.orders", "*.audit_log"]));
        let selected = |table| both.selects("public", table);
        assert_eq!([selected("orders"), selected("items"), selected("audit_log")], [true, false, false]);
        assert!(!both.selects("private", "orders"));
    }

    #[test]
    fn a_table_that_is_not_there_is_reported() {
        let selection = selection(&["public.orders", "public.gone", "new.*", "!public.gone2"]);
        assert_eq!(selection.unmatched([("public", "orders"), ("public", "other")]), ["public.gone"]);
        assert_eq!(selection.patterns().last(), Some("!public.gone2"));
        assert!(Selection::parse(&[]).expect("no patterns").is_empty());
    }
}

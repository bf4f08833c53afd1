//! SQL identifiers: quoting names for statements, and reading names that a person wrote.
//!
//! Invariant: what is read unquoted is what PostgreSQL would make of it. PostgreSQL folds unquoted
//! upper-case letters, which surprises whoever created a table as `"Orders"`, so they are refused here
//! rather than folded. Quoting follows the lexical rules of the PostgreSQL manual, 4.1.1 "Identifiers
//! and Key Words". Used by the statements of this module's neighbours, `route::select` and `config`.

/// Longest identifier in bytes: `NAMEDATALEN - 1`.
pub const MAX_IDENTIFIER_BYTES: usize = 63;

/// `Out "Box"` → `"Out ""Box"""`. Always quoted, so that keywords need no list.
#[must_use]
pub fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `public`, `Out Box` → `"public"."Out Box"`.
#[must_use]
pub fn quote_qualified(schema: &str, table: &str) -> String {
    format!("{}.{}", quote_ident(schema), quote_ident(table))
}

/// `it's` → `'it''s'`. Not for backslashes while `standard_conforming_strings` is off: names have none.
#[must_use]
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// One character of a name as a person wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Glyph {
    /// Stands for itself.
    Literal(char),
    /// `?` outside quotes: any one character.
    AnyOne,
    /// `*` outside quotes: any number of characters.
    AnyMany,
}

/// Why a written name is not `schema.table`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A bare `orders`; guessing `public` would follow nobody's `search_path`.
    #[error("`{0}` names no schema")]
    NoSchema(String),
    /// `a.b.c`
    #[error("`{0}` has more than two parts")]
    TooManyParts(String),
    /// `public.` or `.orders` or `""`
    #[error("`{0}` has an empty part")]
    EmptyPart(String),
    /// `public."orders`
    #[error("`{0}` has a quote that is not closed")]
    OpenQuote(String),
    /// White space or a control character outside quotes.
    #[error("`{0}` has white space outside quotes")]
    Space(String),
    /// Upper case outside quotes.
    #[error("`{0}` has upper-case letters outside quotes, which PostgreSQL would fold to lower case")]
    UpperCase(String),
    /// `public.*` where one table is asked for.
    #[error("`{0}` has a wildcard where one table is asked for")]
    Wildcard(String),
    /// A part that no PostgreSQL identifier can be as long as.
    #[error("`{0}` has a part of more than 63 bytes")]
    TooLong(String),
}

impl NameError {
    /// What to write instead.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoSchema(_) | Self::TooManyParts(_) | Self::EmptyPart(_) => {
                "write schema.table, as in public.orders; a part that contains a dot goes in double quotes"
            }
            Self::OpenQuote(_) => "close the double quote; a double quote inside quotes is written twice",
            Self::Space(_) => "put the part in double quotes, as in 'public.\"my table\"'",
            Self::UpperCase(_) => "write lower case, or put the part in double quotes, as in 'public.\"Orders\"'",
            Self::Wildcard(_) => "name one table, or put a literal * or ? in double quotes",
            Self::TooLong(_) => "PostgreSQL cuts identifiers at 63 bytes; write the name as the database has it",
        }
    }
}

/// Reads `schema.table`, each part plain, with wildcards, or (partly) in double quotes.
///
/// # Errors
/// [`NameError`] with the whole text, when it is no such name.
pub fn read_pattern(text: &str) -> Result<[Vec<Glyph>; 2], NameError> {
    let fail = |error: fn(String) -> NameError| Err(error(text.to_owned()));
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut quoted = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.next_if_eq(&'"').is_some() => part.push(Glyph::Literal('"')),
            '"' => quoted = !quoted,
            _ if quoted => part.push(Glyph::Literal(character)),
            '.' => parts.push(std::mem::take(&mut part)),
            '*' => part.push(Glyph::AnyMany),
            '?' => part.push(Glyph::AnyOne),
            _ if character.is_whitespace() || character.is_control() => return fail(NameError::Space),
            // PostgreSQL folds ASCII only, in every multi-byte encoding.
            'A'..='Z' => return fail(NameError::UpperCase),
            _ => part.push(Glyph::Literal(character)),
        }
    }
    parts.push(part);
    if quoted {
        return fail(NameError::OpenQuote);
    }
    if parts.len() > 2 {
        return fail(NameError::TooManyParts);
    }
    if parts.iter().any(Vec::is_empty) {
        return fail(NameError::EmptyPart);
    }
    <[Vec<Glyph>; 2]>::try_from(parts).or_else(|_| fail(NameError::NoSchema))
}

/// Reads the name of one table: `public."Out Box"` → (`public`, `Out Box`).
///
/// # Errors
/// [`NameError`] with the whole text, when it is no such name.
pub fn parse_qualified(text: &str) -> Result<(String, String), NameError> {
    let plain = |part: Vec<Glyph>| {
        let name: Option<String> = part
            .into_iter()
            .map(|glyph| match glyph {
                Glyph::Literal(character) => Some(character),
                Glyph::AnyOne | Glyph::AnyMany => None,
            })
            .collect();
        let name = name.ok_or_else(|| NameError::Wildcard(text.to_owned()))?;
        if name.len() > MAX_IDENTIFIER_BYTES { Err(NameError::TooLong(text.to_owned())) } else { Ok(name) }
    };
    let [schema, table] = read_pattern(text)?;
    Ok((plain(schema)?, plain(table)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_doubles_quotes() {
        assert_eq!(quote_ident("order"), r#""order""#);
        assert_eq!(quote_qualified("public", r#"Out "Box""#), r#""public"."Out ""Box""""#);
    }

    #[test]
    fn a_name_reads_as_postgresql_reads_it() {
        let name = |text: &str| parse_qualified(text).map(|(schema, table)| format!("{schema}|{table}"));
        assert_eq!(name("public.outbox"), Ok("public|outbox".to_owned()));
        assert_eq!(name(r#"public."Out Box""#), Ok("public|Out Box".to_owned()));
        assert_eq!(name(r#""a.b"."c""*?""#), Ok("a.b|c\"*?".to_owned()));
        assert_eq!(name("büro.größe_1$"), Ok("büro|größe_1$".to_owned()));
        assert_eq!(name("outbox"), Err(NameError::NoSchema("outbox".to_owned())));
        assert_eq!(name(""), Err(NameError::EmptyPart(String::new())));
        assert_eq!(name("a.b.c"), Err(NameError::TooManyParts("a.b.c".to_owned())));
        assert_eq!(name("public."), Err(NameError::EmptyPart("public.".to_owned())));
        assert_eq!(name(r#"public."""#), Err(NameError::EmptyPart(r#"public."""#.to_owned())));
        assert_eq!(name(r#"public."x"#), Err(NameError::OpenQuote(r#"public."x"#.to_owned())));
        assert_eq!(name("public.my table"), Err(NameError::Space("public.my table".to_owned())));
        assert_eq!(name("public.Orders"), Err(NameError::UpperCase("public.Orders".to_owned())));
        assert_eq!(name("public.*"), Err(NameError::Wildcard("public.*".to_owned())));
        let long = format!("public.{}", "x".repeat(64));
        assert_eq!(name(&long), Err(NameError::TooLong(long.clone())));
    }

    #[test]
    fn what_is_quoted_reads_back() {
        for table in ["orders", "Out Box", "a.b", "\"", "*", "größe"] {
            let written = quote_qualified("s", table);
            assert_eq!(parse_qualified(&written), Ok(("s".to_owned(), table.to_owned())));
        }
    }
}

//! What the catalog says of types that are not built in.
//!
//! It is what they are now, which may be later than the place in the WAL that is being read. Nothing but a composite
//! type's fields can have changed meanwhile: PostgreSQL alters no base type, element or bound. And the type can be gone.

use tokio_postgres::Client;

use super::{Description, Field, Form};
use crate::failure::Failure;
use crate::postgres::preflight::sql_failure;

/// Describes types and all that they are made of. Those that don't exist are not among the answers.
///
/// # Errors
/// As of SQL.
pub async fn describe(client: &Client, oids: &[u32]) -> Result<Vec<(u32, Description)>, Failure> {
    let failed = |error: tokio_postgres::Error| sql_failure("looking up types", &error);
    let rows = client.query(QUERY, &[&oids]).await.map_err(failed)?;
    rows.iter().map(described).collect::<Result<_, _>>().map_err(failed)
}

/// `array_subscript_handler` is what makes a type with a `typelem` a true array (`IsTrueArrayType`).
const QUERY: &str = "\
    WITH RECURSIVE wanted(oid) AS ( \
        SELECT pg_catalog.unnest($1::pg_catalog.oid[]) \
        UNION SELECT part FROM wanted w JOIN pg_catalog.pg_type t ON t.oid = w.oid, LATERAL ( \
            SELECT t.typelem WHERE t.typsubscript = 'pg_catalog.array_subscript_handler'::pg_catalog.regproc \
            UNION ALL SELECT t.typbasetype WHERE t.typtype = 'd' \
            UNION ALL SELECT rngsubtype FROM pg_catalog.pg_range WHERE rngtypid = t.oid \
            UNION ALL SELECT rngtypid FROM pg_catalog.pg_range WHERE rngmultitypid = t.oid \
            UNION ALL SELECT atttypid FROM pg_catalog.pg_attribute WHERE t.typtype = 'c' \
                AND attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped) made_of(part) WHERE part >= 10000) \
    SELECT t.oid, n.nspname::text, t.typname::text, \
           CASE WHEN t.typsubscript = 'pg_catalog.array_subscript_handler'::pg_catalog.regproc THEN 'a' \
                WHEN p.proname = 'hstore_out' AND t.typname = 'hstore' THEN 'h' \
                WHEN t.typtype <> 'b' THEN t.typtype::text \
                WHEN s.prosrc IN ('textsend', 'varcharsend', 'bpcharsend', 'namesend') THEN 'e' \
                WHEN s.prosrc IN ('ltree_send', 'lquery_send', 'ltxtq_send') THEN 'v' ELSE 'b' END, \
           CASE t.typtype WHEN 'd' THEN t.typbasetype \
                WHEN 'r' THEN (SELECT rngsubtype FROM pg_catalog.pg_range WHERE rngtypid = t.oid) \
                WHEN 'm' THEN (SELECT rngtypid FROM pg_catalog.pg_range WHERE rngmultitypid = t.oid) \
                ELSE t.typelem END, \
           COALESCE(e.typdelim::text, ','), f.names, f.types \
    FROM wanted JOIN pg_catalog.pg_type t USING (oid) JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
    JOIN pg_catalog.pg_proc p ON p.oid = t.typoutput LEFT JOIN pg_catalog.pg_proc s ON s.oid = t.typsend \
    LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem, \
    LATERAL (SELECT COALESCE(array_agg(attname::text ORDER BY attnum), '{}') AS names, \
                    COALESCE(array_agg(atttypid ORDER BY attnum), '{}') AS types FROM pg_catalog.pg_attribute \
             WHERE t.typtype = 'c' AND attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped) f";

fn described(row: &tokio_postgres::Row) -> Result<(u32, Description), tokio_postgres::Error> {
    let (kind, part, delimiter): (&str, u32, &str) = (row.try_get(3)?, row.try_get(4)?, row.try_get(5)?);
    let form = match kind {
        "a" => Form::Array { element: part, delimiter: delimiter.bytes().next().unwrap_or(b',') },
        "h" => Form::Hstore,
        "e" => Form::Text,
        "v" => Form::VersionedText,
        "d" => Form::Domain { base: part },
        "r" => Form::Range { bound: part },
        "m" => Form::Multirange { range: part },
        "c" => {
            let (names, types): (Vec<String>, Vec<u32>) = (row.try_get(6)?, row.try_get(7)?);
            let fields = names.into_iter().zip(types).map(|(name, type_oid)| Field { name, type_oid });
            Form::Composite(fields.collect())
        }
        _ => Form::Scalar,
    };
    Ok((row.try_get(0)?, Description { schema: row.try_get(1)?, name: row.try_get(2)?, form }))
}

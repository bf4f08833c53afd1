//! Every type that PostgreSQL has, through the decoder and the row encoder: `docs/types.md` line by line, and generated values
//! against PostgreSQL's own `to_jsonb`.

mod formats;
pub(crate) mod generated;
mod stream;

use std::collections::HashMap;

use pgsluice::postgres::binary::readable;
use pgsluice::postgres::types::{Types, describe};
use serde_json::value::RawValue;

use crate::decode::Stream;

const PAGE: &str = include_str!("../docs/types.md");

/// The types that the page's last examples are of.
pub(crate) fn setup() -> String {
    let sql = PAGE.split("```sql").nth(1).and_then(|rest| rest.split("```").next()).expect("the page's SQL");
    format!(
        "CREATE EXTENSION citext; CREATE EXTENSION ltree; CREATE EXTENSION hstore; CREATE EXTENSION cube; CREATE EXTENSION isn; {sql}"
    )
}

/// Type (none: the value says it), value in SQL, JSON.
pub(crate) fn examples() -> Vec<(Option<&'static str>, String, String)> {
    let (page, _) = PAGE.split_once("## Where").expect("the list of differences comes last");
    let rows = page.lines().filter(|line| line.starts_with("| ") && line.ends_with("` |"));
    let rows = rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, value, json] = cells.as_slice() else { panic!("{line}") };
        let code = |cell: &'static str| cell.strip_prefix('`')?.strip_suffix('`');
        let unescaped = |cell| code(cell).unwrap_or_else(|| panic!("no code: {cell}")).replace("\\|", "|");
        (code(name), unescaped(value), unescaped(json))
    });
    rows.collect()
}

#[tokio::test]
async fn every_line_of_the_page_holds() {
    let mut stream = Stream::after(&setup()).await;
    let examples = examples();
    assert!(examples.len() > 110, "{}", examples.len());
    let mut wrong = Vec::new();
    for (n, (name, value, expected)) in examples.iter().enumerate() {
        // What names no type of its own is cast.
        let create = match name {
            Some(name) => format!("CREATE TABLE t{n} (v {name}); INSERT INTO t{n} VALUES ({value})"),
            None => format!("CREATE TABLE t{n} AS SELECT {value} AS v"),
        };
        stream.run(&create).await;
        let binary = if is_readable(&mut stream, n).await { Some(stream.binary_texts().await) } else { None };
        let texts = stream.texts().await;
        if binary.is_some_and(|binary| binary != texts) {
            wrong.push(format!("{create}: not so in binary transfer"));
        }
        let event: HashMap<&str, &RawValue> = serde_json::from_str(&texts[0]).expect("an event");
        let after: HashMap<&str, &RawValue> = serde_json::from_str(event["after"].get()).expect("a row");
        let got = after["v"].get();
        if got != expected {
            wrong.push(format!("{create}: {got} for {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether binary transfer can be read.
async fn is_readable(stream: &mut Stream, table: usize) -> bool {
    let sql = "SELECT atttypid FROM pg_attribute WHERE attrelid = $1::text::regclass AND attname = 'v'";
    let oid: u32 = stream.client.query_one(sql, &[&format!("t{table}")]).await.expect(sql).get(0);
    readable(&Types::of(describe(&stream.client, &[oid]).await.expect("the type")), oid)
}

#[tokio::test]
async fn the_page_names_every_built_in_type() {
    let stream = Stream::after("").await;
    let sql = "SELECT array_agg(format_type(oid, NULL)) FROM pg_type WHERE oid < 10000 AND typtype IN ('b', 'r', 'm') \
               AND (typsubscript <> 'array_subscript_handler'::regproc OR typname ~ '^[a-z0-9]+vector$')";
    let names: Vec<String> = stream.client.query_one(sql, &[]).await.expect(sql).get(0);
    assert!(names.len() > 60, "{names:?}");
    let short = |name: &str| match name {
        "timestamp with time zone" => "timestamptz".to_owned(),
        "timestamp without time zone" => "timestamp".to_owned(),
        "time with time zone" => "timetz".to_owned(),
        "time without time zone" => "time".to_owned(),
        "bit varying" => "varbit".to_owned(),
        "character varying" => "varchar(".to_owned(),
        name => name.to_owned(),
    };
    let is_there = |name: &str| PAGE.contains(&format!("`{}", short(name)));
    let missing: Vec<&String> = names.iter().filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

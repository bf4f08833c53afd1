//! Generated values of every type, against what `to_jsonb` makes of them in PostgreSQL, but for the differences that
//! `docs/types.md` lists. `VALUES_SEED` repeats a run.

use fastrand::Rng;
use pgsluice::postgres::binary::{readable, text as binary_text};
use pgsluice::postgres::types::Types;
use serde_json::Value;

use super::setup;
use crate::decode::Stream;

pub(super) const ROWS: usize = 500;

/// A column: its type, how values of it are made (in SQL), and what PostgreSQL says of them; `{}` is the column.
pub(crate) struct Column {
    pub(crate) name: String,
    make: Box<dyn Fn(&mut Rng) -> String>,
    oracle: &'static str,
}

const AGREES: &str = "to_jsonb({})";
/// With its digits: `to_jsonb` makes a number of it, which only some readers keep.
const AS_TEXT: &str = "to_jsonb({}::text)";
const AS_TEXTS: &str = "to_jsonb({}::text[])";
const UTC: &str = "replace(to_jsonb({})::text, '+00:00', 'Z')::jsonb";
const BASE64: &str = "to_jsonb(translate(encode({}, 'base64'), E'\\n', ''))";
const BASE64S: &str = "CASE WHEN {} IS NOT NULL THEN COALESCE((SELECT jsonb_agg(translate(encode(x, 'base64'), E'\\n', '')) \
    FROM unnest({}) x), '[]') END";
const JSON: &str = "{}::jsonb";
const HSTORE: &str = "hstore_to_jsonb({})";
const ITEM: &str = "CASE WHEN {}::text IS NOT NULL THEN \
    jsonb_build_object('n', ({}).n, 'label', ({}).label, 'price', ({}).price::text) END";
const ITEMS: &str = "CASE WHEN {} IS NOT NULL THEN COALESCE((SELECT jsonb_agg(CASE WHEN x::text IS NOT NULL THEN \
    jsonb_build_object('n', (x).n, 'label', (x).label, 'price', (x).price::text) END) FROM (SELECT unnest({}) AS x) each), '[]') END";
const SHELF: &str = "CASE WHEN {}::text IS NOT NULL THEN jsonb_build_object('item', CASE WHEN ({}).item::text IS NOT NULL THEN \
    jsonb_build_object('n', (({}).item).n, 'label', (({}).item).label, 'price', (({}).item).price::text) END, \
    'places', ({}).places) END";

fn column(name: &str, oracle: &'static str, make: impl Fn(&mut Rng) -> String + 'static) -> Column {
    Column { name: name.to_owned(), make: Box::new(make), oracle }
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Whatever PostgreSQL can hold, and often what its own formats have a meaning for.
fn text(rng: &mut Rng) -> String {
    let any = |rng: &mut Rng| match rng.u8(..10) {
        0 => rng.char('\u{1}'..='\u{1f}'),
        1..=4 => char::from(*rng.choice(b"\"'\\{}(),;:=> \t\nNUL").expect("some")),
        5 => rng.char('\u{80}'..='\u{10FFFF}'),
        _ => rng.alphanumeric(),
    };
    match rng.u8(..12) {
        0 => String::new(),
        1 => "NULL".to_owned(),
        2 => "{}".to_owned(),
        _ => (0..rng.usize(1..12)).map(|_| any(rng)).collect(),
    }
}

fn digits(rng: &mut Rng, most: usize) -> String {
    (0..rng.usize(1..=most)).map(|_| rng.digit(10)).collect()
}

fn numeric(rng: &mut Rng) -> String {
    match rng.u8(..10) {
        0 => "'NaN'::numeric".to_owned(),
        1 => "'-Infinity'::numeric".to_owned(),
        2 => "0.000".to_owned(),
        _ => format!("'{}{}.{}'::numeric", rng.choice(["", "-"]).expect("one"), digits(rng, 60), digits(rng, 40)),
    }
}

fn float(rng: &mut Rng) -> String {
    match rng.u8(..8) {
        0 => (*rng.choice(["'NaN'", "'Infinity'", "'-Infinity'", "'-0'"]).expect("one")).to_owned(),
        1 => rng.i32(..).to_string(),
        // Where the shortest decimal may be exactly between two numbers.
        2 => format!("'{}e{}'", rng.u16(1..), rng.u8(13..26)),
        3 => (f64::from(rng.u16(1..)) * 2f64.powi(rng.i32(45..90))).to_string(),
        _ => {
            let number = f64::from_bits(rng.u64(..));
            if number.is_finite() { format!("'{number:e}'") } else { "0".to_owned() }
        }
    }
}

fn real(rng: &mut Rng) -> String {
    if rng.u8(..4) == 0 {
        return format!("'{}e{}'", rng.u16(1..), rng.u8(3..12));
    }
    let number = f32::from_bits(rng.u32(..));
    if number.is_finite() { format!("'{number:e}'") } else { "'NaN'".to_owned() }
}

/// From 4700 BC to far beyond 9999.
fn date(rng: &mut Rng) -> String {
    let year = rng.i32(1..=290_000) % (10_i32.pow(rng.u32(1..7)));
    let era = if rng.bool() || year > 4_700 { "" } else { " BC" };
    match rng.u8(..12) {
        0 => "infinity".to_owned(),
        1 => "-infinity".to_owned(),
        _ => format!("{:04}-{:02}-{:02}{era}", year.max(1), rng.u8(1..13), rng.u8(1..29)),
    }
}

fn timestamp(rng: &mut Rng) -> String {
    let date = date(rng);
    match date.split_once(' ') {
        _ if date.ends_with("infinity") => date,
        Some((date, era)) => format!("{date} {} {era}", time(rng)),
        None => format!("{date} {}", time(rng)),
    }
}

fn time(rng: &mut Rng) -> String {
    let fraction = if rng.bool() { String::new() } else { format!(".{}", digits(rng, 6)) };
    format!("{:02}:{:02}:{:02}{fraction}", rng.u8(..24), rng.u8(..60), rng.u8(..60))
}

fn interval(rng: &mut Rng) -> String {
    let (months, days) = (rng.i32(-20_000..20_000), rng.i32(-20_000..20_000));
    format!("'{months} months {days} days {}{}'", rng.choice(["", "-"]).expect("one"), time(rng))
}

fn bytea(rng: &mut Rng) -> String {
    let length = rng.usize(..9);
    format!("substr('\\x{:016x}'::bytea, 1, {length})", rng.u64(..))
}

fn json(rng: &mut Rng) -> String {
    fn value(rng: &mut Rng, depth: u8) -> Value {
        match rng.u8(..if depth > 3 { 4 } else { 6 }) {
            0 => Value::Null,
            1 => rng.bool().into(),
            2 => rng.i64(..).into(),
            3 => text(rng).into(),
            4 => (0..rng.u8(..4)).map(|_| value(rng, depth + 1)).collect(),
            _ => Value::Object((0..rng.u8(..4)).map(|_| (text(rng), value(rng, depth + 1))).collect()),
        }
    }
    let value = value(rng, 0);
    literal(&if rng.bool() { value.to_string() } else { format!("{value:#}") })
}

fn range(rng: &mut Rng, kind: &str, mut bound: impl FnMut(&mut Rng) -> String) -> String {
    let (lower, upper) = (bound(rng), bound(rng));
    let bounds = rng.choice(["[]", "[)", "(]", "()"]).expect("one");
    let lower = if rng.u8(..8) == 0 { "NULL".to_owned() } else { format!("least({lower}, {upper})") };
    format!("{kind}({lower}, greatest({upper}, {lower}), '{bounds}')")
}

fn array(rng: &mut Rng, kind: &str, mut element: impl FnMut(&mut Rng) -> String) -> String {
    let element = |rng: &mut Rng| if rng.u8(..5) == 0 { "NULL".to_owned() } else { element(rng) };
    let mut element = element;
    let mut row = |rng: &mut Rng, length| (0..length).map(|_| element(rng)).collect::<Vec<_>>().join(", ");
    match rng.u8(..6) {
        0 => format!("'{{}}'::{kind}[]"),
        1 => {
            let length = rng.usize(1..4);
            format!("ARRAY[[{}], [{}]]::{kind}[]", row(rng, length), row(rng, length))
        }
        _ => {
            let length = rng.usize(1..5);
            format!("ARRAY[{}]::{kind}[]", row(rng, length))
        }
    }
}

/// In one dimension, where PostgreSQL's own taking apart has one.
fn list(rng: &mut Rng, kind: &str, mut element: impl FnMut(&mut Rng) -> String) -> String {
    let elements: Vec<String> =
        (0..rng.usize(..4)).map(|_| if rng.u8(..5) == 0 { "NULL".to_owned() } else { element(rng) }).collect();
    format!("ARRAY[{}]::{kind}[]", elements.join(", "))
}

fn item(rng: &mut Rng) -> String {
    let n = if rng.u8(..4) == 0 { "NULL".to_owned() } else { rng.i32(1..).to_string() };
    let label = if rng.u8(..4) == 0 { "NULL".to_owned() } else { literal(&text(rng)) };
    let price = if rng.u8(..4) == 0 { "NULL".to_owned() } else { numeric(rng) };
    format!("ROW({n}, {label}, {price})::item")
}

fn shelf(rng: &mut Rng) -> String {
    let item = if rng.u8(..4) == 0 { "NULL".to_owned() } else { item(rng) };
    format!("ROW({item}, {})::shelf", array(rng, "integer", |rng| rng.i32(..).to_string()))
}

fn point(rng: &mut Rng) -> String {
    format!("({},{})", rng.i32(-99..99), f64::from(rng.i16(..)) / 8.0)
}

pub(super) fn scalars() -> Vec<Column> {
    vec![
        column("boolean", AGREES, |rng| rng.bool().to_string()),
        column("smallint", AGREES, |rng| format!("'{}'", rng.i16(..))),
        column("integer", AGREES, |rng| format!("'{}'", rng.i32(..))),
        column("bigint", AGREES, |rng| format!("'{}'", rng.i64(..))),
        column("oid", AGREES, |rng| rng.u32(..).to_string()),
        column("xid8", AGREES, |rng| format!("'{}'", rng.u64(..))),
        column("pg_lsn", AGREES, |rng| format!("'{:X}/{:X}'", rng.u32(..), rng.u32(..))),
        column("tid", AGREES, |rng| format!("'({},{})'", rng.u32(..), rng.u16(..))),
        column("regtype", AGREES, |rng| format!("'{}'", rng.choice(["integer", "text[]", "item"]).expect("one"))),
        column("real", AGREES, real),
        column("double precision", AGREES, float),
        column("numeric", AS_TEXT, numeric),
        column("numeric(12,3)", AS_TEXT, |rng| format!("{}.{}", digits(rng, 9), digits(rng, 6))),
        column("money", AGREES, |rng| format!("'{}.{:02}'", rng.i32(..), rng.u8(..100))),
        column("text", AGREES, |rng| literal(&text(rng))),
        column("varchar", AGREES, |rng| literal(&text(rng))),
        column("character(20)", AGREES, |rng| literal(&text(rng))),
        column("\"char\"", AGREES, |rng| literal(&rng.char('!'..='~').to_string())),
        column("name", AGREES, |rng| literal(&text(rng))),
        column("citext", AGREES, |rng| literal(&text(rng))),
        column("mood", AGREES, |rng| format!("'{}'", rng.choice(["so \"so\"", "well"]).expect("one"))),
        column("xml", AGREES, |rng| format!("xmlelement(name a, {})", literal(&rng.alphanumeric().to_string()))),
        column("tsvector", AGREES, |rng| format!("array_to_tsvector(ARRAY[{}])", literal(&(text(rng) + "x")))),
        column("cube", AGREES, |rng| format!("'({}, {})'", rng.i16(..), f64::from(rng.i16(..)) / 8.0)),
        column("ltree", AGREES, |rng| format!("'{}.{}'", rng.alphanumeric(), rng.alphanumeric())),
        column("jsonpath", AGREES, |rng| format!("'$.\"{}\"[{}]'", rng.alphanumeric(), rng.u8(..))),
        column("uuid", AGREES, |rng| format!("'{:032x}'", rng.u128(..))),
        column("bytea", BASE64, bytea),
        column("json", JSON, json),
        column("jsonb", AGREES, json),
        column("bit(9)", AGREES, |rng| format!("({})::bit(9)", rng.i16(..))),
        column("varbit", AGREES, |rng| format!("B'{:b}'", rng.u16(..))),
    ]
}

pub(super) fn times_and_networks() -> Vec<Column> {
    vec![
        column("date", AGREES, |rng| format!("'{}'", date(rng))),
        column("time", AGREES, |rng| format!("'{}'", time(rng))),
        column("timetz", AGREES, |rng| format!("'{}{:+03}:{:02}'", time(rng), rng.i8(-15..15), rng.u8(..60))),
        column("timestamp", AGREES, |rng| format!("'{}'", timestamp(rng))),
        column("timestamptz", UTC, |rng| format!("'{}'::timestamp AT TIME ZONE 'UTC'", timestamp(rng))),
        column("interval", AGREES, interval),
        column("inet", AGREES, |rng| format!("'{}.{}.0.{}/{}'", rng.u8(..), rng.u8(..), rng.u8(..), rng.u8(..=32))),
        column("cidr", AGREES, |rng| format!("network('{:x}:{:x}::1/{}')", rng.u16(1..), rng.u16(..), rng.u8(..=128))),
        column("macaddr", AGREES, |rng| format!("'{:012x}'", rng.u64(..) >> 16)),
        column("macaddr8", AGREES, |rng| format!("'{:016x}'", rng.u64(..))),
        column("point", AGREES, |rng| format!("'{}'", point(rng))),
        column("lseg", AGREES, |rng| format!("'[{},{}]'", point(rng), point(rng))),
        column("box", AGREES, |rng| format!("'{},{}'", point(rng), point(rng))),
        column("path", AGREES, |rng| format!("'[{},{},{}]'", point(rng), point(rng), point(rng))),
        column("polygon", AGREES, |rng| format!("'({},{})'", point(rng), point(rng))),
        column("circle", AGREES, |rng| format!("'<{},{}>'", point(rng), rng.u8(..))),
        column("line", AGREES, |rng| format!("'{{{},2,{}}}'", rng.i8(..), rng.i8(..))),
        column("int4range", AGREES, |rng| range(rng, "int4range", |rng| rng.i16(..).to_string())),
        column("numrange", AGREES, |rng| range(rng, "numrange", |rng| format!("{}.{}", rng.i16(..), rng.u8(..)))),
        column("daterange", AGREES, |rng| range(rng, "daterange", |rng| format!("'{}'::date", date(rng)))),
        column("tsrange", AGREES, |rng| range(rng, "tsrange", |rng| format!("'{}'::timestamp", timestamp(rng)))),
        column("textrange", AGREES, |rng| {
            range(rng, "textrange", |rng| format!("{} COLLATE \"C\"", literal(&text(rng))))
        }),
        column("int4multirange", AGREES, |rng| {
            format!("int4multirange({0}, {0})", range(rng, "int4range", |rng| rng.i16(..).to_string()))
        }),
    ]
}

pub(super) fn nested() -> Vec<Column> {
    vec![
        column("integer[]", AGREES, |rng| array(rng, "integer", |rng| rng.i32(..).to_string())),
        column("int2[]", AGREES, |rng| format!("'[{0}:{0}][0:1]={{{{{1},NULL}}}}'", rng.i8(..), rng.i16(..))),
        column("boolean[]", AGREES, |rng| array(rng, "boolean", |rng| rng.bool().to_string())),
        column("text[]", AGREES, |rng| array(rng, "text", |rng| literal(&text(rng)))),
        column("citext[]", AGREES, |rng| array(rng, "citext", |rng| literal(&text(rng)))),
        column("numeric[]", AS_TEXTS, |rng| array(rng, "numeric", numeric)),
        column("timestamp[]", AGREES, |rng| array(rng, "timestamp", |rng| format!("'{}'", timestamp(rng)))),
        column("timestamptz[]", UTC, |rng| {
            array(rng, "timestamptz", |rng| format!("('{}'::timestamp AT TIME ZONE 'UTC')", timestamp(rng)))
        }),
        column("bytea[]", BASE64S, |rng| list(rng, "bytea", bytea)),
        column("jsonb[]", AGREES, |rng| array(rng, "jsonb", json)),
        column("box[]", AGREES, |rng| array(rng, "box", |rng| format!("'{},{}'", point(rng), point(rng)))),
        column("mood[]", AGREES, |rng| array(rng, "mood", |_| "'so \"so\"'".to_owned())),
        column("int4range[]", AGREES, |rng| {
            array(rng, "int4range", |rng| range(rng, "int4range", |rng| rng.i16(..).to_string()))
        }),
        column("int2vector", AGREES, |rng| format!("'{} {}'", rng.i16(..), rng.i16(..))),
        column("oidvector", AGREES, |rng| format!("'{} {}'", rng.u32(..), rng.u32(..))),
        column("positive", AGREES, |rng| rng.i32(1..).to_string()),
        column("positives", AGREES, |rng| array(rng, "positive", |rng| rng.i32(1..).to_string())),
        column("item", ITEM, item),
        column("checked_item", ITEM, |rng| format!("ROW({}, {}, 1.10)", rng.i32(1..), literal(&text(rng)))),
        column("item[]", ITEMS, |rng| list(rng, "item", item)),
        column("shelf", SHELF, shelf),
        column("hstore", HSTORE, |rng| {
            format!("hstore(ARRAY[{}, 'b'], ARRAY[{}, NULL])", literal(&text(rng)), literal(&text(rng)))
        }),
    ]
}

/// The same value; numbers by value, not by how they are written.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(l), Value::Number(r)) => l == r || (l.is_f64() || r.is_f64()) && l.as_f64() == r.as_f64(),
        (Value::Array(l), Value::Array(r)) => l.len() == r.len() && l.iter().zip(r).all(|(l, r)| same(l, r)),
        _ => left == right,
    }
}

/// A column of every type.
pub(crate) fn columns() -> Vec<Column> {
    scalars().into_iter().chain(times_and_networks()).chain(nested()).collect()
}

pub(crate) fn seed() -> (u64, Rng) {
    let seed = std::env::var("VALUES_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().expect("a number"));
    println!("VALUES_SEED={seed}");
    (seed, Rng::with_seed(seed))
}

/// The values of one row, in SQL.
pub(crate) fn row(columns: &[Column], rng: &mut Rng) -> String {
    let value = |column: &Column| if rng.u8(..10) == 0 { "NULL".to_owned() } else { (column.make)(rng) };
    columns.iter().map(value).collect::<Vec<_>>().join(", ")
}

/// For each column, by its number.
pub(crate) fn each(columns: &[Column], what: impl Fn((usize, &Column)) -> String) -> String {
    columns.iter().enumerate().map(what).collect::<Vec<_>>().join(", ")
}

/// Fills a table of these columns.
pub(super) async fn stream_of(columns: &[Column], rng: &mut Rng) -> Stream {
    let types = each(columns, |(n, column)| format!("c{n} {}", column.name));
    let mut stream = Stream::after(&format!("{}; CREATE TABLE v (row serial PRIMARY KEY, {types})", setup())).await;
    let names = each(columns, |(n, _)| format!("c{n}"));
    for _ in 0..ROWS {
        let values = row(columns, rng);
        stream.run(&format!("INSERT INTO v ({names}) VALUES ({values})")).await;
    }
    stream
}

#[tokio::test]
async fn generated_values_of_every_type_are_what_to_jsonb_says() {
    let (seed, mut rng) = seed();
    let columns = columns();
    let mut stream = stream_of(&columns, &mut rng).await;
    let oracles = each(&columns, |(n, column)| column.oracle.replace("{}", &format!("c{n}")));
    let sql = format!("SELECT jsonb_build_array({oracles})::text FROM v ORDER BY v.row");
    let events = stream.events().await;
    let rows = stream.client.query(&sql, &[]).await.expect(&sql);
    assert_eq!((events.len(), rows.len()), (ROWS, ROWS));
    for (event, row) in events.iter().zip(&rows) {
        let expected: Vec<Value> = serde_json::from_str(row.get(0)).expect("PostgreSQL's JSON");
        for (n, (column, expected)) in columns.iter().zip(&expected).enumerate() {
            let got = &event["after"][format!("c{n}")];
            assert!(same(got, expected), "VALUES_SEED={seed}, {}: {got} for {expected}", column.name);
        }
    }
}

/// Of these the binary form says less than the text, or PostgreSQL has none.
const IN_TEXT_ONLY: [&str; 5] = ["cube", "regtype", "\"char\"", "xml", "tsvector"];

#[tokio::test]
async fn generated_values_are_the_same_by_binary_transfer() {
    let (seed, mut rng) = seed();
    let columns: Vec<Column> =
        columns().into_iter().filter(|column| !IN_TEXT_ONLY.contains(&column.name.as_str())).collect();
    let mut stream = stream_of(&columns, &mut rng).await;
    let (binary, text) = (stream.binary_texts().await, stream.texts().await);
    assert_eq!(text.len(), ROWS);
    for (binary, text) in binary.iter().zip(&text) {
        let [binary, text] = [binary, text].map(|text| serde_json::from_str::<Value>(text).expect(text));
        for (n, column) in columns.iter().enumerate() {
            let [binary, text] = [&binary, &text].map(|event| &event["after"][format!("c{n}")]);
            assert_eq!(binary, text, "VALUES_SEED={seed}, {}", column.name);
        }
    }
    // To the last byte.
    assert!(binary == text, "VALUES_SEED={seed}");
    // And all but those are readable.
    let columns = "SELECT array_agg(atttypid) FROM pg_attribute WHERE attrelid = 'v'::regclass AND attnum > 0";
    let oids: Vec<u32> = stream.client.query_one(columns, &[]).await.expect(columns).get(0);
    assert!(oids.iter().all(|oid| readable(&stream.types, *oid)));
}

/// PostgreSQL's shortest digits have rules of their own where two decimals are equally near, or one is between two numbers.
#[tokio::test]
async fn floats_by_binary_transfer_have_the_digits_that_postgresql_writes() {
    let (seed, mut rng) = seed();
    let stream = Stream::after("").await;
    let mut doubles = Vec::new();
    let mut reals = Vec::new();
    for _ in 0..20_000 {
        let (factor, whole) = (f64::from(rng.u32(..)), rng.u64(..) >> rng.u32(..60));
        let whole: f64 = whole.to_string().parse().expect("a number");
        doubles.extend([
            f64::from_bits(rng.u64(..)),
            factor * 2f64.powi(rng.i32(-60..90)),
            factor * 10f64.powi(rng.i32(-9..25)),
            whole,
        ]);
        let factor: f32 = rng.u16(..).to_string().parse().expect("a number");
        reals.extend([
            f32::from_bits(rng.u32(..)),
            factor * 2f32.powi(rng.i32(-30..50)),
            factor * 10f32.powi(rng.i32(-5..12)),
        ]);
    }
    let double = "SELECT array_agg(x::text ORDER BY n) FROM unnest($1::float8[]) WITH ORDINALITY AS _ (x, n)";
    let expected: Vec<String> = stream.client.query_one(double, &[&doubles]).await.expect(double).get(0);
    for (number, expected) in doubles.iter().zip(&expected) {
        assert_eq!(read(701, &number.to_be_bytes()), *expected, "VALUES_SEED={seed}");
    }
    let real = double.replace("float8", "float4");
    let expected: Vec<String> = stream.client.query_one(&real, &[&reals]).await.expect(&real).get(0);
    for (number, expected) in reals.iter().zip(&expected) {
        assert_eq!(read(700, &number.to_be_bytes()), *expected, "VALUES_SEED={seed}");
    }
}

fn read(type_oid: u32, bytes: &[u8]) -> String {
    let mut out = Vec::new();
    binary_text(&mut out, &Types::default(), type_oid, bytes).expect("a value");
    String::from_utf8(out).expect("a text")
}

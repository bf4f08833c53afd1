//! Every type through the formats that have values of their own: Debezium's and Canal's.

use pgsluice::config::ChangeFormat;
use serde_json::{Value, json};

use super::generated::{Column, ROWS, nested, scalars, seed, stream_of, times_and_networks};
use super::{examples, setup};
use crate::decode::Stream;
use crate::formats::connect;

const DEBEZIUM: ChangeFormat = ChangeFormat::Debezium { with_schema: true };

/// What is wrong with an event of a format with its schema.
fn debezium_is_wrong(event: &Value) -> Option<String> {
    connect::check(&event["schema"], &event["payload"]).err()
}

/// What is wrong with an event in Canal's format.
fn canal_is_wrong(event: &Value) -> Option<String> {
    let Some(row) = event["data"][0].as_object() else { return Some(format!("no row: {event}")) };
    let wrong = row.iter().find(|(name, value)| {
        let has_types = event["sqlType"][*name].is_i64() && event["mysqlType"][*name].is_string();
        !has_types || !(value.is_string() || value.is_null())
    });
    wrong.map(|(name, value)| format!("{name}: {value} in {event}"))
}

/// A table of one column `v`, for each of these values.
async fn create(stream: &mut Stream, n: usize, name: Option<&str>, value: &str) -> String {
    let create = match name {
        Some(name) => format!("CREATE TABLE t{n} (v {name}); INSERT INTO t{n} VALUES ({value})"),
        None => format!("CREATE TABLE t{n} AS SELECT {value} AS v"),
    };
    stream.run(&create).await;
    create
}

#[tokio::test]
async fn every_line_of_the_page_about_types_has_a_value_that_fits_its_schema() {
    let mut stream = Stream::after(&setup()).await;
    let mut lines = Vec::new();
    for (n, (name, value, _)) in examples().iter().enumerate() {
        lines.push(create(&mut stream, n, *name, value).await);
    }
    for (format, wrong) in
        [(DEBEZIUM, debezium_is_wrong as fn(&Value) -> Option<String>), (ChangeFormat::Canal, canal_is_wrong)]
    {
        let events = stream.formatted(format).await;
        assert_eq!(events.len(), lines.len());
        let wrong: Vec<_> = events.iter().zip(&lines).filter_map(|(event, line)| Some((line, wrong(event)?))).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

const PAGE: &str = include_str!("../../docs/formats/debezium.md");

#[tokio::test]
async fn every_line_of_the_page_about_debezium_holds() {
    let mut stream = Stream::after(&setup()).await;
    let mut lines = Vec::new();
    for line in PAGE.lines().filter(|line| line.starts_with("| `") && line.ends_with("` |")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`')).collect();
        let [name, value, json, schema] = cells[..] else { panic!("{line}") };
        create(&mut stream, lines.len(), Some(name), value).await;
        lines.push((line, json, schema));
    }
    assert!(lines.len() > 40, "{}", lines.len());
    let events = stream.formatted(DEBEZIUM).await;
    assert_eq!(events.len(), lines.len());
    for (event, (line, json, schema)) in events.iter().zip(lines) {
        assert_eq!(event["payload"]["after"]["v"], serde_json::from_str::<Value>(json).expect(line), "{line}");
        let of_value = &event["schema"]["fields"][1]["fields"][0];
        let semantic = of_value["name"].as_str().map(|name| format!(" {name}")).unwrap_or_default();
        assert_eq!(format!("{}{semantic}", of_value["type"].as_str().expect("a type")), schema, "{line}");
        assert_eq!(debezium_is_wrong(event), None, "{line}");
    }
}

#[tokio::test]
async fn generated_values_of_every_type_fit_their_schema() {
    let (seed, mut rng) = seed();
    let columns: Vec<Column> = scalars().into_iter().chain(times_and_networks()).chain(nested()).collect();
    let mut stream = stream_of(&columns, &mut rng).await;
    for (format, wrong) in
        [(DEBEZIUM, debezium_is_wrong as fn(&Value) -> Option<String>), (ChangeFormat::Canal, canal_is_wrong)]
    {
        let events = stream.formatted(format).await;
        assert_eq!(events.len(), ROWS);
        for event in events {
            assert_eq!(wrong(&event), None, "VALUES_SEED={seed}");
        }
    }
}

/// Its consumers know the placeholder, and it is of the type that the schema says.
#[tokio::test]
async fn a_large_value_that_an_update_left_alone_is_debeziums_placeholder_and_missing_in_canals() {
    let types =
        ["text", "bytea", "jsonb", "hstore", "text[]", "bytea[]", "integer[]", "numeric", "varbit", "boolean[]"];
    let list = |each: &dyn Fn(usize) -> String| (0..types.len()).map(each).collect::<Vec<_>>().concat();
    let columns = list(&|n| format!(", c{n} {}", types[n]));
    let alter = list(&|n| format!("ALTER TABLE big ALTER c{n} SET STORAGE EXTERNAL; "));
    let mut stream = Stream::after(&format!(
        "{}; CREATE TABLE big (id int PRIMARY KEY, n int{columns}); {alter} INSERT INTO big VALUES (1, 1, repeat('x', 9000), \
         decode(repeat('00', 9000), 'hex'), to_jsonb(repeat('x', 9000)), hstore('a', repeat('x', 9000)), \
         ARRAY[repeat('x', 9000)], ARRAY[decode(repeat('00', 9000), 'hex')], array_fill(7, ARRAY[9000]), \
         ('1' || repeat('7', 9000) || repeat('13', 4000))::numeric, repeat('10', 40000)::varbit, array_fill(true, ARRAY[9000]))",
        setup()
    ))
    .await;
    stream.run("UPDATE big SET n = 2").await;
    let event = stream.formatted(DEBEZIUM).await.remove(0);
    assert_eq!(debezium_is_wrong(&event), None);
    let (text, bytes) = ("__debezium_unavailable_value", "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==");
    let numbers: Vec<u8> = text.bytes().collect();
    let hstore = json!({text: text}).to_string();
    let expected = json!({
        "id": 1, "n": 2, "c0": text, "c1": bytes, "c2": text, "c3": hstore, "c4": [text], "c5": [bytes], "c6": numbers,
        "c7": text, "c8": bytes, "c9": null,
    });
    assert_eq!(event["payload"]["after"], expected);
    let event = stream.formatted(ChangeFormat::Canal).await.remove(0);
    assert_eq!(event["data"], json!([{"id": "1", "n": "2"}]));
}

//! Text and bytes of every kind and size: every code point, every encoding of a database, and values that are too large for
//! the broker or for PostgreSQL itself. PostgreSQL says, by SQL, what had to come.

mod encodings;
mod large;

use std::collections::BTreeMap;

use serde_json::Value;
use tokio_postgres::Client;

use crate::bad_input::streaming;
use crate::support::{SOON, Scene};

/// Every code point but U+0000, which PostgreSQL can't hold, and the surrogates, which are none; some in each row.
const ALL: &str = "SELECT n / 1024 AS id, string_agg(chr(n), '' ORDER BY n) AS t FROM generate_series(1, 1114111) n \
                   WHERE n NOT BETWEEN 55296 AND 57343 GROUP BY 1 ORDER BY 1";

/// What PostgreSQL gives, as the second column of each row by its first one.
async fn rows(client: &Client, sql: &str) -> BTreeMap<i64, String> {
    let rows = client.query(sql, &[]).await.unwrap_or_else(|error| panic!("{error}: {sql}"));
    rows.iter().map(|row| (i64::from(row.get::<_, i32>(0)), row.get(1))).collect()
}

#[tokio::test]
async fn every_code_point_that_postgresql_can_hold_arrives() {
    let scene = Scene::new().await;
    let client = scene.database.client().await;
    let create = "CREATE TABLE points (id int PRIMARY KEY, t text, j jsonb, k json, c varchar, a text[])";
    client.batch_execute(create).await.expect(create);
    let _process = streaming(&scene, &[("source.tables", "public.points")]).await;
    let insert = format!(
        "INSERT INTO points SELECT id, t, jsonb_build_object(t, t), json_build_array(t), t, ARRAY[t] FROM ({ALL}) p;
         INSERT INTO outbox (aggregatetype, aggregateid, type, payload) SELECT 'a', id, 't', j FROM points ORDER BY id"
    );
    client.batch_execute(&insert).await.expect("insert");
    let expected = rows(&client, "SELECT id, t FROM points").await;
    let code_points: Vec<char> = expected.values().flat_map(|text| text.chars()).collect();
    assert!(code_points.into_iter().eq('\u{1}'..=char::MAX), "PostgreSQL holds all of them");

    let mut consumer = scene.vhost.consumer("all").await;
    for (id, text) in &expected {
        let event = consumer.next(SOON).await.json();
        let after = &event["after"];
        assert_eq!(after["id"], *id);
        assert_eq!((after["t"].as_str(), after["c"].as_str()), (Some(text.as_str()), Some(text.as_str())), "row {id}");
        assert_eq!(after["j"][text.as_str()], **text, "row {id}");
        assert_eq!(after["k"][0], **text, "row {id}");
    }
    for (id, text) in &expected {
        let payload = consumer.next(SOON).await;
        assert_eq!(payload.headers["aggregate_id"], id.to_string());
        assert_eq!(payload.json()[text.as_str()], **text, "row {id}");
    }
}

/// What names may be made of: all that a text may, in 63 bytes.
const NAMES: &[&str] = &[
    "\"",
    "'",
    "\\",
    "\"\"",
    ".",
    "*",
    "?",
    "!",
    " ",
    "\t",
    "\n",
    "\r\n",
    "\u{1}",
    "\u{1f}",
    "\u{7f}",
    "\u{85}",
    "$1",
    "%s",
    "{table}",
    "a\"b.c",
    "A",
    "größe",
    "ﬁ",
    "e\u{301}",
    "\u{2028}",
    "\u{202e}abc",
    "\u{feff}",
    "\u{fffd}",
    "\u{ffff}",
    "😀",
    "\u{10ffff}",
    "名前",
    "null",
    "select",
    "#",
    "日本語日本語日本語日本語日本語日本語日本語",
];

#[tokio::test]
async fn names_arrive_as_they_are() {
    let scene = Scene::new().await;
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let client = scene.database.client().await;
    for name in NAMES {
        let name = quoted(name);
        let sql = format!("CREATE SCHEMA {name}; CREATE TABLE {name}.{name} ({name} int PRIMARY KEY)");
        client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{error}: {sql}"));
    }
    let oracle = "SELECT n.nspname::text, c.relname::text, a.attname::text FROM pg_class c \
                  JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid \
                  WHERE c.relkind = 'r' AND n.nspname NOT IN ('public', 'pg_catalog', 'information_schema') AND a.attnum > 0 \
                  ORDER BY c.oid";
    let held = client.query(oracle, &[]).await.expect(oracle);
    let held: Vec<[String; 3]> = held.iter().map(|row| [row.get(0), row.get(1), row.get(2)]).collect();
    assert_eq!(held, NAMES.iter().map(|name| [(); 3].map(|()| (*name).to_owned())).collect::<Vec<_>>());

    let _process = streaming(&scene, &[("source.tables", "*.*,!public.*")]).await;
    for name in NAMES {
        let name = quoted(name);
        client.batch_execute(&format!("INSERT INTO {name}.{name} VALUES (7)")).await.expect("insert");
    }
    let mut consumer = scene.vhost.consumer("all").await;
    for name in NAMES {
        let delivery = consumer.next(SOON).await;
        let event = delivery.json();
        assert_eq!((&event["schema"], &event["table"]), (&Value::from(*name), &Value::from(*name)));
        assert_eq!((&event["key"][0], &event["after"][*name]), (&Value::from(*name), &Value::from(7)), "{name:?}");
        let key = format!("{name}.{name}.insert");
        assert_eq!((&delivery.routing_key, &delivery.event_type), (&key, &key));
    }
}

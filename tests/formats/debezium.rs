//! Debezium's change event: field by field against the one that its documentation shows for the same change.
//!
//! The JSON is that of the section "create events" in `documentation/modules/ROOT/pages/connectors/postgresql.adoc` of
//! <https://github.com/debezium/debezium> (Apache License 2.0), as are the table and, for the others, the values of its fields.

use serde_json::{Value, json};

use super::connect;
use crate::support::{Delivery, SOON, Scene, pgsluice};

const CUSTOMERS: &str = "CREATE TABLE customers (
    id SERIAL, first_name VARCHAR(255) NOT NULL, last_name VARCHAR(255) NOT NULL, email VARCHAR(255) NOT NULL, PRIMARY KEY(id))";
const CREATE: &str = include_str!("debezium_create.json");

/// Of these the documentation says otherwise than the connector does (3.x, `SchemaFactory.java`), or we do, and why.
const DIFFERENT: [(&str, &str); 11] = [
    ("before.first_name", "the stream does not say NOT NULL"),
    ("before.last_name", "the stream does not say NOT NULL"),
    ("before.email", "the stream does not say NOT NULL"),
    ("after.first_name", "the stream does not say NOT NULL"),
    ("after.last_name", "the stream does not say NOT NULL"),
    ("after.email", "the stream does not say NOT NULL"),
    ("source.snapshot", "a string since 1.5"),
    ("source.ts_us", "optional"),
    ("source.ts_ns", "optional"),
    ("source.version", "it is ours"),
    ("source.name", "it is ours"),
];

fn is_different(path: &str) -> bool {
    DIFFERENT.iter().any(|(different, _)| path == *different)
}

async fn run(scene: &Scene, format: &str) -> crate::support::Process {
    scene.database.execute(CUSTOMERS).await;
    let config = scene.config(&format!("[changes]\nformat = \"{format}\"\n"));
    let process = pgsluice(&config.replace("\"public.ledger\"]", "\"public.ledger\", \"public.customers\"]"));
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    process
}

/// Every field of the documentation's schema is in ours, with its type.
fn same_schema(expected: &Value, ours: &Value, path: &str) {
    assert!(is_different(path) || expected["type"] == ours["type"], "{path}: {expected} {ours}");
    assert!(is_different(path) || expected["optional"] == ours["optional"], "{path}: {expected} {ours}");
    for field in expected["fields"].as_array().into_iter().flatten() {
        let name = field["field"].as_str().expect("a name");
        let found = ours["fields"].as_array().and_then(|fields| fields.iter().find(|ours| ours["field"] == name));
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        same_schema(field, found.unwrap_or_else(|| panic!("no {path}")), &path);
    }
}

/// Every field of its payload is in ours, of its type.
fn same_shape(expected: &Value, ours: &Value, path: &str) {
    let (Value::Object(fields), Value::Object(found)) = (expected, ours) else {
        let same = std::mem::discriminant(expected) == std::mem::discriminant(ours);
        return assert!(same || is_different(path), "{path}: {expected} {ours}");
    };
    for (name, expected) in fields {
        let found = found.get(name).unwrap_or_else(|| panic!("no {path}.{name}"));
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        same_shape(expected, found, &path);
    }
}

fn key(delivery: &Delivery) -> Value {
    serde_json::from_str(delivery.headers["key"].as_str().expect("a text")).expect("JSON")
}

#[tokio::test]
async fn a_create_event_is_the_one_of_the_documentation_field_by_field() {
    let scene = Scene::new().await;
    let _process = run(&scene, "debezium-schema").await;
    let expected: Value = serde_json::from_str(CREATE).expect("JSON");
    let insert =
        "INSERT INTO customers (first_name, last_name, email) VALUES ('Anne', 'Kretchmar', 'annek@noanswer.org')";
    scene.database.execute(insert).await;
    let delivery = scene.vhost.consume("all", 1, SOON).await.remove(0);
    let event = delivery.json();

    same_schema(&expected["schema"], &event["schema"], "");
    same_shape(&expected["payload"], &event["payload"], "");
    connect::check(&event["schema"], &event["payload"]).expect("fits its schema");
    for field in ["before", "after", "op"] {
        assert_eq!(event["payload"][field], expected["payload"][field], "{field}");
    }
    let (source, documented) = (&event["payload"]["source"], &expected["payload"]["source"]);
    for field in ["connector", "schema", "table", "xmin"] {
        assert_eq!(source[field], documented[field], "{field}");
    }
    let db = json!(scene.database.name());
    assert_eq!((&source["name"], &source["db"], &source["snapshot"]), (&json!("shop"), &db, &json!("false")));
    let lsn: ::pgsluice::lsn::Lsn =
        delivery.headers["transaction_id"].as_str().expect("a text").parse().expect("an LSN");
    assert_eq!(source["lsn"], json!(lsn.0));
    assert_eq!(source["sequence"], json!(format!("[null,\"{}\"]", lsn.0)));
    let committed_at_us = delivery.headers["committed_at_us"].as_i64().expect("a number");
    for times in [source, &event["payload"]] {
        let expected = json!([committed_at_us / 1_000, committed_at_us, committed_at_us * 1_000]);
        assert_eq!(json!([times["ts_ms"], times["ts_us"], times["ts_ns"]]), expected);
    }
    let name = |field: usize| event["schema"]["fields"][field]["name"].clone();
    assert_eq!(event["schema"]["name"], json!("shop.public.customers.Envelope"));
    assert_eq!((name(0), name(1)), (json!("shop.public.customers.Value"), json!("shop.public.customers.Value")));
    assert_eq!(name(2), json!("io.debezium.connector.postgresql.Source"));

    let key = key(&delivery);
    assert_eq!((&key["payload"], &key["schema"]["name"]), (&json!({"id": 1}), &json!("shop.public.customers.Key")));
    connect::check(&key["schema"], &key["payload"]).expect("fits its schema");
}

/// As the documentation's sections "update", "delete" and "truncate events" have them.
#[tokio::test]
async fn before_and_after_are_what_the_replica_identity_says() {
    let scene = Scene::new().await;
    let _process = run(&scene, "debezium").await;
    let anne = json!({"id": 1, "first_name": "Anne", "last_name": "K", "email": "a@x"});
    let marie = json!({"id": 1, "first_name": "Marie", "last_name": "K", "email": "a@x"});
    let second = json!({"id": 2, "first_name": "Marie", "last_name": "K", "email": "a@x"});
    for (sql, op, before, after, of_key) in [
        ("INSERT INTO customers VALUES (1, 'Anne', 'K', 'a@x')", "c", json!(null), anne.clone(), json!({"id": 1})),
        ("UPDATE customers SET first_name = 'Marie'", "u", json!(null), marie.clone(), json!({"id": 1})),
        ("UPDATE customers SET id = 2", "u", json!({"id": 1}), second.clone(), json!({"id": 2})),
        ("DELETE FROM customers", "d", json!({"id": 2}), json!(null), json!({"id": 2})),
        ("TRUNCATE customers", "t", json!(null), json!(null), json!(null)),
    ] {
        scene.database.execute(sql).await;
        let delivery = scene.vhost.consume("all", 1, SOON).await.remove(0);
        let event = delivery.json();
        assert_eq!((&event["op"], &event["before"], &event["after"]), (&json!(op), &before, &after), "{sql}");
        assert_eq!(event["transaction"], json!(null));
        let got = if of_key.is_null() { json!(delivery.headers.get("key")) } else { key(&delivery) };
        assert_eq!(got, of_key, "{sql}");
    }
    scene.database.execute("ALTER TABLE customers REPLICA IDENTITY FULL").await;
    for (sql, before, after) in [
        ("INSERT INTO customers VALUES (1, 'Anne', 'K', 'a@x')", json!(null), anne.clone()),
        ("UPDATE customers SET first_name = 'Marie'", anne, marie.clone()),
        ("DELETE FROM customers", marie, json!(null)),
    ] {
        scene.database.execute(sql).await;
        let delivery = scene.vhost.consume("all", 1, SOON).await.remove(0);
        assert_eq!((&delivery.json()["before"], &delivery.json()["after"]), (&before, &after), "{sql}");
        assert_eq!(delivery.headers.get("key"), None);
    }
}

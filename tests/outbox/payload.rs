//! Rows of all shapes: payloads of every type, tables of every name, and what happens to rows besides being inserted.

use serde_json::json;

use super::{run, text};
use crate::bad_input::says;
use crate::support::{SOON, Scene, pgsluice};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const BYTES: &str = "application/octet-stream";

#[tokio::test]
async fn a_payload_of_every_type_comes_as_it_was_written() {
    let large = "ü".repeat(200_000);
    let hex = (0..=255_u8).fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    let bytes: Vec<u8> = (0..=255).collect();
    let json_large = format!("{{\"a\": \"{large}\"}}");
    let cases: [(&str, &str, &[u8], &str); 11] = [
        ("json", r#"{"b" :1.50, "a":[ ]}"#, br#"{"b" :1.50, "a":[ ]}"#, JSON),
        ("jsonb", r#"{"b" :1.50, "a":[ ]}"#, br#"{"a": [], "b": 1.50}"#, JSON),
        ("jsonb", "null", b"null", JSON),
        ("jsonb", &json_large, json_large.as_bytes(), JSON),
        ("text", "ü😀\n\t\\", "ü😀\n\t\\".as_bytes(), TEXT),
        ("text", "", b"", TEXT),
        ("varchar(9)", "{}", b"{}", TEXT),
        ("xml", "<a>&amp;</a>", b"<a>&amp;</a>", TEXT),
        ("bytea", &format!("\\x{hex}"), &bytes, BYTES),
        ("bytea", "\\x", b"", BYTES),
        ("text", &large, large.as_bytes(), TEXT),
    ];
    let scene = Scene::new().await;
    let kinds = ["json", "jsonb", "text", "varchar(9)", "xml", "bytea"];
    let mut sections = Vec::new();
    for (index, kind) in kinds.iter().enumerate() {
        // Stored out of line where it is large, and not compressed.
        let table = format!(
            "CREATE TABLE of_{index} (id serial PRIMARY KEY, aggregatetype text, aggregateid text, type text, payload {kind});
             ALTER TABLE of_{index} ALTER payload SET STORAGE EXTERNAL"
        );
        scene.database.execute(&table).await;
        sections.push(format!("[[outbox]]\ntable = \"public.of_{index}\"\nrouting_key = \"k\"\n"));
    }
    let _running = run(&scene, &sections.concat()).await;
    let client = scene.database.client().await;
    for (kind, value, ..) in &cases {
        let index = kinds.iter().position(|it| it == kind).expect("one of them");
        let sql = format!("INSERT INTO of_{index} (payload) VALUES ($1::text::{kind})");
        client.execute(&sql, &[value]).await.expect(kind);
        client.execute(&format!("INSERT INTO of_{index} (payload) VALUES (NULL)"), &[]).await.expect("inserts");
    }
    for (events, (kind, _, body, content_type)) in scene.vhost.consume("all", 22, SOON).await.chunks(2).zip(cases) {
        assert!(events[0].body == body, "{kind}: {}", events[0].text());
        assert_eq!(text(events[0].properties.content_type()), Some(content_type), "{kind}");
        assert!(events[1].body.is_empty(), "{kind}");
    }
}

#[tokio::test]
async fn deletes_are_nothing_and_a_row_may_be_gone_in_the_transaction_that_wrote_it() {
    let scene = Scene::new().await;
    let running = run(&scene, "[[outbox]]\ntable = \"public.outbox\"\non_update = \"fail\"\n").await;
    scene
        .database
        .execute(
            "BEGIN; INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('A', '1', 'b', '1'), ('A', '2', 'b', '2');
             DELETE FROM outbox; SAVEPOINT s; INSERT INTO outbox (aggregatetype, aggregateid, type) VALUES ('A', '3', 'b');
             ROLLBACK TO s; TRUNCATE outbox; COMMIT; INSERT INTO ledger DEFAULT VALUES",
        )
        .await;
    let events = scene.vhost.consume("all", 3, SOON).await;
    assert_eq!([&*events[0].body, &*events[1].body], [b"1", b"2"]);
    assert_eq!((&*events[2].exchange, &events[1].headers["transaction_last"]), ("shop.changes", &json!(true)));
    assert!(!running.stderr().contains("of the outbox"), "{}", running.stderr());
}

/// An update of all that may be: the key, a large payload that stays, the partition.
#[tokio::test]
async fn an_update_of_any_kind_makes_no_event() {
    let scene = Scene::new().await;
    scene
        .database
        .execute(
            "CREATE TABLE parts (id int, aggregatetype text, aggregateid text, type text, payload text, at int, PRIMARY KEY (id, at))
                PARTITION BY LIST (at);
             CREATE TABLE one PARTITION OF parts FOR VALUES IN (1); CREATE TABLE two PARTITION OF parts FOR VALUES IN (2)",
        )
        .await;
    let section = "[[outbox]]\ntable = \"public.parts\"\nrouting_key = \"{table}\"\non_update = \"ignore\"\n";
    let running = run(&scene, section).await;
    scene
        .database
        .execute(
            "INSERT INTO parts VALUES (1, 'A', '1', 'b', repeat(md5('x'), 4000), 1);
             UPDATE parts SET id = 2; UPDATE parts SET type = 'c'; INSERT INTO parts VALUES (9, 'A', '1', 'b', 'x', 2)",
        )
        .await;
    let events = scene.vhost.consume("all", 2, SOON).await;
    assert_eq!((&*events[0].message_id, &*events[0].routing_key, &*events[1].message_id), ("1", "parts", "9"));
    assert!(!running.stderr().contains("of the outbox"), "{}", running.stderr());
}

#[tokio::test]
async fn outboxes_of_any_name_in_several_schemas() {
    let scene = Scene::new().await;
    let columns = "id text PRIMARY KEY, aggregatetype text, aggregateid text, type text, payload text";
    scene
        .database
        .execute(&format!(
            "CREATE SCHEMA \"s 😀.\"; CREATE SCHEMA other; CREATE TABLE \"s 😀.\".\"out\"\"box\" ({columns});
             CREATE TABLE other.outbox ({columns}, \"Größe 📦\" text)"
        ))
        .await;
    let sections = "[[outbox]]\ntable = '\"s 😀.\".\"out\"\"box\"'\nrouting_key = \"{schema}/{table}\"\n\
                    [[outbox]]\ntable = \"public.outbox\"\nrouting_key = \"{schema}\"\n\
                    [[outbox]]\ntable = \"other.outbox\"\nrouting_key = \"{Größe 📦}\"\n";
    let _running = run(&scene, sections).await;
    scene
        .database
        .execute(
            "BEGIN; INSERT INTO \"s 😀.\".\"out\"\"box\" (id) VALUES ('1'); INSERT INTO other.outbox (id, \"Größe 📦\") VALUES ('2', '✓');
             INSERT INTO outbox (aggregatetype, aggregateid, type) VALUES ('A', '1', 'b'); COMMIT",
        )
        .await;
    let keys: Vec<_> = scene.vhost.consume("all", 3, SOON).await.into_iter().map(|event| event.routing_key).collect();
    assert_eq!(keys, ["s 😀./out\"box", "✓", "public"]);
}

/// A variable hides the column of its name, which has another one.
#[tokio::test]
async fn columns_named_like_variables_are_reached_by_their_full_names() {
    let scene = Scene::new().await;
    let columns = ["name", "schema", "table", "route", "new.name"];
    let more: Vec<String> =
        columns.iter().map(|column| format!("ADD \"{column}\" text DEFAULT 'own {column}'")).collect();
    scene.database.execute(&format!("ALTER TABLE outbox {}", more.join(", "))).await;
    let section = "[[outbox]]\ntable = \"public.outbox\"\n\
        headers = { a = \"{name}.{schema}.{table}\", b = \"{new.name}.{new.schema}.{new.table}\", c = \"{route}\", d = \"{new.route}\", e = \"{new.new.name}\" }\n";
    let _running = run(&scene, &format!("{section}envelope = {{ name = \"name\" }}\n")).await;
    scene
        .database
        .execute("INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('A', '1', 'b', '1')")
        .await;
    let event = scene.vhost.consume("all", 1, SOON).await.remove(0);
    let headers = &event.headers;
    assert_eq!(
        (&headers["a"], &headers["c"], &headers["d"]),
        (&json!("shop.public.outbox"), &json!("own route"), &json!("own route"))
    );
    assert_eq!(event.json(), json!({"payload": 1, "name": "own name"}));
    assert_eq!(headers["e"], "own new.name");
    assert_eq!(headers["b"], "own name.own schema.own table");
}

#[tokio::test]
async fn a_full_name_of_no_column_is_told() {
    let scene = Scene::new().await;
    let section = "[[outbox]]\ntable = \"public.outbox\"\nheaders = { a = \"{new.name}\" }\n";
    let (code, log) = pgsluice(&super::config(&scene, section)).wait(SOON).await;
    assert_eq!(code, Some(3), "{log}");
    says(&log, &["lacks columns", "\"name\" (outbox.headers.a)"]);
}

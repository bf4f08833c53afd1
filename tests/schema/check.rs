//! `pgsluice schema --check`: every incompatible change is found, named with its place, and ends with exit code 9.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::contract::{file, schema};
use crate::support::{Scene, folder};

const TABLES: &str = "
    CREATE TYPE state AS ENUM ('open', 'paid');
    CREATE TYPE item AS (n int, label varchar(10));
    CREATE DOMAIN email AS varchar(20);
    CREATE TABLE t (id int PRIMARY KEY, small int NOT NULL, label varchar(10) NOT NULL, free text, state state NOT NULL,
        items item[], mail email, states state[], at timestamptz, amount numeric(10,2));
    CREATE TABLE gone (id int PRIMARY KEY);
    ALTER TABLE outbox ADD tenant text NOT NULL DEFAULT '';";

/// A database, its configuration, and the contract as it was at first.
struct Checked {
    scene: Scene,
    config: String,
    old: PathBuf,
}

impl Checked {
    async fn new() -> Self {
        let scene = Scene::new().await;
        scene.database.execute(TABLES).await;
        let config = scene.config("[messages]\nprefixes = [\"app.*\"]\n").replacen(
            "tables = [\"public.orders\", \"public.ledger\"]",
            "tables = [\"public.*\", \"!public.outbox\"]",
            1,
        );
        let old = folder("check").join("old.json");
        let (code, document, stderr) = schema(&file(&config), &[]).await;
        assert_eq!(code, Some(0), "{stderr}");
        std::fs::write(&old, document).expect("write the document");
        Self { scene, config, old }
    }

    /// Exit code, and the lines of standard output.
    async fn check(&self, config: &str) -> (Option<i32>, Vec<String>) {
        let (code, stdout, stderr) = schema(&file(config), &["--check", path(&self.old)]).await;
        assert!(code == Some(0) || (code == Some(9) && stderr.contains("hint: ")), "{code:?} {stderr}");
        (code, stdout.lines().map(str::to_owned).collect())
    }

    /// After this statement, these lines and no other; all are of one event.
    async fn finds(&self, sql: &str, expected: &[&str]) {
        self.scene.database.execute(sql).await;
        let (code, mut lines) = self.check(&self.config).await;
        assert_eq!(code, Some(9), "{sql}: {lines:?}");
        // What an update says of the row, an insert says too.
        lines.retain(|line| !line.starts_with("public.t.update"));
        assert_eq!(lines, expected, "{sql}");
    }

    async fn takes(&self, sql: &str) {
        self.scene.database.execute(sql).await;
        let (code, lines) = self.check(&self.config).await;
        assert_eq!((code, lines), (Some(0), vec!["compatible".to_owned()]), "{sql}");
    }

    async fn finds_with(&self, replace: &str, by: &str, expected: &[&str]) {
        assert!(self.config.contains(replace), "{}", self.config);
        let (code, lines) = self.check(&self.config.replacen(replace, by, 1)).await;
        assert_eq!(code, Some(9), "{by}");
        for expected in expected {
            assert!(lines.iter().any(|line| line == expected), "{expected}\n{lines:#?}");
        }
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("the path is text")
}

#[tokio::test]
async fn what_happens_to_a_column_is_found() {
    let cases: [(&str, &[&str]); 15] = [
        ("ALTER TABLE t DROP free", &["public.t.insert: payload.after.free: removed: was text"]),
        ("ALTER TABLE t RENAME small TO tiny", &["public.t.insert: payload.after.small: removed: was integer"]),
        (
            "ALTER TABLE t ALTER small TYPE text",
            &["public.t.insert: payload.after.small: retyped: was integer, is text"],
        ),
        (
            "ALTER TABLE t ALTER small TYPE bigint",
            &["public.t.insert: payload.after.small: widened: was integer, is bigint"],
        ),
        (
            "ALTER TABLE t ALTER free TYPE date USING NULL",
            &["public.t.insert: payload.after.free: retyped: was text, is date"],
        ),
        (
            "ALTER TABLE t ALTER at TYPE timestamp",
            &[
                "public.t.insert: payload.after.at: retyped: was timestamp with time zone, is timestamp without time zone",
            ],
        ),
        (
            "ALTER TABLE t ALTER label TYPE varchar(11)",
            &["public.t.insert: payload.after.label: widened: was character varying(10), is character varying(11)"],
        ),
        (
            "ALTER TABLE t ALTER label TYPE text",
            &["public.t.insert: payload.after.label: widened: was character varying(10), is text"],
        ),
        (
            "ALTER TABLE t ALTER small DROP NOT NULL",
            &["public.t.insert: payload.after.small: nullable: was not null, is may be null"],
        ),
        (
            "ALTER TYPE state ADD VALUE 'lost'",
            &[
                "public.t.insert: payload.after.state: label added: is lost",
                "public.t.insert: payload.after.states[]: label added: is lost",
            ],
        ),
        (
            "ALTER TYPE state RENAME VALUE 'paid' TO 'settled'",
            &[
                "public.t.insert: payload.after.state: label removed: was paid",
                "public.t.insert: payload.after.state: label added: is settled",
                "public.t.insert: payload.after.states[]: label removed: was paid",
                "public.t.insert: payload.after.states[]: label added: is settled",
            ],
        ),
        (
            "ALTER TABLE t ALTER state TYPE text",
            &["public.t.insert: payload.after.state: retyped: was public.state, is text"],
        ),
        (
            "ALTER TABLE t ALTER small TYPE int[] USING ARRAY[small]",
            &["public.t.insert: payload.after.small: retyped: was integer, is integer[]"],
        ),
        (
            "ALTER TYPE item DROP ATTRIBUTE label",
            &["public.t.insert: payload.after.items[].label: removed: was string"],
        ),
        (
            "ALTER TABLE t ALTER mail TYPE varchar(30)",
            &["public.t.insert: payload.after.mail: widened: was public.email, is character varying(30)"],
        ),
    ];
    for (sql, expected) in cases {
        Checked::new().await.finds(sql, expected).await;
    }
}

#[tokio::test]
async fn what_happens_to_a_table_is_found() {
    let checked = Checked::new().await;
    checked
        .finds(
            "ALTER TABLE gone RENAME TO other",
            &[
                "public.gone.delete: removed: was an event",
                "public.gone.insert: removed: was an event",
                "public.gone.truncate: removed: was an event",
                "public.gone.update: removed: was an event",
            ],
        )
        .await;
    let checked = Checked::new().await;
    checked.scene.database.execute("ALTER TABLE t REPLICA IDENTITY FULL").await;
    let (code, lines) = checked.check(&checked.config).await;
    assert_eq!(code, Some(9));
    for expected in [
        "public.t.delete: payload.identity: retyped: was {\"const\":\"default\"}, is {\"const\":\"full\"}",
        "public.t.delete: payload.key: retyped: was {\"const\":[\"id\"]}, is {\"const\":[]}",
    ] {
        assert!(lines.iter().any(|line| line == expected), "{lines:#?}");
    }
    let checked = Checked::new().await;
    checked.scene.database.execute("ALTER TABLE t DROP CONSTRAINT t_pkey").await;
    let (code, lines) = checked.check(&checked.config).await;
    assert_eq!(code, Some(9));
    assert!(lines.contains(&"public.t.update: removed: was an event".to_owned()), "{lines:#?}");
    // What an update does not touch was always there.
    let checked = Checked::new().await;
    checked
        .scene
        .database
        .execute("ALTER TABLE t ALTER label SET STORAGE PLAIN; ALTER TABLE t ALTER free SET STORAGE PLAIN")
        .await;
    let (_, document, _) = schema(&file(&checked.config), &[]).await;
    std::fs::write(&checked.old, document).expect("write the document");
    checked.scene.database.execute("ALTER TABLE t ALTER label SET STORAGE EXTENDED").await;
    let (_, lines) = checked.check(&checked.config).await;
    assert_eq!(lines, ["public.t.update: payload.after.label: optional: was always there, is may be missing"]);
}

#[tokio::test]
async fn what_happens_to_an_outbox_is_found() {
    let checked = Checked::new().await;
    let section = "[outbox]\ntable = \"public.outbox\"\n";
    let event = "public.outbox";
    let with = |more: &str| format!("{section}{more}");
    let cases = [
        ("exchange = \"domain\"\n", "exchange: moved: was shop.events, is domain"),
        ("routing_key = \"{type}\"\n", "routing_key: moved: was {aggregatetype}.{type}, is {type}"),
        ("envelope = { tenant = \"tenant\" }\n", "payload: retyped: was any value, is object"),
        (
            "columns = { payload = \"tenant\" }\n",
            "content_type: reformatted: was application/json, is text/plain; charset=utf-8",
        ),
        (
            "columns = { id = \"tenant\" }\n",
            "properties.message_id: retyped: was string {\"format\":\"uuid\",\"pattern\":\"^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$\"}, is string",
        ),
    ];
    for (more, expected) in cases {
        checked.finds_with(section, &with(more), &[&format!("{event}: {expected}")]).await;
    }
    checked.finds_with(section, "", &["public.outbox: removed: was an event"]).await;
    let config = checked.config.replacen(section, &with("headers = { tenant = \"{tenant}\" }\n"), 1);
    let (code, _) = checked.check(&config).await;
    assert_eq!(code, Some(0), "one more header");
    let (_, document, _) = schema(&file(&config), &[]).await;
    std::fs::write(&checked.old, document).expect("write the document");
    let (code, lines) = checked.check(&checked.config).await;
    assert_eq!((code, lines), (Some(9), vec!["public.outbox: headers.tenant: removed: was string".to_owned()]));
}

#[tokio::test]
async fn what_happens_to_the_configuration_is_found() {
    let checked = Checked::new().await;
    let tables = "tables = [\"public.*\", \"!public.outbox\"]";
    let all = "[checkpoint]";
    let cases = [
        (
            tables,
            "tables = [\"public.*\", \"!public.outbox\", \"!public.gone\"]",
            "public.gone.insert: removed: was an event",
        ),
        (
            all,
            "[changes]\nrouting_key = \"{table}.{op}\"\n[checkpoint]",
            "public.t.insert: routing_key: moved: was public.t.insert, is t.insert",
        ),
        (
            all,
            "[changes]\nexchange = \"other\"\n[checkpoint]",
            "public.t.insert: exchange: moved: was shop.changes, is other",
        ),
        (
            all,
            "[changes]\nnumeric = \"number\"\n[checkpoint]",
            "public.t.insert: payload.after.amount: retyped: was string {\"pattern\":\"^(-?\\\\d+(\\\\.\\\\d+)?|NaN|-?Infinity)$\"}, \
             is number or string {\"pattern\":\"^(NaN|-?Infinity)$\"}",
        ),
        (
            "[rabbitmq]\n",
            "[rabbitmq]\nexchange_type = \"fanout\"\n",
            "public.t.insert: exchange.type: moved: was topic, is fanout",
        ),
        ("[\"app.*\"]", "[\"app.x\"]", "message.app.*: removed: was an event"),
        ("name = \"shop\"", "name = \"shop2\"", "public.t.insert: exchange: moved: was shop.changes, is shop2.changes"),
    ];
    for (replace, by, expected) in cases {
        checked.finds_with(replace, by, &[expected]).await;
    }
}

#[tokio::test]
async fn what_joins_or_becomes_narrower_is_taken() {
    for sql in [
        "SELECT 1",
        "CREATE TABLE more (id int PRIMARY KEY)",
        "ALTER TABLE t ADD note text",
        "ALTER TABLE t ADD note int NOT NULL DEFAULT 1",
        "ALTER TYPE item ADD ATTRIBUTE price numeric",
        "ALTER TABLE t ALTER free SET NOT NULL",
        "ALTER TABLE t ALTER small TYPE smallint",
        "ALTER TABLE t ALTER label TYPE varchar(9)",
        "ALTER TABLE t ALTER amount TYPE numeric(12,4)",
        "ALTER TABLE t ALTER free TYPE xml USING NULL",
        "ALTER TABLE t ALTER mail TYPE varchar(20)",
        "COMMENT ON COLUMN t.free IS 'what you like'",
        "CREATE INDEX ON t (free)",
    ] {
        Checked::new().await.takes(sql).await;
    }
}

#[tokio::test]
async fn findings_are_json_if_that_is_asked_for() {
    let checked = Checked::new().await;
    let config = file(&checked.config);
    let arguments = ["--check", path(&checked.old), "--json"];
    let (code, stdout, _) = schema(&config, &arguments).await;
    let report: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((code, report), (Some(0), serde_json::json!({"compatible": true, "findings": []})));
    checked.scene.database.execute("ALTER TABLE t ALTER free TYPE int USING NULL").await;
    let (code, stdout, stderr) = schema(&config, &arguments).await;
    let report: Value = serde_json::from_str(&stdout).expect("JSON");
    let expected = serde_json::json!({
        "event": "public.t.insert", "path": "payload.after.free", "change": "retyped", "was": "text", "is": "integer"});
    assert_eq!((code, &report["compatible"], &report["findings"][0]), (Some(9), &Value::Bool(false), &expected));
    assert!(stderr.contains("2 incompatible changes since "), "{stderr}");
}

#[tokio::test]
async fn what_is_no_contract_is_refused_before_any_connection() {
    let config = "name = \"shop\"\n[source]\nurl = \"postgres://u@127.0.0.1:1/x\"\ntables = [\"public.*\"]\n[rabbitmq]\nurl = \"amqp://x\"\n";
    let folder = folder("check");
    let (missing, broken) = (folder.join("missing.json"), folder.join("broken.json"));
    std::fs::write(&broken, "{").expect("write");
    for old in [missing, broken] {
        let (code, stdout, stderr) = schema(&file(config), &["--check", path(&old)]).await;
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
        assert!(stderr.contains(path(&old)) && stderr.contains("hint: --check takes a document"), "{stderr}");
    }
    let checked = Checked::new().await;
    std::fs::write(&checked.old, "{\"openapi\": \"3.0.0\"}").expect("write");
    let (code, _, stderr) = schema(&file(&checked.config), &["--check", path(&checked.old)]).await;
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("it is no AsyncAPI 3 document"), "{stderr}");
}

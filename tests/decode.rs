//! The decoder, the assembler and the row encoder against what a real server writes.
//!
//! The changes are read by SQL (`pg_logical_slot_get_binary_changes`), so no replication client is involved.

use std::convert::Infallible;
use std::sync::Arc;

use pgsluice::config::ChangeFormat;
use pgsluice::encode::format::RowFormat;
use pgsluice::encode::message::Event;
use pgsluice::encode::values::{Kinds, Numeric};
use pgsluice::postgres::binary::Textual;
use pgsluice::postgres::pgoutput::{Message, decode};
use pgsluice::postgres::relation::OidMap;
use pgsluice::postgres::types::{Types, describe};
use pgsluice::transaction::{Assembler, LogicalMessage, Step};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support;

/// What the replication session pins.
pub(crate) const PINNED: &str = "SET DateStyle = ISO; SET IntervalStyle = iso_8601; SET TimeZone = UTC; \
    SET extra_float_digits = 1; SET bytea_output = hex; SET lc_monetary = 'C'";

/// A database with a slot from here on: what comes later is in `events`.
pub(crate) struct Stream {
    pub(crate) client: Client,
    pub(crate) types: Types,
    slot: String,
    assembler: Assembler,
    plans: OidMap<RowFormat>,
}

impl Stream {
    /// After `setup`, everything is published.
    pub(crate) async fn after(setup: &str) -> Self {
        let database = support::postgres().database().await;
        let client = database.client().await;
        client.batch_execute(PINNED).await.expect("pin the settings");
        client.batch_execute(setup).await.expect(setup);
        client.batch_execute("CREATE PUBLICATION p FOR ALL TABLES").await.expect("create the publication");
        let slot = "SELECT current_database() || '_decode', \
            pg_create_logical_replication_slot(current_database() || '_decode', 'pgoutput', true)::text";
        let slot = client.query_one(slot, &[]).await.expect("create the slot").get(0);
        let (types, assembler, plans) = (Types::default(), Assembler::default(), OidMap::default());
        Self { client, types, slot, assembler, plans }
    }

    pub(crate) async fn run(&mut self, sql: &str) -> &mut Self {
        self.client.batch_execute(sql).await.expect(sql);
        self
    }

    /// The changes and logical messages since the last call, as JSON texts.
    pub(crate) async fn texts(&mut self) -> Vec<String> {
        self.read("pg_logical_slot_get_binary_changes", false, ChangeFormat::Plain).await
    }

    /// What comes next, as by binary transfer.
    pub(crate) async fn binary_texts(&mut self) -> Vec<String> {
        self.read("pg_logical_slot_peek_binary_changes", true, ChangeFormat::Plain).await
    }

    /// What comes next, in this format.
    pub(crate) async fn formatted(&mut self, format: ChangeFormat) -> Vec<Value> {
        // So that each relation is learned anew, in this format and then again in the one before.
        self.assembler = Assembler::default();
        let texts = self.read("pg_logical_slot_peek_binary_changes", false, format).await;
        self.assembler = Assembler::default();
        texts.iter().map(|text| serde_json::from_str(text).expect(text)).collect()
    }

    async fn read(&mut self, function: &str, binary: bool, format: ChangeFormat) -> Vec<String> {
        let sql = format!(
            "SELECT data FROM {function}($1, NULL, NULL, \
            'proto_version', '1', 'publication_names', 'p', 'messages', 'true', 'binary', '{binary}')"
        );
        let rows = self.client.query(&sql, &[&self.slot]).await.expect("read the slot");
        let (plans, mut texts) = (&mut self.plans, Vec::new());
        for row in &rows {
            let message = decode(row.get(0)).expect("the server's messages decode");
            if let Message::Type { oid, .. } = message {
                self.types = Types::of(
                    describe(&self.client, &[oid])
                        .await
                        .expect("the types")
                        .into_iter()
                        .chain(self.types.described().map(|(oid, description)| (oid, description.clone()))),
                );
            }
            let kinds = Kinds { types: &self.types, numeric: Numeric::String };
            let mut textual = Textual::default();
            textual.set_types(Arc::new(self.types.clone()));
            let taken = self.assembler.take::<Infallible>(message, &mut |step| {
                match step {
                    Step::Begin(_) | Step::Commit { .. } => {}
                    Step::Relation(relation) => {
                        plans.insert(relation.oid, RowFormat::new(format, "shop", "db", relation, kinds));
                    }
                    Step::Change(change) => {
                        let mut event = Event::default();
                        let change = textual.change(&change).expect("a readable row");
                        plans[&change.relation.oid].make(&mut event, "shop", &change).expect("no CloudEvent");
                        texts.push(String::from_utf8(event.body).expect("events are UTF-8"));
                    }
                    Step::Message(LogicalMessage { within, prefix, content, .. }) => {
                        let ordinal = within.map(|(position, _)| position.ordinal);
                        texts.push(json!({"message": prefix, "ordinal": ordinal, "content": content}).to_string());
                    }
                }
                Ok(())
            });
            taken.expect("the server's messages are in order");
        }
        assert!(!self.assembler.in_transaction());
        texts
    }

    /// The same, parsed.
    pub(crate) async fn events(&mut self) -> Vec<Value> {
        self.texts().await.iter().map(|text| serde_json::from_str(text).expect(text)).collect()
    }

    pub(crate) async fn event(&mut self, sql: &str) -> Value {
        let mut events = self.run(sql).await.events().await;
        assert_eq!(events.len(), 1, "{sql}: {events:?}");
        events.remove(0)
    }
}

/// Only the named fields.
fn pick(event: &Value, fields: &[&str]) -> Value {
    fields.iter().map(|field| ((*field).to_owned(), event[field].clone())).collect::<serde_json::Map<_, _>>().into()
}

#[tokio::test]
async fn json_that_only_a_lenient_reader_takes_is_embedded_as_it_was_written() {
    let mut stream = Stream::after("CREATE TABLE j (n int PRIMARY KEY, j json)").await;
    let written = "{\"a\":\"\\ud800\\u0000\",\n\t\"a\":1e999}";
    stream.client.execute("INSERT INTO j VALUES (1, $1::text::json)", &[&written]).await.expect("insert");
    let texts = stream.texts().await;
    assert!(texts[0].contains(&format!("\"after\":{{\"n\":1,\"j\":{written}}}")), "{texts:?}");
    serde_json::from_str::<&serde_json::value::RawValue>(&texts[0]).expect("JSON, by its grammar");
}

const IMAGES: [&str; 7] = ["op", "key", "before", "after", "unchanged", "before_columns", "changed"];

#[tokio::test]
async fn updates_and_deletes_show_what_the_replica_identity_tells() {
    let mut stream = Stream::after(
        "CREATE TABLE a (id int PRIMARY KEY, x text); INSERT INTO a VALUES (1, 'x'); \
         CREATE TABLE f (id int PRIMARY KEY, x text); INSERT INTO f VALUES (1, NULL); \
         ALTER TABLE f REPLICA IDENTITY FULL; \
         CREATE TABLE i (id int, u int NOT NULL UNIQUE, x text); INSERT INTO i VALUES (1, 2, 'x'); \
         ALTER TABLE i REPLICA IDENTITY USING INDEX i_u_key",
    )
    .await;
    for (sql, expected) in [
        ("UPDATE a SET x = 'y'", json!(["update", ["id"], null, {"id": 1, "x": "y"}, [], null, null])),
        ("UPDATE a SET id = 2", json!(["update", ["id"], {"id": 1}, {"id": 2, "x": "y"}, [], "key", null])),
        ("DELETE FROM a", json!(["delete", ["id"], {"id": 2}, null, [], "key", null])),
        ("UPDATE f SET x = 'y'", json!(["update", [], {"id": 1, "x": null}, {"id": 1, "x": "y"}, [], "all", ["x"]])),
        ("UPDATE f SET x = x", json!(["update", [], {"id": 1, "x": "y"}, {"id": 1, "x": "y"}, [], "all", []])),
        ("DELETE FROM f", json!(["delete", [], {"id": 1, "x": "y"}, null, [], "all", null])),
        ("UPDATE i SET u = 3", json!(["update", ["u"], {"u": 2}, {"id": 1, "u": 3, "x": "x"}, [], "key", null])),
        ("DELETE FROM i", json!(["delete", ["u"], {"u": 3}, null, [], "key", null])),
    ] {
        let event = stream.event(sql).await;
        assert_eq!(IMAGES.map(|field| event[field].clone()).to_vec(), *expected.as_array().expect("a list"), "{sql}");
    }
}

#[tokio::test]
async fn unchanged_toast_is_listed_or_completed_from_the_old_row() {
    let mut stream = Stream::after(
        "CREATE TABLE d (id int PRIMARY KEY, n int, big text, large text); \
         CREATE TABLE f (id int PRIMARY KEY, n int, big text); ALTER TABLE f REPLICA IDENTITY FULL; \
         CREATE TABLE k (id text PRIMARY KEY, n int); \
         ALTER TABLE d ALTER big SET STORAGE EXTERNAL, ALTER large SET STORAGE EXTERNAL; \
         ALTER TABLE f ALTER big SET STORAGE EXTERNAL; ALTER TABLE k ALTER id SET STORAGE EXTERNAL; \
         INSERT INTO d VALUES (1, 1, repeat('x', 9000), repeat('y', 9000)); \
         INSERT INTO f VALUES (1, 1, repeat('x', 9000)); INSERT INTO k VALUES (repeat('k', 2500), 1)",
    )
    .await;
    let big = "x".repeat(9000);

    let event = stream.event("UPDATE d SET n = 2").await;
    assert_eq!(
        pick(&event, &["after", "unchanged"]),
        json!({"after": {"id": 1, "n": 2}, "unchanged": ["big", "large"]})
    );
    let event = stream.event("UPDATE d SET large = NULL").await;
    assert_eq!(
        pick(&event, &["after", "unchanged"]),
        json!({"after": {"id": 1, "n": 2, "large": null}, "unchanged": ["big"]})
    );
    let event = stream.event("UPDATE f SET n = 2").await;
    assert_eq!(event["before"], json!({"id": 1, "n": 1, "big": big}));
    assert_eq!(
        pick(&event, &["after", "unchanged", "changed"]),
        json!({"after": {"id": 1, "n": 2, "big": big}, "unchanged": [], "changed": ["n"]})
    );
    // The server logs a large key although it did not change, since nothing else would tell it.
    let (event, key) = (stream.event("UPDATE k SET n = 2").await, "k".repeat(2500));
    assert_eq!(
        pick(&event, &["before", "after", "unchanged"]),
        json!({"before": {"id": key}, "after": {"id": key, "n": 2}, "unchanged": []})
    );
}

#[tokio::test]
async fn a_truncate_is_one_change_for_each_table() {
    let mut stream = Stream::after(
        "CREATE TABLE a (id serial PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY REFERENCES a); \
         CREATE TABLE c (id int PRIMARY KEY)",
    )
    .await;
    let events = stream.run("TRUNCATE a, c RESTART IDENTITY CASCADE").await.events().await;
    let mut tables: Vec<_> = events.iter().map(|event| event["table"].as_str().expect("a name")).collect();
    tables.sort_unstable();
    assert_eq!(tables, ["a", "b", "c"]);
    for (ordinal, event) in events.iter().enumerate() {
        assert_eq!(event["ordinal"], ordinal);
        assert_eq!(event["id"], format!("shop:{}:{ordinal}", event["commit_lsn"].as_str().expect("an LSN")));
        assert_eq!(
            pick(event, &["op", "cascade", "restart_identity"]),
            json!({
                "op": "truncate", "cascade": true, "restart_identity": true
            })
        );
        assert_eq!(
            pick(event, &["before", "after", "unchanged", "before_columns", "changed"]),
            json!({
                "before": null, "after": null, "unchanged": [], "before_columns": null, "changed": null
            })
        );
    }
}

#[tokio::test]
async fn events_name_the_transaction_that_made_them() {
    let mut stream = Stream::after("CREATE SCHEMA s; CREATE TABLE s.a (id int PRIMARY KEY)").await;
    let before: String = stream
        .client
        .query_one("SELECT to_jsonb(clock_timestamp() AT TIME ZONE 'UTC') #>> '{}'", &[])
        .await
        .expect("the time")
        .get(0);
    stream.run("BEGIN; INSERT INTO s.a VALUES (1)").await;
    let xid: String =
        stream.client.query_one("SELECT pg_current_xact_id()::xid::text", &[]).await.expect("an xid").get(0);
    let event = stream.event("COMMIT").await;
    assert_eq!(pick(&event, &["schema", "table", "ordinal"]), json!({"schema": "s", "table": "a", "ordinal": 0}));
    assert_eq!(event["xid"].to_string(), xid);
    let committed_at = event["committed_at"].as_str().expect("a time");
    // Texts of one form sort as their times do; 20 bytes are the seconds.
    assert!(committed_at[..19] >= before[..19] && committed_at.ends_with('Z'), "{committed_at} after {before}");
}

#[tokio::test]
async fn what_a_savepoint_takes_back_is_not_counted() {
    let mut stream = Stream::after("CREATE TABLE a (id int PRIMARY KEY)").await;
    let sql = "BEGIN; INSERT INTO a VALUES (1); SAVEPOINT s; INSERT INTO a VALUES (2); ROLLBACK TO s; \
        INSERT INTO a VALUES (3); RELEASE s; COMMIT; BEGIN; INSERT INTO a VALUES (4); ROLLBACK; \
        INSERT INTO a VALUES (5)";
    let events = stream.run(sql).await.events().await;
    let seen: Vec<_> = events.iter().map(|event| (event["ordinal"].as_u64(), event["after"]["id"].as_u64())).collect();
    assert_eq!(seen, [(Some(0), Some(1)), (Some(1), Some(3)), (Some(0), Some(5))]);
}

#[tokio::test]
async fn logical_messages_count_within_their_transaction_and_come_alone_outside() {
    let mut stream = Stream::after("CREATE TABLE a (id int PRIMARY KEY)").await;
    let sql = "BEGIN; INSERT INTO a VALUES (1); SELECT pg_logical_emit_message(true, 'outbox', '\\x00ff'::bytea); \
        SELECT pg_logical_emit_message(false, 'ping', 'x'); INSERT INTO a VALUES (2); COMMIT; \
        BEGIN; SELECT pg_logical_emit_message(true, 'lost', ''); \
        SELECT pg_logical_emit_message(false, 'kept', ''); ROLLBACK; INSERT INTO a VALUES (3)";
    let events = stream.run(sql).await.events().await;
    let seen: Vec<_> =
        events.iter().map(|event| json!([event["message"], event["ordinal"], event["content"]])).collect();
    let expected = [
        json!(["ping", null, [120]]),
        json!([null, 0, null]),
        json!(["outbox", 1, [0, 255]]),
        json!([null, 2, null]),
        json!(["kept", null, []]),
        // Its commit flushes the WAL; a message alone waits for that before it is sent.
        json!([null, 0, null]),
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_table_that_changes_inside_a_transaction_is_what_it_is_at_each_row() {
    let mut stream = Stream::after("CREATE TABLE a (id int PRIMARY KEY, x int)").await;
    let sql = "INSERT INTO a VALUES (1, 1); BEGIN; INSERT INTO a VALUES (2, 2); ALTER TABLE a ADD y text; \
        INSERT INTO a VALUES (3, 3, 'y'); ALTER TABLE a RENAME TO b; ALTER TABLE b DROP x; \
        INSERT INTO b VALUES (4, 'z'); COMMIT";
    let events = stream.run(sql).await.events().await;
    let seen: Vec<_> = events.iter().map(|event| json!([event["table"], event["after"]])).collect();
    let expected = [
        json!(["a", {"id": 1, "x": 1}]),
        json!(["a", {"id": 2, "x": 2}]),
        json!(["a", {"id": 3, "x": 3, "y": "y"}]),
        json!(["b", {"id": 4, "y": "z"}]),
    ];
    assert_eq!(seen, expected);
}

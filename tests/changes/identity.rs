//! What names a row, and so what is known of the row before: each replica identity, and its changes while streaming.

use serde_json::json;

use super::{ALL, Changes};
use crate::support::SOON;

const TABLES: &str = "
    CREATE TABLE d (id int PRIMARY KEY, a int, b text);
    CREATE TABLE pair (y int, a text, x text, PRIMARY KEY (x, y));
    CREATE TABLE i (a int, u text NOT NULL, b text); CREATE UNIQUE INDEX by_u ON i (u);
    ALTER TABLE i REPLICA IDENTITY USING INDEX by_u;
    CREATE TABLE f (a int, b text, c bool); ALTER TABLE f REPLICA IDENTITY FULL;";

#[tokio::test]
async fn before_is_the_key_or_the_whole_row_as_the_identity_has_it() {
    let mut changes = Changes::after(TABLES).await;
    let events = changes
        .fits(
            "INSERT INTO d VALUES (1, 1, 'x'), (2, NULL, NULL); UPDATE d SET a = 3; UPDATE d SET id = id + 10;
             UPDATE d SET id = 12, b = 'y' WHERE id = 12; DELETE FROM d;
             INSERT INTO pair VALUES (1, 'a', 'x'); UPDATE pair SET a = 'b'; UPDATE pair SET y = 2; DELETE FROM pair;
             INSERT INTO i VALUES (1, 'u', 'x'); UPDATE i SET b = 'y'; UPDATE i SET u = 'v'; DELETE FROM i;
             INSERT INTO f VALUES (1, 'x', true), (1, NULL, NULL); UPDATE f SET b = 'y', a = 1; UPDATE f SET a = a;
             UPDATE f SET c = NULL, b = '' WHERE c; DELETE FROM f",
        )
        .await;
    let told = |table: &str, op: &str| -> Vec<_> {
        let events = events.iter().filter(|event| event["table"] == table && event["op"] == op);
        events.map(|event| json!([event["key"], event["before"], event["before_columns"], event["changed"]])).collect()
    };
    assert_eq!(told("pair", "update")[0], json!([["y", "x"], null, null, null]));
    assert_eq!(told("pair", "update")[1], json!([["y", "x"], {"y": 1, "x": "x"}, "key", null]));
    assert_eq!(told("i", "delete")[0], json!([["u"], {"u": "v"}, "key", null]));
    assert_eq!(told("f", "update")[0][3], json!(["b"]));
    assert_eq!(told("f", "update")[2][3], json!([]));
    assert_eq!(told("f", "update")[4], json!([[], {"a": 1, "b": "y", "c": true}, "all", ["b", "c"]]));
}

/// PostgreSQL refuses what it could not tell; pgsluice has said so at its start.
#[tokio::test]
async fn without_an_identity_updates_and_deletes_fail_at_the_server_and_inserts_come() {
    let mut changes = Changes::after(
        "CREATE TABLE n (id int PRIMARY KEY, a int); ALTER TABLE n REPLICA IDENTITY NOTHING; CREATE TABLE k (a int)",
    )
    .await;
    let warning = changes.process.wait_for_log("PostgreSQL rejects every UPDATE and DELETE on", SOON).await;
    assert!(warning.contains("public.k, public.n"), "{warning}");
    changes.run("INSERT INTO n VALUES (1, 1); INSERT INTO k VALUES (1)").await;
    for sql in ["UPDATE n SET a = 2", "DELETE FROM n", "UPDATE k SET a = 2", "DELETE FROM k"] {
        let said = changes.refused(sql).await;
        assert!(said.contains("does not have a replica identity"), "{sql}: {said}");
    }
    let events = changes.fits("TRUNCATE n").await;
    let told: Vec<_> = events.iter().map(|event| json!([event["op"], event["identity"], event["key"]])).collect();
    assert_eq!(json!(told), json!([["insert", "nothing", []], ["insert", "default", []], ["truncate", "nothing", []]]));
}

/// The event tells of the identity at its place in the WAL, in the middle of a transaction too.
#[tokio::test]
async fn an_identity_that_is_altered_counts_from_there_on() {
    let mut changes = Changes::after(&format!("{ALL}{TABLES}")).await;
    let steps = [
        "UPDATE d SET a = 1",
        "ALTER TABLE d REPLICA IDENTITY FULL; UPDATE d SET a = 2",
        "CREATE UNIQUE INDEX by_a ON d (a); ALTER TABLE d ALTER a SET NOT NULL; UPDATE d SET a = 3",
        "ALTER TABLE d REPLICA IDENTITY USING INDEX by_a; UPDATE d SET b = 'w'; UPDATE d SET a = 4",
        "ALTER TABLE d REPLICA IDENTITY DEFAULT; UPDATE d SET a = 5; UPDATE d SET id = id + 1",
        "ALTER TABLE d DROP CONSTRAINT d_pkey, ADD PRIMARY KEY (b); UPDATE d SET id = 7; UPDATE d SET b = 'v'",
        "ALTER TABLE d REPLICA IDENTITY NOTHING; INSERT INTO d VALUES (99, 99, 'z')",
        "ALTER TABLE d REPLICA IDENTITY DEFAULT; DELETE FROM d",
    ];
    for transaction in [false, true] {
        let (begin, commit) = if transaction { ("BEGIN;", "; COMMIT") } else { ("", "") };
        let all = format!("{begin} INSERT INTO d VALUES (1, 0, 'x'); {}{commit}", steps.join(";"));
        let events = changes.fits(&all).await;
        let told: Vec<_> = events.iter().map(|event| json!([event["identity"], event["key"]])).collect();
        let expected = json!([
            ["default", ["id"]],
            ["default", ["id"]],
            ["full", []],
            ["full", []],
            ["index", ["a"]],
            ["index", ["a"]],
            ["default", ["id"]],
            ["default", ["id"]],
            ["default", ["b"]],
            ["default", ["b"]],
            ["nothing", []],
            ["default", ["b"]],
            ["default", ["b"]]
        ]);
        assert_eq!(json!(told), expected);
        changes.run("DROP TABLE d; CREATE TABLE d (id int PRIMARY KEY, a int, b text)").await;
    }
}

#[tokio::test]
async fn an_identity_index_that_is_dropped_or_replaced_names_no_row_or_others() {
    let mut changes = Changes::after(&format!("{ALL}{TABLES}")).await;
    changes
        .fits(
            "INSERT INTO i VALUES (1, 'u', 'x'); DROP INDEX by_u; INSERT INTO i VALUES (2, 'v', 'x'); BEGIN;
             CREATE UNIQUE INDEX by_u ON i (a); ALTER TABLE i ALTER a SET NOT NULL; INSERT INTO i VALUES (3, 'w', 'x');
             ALTER TABLE i REPLICA IDENTITY USING INDEX by_u; UPDATE i SET u = 'same' WHERE a = 3; UPDATE i SET a = 4 WHERE a = 3;
             COMMIT; CREATE UNIQUE INDEX CONCURRENTLY other ON i (a, u)",
        )
        .await;
    let events = changes
        .fits("ALTER TABLE i REPLICA IDENTITY USING INDEX other; UPDATE i SET u = 'z' WHERE a = 4; DELETE FROM i")
        .await;
    assert_eq!(events[0]["before"], json!({"a": 4, "u": "same"}));
    changes.run("DROP INDEX other").await;
    changes.run("INSERT INTO i VALUES (9, 'last', NULL)").await;
    let said = changes.refused("UPDATE i SET b = 'y'").await;
    assert!(said.contains("does not have a replica identity"), "{said}");
    let events = changes.judged().await;
    assert_eq!((&events[0]["identity"], &events[0]["key"]), (&json!("index"), &json!([])));
}

#[tokio::test]
async fn large_values_are_left_out_only_where_nothing_tells_them() {
    let mut changes = Changes::after(
        "CREATE TABLE d (id int PRIMARY KEY, n int, big text, small text); ALTER TABLE d ALTER big SET STORAGE EXTERNAL;
         CREATE TABLE f (id int PRIMARY KEY, n int, big text, packed text); ALTER TABLE f REPLICA IDENTITY FULL,
             ALTER big SET STORAGE EXTERNAL;
         CREATE TABLE k (big text, y int, n int, other text, PRIMARY KEY (big, y));
         ALTER TABLE k ALTER big SET STORAGE EXTERNAL, ALTER other SET STORAGE EXTERNAL",
    )
    .await;
    let events = changes
        .fits(
            "INSERT INTO d VALUES (1, 1, repeat('x', 9000), 's'); UPDATE d SET n = 2; UPDATE d SET id = 2;
             UPDATE d SET big = repeat('y', 9000); UPDATE d SET big = repeat('y', 9000); UPDATE d SET big = 'short';
             UPDATE d SET big = NULL; DELETE FROM d;
             INSERT INTO f VALUES (1, 1, repeat('x', 9000), repeat('p', 200000)); UPDATE f SET n = 2; UPDATE f SET n = n;
             UPDATE f SET big = repeat('y', 9000); UPDATE f SET packed = packed || 'q'; DELETE FROM f;
             INSERT INTO k VALUES (repeat('k', 2500), 1, 1, repeat('o', 9000)); UPDATE k SET n = 2; UPDATE k SET y = 2;
             UPDATE k SET big = repeat('l', 2500); DELETE FROM k",
        )
        .await;
    let unchanged = |table: &str| {
        let updates = events.iter().filter(|event| event["table"] == table && event["op"] == "update");
        json!(updates.map(|event| event["unchanged"].clone()).collect::<Vec<_>>())
    };
    assert_eq!(unchanged("d"), json!([["big"], ["big"], [], [], [], []]));
    assert_eq!(unchanged("f"), json!([[], [], [], []]));
    assert_eq!(unchanged("k"), json!([["other"], ["other"], ["other"]]));
}

//! TRUNCATE: one event for each selected table of the statement, with its flags.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Changes;

fn truncated(events: &[Value]) -> BTreeSet<String> {
    let of = |event: &Value| {
        assert_eq!((&event["before"], &event["after"], &event["changed"]), (&json!(null), &json!(null), &json!(null)));
        format!("{}.{} {} {}", event["schema"], event["table"], event["cascade"], event["restart_identity"])
    };
    events.iter().filter(|event| event["op"] == "truncate").map(of).collect()
}

fn expected(tables: &[&str], flags: &str) -> BTreeSet<String> {
    tables.iter().map(|table| format!("\"public\".\"{table}\" {flags}")).collect()
}

#[tokio::test]
async fn each_table_of_the_statement_has_an_event_with_the_statements_flags() {
    let mut changes = Changes::after(
        "CREATE TABLE a (id serial PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY REFERENCES a);
         CREATE TABLE c (id int PRIMARY KEY REFERENCES b); CREATE TABLE other (id int);
         CREATE UNLOGGED TABLE unlogged (id int); CREATE TABLE judge.unselected (id int)",
    )
    .await;
    for (sql, tables, flags) in [
        ("TRUNCATE other", &["other"][..], "false false"),
        ("TRUNCATE other RESTART IDENTITY", &["other"], "false true"),
        ("TRUNCATE a CASCADE", &["a", "b", "c"], "true false"),
        ("TRUNCATE b, other, unlogged, judge.unselected RESTART IDENTITY CASCADE", &["b", "c", "other"], "true true"),
    ] {
        let sql = format!("BEGIN; INSERT INTO a DEFAULT VALUES; {sql}; INSERT INTO other VALUES (1); COMMIT");
        changes.run(&sql).await;
        let (events, notes) = (changes.events().await, changes.log().await);
        assert_eq!(truncated(&events), expected(tables, flags), "{sql}");
        let of_note = notes.iter().filter(|note| note.op == "truncate" && note.table != "unlogged");
        assert_eq!(of_note.map(|note| note.table.as_str()).collect::<BTreeSet<_>>(), tables.iter().copied().collect());
        let ordinals: Vec<_> = events.iter().map(|event| event["ordinal"].as_u64().expect("a number")).collect();
        assert!(ordinals.is_sorted_by(|before, after| before < after), "{ordinals:?}");
        let around: Vec<_> = [&events[0], &events[events.len() - 1]].map(|event| event["table"].clone()).into();
        assert_eq!(around, ["a", "other"], "{sql}");
    }
}

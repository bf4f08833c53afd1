//! Row filters and column lists of a publication, which PostgreSQL has from 15 on.

use serde_json::{Value, json};

use super::{Changes, Note, names, told};

/// Whether the server has them; the one before says that it has not.
async fn known(setup: &str) -> Option<Changes> {
    let mut changes = Changes::after("").await;
    if changes.database.major().await >= 15 {
        return Some(Changes::after(setup).await);
    }
    let said = changes.refused("CREATE TABLE t (id int); CREATE PUBLICATION p FOR TABLE t WHERE (id > 1)").await;
    assert!(said.contains("syntax error"), "{said}");
    assert_eq!(changes.judged().await, [] as [Value; 0]);
    None
}

/// What becomes of a change, by what PostgreSQL says of its rows.
fn filtered(note: &Note, passes: impl Fn(&Value) -> bool) -> Option<&'static str> {
    let passes = |row: &Option<serde_json::Map<String, Value>>| row.as_ref().is_some_and(|row| passes(&row["n"]));
    match (passes(&note.old), passes(&note.new)) {
        (true, true) => Some("update"),
        (false, true) => Some("insert"),
        (true, false) => Some("delete"),
        (false, false) => None,
    }
}

#[tokio::test]
async fn a_row_filter_makes_an_insert_or_a_delete_of_an_update_that_crosses_it() {
    let Some(mut changes) = known(
        "CREATE TABLE t (id int, n int, big text, PRIMARY KEY (id, n)); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
         CREATE TABLE f (id int, n int, big text); ALTER TABLE f REPLICA IDENTITY FULL, ALTER big SET STORAGE EXTERNAL;
         CREATE PUBLICATION shop FOR TABLE t WHERE (n > 5), f WHERE (n > 5 AND big IS NOT NULL), mark.mark",
    )
    .await
    else {
        return;
    };
    for table in ["t", "f"] {
        changes
            .run(&format!(
                "INSERT INTO {table} VALUES (1, 1, repeat('x', 9000)), (2, 9, repeat('y', 9000)); UPDATE {table} SET n = 9 WHERE id = 1;
                 UPDATE {table} SET n = 8; UPDATE {table} SET n = n - 3 + id WHERE id = 1; UPDATE {table} SET id = 7 WHERE n = 8;
                 UPDATE {table} SET n = 2; UPDATE {table} SET n = 3; DELETE FROM {table} WHERE id = 7;
                 UPDATE {table} SET n = 6; DELETE FROM {table}; TRUNCATE {table}"
            ))
            .await;
        let (events, mut notes) = (changes.events().await, changes.log().await);
        let passes = |n: &Value| n.as_i64().is_some_and(|n| n > 5);
        notes.retain(|note| note.op == "truncate" || filtered(note, passes).is_some());
        assert_eq!(events.len(), notes.len(), "{:?}", told(&events));
        let mut crossed = [0, 0];
        for (event, note) in events.iter().zip(notes) {
            let becomes = filtered(&note, passes).unwrap_or("truncate");
            assert_eq!(event["op"], becomes);
            let is_across = note.op == "update" && becomes != "update";
            match becomes {
                "insert" if is_across => {
                    crossed[0] += 1;
                    // A large value that the update left alone is not in the stream.
                    Note { op: "insert".into(), ..note }.judge_rows(event);
                }
                "delete" if is_across => {
                    crossed[1] += 1;
                    Note { op: "delete".into(), new: None, ..note }.judge_rows(event);
                }
                _ => note.judge_rows(event),
            }
        }
        assert!(crossed.iter().all(|count| *count >= 2), "{crossed:?}");
    }
}

#[tokio::test]
async fn a_column_list_is_all_that_the_events_have_and_must_cover_the_identity() {
    let Some(mut changes) = known(
        "CREATE TABLE t (id int PRIMARY KEY, a int, secret text, b text); CREATE TABLE keyless (id int PRIMARY KEY, a int);
         CREATE TABLE f (id int, a int); ALTER TABLE f REPLICA IDENTITY FULL;
         CREATE PUBLICATION shop FOR TABLE t (b, id), keyless (a), f (a), mark.mark",
    )
    .await
    else {
        return;
    };
    changes
        .run("INSERT INTO t VALUES (1, 1, 's', 'b'); UPDATE t SET secret = 'x'; UPDATE t SET id = 2, b = NULL; DELETE FROM t;
              INSERT INTO keyless VALUES (1, 2); INSERT INTO f VALUES (1, 2)")
        .await;
    for sql in ["UPDATE keyless SET a = 3", "DELETE FROM keyless", "UPDATE f SET a = 3", "DELETE FROM f"] {
        let said = changes.refused(sql).await;
        assert!(said.contains("cannot update table") || said.contains("cannot delete from table"), "{sql}: {said}");
    }
    let events = changes.events().await;
    let rows: Vec<_> = events.iter().map(|event| json!([event["key"], event["before"], event["after"]])).collect();
    assert_eq!(
        json!(rows),
        json!([
            [["id"], null, {"id": 1, "b": "b"}],
            [["id"], null, {"id": 1, "b": "b"}],
            [["id"], {"id": 1}, {"id": 2, "b": null}],
            [["id"], {"id": 2}, null],
            [[], null, {"a": 2}],
            [[], null, {"a": 2}]
        ])
    );
    // The list may change, and the table beneath it.
    changes
        .run("BEGIN; INSERT INTO t VALUES (3, 3, 's', 'b'); ALTER PUBLICATION shop SET TABLE t (id, a), mark.mark;
              INSERT INTO t VALUES (4, 4, 's', 'b'); ALTER TABLE t RENAME a TO z; ALTER TABLE t DROP b; INSERT INTO t VALUES (5, 5, 's');
              COMMIT; INSERT INTO t VALUES (6, 6, 's')")
        .await;
    let columns: Vec<_> = changes
        .events()
        .await
        .iter()
        .map(|event| names(&json!(event["after"].as_object().expect("a row").keys().collect::<Vec<_>>())))
        .collect();
    let expected = [["b", "id"], ["a", "id"], ["id", "z"], ["id", "z"]].map(|names| names.map(str::to_owned).into());
    assert_eq!(columns, expected);
}

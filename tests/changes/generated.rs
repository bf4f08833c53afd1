//! Generated columns: stored ones are in the event where the server can send them, which is from PostgreSQL 18 on.

use serde_json::{Value, json};

use super::{Changes, Note, told};

const TABLES: &str = "
    CREATE TABLE t (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED, b text);
    CREATE TABLE f (a int, up text GENERATED ALWAYS AS (upper(b)) STORED, b text); ALTER TABLE f REPLICA IDENTITY FULL;";
const SCRIPT: &str = "
    INSERT INTO t (id, a) VALUES (1, 1), (2, NULL); UPDATE t SET a = a + 1; UPDATE t SET id = id + 50; DELETE FROM t;
    INSERT INTO f (a, b) VALUES (1, 'x'); UPDATE f SET b = 'y'; UPDATE f SET a = 2; DELETE FROM f";

/// The judge's rows without these columns, with which the server does not send them.
async fn fits_without(changes: &mut Changes, columns: &[&str]) -> Vec<Value> {
    let (events, notes) = (changes.events().await, changes.log().await);
    assert_eq!(events.len(), notes.len(), "{:?}", told(&events));
    let less = |row: Option<serde_json::Map<String, Value>>| {
        row.map(|row| row.into_iter().filter(|(name, _)| !columns.contains(&name.as_str())).collect())
    };
    for (event, note) in events.iter().zip(notes) {
        Note { old: less(note.old), new: less(note.new), ..note }.judge_rows(event);
    }
    events
}

#[tokio::test]
async fn stored_ones_come_as_they_are_stored_from_18_on() {
    let mut changes = Changes::after(TABLES).await;
    let is_sent = changes.database.major().await >= 18;
    changes.run(SCRIPT).await;
    let unsent: &[&str] = if is_sent { &[] } else { &["twice", "up"] };
    let events = fits_without(&mut changes, unsent).await;
    let update = events.iter().find(|event| event["table"] == "f" && event["op"] == "update").expect("an update");
    assert_eq!(update["changed"], if is_sent { json!(["up", "b"]) } else { json!(["b"]) });
}

/// A publication of before, or of a server that was upgraded, lacks them until pgsluice starts again.
#[tokio::test]
async fn a_publication_of_ours_that_lacks_them_is_altered_at_the_next_start() {
    let mut changes = Changes::after(TABLES).await;
    if changes.database.major().await < 18 {
        let said = changes.refused("ALTER PUBLICATION shop SET (publish_generated_columns = stored)").await;
        return assert!(said.contains("unrecognized publication parameter"), "{said}");
    }
    changes
        .run("ALTER PUBLICATION shop SET (publish_generated_columns = none); INSERT INTO t (id, a) VALUES (8, 8)")
        .await;
    assert_eq!(told(&fits_without(&mut changes, &["twice"]).await), [r#"insert public.t {"a":8,"b":null,"id":8}"#]);
    // It is read later, when the publication is another one.
    changes.behind_its_back("INSERT INTO t (id, a) VALUES (9, 9)").await;
    assert_eq!(told(&fits_without(&mut changes, &["twice"]).await), [r#"insert public.t {"a":9,"b":null,"id":9}"#]);
    changes.fits(SCRIPT).await;
}

/// What is computed when it is read is in no stream. It may be added and dropped while the table streams.
#[tokio::test]
async fn virtual_ones_never_come() {
    let mut changes = Changes::after(TABLES).await;
    let add = "ALTER TABLE t ADD plus int GENERATED ALWAYS AS (a + 1) VIRTUAL";
    if changes.database.major().await < 18 {
        let said = changes.refused(add).await;
        return assert!(said.contains("syntax error"), "{said}");
    }
    changes
        .run(&format!(
            "INSERT INTO t (id, a) VALUES (8, 8); BEGIN; {add}; INSERT INTO t (id, a) VALUES (9, 9); COMMIT; {SCRIPT}"
        ))
        .await;
    fits_without(&mut changes, &["plus"]).await;
    changes.fits(&format!("ALTER TABLE t DROP plus, ALTER twice DROP EXPRESSION; {SCRIPT}")).await;
}

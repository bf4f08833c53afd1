//! Partitions: under their root's name or under their own, attached and detached while streaming.

use serde_json::json;

use super::{Changes, told};
use crate::support::SOON;

const VIA_ROOT: &str = "CREATE PUBLICATION shop FOR ALL TABLES WITH (publish_via_partition_root = true);";

/// Partitions have their columns in an order of their own, and may have dropped some.
const TABLES: &str = "
    CREATE TABLE root (id int, region text, a int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE eu (a int, gone bool, region text NOT NULL, id int NOT NULL, PRIMARY KEY (id, region));
    ALTER TABLE eu DROP gone; DROP TRIGGER judge ON eu; ALTER TABLE root ATTACH PARTITION eu FOR VALUES IN ('de', 'fr');
    CREATE TABLE asia PARTITION OF root FOR VALUES IN ('jp', 'cn') PARTITION BY LIST (region);
    CREATE TABLE jp PARTITION OF asia FOR VALUES IN ('jp');
    CREATE TABLE cn (region text NOT NULL, a int, id int NOT NULL, PRIMARY KEY (id, region));
    DROP TRIGGER judge ON cn; ALTER TABLE asia ATTACH PARTITION cn FOR VALUES IN ('cn');";

const SCRIPT: &str = "
    INSERT INTO root VALUES (1, 'de', 1), (2, 'jp', 2), (3, 'cn', 3); UPDATE root SET a = a + 10;
    UPDATE root SET id = 4 WHERE id = 1; INSERT INTO eu (id, region, a) VALUES (5, 'fr', 5);
    UPDATE root SET region = 'fr' WHERE id = 4; DELETE FROM root WHERE id IN (2, 5)";

#[tokio::test]
async fn rows_of_partitions_come_under_their_roots_name() {
    for publication in ["", VIA_ROOT] {
        let mut changes = Changes::after(&format!("{TABLES}{publication}")).await;
        changes.run(SCRIPT).await;
        let (events, notes) = (changes.events().await, changes.log().await);
        assert_eq!(events.len(), notes.len());
        for (event, note) in events.iter().zip(&notes) {
            assert_eq!((&event["op"], &event["table"]), (&json!(note.op), &json!("root")));
            note.judge_rows(event);
        }
        let written: Vec<_> = notes.iter().take(3).map(|note| note.table.as_str()).collect();
        assert_eq!(written, ["eu", "jp", "cn"], "it is of partitions");
        // A row that moves is deleted in one partition and inserted into another.
        changes.run("UPDATE root SET region = 'jp' WHERE id = 4").await;
        assert_eq!(
            told(&changes.events().await),
            [r#"delete public.root {"id":4,"region":"fr"}"#, r#"insert public.root {"a":11,"id":4,"region":"jp"}"#]
        );
        // One of the root, none of a partition alone: PostgreSQL does not send it under the root's name.
        changes.run("TRUNCATE eu; TRUNCATE root").await;
        assert_eq!(told(&changes.events().await), ["truncate public.root null"]);
    }
}

#[tokio::test]
async fn without_publish_via_partition_root_rows_come_under_their_partitions_name() {
    let mut changes = Changes::after(&format!("{TABLES}{}", super::ALL)).await;
    changes.fits(SCRIPT).await;
    changes.run("UPDATE root SET region = 'jp' WHERE id = 4").await;
    assert_eq!(
        told(&changes.events().await),
        [r#"delete public.eu {"id":4,"region":"fr"}"#, r#"insert public.jp {"a":11,"id":4,"region":"jp"}"#]
    );
    changes.run("TRUNCATE eu; TRUNCATE root").await;
    let mut truncated = told(&changes.events().await);
    assert_eq!(truncated.remove(0), "truncate public.eu null");
    truncated.sort();
    assert_eq!(truncated, ["truncate public.cn null", "truncate public.eu null", "truncate public.jp null"]);
}

/// From its attachment on, a partition's rows are the root's; before it, and after it was detached, its own. A server before
/// 15 goes on with the name under which the stream had the first of them.
#[tokio::test]
async fn a_partition_that_is_attached_or_detached_changes_the_name_from_there_on() {
    let script = "
        INSERT INTO us VALUES (1, 1, 'us'); BEGIN; INSERT INTO us VALUES (2, 2, 'us'); DROP TRIGGER judge ON us;
        ALTER TABLE root ATTACH PARTITION us FOR VALUES IN ('us'); INSERT INTO us VALUES (3, 3, 'us');
        INSERT INTO root VALUES (4, 'us', 4); UPDATE us SET a = 0 WHERE id = 1; COMMIT; INSERT INTO root VALUES (5, 'us', 5);
        BEGIN; INSERT INTO root VALUES (6, 'us', 6); ALTER TABLE root DETACH PARTITION us; INSERT INTO us VALUES (7, 7, 'us');
        COMMIT; INSERT INTO us VALUES (8, 8, 'us'); INSERT INTO root VALUES (9, 'de', 9)";
    let expected = [
        r#"insert public.us {"a":1,"id":1,"region":"us"}"#,
        r#"insert public.us {"a":2,"id":2,"region":"us"}"#,
        r#"insert public.root {"a":3,"id":3,"region":"us"}"#,
        r#"insert public.root {"a":4,"id":4,"region":"us"}"#,
        r#"update public.root {"a":0,"id":1,"region":"us"}"#,
        r#"insert public.root {"a":5,"id":5,"region":"us"}"#,
        r#"insert public.root {"a":6,"id":6,"region":"us"}"#,
        r#"insert public.us {"a":7,"id":7,"region":"us"}"#,
        r#"insert public.us {"a":8,"id":8,"region":"us"}"#,
        r#"insert public.root {"a":9,"id":9,"region":"de"}"#,
    ];
    let us = "CREATE TABLE us (id int NOT NULL, a int, region text NOT NULL, PRIMARY KEY (id, region));";
    for later in [false, true] {
        let mut changes = Changes::after(&format!("{TABLES}{us}{VIA_ROOT}")).await;
        if later {
            changes.behind_its_back(script).await;
        } else {
            changes.run(script).await;
        }
        let forgets = changes.database.major().await < 15;
        let expected =
            expected.map(|row| if forgets { row.replace("root {\"a\":", "us {\"a\":") } else { row.to_owned() });
        let mut told = told(&changes.events().await);
        let last = told.pop().expect("the last row, of another partition");
        assert_eq!((&told[..], last.as_str()), (&expected[..9], r#"insert public.root {"a":9,"id":9,"region":"de"}"#));
    }
}

/// Of the tables that match, those that are there when pgsluice starts are published.
#[tokio::test]
async fn a_partition_joins_with_its_root_at_once_and_a_table_at_the_next_start() {
    let mut changes = Changes::after(TABLES).await;
    changes
        .run(
            "CREATE TABLE it PARTITION OF root FOR VALUES IN ('it'); INSERT INTO root VALUES (1, 'it', 1);
             ALTER TABLE root DETACH PARTITION it; INSERT INTO it VALUES (2, 'it', 2)",
        )
        .await;
    // A server before 15 goes on with the root's name until the stream begins anew.
    let forgets = usize::from(changes.database.major().await < 15);
    let rows =
        [r#"insert public.root {"a":1,"id":1,"region":"it"}"#, r#"insert public.root {"a":2,"id":2,"region":"it"}"#];
    assert_eq!(told(&changes.events().await), rows[..=forgets]);
    changes.stop().await;
    changes.restart().await;
    let note = changes.process.wait_for_log("published from now on: earlier rows are not sent", SOON).await;
    assert!(note.contains("public.it"), "{note}");
    changes.run("INSERT INTO it VALUES (3, 'it', 3)").await;
    assert_eq!(told(&changes.events().await), [r#"insert public.it {"a":3,"id":3,"region":"it"}"#]);
}

/// `ALTER TABLE root REPLICA IDENTITY FULL` does not reach the partitions; PostgreSQL sends the old row as if it did.
#[tokio::test]
async fn a_partition_whose_identity_is_not_its_roots_is_warned_about() {
    const WARNING: &str = "is not that of the partitioned table";
    let mut changes = Changes::after(&format!("{TABLES} ALTER TABLE root REPLICA IDENTITY FULL")).await;
    let warning = changes.process.wait_for_log(WARNING, SOON).await;
    assert!(warning.contains("of public.cn, public.eu, public.jp is not"), "{warning}");
    changes.run("INSERT INTO root VALUES (1, 'de', 1); DELETE FROM root").await;
    let delete = changes.events().await.remove(1);
    assert_eq!(
        (&delete["identity"], &delete["before"]["a"]),
        (&json!("full"), &json!(null)),
        "what the warning is about"
    );
    let full = ["cn", "eu", "jp"].map(|partition| format!("ALTER TABLE {partition} REPLICA IDENTITY FULL")).join(";");
    changes.log().await;
    changes.behind_its_back(&full).await;
    assert!(!changes.process.stderr().contains(WARNING), "{}", changes.process.stderr());
    changes.run("INSERT INTO root VALUES (1, 'de', 1); UPDATE root SET a = 2; DELETE FROM root").await;
    let (events, notes) = (changes.events().await, changes.log().await);
    assert_eq!((events.len(), notes.len()), (3, 3));
    events.iter().zip(&notes).for_each(|(event, note)| note.judge_rows(event));
}

//! A table that is altered while it streams: the event fits the table as it was at its place in the WAL, whether it is
//! read at once or much later.

use serde_json::{Value, json};

use super::{ALL, Changes, told};
use crate::support::SOON;

/// What befalls a table, in its order; each comes with rows before and after it.
const STEPS: [&str; 18] = [
    "ALTER TABLE t ADD note text",
    "ALTER TABLE t ADD filled int DEFAULT 7",
    "ALTER TABLE t ADD rewritten float8 DEFAULT random()",
    "ALTER TABLE t ALTER a TYPE bigint",
    "ALTER TABLE t ALTER a TYPE text USING 'number ' || a",
    "ALTER TABLE t RENAME a TO \"A b\"",
    "ALTER TABLE t DROP note",
    "ALTER TABLE t ADD note int",
    "ALTER TABLE t REPLICA IDENTITY FULL",
    "ALTER TABLE t RENAME TO u; ALTER TABLE u RENAME TO t",
    "ALTER TABLE t SET SCHEMA s; ALTER TABLE s.t SET SCHEMA public",
    "ALTER TABLE t ALTER id TYPE bigint; ALTER TABLE t ALTER id TYPE int",
    "ALTER TABLE t REPLICA IDENTITY DEFAULT, DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, filled)",
    "VACUUM FULL t",
    "CREATE TYPE mood AS ENUM ('so'); ALTER TABLE t ADD mood mood DEFAULT 'so'",
    "ALTER TYPE mood ADD VALUE 'la'; UPDATE t SET mood = 'la'",
    "DROP TABLE t; CREATE TABLE t (id text PRIMARY KEY, other bool DEFAULT true)",
    "ALTER TABLE t DROP other",
];
const SETUP: &str = "CREATE SCHEMA s; CREATE TABLE t (id int PRIMARY KEY, a int);";

/// Rows around each step, within its transaction where there is one.
fn rows(step: usize) -> [String; 2] {
    let of = |id: usize| {
        format!(
            "INSERT INTO t (id) VALUES ({id}), ({id} + 1); UPDATE t SET id = id WHERE id::text = '{id}'; DELETE FROM t WHERE id::text = '{id}'"
        )
    };
    [of(step * 100), of(step * 100 + 10)]
}

fn in_one_transaction(steps: &[&str]) -> String {
    let around = steps.iter().enumerate().map(|(index, step)| {
        let [before, after] = rows(index);
        format!("{before};{step};{after};")
    });
    format!("BEGIN;{}COMMIT", around.collect::<String>())
}

/// Neither a rewrite of the table nor a new column with a default is a change of its rows.
#[tokio::test]
async fn each_change_of_a_table_counts_from_its_place_on() {
    for later in [false, true] {
        let mut changes = Changes::after(&format!("{SETUP}{ALL}")).await;
        if later {
            changes.stop().await;
        }
        for (index, step) in STEPS.iter().enumerate() {
            let [before, after] = rows(index);
            changes.run(&format!("{before};{step};{after}")).await;
            if !later {
                let events = changes.judged().await;
                let rows = events.iter().filter(|event| event["op"] == "insert").count();
                assert_eq!(rows, 4, "{step}: {:?}", told(&events));
            }
        }
        if later {
            changes.restart().await;
            assert!(changes.judged().await.len() > 6 * STEPS.len());
        }
    }
}

/// With data before, between and after, all in one transaction; and the whole twice, of which one is rolled back.
#[tokio::test]
async fn a_transaction_that_alters_tables_is_right_at_each_of_its_rows() {
    let transactional: Vec<&str> =
        STEPS.into_iter().filter(|step| !step.contains("VACUUM") && !step.contains("ADD VALUE")).collect();
    let all = in_one_transaction(&transactional);
    let undone = all
        .replace("BEGIN;", "BEGIN; SAVEPOINT before;")
        .replace("COMMIT", "ROLLBACK TO before; INSERT INTO t VALUES (9, 9); COMMIT");
    for later in [false, true] {
        let mut changes = Changes::after(&format!("{SETUP}{ALL}")).await;
        let both = format!("{undone};{all}");
        if later {
            changes.behind_its_back(&both).await;
        } else {
            changes.run(&both).await;
        }
        let events = changes.judged().await;
        assert_eq!(events[0]["after"], json!({"id": 9, "a": 9}));
        assert!(events.len() > 6 * transactional.len(), "{}", events.len());
        let ordinals: Vec<_> = events[1..].iter().map(|event| event["ordinal"].as_u64().expect("a number")).collect();
        assert!(ordinals.is_sorted_by(|before, after| before < after), "{ordinals:?}");
    }
}

/// Two sessions: one alters between the rows of the other's transaction, which has written to another table before.
#[tokio::test]
async fn a_change_that_another_session_commits_counts_from_its_commit_on() {
    let mut changes = Changes::after(&format!("{SETUP}{ALL} CREATE TABLE v (id int PRIMARY KEY, a text)")).await;
    changes.run("BEGIN; INSERT INTO v VALUES (1, 'x')").await;
    changes
        .database
        .execute("INSERT INTO t VALUES (1, 1); ALTER TABLE t ADD b int DEFAULT 5; ALTER TABLE t DROP a")
        .await;
    changes.run("INSERT INTO t VALUES (2, 2); INSERT INTO v VALUES (2, 'y'); COMMIT").await;
    // The judge notes in the order of the statements; the stream has the order of the commits.
    let events = changes.events().await;
    assert_eq!(
        told(&events),
        [
            r#"insert public.t {"a":1,"id":1}"#,
            r#"insert public.v {"a":"x","id":1}"#,
            r#"insert public.t {"b":2,"id":2}"#,
            r#"insert public.v {"a":"y","id":2}"#
        ]
    );
}

#[tokio::test]
async fn a_table_that_is_renamed_or_moved_has_its_new_name() {
    let script = "
        BEGIN; INSERT INTO s.t VALUES (1); ALTER TABLE s.t RENAME TO u; INSERT INTO s.u VALUES (2); COMMIT;
        INSERT INTO s.u VALUES (3); ALTER TABLE s.u SET SCHEMA public; INSERT INTO u VALUES (4);
        CREATE TABLE s.u (a text PRIMARY KEY); INSERT INTO s.u VALUES ('new'); BEGIN; ALTER TABLE u RENAME TO v;
        ALTER TABLE s.u SET SCHEMA public; UPDATE u SET a = 'moved'; INSERT INTO v VALUES (5); COMMIT";
    for later in [false, true] {
        let mut changes =
            Changes::after(&format!("{ALL} CREATE SCHEMA s; CREATE TABLE s.t (id int PRIMARY KEY)")).await;
        if later {
            changes.behind_its_back(script).await;
        } else {
            changes.run(script).await;
        }
        assert_eq!(changes.judged().await.len(), 7);
    }
}

/// A server before 16 forgets to say so, until it describes the table again.
#[tokio::test]
async fn a_schema_that_is_renamed_is_named_anew_from_postgresql_16_on() {
    let script = "BEGIN; INSERT INTO s.t VALUES (1); ALTER SCHEMA s RENAME TO r; INSERT INTO r.t VALUES (2); COMMIT;
                  INSERT INTO r.t VALUES (3); ALTER TABLE r.t ADD a int; INSERT INTO r.t VALUES (4)";
    for later in [false, true] {
        let mut changes =
            Changes::after(&format!("{ALL} CREATE SCHEMA s; CREATE TABLE s.t (id int PRIMARY KEY)")).await;
        let forgets = changes.database.major().await < 16;
        if later {
            changes.behind_its_back(script).await;
        } else {
            changes.run(script).await;
        }
        let events = changes.events().await;
        let schemas: Vec<_> = events.iter().map(|event| event["schema"].as_str().expect("a name")).collect();
        if forgets {
            // Now and then something else reminds it, sooner or later.
            assert!(
                schemas[0] == "s" && schemas[3] == "r" && !schemas.windows(2).any(|two| two == ["r", "s"]),
                "{schemas:?}"
            );
        } else {
            assert_eq!(schemas, ["s", "r", "r", "r"]);
        }
    }
}

/// What is dropped and made again is another table, which a publication of ours takes in at the next start.
#[tokio::test]
async fn a_table_that_is_made_again_joins_a_publication_of_ours_at_the_next_start() {
    let mut changes = Changes::after(SETUP).await;
    let events = changes
        .fits("INSERT INTO t VALUES (1, 1); BEGIN; DELETE FROM t; ALTER TABLE t ADD b int; INSERT INTO t VALUES (2, 2, 2); COMMIT")
        .await;
    assert_eq!(events.len(), 3);
    changes.run("DROP TABLE t; CREATE TABLE t (id text PRIMARY KEY, c bool); INSERT INTO t VALUES ('x', true)").await;
    assert_eq!(changes.events().await, [] as [Value; 0]);
    changes.log().await;
    changes.stop().await;
    changes.restart().await;
    let note = changes.process.wait_for_log("published from now on: earlier rows are not sent", SOON).await;
    assert!(note.contains("public.t"), "{note}");
    changes.fits("UPDATE t SET c = false; INSERT INTO t VALUES ('y', NULL); DELETE FROM t").await;
}

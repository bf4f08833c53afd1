//! `outbox.cleanup`: rows are deleted once the checkpoint has passed their events, and no others, whatever is in the way.

use super::{config, run, scene, section};
use crate::support::{Process, SOON, Scene, eventually, pgsluice};

const CLEANUP: &str = "cleanup = { enabled = true, batch_rows = 7, every_ms = 20 }";

async fn rows(scene: &Scene, table: &str) -> String {
    scene.database.query_one(&format!("SELECT count(*) FROM {table}")).await
}

#[tokio::test]
async fn published_rows_are_deleted_and_no_others() {
    let scene = scene().await;
    scene.database.execute("INSERT INTO inbox (id) VALUES ('from before the slot')").await;
    let running = run(&scene, &section(CLEANUP)).await;
    let insert = "INSERT INTO inbox (id) SELECT 'it''s \"' || n FROM generate_series(1, 50) n";
    scene.database.execute(insert).await;
    let events = scene.vhost.consume("all", 50, SOON).await;
    let left = eventually("only one is left", SOON, async || (rows(&scene, "inbox").await == "1").then_some(()));
    left.await;
    assert_eq!(scene.database.query_one("SELECT id FROM inbox").await, "from before the slot");
    assert_eq!(events[49].message_id, "it's \"50");
    // A session that is idle would hold up a smart shutdown.
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                    AND backend_type = 'client backend' AND application_name LIKE 'pgsluice%'";
    eventually("no session is left", SOON, async || (scene.database.query_one(sessions).await == "0").then_some(()))
        .await;
    assert!(!running.stderr().contains("can't"), "{}", running.stderr());
}

/// The row whose event no queue takes is not published, and those after it are not passed.
#[tokio::test]
async fn a_row_stays_until_the_checkpoint_has_passed_its_event() {
    let scene = scene().await;
    let section = section(CLEANUP).replace("routing_key = \"k\"", "exchange = \"shop.{kind}\"\nrouting_key = \"k\"");
    scene.vhost.declare_exchange("shop.nowhere", "topic").await;
    let _running = run(&scene, &section).await;
    for (id, kind) in [("1", "events"), ("2", "nowhere"), ("3", "events")] {
        scene.database.execute(&format!("INSERT INTO inbox (id, kind) VALUES ('{id}', '{kind}')")).await;
    }
    scene.vhost.consume("all", 1, SOON).await;
    eventually("the first is deleted", SOON, async || (rows(&scene, "inbox").await == "2").then_some(())).await;
    scene.vhost.bind("all", "shop.nowhere", "#").await;
    eventually("all are deleted", SOON, async || (rows(&scene, "inbox").await == "0").then_some(())).await;
}

/// The application holds a lock: the events go on, and the rows go once it lets go of it.
#[tokio::test]
async fn a_row_that_is_locked_delays_no_event() {
    let scene = scene().await;
    let running = run(&scene, &section(CLEANUP)).await;
    let mut application = scene.database.client().await;
    let transaction = application.transaction().await.expect("begins");
    transaction.batch_execute("LOCK TABLE inbox IN SHARE ROW EXCLUSIVE MODE").await.expect("locks");
    transaction.batch_execute("INSERT INTO inbox (id) VALUES ('1')").await.expect("inserts");
    transaction.commit().await.expect("commits");
    let transaction = application.transaction().await.expect("begins");
    transaction.batch_execute("SELECT FROM inbox WHERE id = '1' FOR UPDATE").await.expect("locks");
    for id in 2..5 {
        scene.database.execute(&format!("INSERT INTO inbox (id) VALUES ('{id}')")).await;
    }
    scene.vhost.consume("all", 4, SOON).await;
    running.wait_for_log("can't delete published rows of the outbox", SOON).await;
    transaction.rollback().await.expect("ends");
    eventually("all are deleted", SOON, async || (rows(&scene, "inbox").await == "0").then_some(())).await;
}

#[tokio::test]
async fn a_stop_deletes_what_it_has_published() {
    let scene = scene().await;
    let slow = CLEANUP.replace("every_ms = 20", "every_ms = 600000");
    let mut running = run(&scene, &section(&slow)).await;
    scene.database.execute("INSERT INTO inbox (id) VALUES ('1')").await;
    scene.vhost.consume("all", 1, SOON).await;
    running.terminate();
    assert_eq!(running.wait(SOON).await.0, Some(0));
    assert_eq!(rows(&scene, "inbox").await, "0");
}

/// It holds nothing but what was published; and one that is not empty, or not yet over, stays.
#[tokio::test]
async fn a_partition_that_is_over_and_empty_is_dropped() {
    let scene = Scene::new().await;
    scene
        .database
        .execute(
            "CREATE TABLE parts (id uuid DEFAULT gen_random_uuid(), aggregatetype text, aggregateid text, type text,
                payload text, at timestamptz, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
             CREATE TABLE \"old \"\"part\"\"\" PARTITION OF parts FOR VALUES FROM ('2020-01-01') TO ('2020-02-01');
             CREATE TABLE held PARTITION OF parts FOR VALUES FROM ('2020-02-01') TO ('2020-03-01');
             CREATE TABLE today PARTITION OF parts FOR VALUES FROM ('2020-03-01') TO (MAXVALUE);
             CREATE TABLE rest PARTITION OF parts DEFAULT;
             INSERT INTO parts (at) VALUES ('2020-02-02')",
        )
        .await;
    let cleanup = CLEANUP.replace(" }", ", drop_partitions_after_ms = 0 }");
    let outbox = format!("[[outbox]]\ntable = \"public.parts\"\nrouting_key = \"k\"\n{cleanup}\n");
    let running = run(&scene, &outbox).await;
    let insert = "INSERT INTO parts (at) SELECT at::timestamptz
                  FROM unnest(ARRAY['2020-01-05', '2020-02-05', '2021-01-01', '2019-01-01']) at";
    scene.database.execute(insert).await;
    scene.vhost.consume("all", 4, SOON).await;
    running.wait_for_log("dropped an empty partition of the outbox", SOON).await;
    assert_eq!(rows(&scene, "parts").await, "1", "from before the slot");
    let left = "SELECT string_agg(inhrelid::regclass::text, ' ' ORDER BY inhrelid) FROM pg_inherits WHERE inhparent = 'parts'::regclass";
    assert_eq!(scene.database.query_one(left).await, "held today rest");
    assert!(!running.stderr().contains("can't"), "{}", running.stderr());
}

async fn is_left(scene: &Scene, table: &str, count: &str) {
    eventually("so many are left", SOON, async || (rows(scene, table).await == count).then_some(())).await;
}

/// With the id's type and what else the table needs: deleted are those that were published, and they make no events.
async fn cleans(columns: &str, more: &str, ids: &[&str]) {
    let scene = Scene::new().await;
    scene.database.execute(&format!("CREATE DOMAIN tag AS text; CREATE TABLE \"t 😀\" ({columns}); {more}")).await;
    let section = format!(
        "[[outbox]]\ntable = 'public.\"t 😀\"'\nrouting_key = \"k\"\n{CLEANUP}\n\
         columns = {{ type = \"\", aggregate_type = \"\", aggregate_id = \"\", payload = \"body\" }}\n"
    );
    let before = format!("INSERT INTO \"t 😀\" (id) VALUES ({})", ids[0]);
    scene.database.execute(&before).await;
    let running = run(&scene, &section).await;
    for id in &ids[1..] {
        scene.database.execute(&format!("INSERT INTO \"t 😀\" (id) VALUES ({id})")).await;
    }
    scene.vhost.consume("all", ids.len() - 1, SOON).await;
    is_left(&scene, "\"t 😀\"", "1").await;
    assert_eq!(scene.database.query_one(&format!("SELECT id = {} FROM \"t 😀\"", ids[0])).await, "t", "{columns}");
    scene.acknowledged().await;
    assert_eq!(scene.vhost.depth("all").await, 0, "a deletion is no event");
    assert!(!running.stderr().contains("can't"), "{}", running.stderr());
}

/// `character` without a length would cut it to one character, and find the row of another id.
#[tokio::test]
async fn an_id_may_be_of_any_type_that_can_be_compared() {
    cleans("id char(5) PRIMARY KEY, body text", "", &["'a'", "'abc'", "'a\u{308}'"]).await;
    cleans("id bit(3) UNIQUE NOT NULL, body text", "ALTER TABLE \"t 😀\" REPLICA IDENTITY FULL", &["B'100'", "B'101'"])
        .await;
    cleans("id bigint PRIMARY KEY, body text", "", &["-1", "9223372036854775807", "0"]).await;
    cleans("id tag PRIMARY KEY, body text", "", &["'a'", "''", "'{\"x\",NULL}'"]).await;
    cleans("id varchar(9) PRIMARY KEY, body text", "", &["'a'", "'NULL'", "'\\n\"'"]).await;
    cleans("id timestamptz PRIMARY KEY, body text", "", &["'infinity'", "'2026-11-21 02:37:00.123456+03'"]).await;
}

#[tokio::test]
async fn rows_of_a_table_that_logs_whole_rows_are_deleted() {
    cleans("id int PRIMARY KEY, body text", "ALTER TABLE \"t 😀\" REPLICA IDENTITY FULL", &["1", "2", "3"]).await;
}

/// What warns, and once it is mended goes on.
async fn waits(prepare: &str, warning: &[&str], mend: &str) {
    let scene = scene().await;
    scene.database.execute(prepare).await;
    let running = run(&scene, &section(CLEANUP)).await;
    for id in 1..4 {
        scene.database.execute(&format!("INSERT INTO inbox (id) VALUES ('{id}')")).await;
    }
    scene.vhost.consume("all", 3, SOON).await;
    running.wait_for_log("can't delete published rows of the outbox", SOON).await;
    crate::bad_input::says(&running.stderr(), warning);
    assert_eq!(rows(&scene, "inbox").await, "3");
    scene.acknowledged().await;
    scene.database.execute(mend).await;
    is_left(&scene, "inbox", "0").await;
}

/// Another row of the same id may be one that was not published.
#[tokio::test]
async fn ids_that_nothing_makes_unique_delete_nothing() {
    let warning = ["no unique index of public.inbox is on", "make it the primary key"];
    let prepare =
        "ALTER TABLE inbox DROP CONSTRAINT inbox_pkey, ADD PRIMARY KEY (id, kind), ALTER kind SET DEFAULT 'x';
                   CREATE UNIQUE INDEX partial ON inbox (id) WHERE kind = 'y'; CREATE UNIQUE INDEX other ON inbox (saga)";
    waits(
        &prepare
            .replace("ADD PRIMARY KEY (id, kind)", "ALTER id SET NOT NULL")
            .replace("inbox (id)", "inbox (id, kind)"),
        &warning,
        "DROP INDEX partial; ALTER TABLE inbox ADD PRIMARY KEY (id)",
    )
    .await;
    waits(prepare, &warning, "CREATE UNIQUE INDEX alone ON inbox (id)").await;
}

#[tokio::test]
async fn a_table_without_a_replica_identity_keeps_its_rows() {
    let warning = ["does not have a replica identity"];
    waits("ALTER TABLE inbox REPLICA IDENTITY NOTHING", &warning, "ALTER TABLE inbox REPLICA IDENTITY DEFAULT").await;
}

#[tokio::test]
async fn a_trigger_that_refuses_deletions_keeps_the_rows() {
    let prepare =
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'not this: %', 'a value'; END$$;
                   CREATE TRIGGER refuse BEFORE DELETE ON inbox FOR EACH STATEMENT EXECUTE FUNCTION refuse()";
    waits(prepare, &["a trigger refused it (SQLSTATE P0001)"], "DROP TRIGGER refuse ON inbox").await;
}

/// Of a hundred rows the one stays, with those that come later it is no different, and once it is mended that one goes, too.
/// The warning tells no values.
async fn one_stays(prepare: &str, warning: &[&str], never: &str, mend: &str) {
    let scene = scene().await;
    scene.database.execute(prepare).await;
    let large = CLEANUP.replace("batch_rows = 7", "batch_rows = 100").replace("every_ms = 20", "every_ms = 500");
    let running = run(&scene, &section(&large)).await;
    for from in [1, 101, 201] {
        let more = format!("INSERT INTO inbox (id, kind) SELECT n, 'x' FROM generate_series({from}, {from} + 99) n");
        scene
            .database
            .execute(&format!(
                "BEGIN; {more}; INSERT INTO refers SELECT id FROM inbox WHERE id = '42' AND {from} = 1; COMMIT"
            ))
            .await;
        is_left(&scene, "inbox", "1").await;
        assert_eq!(scene.database.query_one("SELECT id FROM inbox").await, "42");
    }
    running.wait_for_log("can't delete published rows of the outbox", SOON).await;
    crate::bad_input::says(&running.stderr(), warning);
    assert!(!running.stderr().contains(never), "{}", running.stderr());
    assert_eq!(running.stderr().matches("can't delete").count(), 1);
    scene.database.execute(mend).await;
    is_left(&scene, "inbox", "0").await;
    scene.vhost.consume("all", 300, SOON).await;
}

#[tokio::test]
async fn a_row_that_a_trigger_refuses_is_in_the_way_of_no_other() {
    let prepare = "CREATE TABLE refers (id text);
                   CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                   $$BEGIN IF OLD.id = '42' THEN RAISE 'not this: %', OLD USING ERRCODE = '42501'; END IF; RETURN OLD; END$$;
                   CREATE TRIGGER refuse BEFORE DELETE ON inbox FOR EACH ROW EXECUTE FUNCTION refuse()";
    let warning = ["a trigger refused it (SQLSTATE 42501)", "look at the table's triggers"];
    one_stays(prepare, &warning, "not this", "DROP TRIGGER refuse ON inbox").await;
}

#[tokio::test]
async fn a_row_that_another_refers_to_is_in_the_way_of_no_other() {
    let warning = ["violates foreign key constraint", "SQLSTATE 23503", "look at what refers to the row"];
    one_stays("CREATE TABLE refers (id text REFERENCES inbox)", &warning, "Key (id)", "DELETE FROM refers").await;
}

/// More than are found in one go.
#[tokio::test]
async fn many_rows_that_can_not_be_deleted_are_in_the_way_of_no_other() {
    let scene = scene().await;
    scene.database.execute("CREATE TABLE refers (id text REFERENCES inbox)").await;
    let large = CLEANUP.replace("batch_rows = 7", "batch_rows = 100");
    let _running = run(&scene, &section(&large)).await;
    let insert = "BEGIN; INSERT INTO inbox (id) SELECT n FROM generate_series(1, 100) n;
                  INSERT INTO refers SELECT n FROM generate_series(1, 100, 2) n; COMMIT";
    scene.database.execute(insert).await;
    scene.vhost.consume("all", 100, SOON).await;
    is_left(&scene, "inbox", "50").await;
    assert_eq!(scene.database.query_one("SELECT count(*) FROM refers JOIN inbox USING (id)").await, "50");
}

/// One outbox that can't be cleaned, and one row that is locked, are in the way of no others.
#[tokio::test]
async fn what_can_not_be_deleted_delays_no_other_row() {
    let scene = scene().await;
    scene.database.execute("CREATE TABLE keeps (id text, body text)").await;
    let columns = "columns = { type = \"\", aggregate_type = \"\", aggregate_id = \"\", payload = \"body\" }";
    let keeps = format!("[[outbox]]\ntable = \"public.keeps\"\nrouting_key = \"k\"\n{columns}\n{CLEANUP}\n");
    let large = CLEANUP.replace("batch_rows = 7", "batch_rows = 1000").replace("every_ms = 20", "every_ms = 500");
    let running = run(&scene, &(keeps + &section(&large))).await;
    let mut application = scene.database.client().await;
    scene.database.execute("INSERT INTO keeps VALUES ('1')").await;
    scene.vhost.consume("all", 1, SOON).await;
    running.wait_for_log("no unique index of public.keeps", SOON).await;
    let transaction = application.transaction().await.expect("begins");
    let locked = "INSERT INTO inbox (id) SELECT n FROM generate_series(1, 50) n";
    scene.database.execute(locked).await;
    transaction.batch_execute("SELECT FROM inbox WHERE id = '20' FOR UPDATE").await.expect("locks");
    scene.vhost.consume("all", 50, SOON).await;
    is_left(&scene, "inbox", "1").await;
    assert_eq!(scene.database.query_one("SELECT id FROM inbox").await, "20");
    for _ in 0..2 {
        scene.database.execute("INSERT INTO inbox (id) SELECT 'later ' || n FROM generate_series(1, 50) n").await;
        scene.vhost.consume("all", 50, SOON).await;
        is_left(&scene, "inbox", "1").await;
    }
    transaction.rollback().await.expect("ends");
    is_left(&scene, "inbox", "0").await;
    assert_eq!(rows(&scene, "keeps").await, "1");
}

/// Killed between the confirm and the deletion, it leaves the row; between the deletion and all else, it loses nothing.
#[tokio::test]
async fn a_kill_leaves_rows_and_loses_no_event() {
    let scene = scene().await;
    let slow = CLEANUP.replace("every_ms = 20", "every_ms = 600000").replace("batch_rows = 7", "batch_rows = 1000");
    let mut running: Process = pgsluice(&config(&scene, &section(&slow)));
    running.wait_for_log("streaming from PostgreSQL", SOON).await;
    scene.database.execute("INSERT INTO inbox (id) VALUES ('1'), ('2')").await;
    scene.vhost.consume("all", 2, SOON).await;
    scene.acknowledged().await;
    running.kill();
    assert_eq!(rows(&scene, "inbox").await, "2");
    let mut running = run(&scene, &section(CLEANUP)).await;
    for id in 3..30 {
        scene.database.execute(&format!("INSERT INTO inbox (id) VALUES ('{id}')")).await;
        if id % 9 == 0 {
            running.restart();
        }
    }
    let mut missing: std::collections::BTreeSet<String> = (3..30).map(|id| id.to_string()).collect();
    let mut consumer = scene.vhost.consumer("all").await;
    while !missing.is_empty() {
        missing.remove(&consumer.next(SOON).await.message_id);
    }
    scene.acknowledged().await;
    assert!(rows(&scene, "inbox").await.parse::<usize>().expect("a number") >= 2, "those of before the first kill");
}

/// Its event is gone, as was asked for; so the checkpoint passes it.
#[tokio::test]
async fn a_row_whose_event_was_discarded_is_done_with() {
    let scene = scene().await;
    scene.vhost.declare_exchange("shop.nowhere", "topic").await;
    let section = section(CLEANUP).replace("routing_key = \"k\"", "exchange = \"shop.nowhere\"\nrouting_key = \"k\"");
    let _running = run(&scene, &format!("{section}[rabbitmq.unroutable]\npolicy = \"discard\"\n")).await;
    scene.database.execute("INSERT INTO inbox (id) VALUES ('1')").await;
    is_left(&scene, "inbox", "0").await;
}

/// The partition is the application's: rows are deleted all the same.
#[tokio::test]
async fn a_partition_that_can_not_be_dropped_keeps_no_rows() {
    let scene = Scene::new().await;
    scene
        .database
        .execute(
            "CREATE TABLE parts (id uuid DEFAULT gen_random_uuid(), aggregatetype text, aggregateid text, type text,
                payload text, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
             CREATE TABLE past PARTITION OF parts FOR VALUES FROM ('2020-01-01') TO ('2020-02-01');
             CREATE TABLE other PARTITION OF parts FOR VALUES FROM ('2020-02-01') TO ('2020-03-01');
             CREATE TABLE now PARTITION OF parts FOR VALUES FROM ('2020-03-01') TO (MAXVALUE);
             CREATE VIEW needs_it AS SELECT id FROM past",
        )
        .await;
    let cleanup = CLEANUP.replace(" }", ", drop_partitions_after_ms = 0 }");
    let outbox = format!("[[outbox]]\ntable = \"public.parts\"\nrouting_key = \"k\"\n{cleanup}\n");
    let running = run(&scene, &outbox).await;
    for at in ["2020-01-05", "2021-01-01", "2021-01-02"] {
        scene.database.execute(&format!("INSERT INTO parts (at) VALUES ('{at}')")).await;
        is_left(&scene, "parts", "0").await;
    }
    running.wait_for_log("can't drop empty partitions of the outbox", SOON).await;
    crate::bad_input::says(&running.stderr(), &["dropping public.past", "SQLSTATE 2BP01", "drop the view"]);
    let dropped = running.wait_for_log("dropped an empty partition of the outbox", SOON).await;
    assert!(dropped.contains("public.other"), "one that can't be dropped is in the way of no other: {dropped}");
    scene.database.execute("DROP VIEW needs_it; INSERT INTO parts (at) VALUES ('2021-01-01')").await;
    let is_gone = async || (scene.database.query_one("SELECT to_regclass('past') IS NULL").await == "t").then_some(());
    eventually("it is dropped", SOON, is_gone).await;
    assert_eq!(running.stderr().matches("can't drop").count(), 1);
    assert_eq!(scene.vhost.consume("all", 4, SOON).await.len(), 4);
}

//! The same workload through both modes.

use tokio_postgres::Client;

use super::Recorder;
use super::recorder::{STREAM_SOON, has_streamed, settings, streamed, streaming};
use crate::support::{self, Database, PostgresServer};

const TABLES: &str = "
    CREATE TABLE done (n int PRIMARY KEY);
    CREATE TABLE t (id bigserial PRIMARY KEY, filler text);
    CREATE TABLE u (id bigserial PRIMARY KEY, filler text);
    CREATE TABLE w (id int PRIMARY KEY);
    CREATE TABLE x (id int PRIMARY KEY, n int, big text); ALTER TABLE x ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE f (id int PRIMARY KEY, n int, big text); ALTER TABLE f ALTER big SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
    INSERT INTO x SELECT n, n, repeat('x', 3000) FROM generate_series(1, 100) n;
    INSERT INTO f SELECT n, n, repeat('f', 3000) FROM generate_series(1, 100) n;
    CREATE TYPE mood AS ENUM ('fine'); CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE TABLE y (id bigserial PRIMARY KEY, m mood, p positive);
    CREATE TABLE parts (id bigserial, k int, filler text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
    CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2);
    CREATE PUBLICATION p FOR ALL TABLES WITH (publish_via_partition_root = true)";

/// Thousands of subtransactions, of which every third is rolled back.
const SUBTRANSACTIONS: &str = "
    DO $$ BEGIN FOR i IN 1..3000 LOOP BEGIN
        INSERT INTO t (filler) VALUES (repeat('s', i % 50)); UPDATE w SET id = id;
        IF i % 3 = 0 THEN RAISE EXCEPTION 'undone'; END IF;
    EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$;";

/// What three sessions do in turn. Large ones begin and end in every order, so that their blocks are interleaved.
const WORKLOAD: &[(usize, &str)] = &[
    (0, "BEGIN; INSERT INTO t (filler) SELECT repeat('a', 100) FROM generate_series(1, 2000)"),
    (1, "BEGIN; INSERT INTO t (filler) SELECT repeat('b', 100) FROM generate_series(1, 2000)"),
    (2, "INSERT INTO t (filler) VALUES ('small')"),
    (0, "INSERT INTO w VALUES (1)"),
    (0, SUBTRANSACTIONS),
    (1, "SAVEPOINT s; INSERT INTO u (filler) SELECT repeat('undone', 20) FROM generate_series(1, 3000);
         SELECT pg_logical_emit_message(true, 'undone', 'b'); SELECT pg_logical_emit_message(false, 'at once', 'b');
         ROLLBACK TO s; INSERT INTO u (filler) VALUES ('after the savepoint')"),
    (2, "BEGIN; UPDATE x SET n = n + 1; UPDATE f SET n = n + 1; UPDATE x SET big = NULL WHERE id < 5; DELETE FROM f WHERE id = 7;
         SELECT pg_logical_emit_message(true, 'kept', 'c'); INSERT INTO y (m, p) SELECT 'fine', n FROM generate_series(1, 1000) n"),
    (1, "SELECT pg_logical_emit_message(true, 'kept', 'b');
         SAVEPOINT s; SAVEPOINT s1; INSERT INTO u (filler) SELECT repeat('undone', 20) FROM generate_series(1, 2000); RELEASE s1;
         SAVEPOINT s2; INSERT INTO u (filler) SELECT repeat('undone', 20) FROM generate_series(1, 2000); ROLLBACK TO s2;
         INSERT INTO u (filler) SELECT repeat('undone', 20) FROM generate_series(1, 2000); ROLLBACK TO s;
         SAVEPOINT s; INSERT INTO u (filler) SELECT repeat('kept', 20) FROM generate_series(1, 2000); RELEASE s"),
    (0, "INSERT INTO parts (k, filler) SELECT 1 + n % 2, repeat('p', 50) FROM generate_series(1, 2000) n"),
    (2, "INSERT INTO t (filler) SELECT repeat('c', 100) FROM generate_series(1, 2000)"),
    (1, "COMMIT"),
    (2, "COMMIT"),
    (0, "ALTER TABLE w ADD note text DEFAULT 'new'; INSERT INTO w SELECT n FROM generate_series(2, 2000) n;
         SAVEPOINT s; ALTER TABLE w RENAME note TO memo; ALTER TABLE w ADD extra int;
         INSERT INTO w SELECT n FROM generate_series(2001, 4000) n; ROLLBACK TO s;
         INSERT INTO w SELECT n FROM generate_series(4001, 6000) n; ALTER TABLE w RENAME TO w2;
         INSERT INTO w2 SELECT n FROM generate_series(6001, 8000) n; TRUNCATE x, f; CREATE TABLE z (LIKE w2 INCLUDING ALL);
         INSERT INTO z SELECT * FROM w2; DROP TABLE y CASCADE"),
    (1, "BEGIN; INSERT INTO t (filler) SELECT repeat('undone', 20) FROM generate_series(1, 5000)"),
    (1, "ROLLBACK; BEGIN; COMMIT; CREATE TABLE ddl_only (id int); ALTER TABLE ddl_only ADD n int"),
    (1, "INSERT INTO t (filler) VALUES ('before the last')"),
    (0, "COMMIT"),
    (1, "INSERT INTO w2 VALUES (9000); INSERT INTO z VALUES (9000); INSERT INTO t (filler) VALUES ('the last')"),
    (1, "BEGIN; SAVEPOINT s; INSERT INTO t (filler) SELECT repeat('undone', 20) FROM generate_series(1, 5000); ROLLBACK TO s; COMMIT"),
];

pub(super) async fn run(database: &Database, workload: &[(usize, &str)]) {
    let mut sessions: Vec<Client> = Vec::new();
    for _ in 0..3 {
        sessions.push(database.client().await);
    }
    for (session, sql) in workload {
        sessions[*session].batch_execute(sql).await.unwrap_or_else(|error| panic!("{error:?}: {sql}"));
    }
}

/// Says where two recordings differ, and how.
pub(super) fn assert_same(one: &[String], other: &[String]) {
    for (at, (left, right)) in one.iter().zip(other).enumerate() {
        assert_eq!(left, right, "change {at} of {} and {}", one.len(), other.len());
    }
    assert_eq!(one.len(), other.len(), "{:?} is more", one.get(other.len()).or(other.get(one.len())));
}

async fn the_same_in_both_modes(server: &PostgresServer) {
    let database = server.database().await;
    let name = database.name().to_owned();
    database.execute(&format!("ALTER DATABASE {name} {STREAM_SOON}")).await;
    database.execute(TABLES).await;
    let plain = settings(&database, "plain", None);
    let live = settings(&database, "live", Some(streaming()));
    let late = settings(&database, "late", Some(streaming()));
    drop(Recorder::open(&plain).await);
    drop(Recorder::open(&late).await);
    let reading = tokio::spawn(Recorder::open(&live).await.until(1));
    run(&database, WORKLOAD).await;
    database.execute("INSERT INTO done VALUES (1)").await;
    let live_changes = reading.await.expect("reads to the end").changes;
    let plain_changes = Recorder::open(&plain).await.until(1).await.changes;
    let late_changes = Recorder::open(&late).await.until(1).await.changes;
    let committed = plain_changes.iter().filter(|change| !change.contains("done")).count();
    assert!(committed > 20_000, "{committed}");
    assert_same(&plain_changes, &live_changes);
    assert_same(&plain_changes, &late_changes);
    has_streamed(&database, &live, 4).await;
    has_streamed(&database, &late, 3).await;
    assert_eq!(streamed(&database, &plain).await, 0);
}

#[tokio::test]
async fn a_workload_is_the_same_with_and_without_streaming() {
    the_same_in_both_modes(support::postgres()).await;
}

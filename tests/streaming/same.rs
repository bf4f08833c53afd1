//! The same workload through both modes.

use pgsluice::failure::Failure;
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
         SELECT pg_logical_emit_message(false, 'at once', 'b');
         ROLLBACK TO s; INSERT INTO u (filler) VALUES ('after the savepoint')"),
    (2, "BEGIN; UPDATE x SET n = n + 1; UPDATE f SET n = n + 1; UPDATE x SET big = NULL WHERE id < 5; DELETE FROM f WHERE id = 7;
         SELECT pg_logical_emit_message(true, 'kept', 'c'); INSERT INTO y (m, p) SELECT 'fine', n FROM generate_series(1, 1000) n"),
    (1, "SAVEPOINT s; SAVEPOINT s1; INSERT INTO u (filler) SELECT repeat('undone', 20) FROM generate_series(1, 2000); RELEASE s1;
         SAVEPOINT s2; INSERT INTO u (filler) SELECT repeat('undone', 20) FROM generate_series(1, 2000); ROLLBACK TO s2;
         INSERT INTO u (filler) SELECT repeat('undone', 20) FROM generate_series(1, 2000); ROLLBACK TO s;
         SAVEPOINT s; INSERT INTO u (filler) SELECT repeat('kept', 20) FROM generate_series(1, 2000); RELEASE s;
         SELECT pg_logical_emit_message(true, 'kept', 'b')"),
    (0, "INSERT INTO parts (k, filler) SELECT 1 + n % 2, repeat('p', 50) FROM generate_series(1, 2000) n"),
    (2, "INSERT INTO t (filler) SELECT repeat('c', 100) FROM generate_series(1, 2000)"),
    (1, "COMMIT"),
    (2, "COMMIT"),
    (0, "ALTER TABLE w ADD note text DEFAULT 'new'; INSERT INTO w SELECT n FROM generate_series(2, 2000) n;
         SAVEPOINT s; ALTER TABLE w RENAME note TO memo; ALTER TABLE w ADD extra int;
         INSERT INTO w SELECT n FROM generate_series(2001, 4000) n; ROLLBACK TO s;
         INSERT INTO w SELECT n FROM generate_series(4001, 6000) n; ALTER TABLE u RENAME TO u2;
         INSERT INTO u2 (filler) SELECT 'renamed' FROM generate_series(1, 2000) n; TRUNCATE x, f; CREATE TABLE z (LIKE w INCLUDING ALL);
         INSERT INTO z SELECT * FROM w; DROP TABLE y CASCADE"),
    (1, "BEGIN; INSERT INTO t (filler) SELECT repeat('undone', 20) FROM generate_series(1, 5000)"),
    (1, "ROLLBACK; BEGIN; COMMIT; CREATE TABLE ddl_only (id int); ALTER TABLE ddl_only ADD n int"),
    (1, "INSERT INTO t (filler) VALUES ('before the last')"),
    (0, "COMMIT"),
    (1, "INSERT INTO w VALUES (9000); INSERT INTO z VALUES (9000); INSERT INTO t (filler) VALUES ('the last')"),
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

/// What came of a workload.
struct Recorded {
    database: Database,
    /// Without streaming.
    plain: Vec<String>,
    /// Streamed while it went on.
    live: Vec<String>,
}

/// Runs a workload while a source streams it, and reads it once more with streaming, and without, when it is over. At least
/// so many transactions must have been streamed.
async fn record(server: &PostgresServer, setup: &str, workload: &[(usize, &str)], large: u64) -> Recorded {
    let database = server.database().await;
    database.execute(&format!("ALTER DATABASE {} {STREAM_SOON}", database.name())).await;
    database.execute(setup).await;
    let plain = settings(&database, "plain", None);
    let live = settings(&database, "live", Some(streaming()));
    let late = settings(&database, "late", Some(streaming()));
    drop(Recorder::open(&plain).await);
    drop(Recorder::open(&late).await);
    let reading = tokio::spawn(Recorder::open(&live).await.until(1));
    run(&database, workload).await;
    database.execute("INSERT INTO done VALUES (1)").await;
    let recorded = Recorded {
        database: database.clone(),
        live: reading.await.expect("reads to the end").changes,
        plain: Recorder::open(&plain).await.until(1).await.changes,
    };
    assert_same(&recorded.live, &Recorder::open(&late).await.until(1).await.changes);
    has_streamed(&database, &live, large).await;
    has_streamed(&database, &late, large).await;
    assert_eq!(streamed(&database, &plain).await, 0);
    recorded
}

async fn a_workload_is_the_same(server: &PostgresServer) {
    let Recorded { database, plain: changes, live } = record(server, TABLES, WORKLOAD, 3).await;
    assert_same(&changes, &live);
    assert!(changes.len() > 20_000, "{}", changes.len());
    let count = |text: &str| changes.iter().filter(|change| change.contains(text)).count();
    // Of what was undone, only what never was in a transaction.
    let undone = format!("{:?}", "undone".as_bytes());
    assert_eq!(count(undone.trim_matches(['[', ']'])), 0);
    assert_eq!((count("at once"), count("Truncate")), (1, 2));
    // Nothing is deleted from these.
    for (table, names) in [("t", &["t"][..]), ("u2", &["u", "u2"]), ("w", &["w"]), ("z", &["z"]), ("parts", &["parts"])]
    {
        let is_row = |change: &&String| {
            change.contains("row: Insert")
                && names.iter().any(|name| change.contains(&format!("name: \"{name}\", identity")))
        };
        let rows = database.query_one(&format!("SELECT count(*) FROM {table}")).await;
        assert_eq!(changes.iter().filter(is_row).count().to_string(), rows, "{table}");
    }
}

#[tokio::test]
async fn a_workload_is_the_same_with_and_without_streaming() {
    a_workload_is_the_same(support::postgres()).await;
}

#[tokio::test]
async fn a_workload_is_the_same_on_postgresql_14() {
    a_workload_is_the_same(&PostgresServer::private_of(14, &[])).await;
}

#[tokio::test]
async fn a_workload_is_the_same_on_postgresql_16() {
    a_workload_is_the_same(&PostgresServer::private_of(16, &[])).await;
}

#[tokio::test]
async fn a_workload_is_the_same_on_postgresql_17() {
    a_workload_is_the_same(&PostgresServer::private_of(17, &[])).await;
}

/// Each change as a block of its own.
#[tokio::test]
async fn a_workload_is_the_same_on_postgresql_18_that_streams_all_there_is() {
    let server = PostgresServer::private_of(18, &[("debug_logical_replication_streaming", "immediate")]);
    a_workload_is_the_same(&server).await;
    assert_described(&record(&server, DESCRIPTIONS, DDL, 8).await);
}

const DESCRIPTIONS: &str = "
    CREATE TABLE done (n int PRIMARY KEY);
    CREATE TABLE t (id bigserial PRIMARY KEY, a text, b text);
    CREATE SCHEMA n; CREATE TABLE n.s (id bigserial PRIMARY KEY, a text);
    CREATE PUBLICATION p FOR TABLE t, n.s, done";

/// What describes a table changes while a transaction that wrote to it is in progress: without a lock that would wait.
const DDL: &[(usize, &str)] = &[
    (
        0,
        "BEGIN; INSERT INTO t (a, b) SELECT 'early', repeat('b', 50) FROM generate_series(1, 2000);
         INSERT INTO n.s (a) SELECT repeat('a', 50) FROM generate_series(1, 2000)",
    ),
    (1, "BEGIN; INSERT INTO t (a, b) SELECT 'early', repeat('b', 50) FROM generate_series(1, 2000)"),
    (2, "ALTER PUBLICATION p SET TABLE t (id, a), n.s, done"),
    (2, "ALTER SCHEMA n RENAME TO m"),
    (2, "INSERT INTO t (a, b) VALUES ('between', 'b')"),
    (2, "INSERT INTO m.s (a) VALUES ('between')"),
    (0, "COMMIT"),
    // Nothing describes the tables again, but what was handed out last is from before.
    (2, "INSERT INTO t (a, b) VALUES ('after', 'b')"),
    (2, "BEGIN; INSERT INTO m.s (a) VALUES ('after'); INSERT INTO t (a, b) VALUES ('after', 'b'); COMMIT"),
    // This one sees both.
    (1, "INSERT INTO t (a, b) SELECT 'late', repeat('b', 50) FROM generate_series(1, 2000)"),
    (2, "TRUNCATE m.s"),
    (1, "COMMIT"),
    (2, "INSERT INTO t (a, b) VALUES ('after', 'b'); INSERT INTO m.s (a) VALUES ('after')"),
    // Described by a transaction that is rolled back, and by another one only.
    (
        0,
        "BEGIN; ALTER TABLE t RENAME a TO c; INSERT INTO t (c, b) SELECT 'undone', repeat('b', 50) FROM generate_series(1, 2000)",
    ),
    (2, "INSERT INTO m.s (a) VALUES ('between')"),
    (0, "ROLLBACK"),
    (2, "INSERT INTO t (a, b) VALUES ('after', 'b')"),
    (
        0,
        "BEGIN; ALTER TABLE t RENAME a TO c; INSERT INTO t (c, b) SELECT 'renamed', repeat('b', 50) FROM generate_series(1, 2000); COMMIT",
    ),
    (2, "INSERT INTO t (c, b) VALUES ('after', 'b')"),
];

/// PostgreSQL itself decodes what was written before such a change by the old catalog or by the new one, as its caches have
/// it. But the positions are the same, and what was written after it is.
fn assert_described(Recorded { plain, live, .. }: &Recorded) {
    let position = |change: &String| change.split_once("relation").map(|(position, _)| position.to_owned());
    let positions = |changes: &[String]| changes.iter().map(position).collect::<Vec<_>>();
    assert!(positions(plain) == positions(live));
    let with = |changes: &[String], value: &str| {
        let value = format!("{:?}", value.as_bytes());
        let has = |change: &&String| change.contains(value.trim_matches(['[', ']']));
        changes.iter().filter(has).cloned().collect::<Vec<_>>()
    };
    for value in ["between", "after", "late", "renamed"] {
        assert_same(&with(plain, value), &with(live, value));
    }
    let early = with(live, "early");
    assert_eq!((early.len(), with(live, "after").len(), with(live, "undone").len()), (4000, 7, 0));
    assert!(early.iter().any(|change| change.matches("Column {").count() == 3), "what was streamed before it");
    assert!(with(live, "late").iter().all(|change| change.matches("Column {").count() == 2));
}

#[tokio::test]
async fn each_row_is_described_as_it_was_sent() {
    if support::postgres().database().await.major().await < 15 {
        // It has no column lists, of which this is about.
        return;
    }
    assert_described(&record(support::postgres(), DESCRIPTIONS, DDL, 3).await);
}

/// What a transaction does twice: behind a savepoint to which it rolls back, and again. And what the server says to that.
const TWICE: [(&str, &str); 5] = [
    ("ALTER TABLE w ADD extra int", "could not map filen"),
    ("ALTER TABLE u RENAME filler TO stuffing", "pg_attribute catalog is missing"),
    ("ALTER SCHEMA n RENAME TO m", "cache lookup failed for namespace"),
    ("ALTER TYPE mood RENAME VALUE 'fine' TO 'well'", "invalid internal value for enum"),
    ("ALTER PUBLICATION p SET (publish = 'insert, update')", "publication \"p\""),
];

/// Decoding what is not committed has its limits: the server gives up, and a transaction that is committed is decoded whole.
/// How often it gave up.
async fn comes_without_streaming(server: &PostgresServer) -> usize {
    let mut failed = 0;
    for (alter, says) in TWICE {
        let database = server.database().await;
        database.execute(&format!("ALTER DATABASE {} {STREAM_SOON}", database.name())).await;
        database.execute(&format!("{TABLES}; CREATE SCHEMA n; CREATE TABLE n.t (id int PRIMARY KEY)")).await;
        let plain = settings(&database, "plain", None);
        let other = settings(&database, "other", Some(streaming()));
        drop(Recorder::open(&plain).await);
        drop(Recorder::open(&other).await);
        let insert = |first: u32| {
            let insert = |table| format!("INSERT INTO {table} (id) SELECT generate_series({first}, {});", first + 1000);
            let moods = "INSERT INTO y (m) SELECT 'fine' FROM generate_series(1, 1000);".to_owned();
            [insert("w"), insert("u"), insert("n.t"), moods]
        };
        let (one, two) = (insert(10_000).concat(), insert(20_000).concat());
        let sql = format!(
            "BEGIN; {one} SAVEPOINT s; {alter}; INSERT INTO w (id) SELECT generate_series(1, 1000); ROLLBACK TO s; {two} {alter};
             INSERT INTO w (id) SELECT generate_series(1001, 2000); COMMIT; INSERT INTO done VALUES (1)"
        );
        database.execute(&sql).await;
        // Streamed while it went on, it might just have been in time.
        let mut streaming = Recorder::open(&other).await;
        // A later minor release has learned it, as 15.20.
        let again = if let Err(failure) = streaming.read(1).await {
            assert!(
                matches!(&failure, Failure::Transient(error) if format!("{error:#}").contains(says)),
                "{alter}: {failure}"
            );
            failed += 1;
            streaming.open_again().await.until(1).await
        } else {
            streaming
        };
        let plain = Recorder::open(&plain).await.until(1).await;
        assert_eq!(plain.changes.len(), 2 * 4003 + 1000, "{alter}");
        assert_same(&plain.changes, &again.changes);
    }
    failed
}

#[tokio::test]
async fn what_the_server_fails_to_stream_comes_without_streaming() {
    comes_without_streaming(support::postgres()).await;
}

#[tokio::test]
async fn what_postgresql_18_fails_to_stream_comes_without_streaming() {
    assert_eq!(
        comes_without_streaming(&PostgresServer::private_of(18, &[])).await,
        TWICE.len(),
        "else it shows nothing"
    );
}

/// The id with which a message is streamed is not that of its subtransaction.
async fn a_message_that_is_rolled_back_never_comes(server: &PostgresServer) {
    let database = server.database().await;
    database.execute(&format!("ALTER DATABASE {} {STREAM_SOON}", database.name())).await;
    database.execute(TABLES).await;
    let plain = settings(&database, "plain", None);
    let other = settings(&database, "other", Some(streaming()));
    drop(Recorder::open(&plain).await);
    let mut streaming = Recorder::open(&other).await;
    let sql = "BEGIN; INSERT INTO w VALUES (1); SAVEPOINT s; SELECT pg_logical_emit_message(true, 'undone', '');
        INSERT INTO t (filler) SELECT repeat('x', 100) FROM generate_series(1, 2000); ROLLBACK TO s;
        SELECT pg_logical_emit_message(true, 'kept', ''); INSERT INTO w VALUES (2); COMMIT; INSERT INTO done VALUES (1)";
    database.execute(sql).await;
    let failure = streaming.read(1).await.expect_err("what belongs to it can't be told");
    assert!(
        matches!(&failure, Failure::Transient(error) if format!("{error:#}").contains("logical messages")),
        "{failure}"
    );
    let again = streaming.open_again().await.until(1).await;
    let plain = Recorder::open(&plain).await.until(1).await;
    assert_eq!(plain.changes.len(), 3);
    assert_same(&plain.changes, &again.changes);
}

#[tokio::test]
async fn a_message_that_is_rolled_back_with_its_savepoint_is_not_streamed() {
    a_message_that_is_rolled_back_never_comes(support::postgres()).await;
}

#[tokio::test]
async fn a_message_that_is_rolled_back_with_its_savepoint_is_not_streamed_by_postgresql_18() {
    a_message_that_is_rolled_back_never_comes(&PostgresServer::private_of(18, &[])).await;
}

/// The description of its table, which tells that it has such a column, is kept until the transaction is committed.
#[tokio::test]
async fn a_streamed_value_without_a_binary_form_stops_nothing() {
    let database = support::postgres().database().await;
    database.execute(&format!("ALTER DATABASE {} {STREAM_SOON}", database.name())).await;
    database.execute(&format!("{TABLES}; CREATE TABLE rights (id int PRIMARY KEY, rights aclitem[])")).await;
    let mut settings = settings(&database, "binary", Some(streaming()));
    settings.binary = true;
    let mut binary = Recorder::open(&settings).await;
    let sql = "BEGIN; INSERT INTO t (filler) SELECT repeat('x', 100) FROM generate_series(1, 2000);
        INSERT INTO rights SELECT n, '{=r/pg_monitor}' FROM generate_series(1, 2000) n; COMMIT; INSERT INTO done VALUES (1)";
    database.execute(sql).await;
    let failure = binary.read(1).await.expect_err("the walsender fails at it");
    assert!(matches!(&failure, Failure::Transient(error) if format!("{error:#}").contains("42883")), "{failure}");
    assert_eq!(binary.open_again().await.until(1).await.changes.len(), 4000);
}

//! The source opens only where no change can be missing, and says what is in doubt otherwise.

use std::sync::Arc;
use std::time::Duration;

use pgsluice::checkpoint::Checkpoint;
use pgsluice::checkpoint::memory::MemoryStore;
use pgsluice::config::{Origin, Retain, SourceSettings};
use pgsluice::failure::{Failure, Kind};
use pgsluice::lsn::Lsn;
use pgsluice::postgres::client::{Connection, Purpose};
use pgsluice::postgres::conninfo::Conninfo;
use pgsluice::postgres::open::PostgresSource;
use pgsluice::postgres::watch::WatchedStream;
use pgsluice::route::select::Selection;
use pgsluice::source::{ChangeStream, Opened, Resume, Source};

use crate::preflight::refused;
use crate::support::{self, Database, PostgresServer, SOON, eventually};

/// Slots are the cluster's: named after the database, which no other test has.
fn settings(database: &Database) -> SourceSettings {
    SourceSettings {
        conninfo: Conninfo::parse(&database.url()).expect("a valid URL"),
        tables: Selection::parse(&["public.*".to_owned()]).expect("a valid pattern"),
        filters: Vec::new(),
        slot: database.name().to_owned(),
        publication: "pub of \"mine\"".to_owned(),
        report_every: Duration::from_secs(10),
        watch_every: Duration::from_secs(10),
        standby_timeout: Some(Duration::from_millis(100)),
        binary: false,
        retain: Retain::default(),
        streaming: None,
        origin: Origin::Any,
    }
}

async fn open(settings: &SourceSettings, checkpoint: Option<&Checkpoint>) -> Result<Opened<WatchedStream>, Failure> {
    let source = PostgresSource::new(settings.clone(), Vec::new());
    tokio::time::timeout(SOON, source.open(from(checkpoint))).await.expect("opens or refuses in time")
}

fn from(checkpoint: Option<&Checkpoint>) -> Resume {
    Resume { store: Arc::new(MemoryStore::new(checkpoint.cloned())), reached: None }
}

/// A database with a table, and the settings of a source of its own.
async fn fresh(server: &PostgresServer) -> (Database, SourceSettings) {
    let database = server.database().await;
    database.execute("CREATE TABLE orders (id int PRIMARY KEY)").await;
    let settings = settings(&database);
    (database, settings)
}

/// Opened once and closed: a slot that waits at the checkpoint.
async fn used(server: &PostgresServer) -> (Database, SourceSettings, Checkpoint) {
    let (database, settings) = fresh(server).await;
    let start = open(&settings, None).await.expect("opens").start;
    free(&database, &settings).await;
    (database, settings, start)
}

async fn free(database: &Database, settings: &SourceSettings) {
    let sql = format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{}'", settings.slot);
    eventually("the slot is free", SOON, async || (database.query_one(&sql).await == "f").then_some(())).await;
}

async fn now(database: &Database) -> Lsn {
    database.query_one("SELECT pg_current_wal_flush_lsn()").await.parse().expect("an LSN")
}

/// Whether `text` comes in the stream.
async fn receives(stream: &mut WatchedStream, text: &str) {
    let find = async {
        loop {
            let mut batch = stream.next().await.expect("the stream goes on");
            while let Some(payload) = batch.next_payload() {
                if payload.windows(text.len()).any(|window| window == text.as_bytes()) {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(SOON, find).await.unwrap_or_else(|_| panic!("{text} comes"));
}

#[tokio::test]
async fn the_first_start_creates_publication_and_slot_and_streams() {
    let (database, settings) = fresh(support::postgres()).await;
    let mut opened = open(&settings, None).await.expect("opens");
    assert_eq!((opened.start.slot.as_str(), opened.start.position), (database.name(), None));
    let confirmed =
        format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{}'", settings.slot);
    assert_eq!(database.query_one(&confirmed).await, opened.start.flushed.to_string());
    database.execute("INSERT INTO orders VALUES (471142)").await;
    receives(&mut opened.stream, "471142").await;
}

#[tokio::test]
async fn a_restart_goes_on_from_the_checkpoint_or_without_one_from_the_slot() {
    let (database, settings, start) = used(support::postgres()).await;
    database.execute("INSERT INTO orders VALUES (471142)").await;
    for checkpoint in [Some(&start), None] {
        let mut opened = open(&settings, checkpoint).await.expect("opens");
        assert_eq!(opened.start, start);
        receives(&mut opened.stream, "471142").await;
        drop(opened);
        free(&database, &settings).await;
    }
    let later = Checkpoint { flushed: now(&database).await, ..start };
    let opened = open(&settings, Some(&later)).await.expect("opens");
    assert_eq!(opened.start, later);
}

#[tokio::test]
async fn the_same_source_opens_again_without_touching_the_publication() {
    let (database, settings) = fresh(support::postgres()).await;
    let source = PostgresSource::new(settings.clone(), Vec::new());
    let start = source.open(from(None)).await.expect("opens").start;
    free(&database, &settings).await;
    database.execute("CREATE TABLE later (id int PRIMARY KEY)").await;
    let again = Resume { reached: Some(start.clone()), ..from(Some(&start)) };
    drop(source.open(again).await.expect("opens again"));
    let count = "SELECT count(*) FROM pg_publication_tables WHERE tablename = 'later'";
    assert_eq!(database.query_one(count).await, "0");
    free(&database, &settings).await;
    drop(open(&settings, Some(&start)).await.expect("another process opens"));
    assert_eq!(database.query_one(count).await, "1");
}

#[tokio::test]
async fn a_slot_in_use_is_waited_for_and_then_named() {
    let (_database, settings) = fresh(support::postgres()).await;
    let first = open(&settings, None).await.expect("opens");
    let parts = ["is in use by PID", "user postgres", "pg_terminate_backend(", "standby_timeout_ms"];
    refused(open(&settings, Some(&first.start)).await, Kind::Source, &parts);
    let patient = SourceSettings { standby_timeout: Some(SOON), ..settings };
    let start = first.start.clone();
    let second = tokio::spawn(async move { open(&patient, Some(&start)).await.map(|opened| opened.start) });
    assert!(!second.is_finished());
    let start = first.start.clone();
    drop(first);
    assert_eq!(second.await.expect("ends").expect("takes over"), start);
}

#[tokio::test]
async fn a_slot_of_another_plugin_database_or_kind_is_refused_and_nothing_is_created() {
    let server = support::postgres();
    let (database, settings) = fresh(server).await;
    let slot = &settings.slot;
    let elsewhere = server.database().await;
    let drop_it = format!("SELECT pg_drop_replication_slot('{slot}')");
    for (owner, create, what) in [
        (&database, format!("SELECT pg_create_logical_replication_slot('{slot}', 'test_decoding')"), "test_decoding"),
        (&elsewhere, format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"), elsewhere.name()),
        (&database, format!("SELECT pg_create_physical_replication_slot('{slot}')"), "physical"),
    ] {
        owner.execute(&create).await;
        refused(open(&settings, None).await, Kind::Source, &[slot, what, "source.slot"]);
        owner.execute(&drop_it).await;
    }
    assert_eq!(database.query_one("SELECT count(*) FROM pg_publication").await, "0");
}

#[tokio::test]
async fn a_slot_that_is_gone_is_in_doubt() {
    let (database, settings, start) = used(support::postgres()).await;
    database.execute(&format!("SELECT pg_drop_replication_slot('{}')", settings.slot)).await;
    let parts = ["does not exist", &start.flushed.to_string(), "pgsluice checkpoint reset"];
    refused(open(&settings, Some(&start)).await, Kind::InDoubt, &parts);
    let count = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}'", settings.slot);
    assert_eq!(database.query_one(&count).await, "0", "it is not created again");
}

/// Dropped and created again, or advanced, by hand: PostgreSQL would forward the start silently.
#[tokio::test]
async fn a_slot_ahead_of_the_checkpoint_is_in_doubt() {
    let (database, settings, start) = used(support::postgres()).await;
    let slot = &settings.slot;
    for sql in [
        format!("SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())"),
        format!("SELECT pg_drop_replication_slot('{slot}'), pg_create_logical_replication_slot('{slot}', 'pgoutput')"),
    ] {
        database.execute("INSERT INTO orders SELECT count(*) FROM orders").await;
        // The drop and the creation must be two transactions.
        for statement in sql.replace("), pg_create", ");SELECT pg_create").split(';') {
            database.execute(statement).await;
        }
        let parts = ["ahead of the checkpoint", &format!("between {} and", start.flushed)];
        refused(open(&settings, Some(&start)).await, Kind::InDoubt, &parts);
    }
}

#[tokio::test]
async fn a_checkpoint_of_another_system_slot_or_future_is_in_doubt() {
    let (database, settings, start) = used(support::postgres()).await;
    let future = Lsn(now(&database).await.0 + 0x1_0000_0000);
    for (wrong, part) in [
        (Checkpoint { system_identifier: 1, ..start.clone() }, "of the system 1"),
        (Checkpoint { slot: "other".to_owned(), ..start.clone() }, "\"other\""),
        (Checkpoint { flushed: future, ..start.clone() }, "ahead of the server"),
        (Checkpoint { timeline: 9, ..start.clone() }, "timeline 9"),
    ] {
        refused(open(&settings, Some(&wrong)).await, Kind::InDoubt, &[part]);
    }
    open(&settings, Some(&start)).await.expect("the right one opens");
}

#[tokio::test]
async fn an_invalidated_slot_is_in_doubt_and_not_recreated() {
    let server = PostgresServer::private(&[("max_slot_wal_keep_size", "1MB"), ("max_wal_size", "32MB")]);
    let (database, settings, start) = used(&server).await;
    let status = "SELECT wal_status FROM pg_replication_slots";
    eventually("the slot is invalidated", SOON, async || {
        database.execute("INSERT INTO orders SELECT count(*) FROM orders; SELECT pg_switch_wal()").await;
        database.execute("CHECKPOINT").await;
        (database.query_one(status).await == "lost").then_some(())
    })
    .await;
    for checkpoint in [Some(&start), None] {
        let parts = ["was invalidated", &format!("pg_drop_replication_slot('{}')", settings.slot)];
        refused(open(&settings, checkpoint).await, Kind::InDoubt, &parts);
    }
    assert_eq!(database.query_one(status).await, "lost");
}

#[tokio::test]
async fn a_publication_that_was_dropped_under_its_slot_is_in_doubt() {
    let (database, settings, start) = used(support::postgres()).await;
    database.execute("DROP PUBLICATION \"pub of \"\"mine\"\"\"").await;
    for checkpoint in [Some(&start), None] {
        let parts = ["publication \"pub of", "does not exist", &start.flushed.to_string(), "pg_drop_replication_slot"];
        refused(open(&settings, checkpoint).await, Kind::InDoubt, &parts);
    }
    assert_eq!(database.query_one("SELECT count(*) FROM pg_publication").await, "0", "creating it would hide the gap");
}

#[tokio::test]
async fn without_a_free_slot_those_who_use_them_are_named() {
    let server = PostgresServer::private(&[("max_replication_slots", "1")]);
    let (database, settings) = fresh(&server).await;
    database.execute("SELECT pg_create_physical_replication_slot('standby_7')").await;
    let parts = ["max_replication_slots is 1", "standby_7 (inactive)"];
    refused(open(&settings, None).await, Kind::Source, &parts);
}

#[tokio::test]
async fn without_a_free_walsender_those_who_use_them_are_named() {
    let server = PostgresServer::private(&[("max_wal_senders", "1")]);
    let (_database, settings) = fresh(&server).await;
    let other = Connection::connect(&settings.conninfo, Purpose::Replication).await.expect("takes the only walsender");
    let parts = ["max_wal_senders is 1", &format!("PID {}", other.process_id())];
    refused(open(&settings, None).await, Kind::Source, &parts);
    let patient = SourceSettings { standby_timeout: Some(SOON), ..settings };
    drop(other);
    open(&patient, None).await.expect("opens once it is free");
}

#[tokio::test]
async fn the_creation_of_the_slot_waits_for_open_transactions() {
    let server = PostgresServer::private(&[]);
    let (database, settings) = fresh(&server).await;
    let client = database.client().await;
    client.batch_execute("BEGIN; INSERT INTO orders VALUES (1)").await.expect("writes");
    let opening = tokio::spawn(async move { open(&settings, None).await });
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted";
    eventually("the creation waits", SOON, async || (database.query_one(waits).await == "1").then_some(())).await;
    assert!(!opening.is_finished());
    client.batch_execute("COMMIT").await.expect("commits");
    opening.await.expect("ends").expect("opens");
}

/// What the documentation asks for: REPLICATION, CREATE on the database, and the tables.
#[tokio::test]
async fn a_role_needs_no_more_than_replication_and_its_own_tables() {
    let (database, settings) = fresh(support::postgres()).await;
    let (name, role) = (database.name(), format!("{}_app", database.name()));
    let grants = format!(
        "CREATE ROLE {role} LOGIN REPLICATION; GRANT CREATE ON DATABASE {name} TO {role}; ALTER TABLE orders OWNER TO {role}"
    );
    database.execute(&grants).await;
    let conninfo = Conninfo::parse(&database.url_as(&role)).expect("a valid URL");
    let settings = SourceSettings { conninfo, ..settings };
    let first = open(&settings, None).await.expect("opens");
    refused(open(&settings, None).await, Kind::Source, &[&format!("user {role}")]);
    drop(first);
}

#[tokio::test]
async fn reports_come_well_within_the_servers_patience() {
    let (database, settings) = fresh(support::postgres()).await;
    for (timeout, expected) in [("6s", 2), ("0", 10), ("10min", 10)] {
        database.execute(&format!("ALTER DATABASE {} SET wal_sender_timeout = '{timeout}'", database.name())).await;
        let opened = open(&settings, None).await.expect("opens");
        assert_eq!(opened.report_every, Duration::from_secs(expected), "{timeout}");
        drop(opened);
        free(&database, &settings).await;
    }
}

/// A server that ends its recovery on a new timeline, as a promoted standby does.
#[tokio::test]
async fn a_promoted_server_goes_on_or_says_what_it_lacks() {
    let server = PostgresServer::private(&[("restore_command", "false")]);
    let (database, settings, start) = used(&server).await;
    let before = now(&database).await;
    server.stop();
    std::fs::write(server.dir().join("data/recovery.signal"), "").expect("asks for recovery");
    server.start();
    database.execute("INSERT INTO orders SELECT generate_series(1, 1000)").await;
    let after = now(&database).await;
    let past = Checkpoint { flushed: after, ..start.clone() };
    refused(open(&settings, Some(&past)).await, Kind::InDoubt, &["past the failover", "timeline 1", "timeline 2"]);
    assert!(before >= start.flushed);
    let opened = open(&settings, Some(&start)).await.expect("its history holds the checkpoint");
    assert_eq!(opened.start, Checkpoint { timeline: start.timeline + 1, ..start });
}

use bytes::Bytes;
use pgsluice::failure::Failure;
use pgsluice::lsn::Lsn;
use pgsluice::postgres::client::{Connection, Purpose};
use pgsluice::postgres::replication::{Frame, ReplicationStream};
use pgsluice::source::{Batch, ChangeStream};

use super::conninfo;
use super::fixture::Fixture;
use crate::support::{self, Database, PostgresServer, SOON, eventually};

/// A table, a publication, a slot, and the stream from it.
pub(super) async fn stream(database: &Database, url: &str) -> ReplicationStream {
    let slot = database.name();
    database.execute("CREATE TABLE t (id int PRIMARY KEY, body text); CREATE PUBLICATION p FOR TABLE t").await;
    let mut connection = Connection::connect(&conninfo(url), Purpose::Replication).await.expect("connected");
    let create = format!("CREATE_REPLICATION_SLOT {slot} LOGICAL pgoutput");
    connection.query(&create).await.expect("a slot");
    restart(connection, slot).await
}

pub(super) async fn restart(connection: Connection, slot: &str) -> ReplicationStream {
    let start = format!("START_REPLICATION SLOT {slot} LOGICAL 0/0 (proto_version '1', publication_names '\"p\"')");
    connection.start_replication(&start).await.expect("a stream")
}

/// Reads a stream one transaction at a time; what a batch holds beyond that waits for the next.
pub(super) struct Reader {
    pub(super) stream: ReplicationStream,
    batch: Batch,
}

impl Reader {
    pub(super) fn new(stream: ReplicationStream) -> Self {
        Self { stream, batch: Batch::default() }
    }

    pub(super) async fn frame(&mut self) -> Frame<'_> {
        while self.batch.is_empty() {
            // A buffer that is held would hold up the reading.
            self.batch = Batch::default();
            let next = tokio::time::timeout(SOON, self.stream.next()).await.expect("soon");
            self.batch = next.expect("a batch");
        }
        Frame::parse(self.batch.next_payload().expect("it is not empty")).expect("a frame")
    }

    /// The next pgoutput messages, up to and with the next Commit; and its end LSN.
    pub(super) async fn transaction(&mut self) -> (Vec<Bytes>, Lsn) {
        let mut messages = Vec::new();
        loop {
            if let Frame::XLogData { wal_end, data, sent_at, .. } = self.frame().await {
                assert!(sent_at > 0);
                messages.push(Bytes::copy_from_slice(data));
                if messages.last().is_some_and(|data| data[0] == b'C') {
                    return (messages, wal_end);
                }
            }
        }
    }

    async fn tags(&mut self) -> Vec<u8> {
        self.transaction().await.0.iter().map(|message| message[0]).collect()
    }
}

async fn streams(server: &PostgresServer, url: impl Fn(&Database) -> String) {
    let database = server.database().await;
    let mut reader = Reader::new(stream(&database, &url(&database)).await);
    // Larger than the buffer, so that it grows and falls back; then a small one.
    database.execute("INSERT INTO t SELECT 1, string_agg(md5(i::text), '') FROM generate_series(1, 100000) i").await;
    database.execute("INSERT INTO t VALUES (2, 'small')").await;
    let (messages, _) = reader.transaction().await;
    let lengths: Vec<_> = messages.iter().map(|message| (message[0], message.len() > 3_200_000)).collect();
    assert_eq!(lengths, [(b'B', false), (b'R', false), (b'I', true), (b'C', false)]);
    assert_eq!(reader.tags().await, b"BIC");
    // Many rows in one transaction: many frames in a batch.
    database.execute("INSERT INTO t SELECT i, 'row' FROM generate_series(3, 20002) i").await;
    assert_eq!(reader.tags().await.len(), 20_002);
}

#[tokio::test]
async fn changes_over_tcp() {
    streams(support::postgres(), Database::url).await;
}

#[tokio::test]
async fn changes_over_a_unix_socket() {
    let server = support::postgres();
    streams(server, |database| format!("{}?host={}", database.url(), server.dir().display())).await;
}

#[tokio::test]
async fn changes_over_tls() {
    let fixture = Fixture::get().await;
    streams(&fixture.server, |database| format!("{}?sslmode=require", database.url())).await;
}

pub(super) async fn end(mut stream: ReplicationStream) -> Failure {
    let end = async {
        loop {
            if let Err(failure) = stream.next().await {
                return failure;
            }
        }
    };
    tokio::time::timeout(SOON, end).await.expect("the end")
}

#[tokio::test]
async fn a_walsender_that_is_ended_or_killed_is_transient() {
    let server = PostgresServer::private(&[]);
    let database = server.database().await;
    let ended = stream(&database, &database.url()).await;
    database.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots").await;
    let failure = end(ended).await;
    assert!(matches!(&failure, Failure::Transient(error) if error.to_string().contains("57P01")), "{failure}");
    // It says that it ends before it lets go of the slot.
    let free = "SELECT count(*) FROM pg_replication_slots WHERE NOT active";
    eventually(free, SOON, async || (database.query_one(free).await == "1").then_some(())).await;

    let connection = Connection::connect(&conninfo(&database.url()), Purpose::Replication).await.expect("connected");
    let killed = restart(connection, database.name()).await;
    server.kill();
    let failure = end(killed).await;
    assert!(matches!(failure, Failure::Transient(_)), "{failure}");
}

#[tokio::test]
async fn a_stream_that_can_not_start() {
    let database = support::postgres().database().await;
    let connect =
        async || Connection::connect(&conninfo(&database.url()), Purpose::Replication).await.expect("connected");
    let options = "(proto_version '1', publication_names '\"p\"')";
    let missing =
        connect().await.start_replication(&format!("START_REPLICATION SLOT nothing LOGICAL 0/0 {options}")).await;
    let error = missing.expect_err("no such slot");
    assert_eq!(error.code(), Some("42704"), "{error}");

    let stream = stream(&database, &database.url()).await;
    let again = format!("START_REPLICATION SLOT {} LOGICAL 0/0 {options}", database.name());
    let error = connect().await.start_replication(&again).await.expect_err("in use");
    assert_eq!(error.code(), Some("55006"), "{error}");
    drop(stream);
}

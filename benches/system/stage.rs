//! Where contestants meet: the two servers, and for each workload a database, its WAL, and a slot that lies before it.

use std::path::{Path, PathBuf};
use std::process::Command;

use tokio_postgres::Client;

use crate::slot::KEPT;
use crate::support::{self, Database, PostgresServer, RabbitServer, Vhost, folder};
use crate::wire::{amqp, postgres};
use crate::work::{self, Workload};

/// The publication, the exchange and the queue of every contestant.
pub(crate) const PUBLICATION: &str = "bench";
pub(crate) const EXCHANGE: &str = "bench";
pub(crate) const QUEUE: &str = "bench";

/// `PostgreSQL` that does not wait for its disk, and has room: what is measured is what reads from it.
const POSTGRES: [(&str, &str); 9] = [
    ("shared_buffers", "512MB"),
    ("max_wal_size", "64GB"),
    ("wal_buffers", "64MB"),
    ("checkpoint_timeout", "1h"),
    ("autovacuum", "off"),
    ("jit", "off"),
    ("synchronous_commit", "off"),
    ("max_locks_per_transaction", "256"),
    ("log_min_messages", "warning"),
];
/// `RabbitMQ` without an alarm, and with its own default for how often it gathers statistics. Its log of quorum queues is turned
/// over several times in each run: of 512 MB, as it is by default, one run in three would pay for all, and always the same one.
const RABBITMQ: [(&str, &str); 3] = [
    ("vm_memory_high_watermark.absolute", "6GB"),
    ("collect_statistics_interval", "5000"),
    ("raft.wal_max_size_bytes", "33554432"),
];

/// Private servers, gone with the bench.
pub(crate) struct Servers {
    pub(crate) postgres: PostgresServer,
    pub(crate) rabbitmq: RabbitServer,
}

impl Servers {
    pub(crate) fn start() -> Self {
        Self { postgres: PostgresServer::private(&POSTGRES), rabbitmq: RabbitServer::private(&RABBITMQ) }
    }

    /// The broker's process; another one after a restart.
    pub(crate) fn broker_pid(&self) -> i32 {
        let file = format!("data/pgsluice-{}@localhost.pid", self.rabbitmq.port());
        let text = std::fs::read_to_string(self.rabbitmq.dir().join(file)).expect("RabbitMQ writes its pid");
        text.trim().parse().expect("a pid")
    }

    pub(crate) fn tcp(&self) -> postgres::Address {
        postgres::Address::Tcp(self.postgres.port())
    }

    pub(crate) fn unix(&self) -> postgres::Address {
        postgres::Address::Unix(self.postgres.dir().join(format!(".s.PGSQL.{}", self.postgres.port())))
    }

    pub(crate) fn amqp(&self, vhost: &Vhost) -> amqp::Address {
        amqp::Address { port: self.rabbitmq.port(), vhost: vhost.name().to_owned() }
    }

    /// A virtual host with the exchange, and one queue that gets everything.
    pub(crate) async fn vhost(&self, queue: QueueKind) -> Vhost {
        let vhost = self.rabbitmq.vhost();
        vhost.declare_exchange(EXCHANGE, "topic").await;
        vhost.queue(QUEUE, &[("x-queue-type", queue.argument())]).await;
        vhost.bind(QUEUE, EXCHANGE, "#").await;
        vhost
    }

    /// And all of its messages are gone.
    pub(crate) fn remove(&self, vhost: &Vhost) {
        self.rabbitmq.api("DELETE", &format!("/vhosts/{}", vhost.name()), None);
    }
}

/// Of the queue that events go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueKind {
    Classic,
    Quorum,
}

impl QueueKind {
    fn argument(self) -> lapin::types::AMQPValue {
        lapin::types::AMQPValue::LongString(self.name().into())
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
        }
    }
}

/// One workload's database.
pub(crate) struct Stage<'a> {
    pub(crate) servers: &'a Servers,
    pub(crate) workload: Workload,
    /// How many events there are.
    pub(crate) rows: u64,
    pub(crate) database: Database,
    /// For questions while a contestant runs.
    pub(crate) client: Client,
    /// Where the last transaction ends.
    pub(crate) end_lsn: String,
    folder: PathBuf,
}

impl<'a> Stage<'a> {
    /// Creates tables, publication and slot, writes the load, and lets the server come to rest.
    pub(crate) async fn build(servers: &'a Servers, workload: Workload, rows: u64) -> Self {
        let database = servers.postgres.database().await;
        work::create(&database, workload, rows).await;
        let client = database.client().await;
        let kept = format!("SELECT pg_create_logical_replication_slot('{KEPT}', 'pgoutput')");
        client.batch_execute(&kept).await.expect("create the kept slot");
        work::generate(&database, workload, rows).await;
        database.execute("CHECKPOINT").await;
        let end_lsn = database.query_one("SELECT pg_current_wal_insert_lsn()").await;
        Self { servers, workload, rows, database, client, end_lsn, folder: folder("stage") }
    }

    /// Messages as pgsluice makes them, once they were captured.
    pub(crate) fn frames(&self) -> PathBuf {
        self.folder.join("frames")
    }

    /// Drops everything, so that the next workload has the server for itself.
    pub(crate) async fn clear(self) {
        let Self { servers, database, client, folder, .. } = self;
        drop(client);
        let maintenance = database.named("postgres");
        maintenance.execute(&format!("SELECT pg_drop_replication_slot('{KEPT}')")).await;
        maintenance.execute(&format!("DROP DATABASE {} WITH (FORCE)", database.name())).await;
        maintenance.execute("CHECKPOINT").await;
        let _ = std::fs::remove_dir_all(folder);
        let _ = servers;
    }
}

/// A program of the server's.
pub(crate) fn server_program(name: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lib/pgbin");
    let output = Command::new(script).output().expect("run pgbin");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()).join(name)
}

/// How long anything may take that is no measurement.
pub(crate) const SOON: std::time::Duration = support::SOON;

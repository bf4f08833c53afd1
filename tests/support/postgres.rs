//! PostgreSQL: the shared server, private ones of any version, standbys, and a database per test.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;
use tokio_postgres::NoTls;

use super::server::Server;

/// The server that all tests share, of the version that the variable `PG_MAJOR` asks for (which its script reads), or the
/// system's. Started by the first that asks.
pub(crate) fn postgres() -> &'static PostgresServer {
    static SHARED: OnceLock<PostgresServer> = OnceLock::new();
    SHARED.get_or_init(|| PostgresServer::private(&[]))
}

/// A PostgreSQL server with `wal_level=logical`, on loopback and on a socket in its folder.
#[derive(Debug)]
pub(crate) struct PostgresServer {
    server: Server,
    /// The major version; none: that of `PG_MAJOR`, or the system's newest.
    major: Option<u32>,
    databases: AtomicUsize,
}

impl PostgresServer {
    /// A server of one's own, with settings for `postgresql.conf`. Killed when dropped.
    pub(crate) fn private(settings: &[(&str, &str)]) -> Self {
        let this = Self::new(None, settings);
        this.start();
        this
    }

    /// [`Self::private`], of a major version that `scripts/lib/postgres-versions` has fetched.
    pub(crate) fn private_of(major: u32, settings: &[(&str, &str)]) -> Self {
        let this = Self::new(Some(major), settings);
        this.start();
        this
    }

    /// [`Self::private`], with a library of `cc`'s making loaded into its programs, and a variable for it.
    pub(crate) fn private_with(library: &Path, variable: (&'static str, &Path)) -> Self {
        let mut this = Self::new(None, &[]);
        for (name, path) in [("LD_PRELOAD", library), variable] {
            this.server = this.server.with_environment([(name, path.display().to_string())]);
        }
        this.start();
        this
    }

    fn new(major: Option<u32>, settings: &[(&str, &str)]) -> Self {
        // The data needs to survive the server, not the machine.
        let mut all = vec![
            ("fsync", "off"),
            ("full_page_writes", "off"),
            ("max_replication_slots", "1000"),
            ("max_wal_senders", "100"),
            ("max_connections", "300"),
        ];
        all.extend(settings);
        let mut server = Server::new("postgres", &all);
        if let Some(major) = major {
            server = server.with_environment([("PG_MAJOR", major.to_string())]);
        }
        Self { server, major, databases: AtomicUsize::new(0) }
    }

    /// A hot standby, which streams from this server through the physical slot `standby`. Restarts this server to copy
    /// it, so it comes before everything else.
    pub(crate) async fn standby(&self, settings: &[(&str, &str)]) -> Self {
        let conninfo = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port());
        let mut all = vec![
            ("primary_conninfo", conninfo.as_str()),
            ("primary_slot_name", "standby"),
            ("hot_standby_feedback", "on"),
            // Tries again soon after the primary went away, and says soon how far it is.
            ("wal_retrieve_retry_interval", "100ms"),
            ("wal_receiver_status_interval", "1s"),
        ];
        all.extend(settings);
        let standby = Self::new(self.major, &all);
        self.stop();
        let copied = Command::new("cp").arg("-a").arg(self.dir().join("data")).arg(standby.dir()).status();
        assert!(copied.expect("run cp").success());
        std::fs::write(standby.dir().join("data/standby.signal"), "").expect("make it a standby");
        self.start();
        let maintenance = Database { port: self.port(), name: "postgres".into() };
        maintenance.execute("SELECT pg_create_physical_replication_slot('standby', true)").await;
        standby.start();
        standby
    }

    /// Makes a standby the primary of a new timeline.
    pub(crate) async fn promote(&self) {
        let maintenance = Database { port: self.port(), name: "postgres".into() };
        assert_eq!(maintenance.query_one("SELECT pg_promote()").await, "t");
    }

    /// Starts it again, with the same data, port and settings. Blocks until it takes connections, or those that only
    /// read if it is a standby.
    pub(crate) fn start(&self) {
        let standby = self.dir().join("data/standby.signal").exists();
        let ready = if standby { "ready to accept read-only connections" } else { "ready to accept connections" };
        self.server.start(|| self.server.log().contains(ready));
    }

    /// Smart would wait for the replication connections, which never end: this is the fast shutdown.
    pub(crate) fn stop(&self) {
        self.server.stop(Signal::INT);
    }

    /// SIGKILL for all of its processes, as a crash of the machine's PostgreSQL.
    pub(crate) fn kill(&self) {
        self.server.signal(Signal::KILL);
        self.server.stop(Signal::KILL);
    }

    /// Stops all of the server's processes where they are: connections stay open and silent.
    pub(crate) fn pause(&self) {
        self.server.signal(Signal::STOP);
    }

    /// Ends [`Self::pause`].
    pub(crate) fn resume(&self) {
        self.server.signal(Signal::CONT);
    }

    pub(crate) fn port(&self) -> u16 {
        self.server.port()
    }

    /// Holds the Unix socket, and `data/` with the server's files.
    pub(crate) fn dir(&self) -> &Path {
        self.server.dir()
    }

    /// What the server has logged since its last start.
    pub(crate) fn log(&self) -> String {
        self.server.log()
    }

    /// A fresh, empty database.
    pub(crate) async fn database(&self) -> Database {
        self.database_with("").await
    }

    /// The same, in another encoding than UTF-8.
    pub(crate) async fn database_in(&self, encoding: &str) -> Database {
        self.database_with(&format!("TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'")).await
    }

    async fn database_with(&self, options: &str) -> Database {
        let name = format!("db_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let maintenance = Database { port: self.port(), name: "postgres".into() };
        maintenance.execute(&format!("CREATE DATABASE {name} {options}")).await;
        Database { name, ..maintenance }
    }
}

/// A database of one test. The server is temporary, so nobody drops it.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    port: u16,
    name: String,
}

impl Database {
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// `postgres://postgres@127.0.0.1:PORT/NAME`
    pub(crate) fn url(&self) -> String {
        self.url_as("postgres")
    }

    /// The database of the same name on another server, as a copy of this one has it.
    pub(crate) fn on(&self, server: &PostgresServer) -> Self {
        Self { port: server.port(), name: self.name.clone() }
    }

    /// Another database of the same server.
    pub(crate) fn named(&self, name: &str) -> Self {
        Self { port: self.port, name: name.to_owned() }
    }

    /// [`Self::url`] with another user, or with `user:password`.
    pub(crate) fn url_as(&self, user: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{}", self.port, self.name)
    }

    /// [`Self::url`] by way of another port.
    pub(crate) fn url_through(&self, proxy: &super::Proxy) -> String {
        Self { port: proxy.port(), ..self.clone() }.url()
    }

    /// A new connection, driven by a task of the current runtime.
    pub(crate) async fn client(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.url(), NoTls).await.expect("connect to PostgreSQL");
        tokio::spawn(connection);
        client
    }

    /// The server's major version, for what differs.
    pub(crate) async fn major(&self) -> u32 {
        self.query_one("SELECT current_setting('server_version_num')::int / 10000").await.parse().expect("a number")
    }

    /// Runs statements on a connection of their own.
    pub(crate) async fn execute(&self, sql: &str) {
        let done = self.client().await.batch_execute(sql).await;
        done.unwrap_or_else(|error| panic!("{error}: {:?}\n{sql}", error.as_db_error()));
    }

    /// The first column of the first row, as text. Panics when there is none, or when it is null.
    pub(crate) async fn query_one(&self, sql: &str) -> String {
        let messages = self.client().await.simple_query(sql).await;
        let messages = messages.unwrap_or_else(|error| panic!("{error}: {:?}\n{sql}", error.as_db_error()));
        let row = messages.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0)),
            _ => None,
        });
        row.flatten().unwrap_or_else(|| panic!("no value: {sql}")).to_owned()
    }
}

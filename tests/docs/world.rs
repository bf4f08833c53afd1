//! The world that the documents speak of, made of the harness's servers: a shop with its database, its broker, its configuration
//! and its history.
//!
//! What the documents name and a reader would put their own in the place of is replaced here, in [`World::here`], and
//! nowhere else. A configuration `shop.toml` is the README's, as it stands there, with what the other pages assume of it
//! ([`ASSUMED`]).

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use regex::Regex;

use super::pages::Page;
use crate::support::{Database, PostgresServer, Process, SOON, Vhost, eventually, folder, pgsluice_under, rabbitmq};

/// What pages other than the README assume of `shop.toml`.
const ASSUMED: &str = "
[http]
listen = \"127.0.0.1:9187\"
[checkpoint]
path = \"checkpoint\"
[replay]
retain_bytes = 1073741824
[rabbitmq.unroutable]
policy = \"park\"
";

/// Owned by the role `app`, which may replicate, and is no superuser. The ids of the outbox are numbers, as replay.md has them.
pub(crate) const TABLES: &str = "
    CREATE TABLE orders (id bigint PRIMARY KEY, customer text NOT NULL, total numeric(12,2), status text NOT NULL);
    CREATE TABLE audit_log (id bigint PRIMARY KEY);
    CREATE TABLE returns (id bigint PRIMARY KEY);
    CREATE TABLE outbox (
        id bigint PRIMARY KEY, aggregatetype text NOT NULL, aggregateid text NOT NULL, type text NOT NULL, payload jsonb,
        created_at timestamptz NOT NULL DEFAULT now());";

/// A server of PostgreSQL's with the roles of the documents.
pub(crate) async fn server() -> PostgresServer {
    let server = PostgresServer::private(&[]);
    let roles = "CREATE ROLE app LOGIN REPLICATION; CREATE ROLE admin LOGIN SUPERUSER";
    server.database().await.execute(roles).await;
    server
}

/// The shop, before a block of commands.
#[derive(Debug)]
pub(crate) struct World<'s> {
    _server: &'s PostgresServer,
    database: Database,
    vhost: Vhost,
    folder: PathBuf,
    http: String,
    running: Option<Process>,
    /// An LSN that was delivered, and a time before which something was.
    lsn: String,
    time: String,
}

impl<'s> World<'s> {
    /// pgsluice runs, some events were delivered, one is parked, and a position has a name.
    pub(crate) async fn new(server: &'s PostgresServer) -> Self {
        let database = server.database().await;
        no_slots(&database).await;
        let owner = format!("ALTER DATABASE {} OWNER TO app; SET ROLE app; {TABLES}", database.name());
        database.execute(&owner).await;
        let http = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            listener.local_addr().expect("an address").to_string()
        };
        let (lsn, time) = (String::new(), String::new());
        let vhost = rabbitmq().vhost();
        let folder = folder("shop");
        let mut this = Self { _server: server, database, vhost, folder, http, running: None, lsn, time };
        this.furnish();
        this.live().await;
        this
    }

    /// Text of the documents as it is here. The only place where they are not taken by the letter.
    pub(crate) fn here(&self, text: &str) -> String {
        let broker = self.vhost.url_as("guest");
        let replaced = [
            ("postgres://app@db1/shop", self.database.url_as("app")),
            ("postgres://admin@db1/shop", self.database.url_as("admin")),
            ("amqps://app@mq1/shop", broker.clone()),
            ("amqp://app@mq1/shop", broker),
            ("-p shop ", format!("-p {} ", self.vhost.name())),
            ("127.0.0.1:9187", self.http.clone()),
            ("PASSWORD=…", "PASSWORD=guest".to_owned()),
            ("16/B374D848", self.lsn.clone()),
            ("2026-11-21T10:00:00Z", self.time.clone()),
            ("2026-11-21T10:05:00Z", "2999-01-01T00:00:00Z".to_owned()),
        ];
        replaced.iter().fold(text.to_owned(), |text, (there, here)| text.replace(there, here))
    }

    /// The programs that the commands call, and the configuration.
    fn furnish(&self) {
        let root = env!("CARGO_MANIFEST_DIR");
        let (binary, node) = (env!("CARGO_BIN_EXE_pgsluice"), rabbitmq().dir().display());
        let programs = [
            // The pid is that of pgsluice, for a signal; and it ends with the shell that called it.
            ("pgsluice", format!("echo $$ >>\"$PIDS\"\nexec setpriv --pdeathsig KILL -- '{binary}' \"$@\"")),
            ("psql", format!("exec \"$('{root}/scripts/lib/pgbin')/psql\" \"$@\"")),
            // It keeps what it prints until there is much, but on a terminal.
            ("jq", "PATH=${PATH#*:}\nexec jq --unbuffered \"$@\"".to_owned()),
            ("rabbitmqctl", format!("exec '{root}/scripts/lib/rabbitmqctl' '{node}' --quiet \"$@\"")),
        ];
        let bin = self.folder.join("bin");
        for folder in [&bin, &self.folder.join("home")] {
            std::fs::create_dir(folder).expect("create a folder");
        }
        for (name, script) in programs {
            let file = bin.join(name);
            std::fs::write(&file, format!("#!/bin/bash\n{script}\n")).expect("write a program");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("make it one");
        }
        let readme = Page::read(Path::new("README.md"));
        let config = readme.blocks_of("toml").into_iter().find(|block| block.text.starts_with("# shop.toml"));
        let config = config.expect("the README has a configuration").text + ASSUMED;
        std::fs::write(self.folder.join("shop.toml"), self.here(&config)).expect("write the configuration");
    }

    /// Its history so far.
    async fn live(&mut self) {
        self.start().await;
        let run = async |sql: &str| self.database.execute(&format!("SET ROLE app; {sql}")).await;
        for exchange in ["shop.changes", "shop.events", "repair"] {
            self.vhost.declare_exchange(exchange, "topic").await;
        }
        self.vhost.queue("all", &[]).await;
        self.vhost.bind("all", "shop.events", "#").await;
        self.vhost.bind("all", "repair", "#").await;
        self.vhost.bind("all", "shop.changes", "public.orders.*").await;
        run("INSERT INTO orders VALUES (1, 'ann', 1, 'new')").await;
        self.vhost.consume("all", 1, SOON).await;
        let stored = self.folder.join("checkpoint/checkpoint.json");
        let has_position = async || std::fs::read_to_string(&stored).ok()?.contains("\"position\": \"").then_some(());
        eventually("a checkpoint is stored", SOON, has_position).await;
        let mut name = self.shell("pgsluice checkpoint name --config shop.toml before-release-42");
        let (code, log) = name.wait(SOON).await;
        assert_eq!(code, Some(0), "{log}");
        let now = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
        self.time = self.database.query_one(now).await;
        run("INSERT INTO orders VALUES (2, 'bob', 2, 'new')").await;
        run("INSERT INTO outbox VALUES (4711, 'order', '1', 'OrderPlaced', '{}')").await;
        run("INSERT INTO returns VALUES (1)").await;
        run("INSERT INTO outbox VALUES (4712, 'order', '2', 'OrderPlaced', '{}')").await;
        let deliveries = self.vhost.consume("all", 3, SOON).await;
        let position = deliveries[1].headers["position"].as_str().expect("a position").to_owned();
        position.split(':').next().expect("an LSN").clone_into(&mut self.lsn);
        // What was parked can be sent now.
        eventually("one is parked", SOON, async || (self.vhost.depth("shop.parked").await == 1).then_some(())).await;
        self.vhost.bind("all", "shop.changes", "#").await;
    }

    /// Something that is an event.
    pub(crate) async fn write(&self) {
        self.database.execute("SET ROLE app; UPDATE orders SET total = total + 1 WHERE id = 1").await;
    }

    /// pgsluice runs.
    pub(crate) async fn start(&mut self) {
        let process = self.shell("exec pgsluice run --config shop.toml");
        process.wait_for_log("streaming from PostgreSQL", SOON).await;
        self.running = Some(process);
    }

    /// It does not.
    pub(crate) async fn stop(&mut self) {
        if let Some(mut process) = self.running.take() {
            process.terminate();
            let (code, log) = process.wait(SOON).await;
            assert_eq!(code, Some(0), "{log}");
        }
    }

    /// A command of the documents, in a shell, in the folder of the configuration.
    pub(crate) fn shell(&self, command: &str) -> Process {
        let folder = self.folder.display();
        let script = format!("cd '{folder}'\n{}", self.here(command));
        let path = format!("{folder}/bin:{}", std::env::var("PATH").expect("a path"));
        let environment = [
            ("PATH", path.as_str()),
            ("HOME", &format!("{folder}/home")),
            ("PIDS", &format!("{folder}/pids")),
            ("PGSLUICE__RABBITMQ__PASSWORD", "guest"),
        ];
        pgsluice_under(&["bash", "-o", "pipefail", "-c", &script], &[], &environment)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What a command has printed, as the documents would show it: names as there, and numbers as they come.
    pub(crate) fn there(&self, text: &str) -> String {
        let [database, broker] = [self.database.port(), rabbitmq().port()].map(|port| format!("127.0.0.1:{port}"));
        let folder = format!("{}/", self.folder.display());
        let named = [(self.http.as_str(), "127.0.0.1:9187"), (&database, "db1"), (&broker, "mq1"), (&folder, "")];
        let text = named.iter().fold(text.to_owned(), |text, (here, there)| text.replace(here, there));
        text.replace(self.database.name(), "shop").replace(self.vhost.name(), "shop")
    }
}

/// The world before this one had a slot of the same name; its walsender may take a moment to let go of it.
async fn no_slots(database: &Database) {
    let left = async || {
        let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active";
        database.execute(drop).await;
        (database.query_one("SELECT count(*) FROM pg_replication_slots").await == "0").then_some(())
    };
    eventually("no slot is left", SOON, left).await;
}

/// Without what is another one each time: positions, times, sizes, versions, large numbers, and the width of columns. What is
/// counted stays.
pub(crate) fn lasting(text: &str) -> String {
    let rules = [
        (r"\b[0-9A-F]+/[0-9A-F]{1,8}\b", "LSN"),
        (r"\b[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z", "TIMESTAMP"),
        (r"\b[0-9]+(\.[0-9]+)? (bytes|[KMG]iB)\b", "SIZE"),
        (r"\b[0-9]+(\.[0-9]+)? (ms|s|min [0-9]+ s)\b", "TIME"),
        (r"\b(PostgreSQL|RabbitMQ|pgsluice) [0-9]+(\.[0-9]+)*", "$1 N"),
        (r"\b(PID|process|rate) +[0-9]+", "$1 N"),
        (r"\b[0-9]{3,}\b", "N"),
        ("[ \t]+", " "),
        (" \n", "\n"),
    ];
    rules.iter().fold(text.to_owned(), |text, (pattern, by)| {
        Regex::new(pattern).expect("a pattern").replace_all(&text, *by).into_owned()
    })
}

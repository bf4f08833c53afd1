//! All the parts of the shop: three databases, a broker, three services, and a pgsluice for each database that tells
//! something. Private servers, on loopback, with all their files in one folder.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use hyper::Method;
use serde_json::Value;
use tokio_postgres::NoTls;

use crate::part::{Invocation, Janitor, Part, repository, script, scripts};
use crate::wait::{Look, until};
use crate::{broker, http};

/// How long a part may take to be ready while its log does not grow.
const READY_WITHIN: Duration = Duration::from_mins(1);

/// Of the services: the poison is to be put aside before the load ends.
const RETRY_DELAY_MS: &str = "700";

/// A part that can be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    /// PostgreSQL, of the order service.
    OrdersDatabase,
    /// PostgreSQL, of the inventory service.
    InventoryDatabase,
    /// PostgreSQL, of the view service.
    ViewDatabase,
    /// RabbitMQ.
    Broker,
    /// The order service.
    Orders,
    /// The inventory service.
    Inventory,
    /// The view service.
    View,
    /// The pgsluice that reads the order service's database.
    OrdersStream,
    /// The pgsluice that reads the inventory service's database.
    InventoryStream,
}

impl Name {
    pub(crate) const ALL: [Self; 9] = [
        Self::OrdersDatabase,
        Self::InventoryDatabase,
        Self::ViewDatabase,
        Self::Broker,
        Self::Orders,
        Self::Inventory,
        Self::View,
        Self::OrdersStream,
        Self::InventoryStream,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::OrdersDatabase => "PostgreSQL of orders",
            Self::InventoryDatabase => "PostgreSQL of inventory",
            Self::ViewDatabase => "PostgreSQL of view",
            Self::Broker => "RabbitMQ",
            Self::Orders => "orders",
            Self::Inventory => "inventory",
            Self::View => "view",
            Self::OrdersStream => "pgsluice of orders",
            Self::InventoryStream => "pgsluice of inventory",
        }
    }

    /// Its files.
    fn file(self) -> String {
        self.title().replace(' ', "-").to_lowercase()
    }
}

/// A service's database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Database {
    Orders,
    Inventory,
    View,
}

impl Database {
    pub(crate) const ALL: [Self; 3] = [Self::Orders, Self::Inventory, Self::View];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Orders => "orders",
            Self::Inventory => "inventory",
            Self::View => "view",
        }
    }

    fn server(self) -> Name {
        match self {
            Self::Orders => Name::OrdersDatabase,
            Self::Inventory => Name::InventoryDatabase,
            Self::View => Name::ViewDatabase,
        }
    }
}

/// The parts, and where they are.
#[derive(Debug)]
pub(crate) struct Shop {
    folder: PathBuf,
    programs: PathBuf,
    first_port: u16,
    // Ended before the folder is removed.
    parts: BTreeMap<Name, Part>,
    replays: usize,
    _janitor: Janitor,
}

impl Shop {
    /// Nothing is started yet. `programs` is the folder with the built programs.
    pub(crate) fn new(programs: PathBuf, lock_timeout: Duration) -> anyhow::Result<Self> {
        let prefix = "pgsluice-shop-";
        let folder = tempfile::Builder::new().prefix(prefix).disable_cleanup(true).tempdir()?.keep();
        std::fs::set_permissions(&folder, Permissions::from_mode(0o755))?;
        for part in ["log", "checkpoint"] {
            std::fs::create_dir(folder.join(part))?;
        }
        let first_port = script("free-ports", &["10".as_ref()])?.parse().context("a port")?;
        let janitor = Janitor::of(&folder)?;
        let mut shop = Self { folder, _janitor: janitor, programs, first_port, parts: BTreeMap::new(), replays: 0 };
        for name in Name::ALL {
            let part = Part::new(name.title(), shop.log(&name.file()), shop.invocation(name, lock_timeout)?);
            shop.parts.insert(name, part);
        }
        Ok(shop)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join("log").join(name)
    }

    /// The folder with all files.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn port(&self, name: Name) -> u16 {
        let offset = match name {
            Name::OrdersDatabase => 0,
            Name::InventoryDatabase => 1,
            Name::ViewDatabase => 2,
            Name::Orders => 3,
            Name::Inventory => 4,
            Name::View => 5,
            Name::Broker | Name::OrdersStream | Name::InventoryStream => 6, // to 9
        };
        self.first_port + offset
    }

    /// Where a service listens.
    pub(crate) fn address(&self, name: Name) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port(name)).into()
    }

    /// For whoever wants to look.
    pub(crate) fn whereabouts(&self, name: Name) -> String {
        match name {
            Name::OrdersDatabase => self.database_url(Database::Orders),
            Name::InventoryDatabase => self.database_url(Database::Inventory),
            Name::ViewDatabase => self.database_url(Database::View),
            Name::Broker => self.broker_url(),
            Name::Orders | Name::Inventory | Name::View => format!("http://{}", self.address(name)),
            Name::OrdersStream => "examples/shop/orders/pgsluice.toml".into(),
            Name::InventoryStream => "examples/shop/inventory/pgsluice.toml".into(),
        }
    }

    /// The auditor's way into a database. The services have their own only.
    pub(crate) fn database_url(&self, database: Database) -> String {
        self.database_named(database, database.name())
    }

    fn database_named(&self, database: Database, name: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.port(database.server()))
    }

    pub(crate) fn broker_url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port(Name::Broker))
    }

    fn invocation(&self, name: Name, lock_timeout: Duration) -> anyhow::Result<Invocation> {
        Ok(match name {
            Name::OrdersDatabase | Name::InventoryDatabase | Name::ViewDatabase => self.server(name, "postgres"),
            Name::Broker => self.server(name, "rabbitmq"),
            Name::Orders => {
                self.service(Database::Orders, name)?.arg("--lock-timeout-ms").arg(lock_timeout.as_millis().to_string())
            }
            Name::Inventory => self.service(Database::Inventory, name)?,
            Name::View => self.service(Database::View, name)?,
            Name::OrdersStream => self.pgsluice(Database::Orders, &["run"])?,
            Name::InventoryStream => self.pgsluice(Database::Inventory, &["run"])?,
        })
    }

    fn server(&self, name: Name, script: &str) -> Invocation {
        Invocation::new(scripts().join(script))
            .arg(self.folder.join(name.file()))
            .arg(self.port(name).to_string())
            .env("DIE_WITH_PARENT", "1")
    }

    fn service(&self, database: Database, name: Name) -> anyhow::Result<Invocation> {
        Ok(Invocation::new(self.program(database.name())?)
            .env("DATABASE_URL", self.database_url(database))
            .env("BROKER_URL", self.broker_url())
            .env("LISTEN", self.address(name).to_string())
            .env("RETRY_DELAY_MS", RETRY_DELAY_MS))
    }

    /// Any command of pgsluice, with the configuration of a service.
    fn pgsluice(&self, database: Database, command: &[&str]) -> anyhow::Result<Invocation> {
        let config = repository().join("examples/shop").join(database.name()).join("pgsluice.toml");
        let mut invocation = Invocation::new(self.program("pgsluice")?);
        for argument in command {
            invocation = invocation.arg(argument);
        }
        Ok(invocation
            .arg("--config")
            .arg(config)
            .env("PGSLUICE__SOURCE__URL", self.database_url(database))
            .env("PGSLUICE__RABBITMQ__URL", self.broker_url())
            .env("PGSLUICE__CHECKPOINT__PATH", self.folder.join("checkpoint").join(database.name())))
    }

    fn program(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.programs.join(name);
        if !path.exists() {
            bail!("{} is missing: cargo build --workspace makes it", path.display());
        }
        Ok(path)
    }

    /// Servers, then services, which make their tables and queues, then what publishes to these.
    pub(crate) async fn open(&mut self) -> anyhow::Result<()> {
        for name in [Name::OrdersDatabase, Name::InventoryDatabase, Name::ViewDatabase, Name::Broker] {
            self.part(name).start()?; // all at once, they take their time
        }
        for database in Database::ALL {
            self.start(database.server()).await?;
            self.create(database).await?;
        }
        for name in [Name::Broker, Name::Orders, Name::Inventory, Name::View] {
            self.start(name).await?;
        }
        broker::until_queues_are_there(&self.broker_url()).await?;
        for name in [Name::OrdersStream, Name::InventoryStream] {
            self.start(name).await?;
        }
        Ok(())
    }

    /// A database of a service, anew.
    pub(crate) async fn create(&self, database: Database) -> anyhow::Result<()> {
        let client = connect(&self.database_named(database, "postgres")).await?;
        let name = database.name();
        client.execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"), &[]).await?;
        client.execute(&format!("CREATE DATABASE {name}"), &[]).await?;
        Ok(())
    }

    /// A connection to a service's database, for whoever compares them.
    pub(crate) async fn audit(&self, database: Database) -> anyhow::Result<tokio_postgres::Client> {
        connect(&self.database_url(database)).await
    }

    fn part(&mut self, name: Name) -> &mut Part {
        self.parts.get_mut(&name).expect("each name has its part")
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, name: Name) {
        self.part(name).kill();
    }

    /// SIGTERM, and the exit code has to be 0.
    pub(crate) async fn stop(&mut self, name: Name) -> anyhow::Result<()> {
        self.part(name).stop().await
    }

    /// Starts a part, and returns when it is ready.
    pub(crate) async fn start(&mut self, name: Name) -> anyhow::Result<()> {
        let what = format!("{} is ready", name.title());
        let log = self.log(&name.file());
        let outcome = until(&what, READY_WITHIN, async || {
            self.part(name).start()?;
            if self.is_ready(name).await {
                return Ok(Look::Done(()));
            }
            let ended = self.part(name).ended();
            if let Some(status) = ended {
                // The processes of a PostgreSQL that was killed take a moment to notice, and keep its memory until then.
                if !self.part(name).log_end().contains("pre-existing shared memory block") {
                    bail!("{} has ended: {status}", name.title());
                }
                self.part(name).forget();
            }
            Ok(Look::NotYet(std::fs::metadata(&log).map_or(0, |file| file.len())))
        });
        let outcome = outcome.await;
        outcome.with_context(|| format!("its log ends with\n{}", self.part(name).log_end()))
    }

    async fn is_ready(&self, name: Name) -> bool {
        let database = Database::ALL.into_iter().find(|database| database.server() == name);
        match (name, database) {
            (_, Some(database)) => connect(&self.database_named(database, "postgres")).await.is_ok(),
            (Name::Broker, _) => broker::connect(&self.broker_url()).await.is_ok(),
            (Name::OrdersStream | Name::InventoryStream, _) => true, // it waits for whatever it needs
            _ => http::ask(self.address(name), &Method::GET, "/healthz", &Value::Null).await.is_ok(),
        }
    }

    /// The parts that have ended without being killed.
    pub(crate) fn deserters(&mut self) -> Vec<String> {
        let ended = |part: &mut Part| {
            part.ended().map(|status| format!("{} has ended: {status}\n{}", part.name(), part.log_end()))
        };
        self.parts.values_mut().filter_map(ended).collect()
    }

    /// Runs a command of pgsluice beside the one that runs, to its end.
    pub(crate) async fn run_pgsluice(
        &mut self,
        database: Database,
        command: &[&str],
        environment: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        let mut invocation = self.pgsluice(database, command)?;
        for (name, value) in environment {
            invocation = invocation.env(name, value);
        }
        self.replays += 1;
        let mut part = Part::new("pgsluice", self.log(&format!("pgsluice-{}", self.replays)), invocation);
        part.start()?;
        part.success().await.with_context(|| command.join(" "))
    }
}

async fn connect(url: &str) -> anyhow::Result<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

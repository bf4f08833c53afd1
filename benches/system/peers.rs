//! Other programs for the same work, each started by `benches/peers/NAME/run`.
//!
//! `benches/peers/README.md` says what such a script gets in its environment. What can't be had on a machine is named as
//! missing, never guessed.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::stage::{EXCHANGE, PUBLICATION, Stage};
use crate::support::{Vhost, lifetime};

/// A peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Debezium,
    WalListener,
    GoPqCdc,
}

pub(crate) const ALL: [Peer; 3] = [Peer::Debezium, Peer::WalListener, Peer::GoPqCdc];

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Debezium => "debezium",
            Self::WalListener => "wal-listener",
            Self::GoPqCdc => "go-pq-cdc",
        }
    }

    /// Its name, and whether it waits for confirms.
    pub(crate) fn title(self) -> String {
        match self {
            Self::Debezium => "Debezium Server".to_owned(),
            Self::WalListener => "wal-listener (*unconfirmed*)".to_owned(),
            Self::GoPqCdc => "go-pq-cdc-rabbitmq".to_owned(),
        }
    }

    /// Why it can't take part; it is fetched first, if it can be.
    pub(crate) fn missing(self) -> Option<String> {
        static KNOWN: Mutex<Vec<(Peer, Option<String>)>> = Mutex::new(Vec::new());

        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, why)) = known.iter().find(|(peer, _)| *peer == self) {
            return why.clone();
        }
        let fetched = Command::new(root().join("scripts/lib/peers")).arg(self.name()).output();
        let fetched = fetched.expect("run scripts/lib/peers");
        let said = String::from_utf8_lossy(&fetched.stderr);
        let said = said.trim().trim_start_matches(&format!("{}: ", self.name())).trim_start_matches("missing: ");
        let why = (!fetched.status.success()).then(|| said.to_owned());
        known.push((self, why.clone()));
        why
    }

    pub(crate) async fn command(self, stage: &Stage<'_>, slot: &str, vhost: &Vhost) -> Command {
        let tables = "SELECT string_agg(format('%I.%I', schemaname, tablename), ',' ORDER BY tablename) \
                      FROM pg_publication_tables";
        let servers = stage.servers;
        let mut command = lifetime::command(root().join("benches/peers").join(self.name()).join("run"));
        command.envs([
            ("PGHOST", "127.0.0.1".to_owned()),
            ("PGPORT", servers.postgres.port().to_string()),
            ("PGUSER", "postgres".to_owned()),
            ("PGDATABASE", stage.database.name().to_owned()),
            ("SLOT", slot.to_owned()),
            ("PUBLICATION", PUBLICATION.to_owned()),
            ("TABLES", stage.database.query_one(tables).await),
            ("AMQP_HOST", "127.0.0.1".to_owned()),
            ("AMQP_PORT", servers.rabbitmq.port().to_string()),
            ("AMQP_USER", "guest".to_owned()),
            ("AMQP_PASSWORD", "guest".to_owned()),
            ("AMQP_VHOST", vhost.name().to_owned()),
            ("AMQP_URL", vhost.url()),
            ("EXCHANGE", EXCHANGE.to_owned()),
            ("ROUTING_KEY", "row".to_owned()),
        ]);
        command
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

//! Other programs for the same work, each started by `benches/peers/NAME/run`.
//!
//! Such a script gets `PGHOST`, `PGPORT`, `DB`, `SLOT`, `PUBLICATION`, `AMQP_URL` and `EXCHANGE` in the environment, runs
//! in the foreground and ends at SIGTERM. What can't be had on a machine is named as missing, never guessed.

use std::path::{Path, PathBuf};
use std::process::Command;

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

    fn script(self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers").join(self.name()).join("run")
    }

    /// Why it can't take part.
    pub(crate) fn missing(self) -> Option<String> {
        let script = self.script();
        (!script.exists()).then(|| format!("{} is not there", script.display()))
    }

    pub(crate) fn command(self, stage: &Stage<'_>, slot: &str, vhost: &Vhost) -> Command {
        let mut command = lifetime::command(self.script());
        command.envs([
            ("PGHOST", "127.0.0.1".to_owned()),
            ("PGPORT", stage.servers.postgres.port().to_string()),
            ("DB", stage.database.name().to_owned()),
            ("SLOT", slot.to_owned()),
            ("PUBLICATION", PUBLICATION.to_owned()),
            ("AMQP_URL", vhost.url()),
            ("EXCHANGE", EXCHANGE.to_owned()),
        ]);
        command
    }
}

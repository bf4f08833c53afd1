//! What the user configured: parsed as written, then resolved into settings that need no more checks.
//!
//! File < environment (`PGSLUICE__SECTION__KEY`) < flags. Everything that can be wrong without asking a
//! server is found here, before any connection is made. `layers` reads, `pipelines` lays each of several pipelines over the
//! top level, `written` is what was written, `resolve` turns it into [`Settings`], the contract that everything else is built on.
//! `docs/configuration.md` describes every key.

mod adhoc;
pub mod effective;
mod events;
mod filters;
mod format;
mod http;
mod layers;
mod otlp;
mod outbox;
mod pipelines;
pub mod reference;
mod resolve;
pub mod schema;
pub mod secrets;
#[cfg(test)]
mod tests;
pub mod topology;
mod written;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::encode::values::Numeric;
use crate::failure::Definite;
use crate::postgres::conninfo::Conninfo;
use crate::progress::Limits;
use crate::rabbit::uri::BrokerUri;
use crate::route::messages::Prefixes;
use crate::route::select::Selection;
use crate::route::template::Template;

pub use adhoc::of_database;
pub use events::{ColumnChoice, DataSettings, HashKey, RuleSettings};
pub use filters::FilterSettings;
pub(crate) use format::OF_CHANGES;
pub use format::{ChangeFormat, CloudEvents, DataFormat, RuleFormat};
pub use http::{HttpSettings, TlsFiles, Token};
pub use layers::VARIABLE_PREFIX;
pub use otlp::OtlpSettings;
pub(crate) use outbox::OF_COLUMN;
pub use outbox::{
    CleanupSettings, OnUpdate, OutboxColumns, OutboxOf, OutboxSettings, OutboxTableSettings, Property, RouteSettings,
};
pub use pipelines::Pipelines;

/// Reads the file, lays the process's environment over it, and validates the whole.
///
/// # Errors
/// The first thing that is wrong: names the file and line (or the variable), the key, what is wrong and
/// what is allowed. Never a secret.
pub fn load_all(file: &Path) -> Result<Pipelines, Definite> {
    pipelines::parse(file, &layers::text_of(file)?, std::env::vars_os())
}

/// The same of a file that describes one pipeline.
///
/// # Errors
/// As [`load_all`]; it describes several.
pub fn load(file: &Path) -> Result<Settings, Definite> {
    load_all(file)?.one(None)
}

/// Everything that one pipeline needs, validated.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Names the slot, the publication and the producer (`app_id`, the prefix of `message_id`).
    pub name: String,
    /// PostgreSQL.
    pub source: SourceSettings,
    /// Where the changes of plain tables go.
    pub changes: ChangesSettings,
    /// The outboxes: tables, and logical messages.
    pub outboxes: Vec<OutboxSettings>,
    /// Which changes are events of the domain, in the order in which those of one change are published.
    pub rules: Vec<RuleSettings>,
    /// Which logical messages are events, and where they go.
    pub messages: MessagesSettings,
    /// RabbitMQ.
    pub rabbitmq: RabbitSettings,
    /// Where progress is stored.
    pub checkpoint: CheckpointSettings,
    /// How long a stop waits for what is in flight.
    pub shutdown_timeout: Duration,
    /// Give up when a peer can't be reached at start, instead of trying for ever.
    pub fail_fast: bool,
    /// Where the process answers, if anywhere.
    pub http: Option<HttpSettings>,
    /// Where its own spans go, if anywhere.
    pub otlp: Option<OtlpSettings>,
    /// What is logged, and how.
    pub log: LogSettings,
}

/// `[source]`
#[derive(Debug, Clone)]
pub struct SourceSettings {
    /// How to connect.
    pub conninfo: Conninfo,
    /// Which tables' changes become events, apart from the outbox.
    pub tables: Selection,
    /// The replication slot; `name` unless set.
    pub slot: String,
    /// The publication; `name` unless set.
    pub publication: String,
    /// Upper bound for the time between two status updates; the server's `wal_sender_timeout` may ask for less.
    pub report_every: Duration,
    /// How often to look whether the publication is as it was.
    pub watch_every: Duration,
    /// How long to stand by for a slot, or a checkpoint folder, that another process has; none: for ever.
    pub standby_timeout: Option<Duration>,
    /// Whether values are asked for in their binary form, where all of them can be read.
    pub binary: bool,
    /// How much of the past PostgreSQL keeps for replays.
    pub retain: Retain,
    /// Whether transactions are read while they are in progress; none: each as a whole, once it is committed.
    pub streaming: Option<Streaming>,
    /// Which changes the server sends, by where they come from.
    pub origin: Origin,
    /// What of the tables PostgreSQL is to leave out, so that it never leaves the database.
    pub filters: Vec<FilterSettings>,
}

/// `[source] streaming_*`: where transactions that are read while they are in progress are kept until they are committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streaming {
    /// So many bytes of all of them together in memory.
    pub memory_bytes: usize,
    /// The rest of each in a file below this folder, that is gone with it.
    pub folder: PathBuf,
}

/// `[source] origin`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// All changes, those too that were replicated to the server from elsewhere.
    #[default]
    Any,
    /// Only the changes that were made on the server itself. From PostgreSQL 16 on.
    None,
}

/// `[replay]`: how far the slot is held back behind the checkpoint. With both limits, the one that is reached first
/// releases; with none, the slot follows the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retain {
    /// WAL, in bytes.
    pub bytes: Option<u64>,
    /// Since the checkpoint was stored.
    pub age: Option<Duration>,
}

impl Retain {
    /// Whether the slot is held back at all.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.bytes.is_some() || self.age.is_some()
    }
}

/// `[changes]`: the events of plain tables.
#[derive(Debug, Clone)]
pub struct ChangesSettings {
    /// `{name}.changes` unless set. Variables: `{schema}`, `{table}`, `{op}`; `{name}` is already filled in.
    pub exchange: Template,
    /// `{schema}.{table}.{op}` unless set; same variables.
    pub routing_key: Template,
    /// How the events look.
    pub format: ChangeFormat,
    /// How a `numeric` is written, where the format leaves it open.
    pub numeric: Numeric,
    /// Whether the events of a row stay in order.
    pub ordering: Ordering,
}

/// `[messages]`: the events of logical messages.
#[derive(Debug, Clone)]
pub struct MessagesSettings {
    /// Those with these prefixes are events; none unless set.
    pub prefixes: Prefixes,
    /// `{name}.messages` unless set. Variable: `{prefix}`; `{name}` is already filled in.
    pub exchange: Template,
    /// `{prefix}` unless set; same variable.
    pub routing_key: Template,
    /// How the events look.
    pub format: DataFormat,
    /// What the contents are, where they are not within our own event; at most 255 bytes.
    pub content_type: String,
}

/// `[rabbitmq]`
#[derive(Debug, Clone)]
pub struct RabbitSettings {
    /// How to connect: hosts in turn, credentials, virtual host, TLS.
    pub uri: BrokerUri,
    /// Declare exchanges, queues and bindings (true), or only expect them (false).
    pub declare: bool,
    /// Type of the exchanges that events go to, unless the [topology](Self::topology) has them: `topic` unless set.
    pub exchange_type: String,
    /// What is declared beside them; with them it is [`crate::route::topology()`].
    pub topology: topology::Topology,
    /// How much may be published and not yet settled.
    pub in_flight: Limits,
    /// No confirm for so long: the connection counts as dead.
    pub confirm_timeout: Duration,
    /// Larger bodies are refused before they are sent; unset, the broker's default by its version.
    pub max_message_bytes: Option<usize>,
    /// What to do with an event that no queue takes.
    pub unroutable: Unroutable,
    /// What to do with an event that can't be published as it is.
    pub poison: PoisonPolicy,
    /// Where events are parked.
    pub parking: ParkingSettings,
    /// How many connections publish, each in order; at least 1.
    pub lanes: usize,
}

impl RabbitSettings {
    /// Where events are parked, if any policy does that.
    #[must_use]
    pub fn parking(&self) -> Option<&ParkingSettings> {
        let parks = self.unroutable == Unroutable::Park || self.poison == PoisonPolicy::Park;
        parks.then_some(&self.parking)
    }
}

/// `[rabbitmq.unroutable] policy`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unroutable {
    /// Publish it again, with backoff, until a queue takes it. Loses nothing; later events wait.
    Wait,
    /// Publish it to the parking exchange, and go on.
    Park,
    /// Count it and go on.
    Discard,
}

/// `[rabbitmq.poison] policy`: an event that can't be published as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PoisonPolicy {
    /// Deliver what is before it, stay up, and wait for a human.
    #[default]
    Wait,
    /// Publish it to the parking exchange with its error, and go on.
    Park,
    /// Deliver what is before it, and end the process.
    Stop,
}

/// `[rabbitmq.parking]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkingSettings {
    /// A fanout exchange; `{name}.parked` unless set.
    pub exchange: String,
    /// The queue that is bound to it; as the exchange unless set.
    pub queue: String,
}

/// What has to stay in order with an event, when there are several lanes: `changes.key`, `outbox.key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ordering {
    /// The events of the same row, or aggregate.
    #[default]
    Key,
    /// Nothing.
    None,
}

/// `[checkpoint]`
#[derive(Debug, Clone)]
pub struct CheckpointSettings {
    /// Where to.
    pub store: StoreSettings,
    /// Store at most so often while there is progress.
    pub interval: Duration,
}

/// `[checkpoint] store`
#[derive(Debug, Clone)]
pub enum StoreSettings {
    /// A file in a folder of its own, which is created when missing.
    File {
        /// The folder.
        path: PathBuf,
    },
    /// A row of a table, which is created when missing.
    Postgres {
        /// How to connect; as to the source, unless set.
        conninfo: Box<Conninfo>,
        /// The table's schema, unquoted.
        schema: String,
        /// The table's name, unquoted.
        table: String,
    },
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// Text on a terminal and JSON elsewhere, unless set.
    pub format: Option<LogFormat>,
    /// A level for our own messages (`info`), or a whole filter (`warn,pgsluice::rabbit=debug`).
    pub level: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For a person.
    Text,
    /// One JSON object a line.
    Json,
}

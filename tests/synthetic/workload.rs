//! What is streamed, under which configuration.

use pgsluice::config::Settings;

use super::fixture;
use super::settings;
use super::tables::{Table, orders, outbox, wide};

/// Every change is one event.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    configuration: &'static str,
    pub(super) tables: Vec<Table>,
    /// The message of one change.
    pub(super) change: fn(&Table, u64) -> Vec<u8>,
    /// Changes in a transaction.
    pub(super) rows: usize,
    /// There is no backlog: each read brings one transaction.
    pub(super) is_live: bool,
}

pub(crate) const ALL: &str = "source.tables = [\"public.*\"]\n[rabbitmq]\nurl = \"amqp://localhost\"";

macro_rules! formatted {
    ($format:literal) => {
        concat!(
            "source.tables = [\"public.*\"]\n[changes]\nformat = \"",
            $format,
            "\"\n[rabbitmq]\nurl = \"amqp://localhost\""
        )
    };
}

macro_rules! rule {
    ($keys:literal) => {
        concat!(
            "[[events]]\ntable = \"public.orders\"\ntype = \"OrderPaid\"\n",
            $keys,
            "\n[rabbitmq]\nurl = \"amqp://localhost\""
        )
    };
}

fn workload(name: &'static str, rows: usize, table: Table) -> Workload {
    Workload { name, configuration: ALL, tables: vec![table], change: Table::insert, rows, is_live: false }
}

/// As in the system benchmark, as far as it is about pgsluice itself.
pub(crate) fn main() -> Vec<Workload> {
    let tables = (0..1_000).map(|number| orders().numbered(number)).collect();
    vec![
        workload("one-row", 1, orders()),
        workload("thousand-rows", 1_000, orders()),
        Workload { is_live: true, ..workload("live", 1, orders()) },
        Workload { change: Table::update, ..workload("full-updates", 1_000, orders().full()) },
        Workload {
            configuration: "[outbox]\ntable = \"public.outbox\"\n[rabbitmq]\nurl = \"amqp://localhost\"",
            ..workload("outbox", 1, outbox())
        },
        workload("wide", 100, wide()),
        Workload { tables, ..workload("thousand-tables", 1_000, orders()) },
    ]
}

/// The formats, and what else a configuration can ask for.
pub(crate) fn options() -> Vec<Workload> {
    let thousand = |name, configuration| Workload { configuration, ..workload(name, 1_000, orders()) };
    vec![
        thousand("raw", formatted!("raw")),
        thousand("cloudevents", formatted!("cloudevents")),
        thousand("cloudevents-binary", formatted!("cloudevents-binary")),
        thousand("debezium", formatted!("debezium")),
        thousand("debezium-schema", formatted!("debezium-schema")),
        thousand("canal", formatted!("canal")),
        Workload {
            configuration: "source.tables = [\"public.*\"]\nsource.binary = true\n[rabbitmq]\nurl = \"amqp://localhost\"",
            ..workload("binary", 1_000, orders().binary())
        },
        thousand("lanes", "source.tables = [\"public.*\"]\n[rabbitmq]\nurl = \"amqp://localhost\"\nlanes = 4"),
        Workload { configuration: OUTBOX_HEADERS, ..workload("outbox-headers", 1, outbox()) },
        Workload { configuration: OUTBOX_CLOUDEVENTS, ..workload("outbox-cloudevents", 1, outbox()) },
        Workload { configuration: MESSAGES, change: message, ..workload("messages", 1, orders()) },
        Workload { configuration: MESSAGE_OUTBOX, change: outbox_message, ..workload("outbox-messages", 1, orders()) },
        thousand("rule", rule!("data = [\"id\", \"customer_id\", \"total\"]\nheaders = { tenant = \"{new.status}\" }")),
        thousand("rule-when", rule!("when = \"new.status == 'paid'\"\ndata = [\"id\", \"customer_id\", \"total\"]")),
        thousand("rule-compute", rule!("data = [\"id\"]\ncompute = { due = \"new.customer_id + 1\" }")),
    ]
}

const OUTBOX_HEADERS: &str = r#"
[outbox]
table = "public.outbox"
headers = { tenant = "{tenant}", attempt = "{attempt}", source = "{schema}/{table}" }
[rabbitmq]
url = "amqp://localhost"
"#;

const OUTBOX_CLOUDEVENTS: &str = r#"
[outbox]
table = "public.outbox"
format = "cloudevents"
[rabbitmq]
url = "amqp://localhost"
"#;

const MESSAGES: &str = r#"
[messages]
prefixes = ["app"]
[rabbitmq]
url = "amqp://localhost"
"#;

const MESSAGE_OUTBOX: &str = r#"
[outbox]
prefix = "app"
[rabbitmq]
url = "amqp://localhost"
"#;

fn message(_: &Table, row: u64) -> Vec<u8> {
    fixture::logical(1, row, "app", br#"{"id":7,"status":"paid","note":"what pg_logical_emit_message wrote"}"#)
}

fn outbox_message(_: &Table, row: u64) -> Vec<u8> {
    let content = format!(
        r#"{{"id":"{row}","aggregatetype":"order","aggregateid":"90210","type":"OrderPaid","payload":{{"note":"{}"}}}}"#,
        "0123456789 ".repeat(90)
    );
    fixture::logical(1, row, "app", content.as_bytes())
}

impl Workload {
    pub(crate) fn all() -> Vec<Self> {
        main().into_iter().chain(options()).collect()
    }

    pub(crate) fn settings(&self) -> Settings {
        settings(self.configuration)
    }
}

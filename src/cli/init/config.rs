//! The configuration: commented, and such that it runs.

use std::fmt::Write as _;

use super::{Found, pattern};
use crate::config::secrets;
use crate::postgres::catalog::Table;

/// A database with more tables has its schemas in the list.
const LISTED: usize = 50;
const NO_IDENTITY: &str = "no primary key: PostgreSQL would refuse UPDATE and DELETE once it is published, unless it has \
                           REPLICA IDENTITY FULL";

impl Found<'_> {
    /// As TOML.
    pub(super) fn config(&self) -> String {
        let (name, inventory) = (&self.name, &self.inventory);
        let mut text = String::new();
        let mut line = |line: &str| {
            text.push_str(line);
            text.push('\n');
        };
        line(
            "# Written by `pgsluice init`. `pgsluice check` says what a start would do with it; every other key, with its",
        );
        line("# default: `pgsluice config show`, docs/configuration.md.");
        line("");
        line("# Names the slot, the publication and the producer.");
        line(&format!("name = {}", string(name)));
        line("");
        line("[source]");
        let (major, minor) = (inventory.version / 10_000, inventory.version % 10_000);
        line(&format!("# PostgreSQL {major}.{minor}, wal_level = {}.", inventory.wal_level));
        if inventory.wal_level != "logical" {
            line("# It must be logical: `pgsluice init --sql` says how to change that here.");
        }
        line(&format!("url = {}", string(&self.database_url())));
        if secrets::removed(&self.arguments.database).is_some() {
            line("# The password is not written here: set PGSLUICE__SOURCE__PASSWORD, or password_file.");
        }
        for note in self.tables() {
            line(&note);
        }
        for outbox in self.outboxes() {
            line("");
            line(&outbox);
        }
        line("");
        line("[rabbitmq]");
        let given = self.arguments.rabbitmq.as_deref().unwrap_or("amqp://guest@localhost");
        line(&format!("url = {}", string(&secrets::removed(given).unwrap_or_else(|| given.to_owned()))));
        if secrets::removed(given).is_some() {
            line("# The password is not written here: set PGSLUICE__RABBITMQ__PASSWORD, or password_file.");
        }
        line("");
        line(
            "# An event that no queue takes is waited for. So each exchange needs a queue; this one takes everything:",
        );
        for exchange in self.exchanges() {
            line("#[[rabbitmq.queues]]");
            line(&format!("#name = {}", string(&exchange)));
            line("#[[rabbitmq.bindings]]");
            line(&format!("#exchange = {}", string(&exchange)));
            line(&format!("#queue = {}", string(&exchange)));
        }
        line("");
        line("[checkpoint]");
        line(
            "# The folder of the checkpoint, relative to this file's. In production: /var/lib/pgsluice/…, or a table (store =",
        );
        line("# \"postgres\"), which must outlive the process.");
        line(&format!("path = {}", string(&format!("{name}-checkpoint"))));
        text
    }

    /// `tables`, with a word on those that are left out.
    fn tables(&self) -> Vec<String> {
        let has_outbox = !self.inventory.outboxes.is_empty();
        let plain: Vec<&Table> = self.inventory.tables.iter().filter(|table| self.outbox_of(table).is_none()).collect();
        let mut lines = Vec::new();
        let mute = if has_outbox { "#" } else { "" };
        if has_outbox {
            lines.push(
                "# The changes of these tables are not sent: the application tells what happened in the outbox."
                    .to_owned(),
            );
        } else {
            lines.push("# The changes of these tables are sent.".to_owned());
        }
        if plain.is_empty() {
            lines.push("# There is none yet.".to_owned());
        }
        lines.push(format!("{mute}tables = ["));
        if plain.len() > LISTED || !plain.iter().any(|table| table.has_identity) {
            let mut schemas: Vec<&str> = plain.iter().map(|table| table.schema.as_str()).collect();
            schemas.dedup();
            if schemas.is_empty() {
                schemas.push("public");
            }
            for schema in schemas {
                let of_schema = pattern(&Table { name: "x".to_owned(), schema: schema.to_owned(), ..none() });
                lines.push(format!("{mute}  {},", string(&format!("{}*", of_schema.trim_end_matches('x')))));
            }
            for table in plain.iter().filter(|table| !table.has_identity) {
                lines.push(format!("{mute}  {}, # {NO_IDENTITY}", string(&format!("!{}", pattern(table)))));
            }
        } else {
            for table in &plain {
                let (mute, note) = match (table.has_identity, table.identity.as_str()) {
                    (false, _) => ("#", format!(" # {NO_IDENTITY}")),
                    (true, "f") => (mute, " # REPLICA IDENTITY FULL".to_owned()),
                    (true, _) => (mute, String::new()),
                };
                lines.push(format!("{mute}  {},{note}", string(&pattern(table))));
            }
        }
        lines.push(format!("{mute}]"));
        lines
    }

    fn outboxes(&self) -> Vec<String> {
        let several = self.inventory.outboxes.len() > 1;
        let section = |table: &Table| {
            let outbox = self.outbox_of(table)?;
            let mut text = String::new();
            let _ = writeln!(text, "# Rows that are inserted here are events: to the exchange {}.events.", self.name);
            if !table.has_identity {
                let _ = writeln!(text, "# It has {NO_IDENTITY}.");
            }
            let _ = writeln!(text, "{}", if several { "[[outbox]]" } else { "[outbox]" });
            let _ = writeln!(text, "table = {}", string(&pattern(table)));
            let _ = write!(text, "#routing_key = \"{{aggregatetype}}.{{type}}\"");
            if !outbox.columns.is_empty() {
                // The default's variables are Debezium's names.
                let name = |key: &str, default: &'static str| {
                    outbox.columns.iter().find(|(it, _)| *it == key).map_or(default, |(_, name)| *name)
                };
                let (of, event) = (name("aggregate_type", "aggregatetype"), name("type", "type"));
                text = text.replace(
                    "#routing_key = \"{aggregatetype}.{type}\"",
                    &format!("routing_key = \"{{{of}}}.{{{event}}}\""),
                );
                for (key, name) in &outbox.columns {
                    let _ = write!(text, "\ncolumns.{key} = {}", string(name));
                }
            }
            Some(text)
        };
        self.inventory.tables.iter().filter_map(section).collect()
    }

    fn exchanges(&self) -> Vec<String> {
        let of = if self.inventory.outboxes.is_empty() { "changes" } else { "events" };
        vec![format!("{}.{of}", self.name)]
    }
}

fn none() -> Table {
    Table {
        oid: 0,
        schema: String::new(),
        name: String::new(),
        partitioned: false,
        ancestors: Vec::new(),
        has_identity: true,
        identity: String::new(),
    }
}

/// As TOML has it.
fn string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

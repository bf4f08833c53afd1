//! `pgsluice init`: a configuration for a database as it is, or the SQL for a role of its own.
//!
//! Asks nothing and changes nothing; `config` and `sql` write what was found down.

mod config;
mod sql;

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::anyhow;

use super::{block_on, now_or_never, print_line};
use crate::config::{of_database, secrets};
use crate::failure::{Definite, Kind};
use crate::postgres::catalog::Table;
use crate::postgres::ident::quote_ident;
use crate::postgres::inventory::{self, Inventory, Service};
use crate::postgres::sql as client;

/// What to look at, and what to write.
#[derive(Debug, clap::Args)]
pub struct InitArguments {
    #[arg(
        short,
        long,
        value_name = "URL",
        help = "The database to look at, as in postgres://app@db1/shop. Its password is not written down"
    )]
    database: String,

    #[arg(
        short,
        long,
        value_name = "URL",
        help = "Where the events go, as in amqps://app@mq1/shop; a broker on this machine, unless set"
    )]
    rabbitmq: Option<String>,

    /// The pipeline's name, which names the slot and the publication; that of the database, unless set
    #[arg(short, long)]
    name: Option<String>,

    /// Write to this file, which must not exist; to standard output, unless set
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Write SQL instead: for a role with the least privileges, and the publication
    #[arg(long)]
    sql: bool,

    /// With --sql: that role
    #[arg(long, value_name = "NAME", default_value = "pgsluice", requires = "sql")]
    role: String,

    /// With --sql: who runs the server; what its roles tell, unless set
    #[arg(long = "for", value_name = "SERVICE", requires = "sql")]
    service: Option<Service>,
}

/// What was asked for, and what was found.
struct Found<'a> {
    arguments: &'a InitArguments,
    inventory: Inventory,
    name: String,
}

/// Looks, and writes.
///
/// # Errors
/// The database can't be looked at, a name can't be one, or the file is there already.
pub fn run(arguments: &InitArguments) -> Result<(), Definite> {
    // What is wrong with the URL is found before any connection is made.
    let settings = of_database(&arguments.database, &["*.*".to_owned()])?;
    let looking = async {
        let looking = async { inventory::look(&client::connect(&settings.source.conninfo).await?).await };
        looking.await.map_err(|failure| now_or_never(failure, "is PostgreSQL up, and the URL right?"))
    };
    let inventory = block_on(looking)?;
    let name = match &arguments.name {
        Some(name) if is_slot_name(name) => name.clone(),
        Some(name) => {
            let error = anyhow!("--name: no name for a slot: \"{name}\"");
            return Err(Definite::new(Kind::Usage, error, "allowed: 1 to 63 of a-z, 0-9 and _"));
        }
        None => name_of(&inventory.database),
    };
    let found = Found { arguments, inventory, name };
    let text = if arguments.sql { found.sql() } else { found.config() };
    match &arguments.output {
        None => print_line(text.trim_end()),
        Some(path) => {
            write(path, &text)?;
            eprintln!("{} is written; next: {}", path.display(), found.next(path));
            Ok(())
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), Definite> {
    let written = File::create_new(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::AlreadyExists => "nothing is written over: move it away, or name another file",
            _ => "may this user write there?",
        };
        Definite::new(Kind::Usage, anyhow!(error).context(format!("can't write {}", path.display())), hint)
    })
}

fn is_slot_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=63).contains(&name.len()) && name.bytes().all(allowed)
}

/// The database's, as a slot may have it.
fn name_of(database: &str) -> String {
    let name: String =
        database.chars().map(|it| if it.is_ascii_alphanumeric() { it.to_ascii_lowercase() } else { '_' }).collect();
    name[..name.len().min(63)].to_owned()
}

impl Found<'_> {
    fn next(&self, path: &Path) -> String {
        if self.arguments.sql {
            return format!("psql -f {}", path.display());
        }
        format!("pgsluice check --config {}", path.display())
    }

    fn outbox_of(&self, table: &Table) -> Option<&inventory::Outbox> {
        self.inventory.outboxes.iter().find(|outbox| outbox.oid == table.oid)
    }

    /// Those that are selected: the outboxes, or else every table whose updates would not be refused.
    fn selected(&self) -> Vec<&Table> {
        let has_outbox = !self.inventory.outboxes.is_empty();
        let is_selected = |table: &&Table| {
            if has_outbox { self.outbox_of(table).is_some() && table.has_identity } else { table.has_identity }
        };
        self.inventory.tables.iter().filter(is_selected).collect()
    }

    fn database_url(&self) -> String {
        secrets::removed(&self.arguments.database).unwrap_or_else(|| self.arguments.database.clone())
    }
}

/// As a pattern has it: in quotes where PostgreSQL would need them, or a wildcard would be read.
fn pattern(table: &Table) -> String {
    let part = |name: &str| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if name.bytes().all(plain) { name.to_owned() } else { quote_ident(name) }
    };
    format!("{}.{}", part(&table.schema), part(&table.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_names_a_slot() {
        assert_eq!(name_of("Shop-größe.2"), "shop_gr__e_2");
        assert!(is_slot_name(&name_of(&"ü".repeat(63))));
    }
}

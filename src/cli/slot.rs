//! `pgsluice slot`: the replication slots of a server, what they cost, and getting rid of one.

use std::io::{IsTerminal as _, Write as _, stderr, stdin};

use anyhow::{Context as _, anyhow};
use serde::Serialize;
use serde_json::json;

use super::database::Database;
use super::{now_or_never, print_line};
use crate::config::Settings;
use crate::failure::{Definite, Failure, Kind};
use crate::postgres::slots::{self, Slot};
use crate::postgres::sql;

/// What to do with them.
#[derive(Debug, clap::Subcommand)]
pub enum SlotCommand {
    /// List the slots of the server, and how much WAL each holds back
    List {
        /// Of which server.
        #[command(flatten)]
        database: Database,
        /// Print a JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Drop a slot that nobody reads from: what it was not acknowledged for is never delivered
    Drop {
        /// Of which server.
        #[command(flatten)]
        database: Database,
        /// The slot
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// Runs one of them.
///
/// # Errors
/// The server is away or refuses; there is no such slot, it is in use, or nobody has agreed.
pub async fn run(command: SlotCommand) -> Result<(), Definite> {
    match command {
        SlotCommand::List { database, json } => list(&database, json).await,
        SlotCommand::Drop { database, name, yes } => drop(&database, &name, yes).await,
    }
}

const TRY_AGAIN: &str = "is PostgreSQL up, and the URL right?";

async fn list(database: &Database, as_json: bool) -> Result<(), Definite> {
    let (conninfo, settings) = database.connect()?;
    let listing = async { slots::list(&sql::connect(&conninfo).await?).await };
    let slots = listing.await.map_err(|failure| now_or_never(failure, TRY_AGAIN))?;
    if as_json {
        return slots.iter().try_for_each(|slot| {
            let is_of_this_configuration = settings.as_ref().map(|settings| is_ours(slot, Some(settings)));
            print_line(&json!(Line { slot, is_of_this_configuration }).to_string())
        });
    }
    let rows: Vec<[String; 8]> = std::iter::once(HEADINGS.map(str::to_owned))
        .chain(slots.iter().map(|slot| cells(slot, settings.as_ref())))
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 8] = std::array::from_fn(width);
    for row in &rows {
        let line: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        print_line(line.join("  ").trim_end())?;
    }
    if slots.is_empty() {
        print_line("(none)")?;
    }
    Ok(())
}

const HEADINGS: [&str; 8] = ["slot", "database", "plugin", "active", "WAL", "retained", "confirmed", ""];

/// Whether it is the one that this configuration reads from.
fn is_ours(slot: &Slot, settings: Option<&Settings>) -> bool {
    settings.is_some_and(|settings| slot.is_here && slot.name == settings.source.slot)
}

fn cells(slot: &Slot, settings: Option<&Settings>) -> [String; 8] {
    let or_dash = |text: Option<&String>| text.map_or_else(|| "-".to_owned(), Clone::clone);
    let notes = [
        is_ours(slot, settings).then(|| "of this configuration".to_owned()),
        slot.temporary.then(|| "temporary".to_owned()),
        slot.invalidation_reason.as_ref().map(|reason| format!("invalidated: {reason}")),
    ];
    let notes: Vec<String> = notes.into_iter().flatten().collect();
    [
        slot.name.clone(),
        or_dash(slot.database.as_ref()),
        or_dash(slot.plugin.as_ref()),
        slot.active_pid.map_or_else(|| "no".to_owned(), |pid| format!("PID {pid}")),
        or_dash(slot.wal_status.as_ref()),
        slot.retained(),
        or_dash(slot.confirmed_flush_lsn.as_ref()),
        notes.join(", "),
    ]
}

/// As one line of `slot list --json`.
#[derive(Serialize)]
struct Line<'s> {
    #[serde(flatten)]
    slot: &'s Slot,
    /// None: there is no configuration.
    is_of_this_configuration: Option<bool>,
}

async fn drop(database: &Database, name: &str, yes: bool) -> Result<(), Definite> {
    let (conninfo, settings) = database.connect()?;
    let failed = |failure: Failure| now_or_never(failure, TRY_AGAIN);
    let client = sql::connect(&conninfo).await.map_err(failed)?;
    let all = slots::list(&client).await.map_err(failed)?;
    let Some(slot) = all.iter().find(|slot| slot.name == name) else {
        let names: Vec<&str> = all.iter().map(|slot| slot.name.as_str()).collect();
        let there = if names.is_empty() {
            "the server has none".to_owned()
        } else {
            format!("the server has {}", names.join(", "))
        };
        return Err(Definite::new(Kind::Source, anyhow!("replication slot \"{name}\" does not exist"), there));
    };
    if let Some(pid) = slot.active_pid {
        let error = anyhow!("replication slot \"{name}\" is in use by PID {pid}");
        return Err(Definite::new(Kind::Source, error, "Stop who reads from it first; a standby would take over."));
    }
    if !yes {
        agree(slot)?;
    }
    slots::drop(&client, name).await.map_err(failed)?;
    print_line(&format!("dropped {name}, which held {} of WAL", slot.retained()))?;
    if is_ours(slot, settings.as_ref()) {
        print_line("a checkpoint that is stored for it fits no slot now: `pgsluice checkpoint reset` forgets it")?;
    }
    Ok(())
}

/// Somebody who sits at a terminal has typed the slot's name.
fn agree(slot: &Slot) -> Result<(), Definite> {
    let Slot { name, .. } = slot;
    let risk = format!(
        "what was not acknowledged for \"{name}\" (confirmed {}, {} of WAL held) can't be delivered once it is dropped",
        slot.confirmed_flush_lsn.as_deref().unwrap_or("nothing"),
        slot.retained()
    );
    if !stdin().is_terminal() {
        return Err(Definite::new(Kind::Usage, anyhow!("{risk}"), "say so with --yes"));
    }
    let asking = write!(stderr(), "{risk}.\nType its name to drop it: ");
    let mut typed = String::new();
    let answer = asking.and_then(|()| stdin().read_line(&mut typed)).context("can't ask at the terminal");
    answer.map_err(|error| Definite::new(Kind::Process, error, "say so with --yes"))?;
    if typed.trim() == name {
        return Ok(());
    }
    Err(Definite::new(Kind::Usage, anyhow!("not dropped: that was not \"{name}\""), ""))
}

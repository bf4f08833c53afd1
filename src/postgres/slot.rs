//! Whether the slot and the checkpoint still fit together: the rules of the promise, without IO.
//!
//! Invariant: the stream starts only where the server can still send every change after the
//! checkpoint. PostgreSQL itself does not refuse: it forwards a start below `confirmed_flush_lsn`
//! silently, and starts a recreated slot from its new beginning. So everything that could hide a gap
//! is [`Kind::InDoubt`] here, and names the range. `open` gathers what is judged, before and after
//! the start of the stream.

use anyhow::anyhow;

use super::ident::quote_literal;
use crate::checkpoint::Checkpoint;
use crate::failure::{Definite, Kind};
use crate::lsn::Lsn;

/// The output plugin that we decode.
pub const PLUGIN: &str = "pgoutput";

/// One row of `pg_replication_slots`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotState {
    /// The slot's name.
    pub name: String,
    /// `slot_type`: `logical` or `physical`.
    pub slot_type: String,
    /// The output plugin; none for physical slots.
    pub plugin: Option<String>,
    /// The database it decodes; none for physical slots.
    pub database: Option<String>,
    /// The backend that uses it.
    pub active_pid: Option<i32>,
    /// Belongs to one session and dies with it.
    pub temporary: bool,
    /// Sends prepared transactions; sticky once set.
    pub two_phase: bool,
    /// `reserved`, `extended`, `unreserved`, `lost`; none when no WAL is reserved.
    pub wal_status: Option<String>,
    /// Why the server gave it up: `invalidation_reason` (17), `conflicting` (16).
    pub invalidation: Option<String>,
    /// Where decoding starts to read; none while it is being created, and once it is invalidated.
    pub restart: Option<Lsn>,
    /// Up to where its consumer has acknowledged; none while it is being created.
    pub confirmed_flush: Option<Lsn>,
}

/// The server that the stream would come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerState {
    /// `IDENTIFY_SYSTEM`'s `systemid`: a cluster and its physical copies share it.
    pub system_identifier: u64,
    /// The current timeline.
    pub timeline: u32,
    /// How far its WAL is flushed.
    pub flushed: Lsn,
    /// The database connected to.
    pub database: String,
    /// The timelines that it comes from; needed only when the checkpoint is of another one.
    pub history: Vec<Switch>,
}

/// Where a timeline ended and the next one began: one line of a timeline history file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switch {
    /// The timeline that ended.
    pub timeline: u32,
    /// Its WAL is part of the server's history up to here.
    pub at: Lsn,
}

/// How the stream may start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// There is neither slot nor checkpoint: create the slot, and start at its consistent point.
    Create,
    /// Start where the checkpoint is.
    Resume(Checkpoint),
    /// There is a usable slot and no checkpoint: start where the slot is. Worth a warning, because
    /// events may be sent again.
    Adopt(Checkpoint),
}

/// Judges whether the stream of the slot called `name` can go on without a gap.
///
/// # Errors
/// [`Kind::Source`] when the slot is not ours to use, [`Kind::InDoubt`] when changes may be missing.
pub fn verify(
    name: &str,
    publication: &str,
    checkpoint: Option<&Checkpoint>,
    slot: Option<&SlotState>,
    server: &ServerState,
) -> Result<Decision, Definite> {
    if let Some(checkpoint) = checkpoint {
        same_stream(name, publication, checkpoint, server)?;
    }
    match (checkpoint, slot) {
        (None, None) => Ok(Decision::Create),
        (Some(checkpoint), None) => Err(gone(name, checkpoint, server)),
        (None, Some(slot)) => {
            let confirmed = usable(slot, None, server)?;
            Ok(Decision::Adopt(first(name, publication, server, confirmed)))
        }
        (Some(checkpoint), Some(slot)) => {
            let confirmed = usable(slot, Some(checkpoint.flushed), server)?;
            not_ahead(name, checkpoint.flushed, confirmed)?;
            // The server may have been promoted since; what we store from now on is of its timeline.
            Ok(Decision::Resume(Checkpoint {
                timeline: server.timeline,
                publication: publication.to_owned(),
                ..checkpoint.clone()
            }))
        }
    }
}

/// The checkpoint of a slot that nothing was read from yet.
#[must_use]
pub fn first(name: &str, publication: &str, server: &ServerState, flushed: Lsn) -> Checkpoint {
    Checkpoint {
        system_identifier: server.system_identifier,
        timeline: server.timeline,
        slot: name.to_owned(),
        publication: publication.to_owned(),
        flushed,
        position: None,
        retained: Vec::new(),
    }
}

/// The slot's consumer has acknowledged nothing that we have not stored. Asked again after
/// `START_REPLICATION`, which forwards a start below `confirmed` without a word.
///
/// # Errors
/// [`Kind::InDoubt`], with the range.
pub fn not_ahead(name: &str, flushed: Lsn, confirmed: Lsn) -> Result<(), Definite> {
    if confirmed <= flushed {
        return Ok(());
    }
    Err(in_doubt(
        anyhow!(
            "replication slot \"{name}\" is ahead of the checkpoint: it was advanced to {confirmed}, and only what lies \
             before {flushed} is known to be delivered. {}",
            lost_between(flushed, confirmed)
        ),
        "Somebody else read from the slot, advanced it, or dropped and created it again; or the checkpoint was restored \
         from an older copy.",
    ))
}

/// The publication is missing although the slot exists. Created now, it would not help: decoding looks it up as
/// it was at each change, and fails at the first one (before PostgreSQL 18), or drops them silently (18).
#[must_use]
pub fn no_publication(publication: &str, start: &Checkpoint, server: &ServerState) -> Definite {
    let (slot, from) = (&start.slot, start.flushed);
    Definite::new(
        Kind::InDoubt,
        anyhow!(
            "the publication \"{publication}\" does not exist (any more), and replication slot \"{slot}\" can't be read \
             without it: a publication that is created now has no effect on what was written before. {}",
            lost_between(from, server.flushed)
        ),
        format!(
            "If `source.publication` is wrong, correct it. Else, once what may be missing was dealt with (compared, or sent \
             again from the tables): drop the slot (SELECT pg_drop_replication_slot({})) and run `pgsluice checkpoint reset`; \
             pgsluice then creates both and starts at the server's current position.",
            quote_literal(slot)
        ),
    )
}

/// Tables were taken out of the publication behind our back, and perhaps put back: their changes in between are in no
/// stream.
#[must_use]
pub fn tables_left(publication: &str, tables: &[String], from: Lsn, to: Lsn) -> Definite {
    in_doubt(
        anyhow!(
            "{} left the publication \"{publication}\", if only for a time, or changed in it, at some point between {from} and \
             {to}: such changes in that range may be missing",
            tables.join(", ")
        ),
        "Somebody has altered the publication, or put another table in the place of one. A publication that pgsluice has made follows \
         `source.tables` by itself, at its next start.",
    )
}

/// Reads a timeline history file, as `TIMELINE_HISTORY` sends it: `timeline<TAB>LSN<TAB>reason` lines,
/// with comments (`src/backend/access/transam/timeline.c`). Lines that are none are skipped: a timeline
/// that is missed stays in doubt.
#[must_use]
pub fn parse_history(text: &str) -> Vec<Switch> {
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        Some(Switch { timeline: fields.next()?.parse().ok()?, at: fields.next()?.parse().ok()? })
    };
    text.lines().filter_map(line).collect()
}

/// The checkpoint is of this server's history, and of this slot and publication.
fn same_stream(name: &str, publication: &str, checkpoint: &Checkpoint, server: &ServerState) -> Result<(), Definite> {
    if checkpoint.system_identifier != server.system_identifier {
        return Err(in_doubt(
            anyhow!(
                "the checkpoint ({}) is of the system {}, and the server is the system {}: positions of one mean nothing \
                 on the other, and whatever that system committed after {} is not known to be delivered",
                checkpoint.flushed,
                checkpoint.system_identifier,
                server.system_identifier,
                checkpoint.flushed
            ),
            "If `source.url` leads to the wrong server, correct it. If the database moved (a dump and restore, a logical \
             upgrade), see to it that the old server's last changes were delivered.",
        ));
    }
    if checkpoint.slot != name {
        return Err(in_doubt(
            anyhow!(
                "the checkpoint ({}) is of replication slot \"{}\", and \"{name}\" is configured: what the old slot would \
                 send after {} is not known to be delivered",
                checkpoint.flushed,
                checkpoint.slot,
                checkpoint.flushed
            ),
            &format!(
                "Set `source.slot = \"{}\"` to go on with that slot, or give this pgsluice a `checkpoint.path` of its own.",
                checkpoint.slot
            ),
        ));
    }
    same_publication(publication, checkpoint)?;
    same_history(checkpoint, server)?;
    if is_past(checkpoint, server.flushed) {
        let reached = reached(checkpoint);
        return Err(in_doubt(
            anyhow!(
                "the checkpoint ({reached}) is ahead of the server, whose WAL ends at {}: the server lost that part, and \
                 what it has written or will write in its place up to {reached} would be skipped",
                server.flushed
            ),
            "The server was restored from a backup or a snapshot, or lost WAL in a crash (fsync = off). Events of \
             transactions that no longer exist may have been published.",
        ));
    }
    Ok(())
}

/// Up to where changes were taken in. Those of a transaction that did not end yet lie beyond `flushed`, and when
/// they come again they are known by their position: it, too, must be of the server's history.
fn reached(checkpoint: &Checkpoint) -> Lsn {
    checkpoint.position.map_or(checkpoint.flushed, |position| position.commit_lsn.max(checkpoint.flushed))
}

/// Whether some of what was taken in is not in a WAL that ends at `end`.
fn is_past(checkpoint: &Checkpoint, end: Lsn) -> bool {
    // A position is where a commit record starts: one that starts at the end is not in it.
    checkpoint.flushed > end || checkpoint.position.is_some_and(|position| position.commit_lsn >= end)
}

/// Another publication sends other changes, so that within a transaction that is delivered in part, the same position
/// would name another change.
fn same_publication(name: &str, checkpoint: &Checkpoint) -> Result<(), Definite> {
    let half = checkpoint.position.filter(|position| position.commit_lsn >= checkpoint.flushed);
    match half {
        Some(position) if checkpoint.publication != name => Err(in_doubt(
            anyhow!(
                "the checkpoint ({position}) lies within a transaction as the publication \"{}\" sends it, and \"{name}\" \
                 is configured: which changes of that transaction (commit LSN {}) were delivered can't be told",
                checkpoint.publication,
                position.commit_lsn
            ),
            &format!(
                "Set `source.publication = \"{}\"` until pgsluice has stopped between two transactions (SIGTERM waits for \
                 what is in flight), and change it then.",
                checkpoint.publication
            ),
        )),
        Some(_) | None => Ok(()),
    }
}

fn same_history(checkpoint: &Checkpoint, server: &ServerState) -> Result<(), Definite> {
    let (old, new) = (checkpoint.timeline, server.timeline);
    if old == new {
        return Ok(());
    }
    let flushed = reached(checkpoint);
    let (error, hint) = if old > new {
        (
            anyhow!(
                "the checkpoint ({flushed}) is of timeline {old}, and the server is on timeline {new}, an older one: what \
                 timeline {old} committed after it left timeline {new} is not there, and changes of timeline {new} up to \
                 {flushed} (the server's WAL ends at {}) are not known to be delivered",
                server.flushed
            ),
            "This is an old primary that came back after a failover, or a restored backup. If so, correct `source.url` to \
             lead to the current primary.",
        )
    } else if let Some(switch) = server.history.iter().find(|switch| switch.timeline == old) {
        if !is_past(checkpoint, switch.at) {
            return Ok(());
        }
        (
            anyhow!(
                "the checkpoint ({flushed} on timeline {old}) is past the failover: the server is on timeline {new}, which \
                 left timeline {old} at {}. Changes between {} and {flushed} were delivered from timeline {old} and do not \
                 exist on this server, and what timeline {new} committed in that range is not known to be delivered",
                switch.at,
                switch.at
            ),
            "A standby was promoted that had not received everything (asynchronous replication). Compare what was \
             delivered with the database.",
        )
    } else {
        (
            anyhow!(
                "the checkpoint ({flushed}) is of timeline {old}, which is not in the history of the server's timeline \
                 {new}: what either of them committed up to {flushed}, and between it and {} (where the server's WAL ends), \
                 is not known to be delivered",
                server.flushed
            ),
            "The server was not promoted from the one that the checkpoint is of, or its timeline history file is gone.",
        )
    };
    Err(in_doubt(error, hint))
}

/// The slot is ours to use, and complete; up to where it was acknowledged.
fn usable(slot: &SlotState, flushed: Option<Lsn>, server: &ServerState) -> Result<Lsn, Definite> {
    let name = &slot.name;
    let other = |what: String| {
        let hint = "Set `source.slot` to another name, which pgsluice creates; or drop that slot if nobody needs it.";
        Err(Definite::new(Kind::Source, anyhow!("replication slot \"{name}\" {what}"), hint))
    };
    let plugin = slot.plugin.as_deref().unwrap_or_default();
    let database = slot.database.as_deref().unwrap_or_default();
    if slot.slot_type != "logical" {
        return other(format!("is a {} slot; pgsluice needs a logical one", slot.slot_type));
    }
    if plugin != PLUGIN {
        return other(format!("uses the output plugin {plugin}; pgsluice reads {PLUGIN}"));
    }
    if database != server.database {
        return other(format!("is of the database \"{database}\", and the connection is to \"{}\"", server.database));
    }
    if slot.temporary {
        return other("is temporary, so it ends with the session that made it".to_owned());
    }
    if slot.two_phase {
        return other("sends transactions when they are prepared (two_phase), before they are committed".to_owned());
    }
    let lost = slot.wal_status.as_deref() == Some("lost");
    if lost || slot.invalidation.is_some() {
        return Err(invalidated(slot, flushed, server));
    }
    slot.confirmed_flush.ok_or_else(|| {
        let error = anyhow!("replication slot \"{name}\" is still being created by another session");
        let hint = "Its creation waits for open write transactions. End them (pg_stat_activity), or drop the slot.";
        Definite::new(Kind::Source, error, hint)
    })
}

fn gone(name: &str, checkpoint: &Checkpoint, server: &ServerState) -> Definite {
    in_doubt(
        anyhow!(
            "replication slot \"{name}\" does not exist (any more), and the checkpoint says that it was read up to {}. {}",
            checkpoint.flushed,
            lost_between(checkpoint.flushed, server.flushed)
        ),
        "The slot was dropped, or did not come along in a failover (before PostgreSQL 17, and without `failover`, slots do \
         not), or in a restore or an upgrade. If the old primary still runs, its slot can still be read.",
    )
}

fn invalidated(slot: &SlotState, flushed: Option<Lsn>, server: &ServerState) -> Definite {
    let reason = slot.invalidation.as_deref().unwrap_or("wal_status = lost");
    let range = match flushed.or(slot.confirmed_flush) {
        Some(from) => lost_between(from, server.flushed),
        None => format!("Changes committed before {} may be lost.", server.flushed),
    };
    in_doubt(
        anyhow!("replication slot \"{}\" was invalidated by the server ({reason}). {range}", slot.name),
        &format!(
            "Drop it (SELECT pg_drop_replication_slot({})). To keep it from happening again, raise \
             max_slot_wal_keep_size (or idle_replication_slot_timeout), or find out why pgsluice was behind for so long.",
            quote_literal(&slot.name)
        ),
    )
}

fn lost_between(from: Lsn, to: Lsn) -> String {
    format!("Changes committed between {from} and {to} may be missing.")
}

/// The way on is the same for all of them, and never taken without a human.
fn in_doubt(error: anyhow::Error, hint: &str) -> Definite {
    let way_on = "To start anew once what may be missing was dealt with (compared, or sent again from the tables): run \
                  `pgsluice checkpoint reset`; the next start goes on from the slot if there is a usable one, else creates it \
                  and starts at the server's current position.";
    Definite::new(Kind::InDoubt, error, format!("{hint} {way_on}"))
}

#[cfg(test)]
mod tests;

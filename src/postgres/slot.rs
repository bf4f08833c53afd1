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
        "Somebody has altered the publication. One that pgsluice has made follows `source.tables` by itself, at its next \
         start.",
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
mod tests {
    use super::*;
    use crate::lsn::Position;

    const NAME: &str = "shop";
    const PUBLICATION: &str = "shop tables";

    fn slot() -> SlotState {
        SlotState {
            name: NAME.to_owned(),
            slot_type: "logical".to_owned(),
            plugin: Some(PLUGIN.to_owned()),
            database: Some("shop_db".to_owned()),
            active_pid: None,
            temporary: false,
            two_phase: false,
            wal_status: Some("reserved".to_owned()),
            invalidation: None,
            restart: Some(Lsn(0x80)),
            confirmed_flush: Some(Lsn(0x100)),
        }
    }

    fn server() -> ServerState {
        ServerState {
            system_identifier: 42,
            timeline: 3,
            flushed: Lsn(0x900),
            database: "shop_db".to_owned(),
            history: Vec::new(),
        }
    }

    fn checkpoint() -> Checkpoint {
        let position = Some(Position { commit_lsn: Lsn(0x210), ordinal: 7 });
        Checkpoint {
            system_identifier: 42,
            timeline: 3,
            slot: NAME.to_owned(),
            publication: PUBLICATION.to_owned(),
            flushed: Lsn(0x200),
            position,
            retained: Vec::new(),
        }
    }

    /// Refused as `kind`, with each of `parts` in message or hint.
    fn refused(
        checkpoint: impl Into<Option<Checkpoint>>,
        slot: impl Into<Option<SlotState>>,
        server: &ServerState,
        kind: Kind,
        parts: &[&str],
    ) {
        let (checkpoint, slot) = (checkpoint.into(), slot.into());
        let error = verify(NAME, PUBLICATION, checkpoint.as_ref(), slot.as_ref(), server).expect_err("is refused");
        assert_eq!(error.kind, kind, "{error}");
        let text = format!("{error}\nhint: {}", error.hint);
        for part in parts {
            assert!(text.contains(part), "`{part}` in: {text}");
        }
        assert!(kind != Kind::InDoubt || text.contains("pgsluice checkpoint reset"), "{text}");
    }

    #[test]
    fn nothing_yet_creates_the_slot() {
        assert_eq!(verify(NAME, PUBLICATION, None, None, &server()).expect("is fine"), Decision::Create);
    }

    #[test]
    fn a_slot_without_a_checkpoint_is_adopted_where_it_stands() {
        let expected = Checkpoint { flushed: Lsn(0x100), position: None, ..checkpoint() };
        assert_eq!(
            verify(NAME, PUBLICATION, None, Some(&slot()), &server()).expect("is fine"),
            Decision::Adopt(expected)
        );
    }

    #[test]
    fn a_checkpoint_at_or_ahead_of_its_slot_is_resumed_with_its_position() {
        for confirmed in [0x1, 0x100, 0x200] {
            let slot = SlotState { confirmed_flush: Some(Lsn(confirmed)), ..slot() };
            let decision = verify(NAME, PUBLICATION, Some(&checkpoint()), Some(&slot), &server()).expect("is fine");
            assert_eq!(decision, Decision::Resume(checkpoint()));
        }
    }

    #[test]
    fn a_slot_that_holds_more_than_it_should_is_still_whole() {
        for status in ["reserved", "extended", "unreserved"] {
            let slot = SlotState { wal_status: Some(status.to_owned()), ..slot() };
            assert!(verify(NAME, PUBLICATION, Some(&checkpoint()), Some(&slot), &server()).is_ok(), "{status}");
        }
    }

    #[test]
    fn a_missing_slot_is_in_doubt_from_the_checkpoint_to_now() {
        refused(Some(checkpoint()), None, &server(), Kind::InDoubt, &["\"shop\"", "0/200", "0/900"]);
    }

    #[test]
    fn a_slot_ahead_of_the_checkpoint_is_in_doubt_by_the_difference() {
        let slot = SlotState { confirmed_flush: Some(Lsn(0x201)), ..slot() };
        refused(Some(checkpoint()), Some(slot), &server(), Kind::InDoubt, &["between 0/200 and 0/201", "advanced"]);
    }

    #[test]
    fn a_checkpoint_of_another_system_is_in_doubt() {
        let other = Checkpoint { system_identifier: 41, ..checkpoint() };
        for slot in [None, Some(slot())] {
            refused(Some(other.clone()), slot, &server(), Kind::InDoubt, &["system 41", "system 42", "0/200"]);
        }
    }

    #[test]
    fn a_checkpoint_of_another_slot_is_in_doubt() {
        let other = Checkpoint { slot: "old".to_owned(), ..checkpoint() };
        for slot in [None, Some(slot())] {
            refused(Some(other.clone()), slot, &server(), Kind::InDoubt, &["\"old\"", "\"shop\"", "source.slot"]);
        }
    }

    /// Within a transaction, the position would name another change.
    #[test]
    fn another_publication_may_be_used_between_transactions_only() {
        let other = Checkpoint { publication: "old".to_owned(), ..checkpoint() };
        refused(
            Some(other.clone()),
            Some(slot()),
            &server(),
            Kind::InDoubt,
            &["0/210:7", "\"old\"", "\"shop tables\""],
        );
        let delivered = Position { commit_lsn: Lsn(0x1F0), ordinal: 7 };
        for position in [None, Some(delivered)] {
            let between = Checkpoint { position, ..other.clone() };
            let decision = verify(NAME, PUBLICATION, Some(&between), Some(&slot()), &server()).expect("is fine");
            assert_eq!(decision, Decision::Resume(Checkpoint { publication: PUBLICATION.to_owned(), ..between }));
        }
    }

    #[test]
    fn a_checkpoint_ahead_of_the_server_is_in_doubt() {
        let idle = Checkpoint { position: None, ..checkpoint() };
        let server = ServerState { flushed: Lsn(0x1FF), ..server() };
        refused(Some(idle), Some(slot()), &server, Kind::InDoubt, &["0/200", "ends at 0/1FF", "backup"]);
    }

    #[test]
    fn an_invalidated_slot_is_in_doubt_with_or_without_a_checkpoint() {
        let lost = SlotState { wal_status: Some("lost".to_owned()), restart: None, ..slot() };
        let reason = SlotState { invalidation: Some("idle_timeout".to_owned()), ..slot() };
        for (slot, why) in [(lost, "wal_status = lost"), (reason, "idle_timeout")] {
            let drop = "pg_drop_replication_slot('shop')";
            refused(Some(checkpoint()), Some(slot.clone()), &server(), Kind::InDoubt, &[why, "0/200 and 0/900", drop]);
            refused(None, Some(slot.clone()), &server(), Kind::InDoubt, &[why, "0/100 and 0/900", drop]);
            let unknown = SlotState { confirmed_flush: None, ..slot };
            refused(None, Some(unknown), &server(), Kind::InDoubt, &[why, "before 0/900"]);
        }
    }

    #[test]
    fn a_slot_of_another_kind_is_not_used() {
        let physical = SlotState {
            slot_type: "physical".to_owned(),
            plugin: None,
            database: None,
            confirmed_flush: None,
            ..slot()
        };
        let plugin = SlotState { plugin: Some("wal2json".to_owned()), ..slot() };
        let database = SlotState { database: Some("other".to_owned()), ..slot() };
        let temporary = SlotState { temporary: true, ..slot() };
        let two_phase = SlotState { two_phase: true, ..slot() };
        for (slot, what) in [
            (physical, "physical"),
            (plugin, "wal2json"),
            (database, "\"other\""),
            (temporary, "temporary"),
            (two_phase, "two_phase"),
        ] {
            for checkpoint in [None, Some(checkpoint())] {
                refused(checkpoint, Some(slot.clone()), &server(), Kind::Source, &["\"shop\"", what, "source.slot"]);
            }
        }
    }

    #[test]
    fn a_slot_in_creation_is_not_used() {
        let slot = SlotState { confirmed_flush: None, restart: None, ..slot() };
        refused(None, Some(slot), &server(), Kind::Source, &["being created"]);
    }

    #[test]
    fn a_promoted_server_goes_on_when_it_has_the_checkpoint_in_its_history() {
        let history = vec![Switch { timeline: 2, at: Lsn(0x90) }, Switch { timeline: 3, at: Lsn(0x211) }];
        let server = ServerState { timeline: 5, history, ..server() };
        let expected = Checkpoint { timeline: 5, ..checkpoint() };
        let decision = verify(NAME, PUBLICATION, Some(&checkpoint()), Some(&slot()), &server).expect("is fine");
        assert_eq!(decision, Decision::Resume(expected));
    }

    #[test]
    fn a_promoted_server_that_lacks_the_checkpoint_is_in_doubt() {
        let server = ServerState { timeline: 4, history: vec![Switch { timeline: 3, at: Lsn(0x1FF) }], ..server() };
        let parts = ["timeline 3", "timeline 4", "between 0/1FF and 0/200"];
        let idle = Checkpoint { position: None, ..checkpoint() };
        refused(Some(idle), Some(slot()), &server, Kind::InDoubt, &parts);
    }

    /// Else other changes of the same LSNs would be taken for those that were delivered, and dropped.
    #[test]
    fn a_transaction_that_was_half_delivered_must_be_in_the_history_too() {
        for at in [0x200, 0x210] {
            let server = ServerState { timeline: 4, history: vec![Switch { timeline: 3, at: Lsn(at) }], ..server() };
            let range = format!("between {} and 0/210", Lsn(at));
            refused(Some(checkpoint()), Some(slot()), &server, Kind::InDoubt, &[&range]);
            let behind = ServerState { flushed: Lsn(at), ..self::server() };
            refused(
                Some(checkpoint()),
                Some(slot()),
                &behind,
                Kind::InDoubt,
                &["0/210", &format!("ends at {}", Lsn(at))],
            );
        }
    }

    #[test]
    fn an_unrelated_or_older_timeline_is_in_doubt() {
        let unrelated = ServerState { timeline: 4, ..server() };
        refused(Some(checkpoint()), Some(slot()), &unrelated, Kind::InDoubt, &["timeline 3", "timeline 4", "0/900"]);
        let older = ServerState { timeline: 2, ..server() };
        refused(Some(checkpoint()), Some(slot()), &older, Kind::InDoubt, &["timeline 3", "timeline 2", "old primary"]);
    }

    #[test]
    fn a_history_file_reads_as_the_server_writes_it() {
        let text = "1\t0/3000148\tno recovery target specified\n\n2\t16/B374D848\tbefore 2000-01-01 00:00:00+00\n# x\n";
        let expected = [Switch { timeline: 1, at: Lsn(0x300_0148) }, Switch { timeline: 2, at: Lsn(0x16_B374_D848) }];
        assert_eq!(parse_history(text), expected);
        assert!(parse_history("garbage").is_empty());
    }
}

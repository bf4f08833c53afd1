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
    assert_eq!(verify(NAME, PUBLICATION, None, Some(&slot()), &server()).expect("is fine"), Decision::Adopt(expected));
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
    refused(Some(other.clone()), Some(slot()), &server(), Kind::InDoubt, &["0/210:7", "\"old\"", "\"shop tables\""]);
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
    let physical =
        SlotState { slot_type: "physical".to_owned(), plugin: None, database: None, confirmed_flush: None, ..slot() };
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
        refused(Some(checkpoint()), Some(slot()), &behind, Kind::InDoubt, &["0/210", &format!("ends at {}", Lsn(at))]);
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

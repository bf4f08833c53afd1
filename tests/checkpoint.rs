//! The checkpoint file: what is stored is read again, whatever happened in between, and anything
//! else is refused with a message that says what to do.

use std::fs;
use std::path::Path;

use pgsluice::checkpoint::Checkpoint;
use pgsluice::checkpoint::file::{FILE, FileStore, StoreError, TakeError, read};
use pgsluice::failure::{Definite, Failure, Kind};
use pgsluice::lsn::{Lsn, Position};
use pgsluice::progress::Progress;

fn checkpoint(flushed: u64) -> Checkpoint {
    Checkpoint {
        system_identifier: 7_312_345_678_901_234_567,
        timeline: 3,
        slot: "shop".to_owned(),
        publication: "shop".to_owned(),
        flushed: Lsn(flushed),
        position: Some(Position { commit_lsn: Lsn(flushed + 8), ordinal: 4_711 }),
        retained: Vec::new(),
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn open(dir: &Path) -> FileStore {
    let store = FileStore::new(dir, "shop", None);
    store.take().expect("the folder is usable");
    store
}

fn stored(dir: &Path) -> Option<Checkpoint> {
    read(dir).expect("can be read")
}

/// What taking the folder says.
fn unusable(dir: &Path) -> Definite {
    FileStore::new(dir, "shop", None).take().map_err(TakeError::definite).expect_err("is refused")
}

/// A folder whose checkpoint reads `text`, and what loading it says.
fn refused(text: &[u8]) -> Definite {
    let dir = folder();
    fs::write(dir.path().join(FILE), text).expect("writes the file");
    let error = unusable(dir.path());
    assert_eq!(error.kind, Kind::Checkpoint);
    assert!(error.to_string().contains(FILE), "names the file: {error}");
    assert!(error.hint.contains("confirmed_flush_lsn"), "says how to go on: {}", error.hint);
    assert!(fs::read(dir.path().join(FILE)).is_ok_and(|now| now == text), "the evidence stays");
    error
}

#[test]
fn what_is_stored_is_loaded_by_the_next_process() {
    let parent = folder();
    let dir = parent.path().join("is/created");
    let store = open(&dir);
    assert_eq!(stored(&dir), None);
    for flushed in [10, 10, 0x16_B374_D848] {
        store.replace(&checkpoint(flushed)).expect("stores");
        assert_eq!(stored(&dir), Some(checkpoint(flushed)), "is readable while it is owned");
    }
    drop(store);
    let next = FileStore::new(&dir, "shop", None);
    assert_eq!(next.take().expect("is free"), Some(checkpoint(0x16_B374_D848)));
}

#[test]
fn the_file_is_for_humans_too() {
    let dir = folder();
    open(dir.path()).replace(&checkpoint(0x16_B374_D848)).expect("stores");
    let text = fs::read_to_string(dir.path().join(FILE)).expect("is text");
    for part in
        ["\"version\": 1", "\"flushed\": \"16/B374D848\"", "\"position\": \"16/B374D850:4711\"", "\"slot\": \"shop\""]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_checkpoint_before_the_first_change_has_no_position() {
    let dir = folder();
    let first = Checkpoint { position: None, ..checkpoint(10) };
    let store = open(dir.path());
    store.replace(&first).expect("stores");
    assert_eq!(stored(dir.path()), Some(first));
}

#[test]
fn a_leftover_of_a_crash_between_write_and_rename_is_harmless() {
    let dir = folder();
    open(dir.path()).replace(&checkpoint(10)).expect("stores");
    fs::write(dir.path().join("checkpoint.json.tmp"), "{\"version\": 1, \"chec").expect("writes the leftover");
    let store = open(dir.path());
    assert_eq!(stored(dir.path()), Some(checkpoint(10)));
    store.replace(&checkpoint(20)).expect("stores");
    assert_eq!(stored(dir.path()), Some(checkpoint(20)));
}

#[test]
fn every_truncation_and_every_flipped_bit_is_found() {
    let dir = folder();
    open(dir.path()).replace(&checkpoint(0x16_B374_D848)).expect("stores");
    let path = dir.path().join(FILE);
    let whole = fs::read(&path).expect("reads");
    // The last byte is a line feed, which may go.
    for length in 0..whole.len() - 1 {
        fs::write(&path, &whole[..length]).expect("writes");
        assert!(read(dir.path()).is_err(), "{length} bytes");
    }
    for (index, bit) in (0..whole.len()).flat_map(|index| (0..8).map(move |bit| (index, bit))) {
        let mut flipped = whole.clone();
        flipped[index] ^= 1 << bit;
        fs::write(&path, &flipped).expect("writes");
        // A flip that only changes the layout may pass, with the same content.
        if let Ok(loaded) = read(dir.path()) {
            assert_eq!(loaded, Some(checkpoint(0x16_B374_D848)), "bit {bit} of byte {index}");
        }
    }
}

#[test]
fn an_empty_file_says_so() {
    assert!(refused(b"").to_string().contains("it is empty"));
}

#[test]
fn a_truncated_file_says_so() {
    assert!(refused(b"{\"version\": 1, \"checkp").to_string().contains("truncated or corrupt"));
    assert!(refused(b"\0\0\0\0\0\0\0\0").to_string().contains("truncated or corrupt"));
    assert!(refused(&vec![b' '; 100_000]).to_string().contains("larger than"));
}

#[test]
fn an_edited_file_is_refused_with_both_checksums() {
    let dir = folder();
    open(dir.path()).replace(&checkpoint(0x16_B374_D848)).expect("stores");
    let text = fs::read_to_string(dir.path().join(FILE)).expect("reads");
    let error = refused(text.replace("B374D848", "B374D849").as_bytes());
    assert!(error.to_string().contains("its checksum is"), "{error}");
}

#[test]
fn a_file_of_a_newer_version_is_refused_whatever_else_it_holds() {
    let error = refused(br#"{"version": 2, "shards": []}"#);
    assert!(error.to_string().contains("format version 2"), "{error}");
    assert!(error.hint.contains("newer"), "{}", error.hint);
}

#[test]
fn progress_never_goes_back_and_never_changes_its_stream() {
    let dir = folder();
    let store = open(dir.path());
    store.replace(&checkpoint(20)).expect("stores");
    let earlier_position = Progress { flushed: Lsn(20), position: None };
    for wrong in [
        checkpoint(19),
        checkpoint(20).at(earlier_position),
        Checkpoint { timeline: 2, ..checkpoint(30) },
        Checkpoint { system_identifier: 1, ..checkpoint(30) },
        Checkpoint { slot: "other".to_owned(), ..checkpoint(30) },
    ] {
        let error = store.replace(&wrong).expect_err("is refused");
        assert!(matches!(error, StoreError::Backwards { .. }), "{error}");
        assert!(matches!(Failure::from(error), Failure::Definite(_)));
    }
    assert_eq!(stored(dir.path()), Some(checkpoint(20)));
}

#[test]
fn a_disk_that_refuses_is_transient_and_the_last_checkpoint_stays() {
    let dir = folder();
    let store = open(dir.path());
    store.replace(&checkpoint(10)).expect("stores");
    // What a full disk does at `create`, a folder in the way does too, for root as well.
    let in_the_way = dir.path().join("checkpoint.json.tmp/x");
    fs::create_dir_all(&in_the_way).expect("creates");
    let error = store.replace(&checkpoint(20)).expect_err("cannot be stored");
    assert!(error.to_string().contains("checkpoint.json.tmp"), "{error}");
    assert!(matches!(Failure::from(error), Failure::Transient(_)));
    assert_eq!(stored(dir.path()), Some(checkpoint(10)));
    fs::remove_dir_all(in_the_way.parent().expect("has one")).expect("removes");
    store.replace(&checkpoint(20)).expect("stores");
    assert_eq!(stored(dir.path()), Some(checkpoint(20)));
}

#[test]
fn two_processes_cannot_share_a_folder() {
    let dir = folder();
    let store = open(dir.path());
    let error = unusable(dir.path());
    assert_eq!(error.kind, Kind::Checkpoint);
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    drop(store);
    open(dir.path());
}

#[test]
fn a_folder_that_cannot_be_used_is_found_at_start() {
    let dir = folder();
    let file = dir.path().join("file");
    fs::write(&file, "").expect("writes");
    // /proc refuses new entries to root too.
    for (path, hint) in [
        (file.as_path(), "a file is in the way"),
        (&file.join("below"), "a file is in the way"),
        (Path::new("/proc"), "checkpoint.path"),
        (Path::new("/proc/pgsluice"), "checkpoint.path"),
    ] {
        let error = unusable(path);
        assert_eq!(error.kind, Kind::Checkpoint);
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        assert!(error.hint.contains(hint), "{}: {}", path.display(), error.hint);
    }
}

#[test]
fn a_checkpoint_that_cannot_be_read_is_no_missing_checkpoint() {
    let dir = folder();
    fs::create_dir(dir.path().join(FILE)).expect("creates");
    let error = unusable(dir.path());
    assert!(error.to_string().contains("cannot read the checkpoint"), "{error}");
}

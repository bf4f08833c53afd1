//! What commands print, held against files in `tests/snapshots`. `UPDATE_SNAPSHOTS=1` writes them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots")
}

/// Compares `text` with the file of that name, such as `help/run`.
pub(super) fn is_as_before(name: &str, text: &str) {
    let file = folder().join(name).with_extension("txt");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some_and(|value| value == "1") {
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("make the folder");
        std::fs::write(&file, text).expect("write the snapshot");
        return;
    }
    let before = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        before == text,
        "{} is not what is printed now; if that is meant, run the test with UPDATE_SNAPSHOTS=1\n--- before\n{before}\n--- now\n{text}",
        file.display()
    );
}

/// The files below a folder of snapshots, without their extension.
pub(super) fn names(below: &str) -> BTreeSet<String> {
    let files = std::fs::read_dir(folder().join(below)).expect("the folder");
    let name = |file: std::io::Result<std::fs::DirEntry>| {
        file.expect("a file").path().file_stem().expect("a name").to_string_lossy().into_owned()
    };
    files.map(name).collect()
}

//! A checkpoint as text: one small JSON document, the same in a file and in a table.

use std::fmt::Write as _;

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Checkpoint;
use crate::failure::{Definite, Kind};

/// Of the format. Raise it when an older pgsluice would misread a newer document.
const VERSION: u32 = 1;
/// A checkpoint takes some 300 bytes; what is larger is something else.
pub(super) const LARGEST_BYTES: u64 = 64 * 1024;

const START_FROM_THE_SLOT: &str = "Restore it from a backup taken from this same place, or move it away: pgsluice then goes \
    on from the slot's confirmed_flush_lsn, which is never past what was stored, so that nothing is lost and some events \
    may be sent again.";

/// The document.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    checkpoint: Checkpoint,
    /// See [`checksum`].
    sha256: String,
}

/// What every version of the format has.
#[derive(Debug, Deserialize)]
struct Versioned {
    version: u32,
}

/// Reads what [`render`] has written; `name` says whose it is.
///
/// # Errors
/// Anything else. Never guessed around: a wrong position can lose events.
pub(super) fn parse(name: &str, text: &[u8]) -> Result<Checkpoint, Definite> {
    let unusable = |what: anyhow::Error| what.context(format!("{name} is not usable"));
    let corrupt = |what| Definite::new(Kind::Checkpoint, unusable(what), START_FROM_THE_SLOT);
    if text.is_empty() {
        return Err(corrupt(anyhow!("it is empty")));
    }
    if text.len() as u64 > LARGEST_BYTES {
        return Err(corrupt(anyhow!("it is larger than {LARGEST_BYTES} bytes, so something else has written it")));
    }
    let Versioned { version } = serde_json::from_slice(text).context("it is truncated or corrupt").map_err(corrupt)?;
    if version != VERSION {
        let what = anyhow!("it has format version {version}, and this pgsluice reads version {VERSION}");
        let hint = format!("Run the pgsluice that wrote it, or a newer one. {START_FROM_THE_SLOT}");
        return Err(Definite::new(Kind::Checkpoint, unusable(what), hint));
    }
    let stored: Stored = serde_json::from_slice(text).context("it is truncated or corrupt").map_err(corrupt)?;
    let expected = checksum(&stored.checkpoint);
    if stored.sha256 != expected {
        let found = stored.sha256;
        return Err(corrupt(anyhow!(
            "its checksum is {found} where its content has {expected}: it is corrupt, or was edited"
        )));
    }
    Ok(stored.checkpoint)
}

pub(super) fn render(checkpoint: &Checkpoint) -> String {
    let sha256 = checksum(checkpoint);
    let stored = Stored { version: VERSION, checkpoint: checkpoint.clone(), sha256 };
    let mut text = serde_json::to_string_pretty(&stored).expect("numbers and strings always serialize");
    text.push('\n');
    text
}

/// SHA-256 in lowercase hexadecimal over the JSON array `[version,checkpoint]` without white space, so that
/// the document's layout does not matter.
fn checksum(checkpoint: &Checkpoint) -> String {
    let content = serde_json::to_vec(&(VERSION, checkpoint)).expect("numbers and strings always serialize");
    Sha256::digest(content).iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

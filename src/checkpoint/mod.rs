//! The watermark as last stored durably, and the proof of it.

pub mod configured;
mod document;
pub mod file;
pub mod memory;
pub mod postgres;
pub mod writer;

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::lsn::{Lsn, Position};
use crate::progress::Progress;

/// Where checkpoints are kept, for one pgsluice at a time.
///
/// The futures own what they need, so that they can be kept across turns of the loop.
pub trait Store: Debug + Send + Sync {
    /// Reads the checkpoint; none when none was stored yet. A store that only one process can have is taken into
    /// possession, and waited for as a standby; any other belongs to who stores in it after who read it last.
    fn load(self: Arc<Self>) -> Loading;

    /// Replaces the stored checkpoint, and completes once it would survive a power loss. Storing again after a
    /// transient failure is safe.
    fn store(self: Arc<Self>, checkpoint: Checkpoint) -> Storing;

    /// How often to store while nothing is settled, and only the idle stream moves on.
    fn idle_interval(&self) -> Duration {
        Duration::ZERO
    }
}

/// What [`Store::load`] returns. Definite: what is stored can't be read, or is not what a store has written.
pub type Loading = Pin<Box<dyn Future<Output = Result<Option<Checkpoint>, Failure>> + Send>>;
/// What [`Store::store`] returns. Transient: a full disk, a server that is away.
pub type Storing = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// What is stored: how far everything is settled, and on which server and slot that is true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// `IDENTIFY_SYSTEM`'s `systemid`.
    pub system_identifier: u64,
    /// The timeline on which it was taken.
    pub timeline: u32,
    /// The replication slot.
    pub slot: String,
    /// The publication: it decides which changes the slot sends, and so how they are counted in a position.
    pub publication: String,
    /// Everything before it is settled; `START_REPLICATION` begins here.
    #[serde(with = "as_text")]
    pub flushed: Lsn,
    /// The last settled change; it may lie in a transaction that ends after `flushed`.
    #[serde(with = "as_optional_text")]
    pub position: Option<Position>,
    /// Where it was before, as far back as PostgreSQL is held for replays; oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retained: Vec<Mark>,
}

/// What `flushed` was, and since when: without the time, a restart would begin a new `replay.retain_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// A checkpoint's `flushed`.
    #[serde(with = "as_text")]
    pub lsn: Lsn,
    /// When that was stored: milliseconds since 1970, by our clock.
    pub at_ms: u64,
}

impl Checkpoint {
    /// The progress it stands for.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress { flushed: self.flushed, position: self.position }
    }

    /// Whether it is of the same stream as `stored`, and not behind it.
    #[must_use]
    pub fn follows(&self, stored: &Self) -> bool {
        stored.system_identifier == self.system_identifier
            && stored.slot == self.slot
            && stored.timeline <= self.timeline
            && stored.flushed <= self.flushed
            && stored.position <= self.position
    }

    /// The same binding, further on.
    #[must_use]
    pub fn at(&self, progress: Progress) -> Self {
        Self { flushed: progress.flushed, position: progress.position, ..self.clone() }
    }
}

/// An LSN at or below a checkpoint that is stored durably. Only the [writer](writer::Checkpointer) makes one, from a
/// store's word, so that telling PostgreSQL about anything else does not compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurableLsn(Lsn);

impl DurableLsn {
    /// The LSN.
    #[must_use]
    pub fn lsn(self) -> Lsn {
        self.0
    }

    /// What was durable before this was: `lsn`, or this itself if that is not below it.
    #[must_use]
    pub fn or_before(self, lsn: Lsn) -> Self {
        Self(self.0.min(lsn))
    }
}

mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<T: std::fmt::Display, S: Serializer>(value: &T, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(d: D) -> Result<T, D::Error>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

// serde hands a field over as it is.
#[allow(clippy::ref_option)]
mod as_optional_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<T: std::fmt::Display, S: Serializer>(value: &Option<T>, s: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(ToString::to_string).serialize(s)
    }

    pub(super) fn deserialize<'de, T, D>(d: D) -> Result<Option<T>, D::Error>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
        D: Deserializer<'de>,
    {
        Option::<String>::deserialize(d)?.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

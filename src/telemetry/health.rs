//! What the process is doing, for whoever asks whether it is ready.
//!
//! Each part sets its own state when it changes; nothing here decides anything.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

use crate::failure::Poison;

/// Shared by all parts of one pipeline.
#[derive(Debug, Clone)]
pub struct Health(Arc<watch::Sender<State>>);

/// What each part is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct State {
    /// The stream from PostgreSQL.
    pub source: Source,
    /// The publisher.
    pub broker: Broker,
    /// The store of the checkpoint.
    pub checkpoint: Checkpoint,
    /// What is wrong with an event that can't be published, for which all later ones wait.
    pub event: Option<Poison>,
}

/// Of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Not streaming (yet, or any more): trying to.
    #[default]
    Connecting,
    /// Another pgsluice of the same name streams; this one takes over when that one ends.
    Standby,
    /// Changes flow, or could.
    Streaming,
}

/// Of the publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Broker {
    /// There was no connection yet, or it is lost: trying to connect.
    #[default]
    Connecting,
    /// Events flow, or could.
    Flowing,
    /// The broker raised a memory or disk alarm: nothing is sent until it is over.
    Blocked,
    /// The broker refused events, or no queue takes one: waiting, then trying again.
    Retrying,
    /// The broker refuses an event for good, and those behind it wait: trying it again, now and then.
    Refusing,
}

/// Of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Checkpoint {
    /// The last write succeeded, or there was none yet.
    #[default]
    Fine,
    /// It can't be stored, so that nothing more is acknowledged to PostgreSQL.
    Failing,
}

impl State {
    /// Whether changes flow from one end to the other, and are acknowledged.
    #[must_use]
    pub fn is_ready(self) -> bool {
        let (source, broker, checkpoint) = (Source::Streaming, Broker::Flowing, Checkpoint::Fine);
        self == Self { source, broker, checkpoint, event: None }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(State::default())))
    }
}

impl Health {
    /// What it is now.
    #[must_use]
    pub fn state(&self) -> State {
        *self.0.borrow()
    }

    /// The source has changed.
    pub fn source(&self, source: Source) {
        self.set(|state| State { source, ..state });
    }

    /// The publisher may have changed.
    pub fn broker(&self, broker: Broker) {
        self.set(|state| State { broker, ..state });
    }

    /// The store may have changed.
    pub fn checkpoint(&self, checkpoint: Checkpoint) {
        self.set(|state| State { checkpoint, ..state });
    }

    /// An event that can't be published is waited for, or none any more.
    pub fn event(&self, event: Option<Poison>) {
        self.set(|state| State { event, ..state });
    }

    fn set(&self, change: impl FnOnce(State) -> State) {
        self.0.send_if_modified(|state| {
            let before = std::mem::replace(state, change(*state));
            before != *state
        });
    }
}

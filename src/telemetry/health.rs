//! What the process is doing, for whoever asks whether it is ready.
//!
//! Each part sets its own state when it changes; nothing here decides anything. Whether pgsluice is paused is what somebody
//! asks for: the loop looks here.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::metrics::Metrics;
use super::otlp::tracer::Tracer;
use super::pulse::Pulse;
use crate::failure::Poison;

/// Shared by all parts of one pipeline.
#[derive(Debug, Clone)]
pub struct Health(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: watch::Sender<State>,
    paused: watch::Sender<bool>,
    ended: watch::Sender<Option<Ended>>,
    metrics: Metrics,
    tracer: Tracer,
    pulse: Pulse,
}

/// How a pipeline has ended, while others of the process may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop.
    AsAsked,
    /// It can't go on.
    Failed {
        /// For this reason.
        why: String,
        /// It is started again in a while, because that may cure it.
        is_tried_again: bool,
    },
}

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

impl State {
    /// Nothing is in the way.
    const WELL: Self =
        Self { source: Source::Streaming, broker: Broker::Flowing, checkpoint: Checkpoint::Fine, event: None };
}

/// Of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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

impl Source {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Standby => "standby",
            Self::Streaming => "streaming",
        }
    }
}

/// Of the publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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

impl Broker {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Flowing => "flowing",
            Self::Blocked => "blocked",
            Self::Retrying => "retrying",
            Self::Refusing => "refusing",
        }
    }
}

/// Of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checkpoint {
    /// The last write succeeded, or there was none yet.
    #[default]
    Fine,
    /// It can't be stored, so that nothing more is acknowledged to PostgreSQL.
    Failing,
}

impl Checkpoint {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Failing => "failing",
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::traced(Tracer::default())
    }
}

impl Health {
    /// Of a pipeline whose spans this makes.
    #[must_use]
    pub fn traced(tracer: Tracer) -> Self {
        let (state, paused) = (watch::Sender::new(State::default()), watch::Sender::new(false));
        let (ended, metrics, pulse) = (watch::Sender::new(None), Metrics::default(), Pulse::default());
        Self(Arc::new(Shared { state, paused, ended, metrics, tracer, pulse }))
    }

    /// What makes its spans.
    #[must_use]
    pub fn tracer(&self) -> &Tracer {
        &self.0.tracer
    }

    /// What it is now.
    #[must_use]
    pub fn state(&self) -> State {
        *self.0.state.borrow()
    }

    /// Completes once changes flow from one end to the other, and are acknowledged.
    pub async fn until_ready(&self) {
        // Its sender is ours.
        let _ = self.0.state.subscribe().wait_for(|state| *state == State::WELL).await;
    }

    /// Whether changes flow from one end to the other, and are acknowledged.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.state() == State::WELL
    }

    /// Whether another pgsluice of the same name streams.
    #[must_use]
    pub fn is_standby(&self) -> bool {
        self.state().source == Source::Standby
    }

    /// Whether the loop turns.
    #[must_use]
    pub fn pulse(&self) -> &Pulse {
        &self.0.pulse
    }

    /// It has ended, and this is how.
    pub fn end(&self, ended: Ended) {
        self.0.ended.send_replace(Some(ended));
        self.0.metrics.end();
        self.set(|_| State::default());
    }

    /// It is started again.
    pub fn begin_again(&self) {
        self.0.ended.send_replace(None);
    }

    /// How it has ended; none: it runs.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.0.ended.borrow().clone()
    }

    /// What is counted and measured.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
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
        self.0.state.send_if_modified(|state| {
            let before = std::mem::replace(state, change(*state));
            before != *state
        });
    }

    /// Whether nothing new is to be read or published.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        *self.0.paused.borrow()
    }

    /// Asks for a pause, or for its end; false when it is so already.
    #[must_use]
    pub fn pause(&self, paused: bool) -> bool {
        self.0.paused.send_if_modified(|is| std::mem::replace(is, paused) != paused)
    }

    /// Completes once somebody has asked for a pause, or for its end, since this was made.
    #[must_use]
    pub fn pause_asked(&self) -> watch::Receiver<bool> {
        self.0.paused.subscribe()
    }
}

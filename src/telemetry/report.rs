//! What is told about one pipeline: all that `/metrics`, `/status`, `/readyz` and the page say is put together here.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::health::{Broker, Checkpoint, Ended, Health, Source, State};
use super::metrics::Metrics;
use super::metrics::now_us;
use super::otlp::tracer::Counts;
use crate::config::Settings;

/// What is known of a pipeline from its configuration, and what it is doing.
#[derive(Debug, Clone)]
pub struct Report {
    health: Health,
    facts: Facts,
    started_us: i64,
}

/// Of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// The pipeline's.
    pub name: String,
    /// The replication slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// The most events in flight.
    pub in_flight_events_max: usize,
    /// The most bytes in flight.
    pub in_flight_bytes_max: usize,
    /// Not ready with more lag than this.
    pub ready_lag_bytes: Option<u64>,
    /// Not ready with more lag than this.
    pub ready_lag: Option<Duration>,
}

impl Facts {
    /// Those that `settings` say.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let (limits, http) = (settings.rabbitmq.in_flight, settings.http.as_ref());
        Self {
            name: settings.name.clone(),
            slot: settings.source.slot.clone(),
            publication: settings.source.publication.clone(),
            in_flight_events_max: limits.events,
            in_flight_bytes_max: limits.bytes,
            ready_lag_bytes: http.and_then(|http| http.ready_lag_bytes),
            ready_lag: http.and_then(|http| http.ready_lag),
        }
    }
}

/// What the pipeline is doing, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Summary {
    /// Changes flow, or could.
    Flowing,
    /// It was asked to pause.
    Paused,
    /// Another pgsluice of the same name streams.
    Standby,
    /// Something is in the way: the reasons say what.
    Waiting,
    /// It has stopped, as it was asked to.
    Stopped,
    /// It can't go on, and others of the process do: the reason says why.
    Failed,
}

impl Summary {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Flowing, Self::Paused, Self::Standby, Self::Waiting, Self::Stopped, Self::Failed];

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flowing => "flowing",
            Self::Paused => "paused",
            Self::Standby => "standby",
            Self::Waiting => "waiting",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// Why it is not ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// For programs; `docs/telemetry.md` lists them.
    pub code: String,
    /// For persons.
    pub message: String,
}

impl Report {
    /// About the pipeline with this health, which starts now.
    #[must_use]
    pub fn new(health: Health, facts: Facts) -> Self {
        Self { health, facts, started_us: now_us() }
    }

    /// What is counted and measured.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        self.health.metrics()
    }

    /// What has become of its spans; none: it has none.
    #[must_use]
    pub fn spans(&self) -> Option<Counts> {
        self.health.tracer().counts()
    }

    /// What its parts are doing.
    #[must_use]
    pub fn state(&self) -> State {
        self.health.state()
    }

    /// Whom to ask for a pause.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Of the configuration.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The pipeline's.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.facts.name
    }

    /// When it started, in microseconds since 1970.
    #[must_use]
    pub fn started_us(&self) -> i64 {
        self.started_us
    }

    /// Whether it was asked to pause.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.health.is_paused()
    }

    /// In a word.
    #[must_use]
    pub fn summary(&self) -> Summary {
        match self.health.ended() {
            Some(Ended::AsAsked) => return Summary::Stopped,
            Some(Ended::Failed { .. }) => return Summary::Failed,
            None => {}
        }
        match self.state().source {
            _ if self.is_paused() => Summary::Paused,
            Source::Standby => Summary::Standby,
            Source::Connecting | Source::Streaming if self.reasons().is_empty() => Summary::Flowing,
            Source::Connecting | Source::Streaming => Summary::Waiting,
        }
    }

    /// Whether it runs; or else it has ended, and others of the process have not.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.health.ended().is_none()
    }

    /// Why it is not ready; none: it is.
    #[must_use]
    pub fn reasons(&self) -> Vec<Reason> {
        if let Some(ended) = self.health.ended() {
            let (code, message) = match ended {
                Ended::AsAsked => ("stopped", "it has stopped, as it was asked to".to_owned()),
                Ended::Failed { why, is_tried_again: true } => {
                    ("failed", format!("it is started again in a while: {why}"))
                }
                Ended::Failed { why, is_tried_again: false } => {
                    ("failed", format!("it can't go on, and needs a start of the process: {why}"))
                }
            };
            return vec![Reason { code: code.to_owned(), message }];
        }
        let State { source, broker, checkpoint, event } = self.state();
        let (lag_bytes, lag_us) = (self.metrics().lag_bytes(), self.metrics().lag_us());
        let paused = self.is_paused().then(|| ("paused", "it was asked to pause (POST /resume goes on)".to_owned()));
        let source = match source {
            Source::Connecting => Some(("source_connecting", "there is no stream from PostgreSQL".to_owned())),
            Source::Standby => Some(("standby", "another pgsluice has the slot or the checkpoint".to_owned())),
            Source::Streaming => None,
        };
        let broker = match broker {
            Broker::Connecting => Some(("broker_connecting", "there is no connection to RabbitMQ".to_owned())),
            Broker::Blocked => {
                Some(("broker_blocked", "RabbitMQ blocks publishers (a memory or disk alarm)".to_owned()))
            }
            Broker::Retrying => Some(("broker_retrying", "RabbitMQ refuses an event, or no queue takes it".to_owned())),
            Broker::Refusing => Some(("broker_refusing", "RabbitMQ refuses an event for good".to_owned())),
            Broker::Flowing => None,
        };
        let checkpoint = match checkpoint {
            Checkpoint::Failing => Some(("checkpoint_failing", "the checkpoint can't be stored".to_owned())),
            Checkpoint::Fine => None,
        };
        let event =
            event.map(|poison| ("event_unpublishable", format!("an event can't be published: {}", poison.as_str())));
        let bytes = self.facts.ready_lag_bytes.filter(|limit| lag_bytes > *limit);
        let bytes =
            bytes.map(|limit| ("lag_bytes", format!("{lag_bytes} bytes of WAL behind, and {limit} are allowed")));
        let time = self.facts.ready_lag.filter(|limit| u128::from(lag_us) > limit.as_micros());
        let time = time
            .map(|limit| ("lag_ms", format!("{} ms behind, and {} are allowed", lag_us / 1_000, limit.as_millis())));
        let reasons = [paused, source, broker, checkpoint, event, bytes, time].into_iter().flatten();
        reasons.map(|(code, message)| Reason { code: code.to_owned(), message }).collect()
    }
}

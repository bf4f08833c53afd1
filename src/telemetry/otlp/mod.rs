//! Spans of OpenTelemetry, by OTLP over HTTP: of the events that belong to a trace, and of what the process does itself.
//!
//! A pipeline has a [`Tracer`], which is off unless `otlp.endpoint` is set, and then costs a look at a pointer. What ends is
//! queued for the one thread of the process that exports. Invariants: nothing here waits or fails where events flow; all spans
//! together, open ones too, are at most [`SPANS_MAX`], and those for which there is no place are counted and gone.
//!
//! An event's header `traceparent` stays what its row says, and the span that is made here is a child of that. The conventions
//! have it so for a message that brings its own context
//! (<https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/>), and it has to be so here: what is delivered again
//! must be the same, whatever became of a span, and with the export on or off.
//!
//! `events` has the spans of what is in flight, `connecting` those of connections; `export` sends them by `post`, as `wire` has it.

pub mod connecting;
pub mod events;
mod export;
mod post;
pub mod span;
pub mod tracer;
mod wire;

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::config::OtlpSettings;
use crate::failure::{Definite, Kind};
use export::Export;
use post::Poster;
use tracer::{Queue, Tracer};

/// All spans of the process that are open, queued, or being sent.
pub const SPANS_MAX: usize = 8_192;
/// The end of the process waits no longer for the last of them.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// Exports for the whole process; or nothing, where no endpoint is configured.
#[derive(Debug)]
pub struct Exporter(Option<Running>);

#[derive(Debug)]
struct Running {
    queue: Queue,
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
    flush_max: Duration,
}

impl Exporter {
    /// Starts its thread, if there is where to export to.
    ///
    /// # Errors
    /// The certificate of who signs the collector's can't be used, or there is no thread to be had.
    pub fn start(settings: Option<&OtlpSettings>) -> Result<Self, Definite> {
        let Some(settings) = settings else { return Ok(Self(None)) };
        let poster = Poster::new(settings)?;
        let (sender, spans) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let export = Export::new(spans, stopped, poster);
        let run = move || {
            if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
                runtime.block_on(export.run());
            }
            // Nobody may be waiting.
            let _ = end.send(());
        };
        std::thread::Builder::new().name("otlp".to_owned()).spawn(run).map_err(|error| {
            Definite::new(Kind::Process, error, "raise the limit for threads, or leave otlp.endpoint out")
        })?;
        tracing::info!(collector = %settings.traces, "exporting spans");
        let queue = Queue::new(sender, settings.sample_per_million);
        Ok(Self(Some(Running { queue, stop, ended, flush_max: settings.timeout.min(FLUSH_MAX) })))
    }

    /// For the pipeline of this name.
    #[must_use]
    pub fn tracer(&self, name: &str) -> Tracer {
        self.0.as_ref().map_or_else(Tracer::default, |running| Tracer::new(name, running.queue.clone()))
    }

    /// Sends what has ended so far, for a few seconds at most. What ends later is not sent.
    pub async fn finish(self) {
        let Some(Running { stop, ended, flush_max, .. }) = self.0 else { return };
        if stop.send(()).is_ok() {
            let _ = tokio::time::timeout(flush_max, ended).await;
        }
    }
}

//! The spans of the events in flight: from when one was taken in to when it is settled.
//!
//! An event has one if its header `traceparent` says that its trace is recorded; some begin one, if that is configured. All that
//! is wanted of the event is copied when it is taken in, because nothing is left of it later. `metrics::meter` is the caller.

use std::collections::VecDeque;
use std::fmt::Display;

use super::span::{Kind, Parent};
use super::tracer::{Open, Tracer};
use crate::encode::message::Event;
use crate::encode::trace_context::{TRACEPARENT, TRACESTATE, TraceContext};
use crate::failure::Poison;
use crate::progress::Seq;

/// What an event says of itself is cut after so many characters; what can be published is not longer.
const TEXT_MAX: usize = 255;
/// A longer `tracestate` need not be passed on (§3.3.1.5 of the recommendation), and is left out of the span.
const TRACESTATE_MAX: usize = 512;

/// Those of one pipeline.
#[derive(Debug)]
pub struct EventSpans {
    tracer: Tracer,
    /// By the event's name in the window, ascending.
    open: VecDeque<(Seq, Open)>,
}

impl EventSpans {
    /// None: nothing is exported.
    #[must_use]
    pub fn of(tracer: &Tracer) -> Option<Self> {
        tracer.is_on().then(|| Self { tracer: tracer.clone(), open: VecDeque::new() })
    }

    /// This event is in flight now, by this name. `committed_at_us`: since 1970.
    pub fn taken(&mut self, seq: Seq, event: &Event, table: &str, at: impl Display, committed_at_us: Option<i64>) {
        let headers = event.headers.all();
        let parent = match headers.text(TRACEPARENT).and_then(TraceContext::parse) {
            Some(context) if context.is_sampled() => {
                let state = headers.text(TRACESTATE).filter(|state| state.len() <= TRACESTATE_MAX);
                Some(Parent { context, state: state.unwrap_or_default().to_owned() })
            }
            None if self.tracer.draws() => None,
            // Whoever began the trace does not record it; or there is none.
            Some(_) | None => return,
        };
        let name = format!("publish {}", cut(&event.exchange));
        let Some(mut open) = self.tracer.start(name, Kind::Client, parent) else { return };
        open.set("messaging.system", "rabbitmq");
        open.set("messaging.operation.type", "send");
        open.set("messaging.operation.name", "publish");
        open.set("messaging.destination.name", destination(event));
        if !event.routing_key.is_empty() {
            open.set("messaging.rabbitmq.destination.routing_key", cut(&event.routing_key));
        }
        open.set("messaging.message.id", cut(&event.message_id));
        open.set("messaging.message.body.size", i64::try_from(event.body.len()).unwrap_or(i64::MAX));
        open.set("pgsluice.event.type", cut(&event.event_type));
        open.set("pgsluice.table", cut(table));
        open.set("pgsluice.position", at.to_string());
        if let Some(committed_at_us) = committed_at_us {
            // Two clocks: what is negative is their difference.
            open.set("pgsluice.commit_lag_us", (open.start_us() - committed_at_us).max(0));
        }
        self.open.push_back((seq, open));
    }

    /// This event goes to the parking exchange, since it can't be published (none: because no queue takes it).
    pub fn parked(&mut self, seq: Seq, poison: Option<Poison>) {
        if let Some((_, open)) = self.find(seq).and_then(|index| self.open.get_mut(index)) {
            let why = poison.map_or("unroutable", Poison::as_str);
            open.set("error.type", why);
            open.fail("parked");
        }
    }

    /// This event is settled, at that time.
    pub fn settled(&mut self, seq: Seq, now_us: i64) {
        // Mostly the first, so that little is moved.
        if let Some((_, open)) = self.find(seq).and_then(|index| self.open.remove(index)) {
            open.end(now_us);
        }
    }

    fn find(&self, seq: Seq) -> Option<usize> {
        self.open.binary_search_by_key(&seq, |(seq, _)| *seq).ok()
    }
}

/// As the conventions for RabbitMQ have it: exchange and routing key, where there are both.
fn destination(event: &Event) -> String {
    let (exchange, routing_key) = (cut(&event.exchange), cut(&event.routing_key));
    if routing_key.is_empty() { exchange.to_owned() } else { format!("{exchange}:{routing_key}") }
}

fn cut(text: &str) -> &str {
    text.char_indices().nth(TEXT_MAX).map_or(text, |(end, _)| &text[..end])
}

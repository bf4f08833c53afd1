//! Begins spans, and queues them once they have ended. Any thread; nothing waits.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc::UnboundedSender;

use super::SPANS_MAX;
use super::span::{Kind, Parent, Span, Value};
use crate::telemetry::metrics::now_us;

/// Makes the spans of one pipeline; clones are the same. The default is off.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Pipeline>>);

/// What has become of a pipeline's spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// The collector took them.
    pub exported: u64,
    /// There was no place for them, or the collector refused them.
    pub dropped: u64,
}

/// Where all spans of the process go.
#[derive(Debug, Clone)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    sender: UnboundedSender<Ended>,
    /// Places that are taken.
    held: AtomicUsize,
    sample_per_million: u32,
    /// Seeded by the system: ids have to differ from those of other processes.
    random: Mutex<fastrand::Rng>,
}

#[derive(Debug)]
struct Pipeline {
    name: String,
    queue: Queue,
    exported: AtomicU64,
    dropped: AtomicU64,
}

/// One of [`SPANS_MAX`], of this pipeline.
#[derive(Debug)]
pub(super) struct Place(Arc<Pipeline>);

/// A span that has not ended. One that is let go is not exported.
#[derive(Debug)]
pub struct Open {
    span: Box<Span>,
    place: Place,
}

/// A span to be exported.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) span: Box<Span>,
    pub(super) place: Place,
}

impl Queue {
    pub(super) fn new(sender: UnboundedSender<Ended>, sample_per_million: u32) -> Self {
        let random = Mutex::new(fastrand::Rng::with_seed(RandomState::new().hash_one(std::process::id())));
        Self(Arc::new(Shared { sender, held: AtomicUsize::new(0), sample_per_million, random }))
    }

    fn ids(&self) -> ([u8; 16], [u8; 8]) {
        let mut random = self.0.random.lock().unwrap_or_else(PoisonError::into_inner);
        // Zero is no id.
        (random.u128(1..).to_be_bytes(), random.u64(1..).to_be_bytes())
    }
}

impl Tracer {
    pub(super) fn new(name: &str, queue: Queue) -> Self {
        let (exported, dropped) = (AtomicU64::new(0), AtomicU64::new(0));
        Self(Some(Arc::new(Pipeline { name: name.to_owned(), queue, exported, dropped })))
    }

    /// Whether anything is exported at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// What has become of its spans; none: it is off.
    #[must_use]
    pub fn counts(&self) -> Option<Counts> {
        let pipeline = self.0.as_ref()?;
        Some(Counts { exported: pipeline.exported.load(Relaxed), dropped: pipeline.dropped.load(Relaxed) })
    }

    /// Whether an event that is of no trace is to begin one.
    #[must_use]
    pub fn draws(&self) -> bool {
        let share = self.0.as_ref().map_or(0, |pipeline| pipeline.queue.0.sample_per_million);
        share > 0 && fastrand::u32(..1_000_000) < share
    }

    /// Begins a span now; none: it is off, or there is no place for another.
    #[must_use]
    pub fn start(&self, name: String, kind: Kind, parent: Option<Parent>) -> Option<Open> {
        let pipeline = self.0.as_ref()?;
        let held = &pipeline.queue.0.held;
        if held.fetch_update(Relaxed, Relaxed, |held| (held < SPANS_MAX).then_some(held + 1)).is_err() {
            pipeline.dropped.fetch_add(1, Relaxed);
            return None;
        }
        let place = Place(Arc::clone(pipeline));
        let (trace_id, span_id) = pipeline.queue.ids();
        let trace_id = parent.as_ref().map_or(trace_id, |parent| parent.context.trace_id);
        let start_us = now_us();
        let (attributes, error) = (Vec::new(), None);
        let span = Span { name, kind, trace_id, span_id, parent, start_us, end_us: start_us, attributes, error };
        Some(Open { span: Box::new(span), place })
    }
}

impl Open {
    /// Says more of it; what was said by that name no longer counts.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        let attributes = &mut self.span.attributes;
        match attributes.iter_mut().find(|(set, _)| *set == name) {
            Some((_, before)) => *before = value.into(),
            None => attributes.push((name, value.into())),
        }
    }

    /// It comes to nothing, and why.
    pub fn fail(&mut self, why: &str) {
        self.span.error = Some(why.to_owned());
    }

    /// When it began, in microseconds since 1970.
    #[must_use]
    pub fn start_us(&self) -> i64 {
        self.span.start_us
    }

    /// It ended then, in microseconds since 1970, and goes out.
    pub fn end(self, at_us: i64) {
        let Self { mut span, place } = self;
        // The clock may have been set back.
        span.end_us = at_us.max(span.start_us);
        let sender = place.0.queue.0.sender.clone();
        if let Err(unsent) = sender.send(Ended { span, place }) {
            unsent.0.place.dropped(1);
        }
    }
}

impl Place {
    /// The pipeline's name.
    pub(super) fn name(&self) -> &str {
        &self.0.name
    }

    /// So many of its spans are out.
    pub(super) fn exported(&self, count: u64) {
        self.0.exported.fetch_add(count, Relaxed);
    }

    /// So many are not.
    pub(super) fn dropped(&self, count: u64) {
        self.0.dropped.fetch_add(count, Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.queue.0.held.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn however_many_spans_there_are_their_places_are_few_and_the_rest_is_counted() {
        let (sender, mut spans) = mpsc::unbounded_channel();
        let queue = Queue::new(sender, 0);
        let (tracer, other) = (Tracer::new("shop", queue.clone()), Tracer::new("other", queue));
        let start = |tracer: &Tracer| tracer.start("x".to_owned(), Kind::Internal, None);
        let mut open: Vec<Open> = (0..SPANS_MAX).filter_map(|_| start(&tracer)).collect();
        assert_eq!((open.len(), start(&tracer).is_none(), start(&other).is_none()), (SPANS_MAX, true, true));
        let counts = |tracer: &Tracer| tracer.counts().map(|counts| (counts.exported, counts.dropped));
        assert_eq!((counts(&tracer), counts(&other)), (Some((0, 1)), Some((0, 1))));
        // What is queued has its place still; what is let go has none.
        open.pop().expect("open").end(0);
        assert!(start(&tracer).is_none());
        drop(open.pop());
        assert!(start(&tracer).is_some());
        drop(spans.try_recv().expect("ended"));
        assert!(start(&other).is_some());
        spans.close();
        open.pop().expect("open").end(0);
        assert_eq!(counts(&tracer), Some((0, 3)));
    }

    #[test]
    fn ids_differ_and_what_ends_did_not_end_before_its_start() {
        let (sender, mut spans) = mpsc::unbounded_channel();
        let tracer = Tracer::new("shop", Queue::new(sender, 0));
        for _ in 0..2 {
            let mut open = tracer.start("x".to_owned(), Kind::Internal, None).expect("on");
            open.set("a", 1);
            open.set("a", 2);
            open.end(0);
        }
        let [one, two] = std::array::from_fn(|_| spans.try_recv().expect("ended").span);
        assert!(one.trace_id != two.trace_id && one.span_id != two.span_id);
        assert!(one.start_us > 0 && one.end_us == one.start_us);
        assert_eq!(one.attributes, [("a", Value::Int(2))]);
        assert!(Tracer::default().start("x".to_owned(), Kind::Internal, None).is_none());
        assert_eq!((Tracer::default().draws(), Tracer::default().counts()), (false, None));
    }
}

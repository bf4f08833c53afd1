//! Runs a workload to its steady state, and on from there.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use pgsluice::checkpoint::memory::MemoryStore;
use pgsluice::failure::Definite;
use pgsluice::pipeline::Pipeline;
use pgsluice::telemetry::health::Health;
use tokio::runtime::Runtime;

use super::broker::NullBroker;
use super::source::{Memory, MemorySource};
use super::wal::Wal;
use super::workload::Workload;

/// A pipeline in its steady state: every table was described, every buffer has grown.
pub(crate) struct Steady<'w> {
    runtime: Runtime,
    wal: Wal<'w>,
    memory: Arc<Memory>,
    broker: NullBroker,
    running: Pin<Box<dyn Future<Output = Result<(), Definite>>>>,
    /// Events that are to be confirmed in all.
    events: u64,
}

impl<'w> Steady<'w> {
    /// After at least so many events.
    pub(crate) fn after(workload: &'w Workload, events: u64) -> Self {
        // The clock stands still: no checkpoint, no report and no heartbeat comes between.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let (runtime, memory, broker) = (runtime.expect("a runtime"), Arc::<Memory>::default(), NullBroker::default());
        let source = MemorySource(Arc::clone(&memory));
        let pipeline = {
            let _guard = runtime.enter();
            let store = Arc::new(MemoryStore::new(None));
            Pipeline::new(workload.settings(), source, broker.clone(), store, Health::default())
        };
        let running = Box::pin(pipeline.run(std::future::pending()));
        let mut steady = Self { runtime, wal: Wal::new(workload), memory, broker, running, events: 0 };
        steady.write(events);
        steady.run();
        steady
    }

    /// What [`Self::run`] is to read: at least so many events; how many.
    pub(crate) fn write(&mut self, events: u64) -> u64 {
        let (batches, events) = self.wal.batches(events);
        self.memory.write(batches);
        self.events += events;
        events
    }

    /// Until all that was written is confirmed and settled.
    ///
    /// # Panics
    /// When the pipeline gives up.
    #[inline(never)]
    pub(crate) fn run(&mut self) {
        let Self { runtime, broker, running, events, .. } = self;
        runtime.block_on(std::future::poll_fn(|cx| match running.as_mut().poll(cx) {
            Poll::Ready(ended) => {
                panic!("the pipeline has ended: {:?}", ended.map_err(|definite| definite.to_string()))
            }
            Poll::Pending if broker.0.load(Ordering::Relaxed) == *events => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        }));
    }
}

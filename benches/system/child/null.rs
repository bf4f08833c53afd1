//! pgsluice from the source to the last byte of each message, and a broker that takes them all at once: what pgsluice
//! itself can do.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use anyhow::Context as _;
use pgsluice::broker::{Broker, Channel, Reply, Turn};
use pgsluice::checkpoint::configured::Configured;
use pgsluice::config;
use pgsluice::failure::Failure;
use pgsluice::pipeline::Pipeline;
use pgsluice::postgres::open::PostgresSource;
use pgsluice::telemetry::health::Health;
use tokio::sync::Notify;

use super::{CAPTURED, Word, say, wait_for_parent};
use crate::wire::amqp::is_method;

/// As `RabbitMQ` has them by default.
const FRAME_MAX: usize = 131_072;
const MESSAGE_MAX: usize = 16 << 20;
/// Type, channel and length of a frame; and its end octet.
const HEAD: usize = 7;
const END: usize = 1;

pub(super) fn run(config: &Path, events: u64, capture: Option<&Path>) -> anyhow::Result<()> {
    let settings = config::load(config).map_err(|definite| anyhow::anyhow!("{definite}: {}", definite.hint))?;
    let capture = capture.map(File::create).transpose().context("capture")?;
    // As the command has it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let health = Health::default();
        let store = Configured::new(&settings, &health).store();
        let source = PostgresSource::new(settings.source.clone(), settings.outboxes.clone());
        let source = source.with_rules(settings.rules.clone()).with_health(health.clone());
        let taken = Arc::new(Taken { events, ..Taken::default() });
        let broker = NullBroker { taken: Arc::clone(&taken), capture: capture.map(Arc::new) };
        let pipeline = Pipeline::new(settings, source, broker, store, health);
        let enough = async {
            taken.enough.notified().await;
            let message_bytes = taken.bytes.load(Ordering::Relaxed);
            say(Word::Done { stream_bytes: 0, message_bytes, reads: 0 });
            wait_for_parent();
        };
        let result = Box::pin(pipeline.run(enough)).await;
        result.map_err(|definite| anyhow::anyhow!("{definite}: {}", definite.hint))
    })
}

/// What the broker was given.
#[derive(Debug, Default)]
struct Taken {
    /// So many are enough.
    events: u64,
    enough: Notify,
    bytes: AtomicU64,
}

#[derive(Clone)]
struct NullBroker {
    taken: Arc<Taken>,
    capture: Option<Arc<File>>,
}

impl Broker for NullBroker {
    type Channel = NullChannel;

    fn open(&self) -> impl Future<Output = Result<NullChannel, Failure>> + Send + 'static {
        let Self { taken, capture } = self.clone();
        std::future::ready(Ok(NullChannel { taken, capture, published: 0, acked: 0 }))
    }
}

/// Confirms what it has taken, at the next turn.
struct NullChannel {
    taken: Arc<Taken>,
    capture: Option<Arc<File>>,
    published: u64,
    acked: u64,
}

impl Channel for NullChannel {
    fn poll_turn(&mut self, _: &mut Context<'_>, output: [&[u8]; 2]) -> Poll<Result<Turn, Failure>> {
        if self.acked < self.published {
            self.acked = self.published;
            if self.acked >= self.taken.events {
                self.taken.enough.notify_one();
            }
            return Poll::Ready(Ok(Turn::Reply(Reply::Ack { tag: self.acked, multiple: true })));
        }
        let length = output[0].len() + output[1].len();
        if length == 0 {
            return Poll::Pending;
        }
        if let Some(file) = self.capture.as_ref().filter(|_| self.published < CAPTURED) {
            let written = output.iter().try_for_each(|part| file.as_ref().write_all(part));
            written.map_err(Failure::transient)?;
        }
        self.published += messages(output);
        self.taken.bytes.fetch_add(length as u64, Ordering::Relaxed);
        Poll::Ready(Ok(Turn::Wrote(length)))
    }

    fn frame_max(&self) -> usize {
        FRAME_MAX
    }

    fn max_message_bytes(&self) -> usize {
        MESSAGE_MAX
    }

    async fn close(self) {}
}

/// How many messages begin in these whole frames.
fn messages(output: [&[u8]; 2]) -> u64 {
    let [first, second] = output;
    let byte = |at: usize| if at < first.len() { first[at] } else { second[at - first.len()] };
    let (mut at, mut count) = (0, 0);
    while at + HEAD < first.len() + second.len() {
        let length = u32::from_be_bytes([byte(at + 3), byte(at + 4), byte(at + 5), byte(at + 6)]) as usize;
        count += u64::from(is_method(byte(at)));
        at += HEAD + length + END;
    }
    count
}

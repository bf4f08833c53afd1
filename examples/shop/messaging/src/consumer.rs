//! Takes messages off a queue, handles each once, tries again later what fails, and puts aside what fails too often.
//!
//! For each message, in this order, so that a death in between repeats and never loses:
//!
//! 1. one transaction: the inbox row, and what the handler does;
//! 2. the ack. (Died before it: the message comes again, and the inbox knows it.)
//!
//! If the handler fails, the transaction is rolled back, and instead
//!
//! 1. a copy goes to the queue `{queue}.retry…`, which gives it back after a while, or after the last attempt to
//!    `{queue}.dead`, where it stays for a human; the broker confirms it;
//! 2. the ack. (Died before it: there are two, and the inbox makes one of them.)
//!
//! The messages behind it don't wait. If the database is away, refuses the service or can't write, or the inbox can't be
//! written, that is nobody's fault: the consumer waits with the message in its hand, and counts nothing.

mod session;
mod topology;

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use deadpool_postgres::Pool;
use tokio_postgres::Transaction;
use tracing::warn;

use crate::Event;
use crate::failure::Backoff;

/// What is done with the events of a queue.
pub trait Handler: Sync {
    /// Does in the transaction what the event asks for. An event may come in any order, see the [crate]'s page; an error
    /// rolls back, and the event comes again later.
    fn handle(&self, transaction: &Transaction<'_>, event: &Event) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// A queue of one's own, and how its messages are handled.
#[derive(Debug, Clone)]
pub struct Consumer {
    queue: String,
    bindings: Vec<Binding>,
    prefetch: u16,
    attempts_max: u32,
    retry_delay: Duration,
    handling_max: Duration,
}

/// What is to come into the queue.
#[derive(Debug, Clone)]
struct Binding {
    exchange: String,
    routing_key: String,
}

impl Consumer {
    /// Of a quorum queue, which is declared when it is missing.
    #[must_use]
    pub fn of(queue: impl Into<String>) -> Self {
        Self {
            queue: queue.into(),
            bindings: Vec::new(),
            prefetch: 50,
            attempts_max: 5,
            retry_delay: Duration::from_secs(2),
            handling_max: Duration::from_secs(30),
        }
    }

    /// Events of a topic exchange whose routing key matches: `*` is one word, `#` any number. The exchange is declared, too,
    /// so that it doesn't matter whether this service or the producer's pgsluice starts first.
    #[must_use]
    pub fn bind(mut self, exchange: impl Into<String>, routing_key: impl Into<String>) -> Self {
        self.bindings.push(Binding { exchange: exchange.into(), routing_key: routing_key.into() });
        self
    }

    /// How many messages the broker sends ahead; 50 unless set.
    #[must_use]
    pub fn prefetch(mut self, messages: u16) -> Self {
        self.prefetch = messages;
        self
    }

    /// After how many failures a message is put aside; 5 unless set.
    #[must_use]
    pub fn attempts_max(mut self, attempts: u32) -> Self {
        self.attempts_max = attempts;
        self
    }

    /// How long to wait before the next attempt; 2 s unless set. One delay for all, since a queue lets only its first message
    /// expire: one that waits longer would hold up those behind it. Part of the retry queue's name, so that it can be altered.
    #[must_use]
    pub fn retry_delay(mut self, delay: Duration) -> Self {
        self.retry_delay = delay;
        self
    }

    /// How long one attempt may take; 30 s unless set. Then it has failed, unless it is the database that doesn't answer.
    #[must_use]
    pub fn handling_max(mut self, time: Duration) -> Self {
        self.handling_max = time;
        self
    }

    /// Where messages wait for their next attempt.
    #[must_use]
    pub fn retry_queue(&self) -> String {
        format!("{}.retry.{}ms", self.queue, self.retry_delay.as_millis())
    }

    /// Where messages stay that have failed too often, with the headers `failures`, `error`, `exchange` and `routing_key`.
    #[must_use]
    pub fn dead_letter_queue(&self) -> String {
        format!("{}.dead", self.queue)
    }

    /// Consumes for ever: until the future is dropped, which is safe at any moment. A broker or a database that is away is
    /// waited for.
    pub async fn run(&self, broker: &str, pool: &Pool, handler: &impl Handler) -> Infallible {
        let mut backoff = Backoff::new();
        loop {
            let session = session::Session { consumer: self, pool, handler };
            let (messages, error) = session.run(broker).await;
            if messages > 0 {
                backoff = Backoff::new();
            }
            warn!(queue = self.queue, messages, "the broker is waited for: {error:#}");
            backoff.wait().await;
        }
    }
}

//! Takes everything off the queue, whatever happens to the broker, past the proxy.
//!
//! A message is acked when it is in the account. What was on its way when the connection was lost comes again, marked as
//! redelivered, and not always before what comes behind it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::account::Arrivals;
use super::ledger::Ledger;
use crate::support::Vhost;

/// Deliveries that may be on their way.
const PREFETCH: u16 = 1000;
/// Nothing may come for so long before it is asked for anew.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Collector {
    arrivals: Arc<Mutex<Arrivals>>,
    task: JoinHandle<()>,
}

impl Collector {
    pub(super) fn start(vhost: &Vhost, queue: &'static str, ledger: &Arc<Ledger>) -> Self {
        let arrivals = Arc::default();
        // A broker that is paused is left alone, one that is gone is found out.
        let url = format!("{}?heartbeat=10", vhost.url());
        let task = tokio::spawn(run(url, queue, Arc::clone(&arrivals), Arc::clone(ledger)));
        Self { arrivals, task }
    }

    pub(super) fn arrivals(&self) -> MutexGuard<'_, Arrivals> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it still takes; it does until it panics.
    pub(super) fn runs(&self) -> bool {
        !self.task.is_finished()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(url: String, queue: &str, arrivals: Arc<Mutex<Arrivals>>, ledger: Arc<Ledger>) {
    loop {
        // Every error is the end of a connection.
        let _ = collect(&url, queue, &arrivals, &ledger).await;
        sleep(Duration::from_millis(50)).await;
    }
}

async fn collect(url: &str, queue: &str, arrivals: &Mutex<Arrivals>, ledger: &Ledger) -> lapin::Result<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
    // A quorum queue that has just found its leader may know nothing of a consumer that it has let in before.
    while let Ok(Some(delivery)) = timeout(PATIENCE, consumer.next()).await {
        let delivery = delivery?;
        let tag = delivery.delivery_tag;
        {
            let mut arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
            arrivals.take(&delivery.into());
            ledger.deliver(arrivals.len());
        }
        channel.basic_ack(tag, BasicAckOptions::default()).await?;
    }
    connection.close(200, "again".into()).await
}

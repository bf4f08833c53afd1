//! One connection to the broker, from its beginning to its end: it ends with whatever goes wrong with it.
//!
//! There is one message at a time in the handler, and one in the way to a queue, so that an answer of the broker is always
//! about what was sent last.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use deadpool_postgres::Pool;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties};
use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use super::{Consumer, Handler};
use crate::event::FAILURES;
use crate::failure::{Backoff, is_of_a_value, passes};
use crate::{Event, inbox};

/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// A broker that is silent for twice as long is gone.
const HEARTBEAT_SECONDS: u16 = 5;

pub(super) struct Session<'a, H> {
    pub(super) consumer: &'a Consumer,
    pub(super) pool: &'a Pool,
    pub(super) handler: &'a H,
}

/// What became of an attempt that did not fail.
enum Outcome {
    Handled,
    /// The inbox knows it.
    Repeated,
}

impl<H: Handler> Session<'_, H> {
    /// Consumes until the connection is lost. Gives how many messages were taken off the queue, and why it ended.
    pub(super) async fn run(&self, broker: &str) -> (u64, anyhow::Error) {
        let mut handled = 0;
        let result: anyhow::Result<()> = async {
            let connection = timeout(PATIENCE, connect(broker, &self.consumer.queue)).await.context("connect")??;
            let channel = timeout(PATIENCE, connection.create_channel()).await.context("open a channel")??;
            let mut deliveries = timeout(PATIENCE, self.open(&channel)).await.context("declare and consume")??;
            info!(queue = self.consumer.queue, "consuming");
            while let Some(delivery) = deliveries.next().await {
                self.take(&channel, delivery?).await?;
                handled += 1;
            }
            Err(anyhow!("the broker has cancelled the consumer"))
        }
        .await;
        (handled, result.err().unwrap_or_else(|| anyhow!("the end")))
    }

    async fn open(&self, channel: &Channel) -> anyhow::Result<lapin::Consumer> {
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        channel.basic_qos(self.consumer.prefetch, BasicQosOptions::default()).await?;
        self.consumer.declare(channel).await?;
        let options = BasicConsumeOptions::default();
        let queue = self.consumer.queue.as_str();
        Ok(channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?)
    }

    /// Handles one message, or moves it, and acks it.
    async fn take(&self, channel: &Channel, delivery: Delivery) -> anyhow::Result<()> {
        let event = Event::of(&delivery.properties, &delivery.data);
        match self.attempt(channel, &event).await? {
            Ok(Outcome::Handled) => {}
            Ok(Outcome::Repeated) => debug!(id = event.message_id, "handled before"),
            Err(problem) => self.put_aside(channel, &delivery, &event, &problem).await?,
        }
        timeout(PATIENCE, delivery.ack(BasicAckOptions::default())).await.context("ack")??;
        Ok(())
    }

    /// Handles an event, and waits for the database as long as it is that which fails. The inner error is the event's.
    async fn attempt(&self, channel: &Channel, event: &Event) -> anyhow::Result<anyhow::Result<Outcome>> {
        if event.message_id.is_empty() {
            return Ok(Err(anyhow!("a message without an id can't be told from its repeats")));
        }
        let mut backoff = Backoff::new();
        loop {
            let mut is_begun = false;
            let handling = timeout(self.consumer.handling_max, self.handle(event, &mut is_begun));
            let handled = AssertUnwindSafe(handling).catch_unwind().await;
            let result = match handled {
                Ok(Ok(result)) => result,
                // Whose fault is it? If the database answers now, it is not the database's.
                Ok(Err(_)) => match self.pool.get().await {
                    Ok(_) => Err(anyhow!("not handled within {:?}", self.consumer.handling_max)),
                    Err(error) => Err(error.into()),
                },
                Err(_) => Err(anyhow!("the handler has panicked")),
            };
            // What fails before the handler has seen the message, fails for all of them: all would be put aside, one after
            // the other. Unless its id is what no database takes.
            let is_nobodys = |error: &_| passes(error) || (!is_begun && !is_of_a_value(error));
            match result {
                Err(error) if is_nobodys(&error) => warn!(queue = self.consumer.queue, "trying again: {error:#}"),
                result => return Ok(result),
            }
            backoff.wait().await;
            // The broker has given the message to somebody else.
            ensure!(channel.status().connected(), "the connection is lost");
        }
    }

    /// The effect and its inbox row: both or none. Says when it has come to the handler.
    async fn handle(&self, event: &Event, is_begun: &mut bool) -> anyhow::Result<Outcome> {
        let mut client = self.pool.get().await?;
        let transaction = client.transaction().await?;
        if !inbox::is_new(&transaction, &self.consumer.queue, &event.message_id).await? {
            return Ok(Outcome::Repeated);
        }
        *is_begun = true;
        self.handler.handle(&transaction, event).await?;
        transaction.commit().await?;
        Ok(Outcome::Handled)
    }

    /// To the retry queue, or to the dead letters. Returns when the broker has it.
    async fn put_aside(
        &self,
        channel: &Channel,
        delivery: &Delivery,
        event: &Event,
        problem: &anyhow::Error,
    ) -> anyhow::Result<()> {
        let failures = event.failures + 1;
        let (queue, id, event_type) = (&self.consumer.queue, &event.message_id, &event.event_type);
        let to = if failures < self.consumer.attempts_max {
            warn!(queue, id, event_type, failures, "to be tried again: {problem:#}");
            self.consumer.retry_queue()
        } else {
            error!(queue, id, event_type, failures, "put aside as a dead letter: {problem:#}");
            self.consumer.dead_letter_queue()
        };
        let properties = delivery.properties.clone().with_headers(headers(delivery, failures, problem));
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let published = channel.basic_publish("".into(), to.as_str().into(), options, &delivery.data, properties);
        let answer = timeout(PATIENCE, async { published.await?.await }).await.context("a confirm")??;
        ensure!(answer.is_ack() && answer.take_message().is_none(), "the broker did not take a message for {to}");
        Ok(())
    }
}

async fn connect(broker: &str, name: &str) -> anyhow::Result<Connection> {
    let mut uri: AMQPUri = broker.parse().map_err(|error| anyhow!("the broker's URL: {error}"))?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    Connection::connect_uri(uri, properties).await.context("connect to the broker")
}

/// Those of the message, and what has become of it. The broker's own are left to the broker.
fn headers(delivery: &Delivery, failures: u32, problem: &anyhow::Error) -> FieldTable {
    let mut headers = FieldTable::default();
    for (name, value) in delivery.properties.headers().iter().flat_map(FieldTable::inner) {
        if !name.as_str().starts_with("x-") {
            headers.insert(name.clone(), value.clone());
        }
    }
    let text = |text: &str| AMQPValue::LongString(text.into());
    headers.insert(FAILURES.into(), AMQPValue::LongUInt(failures));
    headers.insert("error".into(), text(&format!("{problem:#}")));
    if failures == 1 {
        // Later it comes from the retry queue.
        headers.insert("exchange".into(), text(delivery.exchange.as_str()));
        headers.insert("routing_key".into(), text(delivery.routing_key.as_str()));
    }
    headers
}

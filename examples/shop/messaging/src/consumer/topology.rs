//! The queues of a consumer, and what the broker itself moves between them.
//!
//! ```text
//!   exchange ──binding──▶ QUEUE ──────────── handled, acked
//!                          ▲  │ failed: published by the consumer
//!          after the delay │  ├────────────▶ QUEUE.retry.2000ms
//!          (dead-lettered) └──┼──────────────────┘
//!                             └────────────▶ QUEUE.dead
//! ```
//!
//! All are quorum queues: what they have confirmed is on the disks of most nodes. Between quorum queues the broker moves a
//! message at least once (`x-dead-letter-strategy`): it is gone from the one only when the other has confirmed it.
//! That takes `x-overflow = reject-publish`, although nothing limits these queues.

use anyhow::Context as _;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};

use super::Consumer;

/// How often a message may come back to the queue without an answer before the broker puts it aside: something kills the
/// consumer whenever it takes it. Set, because from RabbitMQ 4 on it is 20 otherwise, which a bad day can reach; counted is each
/// message that the consumer had in advance, too.
const DELIVERIES_MAX: i32 = 200;

impl Consumer {
    /// Declares all that is consumed from and published to. Changes nothing of what is there.
    pub(super) async fn declare(&self, channel: &Channel) -> anyhow::Result<()> {
        let dead = self.dead_letter_queue();
        declare_queue(channel, &dead, &[]).await?;
        let delay_ms = i64::try_from(self.retry_delay.as_millis()).context("the retry delay")?;
        let retry = [("x-message-ttl", AMQPValue::LongLongInt(delay_ms))];
        declare_queue(channel, &self.retry_queue(), &with_dead_letters_to(&self.queue, retry)).await?;
        let own = [("x-delivery-limit", AMQPValue::LongInt(DELIVERIES_MAX))];
        declare_queue(channel, &self.queue, &with_dead_letters_to(&dead, own)).await?;
        for binding in &self.bindings {
            let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            let (exchange, key) = (binding.exchange.as_str(), binding.routing_key.as_str());
            channel.exchange_declare(exchange.into(), ExchangeKind::Topic, durable, FieldTable::default()).await?;
            let options = QueueBindOptions::default();
            let bound = channel.queue_bind(
                self.queue.as_str().into(),
                exchange.into(),
                key.into(),
                options,
                FieldTable::default(),
            );
            bound.await.with_context(|| format!("bind {} to {exchange}", self.queue))?;
        }
        Ok(())
    }
}

fn with_dead_letters_to(queue: &str, more: [(&'static str, AMQPValue); 1]) -> Vec<(&'static str, AMQPValue)> {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut arguments = vec![
        // By way of the default exchange, where a routing key is a queue's name.
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(queue)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ];
    arguments.extend(more);
    arguments
}

async fn declare_queue(channel: &Channel, name: &str, arguments: &[(&str, AMQPValue)]) -> anyhow::Result<()> {
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    for (key, value) in arguments {
        table.insert((*key).into(), value.clone());
    }
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), durable, table).await.with_context(|| format!("declare the queue {name}"))?;
    Ok(())
}

//! Prints the events that arrive in a queue, one a line: message id, routing key, body.
//!
//! ```text
//! cargo run --example consume -- amqp://guest:guest@127.0.0.1:5672/%2f my-queue shop.events shop.changes
//! ```
//!
//! The queue is declared (durable) and bound to each of the exchanges, with `#`: everything.
//!
//! pgsluice delivers at least once, and a repeat carries the same message id. A consumer that must act once
//! stores the ids that it has handled together with what it did, in one transaction, and skips those it knows.

use anyhow::Context as _;
use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, queue, exchanges @ ..] = arguments.as_slice() else {
        anyhow::bail!("usage: consume AMQP_URL QUEUE EXCHANGE…");
    };
    let connection = Connection::connect(url, ConnectionProperties::default()).await.context("connect to RabbitMQ")?;
    let channel = connection.create_channel().await?;
    declare(&channel, queue, exchanges).await?;

    channel.basic_qos(100, BasicQosOptions::default()).await?;
    let consume =
        channel.basic_consume(queue.as_str().into(), "".into(), BasicConsumeOptions::default(), FieldTable::default());
    let mut events = consume.await?;
    while let Some(event) = events.next().await {
        let event = event?;
        let id = event.properties.message_id().as_ref().map_or("-", |id| id.as_str());
        println!("{id} {} {}", event.routing_key, String::from_utf8_lossy(&event.data));
        // Only now: an event that isn't acked comes again.
        event.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

/// Declares the queue, and binds it to the exchanges, which are declared as pgsluice does it.
async fn declare(channel: &Channel, queue: &str, exchanges: &[String]) -> anyhow::Result<()> {
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), durable, FieldTable::default()).await.context("declare the queue")?;
    for exchange in exchanges {
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let exchange = exchange.as_str();
        channel.exchange_declare(exchange.into(), ExchangeKind::Topic, durable, FieldTable::default()).await?;
        channel
            .queue_bind(queue.into(), exchange.into(), "#".into(), QueueBindOptions::default(), FieldTable::default())
            .await?;
    }
    Ok(())
}

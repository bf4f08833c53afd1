//! What the driver asks of RabbitMQ: which queues there are and what is in them, and to take poison.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use crate::wait::{Look, until};

const PATIENCE: Duration = Duration::from_mins(1);
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
const PERSISTENT: u8 = 2;

/// The queues of all services.
pub(crate) const QUEUES: [&str; 7] = [
    "orders.saga",
    "orders.products",
    "inventory.saga",
    "inventory.members",
    "view.orders",
    "view.products",
    "view.members",
];

/// A message that nobody can handle, for each way into the queues.
struct Poison {
    id: &'static str,
    exchange: &'static str,
    routing_key: &'static str,
    kind: &'static str,
    queues: &'static [&'static str],
}

const POISON: [Poison; 6] = [
    Poison::new("poison-1", "orders.events", "order.OrderCreated", "OrderCreated", &["inventory.saga", "view.orders"]),
    Poison::new(
        "poison-2",
        "inventory.events",
        "order.InventoryLocked",
        "InventoryLocked",
        &["orders.saga", "view.orders"],
    ),
    Poison::new("poison-3", "products", "product.for_view", "ProductChanged", &["view.products"]),
    Poison::new("poison-4", "products", "product.for_orders", "ProductChanged", &["orders.products"]),
    Poison::new("poison-5", "members", "member.for_view", "MemberChanged", &["view.members"]),
    Poison::new("poison-6", "members", "member.for_inventory", "MemberChanged", &["inventory.members"]),
];

impl Poison {
    const fn new(
        id: &'static str,
        exchange: &'static str,
        routing_key: &'static str,
        kind: &'static str,
        queues: &'static [&'static str],
    ) -> Self {
        Self { id, exchange, routing_key, kind, queues }
    }
}

/// What is in a service's queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Depth {
    pub(crate) queue: &'static str,
    /// To be handled.
    pub(crate) ready: u32,
    /// Put aside.
    pub(crate) dead: u32,
}

pub(crate) async fn connect(url: &str) -> anyhow::Result<Connection> {
    let connecting = Connection::connect(url, ConnectionProperties::default());
    Ok(tokio::time::timeout(ANSWERS_WITHIN, connecting).await??)
}

async fn with_channel<T>(url: &str, work: impl AsyncFnOnce(&Channel) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let connection = connect(url).await?;
    let channel = connection.create_channel().await?;
    let result = work(&channel).await;
    let _ = connection.close(200, "done".into()).await;
    result
}

/// Waits until each service consumes from its queues: then they are bound, too, and no event goes past them.
pub(crate) async fn until_queues_are_there(url: &str) -> anyhow::Result<()> {
    until("all queues have their consumers", PATIENCE, async || {
        let mut missing = Vec::new();
        for queue in QUEUES {
            // A channel each: the broker closes one that asks for a queue that is not there.
            match with_channel(url, async |channel| look(channel, queue).await).await {
                Ok((_, consumers)) if consumers > 0 => {}
                _ => missing.push(queue),
            }
        }
        Ok(if missing.is_empty() { Look::Done(()) } else { Look::NotYet(missing) })
    })
    .await
}

/// The messages that are ready, and the consumers.
async fn look(channel: &Channel, queue: &str) -> anyhow::Result<(u32, u32)> {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(queue.into(), passive, FieldTable::default()).await?;
    Ok((queue.message_count(), queue.consumer_count()))
}

/// How many messages wait in each service's queue, and among its dead letters.
pub(crate) async fn depths(url: &str) -> anyhow::Result<Vec<Depth>> {
    with_channel(url, async |channel| {
        let mut depths = Vec::new();
        for queue in QUEUES {
            let (ready, _) = look(channel, queue).await?;
            let (dead, _) = look(channel, &dead_letters(queue)).await?;
            depths.push(Depth { queue, ready, dead });
        }
        Ok(depths)
    })
    .await
}

fn dead_letters(queue: &str) -> String {
    format!("{queue}.dead")
}

/// A message in the way of each consumer. Returns when the broker has all of them.
pub(crate) async fn poison(url: &str) -> anyhow::Result<()> {
    with_channel(url, async |channel| {
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        for Poison { id, exchange, routing_key, kind, .. } in POISON {
            let properties = BasicProperties::default()
                .with_message_id(id.into())
                .with_type(kind.into())
                .with_delivery_mode(PERSISTENT)
                .with_content_type("application/json".into());
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let body = br#"{"this": "is no event"}"#;
            let confirm =
                channel.basic_publish(exchange.into(), routing_key.into(), options, body, properties).await?.await?;
            ensure!(confirm.is_ack() && confirm.take_message().is_none(), "nobody takes {id}");
        }
        Ok(())
    })
    .await
}

/// Which poison each service's dead letters must have, once each of its attempts has failed.
pub(crate) fn expected_dead_letters() -> BTreeMap<&'static str, BTreeSet<String>> {
    let expected = |queue: &'static str| {
        let ids = POISON.iter().filter(|poison| poison.queues.contains(&queue)).map(|poison| poison.id.to_owned());
        (queue, ids.collect())
    };
    QUEUES.into_iter().map(expected).collect()
}

/// Takes the dead letters out, and gives their ids.
pub(crate) async fn take_dead_letters(url: &str) -> anyhow::Result<BTreeMap<&'static str, BTreeSet<String>>> {
    with_channel(url, async |channel| {
        let mut found: BTreeMap<&'static str, BTreeSet<String>> = BTreeMap::new();
        for queue in QUEUES {
            let ids = found.entry(queue).or_default();
            let name = dead_letters(queue);
            while let Some(message) = channel.basic_get(name.as_str().into(), BasicGetOptions::default()).await? {
                let id = message.delivery.properties.message_id().as_ref().context("a dead letter without an id")?;
                ids.insert(id.to_string());
                message.delivery.ack(BasicAckOptions::default()).await?;
            }
        }
        Ok(found)
    })
    .await
}

//! A virtual host of one test: its exchanges and queues, and what arrives in them.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::SOON;

/// A node of a cluster, or a queue on it, that says nothing for so long is left for another.
const SILENCE: Duration = Duration::from_secs(3);
/// How many messages a consumer may have that it did not ack yet.
const PREFETCH: u16 = 1000;

/// Where a virtual host is: on one node, or on each node of a cluster.
#[derive(Debug, Clone)]
struct Address {
    ports: Vec<u16>,
    vhost: String,
}

impl Address {
    fn url(&self, user: &str, ports: &[u16]) -> String {
        let hosts: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!("amqp://{user}@{}/{}", hosts.join(","), self.vhost)
    }

    /// A new connection, to the first node that gives one.
    async fn connect(&self) -> Option<Connection> {
        for port in &self.ports {
            let properties = ConnectionProperties::default().with_connection_name("test".into());
            let url = self.url("guest:guest", &[*port]);
            if let Ok(Ok(connection)) = tokio::time::timeout(SILENCE, Connection::connect(&url, properties)).await {
                return Some(connection);
            }
        }
        None
    }
}

/// A virtual host, with one connection of lapin's for the helpers, opened again when it is lost.
#[derive(Debug)]
pub(crate) struct Vhost {
    address: Address,
    shared: Mutex<Option<Connection>>,
}

impl Vhost {
    pub(super) fn new(ports: Vec<u16>, name: String) -> Self {
        Self { address: Address { ports, vhost: name }, shared: Mutex::new(None) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.address.vhost
    }

    /// `amqp://guest:guest@127.0.0.1:PORT/NAME`, with all hosts of a cluster.
    pub(crate) fn url(&self) -> String {
        self.url_as("guest:guest")
    }

    /// [`Self::url`] with another `user:password`.
    pub(crate) fn url_as(&self, user: &str) -> String {
        self.address.url(user, &self.address.ports)
    }

    /// [`Self::url`] by way of another port.
    pub(crate) fn url_through(&self, proxy: &super::Proxy) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/{}", proxy.port(), self.name())
    }

    /// A new connection. A node that has just started may close the first one.
    pub(crate) async fn lapin(&self) -> Connection {
        super::eventually("a connection to RabbitMQ", SOON, async || self.address.connect().await).await
    }

    /// A new channel on the helpers' connection, or on a new one when that was lost, which lapin may not know yet.
    pub(crate) async fn channel(&self) -> Channel {
        let mut shared = self.shared.lock().await;
        if let Some(connection) = shared.as_ref()
            && let Ok(channel) = connection.create_channel().await
        {
            return channel;
        }
        let connection = shared.insert(self.lapin().await);
        connection.create_channel().await.expect("open a channel")
    }

    /// Declares a durable exchange.
    pub(crate) async fn declare_exchange(&self, name: &str, kind: &str) {
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let kind = ExchangeKind::Custom(kind.into());
        let done = self.channel().await.exchange_declare(name.into(), kind, options, FieldTable::default()).await;
        done.expect("declare an exchange");
    }

    /// Declares a durable queue, with arguments such as `("x-max-length", 10.into())`.
    pub(crate) async fn queue(&self, name: &str, arguments: &[(&str, AMQPValue)]) {
        let mut table = FieldTable::default();
        for (name, value) in arguments {
            table.insert((*name).into(), value.clone());
        }
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        self.channel().await.queue_declare(name.into(), options, table).await.expect("declare a queue");
    }

    /// Binds a queue to an exchange, which may be about to be declared.
    pub(crate) async fn bind(&self, queue: &str, exchange: &str, key: &str) {
        super::eventually("a queue is bound", super::SOON, async || {
            let options = QueueBindOptions::default();
            let channel = self.channel().await;
            let done = channel.queue_bind(queue.into(), exchange.into(), key.into(), options, FieldTable::default());
            done.await.ok()
        })
        .await;
    }

    /// Declares a durable topic exchange, as pgsluice does, and a queue that gets everything published to it.
    pub(crate) async fn queue_on(&self, queue: &str, exchange: &str) {
        self.declare_exchange(exchange, "topic").await;
        self.queue(queue, &[]).await;
        self.bind(queue, exchange, "#").await;
    }

    /// How many messages are ready in a queue.
    pub(crate) async fn depth(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let state = self.channel().await.queue_declare(queue.into(), options, FieldTable::default()).await;
        state.expect("ask for a queue").message_count()
    }

    /// Takes exactly `count` messages off a queue, in order, and leaves what comes after them untouched.
    /// Panics at the deadline, saying how many came.
    pub(crate) async fn consume(&self, queue: &str, count: usize, deadline: Duration) -> Vec<Delivery> {
        let prefetch = u16::try_from(count).expect("no more than 65,535 at a time");
        let mut consumer = self.consumer_with(queue, prefetch).await;
        let mut deliveries = Vec::with_capacity(count);
        let all = async {
            while deliveries.len() < count {
                deliveries.push(consumer.receive().await);
            }
        };
        let in_time = tokio::time::timeout(deadline, all).await.is_ok();
        assert!(in_time, "{queue}: {} of {count} messages within {deadline:?}", deliveries.len());
        // Cancelled before the ack makes room for more, which would come back as redelivered.
        let channel = consumer.channel.clone();
        channel.basic_cancel(consumer.inner.tag(), BasicCancelOptions::default()).await.expect("cancel");
        channel.basic_ack(consumer.last_tag, BasicAckOptions { multiple: true }).await.expect("ack");
        channel.close(200, "done".into()).await.expect("close a channel");
        deliveries
    }

    /// A consumer that acks each message as it takes it.
    pub(crate) async fn consumer(&self, queue: &str) -> Consumer {
        let mut consumer = self.consumer_with(queue, PREFETCH).await;
        consumer.acks = true;
        consumer
    }

    /// [`Self::consumer`] that goes on, on another node, when its own is lost or silent, or the queue is.
    ///
    /// What it did not ack comes again: nothing is hidden, but there are more repeats. The order holds if the queue is
    /// declared with `x-single-active-consumer`: else the next consumer gets what comes after that which the queue still
    /// thinks is with the one before.
    pub(crate) async fn steady_consumer(&self, queue: &str) -> Consumer {
        let mut again = Again { address: self.address.clone(), queue: queue.to_owned(), connection: None };
        let (channel, inner) = again.open().await.expect("consume");
        Consumer { inner, channel, acks: true, last_tag: 0, again: Some(again) }
    }

    async fn consumer_with(&self, queue: &str, prefetch: u16) -> Consumer {
        let channel = self.channel().await;
        let inner = consume(&channel, queue, prefetch).await.expect("consume");
        Consumer { inner, channel, acks: false, last_tag: 0, again: None }
    }

    /// Closes all client connections to this virtual host, the helpers' own too.
    pub(crate) async fn close_connections(&self, server: &super::RabbitServer) {
        self.shared.lock().await.take();
        server.close_connections_to(self.name()).await;
    }
}

async fn consume(channel: &Channel, queue: &str, prefetch: u16) -> lapin::Result<lapin::Consumer> {
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default()).await
}

/// Takes messages off a queue.
#[derive(Debug)]
pub(crate) struct Consumer {
    inner: lapin::Consumer,
    channel: Channel,
    acks: bool,
    last_tag: u64,
    /// How to go on when the connection is lost; without it, that is a failure.
    again: Option<Again>,
}

#[derive(Debug)]
struct Again {
    address: Address,
    queue: String,
    /// The one that the consumer is on, or was to be on.
    connection: Option<Connection>,
}

impl Again {
    /// A consumer on the next node that gives one in time.
    async fn open(&mut self) -> Option<(Channel, lapin::Consumer)> {
        if let Some(connection) = self.connection.take() {
            // Before the consumer is dropped, which would cancel itself: the queue would give a next one what comes after
            // that which this one has, and return that only when the channel is gone.
            let _ = tokio::time::timeout(SILENCE, connection.close(200, "silent".into())).await;
        }
        self.address.ports.rotate_left(1);
        let connection = self.connection.insert(self.address.connect().await?);
        let channel = connection.create_channel().await.ok()?;
        let inner = consume(&channel, &self.queue, PREFETCH).await.ok()?;
        Some((channel, inner))
    }
}

impl Consumer {
    /// The next message.
    pub(crate) async fn next(&mut self, deadline: Duration) -> Delivery {
        tokio::time::timeout(deadline, self.receive())
            .await
            .unwrap_or_else(|_| panic!("no message within {deadline:?}"))
    }

    /// Takes messages until `enough` says so of all of them; panics at the deadline.
    pub(crate) async fn until(
        &mut self,
        deadline: Duration,
        mut enough: impl FnMut(&[Delivery]) -> bool,
    ) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        let all = async {
            while !enough(&deliveries) {
                deliveries.push(self.receive().await);
            }
        };
        let in_time = tokio::time::timeout(deadline, all).await.is_ok();
        assert!(in_time, "not enough within {deadline:?}: {} messages came", deliveries.len());
        deliveries
    }

    async fn receive(&mut self) -> Delivery {
        if self.again.is_some() {
            return self.receive_steadily().await;
        }
        let delivery = self.inner.next().await.expect("the consumer was cancelled").expect("the connection was lost");
        self.last_tag = delivery.delivery_tag;
        if self.acks {
            delivery.ack(BasicAckOptions::default()).await.expect("ack");
        }
        Delivery::from(delivery)
    }

    /// Cancel-safe: what was taken is returned.
    async fn receive_steadily(&mut self) -> Delivery {
        loop {
            if let Ok(Some(Ok(delivery))) = tokio::time::timeout(SILENCE, self.inner.next()).await {
                let acker = delivery.acker.clone();
                // One that does not arrive brings the message once more.
                tokio::spawn(async move { acker.ack(BasicAckOptions::default()).await });
                return Delivery::from(delivery);
            }
            let Some(again) = &mut self.again else { continue };
            match tokio::time::timeout(3 * SILENCE, again.open()).await {
                Ok(Some((channel, inner))) => (self.channel, self.inner) = (channel, inner),
                // Whoever calls has a deadline.
                Ok(None) | Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

/// A message, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) redelivered: bool,
    /// The property, or empty.
    pub(crate) message_id: String,
    /// The property `type`, or empty.
    pub(crate) event_type: String,
    /// The headers, with their values as JSON.
    pub(crate) headers: BTreeMap<String, Value>,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Vec<u8>,
}

impl Delivery {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl From<lapin::message::Delivery> for Delivery {
    fn from(delivery: lapin::message::Delivery) -> Self {
        let properties = delivery.properties;
        let text =
            |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string).unwrap_or_default();
        let headers = properties.headers().iter().flat_map(FieldTable::inner);
        Self {
            exchange: delivery.exchange.to_string(),
            routing_key: delivery.routing_key.to_string(),
            redelivered: delivery.redelivered,
            message_id: text(properties.message_id()),
            event_type: text(properties.kind()),
            headers: headers.map(|(name, value)| (name.to_string(), to_json(value))).collect(),
            body: delivery.data,
            properties,
        }
    }
}

fn to_json(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(value) => json!(value),
        AMQPValue::ShortShortInt(value) => json!(value),
        AMQPValue::ShortShortUInt(value) => json!(value),
        AMQPValue::ShortInt(value) => json!(value),
        AMQPValue::ShortUInt(value) => json!(value),
        AMQPValue::LongInt(value) => json!(value),
        AMQPValue::LongUInt(value) => json!(value),
        AMQPValue::LongLongInt(value) => json!(value),
        AMQPValue::Timestamp(value) => json!(value),
        AMQPValue::Double(value) => json!(value),
        AMQPValue::ShortString(value) => json!(value.as_str()),
        AMQPValue::LongString(value) => json!(value.to_string()),
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(to_json).collect(),
        AMQPValue::Void => Value::Null,
        other => json!(format!("{other:?}")),
    }
}

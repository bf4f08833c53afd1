//! A database and a virtual host for a part of the shop, which runs in this process; what kills a process, aborts a task here.

use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};
use messaging::{Consumer, Event, Handler, Migration, Pool, service};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use uuid::Uuid;

use crate::support::{Database, PostgresServer, RabbitServer, SOON, Vhost, eventually, postgres, rabbitmq};

/// How long a broker may take to confirm.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Stage {
    pub(super) database: Database,
    pub(super) vhost: Vhost,
    pub(super) pool: Pool,
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(super) struct Running(tokio::task::JoinHandle<()>);

impl Running {
    pub(super) fn of(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(future))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Stage {
    /// On the shared servers, with these tables.
    pub(super) async fn new(migrations: &[Migration]) -> Self {
        Self::on(postgres(), rabbitmq(), migrations).await
    }

    /// On servers that the test may kill.
    pub(super) async fn on(postgres: &PostgresServer, rabbitmq: &RabbitServer, migrations: &[Migration]) -> Self {
        let database = postgres.database().await;
        let pool = service::database(&database.url(), migrations).await.expect("the tables are made");
        Self { database, vhost: rabbitmq.vhost(), pool }
    }

    /// A consumer that runs until it is dropped.
    pub(super) fn consume(&self, consumer: &Consumer, handler: impl Handler + Send + 'static) -> Running {
        let (consumer, url, pool) = (consumer.clone(), self.vhost.url(), self.pool.clone());
        Running::of(async move {
            consumer.run(&url, &pool, &handler).await;
        })
    }

    /// Publishes to an exchange of the consumer's once the consumer has made it, and has the broker's confirm.
    pub(super) async fn publish(&self, message: &Message<'_>) {
        eventually("a message is published", SOON, async || self.try_publish(message).await).await;
    }

    /// None if it was not confirmed, or no queue took it. A broker that was killed may owe the confirm for good: then it is
    /// sent again on a new connection.
    pub(super) async fn try_publish(&self, message: &Message<'_>) -> Option<()> {
        let known = async { publish(&self.vhost.channel().await, message).await };
        if let Ok(Some(())) = timeout(PATIENCE, known).await {
            return Some(());
        }
        let new = async {
            let connection = self.vhost.lapin().await;
            let published = publish(&connection.create_channel().await.ok()?, message).await;
            connection.close(200, "done".into()).await.ok();
            published
        };
        timeout(PATIENCE, new).await.ok()?
    }

    /// Waits until a query gives this text.
    pub(super) async fn becomes(&self, sql: &str, expected: &str) {
        let what = format!("{sql} is {expected}");
        eventually(&what, 2 * SOON, async || (self.database.query_one(sql).await == expected).then_some(())).await;
    }

    /// Handles an event in a transaction, as the consumer does, without a broker.
    pub(super) async fn handle(&self, handler: &impl Handler, event: &Event) -> anyhow::Result<()> {
        let mut client = self.pool.get().await?;
        let transaction = client.transaction().await?;
        handler.handle(&transaction, event).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// The events about an order in the outbox, in the order in which they were written.
    pub(super) async fn told(&self, order: Uuid) -> Vec<(String, Value)> {
        let sql = "SELECT type, payload FROM outbox WHERE aggregateid = $1 ORDER BY created_at";
        let rows = self.database.client().await.query(sql, &[&order.to_string()]).await.expect("read the outbox");
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }
}

/// On a channel of its own, because one whose exchange is not there yet is closed.
async fn publish(channel: &Channel, message: &Message<'_>) -> Option<()> {
    channel.confirm_select(ConfirmSelectOptions::default()).await.ok()?;
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let body = message.body.to_string();
    let (exchange, key) = ("events", "thing.happened");
    let published = channel.basic_publish(exchange.into(), key.into(), options, body.as_bytes(), message.properties());
    let answer = published.await.ok()?.await.ok()?;
    (answer.is_ack() && answer.take_message().is_none()).then_some(())
}

/// What is published.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    pub(super) id: &'a str,
    pub(super) event_type: &'a str,
    pub(super) body: &'a Value,
}

impl Message<'_> {
    fn properties(&self) -> BasicProperties {
        let mut headers = FieldTable::default();
        headers.insert("position".into(), AMQPValue::LongString("0/10:1".into()));
        let properties = BasicProperties::default().with_delivery_mode(2).with_type(self.event_type.into());
        let properties = properties.with_headers(headers);
        if self.id.is_empty() { properties } else { properties.with_message_id(self.id.into()) }
    }
}

/// An event, as it comes off a queue.
pub(super) fn event(event_type: &str, body: &Value) -> Event {
    Event {
        message_id: Uuid::new_v4().to_string(),
        event_type: event_type.to_owned(),
        position: None,
        aggregate_id: None,
        failures: 0,
        body: body.to_string().into_bytes(),
    }
}

/// An address that nobody listens at.
pub(super) fn address() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address")
}

/// Asks a service, once it answers: the code, and the JSON.
pub(super) async fn ask(address: std::net::SocketAddr, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let mut stream = eventually("the service listens", SOON, async || TcpStream::connect(address).await.ok()).await;
    let body = body.to_string();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nContent-Type: application/json");
    let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.expect("asks");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer of HTTP");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a code");
    (code, serde_json::from_str(body).unwrap_or(Value::Null))
}

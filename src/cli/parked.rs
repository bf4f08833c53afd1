//! `pgsluice parked`: what is parked, and sending it again.
//!
//! Invariant of `send`: a parked message is taken off its queue only once the broker has confirmed that a queue has the
//! copy, and did not return it. So where it is interrupted, a message comes twice, and is never lost. One message is in
//! flight at a time: so a return can only be that message's, whatever lapin attaches it to.

use std::io::{Write as _, stdout};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow};
use lapin::message::{BasicGetMessage, Delivery};
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation};

use super::Configuration;
use crate::config::Settings;
use crate::config::topology::Topology;
use crate::encode::parked::{self, DESCRIBED, STRIPPED};
use crate::failure::{Definite, Failure, Kind, within};
use crate::rabbit::channel::{RabbitBroker, Session};

/// How many are shown, or sent, unless told.
const LIST: u32 = 100;

/// What to do with it.
#[derive(Debug, clap::Subcommand)]
pub enum ParkedCommand {
    /// Print what is parked, oldest first, a line each: position, time, reason, message id, exchange, routing key, bytes,
    /// error. It stays parked
    List {
        /// Which pgsluice.
        #[command(flatten)]
        configuration: Configuration,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = LIST)]
        limit: u32,
    },
    /// Publish what is parked once more, to where it was to go. What no queue takes stays parked (exit code 8)
    Send {
        /// Which pgsluice.
        #[command(flatten)]
        configuration: Configuration,
        /// At most so many; unset, all that are parked now
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
        /// To this exchange instead
        #[arg(long, value_name = "NAME")]
        to_exchange: Option<String>,
        /// With this routing key instead
        #[arg(long, value_name = "KEY")]
        routing_key: Option<String>,
    },
}

/// Runs one of them.
///
/// # Errors
/// The broker is away, there is no parking queue, or something stays parked that was to be sent.
pub async fn run(command: ParkedCommand) -> Result<(), Definite> {
    match command {
        ParkedCommand::List { configuration, limit } => {
            let parking = Queue::open(&configuration.load()?).await?;
            let listed = parking.list(limit).await;
            parking.close().await;
            listed
        }
        ParkedCommand::Send { configuration, limit, to_exchange, routing_key } => {
            let parking = Queue::open(&configuration.load()?).await?;
            let sent = parking.send(limit, to_exchange.as_deref(), routing_key.as_deref()).await;
            parking.close().await;
            sent
        }
    }
}

/// The parking queue, on a connection of its own.
struct Queue {
    session: Session,
    channel: Channel,
    name: ShortString,
    depth: u32,
    limit: Duration,
}

impl Queue {
    async fn open(settings: &Settings) -> Result<Self, Definite> {
        let rabbitmq = &settings.rabbitmq;
        let session =
            RabbitBroker::new(rabbitmq, &settings.name, Topology::default()).session().await.map_err(now_or_never)?;
        let limit = rabbitmq.confirm_timeout;
        let opening = async {
            let channel = session.connection().create_channel().await.map_err(Failure::transient)?;
            channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(Failure::transient)?;
            Ok(channel)
        };
        let channel = within(limit, "opening a channel", opening).await.map_err(now_or_never)?;
        let name = ShortString::try_new(rabbitmq.parking.queue.as_str()).context("rabbitmq.parking.queue");
        let name = name.map_err(|error| Definite::new(Kind::Usage, error, "allowed: at most 255 bytes, by AMQP"))?;
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let queue = channel.queue_declare(name.clone(), options, FieldTable::default()).await.map_err(|error| {
            let what = anyhow!(error).context(format!("can't look into the parking queue '{name}'"));
            Definite::new(
                Kind::Broker,
                what,
                "pgsluice declares it when a policy is \"park\"; or name another in rabbitmq.parking.queue",
            )
        })?;
        Ok(Self { depth: queue.message_count(), session, channel, name, limit })
    }

    async fn list(&self, limit: u32) -> Result<(), Definite> {
        let count = limit.min(self.depth);
        let mut last = None;
        for _ in 0..count {
            let Some(message) = self.get().await? else { break };
            last = Some(message.delivery_tag);
            // Who has stopped reading does not want the rest.
            if writeln!(stdout(), "{}", line(&message.delivery)).is_err() {
                break;
            }
        }
        if let Some(tag) = last {
            self.give_back(tag, true).await?;
        }
        let _ = writeln!(stdout(), "{count} of {} that are parked in {}", self.depth, self.name);
        Ok(())
    }

    async fn send(&self, limit: Option<u32>, exchange: Option<&str>, key: Option<&str>) -> Result<(), Definite> {
        let (mut sent, mut kept) = (0_u32, Vec::new());
        // What stays is given back in the end, or it would come again and again.
        for _ in 0..limit.unwrap_or(u32::MAX).min(self.depth) {
            let Some(message) = self.get().await? else { break };
            let tag = message.delivery_tag;
            match self.publish(&message.delivery, exchange, key).await? {
                None => {
                    let acked = self.channel.basic_ack(tag, BasicAckOptions::default()).await;
                    acked.map_err(Failure::transient).map_err(now_or_never)?;
                    sent += 1;
                }
                Some(why) => {
                    let _ = writeln!(stdout(), "stays parked: {}\t{why}", line(&message.delivery));
                    kept.push(tag);
                }
            }
        }
        for tag in &kept {
            self.give_back(*tag, false).await?;
        }
        let _ = writeln!(stdout(), "{sent} sent, {} stay parked that could not be", kept.len());
        if kept.is_empty() {
            return Ok(());
        }
        let error = anyhow!("{} of the parked events could not be sent: they stay parked", kept.len());
        Err(Definite::new(
            Kind::Event,
            error,
            "each says above why; bind a queue, or use --to-exchange and --routing-key",
        ))
    }

    /// Publishes the event; why it stays parked, if it does.
    async fn publish(
        &self,
        parked: &Delivery,
        exchange: Option<&str>,
        key: Option<&str>,
    ) -> Result<Option<String>, Definite> {
        if has(parked, DESCRIBED) {
            return Ok(Some("its body is a description: replay the event".to_owned()));
        }
        if has(parked, STRIPPED) {
            return Ok(Some("its headers were left out: replay the event".to_owned()));
        }
        let (exchange, key) = (exchange.or(text(parked, parked::EXCHANGE)), key.or(text(parked, parked::ROUTING_KEY)));
        let (Some(exchange), Some(key)) = (exchange, key) else {
            return Ok(Some("it does not say where it was to go".to_owned()));
        };
        if exchange.is_empty() {
            return Ok(Some("the name of its exchange is empty".to_owned()));
        }
        let (Ok(exchange), Ok(key)) = (ShortString::try_new(exchange), ShortString::try_new(key)) else {
            return Ok(Some("its exchange or routing key is longer than 255 bytes".to_owned()));
        };
        // On a channel of its own: the broker closes it over an exchange that does not exist, and this one has the parked.
        let publishing = async {
            let channel = self.session.connection().create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            let options = BasicPublishOptions { mandatory: true, ..Default::default() };
            let confirm = channel.basic_publish(exchange, key, options, &parked.data, properties(parked)).await?;
            let confirmed = confirm.await;
            if confirmed.is_ok() {
                channel.close(200, "sent".into()).await?;
            }
            confirmed
        };
        match tokio::time::timeout(self.limit, publishing).await {
            Ok(Ok(Confirmation::Ack(None))) => Ok(None),
            Ok(Ok(Confirmation::Ack(Some(_)))) => Ok(Some("no queue takes it".to_owned())),
            Ok(Ok(Confirmation::Nack(_))) => Ok(Some("a queue refuses it".to_owned())),
            Ok(Ok(Confirmation::NotRequested)) => Ok(Some("the broker confirms nothing".to_owned())),
            Ok(Err(error)) if matches!(error.kind(), lapin::ErrorKind::ProtocolError(_)) => Ok(Some(error.to_string())),
            Ok(Err(error)) => Err(now_or_never(Failure::transient(error))),
            Err(_) => Ok(Some(format!("no confirm within {} ms", self.limit.as_millis()))),
        }
    }

    async fn get(&self) -> Result<Option<BasicGetMessage>, Definite> {
        let getting = async {
            self.channel.basic_get(self.name.clone(), BasicGetOptions::default()).await.map_err(Failure::transient)
        };
        within(self.limit, "looking into the parking queue", getting).await.map_err(now_or_never)
    }

    async fn give_back(&self, tag: u64, multiple: bool) -> Result<(), Definite> {
        let options = BasicNackOptions { multiple, requeue: true };
        self.channel.basic_nack(tag, options).await.map_err(Failure::transient).map_err(now_or_never)
    }

    /// What was given back is back when this is done.
    async fn close(self) {
        let _ = self.channel.close(200, "done".into()).await;
        self.session.close().await;
    }
}

/// What its own queue has added.
fn is_of_the_broker(header: &str) -> bool {
    let names = ["x-death", "x-delivery-count", "x-acquired-count", "x-opt-"];
    names.into_iter().chain(["x-first-death-", "x-last-death-"]).any(|name| header.starts_with(name))
}

/// As it was before it was parked, and when it is sent again.
fn properties(parked: &Delivery) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in parked.properties.headers().iter().flat_map(FieldTable::inner) {
        if !name.as_str().starts_with(parked::PREFIX) && !is_of_the_broker(name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    headers.insert(parked::SENT_AT_US.into(), AMQPValue::LongLongInt(now_us()));
    let properties = parked.properties.clone().with_headers(headers).with_delivery_mode(2);
    match text(parked, parked::EXPIRATION).map(ShortString::try_new) {
        Some(Ok(expiration)) => properties.with_expiration(expiration),
        Some(Err(_)) | None => properties,
    }
}

fn line(parked: &Delivery) -> String {
    let id = parked.properties.message_id().as_ref().map(ShortString::as_str);
    let at_us = parked.properties.headers().as_ref().and_then(|headers| headers.inner().get(parked::AT_US));
    let at = match at_us {
        Some(AMQPValue::LongLongInt(at_us)) => rfc3339(*at_us),
        Some(_) | None => "-".to_owned(),
    };
    let header = |name| text(parked, name).unwrap_or("-");
    let bytes = parked.data.len().to_string();
    let fields = [
        header(parked::POSITION),
        &at,
        header(parked::REASON),
        id.unwrap_or("-"),
        header(parked::EXCHANGE),
        header(parked::ROUTING_KEY),
        &bytes,
        header(parked::ERROR),
    ];
    // Values of columns, which may hold anything, must not move the terminal's cursor.
    let printable = |character: char| if character.is_control() { '\u{FFFD}' } else { character };
    fields.map(|field| field.chars().map(printable).collect::<String>()).join("\t")
}

fn text<'d>(parked: &'d Delivery, name: &str) -> Option<&'d str> {
    match parked.properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        _ => None,
    }
}

fn has(parked: &Delivery, name: &str) -> bool {
    parked.properties.headers().as_ref().is_some_and(|headers| headers.inner().contains_key(name))
}

fn rfc3339(at_us: i64) -> String {
    let mut text = Vec::new();
    crate::encode::time::rfc3339(&mut text, crate::encode::time::since_2000(at_us));
    String::from_utf8_lossy(&text).into_owned()
}

fn now_us() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX)
}

/// Nobody waits here for a server to come back.
fn now_or_never(failure: Failure) -> Definite {
    match failure {
        Failure::Definite(definite) => definite,
        Failure::Transient(error) => {
            let hint = "try again: what was not confirmed is still parked, and may have been sent as well";
            Definite::new(Kind::Unreachable, error.context("RabbitMQ is away"), hint)
        }
    }
}

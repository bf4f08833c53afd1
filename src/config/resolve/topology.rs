//! `[[rabbitmq.exchanges]]`, `[[rabbitmq.queues]]`, `[[rabbitmq.bindings]]`. `{name}` is filled in wherever a name stands.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::super::layers::Origins;
use super::super::topology::{Binding, Bound, Exchange, Queue, Topology};
use super::super::written;
use super::{MAX_NAME_BYTES, one_of, required, template};
use crate::failure::Definite;

/// Arguments that have keys of their own.
const ALTERNATE: (&str, &str) = ("alternate_exchange", "alternate-exchange");
const TYPE: (&str, &str) = ("type", "x-queue-type");
const DEAD_LETTER_EXCHANGE: (&str, &str) = ("dead_letter_exchange", "x-dead-letter-exchange");
const DEAD_LETTER_ROUTING_KEY: (&str, &str) = ("dead_letter_routing_key", "x-dead-letter-routing-key");

/// Where a section stands.
struct Entry<'o> {
    at: &'o Origins,
    key: String,
    pipeline: &'o str,
}

pub(super) fn topology(
    at: &Origins,
    exchanges: Vec<written::Exchange>,
    queues: Vec<written::Queue>,
    bindings: Vec<written::Binding>,
    pipeline: &str,
) -> Result<Topology, Definite> {
    let entry = |list: &str, index| Entry { at, key: at.item(&format!("rabbitmq.{list}"), index), pipeline };
    let each_exchange = exchanges.into_iter().enumerate().map(|(n, it)| exchange(&entry("exchanges", n), it));
    let each_queue = queues.into_iter().enumerate().map(|(n, it)| queue(&entry("queues", n), it));
    let each_binding = bindings.into_iter().enumerate().map(|(n, it)| binding(&entry("bindings", n), it));
    let topology = Topology {
        exchanges: each_exchange.collect::<Result<_, _>>()?,
        queues: each_queue.collect::<Result<_, _>>()?,
        bindings: each_binding.collect::<Result<_, _>>()?,
        destinations: Vec::new(),
    };
    unique(at, "exchanges", topology.exchanges.iter().map(|exchange| exchange.name.as_str()))?;
    unique(at, "queues", topology.queues.iter().map(|queue| queue.name.as_str()))?;
    Ok(topology)
}

/// RabbitMQ lets nobody publish to an internal exchange.
pub(super) fn destinations(at: &Origins, topology: &Topology, names: &[String]) -> Result<(), Definite> {
    let is_destination = |exchange: &Exchange| exchange.internal && names.contains(&exchange.name);
    let Some(index) = topology.exchanges.iter().position(is_destination) else { return Ok(()) };
    let what = format!("can't be true: events go to \"{}\"", topology.exchanges[index].name);
    let hint =
        "RabbitMQ lets nobody publish to an internal exchange: remove the key, or give the events another exchange";
    Err(at.wrong(&format!("{}.internal", at.item("rabbitmq.exchanges", index)), what, hint))
}

fn exchange(entry: &Entry<'_>, written: written::Exchange) -> Result<Exchange, Definite> {
    let written::Exchange { name, kind, durable, auto_delete, internal, alternate, arguments } = written;
    let mut arguments = entry.arguments(arguments, &[ALTERNATE])?;
    if let Some(alternate) = alternate {
        let alternate = entry.name(ALTERNATE.0, Some(alternate))?;
        arguments.insert(ALTERNATE.1.to_owned(), Value::String(alternate));
    }
    Ok(Exchange {
        name: entry.name("name", name)?,
        kind: exchange_type(entry.at, &entry.sub("type"), kind)?,
        durable: durable.unwrap_or(true),
        auto_delete: auto_delete.unwrap_or(false),
        internal: internal.unwrap_or(false),
        arguments,
    })
}

/// `topic` unless written.
pub(super) fn exchange_type(at: &Origins, key: &str, written: Option<String>) -> Result<String, Definite> {
    let kind = written.unwrap_or_else(|| "topic".to_owned());
    if matches!(kind.as_str(), "topic" | "direct" | "fanout" | "headers") || kind.starts_with("x-") {
        return Ok(kind);
    }
    let hint = "allowed: topic, direct, fanout, headers, or the x-… type of a plugin";
    Err(at.wrong(key, format!("is not a type of exchange: \"{kind}\""), hint))
}

fn queue(entry: &Entry<'_>, written: written::Queue) -> Result<Queue, Definite> {
    let written::Queue { name, kind, dead_letter_exchange, dead_letter_routing_key, arguments } = written;
    let kinds = [("quorum", "quorum"), ("classic", "classic"), ("stream", "stream")];
    let kind = one_of(entry.at, &entry.sub("type"), kind, &kinds)?.unwrap_or("quorum");
    if kind == "stream" && dead_letter_exchange.is_some() {
        let hint = "a stream keeps what is rejected: remove the key, or make it a quorum queue";
        return Err(entry.at.wrong(&entry.sub("dead_letter_exchange"), "has no meaning with type = \"stream\"", hint));
    }
    if dead_letter_routing_key.is_some() && dead_letter_exchange.is_none() {
        let hint =
            "name the exchange too; dead_letter_exchange = \"\" is the default exchange, whose routing keys are queues";
        let what = "is given without dead_letter_exchange";
        return Err(entry.at.wrong(&entry.sub("dead_letter_routing_key"), what, hint));
    }
    let mut arguments = entry.arguments(arguments, &[TYPE, DEAD_LETTER_EXCHANGE, DEAD_LETTER_ROUTING_KEY])?;
    arguments.insert(TYPE.1.to_owned(), kind.into());
    let dead_letters =
        [(DEAD_LETTER_EXCHANGE, dead_letter_exchange), (DEAD_LETTER_ROUTING_KEY, dead_letter_routing_key)];
    for ((key, argument), text) in dead_letters {
        if let Some(text) = text {
            arguments.insert(argument.to_owned(), Value::String(entry.text(key, &text)?));
        }
    }
    Ok(Queue { name: entry.name("name", name)?, arguments })
}

fn binding(entry: &Entry<'_>, written: written::Binding) -> Result<Binding, Definite> {
    let written::Binding { exchange, queue, to_exchange, routing_key, arguments } = written;
    let to = match (queue, to_exchange) {
        (Some(queue), None) => Bound::Queue(entry.name("queue", Some(queue))?),
        (None, Some(exchange)) => Bound::Exchange(entry.name("to_exchange", Some(exchange))?),
        (Some(_), Some(_)) => {
            return Err(entry.at.wrong(&entry.sub("to_exchange"), "is given beside queue", "keep one of the two"));
        }
        (None, None) => {
            let hint = "what gets the messages, as in queue = \"orders\"; or to_exchange";
            return Err(entry.at.wrong(&entry.sub("queue"), "is missing", hint));
        }
    };
    let exchange = entry.name("exchange", exchange)?;
    let routing_key = entry.text("routing_key", routing_key.as_deref().unwrap_or("#"))?;
    Ok(Binding { exchange, to, routing_key, arguments: entry.arguments(arguments, &[])? })
}

fn unique<'n>(at: &Origins, list: &str, names: impl Iterator<Item = &'n str>) -> Result<(), Definite> {
    let mut seen = BTreeSet::new();
    for (index, name) in names.enumerate() {
        if !seen.insert(name) {
            let key = format!("{}.name", at.item(&format!("rabbitmq.{list}"), index));
            return Err(at.wrong(&key, format!("is given twice: \"{name}\""), "keep one of the two sections"));
        }
    }
    Ok(())
}

impl Entry<'_> {
    fn sub(&self, name: &str) -> String {
        format!("{}.{name}", self.key)
    }

    /// The name of an exchange or a queue. The empty one is the broker's own.
    fn name(&self, key: &str, written: Option<String>) -> Result<String, Definite> {
        let name = required(self.at, &self.sub(key), written, "a name, of 1 to 255 bytes")?;
        self.text(key, &name)
    }

    fn text(&self, key: &str, written: &str) -> Result<String, Definite> {
        let template = template(self.at, &self.sub(key), written, self.pipeline)?;
        match template.literal() {
            Some(text) => Ok(text.to_owned()),
            None => Err(self.at.wrong(&self.sub(key), "uses a variable that is not known here", "allowed: {name}")),
        }
    }

    /// Those without a key of their own.
    fn arguments(&self, written: Option<Table>, keys: &[(&str, &str)]) -> Result<Table, Definite> {
        let arguments = written.unwrap_or_default();
        for name in arguments.keys() {
            let key = format!("{}.arguments.{name}", self.key);
            if !(1..=MAX_NAME_BYTES).contains(&name.len()) {
                return Err(self.at.wrong(&key, "is no name of an argument", "allowed: 1 to 255 bytes, by AMQP"));
            }
            if let Some((own, _)) = keys.iter().find(|(_, argument)| argument == name) {
                return Err(self.at.wrong(&key, "has a key of its own", format!("write it as {own} = …")));
            }
        }
        Ok(arguments)
    }
}

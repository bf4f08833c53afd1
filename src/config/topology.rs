//! What is declared at the broker: exchanges, queues and bindings.

use toml::{Table, Value};

use super::ParkingSettings;

/// `[[rabbitmq.exchanges]]`, `[[rabbitmq.queues]]`, `[[rabbitmq.bindings]]`, validated; and, once they were
/// [added](Self::with_destinations), the exchanges that events go to. In the order of the configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Topology {
    /// Their names differ.
    pub exchanges: Vec<Exchange>,
    /// Their names differ.
    pub queues: Vec<Queue>,
    /// Their ends need not be among the above.
    pub bindings: Vec<Binding>,
    /// Those of the exchanges that the configuration sends events to by name.
    pub destinations: Vec<String>,
}

/// An exchange.
#[derive(Debug, Clone, PartialEq)]
pub struct Exchange {
    /// Not empty, at most 255 bytes.
    pub name: String,
    /// `topic`, `direct`, `fanout`, `headers`, or a plugin's.
    pub kind: String,
    /// Outlives a restart of the broker.
    pub durable: bool,
    /// Is gone with its last binding.
    pub auto_delete: bool,
    /// Takes messages from other exchanges only.
    pub internal: bool,
    /// `alternate-exchange` among them.
    pub arguments: Table,
}

/// A durable queue, or a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Queue {
    /// Not empty, at most 255 bytes.
    pub name: String,
    /// `x-queue-type`, `x-dead-letter-exchange` and `x-dead-letter-routing-key` among them.
    pub arguments: Table,
}

/// From an exchange to a queue, or to another exchange.
#[derive(Debug, Clone, PartialEq)]
pub struct Binding {
    /// Where messages come from.
    pub exchange: String,
    /// Where they go.
    pub to: Bound,
    /// What it means depends on the exchange's type; may be empty.
    pub routing_key: String,
    /// For `headers` exchanges, and plugins.
    pub arguments: Table,
}

/// What is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// The name of a queue.
    Queue(String),
    /// The name of an exchange.
    Exchange(String),
}

impl Topology {
    /// With these exchanges, too: durable ones of that type, but for those that are described already. The default
    /// exchange (no name) is always there, and left out.
    #[must_use]
    pub fn with_destinations(mut self, names: Vec<String>, kind: &str) -> Self {
        for name in names {
            if !name.is_empty() && self.exchange(&name).is_none() {
                self.exchanges.push(Exchange::durable(name.clone(), kind));
            }
            // As the broker calls its default exchange.
            self.destinations.push(if name.is_empty() { "amq.default".to_owned() } else { name });
        }
        self
    }

    /// The one of that name.
    #[must_use]
    pub fn exchange(&self, name: &str) -> Option<&Exchange> {
        self.exchanges.iter().find(|exchange| exchange.name == name)
    }

    /// With what parked events go to; with `declare`, with the queue that gets them, too, which is else nobody's concern.
    #[must_use]
    pub fn with_parking(self, parking: &ParkingSettings, declare: bool) -> Self {
        let ParkingSettings { exchange, queue } = parking;
        let mut topology = self.with_destinations(vec![exchange.clone()], "fanout");
        if declare {
            if topology.queues.iter().all(|described| described.name != *queue) {
                let mut described = Queue::quorum(queue.clone());
                // Whoever looks at what is parked gives it back: by default, RabbitMQ from 4.0 on drops what came back 20 times.
                described.arguments.insert("x-delivery-limit".to_owned(), Value::from(i32::MAX));
                topology.queues.push(described);
            }
            topology.bindings.push(Binding {
                exchange: exchange.clone(),
                to: Bound::Queue(queue.clone()),
                // Of any type that the configuration may give it.
                routing_key: "#".to_owned(),
                arguments: Table::new(),
            });
        }
        topology
    }
}

impl Exchange {
    /// A durable one without arguments.
    #[must_use]
    pub fn durable(name: String, kind: &str) -> Self {
        let (durable, auto_delete, internal) = (true, false, false);
        Self { name, kind: kind.to_owned(), durable, auto_delete, internal, arguments: Table::new() }
    }

    /// What loses events behind the broker's confirm, with what helps.
    #[must_use]
    pub fn risks(&self) -> Vec<(&'static str, &'static str)> {
        let mut risks = Vec::new();
        if !self.durable {
            let what = "is not durable: after a restart of the broker, what others had bound to it gets nothing";
            risks.push((what, "remove durable = false"));
        }
        if self.auto_delete {
            let what = "is deleted with its last binding, and declared again without those of others";
            risks.push((what, "remove auto_delete = true"));
        }
        risks
    }

    /// Where it sends what it can't route.
    #[must_use]
    pub fn alternate(&self) -> Option<&str> {
        self.arguments.get("alternate-exchange").and_then(Value::as_str)
    }
}

impl Queue {
    /// A quorum queue without further arguments.
    #[must_use]
    pub fn quorum(name: String) -> Self {
        let arguments = Table::from_iter([("x-queue-type".to_owned(), Value::from("quorum"))]);
        Self { name, arguments }
    }

    /// `quorum`, `classic` or `stream`.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.arguments.get("x-queue-type").and_then(Value::as_str).unwrap_or("classic")
    }

    /// What loses events behind the broker's confirm, with what helps. A stream's limits are what it is for.
    #[must_use]
    pub fn risks(&self) -> Vec<(&'static str, &'static str)> {
        let has = |argument: &str| self.arguments.contains_key(argument);
        let mut risks = Vec::new();
        if self.kind() == "classic" {
            let what =
                "is classic: it is on one node alone, and since RabbitMQ 3.13 confirms what is not on its disk yet";
            risks.push((what, "type = \"quorum\" keeps what it confirms"));
        }
        if has("x-expires") {
            risks.push(("is deleted with all that is in it when nobody uses it (x-expires)", "remove the argument"));
        }
        // What leaves the queue by itself goes to the dead-letter exchange.
        if self.kind() == "stream" || self.dead_letter_exchange().is_some() {
            return risks;
        }
        let overflow = self.arguments.get("x-overflow").and_then(Value::as_str).unwrap_or("drop-head");
        if (has("x-max-length") || has("x-max-length-bytes")) && overflow == "drop-head" {
            let what = "drops its oldest messages when it is full (x-max-length, x-max-length-bytes)";
            risks.push((what, "x-overflow = \"reject-publish\" makes pgsluice wait; or set dead_letter_exchange"));
        }
        if has("x-message-ttl") {
            risks.push(("drops messages that are too old (x-message-ttl)", "set dead_letter_exchange"));
        }
        risks
    }

    /// Where it sends what is rejected, expired or too much; the empty name is the default exchange.
    #[must_use]
    pub fn dead_letter_exchange(&self) -> Option<&str> {
        self.arguments.get("x-dead-letter-exchange").and_then(Value::as_str)
    }
}

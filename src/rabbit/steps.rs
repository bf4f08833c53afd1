//! What has to be done so that the broker has a topology, in order.
//!
//! Pure. What is named and not described comes first: it must be there, because RabbitMQ takes the name of an alternate
//! or a dead-letter exchange that does not exist, and drops what would go to it. Then exchanges (alternates before those that name
//! them), queues, bindings. `topology` carries the steps out, `survey` only looks, `refusal` says what was refused.

use std::fmt;

use crate::config::topology::{Binding, Bound, Exchange, Queue, Topology};

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step<'t> {
    /// It must be there.
    Expect {
        /// What.
        item: Item<'t>,
        /// Why.
        by: By<'t>,
    },
    /// Declare it.
    Exchange(&'t Exchange),
    /// Declare it.
    Queue(&'t Queue),
    /// Bind it.
    Bind(&'t Binding),
}

/// What can be looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'t> {
    /// The name of an exchange.
    Exchange(&'t str),
    /// The name of a queue.
    Queue(&'t str),
}

/// Who expects something.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum By<'t> {
    /// It is of the topology, which somebody else declares.
    Topology,
    /// As its alternate exchange.
    Alternate(&'t Exchange),
    /// As its dead-letter exchange.
    DeadLetters(&'t Queue),
    /// As one of its ends.
    Binding(&'t Binding),
}

/// Declares the topology, or (with `declare` false) only expects it.
#[must_use]
pub fn steps(topology: &Topology, declare: bool) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    for (item, by) in named(topology) {
        let is_expected = |step: &Step<'_>| matches!(step, Step::Expect { item: other, .. } if *other == item);
        if !is_described(topology, item) && !steps.iter().any(is_expected) {
            steps.push(Step::Expect { item, by });
        }
    }
    let exchanges = alternates_first(topology).into_iter();
    if declare {
        steps.extend(exchanges.map(Step::Exchange));
        steps.extend(topology.queues.iter().map(Step::Queue));
        steps.extend(topology.bindings.iter().map(Step::Bind));
    } else {
        // AMQP can't look for a binding.
        let exchanges = exchanges.map(|exchange| Item::Exchange(&exchange.name));
        let items = exchanges.chain(topology.queues.iter().map(|queue| Item::Queue(&queue.name)));
        steps.extend(items.map(|item| Step::Expect { item, by: By::Topology }));
    }
    steps
}

/// What is named by something else.
fn named(topology: &Topology) -> impl Iterator<Item = (Item<'_>, By<'_>)> {
    let alternates =
        topology.exchanges.iter().filter_map(|it| Some((Item::Exchange(it.alternate()?), By::Alternate(it))));
    let dead_letters =
        topology.queues.iter().filter_map(|it| Some((Item::Exchange(it.dead_letter_exchange()?), By::DeadLetters(it))));
    let bindings = topology.bindings.iter().flat_map(|it| {
        let to = match &it.to {
            Bound::Queue(name) => Item::Queue(name),
            Bound::Exchange(name) => Item::Exchange(name),
        };
        [Item::Exchange(&it.exchange), to].map(|end| (end, By::Binding(it)))
    });
    // The default exchange is always there, and can't be asked for.
    alternates.chain(dead_letters).chain(bindings).filter(|(item, _)| *item != Item::Exchange(""))
}

fn is_described(topology: &Topology, item: Item<'_>) -> bool {
    match item {
        Item::Exchange(name) => topology.exchange(name).is_some(),
        Item::Queue(name) => topology.queues.iter().any(|queue| queue.name == name),
    }
}

/// So that there is no moment when one is there without its alternate. In a circle, somebody has to begin.
fn alternates_first(topology: &Topology) -> Vec<&Exchange> {
    let mut ordered: Vec<&Exchange> = Vec::new();
    for exchange in &topology.exchanges {
        let mut chain = Vec::new();
        let mut next = Some(exchange);
        while let Some(exchange) = next.filter(|it| !ordered.contains(it) && !chain.contains(it)) {
            chain.push(exchange);
            next = exchange.alternate().and_then(|name| topology.exchange(name));
        }
        ordered.extend(chain.into_iter().rev());
    }
    ordered
}

impl fmt::Display for Step<'_> {
    /// What it is about.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expect { item, by: By::Topology } => item.fmt(f),
            Self::Expect { item, by: By::Alternate(exchange) } => {
                write!(f, "{item}, the alternate of exchange '{}'", exchange.name)
            }
            Self::Expect { item, by: By::DeadLetters(queue) } => {
                write!(f, "{item}, the dead-letter exchange of queue '{}'", queue.name)
            }
            Self::Expect { item, by: By::Binding(binding) } => {
                write!(f, "{item}, which {} names", Self::Bind(binding))
            }
            Self::Exchange(exchange) => Item::Exchange(&exchange.name).fmt(f),
            Self::Queue(queue) => Item::Queue(&queue.name).fmt(f),
            Self::Bind(binding) => {
                let to = match &binding.to {
                    Bound::Queue(name) => Item::Queue(name),
                    Bound::Exchange(name) => Item::Exchange(name),
                };
                write!(f, "the binding of {to} to exchange '{}'", binding.exchange)
            }
        }
    }
}

impl fmt::Display for Item<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exchange(name) => write!(f, "exchange '{name}'"),
            Self::Queue(name) => write!(f, "queue '{name}'"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(name: &str, alternate: Option<&str>) -> Exchange {
        let mut exchange = Exchange::durable(name.to_owned(), "topic");
        if let Some(alternate) = alternate {
            exchange.arguments.insert("alternate-exchange".to_owned(), alternate.into());
        }
        exchange
    }

    fn binding(exchange: &str, to: Bound) -> Binding {
        let (routing_key, arguments) = ("#".to_owned(), toml::Table::new());
        Binding { exchange: exchange.to_owned(), to, routing_key, arguments }
    }

    fn topology() -> Topology {
        let mut letters = Queue::quorum("orders".to_owned());
        letters.arguments.insert("x-dead-letter-exchange".to_owned(), "dead".into());
        let mut back = Queue::quorum("retry".to_owned());
        back.arguments.insert("x-dead-letter-exchange".to_owned(), "".into());
        Topology {
            exchanges: vec![exchange("a", Some("b")), exchange("b", Some("c")), exchange("c", None)],
            queues: vec![letters, back],
            bindings: vec![
                binding("a", Bound::Queue("orders".to_owned())),
                binding("a", Bound::Queue("theirs".to_owned())),
                binding("dead", Bound::Exchange("c".to_owned())),
            ],
            destinations: Vec::new(),
        }
    }

    fn shown(topology: &Topology, declare: bool) -> Vec<String> {
        steps(topology, declare).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_others_have_comes_first_and_alternates_before_those_that_name_them() {
        let expected = [
            "exchange 'dead', the dead-letter exchange of queue 'orders'",
            "queue 'theirs', which the binding of queue 'theirs' to exchange 'a' names",
            "exchange 'c'",
            "exchange 'b'",
            "exchange 'a'",
            "queue 'orders'",
            "queue 'retry'",
            "the binding of queue 'orders' to exchange 'a'",
            "the binding of queue 'theirs' to exchange 'a'",
            "the binding of exchange 'c' to exchange 'dead'",
        ];
        assert_eq!(shown(&topology(), true), expected);
        // Bindings can't be looked for.
        assert_eq!(shown(&topology(), false), expected[..7]);
        let is_expectation = |step: &Step<'_>| matches!(step, Step::Expect { .. });
        assert!(steps(&topology(), false).iter().all(is_expectation));
    }

    #[test]
    fn a_circle_of_alternates_has_an_order_too() {
        let exchanges = vec![exchange("a", Some("b")), exchange("b", Some("a")), exchange("c", Some("c"))];
        let circle = Topology { exchanges, ..Topology::default() };
        assert_eq!(shown(&circle, true), ["exchange 'b'", "exchange 'a'", "exchange 'c'"]);
    }

    #[test]
    fn an_exchange_that_is_described_is_not_declared_twice() {
        let names = vec!["a".to_owned(), String::new(), "new".to_owned()];
        let topology = topology().with_destinations(names, "direct");
        let kinds: Vec<_> = topology.exchanges.iter().map(|it| (it.name.as_str(), it.kind.as_str())).collect();
        assert_eq!(kinds, [("a", "topic"), ("b", "topic"), ("c", "topic"), ("new", "direct")]);
    }
}

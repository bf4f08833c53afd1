//! What it means when the broker closes a channel or the connection: worth another try, or a matter for a human.
//!
//! Reply codes are those of AMQP 0-9-1 (constants, §1.1 of the generated reference); the broker's words are always
//! kept, since only they say which exchange, user or limit it was.

use amq_protocol::protocol::connection::AMQPMethod as Connection;
use amq_protocol::protocol::{AMQPClass, channel};
use anyhow::anyhow;

use super::inbox::{ProtocolError, method_name};
use super::steps::{By, Step};
use super::uri::BrokerUri;
use crate::config::topology::Topology;
use crate::failure::{Definite, Failure, Kind, Poison};

const INVALID_PATH: u16 = 402;
const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const RESOURCE_LOCKED: u16 = 405;
const PRECONDITION_FAILED: u16 = 406;
const COMMAND_INVALID: u16 = 503;
const NOT_ALLOWED: u16 = 530;
const NOT_IMPLEMENTED: u16 = 540;
const INTERNAL_ERROR: u16 = 541;

const NOT_INTERNAL: &str = "give the events another exchange, to which the internal one is bound";

/// What was being done when the broker closed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stage<'a> {
    /// Up to the end of the handshake.
    Login,
    /// Declaring, or looking for, something; for the first time in this process, or again.
    Topology { step: Step<'a>, is_first: bool },
    /// Everything later, with this declared, or found.
    Publishing(&'a Topology),
}

/// A method that was not expected here: the broker closes, or breaks the protocol.
pub(super) fn unexpected(method: &AMQPClass, stage: Stage<'_>, uri: &BrokerUri) -> Failure {
    match method {
        AMQPClass::Connection(Connection::Close(close)) => {
            closed(close.reply_code, close.reply_text.as_str(), stage, uri)
        }
        AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
            closed(close.reply_code, close.reply_text.as_str(), stage, uri)
        }
        other => Failure::transient(ProtocolError(format!("unexpected method {}", method_name(other)))),
    }
}

/// Sorts a close by its code, and for some codes by the broker's words.
pub(super) fn closed(code: u16, text: &str, stage: Stage<'_>, uri: &BrokerUri) -> Failure {
    let BrokerUri { user, vhost, .. } = uri;
    let broker = |what: &str, hint: String| {
        Failure::definite(Kind::Broker, anyhow!("RabbitMQ refuses {what}: {text} ({code})"), hint)
    };
    let permissions = format!(
        "pgsluice needs `configure` (to declare) and `write` (to publish) on its exchanges; set_permissions replaces all three: \
         rabbitmqctl set_permissions -p '{vhost}' '{user}' '<configure>' '<write>' '<read>'"
    );
    match (code, stage) {
        // RabbitMQ's connection limits (per vhost, user, node) come with the same codes as refusals for good.
        (NOT_ALLOWED, _) if text.contains("limit") => transient(code, text),
        (ACCESS_REFUSED, Stage::Login) if text.contains("localhost") => broker(
            &format!("user '{user}' from another host"),
            "create a user of its own for pgsluice: rabbitmqctl add_user, rabbitmqctl set_permissions".into(),
        ),
        (ACCESS_REFUSED, Stage::Login) => broker(
            &format!("the login of user '{user}' (wrong user or password)"),
            "check the user of rabbitmq.url, and its password (rabbitmq.password, rabbitmq.password_file or in the URL) or its \
             client certificate"
                .into(),
        ),
        (NOT_ALLOWED | INVALID_PATH, Stage::Login) if text.contains("not found") => broker(
            &format!("virtual host '{vhost}'"),
            format!("create it, rabbitmqctl add_vhost '{vhost}', or correct the path of rabbitmq.url"),
        ),
        (NOT_ALLOWED, Stage::Login) => broker(&format!("virtual host '{vhost}' to user '{user}'"), permissions),
        // The event names the exchange or the routing key, and so it is about this one only.
        (ACCESS_REFUSED, Stage::Publishing(topology))
            if text.contains("access to topic '") || !names(text, topology.destinations.iter()) =>
        {
            let correct = "correct the template or the row that names it";
            let hint = if text.contains("internal exchange") {
                format!("{correct}: {NOT_INTERNAL}")
            } else {
                let topic = "rabbitmqctl set_topic_permissions";
                format!("{correct}, or give the permission: {permissions}; {topic} -p '{vhost}' '{user}' '<exchange>' '<write>' '<read>'")
            };
            let error = anyhow!("an event is for where '{user}' may not publish: {text} ({code})");
            Definite::poison(Poison::NotPermitted, error, hint).into()
        }
        (ACCESS_REFUSED, Stage::Publishing(_)) if text.contains("internal exchange") => {
            broker("to take events", NOT_INTERNAL.into())
        }
        (ACCESS_REFUSED, Stage::Publishing(_)) => broker("to take events", permissions),
        // A node that is down comes with more words. These may pass too, but not when they come at the first try.
        (INTERNAL_ERROR, Stage::Topology { step, is_first: true }) if text == "INTERNAL_ERROR" => {
            let hint = "the broker fails at it, and its log says how: a value in its arguments may be none that it can read";
            broker(&format!("to declare {step}"), hint.into())
        }
        (_, Stage::Topology { step, .. }) => match of_topology(code, text, step, &permissions) {
            Some((what, hint)) => broker(&what, hint),
            None => transient(code, text),
        },
        // One that was there a moment ago is declared again, or missed, by the next connection.
        (NOT_FOUND, Stage::Publishing(topology))
            if text.contains("no exchange") && !names(text, topology.exchanges.iter().map(|it| &it.name)) =>
        {
            Definite::poison(
                Poison::UnknownExchange,
                anyhow!("an event is for an exchange that does not exist: {text} ({code})"),
                "create the exchange, or correct the template or the row that names it",
            )
            .into()
        }
        (PRECONDITION_FAILED, Stage::Publishing(_)) if text.contains("message size") => Definite::poison(
            Poison::TooLarge,
            anyhow!("an event is larger than RabbitMQ takes: {text} ({code})"),
            "raise max_message_size on the broker; set rabbitmq.max_message_bytes to the broker's limit to learn \
             which event it is before it is sent",
        )
        .into(),
        (PRECONDITION_FAILED, Stage::Publishing(_)) => Definite::poison(
            Poison::Other,
            anyhow!("RabbitMQ refuses an event: {text} ({code})"),
            "correct the template or the row that gives the event this property or header",
        )
        .into(),
        _ => transient(code, text),
    }
}

/// Whether it is about one of these: `… exchange 'shop.events' in vhost 'shop' …`
fn names<'e>(text: &str, mut exchanges: impl Iterator<Item = &'e String>) -> bool {
    exchanges.any(|name| text.contains(&format!("exchange '{name}' in vhost")))
}

/// It does not exist. One whose node is down comes with the same code.
pub(super) fn is_absent(code: u16, text: &str) -> bool {
    code == NOT_FOUND && (text.contains("no queue '") || text.contains("no exchange '"))
}

/// What is refused, and what helps; none: another try may.
fn of_topology(code: u16, text: &str, step: Step<'_>, permissions: &str) -> Option<(String, String)> {
    let to_declare = format!("to declare {step}");
    Some(match (code, step) {
        (ACCESS_REFUSED, Step::Expect { .. }) => (format!("access to {step}"), permissions.to_owned()),
        (ACCESS_REFUSED, _) if text.contains("reserved prefix") => {
            (to_declare, "names that begin with \"amq.\" are the broker's own: choose another".to_owned())
        }
        (ACCESS_REFUSED, Step::Exchange(_)) => {
            (to_declare, format!("{permissions}; or create it yourself and set rabbitmq.declare = false"))
        }
        (ACCESS_REFUSED, Step::Queue(_) | Step::Bind(_)) => {
            let hint = "to bind takes `read` on the exchange and `write` on what is bound to it, and to name a dead-letter \
                        exchange `read` on the queue and `write` on that exchange; or create it yourself and set \
                        rabbitmq.declare = false";
            (to_declare, format!("{permissions}; {hint}"))
        }
        (NOT_FOUND, _) if !is_absent(code, text) => return None,
        (NOT_FOUND, Step::Expect { by: By::Topology, .. }) => {
            let hint = "create it, or let pgsluice declare it with rabbitmq.declare = true";
            (format!("{step}: it does not exist"), hint.to_owned())
        }
        (NOT_FOUND, _) => {
            let hint = "describe it in [[rabbitmq.exchanges]] or [[rabbitmq.queues]], correct its name, or create it before \
                        pgsluice starts";
            (format!("{step}: it does not exist"), hint.to_owned())
        }
        (PRECONDITION_FAILED, _) if text.contains("inequivalent") => {
            (format!("{to_declare}, which exists with other properties"), differing(text, step))
        }
        (PRECONDITION_FAILED | NOT_IMPLEMENTED, _) => (to_declare, unusable(text, step)),
        (RESOURCE_LOCKED, _) => {
            (step.to_string(), "the connection that made it has it for itself: choose another queue".to_owned())
        }
        (COMMAND_INVALID, _) => {
            let hint = "give it a type that the broker knows: topic, direct, fanout, headers, or that of a plugin which is enabled";
            (to_declare, hint.to_owned())
        }
        _ => return None,
    })
}

fn differing(text: &str, step: Step<'_>) -> String {
    let (list, key) = (list(step), argument(text).map(key));
    let other = match step {
        Step::Exchange(_) if key.as_deref() == Some("type") => ", or rabbitmq.exchange_type",
        Step::Exchange(_) | Step::Queue(_) | Step::Bind(_) | Step::Expect { .. } => "",
    };
    let key = key.unwrap_or_else(|| "what differs".to_owned());
    format!(
        "set {key} in {list}{other} to what {step} has, delete it at the broker so that it is declared anew, or set \
         rabbitmq.declare = false"
    )
}

fn unusable(text: &str, step: Step<'_>) -> String {
    let key = argument(text).map_or_else(|| "what the broker names".to_owned(), key);
    format!("correct {key} of {step} in {}", list(step))
}

fn list(step: Step<'_>) -> &'static str {
    match step {
        Step::Exchange(_) => "[[rabbitmq.exchanges]]",
        Step::Queue(_) => "[[rabbitmq.queues]]",
        Step::Bind(_) => "[[rabbitmq.bindings]]",
        Step::Expect { .. } => "[rabbitmq]",
    }
}

/// `… inequivalent arg 'x-max-length' for queue …`, `… invalid arg 'x-max-age' for …`
fn argument(text: &str) -> Option<&str> {
    text.split_once(" arg '").and_then(|(_, rest)| rest.split_once('\'')).map(|(name, _)| name)
}

/// How the configuration calls it.
fn key(argument: &str) -> String {
    match argument {
        "type" | "durable" | "auto_delete" | "internal" => argument.to_owned(),
        "x-queue-type" => "type".to_owned(),
        "alternate-exchange" => "alternate_exchange".to_owned(),
        "x-dead-letter-exchange" => "dead_letter_exchange".to_owned(),
        "x-dead-letter-routing-key" => "dead_letter_routing_key".to_owned(),
        other => format!("arguments.{other}"),
    }
}

fn transient(code: u16, text: &str) -> Failure {
    Failure::transient(anyhow!("RabbitMQ closed: {text} ({code})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::topology::{Exchange, Queue};

    fn sort(code: u16, text: &str, stage: Stage<'_>) -> Failure {
        let uri = BrokerUri::parse("amqp://app:hunter2@mq1/shop").expect("a good URI");
        closed(code, text, stage, &uri)
    }

    #[test]
    fn what_a_human_must_mend_is_definite_and_the_rest_is_tried_again() {
        let exchange = Exchange::durable("e".to_owned(), "topic");
        let step = Step::Exchange(&exchange);
        let topology = Stage::Topology { step, is_first: true };
        let again = Stage::Topology { step, is_first: false };
        let described = Topology { exchanges: vec![exchange.clone()], ..Topology::default() };
        let publishing = Topology::default().with_destinations(vec!["e".to_owned()], "topic");
        let (publishing, described, nothing) =
            (Stage::Publishing(&publishing), Stage::Publishing(&described), Topology::default());
        let nothing = Stage::Publishing(&nothing);
        for (code, text, stage, kind) in [
            (403, "ACCESS_REFUSED - Login was refused using PLAIN", Stage::Login, Some(Kind::Broker)),
            (530, "NOT_ALLOWED - vhost shop not found", Stage::Login, Some(Kind::Broker)),
            (530, "NOT_ALLOWED - access to vhost 'shop' refused for user 'app'", Stage::Login, Some(Kind::Broker)),
            (530, "NOT_ALLOWED - … refused for user 'app': connection limit (3) is reached", Stage::Login, None),
            (541, "INTERNAL_ERROR - … vhost 'shop' is down", Stage::Login, None),
            (403, "ACCESS_REFUSED - access to exchange 'e'", topology, Some(Kind::Broker)),
            (406, "PRECONDITION_FAILED - inequivalent arg 'type'", topology, Some(Kind::Broker)),
            (404, "NOT_FOUND - no exchange 'e' in vhost 'shop'", topology, Some(Kind::Broker)),
            (404, "NOT_FOUND - home node 'rabbit@mq1' of durable queue 'q' in vhost 'shop' is down", topology, None),
            (405, "RESOURCE_LOCKED - cannot obtain exclusive access", topology, Some(Kind::Broker)),
            (540, "NOT_IMPLEMENTED - …", topology, Some(Kind::Broker)),
            (541, "INTERNAL_ERROR - Cannot declare a queue on node 'rabbit@mq1': nodedown", topology, None),
            (541, "INTERNAL_ERROR", topology, Some(Kind::Broker)),
            (541, "INTERNAL_ERROR", again, None),
            (404, "NOT_FOUND - no exchange 'e' in vhost 'shop'", publishing, None),
            (404, "NOT_FOUND - no exchange 'e' in vhost 'shop'", nothing, Some(Kind::Event)),
            (404, "NOT_FOUND - no exchange 'f' in vhost 'e'", publishing, Some(Kind::Event)),
            (403, "ACCESS_REFUSED - access to exchange 'e' in vhost 'shop' refused", publishing, Some(Kind::Broker)),
            (403, "ACCESS_REFUSED - access to exchange 'e' in vhost 'shop' refused", described, Some(Kind::Event)),
            (403, "ACCESS_REFUSED - access to exchange 'f' in vhost 'e' refused", publishing, Some(Kind::Event)),
            (
                403,
                "ACCESS_REFUSED - cannot publish to internal exchange 'e' in vhost 'shop'",
                publishing,
                Some(Kind::Broker),
            ),
            (
                403,
                "ACCESS_REFUSED - cannot publish to internal exchange 'f' in vhost 'shop'",
                publishing,
                Some(Kind::Event),
            ),
            (
                403,
                "ACCESS_REFUSED - access to topic 'k' in exchange 'e' in vhost 'shop' …",
                publishing,
                Some(Kind::Event),
            ),
            (406, "PRECONDITION_FAILED - fast reply consumer does not exist", nothing, Some(Kind::Event)),
            (406, "PRECONDITION_FAILED - message size 9 is larger than 8", nothing, Some(Kind::Event)),
            (320, "CONNECTION_FORCED - broker forced connection closure", nothing, None),
        ] {
            let found = match sort(code, text, stage) {
                Failure::Transient(error) => {
                    assert!(error.to_string().contains(text));
                    None
                }
                Failure::Definite(definite) => {
                    assert!(definite.to_string().contains(text), "{definite}");
                    assert!(!format!("{definite} {}", definite.hint).contains("hunter2"));
                    Some(definite.kind)
                }
            };
            assert_eq!(found, kind, "{code} {text} {stage:?}");
        }
    }

    #[test]
    fn the_hint_names_the_key_that_is_to_be_set() {
        let (exchange, queue) = (Exchange::durable("e".to_owned(), "topic"), Queue::quorum("q".to_owned()));
        let (exchange, queue) = (Step::Exchange(&exchange), Step::Queue(&queue));
        for (text, step, hint) in [
            (
                "inequivalent arg 'type' for exchange 'e'",
                exchange,
                "set type in [[rabbitmq.exchanges]], or rabbitmq.exchange_type ",
            ),
            (
                "inequivalent arg 'alternate-exchange' for exchange 'e'",
                exchange,
                "set alternate_exchange in [[rabbitmq.exchanges]] ",
            ),
            (
                "inequivalent arg 'x-queue-type' for queue 'q'",
                queue,
                "set type in [[rabbitmq.queues]] to what queue 'q' has",
            ),
            (
                "inequivalent arg 'x-max-length' for queue 'q'",
                queue,
                "set arguments.x-max-length in [[rabbitmq.queues]] ",
            ),
            ("invalid arg 'x-max-length' for queue 'q'", queue, "correct arguments.x-max-length of queue 'q' in "),
        ] {
            let Failure::Definite(definite) = sort(406, text, Stage::Topology { step, is_first: true }) else {
                panic!("definite: {text}")
            };
            assert!(definite.hint.starts_with(hint), "{text}: {}", definite.hint);
        }
    }
}

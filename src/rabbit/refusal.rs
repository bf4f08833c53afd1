//! What it means when the broker closes a channel or the connection: worth another try, or a matter for a human.
//!
//! Reply codes are those of AMQP 0-9-1 (constants, §1.1 of the generated reference); the broker's words are always
//! kept, since only they say which exchange, user or limit it was.

use amq_protocol::protocol::connection::AMQPMethod as Connection;
use amq_protocol::protocol::{AMQPClass, channel};
use anyhow::anyhow;

use super::inbox::{ProtocolError, method_name};
use super::uri::BrokerUri;
use crate::failure::{Definite, Failure, Kind, Poison};

const INVALID_PATH: u16 = 402;
const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 406;
const COMMAND_INVALID: u16 = 503;
const NOT_ALLOWED: u16 = 530;

/// What was being done when the broker closed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stage<'a> {
    /// Up to the end of the handshake.
    Login,
    /// Declaring, or looking for, this exchange.
    Topology { exchange: &'a str, declare: bool },
    /// Everything later, with these exchanges declared, or found.
    Publishing { declared: &'a [String] },
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
        (ACCESS_REFUSED, Stage::Topology { exchange, declare: true }) => broker(
            &format!("to declare exchange '{exchange}'"),
            format!("{permissions}; or create the exchange yourself and set rabbitmq.declare = false"),
        ),
        (ACCESS_REFUSED, Stage::Topology { .. } | Stage::Publishing { .. }) if text.contains("topic") => broker(
            "the routing key",
            format!("rabbitmqctl set_topic_permissions -p '{vhost}' '{user}' '<exchange>' '<write>' '<read>'"),
        ),
        (ACCESS_REFUSED, Stage::Topology { exchange, declare: false }) => {
            broker(&format!("access to exchange '{exchange}'"), permissions)
        }
        (ACCESS_REFUSED, Stage::Publishing { .. }) => broker("to take events", permissions),
        (NOT_FOUND, Stage::Topology { exchange, .. }) => broker(
            &format!("exchange '{exchange}': it does not exist"),
            "create it, or let pgsluice declare it with rabbitmq.declare = true".into(),
        ),
        (PRECONDITION_FAILED, Stage::Topology { exchange, .. }) => broker(
            &format!("to declare exchange '{exchange}', which exists with other properties"),
            "set rabbitmq.exchange_type to what it is, delete the exchange, or set rabbitmq.declare = false".into(),
        ),
        (COMMAND_INVALID, Stage::Topology { exchange, .. }) => broker(
            &format!("to declare exchange '{exchange}'"),
            "set rabbitmq.exchange_type to a type that the broker knows: topic, direct, fanout, headers".into(),
        ),
        // One that was there a moment ago is declared again, or missed, by the next connection.
        (NOT_FOUND, Stage::Publishing { declared })
            if text.contains("no exchange") && !declared.iter().any(|name| text.contains(&format!("'{name}'"))) =>
        {
            Definite::poison(
                Poison::UnknownExchange,
                anyhow!("an event is for an exchange that does not exist: {text} ({code})"),
                "create the exchange, or correct the template or the row that names it",
            )
            .into()
        }
        (PRECONDITION_FAILED, Stage::Publishing { .. }) if text.contains("message size") => Definite::poison(
            Poison::TooLarge,
            anyhow!("an event is larger than RabbitMQ takes: {text} ({code})"),
            "raise max_message_size on the broker; set rabbitmq.max_message_bytes to the broker's limit to learn \
             which event it is before it is sent",
        )
        .into(),
        _ => transient(code, text),
    }
}

fn transient(code: u16, text: &str) -> Failure {
    Failure::transient(anyhow!("RabbitMQ closed: {text} ({code})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISHING: Stage<'static> = Stage::Publishing { declared: &[] };

    fn sort(code: u16, text: &str, stage: Stage<'_>) -> Failure {
        let uri = BrokerUri::parse("amqp://app:hunter2@mq1/shop").expect("a good URI");
        closed(code, text, stage, &uri)
    }

    #[test]
    fn what_a_human_must_mend_is_definite_and_the_rest_is_tried_again() {
        let topology = Stage::Topology { exchange: "e", declare: true };
        for (code, text, stage, kind) in [
            (403, "ACCESS_REFUSED - Login was refused using PLAIN", Stage::Login, Some(Kind::Broker)),
            (530, "NOT_ALLOWED - vhost shop not found", Stage::Login, Some(Kind::Broker)),
            (530, "NOT_ALLOWED - access to vhost 'shop' refused for user 'app'", Stage::Login, Some(Kind::Broker)),
            (530, "NOT_ALLOWED - … refused for user 'app': connection limit (3) is reached", Stage::Login, None),
            (541, "INTERNAL_ERROR - … vhost 'shop' is down", Stage::Login, None),
            (403, "ACCESS_REFUSED - access to exchange 'e'", topology, Some(Kind::Broker)),
            (406, "PRECONDITION_FAILED - inequivalent arg 'type'", topology, Some(Kind::Broker)),
            (404, "NOT_FOUND - no exchange 'e'", topology, Some(Kind::Broker)),
            (
                404,
                "NOT_FOUND - no exchange 'e' in vhost 'shop'",
                Stage::Publishing { declared: &["e".to_owned()] },
                None,
            ),
            (404, "NOT_FOUND - no exchange 'e' in vhost 'shop'", PUBLISHING, Some(Kind::Event)),
            (403, "ACCESS_REFUSED - access to exchange 'e'", PUBLISHING, Some(Kind::Broker)),
            (406, "PRECONDITION_FAILED - message size 9 is larger than 8", PUBLISHING, Some(Kind::Event)),
            (320, "CONNECTION_FORCED - broker forced connection closure", PUBLISHING, None),
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
}

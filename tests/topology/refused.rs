//! What the broker does not take, or takes without a word and drops messages over: exit code 4, with the item and the key.

use serde_json::json;

use super::{bind, config, exchange, insert, outbox, queue, run};
use crate::bad_input::{ended, says};
use crate::support::{SOON, Scene, pgsluice, rabbitmq};

/// The message of a start that can't work.
async fn message(scene: &Scene, keys: &str, sections: &str) -> String {
    ended(&mut pgsluice(&config(scene, keys, sections)), 4).await
}

#[tokio::test]
async fn what_is_there_with_other_properties() {
    let scene = Scene::new().await;
    let before = [
        exchange("e", "alternate_exchange = \"amq.fanout\""),
        queue("q", "arguments = { x-max-length = 5, x-overflow = \"reject-publish\" }"),
        queue("dead", "dead_letter_exchange = \"amq.fanout\"\ndead_letter_routing_key = \"a\""),
    ];
    super::stop(run(&scene, &before.concat()).await).await;
    for (section, item, differs, hint) in [
        (
            exchange("e", "type = \"direct\""),
            "exchange 'e'",
            "inequivalent arg 'type'",
            "set type in [[rabbitmq.exchanges]]",
        ),
        (exchange("e", "durable = false"), "exchange 'e'", "inequivalent arg 'durable'", "set durable in "),
        (exchange("e", ""), "exchange 'e'", "inequivalent arg 'alternate-exchange'", "set alternate_exchange in "),
        (
            queue("q", "type = \"classic\"\narguments = { x-max-length = 5, x-overflow = \"reject-publish\" }"),
            "queue 'q'",
            "inequivalent arg 'x-queue-type'",
            "set type in [[rabbitmq.queues]]",
        ),
        (
            queue("q", "arguments = { x-max-length = 6, x-overflow = \"reject-publish\" }"),
            "queue 'q'",
            "inequivalent arg 'x-max-length' for queue 'q'",
            "set arguments.x-max-length in [[rabbitmq.queues]]",
        ),
        (
            queue("dead", "dead_letter_exchange = \"amq.direct\"\ndead_letter_routing_key = \"a\""),
            "queue 'dead'",
            "inequivalent arg 'x-dead-letter-exchange'",
            "set dead_letter_exchange in [[rabbitmq.queues]]",
        ),
    ] {
        let message = message(&scene, "", &section).await;
        let refused = format!("RabbitMQ refuses to declare {item}, which exists with other properties");
        says(&message, &[&refused, differs, "(406)", hint]);
    }
}

#[tokio::test]
async fn what_the_broker_does_not_take() {
    let scene = Scene::new().await;
    for (section, parts) in [
        (
            queue("q", "arguments = { x-max-length = \"many\" }"),
            [
                "refuses to declare queue 'q'",
                "hint: correct arguments.x-max-length of queue 'q' in [[rabbitmq.queues]]",
            ],
        ),
        (
            queue("q", "type = \"stream\"\narguments = { x-max-age = \"soon\" }"),
            [
                "refuses to declare queue 'q': INTERNAL_ERROR (541)",
                "hint: the broker fails at it, and its log says how",
            ],
        ),
        (exchange("e", "type = \"x-delayed\""), ["refuses to declare exchange 'e'", "a type that the broker knows"]),
        (
            exchange("amq.mine", ""),
            ["refuses to declare exchange 'amq.mine'", "hint: names that begin with \"amq.\" are the broker's own"],
        ),
        (
            exchange("h", "type = \"headers\"") + &bind("h", "all", "arguments = { x-match = \"some\" }"),
            ["refuses to declare the binding of queue 'all' to exchange 'h'", "(406)"],
        ),
    ] {
        says(&message(&scene, "", &section).await, &parts);
    }
}

/// RabbitMQ takes the first two without a word, and drops what would go there.
#[tokio::test]
async fn what_is_named_and_nowhere_to_be_found() {
    let scene = Scene::new().await;
    for (section, refused) in [
        (exchange("e", "alternate_exchange = \"no\""), "exchange 'no', the alternate of exchange 'e'"),
        (queue("q", "dead_letter_exchange = \"no\""), "exchange 'no', the dead-letter exchange of queue 'q'"),
        (bind("t.changes", "no", ""), "queue 'no', which the binding of queue 'no' to exchange 't.changes' names"),
        (bind("no", "all", ""), "exchange 'no', which the binding of queue 'all' to exchange 'no' names"),
    ] {
        let message = message(&scene, "", &section).await;
        says(&message, &[&format!("RabbitMQ refuses {refused}: it does not exist"), "hint: describe it in "]);
    }
    assert!(super::at_broker(&scene.vhost, "queues", "q").is_none(), "nothing is declared before that is known");
}

#[tokio::test]
async fn what_somebody_else_should_have_declared() {
    let scene = Scene::new().await;
    let sections = [queue("q", ""), bind("t.changes", "q", "")].concat();
    let keys = "declare = false";
    says(&message(&scene, keys, &sections).await, &["RabbitMQ refuses exchange 't.changes': it does not exist"]);
    scene.vhost.declare_exchange("t.changes", "topic").await;
    scene.vhost.declare_exchange("t.events", "topic").await;
    let message = message(&scene, keys, &sections).await;
    says(&message, &["RabbitMQ refuses queue 'q': it does not exist", "hint: create it, or let pgsluice declare it"]);
    assert!(super::at_broker(&scene.vhost, "queues", "q").is_none());
}

#[tokio::test]
async fn a_user_who_may_not_bind() {
    let scene = Scene::new().await;
    let vhost = scene.vhost.name();
    let user = format!("user_{vhost}");
    rabbitmq().api("PUT", &format!("/users/{user}"), Some(&json!({"password": "secret", "tags": ""})));
    let permissions = json!({"configure": ".*", "write": "^t\\.", "read": ".*"});
    rabbitmq().api("PUT", &format!("/permissions/{vhost}/{user}"), Some(&permissions));
    let config = config(&scene, "", &[queue("q", ""), bind("t.changes", "q", "")].concat());
    let config = config.replace(&scene.vhost.url(), &scene.vhost.url_as(&format!("{user}:secret")));
    let message = ended(&mut pgsluice(&config), 4).await;
    let refused = "RabbitMQ refuses to declare the binding of queue 'q' to exchange 't.changes'";
    says(&message, &[refused, "(403)", "to bind takes `read` on the exchange and `write` on what is bound to it"]);
}

/// Its name is known only when the event comes.
#[tokio::test]
async fn an_internal_exchange_that_an_event_names() {
    let scene = Scene::new().await;
    let config = config(&scene, "poison.policy = \"stop\"\n", &exchange("inner.order", "internal = true"));
    let mut running = pgsluice(&config.replacen("exchange = \"t.events\"", "exchange = \"inner.{aggregatetype}\"", 1));
    running.wait_for_log("streaming from PostgreSQL", SOON).await;
    outbox(&scene, "order", "paid").await;
    let message = ended(&mut running, 8).await;
    says(&message, &["an event is for where", "internal exchange", "give the events another exchange"]);
    insert(&scene).await;
}

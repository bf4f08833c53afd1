//! `[[rabbitmq.exchanges]]`, `[[rabbitmq.queues]]`, `[[rabbitmq.bindings]]`.

use toml::Value;

use super::super::topology::{Bound, Topology};
use super::{SMALLEST, error, load, loaded};

/// The topology of [`SMALLEST`] with these sections behind it.
fn topology(sections: &str) -> Topology {
    loaded(&format!("{SMALLEST}{sections}"), &[]).rabbitmq.topology
}

/// The first of them begins in line 8.
fn wrong(sections: &str) -> String {
    error(&format!("{SMALLEST}{sections}"), &[])
}

#[test]
fn names_are_filled_in_and_the_defaults_lose_nothing() {
    let topology = topology(
        "[[rabbitmq.exchanges]]\nname = \"{name}.events\"\nalternate_exchange = \"{name}.rest\"\n\
         [[rabbitmq.queues]]\nname = \"{name}.q\"\ndead_letter_exchange = \"{name}.dead\"\ndead_letter_routing_key = \"{name}\"\n\
         arguments = { x-delivery-limit = 5, x-single-active-consumer = true }\n\
         [[rabbitmq.bindings]]\nexchange = \"{name}.events\"\nqueue = \"{name}.q\"\n\
         [[rabbitmq.bindings]]\nexchange = \"a\"\nto_exchange = \"{name}.b\"\nrouting_key = \"{name}.{{\"\n\
         arguments = { x-match = \"any\", n = 1.5, deep = { list = [1, \"x\"] } }",
    );
    let exchange = &topology.exchanges[0];
    assert_eq!((exchange.name.as_str(), exchange.kind.as_str()), ("shop.events", "topic"));
    assert_eq!((exchange.durable, exchange.auto_delete, exchange.internal), (true, false, false));
    assert_eq!(exchange.alternate(), Some("shop.rest"));
    let queue = &topology.queues[0];
    assert_eq!(
        (queue.name.as_str(), queue.kind(), queue.dead_letter_exchange()),
        ("shop.q", "quorum", Some("shop.dead"))
    );
    assert_eq!(queue.arguments["x-dead-letter-routing-key"], Value::from("shop"));
    assert_eq!(queue.arguments["x-delivery-limit"], Value::from(5));
    assert_eq!(queue.arguments["x-single-active-consumer"], Value::from(true));
    let [first, second] = &topology.bindings[..] else { panic!("two bindings: {topology:?}") };
    assert_eq!((first.to.clone(), first.routing_key.as_str()), (Bound::Queue("shop.q".to_owned()), "#"));
    assert_eq!((second.to.clone(), second.routing_key.as_str()), (Bound::Exchange("shop.b".to_owned()), "shop.{"));
    assert_eq!(second.arguments["n"], Value::from(1.5));
    assert_eq!(second.arguments["deep"]["list"][1], Value::from("x"));
}

#[test]
fn dead_letters_go_to_the_default_exchange_by_an_empty_name() {
    let topology = topology("[rabbitmq.queues]\nname = \"q\"\ntype = \"classic\"\ndead_letter_exchange = \"\"");
    assert_eq!((topology.queues[0].kind(), topology.queues[0].dead_letter_exchange()), ("classic", Some("")));
}

#[test]
fn names_must_be_names() {
    assert_eq!(
        wrong("[[rabbitmq.exchanges]]\ntype = \"topic\""),
        "conf/shop.toml: rabbitmq.exchanges[0].name is missing\na name, of 1 to 255 bytes"
    );
    assert_eq!(
        wrong("[[rabbitmq.queues]]\nname = \"\""),
        "conf/shop.toml:9: rabbitmq.queues[0].name is empty\na name, of 1 to 255 bytes"
    );
    assert_eq!(
        wrong(&format!("[[rabbitmq.queues]]\nname = \"{}\"", "q".repeat(256))),
        "conf/shop.toml:9: rabbitmq.queues[0].name is longer than 255 bytes\nallowed: at most 255 bytes, by AMQP"
    );
    assert_eq!(
        wrong("[rabbitmq.bindings]\nexchange = \"e\"\nqueue = \"{table}\""),
        "conf/shop.toml:10: rabbitmq.bindings.queue uses a variable that is not known here\nallowed: {name}"
    );
    assert_eq!(
        wrong("[[rabbitmq.exchanges]]\nname = \"e\"\nalternate_exchange = \"\""),
        "conf/shop.toml:10: rabbitmq.exchanges[0].alternate_exchange is empty\na name, of 1 to 255 bytes"
    );
    for list in ["exchanges", "queues"] {
        assert_eq!(
            wrong(&format!("[[rabbitmq.{list}]]\nname = \"shop.x\"\n[[rabbitmq.{list}]]\nname = \"{{name}}.x\"")),
            format!(
                "conf/shop.toml:11: rabbitmq.{list}[1].name is given twice: \"shop.x\"\nkeep one of the two sections"
            )
        );
    }
}

#[test]
fn types_must_be_types() {
    assert_eq!(
        wrong("[[rabbitmq.exchanges]]\nname = \"e\"\ntype = \"tpoic\""),
        "conf/shop.toml:10: rabbitmq.exchanges[0].type is not a type of exchange: \"tpoic\"\n\
         allowed: topic, direct, fanout, headers, or the x-… type of a plugin"
    );
    assert_eq!(
        wrong("[[rabbitmq.queues]]\nname = \"q\"\ntype = \"mirrored\""),
        "conf/shop.toml:10: rabbitmq.queues[0].type can't be \"mirrored\"\nallowed: quorum, classic, stream"
    );
}

#[test]
fn what_rabbitmq_would_refuse_of_dead_letters_is_found() {
    assert_eq!(
        wrong("[[rabbitmq.queues]]\nname = \"q\"\ntype = \"stream\"\ndead_letter_exchange = \"d\""),
        "conf/shop.toml:11: rabbitmq.queues[0].dead_letter_exchange has no meaning with type = \"stream\"\n\
         a stream keeps what is rejected: remove the key, or make it a quorum queue"
    );
    assert_eq!(
        wrong("[[rabbitmq.queues]]\nname = \"q\"\ndead_letter_routing_key = \"d\""),
        "conf/shop.toml:10: rabbitmq.queues[0].dead_letter_routing_key is given without dead_letter_exchange\n\
         name the exchange too; dead_letter_exchange = \"\" is the default exchange, whose routing keys are queues"
    );
}

#[test]
fn a_binding_has_two_ends() {
    assert_eq!(
        wrong("[[rabbitmq.bindings]]\nqueue = \"q\""),
        "conf/shop.toml: rabbitmq.bindings[0].exchange is missing\na name, of 1 to 255 bytes"
    );
    assert_eq!(
        wrong("[[rabbitmq.bindings]]\nexchange = \"e\""),
        "conf/shop.toml: rabbitmq.bindings[0].queue is missing\n\
         what gets the messages, as in queue = \"orders\"; or to_exchange"
    );
    assert_eq!(
        wrong("[[rabbitmq.bindings]]\nexchange = \"e\"\nqueue = \"q\"\nto_exchange = \"f\""),
        "conf/shop.toml:11: rabbitmq.bindings[0].to_exchange is given beside queue\nkeep one of the two"
    );
}

#[test]
fn an_argument_with_a_key_of_its_own_is_written_as_that() {
    for (list, argument, key) in [
        ("exchanges", "alternate-exchange", "alternate_exchange"),
        ("queues", "x-queue-type", "type"),
        ("queues", "x-dead-letter-exchange", "dead_letter_exchange"),
        ("queues", "x-dead-letter-routing-key", "dead_letter_routing_key"),
    ] {
        assert_eq!(
            wrong(&format!("[[rabbitmq.{list}]]\nname = \"x\"\narguments = {{ {argument} = \"y\" }}")),
            format!(
                "conf/shop.toml:10: rabbitmq.{list}[0].arguments.{argument} has a key of its own\nwrite it as {key} = …"
            )
        );
    }
    let long = "x".repeat(256);
    let wrong = wrong(&format!("[[rabbitmq.queues]]\nname = \"x\"\narguments = {{ {long} = 1 }}"));
    assert!(wrong.ends_with("is no name of an argument\nallowed: 1 to 255 bytes, by AMQP"), "{wrong}");
}

#[test]
fn events_can_not_go_to_an_internal_exchange() {
    let section = |name: &str| format!("[[rabbitmq.exchanges]]\nname = \"{name}\"\ninternal = true");
    assert_eq!(
        wrong(&section("shop.changes")),
        "conf/shop.toml:10: rabbitmq.exchanges[0].internal can't be true: events go to \"shop.changes\"\n\
         RabbitMQ lets nobody publish to an internal exchange: remove the key, or give the events another exchange"
    );
    assert!(load(&format!("{SMALLEST}{}", section("shop.other")), &[]).is_ok());
}

#[test]
fn an_unknown_key_of_a_section_is_named_with_its_place() {
    assert_eq!(
        wrong("[[rabbitmq.queues]]\nname = \"q\"\n[[rabbitmq.queues]]\nname = \"r\"\ntpye = \"quorum\""),
        "conf/shop.toml:12: rabbitmq.queues[1].tpye is unknown\n\
         did you mean rabbitmq.queues[1].type? known in [rabbitmq.queues[1]]: name, type, dead_letter_exchange, \
         dead_letter_routing_key, arguments"
    );
}

/// What loses events behind the confirm.
#[test]
fn queues_that_lose_what_they_confirmed_are_known() {
    let risks = |more: &str| -> Vec<&'static str> {
        let topology = topology(&format!("[[rabbitmq.queues]]\nname = \"q\"\n{more}"));
        topology.queues[0].risks().into_iter().map(|(what, _)| what.split(' ').next().unwrap_or_default()).collect()
    };
    assert_eq!(risks(""), [""; 0]);
    assert_eq!(risks("type = \"classic\"\narguments = { x-expires = 1000 }"), ["is", "is"]);
    assert_eq!(risks("arguments = { x-max-length = 5, x-message-ttl = 5 }"), ["drops", "drops"]);
    assert_eq!(risks("arguments = { x-max-length-bytes = 5, x-overflow = \"reject-publish\" }"), [""; 0]);
    assert_eq!(risks("dead_letter_exchange = \"\"\narguments = { x-max-length = 5, x-message-ttl = 5 }"), [""; 0]);
    assert_eq!(risks("type = \"stream\"\narguments = { x-max-length-bytes = 5 }"), [""; 0]);
}

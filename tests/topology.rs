//! `[[rabbitmq.exchanges]]`, `[[rabbitmq.queues]]`, `[[rabbitmq.bindings]]` on a real broker.

mod check;
mod refused;

use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeleteOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};

use crate::broker_faults::impatient_postgres;
use crate::support::{Account, Delivery, Process, SOON, Scene, Traffic, Vhost, eventually, pgsluice, rabbitmq};

/// The scene's configuration, with row events to `t.changes` and the outbox's to `t.events`: nothing of it is there.
fn config(scene: &Scene, keys: &str, sections: &str) -> String {
    let outbox = "[outbox]\n";
    let config =
        scene.config(keys).replacen(outbox, "[outbox]\nexchange = \"t.events\"\nrouting_key = \"{type}\"\n", 1);
    format!("{config}\n[changes]\nexchange = \"t.changes\"\nrouting_key = \"{{table}}\"\n{sections}")
}

/// pgsluice, once it streams and has declared everything.
async fn run(scene: &Scene, sections: &str) -> Process {
    run_with(scene, "", sections).await
}

async fn run_with(scene: &Scene, keys: &str, sections: &str) -> Process {
    let process = pgsluice(&config(scene, keys, sections));
    process.wait_for_log("connected to RabbitMQ", SOON).await;
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    process
}

async fn stop(mut process: Process) {
    process.terminate();
    assert_eq!(process.wait(SOON).await.0, Some(0));
}

async fn insert(scene: &Scene) {
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
}

async fn outbox(scene: &Scene, aggregate_type: &str, event_type: &str) {
    let values = format!("('{aggregate_type}', '1', '{event_type}')");
    scene.database.execute(&format!("INSERT INTO outbox (aggregatetype, aggregateid, type) VALUES {values}")).await;
}

/// What the management API says of `exchanges/NAME` or `queues/NAME`; none when it is not there.
fn at_broker(vhost: &Vhost, list: &str, name: &str) -> Option<Value> {
    let path = format!("/{list}/{}/{name}", vhost.name());
    let (status, answer) = rabbitmq().try_api("GET", &path, None).expect("call the management API");
    (status == 200).then_some(answer)
}

fn there(vhost: &Vhost, list: &str, name: &str) -> Value {
    at_broker(vhost, list, name).unwrap_or_else(|| panic!("{list}/{name} is not there"))
}

fn queue(name: &str, more: &str) -> String {
    format!("[[rabbitmq.queues]]\nname = \"{name}\"\n{more}\n")
}

fn exchange(name: &str, more: &str) -> String {
    format!("[[rabbitmq.exchanges]]\nname = \"{name}\"\n{more}\n")
}

fn bind(exchange: &str, queue: &str, more: &str) -> String {
    format!("[[rabbitmq.bindings]]\nexchange = \"{exchange}\"\nqueue = \"{queue}\"\n{more}\n")
}

#[tokio::test]
async fn exchanges_of_every_type_are_declared_as_described() {
    let scene = Scene::new().await;
    let sections = [
        exchange(
            "{name}.topic",
            "alternate_exchange = \"{name}.fanout\"\narguments = { x-note = \"ours\", x-number = 5 }",
        ),
        exchange("{name}.fanout", "type = \"fanout\"\ninternal = true"),
        exchange("{name}.direct", "type = \"direct\"\ndurable = false"),
        exchange("{name}.headers", "type = \"headers\"\nauto_delete = true"),
    ];
    let _running = run(&scene, &sections.concat()).await;
    for (name, durable, auto_delete, internal, arguments) in [
        ("topic", true, false, false, json!({"alternate-exchange": "shop.fanout", "x-note": "ours", "x-number": 5})),
        ("fanout", true, false, true, json!({})),
        ("direct", false, false, false, json!({})),
        ("headers", true, true, false, json!({})),
    ] {
        let found = there(&scene.vhost, "exchanges", &format!("shop.{name}"));
        assert_eq!((&found["type"], &found["arguments"]), (&json!(name), &arguments), "{found}");
        let flags = [&found["durable"], &found["auto_delete"], &found["internal"]];
        assert_eq!(flags, [&json!(durable), &json!(auto_delete), &json!(internal)], "{found}");
    }
    // What events go to needs no section.
    let destination = there(&scene.vhost, "exchanges", "t.changes");
    assert_eq!((&destination["type"], &destination["durable"]), (&json!("topic"), &json!(true)));
}

#[tokio::test]
async fn what_is_unroutable_goes_to_the_alternate_exchange() {
    let scene = Scene::new().await;
    let sections = [
        exchange("t.changes", "alternate_exchange = \"t.rest\""),
        exchange("t.rest", "type = \"fanout\""),
        queue("orders", ""),
        queue("rest", ""),
        bind("t.changes", "orders", "routing_key = \"orders\""),
        bind("t.rest", "rest", ""),
    ];
    let _running = run(&scene, &sections.concat()).await;
    scene.database.execute("INSERT INTO orders VALUES (1, 'a', 1, 'new')").await;
    insert(&scene).await;
    assert_eq!(scene.vhost.consume("orders", 1, SOON).await[0].routing_key, "orders");
    let rest = scene.vhost.consume("rest", 1, SOON).await;
    assert_eq!((rest[0].exchange.as_str(), rest[0].routing_key.as_str()), ("t.changes", "ledger"));
}

/// Takes one message off a stream, from its beginning.
async fn first_of_stream(vhost: &Vhost, name: &str) -> Delivery {
    let channel = vhost.channel().await;
    channel.basic_qos(1, BasicQosOptions::default()).await.expect("qos");
    let mut from = FieldTable::default();
    from.insert("x-stream-offset".into(), AMQPValue::LongString("first".into()));
    let options = BasicConsumeOptions::default();
    let mut consumer = channel.basic_consume(name.into(), "".into(), options, from).await.expect("consume");
    let delivery =
        tokio::time::timeout(SOON, consumer.next()).await.expect("in time").expect("a message").expect("whole");
    delivery.ack(BasicAckOptions::default()).await.expect("ack");
    Delivery::from(delivery)
}

#[tokio::test]
async fn queues_of_every_type_get_the_events() {
    let scene = Scene::new().await;
    let sections = [
        queue("quorum", "arguments = { x-delivery-limit = 5 }"),
        queue("classic", "type = \"classic\"\narguments = { x-max-priority = 3, x-single-active-consumer = true }"),
        queue("stream", "type = \"stream\"\narguments = { x-max-length-bytes = 1000000000, x-max-age = \"7D\" }"),
        bind("t.changes", "quorum", ""),
        bind("t.changes", "classic", "routing_key = \"ledger\""),
        bind("t.changes", "stream", ""),
    ];
    let _running = run(&scene, &sections.concat()).await;
    insert(&scene).await;
    let first = scene.vhost.consume("quorum", 1, SOON).await.remove(0);
    assert_eq!(scene.vhost.consume("classic", 1, SOON).await[0].message_id, first.message_id);
    assert_eq!(first_of_stream(&scene.vhost, "stream").await.message_id, first.message_id);
    for (name, arguments) in [
        ("quorum", json!({"x-queue-type": "quorum", "x-delivery-limit": 5})),
        ("classic", json!({"x-queue-type": "classic", "x-max-priority": 3, "x-single-active-consumer": true})),
        ("stream", json!({"x-queue-type": "stream", "x-max-length-bytes": 1_000_000_000, "x-max-age": "7D"})),
    ] {
        let found = there(&scene.vhost, "queues", name);
        assert_eq!((&found["arguments"], &found["durable"]), (&arguments, &json!(true)), "{found}");
    }
}

#[tokio::test]
async fn a_headers_exchange_asks_for_all_or_for_any() {
    let scene = Scene::new().await;
    let both = "x-match = \"all\", aggregate_type = \"order\", aggregate_id = \"1\"";
    let sections = [
        exchange("t.events", "type = \"headers\""),
        queue("all-of-them", ""),
        queue("any-of-them", ""),
        bind("t.events", "all-of-them", &format!("arguments = {{ {both} }}")),
        bind("t.events", "any-of-them", &format!("arguments = {{ {} }}", both.replace("\"all\"", "\"any\""))),
    ];
    let _running = run(&scene, &sections.concat()).await;
    outbox(&scene, "invoice", "written").await;
    outbox(&scene, "order", "paid").await;
    let any = scene.vhost.consume("any-of-them", 2, SOON).await;
    assert_eq!((any[0].event_type.as_str(), any[1].event_type.as_str()), ("written", "paid"));
    assert_eq!(scene.vhost.consume("all-of-them", 1, SOON).await[0].event_type, "paid");
    assert_eq!(scene.vhost.depth("all-of-them").await, 0);
}

#[tokio::test]
async fn exchanges_are_bound_to_exchanges() {
    let scene = Scene::new().await;
    let sections = [
        exchange("t.inner", "type = \"fanout\"\ninternal = true"),
        queue("q", ""),
        bind("t.inner", "q", ""),
        bind("t.events", "t.inner", "routing_key = \"paid.*\"").replace("queue =", "to_exchange ="),
    ];
    let _running = run(&scene, &sections.concat()).await;
    outbox(&scene, "order", "paid.late").await;
    assert_eq!(scene.vhost.consume("q", 1, SOON).await[0].routing_key, "paid.late");
}

#[tokio::test]
async fn dead_letters_arrive() {
    let scene = Scene::new().await;
    let dead = "dead_letter_exchange = \"{name}.dead\"\ndead_letter_routing_key = \"{name}.late\"";
    let sections = [
        exchange("{name}.dead", "type = \"direct\""),
        queue("late", &format!("{dead}\narguments = {{ x-message-ttl = 10 }}")),
        queue("dead", ""),
        bind("t.changes", "late", ""),
        bind("{name}.dead", "dead", "routing_key = \"{name}.late\""),
    ];
    let _running = run(&scene, &sections.concat()).await;
    insert(&scene).await;
    let dead = scene.vhost.consume("dead", 1, SOON).await.remove(0);
    assert_eq!((dead.exchange.as_str(), dead.routing_key.as_str()), ("shop.dead", "shop.late"));
    assert_eq!(dead.headers["x-first-death-reason"], "expired");
}

/// Numbers, booleans and text are the same to the broker at each start.
#[tokio::test]
async fn a_second_start_finds_everything_as_it_is() {
    let scene = Scene::new().await;
    let sections = [
        exchange(
            "t.changes",
            "alternate_exchange = \"t.rest\"\narguments = { x-f = 1.5, x-l = [1, \"a\"], x-t = { a = true } }",
        ),
        exchange("t.rest", "type = \"headers\""),
        queue(
            "q",
            "dead_letter_exchange = \"t.rest\"\narguments = { x-max-length = 100, x-overflow = \"reject-publish\" }",
        ),
        queue("s", "type = \"stream\"\narguments = { x-max-age = \"1h\" }"),
        queue("c", "type = \"classic\"\narguments = { x-max-priority = 3, x-single-active-consumer = true }"),
        bind("t.changes", "q", ""),
        bind("t.rest", "s", "arguments = { x-match = \"any\", n = 5, b = true }"),
    ];
    for round in 1..=2 {
        let running = run(&scene, &sections.concat()).await;
        insert(&scene).await;
        assert_eq!(scene.vhost.consume("q", 1, SOON).await.len(), 1, "round {round}");
        stop(running).await;
    }
    let bindings = there(&scene.vhost, "queues", "s/bindings");
    assert_eq!(bindings.as_array().expect("a list").len(), 2, "one, and the default exchange's: {bindings}");
}

/// With all that was bound to it: nobody else lends a hand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_is_deleted_under_load_is_declared_again_with_its_bindings() {
    let single = [("x-single-active-consumer", AMQPValue::Boolean(true))];
    let scene = Scene::with(impatient_postgres(), rabbitmq().vhost(), &single).await;
    // The queue is somebody else's.
    let sections = [exchange("t.inner", ""), bind("t.inner", "all", "routing_key = \"ledger\"")];
    let inner = bind("t.changes", "t.inner", "").replace("queue =", "to_exchange =");
    let pgsluice = run(&scene, &(sections.concat() + &inner)).await;
    let mut traffic = Traffic::start(&scene, Account::after_refusals());
    traffic.more(500, SOON * 2).await;
    let deleted = async {
        let channel = scene.vhost.channel().await;
        for exchange in ["t.inner", "t.changes"] {
            let options = ExchangeDeleteOptions::default();
            channel.exchange_delete(exchange.into(), options).await.expect("delete an exchange");
        }
        pgsluice.wait_for_log("NOT_FOUND - no exchange 't.changes'", SOON).await;
    };
    traffic.during(deleted).await;
    traffic.more(2000, SOON * 2).await;
    traffic.settle(SOON * 2).await;
}

/// Nothing else takes its events, so that they wait for it.
#[tokio::test]
async fn a_queue_that_is_deleted_is_declared_again() {
    let scene = Scene::new().await;
    let sections = [queue("q", ""), bind("t.changes", "q", "")];
    let _running = run(&scene, &sections.concat()).await;
    insert(&scene).await;
    assert_eq!(scene.vhost.consume("q", 1, SOON).await.len(), 1);
    let channel = scene.vhost.channel().await;
    channel.queue_delete("q".into(), QueueDeleteOptions::default()).await.expect("delete a queue");
    insert(&scene).await;
    // It refuses consumers until it has elected a leader.
    eventually("the queue is there again, with the event", SOON, async || {
        at_broker(&scene.vhost, "queues", "q").filter(|queue| queue["messages"] == 1)
    })
    .await;
    assert_eq!(scene.vhost.consume("q", 1, SOON).await.len(), 1);
}

/// As somebody else made it, which AMQP does not tell.
#[tokio::test]
async fn what_somebody_else_declares_is_only_looked_for() {
    let scene = Scene::new().await;
    let sections = [
        exchange("t.changes", "type = \"direct\"\nalternate_exchange = \"t.rest\""),
        exchange("t.rest", ""),
        exchange("t.events", ""),
        queue("q", "dead_letter_exchange = \"amq.fanout\""),
        bind("t.changes", "q", ""),
    ];
    for name in ["t.changes", "t.rest", "t.events"] {
        scene.vhost.declare_exchange(name, "fanout").await;
    }
    scene.vhost.queue("q", &[]).await;
    scene.vhost.bind("q", "t.changes", "").await;
    let _running = run_with(&scene, "declare = false", &sections.concat()).await;
    insert(&scene).await;
    assert_eq!(scene.vhost.consume("q", 1, SOON).await.len(), 1);
    assert_eq!(there(&scene.vhost, "exchanges", "t.changes")["type"], "fanout");
}

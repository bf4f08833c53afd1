//! What can't be delivered: the policies for it, the parking exchange, and sending again what was parked.

use lapin::options::QueueDeleteOptions;
use lapin::types::AMQPValue;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{
    Delivery, Process, RabbitServer, SOON, Scene, eventually, pgsluice, pgsluice_command, postgres, rabbitmq,
};

const QUEUE: &str = "shop.parked";
const READY: &str = "http.listen = \"127.0.0.1:0\"\n";

fn insert(kind: &str, payload: &str) -> String {
    format!("INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ({kind}, '1', 'Paid', {payload})")
}

/// pgsluice, once it streams, with keys of `[rabbitmq]` and of `[outbox]`.
async fn run(scene: &Scene, rabbitmq: &str, outbox: &str) -> Process {
    let config = format!("{READY}{}", scene.config(rabbitmq));
    let process = pgsluice(&config.replace("[checkpoint]", &format!("{outbox}\n[checkpoint]")));
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    process
}

/// What `/readyz` says.
async fn readyz(process: &Process) -> Value {
    let line = process.wait_for_log("answering /readyz", SOON).await;
    let line: Value = serde_json::from_str(&line).expect("a line of JSON");
    let address = line["fields"]["address"].as_str().or(line["address"].as_str()).expect("an address").to_owned();
    let mut stream = TcpStream::connect(address).await.expect("listens");
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.expect("asks");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answers");
    serde_json::from_str(answer.split_once("\r\n\r\n").expect("a body").1).expect("JSON")
}

/// A command of pgsluice's with the configuration of `process`: its exit code and output.
async fn command(process: &Process, arguments: &[&str]) -> (Option<i32>, String) {
    let path = process.config_path();
    let arguments = [arguments, &["--config", path.to_str().expect("text")]].concat();
    let mut process = pgsluice_command(&arguments, &[]);
    let (code, stderr) = process.wait(SOON).await;
    (code, format!("{}{stderr}", process.stdout()))
}

async fn one(scene: &Scene, queue: &str) -> Delivery {
    eventually("a queue", SOON, async || {
        let answer = rabbitmq().try_api("GET", &format!("/queues/{}/{queue}", scene.vhost.name()), None);
        answer.is_ok_and(|(status, _)| status == 200).then_some(())
    })
    .await;
    scene.vhost.consume(queue, 1, SOON).await.remove(0)
}

/// Every way in which an event can't be published: keys of `[rabbitmq]`, of `[outbox]`, its type and payload, and the reason.
fn kinds() -> [(&'static str, &'static str, &'static str, &'static str, &'static str); 7] {
    [
        ("", "", "repeat('x', 300)", "'2'", "name_too_long"),
        ("max_message_bytes = 2000\n", "", "'Large'", "to_jsonb(repeat('x', 5000))", "too_large"),
        // Known to be too large only once it is made.
        (
            "max_message_bytes = 2000\n",
            "envelope = { a = \"payload\" }\n",
            "'Large'",
            "to_jsonb(repeat('x', 1500))",
            "too_large",
        ),
        ("", "exchange = \"{aggregatetype}\"\n", "''", "'2'", "no_exchange"),
        ("", "exchange = \"{aggregatetype}\"\n", "'nowhere'", "'2'", "unknown_exchange"),
        ("", "properties = { priority = \"{aggregatetype}\" }\n", "'high'", "'2'", "property"),
        ("", "properties = { reply_to = \"{aggregatetype}\" }\n", "'amq.rabbitmq.reply-to'", "'2'", "property"),
    ]
}

/// The type of the good events.
fn good(outbox: &str) -> &'static str {
    if outbox.starts_with("exchange") {
        "'shop.events'"
    } else if outbox.starts_with("properties") {
        "'5'"
    } else {
        "'Good'"
    }
}

#[tokio::test]
async fn what_can_not_be_published_is_parked_and_the_rest_goes_on() {
    for (rabbitmq, outbox, kind, payload, reason) in kinds() {
        let scene = Scene::new().await;
        let process = run(&scene, &format!("{rabbitmq}poison.policy = \"park\"\n"), outbox).await;
        let [first, last] = ["'1'", "'3'"].map(|payload| insert(good(outbox), payload));
        scene.database.execute(&format!("{first}; {}; {last}", insert(kind, payload))).await;
        scene.acknowledged().await;
        let parked = one(&scene, QUEUE).await;
        assert_eq!(parked.headers["parked_reason"], reason, "{:?}", parked.headers);
        // Over an exchange that does not exist, the broker closes the channel: what was in flight can come again.
        let number = |it: &Delivery| it.headers["transaction_number"].as_i64();
        let rest = scene.vhost.consumer("all").await;
        let rest = { rest }.until(SOON, |all| all.last().and_then(number) == Some(3)).await;
        let numbers: std::collections::BTreeSet<_> = rest.iter().map(number).collect();
        assert_eq!(numbers, [Some(1), Some(3)].into(), "{reason}");
        assert!(rest.len() == 2 || reason == "unknown_exchange", "{reason}: {}", rest.len());
        assert_eq!(parked.headers["transaction_number"], 2);
        assert_eq!(parked.headers["position"], parked.headers["parked_position"]);
        assert!(!parked.headers["parked_error"].as_str().expect("text").is_empty());
        if reason == "too_large" {
            let body = parked.json();
            assert_eq!((&body["parked"], &body["event"]), (&json!("too_large"), &json!("insert of public.outbox")));
            assert!(body["replay_from"].is_string(), "{body}");
            assert_eq!(parked.headers["parked_described"], true);
        } else {
            assert_eq!(parked.text(), "2");
            assert_eq!(parked.headers["aggregate_id"], "1");
        }
        assert_eq!(scene.vhost.depth(QUEUE).await, 0, "parked once");
        assert_eq!(readyz(&process).await["ready"], true);
    }
}

/// RabbitMQ looks for the permission first, so it does not even say whether the exchange exists.
#[tokio::test]
async fn an_event_for_where_pgsluice_may_not_publish_is_parked_and_the_rest_goes_on() {
    let scene = Scene::new().await;
    let (vhost, user) = (scene.vhost.name(), format!("user_{}", scene.vhost.name()));
    rabbitmq().api("PUT", &format!("/users/{user}"), Some(&json!({"password": "secret", "tags": ""})));
    let permissions = json!({"configure": ".*", "write": "^shop[.]", "read": ".*"});
    rabbitmq().api("PUT", &format!("/permissions/{vhost}/{user}"), Some(&permissions));
    let outbox = "exchange = \"{aggregatetype}\"\n";
    let config = format!("{READY}{}", scene.config("poison.policy = \"park\"\n"));
    let config = config.replacen(&scene.vhost.url(), &scene.vhost.url_as(&format!("{user}:secret")), 1);
    let process = pgsluice(&config.replace("[checkpoint]", &format!("{outbox}\n[checkpoint]")));
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    let rows = [("'shop.events'", "'1'"), ("'other'", "'2'"), ("'shop.events'", "'3'")];
    scene.database.execute(&rows.map(|(exchange, payload)| insert(exchange, payload)).join("; ")).await;
    scene.acknowledged().await;
    let parked = one(&scene, QUEUE).await;
    assert_eq!((&parked.headers["parked_reason"], parked.text()), (&json!("not_permitted"), "2".to_owned()));
    assert!(parked.headers["parked_error"].as_str().is_some_and(|error| error.contains("exchange 'other'")));
    let rest = scene.vhost.consumer("all").await;
    { rest }.until(SOON, |all| all.last().is_some_and(|it| it.text() == "3")).await;
    assert_eq!(readyz(&process).await["ready"], true);
}

#[tokio::test]
async fn what_can_not_be_published_is_waited_for() {
    for (rabbitmq, outbox, kind, payload, reason) in kinds() {
        let scene = Scene::new().await;
        // The default.
        let mut process = run(&scene, rabbitmq, outbox).await;
        let [first, last] = ["'1'", "'3'"].map(|payload| insert(good(outbox), payload));
        scene.database.execute(&first).await;
        // Or it comes again: the broker closes the channel over an exchange that does not exist.
        scene.acknowledged().await;
        scene.database.execute(&insert(kind, payload)).await;
        scene.database.execute(&last).await;
        scene.vhost.consume("all", 1, SOON).await;
        let ready = eventually("it says so", SOON, async || {
            let ready = readyz(&process).await;
            (ready["event"] == reason || ready["broker"] == "refusing").then_some(ready)
        })
        .await;
        assert_eq!(ready["ready"], false);
        process.wait_for_log("all later events wait", SOON).await;
        assert!(process.runs());
        assert_eq!(process.stderr().matches("all later events wait").count(), 1, "once: {}", process.stderr());
        assert_eq!(scene.vhost.depth("all").await, 0, "{reason}: nothing behind it is published");
        process.terminate();
        let (code, log) = process.wait(SOON * 2).await;
        assert_eq!(code, Some(0), "{log}");
        // A human sets another policy.
        let _process = run(&scene, &format!("{rabbitmq}poison.policy = \"park\"\n"), outbox).await;
        let rest = scene.vhost.consume("all", 1, SOON).await;
        assert!(rest[0].text().contains('3'));
        assert_eq!(one(&scene, QUEUE).await.headers["parked_reason"], reason);
        scene.acknowledged().await;
    }
}

#[tokio::test]
async fn what_can_not_be_published_ends_the_process_if_that_is_asked_for() {
    for (rabbitmq, outbox, kind, payload, reason) in kinds() {
        let scene = Scene::new().await;
        let mut process = run(&scene, &format!("{rabbitmq}poison.policy = \"stop\"\n"), outbox).await;
        scene.database.execute(&insert(good(outbox), "'1'")).await;
        scene.database.execute(&insert(kind, payload)).await;
        let (code, log) = process.wait(SOON).await;
        assert_eq!(code, Some(8), "{reason}: {log}");
        scene.vhost.consume("all", 1, SOON).await;
    }
}

/// With a queue for everything but the outbox's `lost.*`.
async fn half_bound() -> Scene {
    let scene = Scene::new().await;
    scene.vhost.queue("some", &[]).await;
    scene.vhost.bind("some", "shop.events", "kept.*").await;
    scene.vhost.channel().await.queue_delete("all".into(), QueueDeleteOptions::default()).await.expect("delete");
    scene
}

#[tokio::test]
async fn what_no_queue_takes_is_parked_and_can_be_sent_again() {
    let scene = half_bound().await;
    let process = run(&scene, "unroutable.policy = \"park\"\n", "headers = { tenant = \"{aggregateid}\" }").await;
    let rows: Vec<_> = ["'kept'", "'lost'", "'lost'", "'kept'"]
        .iter()
        .zip(1..)
        .map(|(kind, n)| insert(kind, &format!("'{n}'")))
        .collect();
    scene.database.execute(&rows.join(";")).await;
    scene.acknowledged().await;
    let kept: Vec<_> = scene.vhost.consume("some", 2, SOON).await.iter().map(Delivery::text).collect();
    assert_eq!(kept, ["1", "4"]);
    assert_eq!(scene.vhost.depth(QUEUE).await, 2);
    assert_eq!(readyz(&process).await["ready"], true);

    for _ in 0..2 {
        let (code, list) = command(&process, &["parked", "list"]).await;
        assert_eq!(code, Some(0), "{list}");
        let lines: Vec<_> = list.lines().collect();
        assert_eq!(lines.len(), 3, "{list}");
        assert!(lines[0].contains("\tunroutable\t") && lines[0].contains("\tshop.events\tlost.Paid\t1\t"), "{list}");
    }
    let (code, sent) = command(&process, &["parked", "send"]).await;
    assert_eq!(code, Some(8), "{sent}");
    assert!(sent.contains("no queue takes it") && sent.contains("0 sent, 2 stay parked"), "{sent}");
    assert_eq!(eventually_depth(&scene, QUEUE, 2).await, 2);

    scene.vhost.queue("found", &[]).await;
    scene.vhost.bind("found", "shop.events", "lost.*").await;
    let (code, sent) = command(&process, &["parked", "send", "--limit", "1"]).await;
    assert_eq!((code, sent.contains("1 sent, 0 stay parked")), (Some(0), true), "{sent}");
    let (code, sent) =
        command(&process, &["parked", "send", "--to-exchange", "shop.changes", "--routing-key", "x"]).await;
    assert_eq!(code, Some(8), "nothing is bound there: {sent}");
    let (code, sent) = command(&process, &["parked", "send"]).await;
    assert_eq!(code, Some(0), "{sent}");
    assert_eq!(scene.vhost.depth(QUEUE).await, 0);
    for delivery in scene.vhost.consume("found", 2, SOON).await {
        assert!(["2", "3"].contains(&&*delivery.text()));
        assert_eq!((delivery.exchange.as_str(), delivery.routing_key.as_str()), ("shop.events", "lost.Paid"));
        assert_eq!((&delivery.headers["tenant"], &delivery.headers["aggregate_type"]), (&json!("1"), &json!("lost")));
        assert!(delivery.headers.contains_key("position") && delivery.headers["unparked_at_us"].is_i64());
        assert!(
            !delivery.headers.keys().any(|name| name.starts_with("parked_") || name.starts_with("x-")),
            "{:?}",
            delivery.headers
        );
        assert_eq!(delivery.properties.delivery_mode(), &Some(2));
    }
}

async fn eventually_depth(scene: &Scene, queue: &str, depth: u32) -> u32 {
    eventually("so many", SOON, async || Some(scene.vhost.depth(queue).await).filter(|it| *it == depth)).await
}

#[tokio::test]
async fn what_no_queue_takes_is_waited_for_or_discarded() {
    for policy in ["wait", "discard"] {
        let scene = half_bound().await;
        let process = run(&scene, &format!("unroutable.policy = \"{policy}\"\n"), "").await;
        scene.database.execute(&insert("'lost'", "'1'")).await;
        scene.database.execute(&insert("'kept'", "'2'")).await;
        if policy == "discard" {
            scene.acknowledged().await;
            assert_eq!(scene.vhost.consume("some", 1, SOON).await[0].text(), "2");
            continue;
        }
        process.wait_for_log("no queue takes event", SOON).await;
        assert_eq!(readyz(&process).await["broker"], "retrying");
        scene.vhost.bind("some", "shop.events", "lost.*").await;
        scene.acknowledged().await;
        let came: Vec<_> = scene
            .vhost
            .consumer("some")
            .await
            .until(SOON, |all| all.len() >= 2 && all.last().is_some_and(|it| it.text() == "2"))
            .await;
        assert!(came.iter().any(|it| it.text() == "1"));
    }
}

/// Killed between the return and the confirm of the parked copy, which a full parking queue keeps apart: it is not
/// acknowledged, and parked by the next one.
#[tokio::test]
async fn an_event_counts_as_parked_once_its_copy_is_confirmed() {
    let scene = half_bound().await;
    scene.vhost.declare_exchange(QUEUE, "fanout").await;
    let full =
        [("x-max-length", AMQPValue::LongInt(0)), ("x-overflow", AMQPValue::LongString("reject-publish".into()))];
    scene.vhost.queue(QUEUE, &full).await;
    scene.vhost.bind(QUEUE, QUEUE, "").await;
    let rabbitmq = "declare = false\nlanes = 3\nunroutable.policy = \"park\"\n";
    let mut process = run(&scene, rabbitmq, "").await;
    scene.database.execute(&insert("'lost'", "'1'")).await;
    let after_lost = scene.database.query_one("SELECT pg_current_wal_insert_lsn()").await;
    scene.database.execute(&insert("'kept'", "'2'")).await;
    process.wait_for_log("RabbitMQ refuses events", SOON).await;
    assert_eq!(scene.vhost.consume("some", 1, SOON).await[0].text(), "2", "it holds up nobody");
    let slot = scene.database.name().to_owned();
    let sql =
        format!("SELECT confirmed_flush_lsn >= '{after_lost}' FROM pg_replication_slots WHERE slot_name = '{slot}'");
    assert_eq!(scene.database.query_one(&sql).await, "f", "it is in flight");
    process.kill();
    assert_eq!(scene.database.query_one(&sql).await, "f");
    scene.vhost.channel().await.queue_delete(QUEUE.into(), QueueDeleteOptions::default()).await.expect("delete");
    process.restart();
    // Returned: nothing is bound to the parking exchange.
    process.wait_for_log("no queue takes event", SOON).await;
    scene.vhost.queue(QUEUE, &[]).await;
    scene.vhost.bind(QUEUE, QUEUE, "").await;
    scene.acknowledged().await;
    let parked = scene.vhost.consume(QUEUE, 1, SOON).await.remove(0);
    assert_eq!((parked.text().as_str(), &parked.headers["parked_reason"]), ("1", &json!("unroutable")));
}

/// With events of other lanes and its own behind it, and the process killed all the while, each event is in one of the two
/// queues.
#[tokio::test]
async fn sigkill_while_events_are_parked_loses_none() {
    const EVENTS: usize = 3_000;
    let scene = half_bound().await;
    let rabbitmq = "lanes = 3\nunroutable.policy = \"park\"\n";
    let mut process = run(&scene, rabbitmq, "").await;
    let sql = format!(
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
         SELECT CASE WHEN n % 5 = 0 THEN 'lost' ELSE 'kept' END, (n % 7)::text, 'Paid', to_jsonb(n) FROM generate_series(1, {EVENTS}) n"
    );
    scene.database.execute(&sql).await;
    let mut came = std::collections::HashSet::new();
    let mut consumers = [scene.vhost.consumer("some").await, scene.vhost.consumer(QUEUE).await];
    for turn in 0..5 {
        for delivery in consumers[turn % 2].until(SOON, |all| all.len() >= 50).await {
            came.insert(delivery.text());
        }
        process.restart();
    }
    scene.acknowledged().await;
    let is_lost = |n: usize| n.is_multiple_of(5);
    for (consumer, lost) in consumers.iter_mut().zip([false, true]) {
        let missing: Vec<String> =
            (1..=EVENTS).filter(|n| is_lost(*n) == lost).map(|n| n.to_string()).filter(|n| !came.contains(n)).collect();
        let mut missing: std::collections::HashSet<String> = missing.into_iter().collect();
        if !missing.is_empty() {
            let all_came =
                |all: &[Delivery]| all.last().is_some_and(|last| missing.remove(&last.text()) && missing.is_empty());
            consumer.until(SOON, all_came).await;
        }
    }
}

/// Of an event that is only described, the row is all that there is.
#[tokio::test]
async fn the_row_of_an_event_that_is_parked_without_its_body_is_not_cleaned_up() {
    let scene = Scene::new().await;
    let rabbitmq = "max_message_bytes = 1024\npoison.policy = \"park\"\n";
    let _process = run(&scene, rabbitmq, "cleanup = { enabled = true, every_ms = 10 }").await;
    let large = insert("'Order'", "to_json(repeat('x', 2000))");
    scene.database.execute(&format!("{}; {large}; {}", insert("'Order'", "'1'"), insert("'Order'", "'3'"))).await;
    assert_eq!(one(&scene, QUEUE).await.headers["parked_reason"], "too_large");
    eventually("the others are deleted", SOON, async || {
        (scene.database.query_one("SELECT count(*) FROM outbox").await == "1").then_some(())
    })
    .await;
    scene.acknowledged().await;
    assert_eq!(scene.database.query_one("SELECT length(payload::text) > 1000 FROM outbox").await, "t");
}

/// The same where only the broker knows its limit: the row had been taken for published by then.
#[tokio::test]
async fn the_row_of_an_event_that_the_broker_finds_too_large_is_not_cleaned_up() {
    let node = RabbitServer::private(&[("max_message_size", "1024")]);
    let scene = Scene::on(postgres(), &node).await;
    let _process = run(&scene, "poison.policy = \"park\"\n", "cleanup = { enabled = true, every_ms = 10 }").await;
    scene.database.execute(&insert("'Order'", "to_json(repeat('x', 2000))")).await;
    scene.acknowledged().await;
    for payload in ["'1'", "'2'"] {
        scene.database.execute(&insert("'Order'", payload)).await;
    }
    eventually("the others are deleted", SOON, async || {
        (scene.database.query_one("SELECT count(*) FROM outbox").await == "1").then_some(())
    })
    .await;
    assert_eq!(scene.database.query_one("SELECT length(payload::text) > 1000 FROM outbox").await, "t");
    let parked = scene.vhost.consume(QUEUE, 1, SOON).await.remove(0);
    assert_eq!(
        (&parked.headers["parked_reason"], &parked.headers["parked_described"]),
        (&json!("too_large"), &json!(true))
    );
}

/// All others are deleted; that one must never be, since its event is whole in no queue.
async fn only_the_large_row_is_left(scene: &Scene) {
    let beginnings = "SELECT coalesce(string_agg(left(payload::text, 2), ' '), '') FROM outbox";
    eventually("all others are deleted", SOON, async || {
        let left = scene.database.query_one(beginnings).await;
        assert!(left.contains("\"x"), "the large row is gone: {left}");
        (left == "\"x").then_some(())
    })
    .await;
}

/// Who starts within a transaction can't tell how the events before it went out: by other limits, they would not be parked.
#[tokio::test]
async fn the_row_of_an_event_that_was_parked_before_a_kill_is_not_cleaned_up_after_it() {
    let scene = Scene::new().await;
    scene.vhost.declare_exchange("shop.nowhere", "topic").await;
    let limit = "max_message_bytes = 1024\n";
    let outbox = "exchange = \"{aggregatetype}\"\ncleanup = { enabled = true, every_ms = 10 }";
    let mut process = run(&scene, &format!("{limit}poison.policy = \"park\"\n"), outbox).await;
    let large = insert("'shop.events'", "to_json(repeat('x', 2000))");
    let [waits, last] = [("'shop.nowhere'", "'2'"), ("'shop.events'", "'3'")].map(|(kind, body)| insert(kind, body));
    scene.database.execute(&format!("{large}; {waits}; {last}")).await;
    assert_eq!(one(&scene, QUEUE).await.headers["parked_reason"], "too_large");
    eventually("the checkpoint is within the transaction", SOON, async || {
        command(&process, &["checkpoint", "show"]).await.1.contains(":0 ").then_some(())
    })
    .await;
    process.kill();
    let config = std::fs::read_to_string(process.config_path()).expect("the configuration");
    std::fs::write(process.config_path(), config.replace(limit, "")).expect("the limit is raised");
    process.restart();
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    scene.vhost.bind("all", "shop.nowhere", "#").await;
    scene.vhost.consume("all", 2, SOON).await;
    only_the_large_row_is_left(&scene).await;
}

/// Sent again, it would be without them.
#[tokio::test]
async fn the_row_of_an_event_that_is_parked_without_its_headers_is_not_cleaned_up() {
    let scene = Scene::new().await;
    let outbox = "headers = { h = \"{payload}\" }\ncleanup = { enabled = true, every_ms = 10 }";
    let _process = run(&scene, "poison.policy = \"park\"\n", outbox).await;
    scene.database.execute(&insert("'Order'", "to_json(repeat('x', 200000))")).await;
    let parked = one(&scene, QUEUE).await;
    assert_eq!(parked.headers["parked_headers_left_out"], true, "{:?}", parked.headers["parked_reason"]);
    scene.database.execute(&insert("'Order'", "'2'")).await;
    only_the_large_row_is_left(&scene).await;
}

/// Whoever has the slot must be there: it would count as unused, and be given up, or be taken by another.
#[tokio::test]
async fn a_stream_that_is_lost_while_an_event_waits_for_a_human_is_opened_again() {
    let scene = Scene::new().await;
    let process = run(&scene, "max_message_bytes = 1024\n", "").await;
    scene.database.execute(&insert("'Order'", "to_json(repeat('x', 2000))")).await;
    process.wait_for_log("can't publish", SOON).await;
    let slot = scene.database.name();
    let pid = format!("SELECT COALESCE(active_pid, 0) FROM pg_replication_slots WHERE slot_name = '{slot}'");
    let before = scene.database.query_one(&pid).await;
    scene.database.query_one(&format!("SELECT pg_terminate_backend({before})")).await;
    eventually("the slot has a reader again", SOON, async || {
        let now = scene.database.query_one(&pid).await;
        (now != "0" && now != before).then_some(())
    })
    .await;
    assert_eq!(process.stderr().matches("can't publish").count(), 1, "told once: {}", process.stderr());
    assert_eq!(readyz(&process).await["event"], "too_large");
}

#[tokio::test]
async fn what_can_not_be_a_cloud_event_is_described_and_stays_parked() {
    let scene = Scene::new().await;
    let process = run(&scene, "poison.policy = \"park\"\n", "format = \"cloudevents\"").await;
    let bad = "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', '1', '', '2')";
    scene.database.execute(bad).await;
    scene.acknowledged().await;
    let (code, said) = command(&process, &["parked", "send", "--to-exchange", "shop.events"]).await;
    assert!(code == Some(8) && said.contains("its body is a description"), "{code:?} {said}");
    let parked = one(&scene, QUEUE).await;
    assert_eq!((&parked.headers["parked_described"], &parked.json()["parked"]), (&json!(true), &json!("other")));
}

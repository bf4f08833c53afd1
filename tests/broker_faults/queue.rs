//! A queue that is full, or deleted.

use std::collections::HashSet;
use std::time::Duration;

use lapin::options::QueueDeleteOptions;
use lapin::types::AMQPValue;
use serde_json::json;

use super::{ONE_CONSUMER, impatient_postgres, nothing_is_acknowledged, scene, walsender};
use crate::bad_input::streaming;
use crate::support::{Account, SOON, Scene, Traffic, rabbitmq};

/// Much longer than it lasts.
const RECOVERY: Duration = Duration::from_mins(1);

/// What it has no room for is nacked, until somebody takes from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_full_queue_refuses_waits_until_it_is_drained() {
    let overflow = AMQPValue::LongString("reject-publish".into());
    let queue = [("x-max-length", 300.into()), ("x-overflow", overflow), ONE_CONSUMER];
    let scene = Scene::with(impatient_postgres(), rabbitmq().vhost(), &queue).await;
    let pgsluice = streaming(&scene, &[]).await;
    let (stream, mut traffic) = (walsender(&scene).await, Traffic::start(&scene, Account::after_refusals()));
    pgsluice.wait_for_log("RabbitMQ refuses events (nack)", SOON).await;
    nothing_is_acknowledged(&scene).await;
    assert!(scene.vhost.depth("all").await >= 300);
    traffic.more(6000, RECOVERY).await;
    traffic.settle(RECOVERY).await;
    assert_eq!(walsender(&scene).await, stream, "the stream stayed open");
}

/// What was in it is gone with it. The events in flight come back, and wait for a queue. Which are which, the broker's own
/// trace says: it shows each message that is published, and the queues that it goes to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_deleted_under_load_takes_nothing_with_it_but_what_is_in_it() {
    let scene = scene().await;
    let vhost = &scene.vhost;
    vhost.queue("trace", &[]).await;
    vhost.bind("trace", "amq.rabbitmq.trace", "publish.shop.changes").await;
    rabbitmq().rabbitmqctl(&["trace_on", "-p", vhost.name()]);
    let pgsluice = streaming(&scene, &[]).await;
    let (stream, mut traffic) = (walsender(&scene).await, Traffic::start(&scene, Account::after_refusals()));
    traffic.more(1000, RECOVERY).await;
    let deleted = async {
        let channel = vhost.channel().await;
        channel.queue_delete("all".into(), QueueDeleteOptions::default()).await.expect("delete a queue");
        pgsluice.wait_for_log("no queue takes event", SOON).await;
        nothing_is_acknowledged(&scene).await;
        vhost.queue("all", &[ONE_CONSUMER]).await;
        vhost.bind("all", "shop.changes", "#").await;
    };
    traffic.during(deleted).await;
    traffic.more(3000, RECOVERY).await;
    let missing = traffic.settle_but_for_what_is_gone(RECOVERY).await;

    let mut consumer = vhost.consumer("trace").await;
    let mut routed = HashSet::new();
    for _ in 0..vhost.depth("trace").await {
        let trace = consumer.next(SOON).await;
        if trace.headers["routed_queues"] == json!(["all"]) {
            routed.insert(trace.json()["after"]["id"].as_i64().expect("a ledger row"));
        }
    }
    let lost: Vec<_> = missing.iter().filter(|id| !routed.contains(id)).collect();
    let some = &lost[..lost.len().min(10)];
    assert!(lost.is_empty(), "{} rows that had not gone to the deleted queue did not come, as {some:?}", lost.len());
    println!("{} rows were gone with the queue", missing.len());
    assert_eq!(walsender(&scene).await, stream, "the stream stayed open");
}

//! A node that raises an alarm, falls silent, or is gone for a while. Each on a node of its own.

use std::sync::Arc;
use std::time::Duration;

use super::{ONE_CONSUMER, connections, impatient_postgres, nothing_is_acknowledged, walsender};
use crate::bad_input::streaming;
use crate::support::{Account, RabbitServer, SOON, Scene, Traffic};

/// Much longer than it lasts.
const RECOVERY: Duration = Duration::from_mins(1);

async fn node() -> (Arc<RabbitServer>, Scene) {
    let node = tokio::task::spawn_blocking(|| RabbitServer::private(&[])).await.expect("a node");
    let scene = Scene::with(impatient_postgres(), node.vhost(), &[ONE_CONSUMER]).await;
    (Arc::new(node), scene)
}

/// Does to the node what may block.
async fn does(node: &Arc<RabbitServer>, what: impl FnOnce(&RabbitServer) + Send + 'static) {
    let node = Arc::clone(node);
    tokio::task::spawn_blocking(move || what(&node)).await.expect("the node does what it is told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_memory_or_disk_alarm_events_wait_and_none_is_repeated() {
    const ALARMS: [(&str, &[&str], &[&str]); 2] = [
        ("low on memory", &["set_vm_memory_high_watermark", "0.00001"], &["set_vm_memory_high_watermark", "0.4"]),
        ("low on disk", &["set_disk_free_limit", "1000GB"], &["set_disk_free_limit", "10MB"]),
    ];
    let (node, scene) = node().await;
    // Shorter than the alarm: it does not count.
    let pgsluice = streaming(&scene, &[("rabbitmq.confirm_timeout_ms", "3000")]).await;
    let (stream, mut traffic) = (walsender(&scene).await, Traffic::start(&scene, Account::default()));
    traffic.more(500, RECOVERY).await;
    for (reason, raise, clear) in ALARMS {
        let alarm = async {
            does(&node, |node| drop(node.rabbitmqctl(raise))).await;
            pgsluice.wait_for_log(&format!("RabbitMQ blocks publishers: {reason}"), SOON).await;
            nothing_is_acknowledged(&scene).await;
            does(&node, |node| drop(node.rabbitmqctl(clear))).await;
        };
        traffic.during(alarm).await;
        traffic.more(6000, RECOVERY).await;
    }
    traffic.settle(RECOVERY).await;
    assert_eq!(walsender(&scene).await, stream, "the stream stayed open");
    // Nothing is published again but after a refusal or on a new connection.
    assert!(!pgsluice.stderr().contains("refuses"), "{}", pgsluice.stderr());
    assert_eq!(connections(&pgsluice).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_only_node_is_silent_or_gone_the_stream_stays_open() {
    let (node, scene) = node().await;
    let url = format!("{}?connection_timeout=1", scene.vhost.url());
    let overrides = [("rabbitmq.url", url.as_str()), ("rabbitmq.confirm_timeout_ms", "1000")];
    let pgsluice = streaming(&scene, &overrides).await;
    let (stream, mut traffic) = (walsender(&scene).await, Traffic::start(&scene, Account::default()));
    traffic.more(500, RECOVERY).await;

    let silence = async {
        node.pause();
        pgsluice.wait_for_log("RabbitMQ confirmed nothing for 1000 ms", SOON).await;
        pgsluice.wait_for_log("no connection to RabbitMQ", SOON).await;
        nothing_is_acknowledged(&scene).await;
        node.resume();
    };
    traffic.during(silence).await;
    traffic.more(6000, RECOVERY).await;

    // So much that the walsender can't even write it.
    let large = "INSERT INTO ledger (filler) SELECT repeat(md5(n::text), 125) FROM generate_series(1, 5000) n";
    let absence = async {
        does(&node, RabbitServer::kill).await;
        scene.database.execute(large).await;
        nothing_is_acknowledged(&scene).await;
        let stuck = "SELECT sent_lsn < pg_current_wal_insert_lsn() FROM pg_stat_replication
                     JOIN pg_replication_slots ON pid = active_pid WHERE slot_name = current_database()";
        assert_eq!(scene.database.query_one(stuck).await, "t", "all of it fits into the sockets' buffers");
        does(&node, RabbitServer::start).await;
    };
    traffic.during(absence).await;
    traffic.more(6000, RECOVERY).await;
    traffic.settle(RECOVERY).await;
    assert_eq!(walsender(&scene).await, stream, "the stream stayed open");
}

//! A cluster of three nodes may lose any node, and any two, without an event being lost.
//!
//! The queue is a quorum queue; pgsluice knows all three hosts. Under a load of transactions, no committed row is lost, the
//! first deliveries are in order, what is not confirmed is not acknowledged, and PostgreSQL's stream is the same at the end as
//! at the beginning, although the server closes one on which it hears nothing for two seconds: what is in flight is
//! published again from memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lapin::types::AMQPValue;

use crate::bad_input::streaming;
use crate::broker_faults::{connections, impatient_postgres, nothing_is_acknowledged, walsender};
use crate::support::{Account, Process, RabbitCluster, RabbitServer, Scene, Traffic};

/// How long a cluster may take to choose new leaders, and publisher and consumer to find them.
const RECOVERY: Duration = Duration::from_mins(1);

/// A cluster and what goes through it. Says what it did and when, for whoever looks into a failure.
struct Rig<'a> {
    cluster: Arc<RabbitCluster>,
    scene: &'a Scene,
    pgsluice: Process,
    traffic: Traffic<'a>,
    begin: Instant,
}

impl Rig<'_> {
    /// The node that pgsluice publishes to.
    fn publishers_node(&self) -> usize {
        self.cluster.by_port(*connections(&self.pgsluice).last().expect("it is connected"))
    }

    /// The node that leads the queue.
    fn leaders_node(&self) -> usize {
        self.cluster.leader(self.scene.vhost.name(), "all")
    }

    async fn each(&mut self, nodes: &[usize], what: fn(&RabbitServer), name: &str) {
        self.traffic.during(self.cluster.each(nodes, what)).await;
        self.says(&format!("{name} {nodes:?}"));
    }

    async fn kill(&mut self, nodes: &[usize]) {
        self.each(nodes, RabbitServer::kill, "killed").await;
    }

    async fn start(&mut self, nodes: &[usize]) {
        self.each(nodes, RabbitServer::start, "started").await;
    }

    async fn pause(&mut self, nodes: &[usize]) {
        self.each(nodes, RabbitServer::pause, "paused").await;
    }

    async fn resume(&mut self, nodes: &[usize]) {
        self.each(nodes, RabbitServer::resume, "resumed").await;
    }

    async fn whole(&mut self) {
        self.traffic.during(self.cluster.whole(self.scene.vhost.name(), "all")).await;
        self.says("the cluster is whole");
    }

    async fn rows_come(&mut self, rows: usize) {
        self.traffic.more(rows, RECOVERY).await;
        self.says(&format!("{rows} more rows came"));
    }

    async fn nothing_is_acknowledged(&mut self) {
        self.traffic.during(nothing_is_acknowledged(self.scene)).await;
        self.says("nothing was acknowledged");
    }

    fn says(&self, what: &str) {
        println!("{:5.1} s: {what}, {} rows in all", self.begin.elapsed().as_secs_f64(), self.traffic.len());
    }
}

async fn one_at_a_time(rig: &mut Rig<'_>) {
    // It dies under the publisher's hands, and comes back.
    let node = rig.publishers_node();
    rig.kill(&[node]).await;
    rig.rows_come(3000).await;
    rig.start(&[node]).await;
    rig.whole().await;

    // It falls silent, and leads the queue. When it wakes, the others have chosen another leader, and it is on its own
    // until it is started again.
    let node = rig.leaders_node();
    rig.pause(&[node]).await;
    rig.rows_come(3000).await;
    rig.resume(&[node]).await;
    rig.rows_come(3000).await;
    rig.kill(&[node]).await;
    rig.start(&[node]).await;
    rig.whole().await;
}

async fn two_at_a_time(rig: &mut Rig<'_>) {
    let nodes = [rig.leaders_node(), (rig.leaders_node() + 1) % 3];
    rig.kill(&nodes).await;
    rig.nothing_is_acknowledged().await;
    rig.start(&nodes).await;
    rig.rows_come(7000).await;
    rig.whole().await;

    let nodes = [rig.publishers_node(), (rig.publishers_node() + 1) % 3];
    rig.pause(&nodes).await;
    rig.nothing_is_acknowledged().await;
    rig.resume(&nodes).await;
    rig.rows_come(7000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_loses_one_node_or_two_loses_no_event() {
    let begin = Instant::now();
    let cluster = tokio::task::spawn_blocking(RabbitCluster::private).await.expect("a cluster");
    let quorum = AMQPValue::LongString("quorum".into());
    let queue = [("x-queue-type", quorum), ("x-single-active-consumer", AMQPValue::Boolean(true))];
    let scene = Scene::with(impatient_postgres(), cluster.vhost(), &queue).await;
    let url = format!("{}?connection_timeout=2", scene.vhost.url());
    let overrides = [("rabbitmq.url", url.as_str()), ("rabbitmq.confirm_timeout_ms", "2000")];
    let pgsluice = streaming(&scene, &overrides).await;
    let stream = walsender(&scene).await;
    let traffic = Traffic::start(&scene, Account::default());
    let mut rig = Rig { cluster, scene: &scene, pgsluice, traffic, begin };
    rig.whole().await;
    rig.rows_come(1000).await;

    one_at_a_time(&mut rig).await;
    two_at_a_time(&mut rig).await;

    let account = rig.traffic.settle(RECOVERY).await;
    println!("{:?}: {} rows, {} repeats", begin.elapsed(), account.len(), account.repeated);
    assert_eq!(walsender(&scene).await, stream, "the stream stayed open");
}

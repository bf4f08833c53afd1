//! A RabbitMQ cluster of three nodes on loopback, which lose and find each other.
//!
//! Each node has its own name, ports and folder. They share a secret and an epmd, which belongs to the cluster and not to a
//! node, so that it survives each of them; and a list, by which they find each other whoever starts first.

use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::rabbit::RabbitServer;
use super::server::Server;
use super::{Vhost, eventually, eventually_blocking, lifetime};

/// How long the nodes may take until they are one cluster again.
const WHOLE: Duration = Duration::from_secs(90);

const SETTINGS: [(&str, &str); 3] = [
    // RabbitMQ's default, and the hardest one for a publisher: a node without the others takes events and never confirms one,
    // where `pause_minority` would have it close its connections. A node that was stopped for a while (SIGSTOP) and goes on is
    // partitioned from the others, with this and with `pause_minority`, which sees no minority when the others come back in
    // the moment in which they are gone; `autoheal` takes from seconds to minutes. So it is for the test to restart it. What
    // is in a quorum queue is safe under each: it decides by a majority of its own.
    ("cluster_partition_handling", "ignore"),
    // A paused node is noticed after 4 to 6 seconds, instead of 45 to 75.
    ("net_ticktime", "5"),
    ("cluster_formation.peer_discovery_backend", "classic_config"),
];

/// Three nodes. Killed when dropped.
#[derive(Debug)]
pub(crate) struct RabbitCluster {
    nodes: Vec<RabbitServer>,
    _epmd: Epmd,
}

#[derive(Debug)]
struct Epmd(Child);

impl Drop for Epmd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl RabbitCluster {
    /// A cluster of one's own. Blocks for some seconds, until all nodes are in it.
    pub(crate) fn private() -> Arc<Self> {
        let servers: Vec<_> = (0..3).map(|_| Server::new("rabbitmq", &SETTINGS)).collect();
        let names: Vec<_> = servers.iter().map(|server| node_name(server.port())).collect();
        let list = |(index, name): (usize, &String)| {
            (format!("cluster_formation.classic_config.nodes.{}", index + 1), name.clone())
        };
        let epmd_port = (servers[0].port() + 3).to_string();
        let environment = [
            ("EPMD_PORT", epmd_port.clone()),
            ("COOKIE", fastrand::u64(..).to_string()),
            // How old what the API says of a quorum queue may be: half a second, instead of five.
            ("ERL_ARGS", "-rabbit quorum_tick_interval 500".into()),
        ];
        let node = |server: Server| {
            let server = server.with_settings(names.iter().enumerate().map(list));
            RabbitServer::on(server.with_environment(environment.clone()))
        };
        let nodes = servers.into_iter().map(node).collect();

        let mut command = lifetime::command("epmd");
        command.args(["-port", &epmd_port, "-address", "127.0.0.1"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let epmd = Epmd(lifetime::spawn(command).expect("run setpriv, of util-linux"));
        let this = Self { nodes, _epmd: epmd };
        std::thread::scope(|scope| {
            for node in &this.nodes {
                scope.spawn(|| node.start());
            }
        });
        let is_whole = eventually_blocking(WHOLE, || this.nodes.iter().all(sees_all).then_some(()));
        is_whole.unwrap_or_else(|| panic!("no cluster within {WHOLE:?}: {}", this.nodes[0].log()));
        Arc::new(this)
    }

    /// Does something that may block to some nodes, at the same time.
    pub(crate) async fn each(self: &Arc<Self>, nodes: &[usize], what: fn(&RabbitServer)) {
        let (this, nodes) = (Arc::clone(self), nodes.to_owned());
        let all_at_once = move || {
            std::thread::scope(|scope| {
                for node in nodes {
                    let node = &this.nodes[node];
                    scope.spawn(move || what(node));
                }
            });
        };
        tokio::task::spawn_blocking(all_at_once).await.expect("the nodes do what they are told");
    }

    /// A fresh, empty virtual host on all nodes.
    pub(crate) fn vhost(&self) -> Vhost {
        self.nodes[0].vhost_on(self.nodes.iter().map(RabbitServer::port).collect())
    }

    /// The node with this AMQP port.
    pub(crate) fn by_port(&self, port: u16) -> usize {
        self.nodes.iter().position(|node| node.port() == port).expect("a port of the cluster")
    }

    /// The node that leads a quorum queue. All nodes must answer.
    pub(crate) fn leader(&self, vhost: &str, queue: &str) -> usize {
        let state = self.nodes[0].api("GET", &format!("/queues/{vhost}/{queue}"), None);
        let is_leader = |node: &RabbitServer| state["leader"] == node_name(node.port());
        self.nodes.iter().position(is_leader).unwrap_or_else(|| panic!("no leader: {state}"))
    }

    /// Waits until every node sees all others, none a partition, and the quorum queue has its leader and all members.
    pub(crate) async fn whole(self: &Arc<Self>, vhost: &str, queue: &str) {
        eventually("the cluster is whole", WHOLE, async || {
            let this = Arc::clone(self);
            let path = format!("/queues/{vhost}/{queue}");
            let is_whole = move || this.nodes.iter().all(|node| sees_all(node) && has_all_members(node, &path));
            tokio::task::spawn_blocking(is_whole).await.expect("ask the nodes").then_some(())
        })
        .await;
    }
}

impl Drop for RabbitCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                let log = node.log();
                let trouble: Vec<_> =
                    log.lines().filter(|line| !line.contains("[info]") && !line.contains("[debug]")).collect();
                eprintln!("--- {} wrote:\n{}\n---", node_name(node.port()), trouble.join("\n"));
            }
        }
    }
}

fn sees_all(node: &RabbitServer) -> bool {
    let Ok((200, Value::Array(nodes))) = node.try_api("GET", "/nodes", None) else { return false };
    // The API learns of partitions every five seconds only.
    let is_well = |node: &Value| node["running"] == true && node["partitions"].as_array().is_none_or(Vec::is_empty);
    nodes.len() == 3 && nodes.iter().all(is_well)
}

fn has_all_members(node: &RabbitServer, path: &str) -> bool {
    let Ok((200, queue)) = node.try_api("GET", path, None) else { return false };
    queue["leader"].as_str().is_some_and(|leader| !leader.is_empty())
        && queue["online"].as_array().is_some_and(|online| online.len() == 3)
}

/// As `scripts/lib/rabbitmq` names it.
fn node_name(port: u16) -> String {
    format!("pgsluice-{port}@localhost")
}

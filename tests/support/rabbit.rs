//! RabbitMQ: the shared node, private ones, and their management API.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::Vhost;
use super::server::Server;

/// The node that all tests share. Started by the first that asks.
pub(crate) fn rabbitmq() -> &'static RabbitServer {
    static SHARED: OnceLock<RabbitServer> = OnceLock::new();
    SHARED.get_or_init(|| RabbitServer::private(&[]))
}

/// A RabbitMQ node on loopback, with the management API on the port after the AMQP port.
#[derive(Debug)]
pub(crate) struct RabbitServer {
    server: Server,
    vhosts: AtomicUsize,
}

impl RabbitServer {
    /// A node of one's own, with lines for `rabbitmq.conf`. Killed when dropped.
    pub(crate) fn private(settings: &[(&str, &str)]) -> Self {
        let this = Self::on(Server::new("rabbitmq", settings));
        this.start();
        this
    }

    /// A node that is not started yet.
    pub(super) fn on(server: Server) -> Self {
        Self { server, vhosts: AtomicUsize::new(0) }
    }

    /// Starts it again, with the same data, port and settings. Blocks for some seconds, until it takes connections.
    pub(crate) fn start(&self) {
        // Its ports are open before it is ready: connections are closed again then, and of a cluster's node a new virtual
        // host may be forgotten.
        self.server.start(|| {
            self.log().contains("Server startup complete")
                && self.try_api("GET", "/overview", None).is_ok_and(|(status, _)| status == 200)
        });
    }

    /// A graceful stop, as the operating system asks for it.
    pub(crate) fn stop(&self) {
        self.server.stop(Signal::TERM);
    }

    /// SIGKILL.
    pub(crate) fn kill(&self) {
        self.server.stop(Signal::KILL);
    }

    /// Stops the node where it is: connections stay open and silent.
    pub(crate) fn pause(&self) {
        self.server.signal(Signal::STOP);
    }

    /// Ends [`Self::pause`].
    pub(crate) fn resume(&self) {
        self.server.signal(Signal::CONT);
    }

    pub(crate) fn port(&self) -> u16 {
        self.server.port()
    }

    pub(crate) fn dir(&self) -> &Path {
        self.server.dir()
    }

    /// What the node has logged since its last start.
    pub(crate) fn log(&self) -> String {
        self.server.log()
    }

    /// A fresh, empty virtual host.
    pub(crate) fn vhost(&self) -> Vhost {
        self.vhost_on(vec![self.port()])
    }

    /// [`Self::vhost`] where the nodes with these ports are one cluster.
    pub(super) fn vhost_on(&self, ports: Vec<u16>) -> Vhost {
        let name = format!("vh_{}", self.vhosts.fetch_add(1, Ordering::Relaxed));
        self.api("PUT", &format!("/vhosts/{name}"), None);
        let all = json!({"configure": ".*", "write": ".*", "read": ".*"});
        self.api("PUT", &format!("/permissions/{name}/guest"), Some(&all));
        Vhost::new(ports, name)
    }

    /// Calls the management API; `path` follows `/api`. Panics when it answers with an error.
    pub(crate) fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let (status, answer) = self.try_api(method, path, body).expect("call the management API");
        assert!(status < 400, "{method} {path}: {status} {answer}");
        answer
    }

    /// [`Self::api`] with the status and the answer, whatever they are.
    pub(crate) fn try_api(&self, method: &str, path: &str, body: Option<&Value>) -> std::io::Result<(u16, Value)> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port() + 1))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        // HTTP/1.0: the answer ends where the connection does.
        write!(
            stream,
            "{method} /api{path} HTTP/1.0\r\nAuthorization: Basic {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            base64::engine::general_purpose::STANDARD.encode("guest:guest"),
            body.len(),
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Ok((status, serde_json::from_str(body).unwrap_or(Value::Null)))
    }

    /// Closes all connections of all clients, as an operator would. Shared servers: use the virtual host's.
    pub(crate) fn close_connections(&self) {
        self.rabbitmqctl(&["close_all_connections", "closed by a test"]);
    }

    /// Those to a virtual host. (The management API learns of a connection with a delay, which a busy machine makes long.)
    pub(crate) async fn close_connections_to(&self, vhost: &str) {
        let arguments = ["close_all_connections", "--vhost", vhost, "closed by a test"];
        let closing = tokio::process::Command::from(self.ctl(&arguments)).output().await.expect("run rabbitmqctl");
        assert!(closing.status.success(), "{closing:?}");
    }

    fn ctl(&self, arguments: &[&str]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lib/rabbitmqctl");
        let mut command = Command::new(script);
        command.arg(self.dir()).args(arguments);
        command
    }

    /// Runs `rabbitmqctl` against the node. Takes about a second.
    pub(crate) fn rabbitmqctl(&self, arguments: &[&str]) -> String {
        let output = self.ctl(arguments).output().expect("run rabbitmqctl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "rabbitmqctl {arguments:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }
}

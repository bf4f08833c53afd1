//! What systemd is told, with a socket in its place.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{Process, RabbitServer, SOON, Scene, eventually, folder, pgsluice_under, postgres};

/// As short as `WatchdogSec` never is.
const WATCHDOG: Duration = Duration::from_secs(2);

/// The service manager's end.
struct Manager {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
    /// Every line that came.
    heard: Vec<String>,
}

impl Manager {
    fn new() -> Self {
        // A socket's path has 108 bytes at most.
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        Self { socket, folder, heard: Vec::new() }
    }

    /// pgsluice with this configuration, as the manager's service. `$$` in `environment` is its process.
    fn start(&self, config: &str, environment: &str) -> Process {
        let path = folder("notify").join("pgsluice.toml");
        std::fs::write(&path, config).expect("write the configuration");
        let usec = WATCHDOG.as_micros().to_string();
        let socket = self.folder.path().join("notify");
        pgsluice_under(
            &["sh", "-c", &format!("{environment} exec \"$0\" \"$@\"")],
            &["run", "--config", path.to_str().expect("text")],
            &[("NOTIFY_SOCKET", socket.to_str().expect("text")), ("WATCHDOG_USEC", &usec)],
        )
    }

    /// The lines of the next message, if one comes in time.
    fn listen(&mut self, patience: Duration) -> Vec<String> {
        self.socket.set_read_timeout(Some(patience)).expect("a time");
        let mut buffer = [0; 4096];
        let Ok(length) = self.socket.recv(&mut buffer) else { return Vec::new() };
        let text = std::str::from_utf8(&buffer[..length]).expect("text");
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        self.heard.extend(lines.clone());
        lines
    }

    /// Waits for a line that begins so and has this in it.
    async fn hears(&mut self, start: &str, part: &str) -> String {
        let what = format!("{start}…{part}");
        let is_it = |line: &String| line.starts_with(start) && line.contains(part);
        eventually(&what, SOON, async || self.listen(Duration::from_millis(100)).into_iter().find(is_it)).await
    }

    /// Hears of it in time, also while nothing happens.
    async fn lives(&mut self) {
        let before = Instant::now();
        for _ in 0..3 {
            self.hears("WATCHDOG=1", "").await;
        }
        assert!(before.elapsed() < 4 * WATCHDOG, "{:?}", before.elapsed());
    }

    /// Takes what has come already.
    fn catch_up(&mut self) {
        while !self.listen(Duration::from_millis(1)).is_empty() {}
    }

    fn has_heard(&self, start: &str) -> bool {
        self.heard.iter().any(|line| line.starts_with(start))
    }
}

#[tokio::test]
async fn systemd_hears_of_the_start_of_trouble_of_life_and_of_the_stop() {
    let broker = RabbitServer::private(&[]);
    let scene = Scene::on(postgres(), &broker).await;
    broker.stop();
    let mut manager = Manager::new();
    let mut process = manager.start(&scene.config(""), "");
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    manager.hears("STATUS=shop: waiting: there is no connection to RabbitMQ", "").await;
    manager.hears("WATCHDOG=1", "").await;
    assert!(!manager.has_heard("READY"), "only one end is there: {:?}", manager.heard);
    broker.start();
    manager.hears("READY=1", "").await;
    manager.hears("STATUS=shop: flowing", "").await;
    manager.lives().await;
    broker.stop();
    manager.hears("STATUS=shop: waiting: ", "RabbitMQ").await;
    manager.lives().await;
    broker.start();
    manager.hears("STATUS=shop: flowing", "").await;
    assert_eq!(manager.heard.iter().filter(|line| *line == "READY=1").count(), 1);

    // What neither turns nor answers is not alive.
    process.signal(Signal::STOP);
    manager.catch_up();
    let before = Instant::now();
    assert_eq!(manager.listen(WATCHDOG), Vec::<String>::new());
    assert!(before.elapsed() >= WATCHDOG);
    process.signal(Signal::CONT);
    manager.hears("WATCHDOG=1", "").await;

    process.terminate();
    manager.hears("STOPPING=1", "").await;
    let (code, log) = process.wait(SOON).await;
    assert_eq!(code, Some(0), "{log}");
    manager.catch_up();
    let statuses: Vec<&String> = manager.heard.iter().filter(|line| line.starts_with("STATUS=")).collect();
    assert_eq!(statuses.last().map(|line| line.as_str()), Some("STATUS=stopping: waiting for what is in flight"));
}

#[tokio::test]
async fn a_standby_has_started_and_the_watchdog_of_another_process_is_not_ours() {
    let scene = Scene::new().await;
    let mut manager = Manager::new();
    let active = manager.start(&scene.config(""), "WATCHDOG_PID=$$");
    manager.hears("READY=1", "").await;
    manager.hears("WATCHDOG=1", "").await;
    let mut manager = Manager::new();
    let mut standby = manager.start(&scene.config(""), "WATCHDOG_PID=1");
    standby.wait_for_log("another pgsluice", SOON).await;
    // One look says both, in either order if the state changes with it.
    manager.hears("READY=1", "").await;
    eventually("the state", SOON, async || {
        manager.listen(Duration::from_millis(100));
        manager.has_heard("STATUS=shop: standby: another pgsluice has the slot").then_some(())
    })
    .await;
    drop(active);
    manager.hears("STATUS=shop: flowing", "").await;
    standby.terminate();
    standby.wait(SOON).await;
    manager.catch_up();
    assert!(manager.has_heard("STOPPING=1") && !manager.has_heard("WATCHDOG"), "{:?}", manager.heard);
}

#[tokio::test]
async fn a_socket_that_is_not_there_stops_nothing() {
    let scene = Scene::new().await;
    let manager = Manager::new();
    drop(std::fs::remove_file(manager.folder.path().join("notify")));
    let mut process = manager.start(&scene.config(""), "");
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    scene.database.execute("INSERT INTO orders VALUES (1, 'ann', 1, 'new')").await;
    scene.vhost.consume("all", 1, SOON).await;
    process.terminate();
    assert_eq!(process.wait(SOON).await.0, Some(0));
}

/// One that has failed is not waited for, and keeps the others from nothing.
#[tokio::test]
async fn several_pipelines_are_one_service() {
    let broker = RabbitServer::private(&[]);
    let [shop, bill] = [Scene::new().await, Scene::on(postgres(), &broker).await];
    let section = |name: &str, scene: &Scene| {
        let (slot, url, amqp) = (scene.database.name(), scene.database.url(), scene.vhost.url());
        let checkpoint = scene.checkpoint();
        format!(
            "[[pipelines]]\nname = \"{name}\"\nsource = {{ url = \"{url}\", slot = \"{slot}\" }}\n\
             rabbitmq.url = \"{amqp}\"\ncheckpoint.path = \"{}\"\n",
            checkpoint.display()
        )
    };
    let config =
        format!("[source]\ntables = [\"public.orders\"]\n{}{}", section("shop", &shop), section("bill", &bill));
    broker.stop();
    let mut manager = Manager::new();
    let mut process = manager.start(&config, "");
    manager.hears("STATUS=shop: flowing; bill: waiting: there is no connection to RabbitMQ", "").await;
    assert!(!manager.has_heard("READY"), "{:?}", manager.heard);
    broker.start();
    manager.hears("READY=1", "").await;
    manager.lives().await;
    // The stream ends, and somebody else has dropped the slot by then.
    let (slot, client) = (bill.database.name(), bill.database.client().await);
    let end = format!("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{slot}'");
    eventually("the slot is dropped", SOON, async || {
        client.batch_execute(&end).await.expect("ask");
        client.batch_execute(&format!("SELECT pg_drop_replication_slot('{slot}')")).await.ok()
    })
    .await;
    manager.hears("STATUS=shop: flowing; bill: failed: ", "").await;
    manager.lives().await;
    process.terminate();
    manager.hears("STOPPING=1", "").await;
    assert_eq!(process.wait(SOON).await.0, Some(5));
}

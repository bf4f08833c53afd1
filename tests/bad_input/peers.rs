//! Servers that are away.

use tokio::net::TcpSocket;

use super::{SECRET, commit, delivered, refused, says, start, streaming};
use crate::support::{SOON, Scene, postgres, rabbitmq};

/// A port that refuses connections, and leads to a server once it is opened.
struct Door {
    socket: TcpSocket,
    port: u16,
}

impl Door {
    fn closed() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        // Bound, and not listening: nobody else gets the port, and connections are refused.
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
        let port = socket.local_addr().expect("an address").port();
        Self { socket, port }
    }

    fn open(self, to: u16) {
        let listener = self.socket.listen(64).expect("listens");
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut server = tokio::net::TcpStream::connect(("127.0.0.1", to)).await.expect("the server");
                    // Whoever closes first ends it.
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
    }

    /// The URL with this door in place of the server.
    fn url(&self, url: &str, server: u16) -> String {
        url.replace(&format!(":{server}/"), &format!(":{}/", self.port))
    }
}

fn lines_with(log: &str, text: &str) -> usize {
    log.lines().filter(|line| line.contains(text)).count()
}

#[tokio::test]
async fn servers_that_are_away_are_waited_for_and_that_is_said_once() {
    let scene = Scene::new().await;
    let (database, broker) = (Door::closed(), Door::closed());
    let source = database.url(&scene.database.url_as(&format!("postgres:{SECRET}")), postgres().port());
    let rabbitmq_url = broker.url(&scene.vhost.url(), rabbitmq().port());
    let mut process =
        start(&scene, &[("source.url", &source), ("rabbitmq.url", &rabbitmq_url), ("log.level", "debug")]);
    // The third attempt has failed.
    crate::support::eventually("three attempts", SOON, async || {
        (lines_with(&process.stderr(), "PostgreSQL is still away") >= 2).then_some(())
    })
    .await;
    assert!(process.runs());
    database.open(postgres().port());
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    commit(&scene, 3).await;
    broker.open(rabbitmq().port());
    delivered(&scene).await;
    let log = process.stderr();
    for text in ["PostgreSQL is away; trying again until it is back", "not connected to RabbitMQ"] {
        assert_eq!(lines_with(&log, text), 1, "{text}: {log}");
    }
    assert!(!log.contains(SECRET), "{log}");
}

#[tokio::test]
async fn fail_fast_gives_up_when_a_server_is_away() {
    let scene = Scene::new().await;
    let door = Door::closed();
    let source = door.url(&scene.database.url_as(&format!("postgres:{SECRET}")), postgres().port());
    let message = refused(&scene, &[("source.url", &source), ("fail_fast", "true")], 6).await;
    says(
        &message,
        &[
            "error: can't reach PostgreSQL\n",
            &door.port.to_string(),
            "refused",
            "hint: check source.url",
            "without --fail-fast",
        ],
    );
    let broker = door.url(&scene.vhost.url_as(&format!("guest:{SECRET}")), rabbitmq().port());
    let message = refused(&scene, &[("rabbitmq.url", &broker), ("fail_fast", "true")], 6).await;
    says(&message, &[&format!("127.0.0.1:{}", door.port), "refused", "without --fail-fast"]);
    // It is for the start: a stream that breaks later is waited for.
    let mut process = streaming(&scene, &[("fail_fast", "true")]).await;
    let end = format!(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{}'",
        scene.database.name()
    );
    scene.database.execute(&end).await;
    commit(&scene, 2).await;
    delivered(&scene).await;
    process.terminate();
    assert_eq!(process.wait(SOON).await.0, Some(0));
}

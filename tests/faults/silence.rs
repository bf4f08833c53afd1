//! A peer that says nothing, or is not heard: pgsluice notices by itself, opens its connection again, and loses nothing.
//!
//! The proxy answers for TCP, as a load balancer would: neither the kernel's keepalives nor its timeouts can notice.

use crate::bad_input::{start, streaming};
use crate::peers_losses::unread_bytes;
use crate::support::proxy::{Direction, Entrance, Flow};
use crate::support::{Account, Consumer, Process, Proxy, SOON, Scene, eventually, postgres, rabbitmq};

/// A scene with a proxy in front of each server, short patience on all sides, and the account of the ledger.
struct Stage {
    scene: Scene,
    postgres: Proxy,
    rabbitmq: Proxy,
    account: Account,
    consumer: Consumer,
}

impl Stage {
    async fn new() -> Self {
        let (postgres, rabbitmq) = (Proxy::to(postgres().port()).await, Proxy::to(rabbitmq().port()).await);
        let scene = Scene::new().await;
        let consumer = scene.vhost.consumer("all").await;
        Self { scene, postgres, rabbitmq, account: Account::default(), consumer }
    }

    fn source(&self) -> String {
        let url = self.scene.database.url_through(&self.postgres);
        format!("{url}?connect_timeout=2&options=-c%20wal_sender_timeout%3D2s")
    }

    fn broker(&self, heartbeat_s: u32) -> String {
        let url = self.scene.vhost.url_through(&self.rabbitmq);
        format!("{url}?heartbeat={heartbeat_s}&connection_timeout=2")
    }

    /// pgsluice, once a first row has passed.
    async fn run(&mut self) -> Process {
        let overrides = [("source.url", self.source()), ("rabbitmq.url", self.broker(1))];
        let process = streaming(&self.scene, &overrides.each_ref().map(|(key, value)| (*key, value.as_str()))).await;
        self.insert(1).await;
        self.settle().await;
        process
    }

    async fn insert(&self, rows: usize) {
        self.scene.database.execute(&format!("INSERT INTO ledger SELECT FROM generate_series(1, {rows})")).await;
    }

    /// Everything that was committed arrives, and is acknowledged.
    async fn settle(&mut self) {
        self.account.settle(&self.scene, &mut self.consumer, SOON).await;
        self.scene.acknowledged().await;
    }

    /// The bytes of the answers to one look, when it is over, and the stream says nothing.
    async fn a_look(&self) -> usize {
        let is_over = async || (self.postgres.open() == 1).then_some(());
        let bytes = || usize::try_from(self.postgres.bytes(Direction::Answers)).expect("not so many");
        eventually("no look", SOON, is_over).await;
        let before = (self.postgres.accepted(), bytes());
        eventually("a look", SOON, async || (self.postgres.accepted() > before.0).then_some(())).await;
        eventually("the end of the look", SOON, is_over).await;
        bytes() - before.1
    }

    /// Different rows that came, and how many came again.
    fn came(&self) -> (usize, usize) {
        (self.account.len(), self.account.repeated)
    }
}

const STREAM_LOST: &str = "the replication stream can't go on";
const BROKER_LOST: &str = "not connected to RabbitMQ";

/// The walsender gives up and frees the slot; pgsluice hears nothing of that.
#[tokio::test]
async fn a_stream_that_is_black_holed_is_opened_again() {
    let mut stage = Stage::new().await;
    let pgsluice = stage.run().await;
    stage.postgres.lose();
    stage.insert(1).await;
    pgsluice.wait_for_log(STREAM_LOST, SOON).await;
    stage.settle().await;
    assert_eq!(stage.came(), (2, 0));
}

/// The walsender hears from pgsluice all the time, and is content.
#[tokio::test]
async fn a_stream_of_which_only_the_answers_are_lost_is_opened_again() {
    let mut stage = Stage::new().await;
    let pgsluice = stage.run().await;
    stage.postgres.flow(Direction::Answers, Flow::Stalled);
    stage.insert(1).await;
    pgsluice.wait_for_log(STREAM_LOST, SOON).await;
    stage.postgres.heal().await;
    stage.settle().await;
    assert_eq!(stage.came(), (2, 0));
}

/// The walsender gives up, and says so.
#[tokio::test]
async fn a_stream_of_which_only_the_reports_are_lost_is_opened_again() {
    let mut stage = Stage::new().await;
    let pgsluice = stage.run().await;
    stage.postgres.flow(Direction::Requests, Flow::Stalled);
    stage.insert(1).await;
    pgsluice.wait_for_log(STREAM_LOST, SOON).await;
    stage.postgres.heal().await;
    stage.settle().await;
    assert_eq!(stage.came(), (2, 0));
}

#[tokio::test]
async fn a_broker_that_is_black_holed_is_left_though_nothing_is_to_be_sent() {
    let mut stage = Stage::new().await;
    let pgsluice = stage.run().await;
    stage.rabbitmq.lose();
    pgsluice.wait_for_log(BROKER_LOST, SOON).await;
    stage.insert(1).await;
    stage.settle().await;
    assert_eq!(stage.came(), (2, 0));
}

#[tokio::test]
async fn events_that_were_sent_into_a_black_hole_are_sent_again() {
    let mut stage = Stage::new().await;
    let pgsluice = stage.run().await;
    stage.rabbitmq.lose();
    stage.insert(100).await;
    pgsluice.wait_for_log(BROKER_LOST, SOON).await;
    stage.settle().await;
    assert_eq!(stage.came(), (101, 0));
}

/// The lost confirm: the events are in the queue, and nobody says so.
#[tokio::test]
async fn events_of_which_only_the_confirms_are_lost_come_twice_and_are_the_same() {
    const ROWS: usize = 100;
    let mut stage = Stage::new().await;
    let pgsluice = stage.run().await;
    stage.rabbitmq.flow(Direction::Answers, Flow::Stalled);
    stage.insert(ROWS).await;
    pgsluice.wait_for_log(BROKER_LOST, SOON).await;
    stage.rabbitmq.heal().await;
    let mut deliveries = Vec::new();
    for _ in 0..2 * ROWS {
        deliveries.push(stage.consumer.next(SOON).await);
    }
    for delivery in &deliveries {
        stage.account.take(delivery);
    }
    for (first, second) in deliveries[..ROWS].iter().zip(&deliveries[ROWS..]) {
        assert_eq!(first.message_id, second.message_id);
        assert_eq!((&first.body, &first.properties), (&second.body, &second.properties));
    }
    stage.insert(1).await;
    stage.settle().await;
    assert_eq!(stage.came(), (ROWS + 2, ROWS));
}

/// The broker hears nothing, and pgsluice hears that the broker lives.
#[tokio::test]
async fn events_that_do_not_get_through_to_a_broker_that_is_heard_are_sent_again() {
    let mut stage = Stage::new().await;
    let broker = stage.broker(20);
    let overrides = [("rabbitmq.url", broker.as_str()), ("rabbitmq.confirm_timeout_ms", "1000")];
    let pgsluice = streaming(&stage.scene, &overrides).await;
    stage.insert(1).await;
    stage.settle().await;
    stage.rabbitmq.flow(Direction::Requests, Flow::Stalled);
    stage.insert(100).await;
    pgsluice.wait_for_log("confirmed nothing for 1000 ms", SOON).await;
    stage.rabbitmq.heal().await;
    stage.settle().await;
    assert_eq!(stage.account.len(), 101);
}

/// What lies in a socket when its connection is given up must not arrive behind what a later connection has brought: an
/// old state of a row would be the last that a consumer sees.
#[tokio::test]
async fn what_a_connection_that_is_given_up_had_not_sent_never_comes() {
    let mut stage = Stage::new().await;
    let pgsluice = stage.run().await;
    stage.rabbitmq.hold();
    stage.insert(100).await;
    pgsluice.wait_for_log(BROKER_LOST, SOON).await;
    stage.settle().await;
    late(stage).await;
}

#[tokio::test]
async fn what_a_process_that_is_killed_had_not_sent_never_comes() {
    let mut stage = Stage::new().await;
    let mut pgsluice = stage.run().await;
    stage.rabbitmq.hold();
    stage.insert(100).await;
    eventually("events lie in the socket", SOON, async || (unread_bytes(stage.rabbitmq.port()) > 10_000).then_some(()))
        .await;
    pgsluice.restart();
    stage.settle().await;
    late(stage).await;
}

/// The way of the old connection is free again; nothing comes on it.
async fn late(mut stage: Stage) {
    assert_eq!(stage.rabbitmq.open(), 2);
    stage.rabbitmq.heal().await;
    eventually("the old connection has ended", SOON, async || (stage.rabbitmq.open() == 1).then_some(())).await;
    for _ in 0..2 {
        stage.insert(1).await;
        stage.settle().await;
    }
    assert_eq!(stage.came(), (103, 0));
}

/// At start as well as later: then it is a process that starts which meets them, since that takes fewer steps.
#[tokio::test]
async fn doors_that_do_not_open_are_tried_again() {
    let mut stage = Stage::new().await;
    let overrides = [("source.url", stage.source()), ("rabbitmq.url", stage.broker(1))];
    let overrides = overrides.each_ref().map(|(key, value)| (*key, value.as_str()));
    for (entrance, postgres, rabbitmq) in [
        (Entrance::Silent, "connecting: no answer within 2000 ms", "greeting: no answer within 2000 ms"),
        (Entrance::Unreachable, "connecting: no answer within 2000 ms", "connecting: no answer within 2000 ms"),
        (Entrance::Refused, "refused", "refused"),
    ] {
        stage.postgres.entrance(entrance).await;
        stage.rabbitmq.entrance(entrance).await;
        let pgsluice = start(&stage.scene, &overrides);
        for (log, why) in [("PostgreSQL is away", postgres), (BROKER_LOST, rabbitmq)] {
            let line = pgsluice.wait_for_log(log, SOON).await;
            assert!(line.contains(why), "{line}");
        }
        stage.postgres.heal().await;
        stage.rabbitmq.heal().await;
        pgsluice.wait_for_log("streaming from PostgreSQL", SOON).await;
        stage.insert(1).await;
        stage.settle().await;
    }
}

/// Nothing but a look finds out what is done to the publication.
#[tokio::test]
async fn a_look_at_the_publication_that_is_black_holed_is_not_the_last() {
    let mut stage = Stage::new().await;
    let source = stage.source();
    let overrides = [("source.url", source.as_str()), ("source.watch_every_ms", "500")];
    let mut pgsluice = streaming(&stage.scene, &overrides).await;
    stage.insert(1).await;
    stage.settle().await;
    // The end of the answers to a look, far behind its login.
    let look = stage.a_look().await;
    stage.postgres.lose_after(Direction::Answers, look - 10);
    eventually("a look is lost", SOON, async || stage.postgres.is_burnt().then_some(())).await;
    stage.scene.database.execute("ALTER PUBLICATION shop DROP TABLE orders").await;
    let (code, log) = pgsluice.wait(2 * SOON).await;
    assert_eq!(code, Some(5), "{log}");
}

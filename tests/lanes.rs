//! Several ordering lanes (`rabbitmq.lanes`): order within a key, whatever breaks, and no lane for another.

use std::collections::HashMap;
use std::time::Duration;

use lapin::types::AMQPValue;

use crate::support::{Delivery, Process, RabbitServer, SOON, Scene, eventually, postgres};

/// `(commit_lsn, ordinal)`.
type Position = (u64, u64);

/// What came of each row, held against the order of its changes.
#[derive(Default)]
struct Rows {
    /// By row: what came first, in its order, and what came last.
    of: HashMap<i64, (Vec<Position>, Position)>,
    ids: HashMap<Position, String>,
}

impl Rows {
    fn take(&mut self, delivery: &Delivery) {
        let event = delivery.json();
        let row = if event["after"].is_null() { &event["before"] } else { &event["after"] };
        let id = row["id"].as_i64().expect("a row");
        let position = position(delivery);
        let known = self.ids.entry(position).or_insert_with(|| delivery.message_id.clone());
        assert_eq!(*known, delivery.message_id, "a repeat has the message id of the first");
        let (first, last) = self.of.entry(id).or_default();
        if first.last().is_none_or(|seen| *seen < position) {
            first.push(position);
        } else {
            assert!(first.contains(&position), "row {id}: {position:?} came first after {:?}", first.last());
        }
        *last = position;
    }

    fn changes(&self) -> usize {
        self.ids.len()
    }
}

fn position(delivery: &Delivery) -> Position {
    let (lsn, ordinal) = delivery.headers["position"].as_str().and_then(|it| it.split_once(':')).expect("a position");
    let lsn: ::pgsluice::lsn::Lsn = lsn.parse().expect("an LSN");
    (lsn.0, ordinal.parse().expect("a number"))
}

const ROWS: u64 = 20;

/// Changes every row of `orders` so many times, in transactions of a few rows.
async fn load(scene: &Scene, rounds: u64) {
    let client = scene.database.client().await;
    for round in 0..rounds {
        let sql = format!(
            "UPDATE orders SET total = total + 1 WHERE id % 3 = {};
             UPDATE orders SET status = 's{round}' WHERE id = {}",
            round % 3,
            round % ROWS
        );
        client.batch_execute(&sql).await.expect("changes");
    }
}

async fn scene(scene: Scene) -> Scene {
    let sql = format!("INSERT INTO orders SELECT id, 'c', 0, 'new' FROM generate_series(0, {}) id", ROWS - 1);
    scene.database.execute(&sql).await;
    scene
}

/// Everything up to now is acknowledged, and of each row the last that came is the last that was committed.
async fn settled(scene: &Scene, rows: &mut Rows) {
    scene.acknowledged().await;
    let mut consumer = scene.vhost.consumer("all").await;
    scene.database.execute("UPDATE orders SET status = 'end'").await;
    let mut ended = std::collections::HashSet::new();
    let is_end = |all: &[Delivery]| {
        if let Some(last) = all.last().filter(|last| last.json()["after"]["status"] == "end") {
            ended.insert(position(last));
        }
        ended.len() == usize::try_from(ROWS).expect("few")
    };
    let deliveries = consumer.until(Duration::from_mins(1), is_end).await;
    for delivery in &deliveries {
        rows.take(delivery);
    }
    for (row, (first, last)) in &rows.of {
        assert_eq!(first.last(), Some(last), "of row {row} the last delivery is its last change");
    }
}

/// kill -9 of pgsluice and of the broker, and restarts with another number of lanes.
#[tokio::test]
async fn order_holds_within_a_key_whatever_dies() {
    let rabbitmq = RabbitServer::private(&[]);
    let scene = scene(Scene::on(postgres(), &rabbitmq).await).await;
    scene.vhost.queue("all", &[]).await;
    let mut rows = Rows::default();
    let rounds = 400;
    for (turn, lanes) in [4, 7, 1, 4].into_iter().enumerate() {
        let mut process = run(&scene, lanes).await;
        let (loaded, ()) = tokio::join!(load(&scene, rounds), async {
            if turn % 2 == 1 {
                process.wait_for_log("connected to RabbitMQ", SOON).await;
                rabbitmq.kill();
                rabbitmq.start();
            }
        });
        let () = loaded;
        process.kill();
    }
    let _process = run(&scene, 4).await;
    settled(&scene, &mut rows).await;
    // Each round changes a third of the rows, and one more; then all once. The first rows came before the slot.
    let committed: String = scene.database.query_one("SELECT sum(total) FROM orders").await;
    let updates: f64 = committed.parse().expect("a number");
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let expected = updates + f64::from(4 * u32::try_from(rounds).expect("few")) + ROWS as f64;
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let came = rows.changes() as f64;
    assert!((came - expected).abs() < 0.5, "{came} of {expected} changes came");
}

async fn run(scene: &Scene, lanes: usize) -> Process {
    scene.run_with(&format!("lanes = {lanes}\n")).await
}

/// A truncate, and an update of the key, are seen after all that was before them, and before all that is behind them.
#[tokio::test]
async fn what_concerns_all_keys_stands_alone() {
    let scene = scene(Scene::new().await).await;
    let _process = run(&scene, 8).await;
    for round in 0..10 {
        let sql = format!(
            "UPDATE orders SET total = {round}; UPDATE orders SET id = id + 1000 WHERE id = 3;
             UPDATE orders SET total = total + 1; UPDATE orders SET id = id - 1000 WHERE id = 1003;
             INSERT INTO ledger SELECT FROM generate_series(1, 50); TRUNCATE ledger;
             INSERT INTO ledger SELECT FROM generate_series(1, 50)"
        );
        scene.database.execute(&sql).await;
    }
    let each = usize::try_from(ROWS).expect("few") * 2 + 2 + 101;
    let deliveries = scene.vhost.consume("all", each * 10, SOON).await;
    let positions: Vec<_> = deliveries.iter().map(position).collect();
    for (index, delivery) in deliveries.iter().enumerate() {
        let event = delivery.json();
        let moves =
            !event["before"].is_null() && !event["after"].is_null() && event["before"]["id"] != event["after"]["id"];
        if moves || event["op"] == "truncate" {
            let at = positions[index];
            assert!(positions[..index].iter().all(|before| *before < at), "all before {at:?} came before");
            assert!(positions[index + 1..].iter().all(|after| *after > at), "all behind {at:?} came behind");
        }
    }
    assert!(!positions.is_sorted(), "several lanes, or nothing is shown");
}

/// With `key = "none"` nothing has to wait, not even for a truncate.
#[tokio::test]
async fn without_a_key_all_arrives_in_whatever_order() {
    let scene = scene(Scene::new().await).await;
    let config =
        scene.config("lanes = 4\n").replace("[checkpoint]", "key = \"none\"\n[changes]\nkey = \"none\"\n[checkpoint]");
    let process = crate::support::pgsluice(&config);
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    scene.database.execute("INSERT INTO ledger SELECT FROM generate_series(1, 500); TRUNCATE ledger").await;
    let insert = "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) SELECT 'a', '1', 't', to_jsonb(n) FROM generate_series(1, 100) n";
    scene.database.execute(insert).await;
    let deliveries = scene.vhost.consume("all", 601, SOON).await;
    let ids: std::collections::HashSet<_> = deliveries.iter().map(|delivery| &delivery.message_id).collect();
    assert_eq!(ids.len(), 601);
    scene.acknowledged().await;
}

/// The lane of the queue that refuses waits; the others go on, and the watermark waits for all.
#[tokio::test]
async fn a_queue_that_refuses_holds_up_its_own_lane_only() {
    const AGGREGATES: usize = 40;
    let scene = Scene::new().await;
    let arguments =
        [("x-max-length", AMQPValue::LongInt(1)), ("x-overflow", AMQPValue::LongString("reject-publish".into()))];
    scene.vhost.queue("full", &arguments).await;
    scene.vhost.bind("full", "shop.events", "full.*").await;
    let process = run(&scene, 8).await;
    let insert = |kind: &str, aggregate: usize| {
        format!(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('{kind}', '{aggregate}', 't', '{{}}')"
        )
    };
    // One fits, and what comes behind it is refused.
    for _ in 0..3 {
        scene.database.execute(&insert("full", 0)).await;
    }
    process.wait_for_log("RabbitMQ refuses events", SOON).await;
    for aggregate in 0..AGGREGATES {
        scene.database.execute(&insert("well", aggregate)).await;
    }
    let mut consumer = scene.vhost.consumer("all").await;
    let of_others = |all: &[Delivery]| {
        let ids: std::collections::HashSet<_> =
            all.iter().filter(|it| it.routing_key == "well.t").map(|it| it.message_id.clone()).collect();
        ids.len()
    };
    let before = consumer.until(SOON, |all| of_others(all) >= AGGREGATES / 2).await;
    let slot = scene.database.name().to_owned();
    let sql = format!(
        "SELECT confirmed_flush_lsn >= pg_current_wal_insert_lsn() FROM pg_replication_slots WHERE slot_name = '{slot}'"
    );
    assert_eq!(scene.database.query_one(&sql).await, "f", "the watermark waits");
    eventually("all fit", SOON, async || {
        let depth = scene.vhost.depth("full").await;
        scene.vhost.consume("full", usize::try_from(depth).expect("few"), SOON).await;
        let is_acknowledged = tokio::time::timeout(Duration::from_secs(1), scene.acknowledged()).await;
        is_acknowledged.ok()
    })
    .await;
    let already = of_others(&before);
    consumer.until(SOON, |all| already + of_others(all) >= AGGREGATES).await;
}

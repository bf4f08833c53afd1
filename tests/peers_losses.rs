//! Seven ways in which change data capture is known to lose events without a word, each as a test of its own.
//!
//! What is not here: a checkpoint of another system and a slot that is gone are in `bad_input`.

use std::collections::HashSet;

use ::pgsluice::lsn::Lsn;
use rustix::process::Signal;
use serde_json::json;

use crate::bad_input::{ended, says, streaming};
use crate::support::{Account, Delivery, Process, RabbitServer, SOON, Scene, eventually, postgres};

/// What was acknowledged to PostgreSQL.
async fn acknowledged(scene: &Scene) -> Lsn {
    let sql = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = current_database()";
    scene.database.query_one(sql).await.parse().expect("an LSN")
}

/// What is acknowledged by a report that was sent after now.
async fn acknowledged_from_now_on(scene: &Scene) -> Lsn {
    // The server notes the time of a report before it moves the slot: the next report tells that it has.
    for _ in 0..2 {
        let now = scene.database.query_one("SELECT clock_timestamp()").await;
        let sql = format!(
            "SELECT count(*) FROM pg_stat_replication JOIN pg_replication_slots ON pid = active_pid
             WHERE slot_name = current_database() AND reply_time > '{now}'"
        );
        eventually("a report", SOON, async || (scene.database.query_one(&sql).await == "1").then_some(())).await;
    }
    acknowledged(scene).await
}

fn commit_lsn(delivery: &Delivery) -> Lsn {
    delivery.json()["commit_lsn"].as_str().expect("commit_lsn").parse().expect("an LSN")
}

/// What was acknowledged, and how many messages were in the queue right after that.
#[derive(Debug, Default)]
struct Samples(Vec<(Lsn, usize)>);

impl Samples {
    async fn take(&mut self, scene: &Scene, queue: &str) -> Lsn {
        let acknowledged = acknowledged(scene).await;
        self.0.push((acknowledged, scene.vhost.depth(queue).await as usize));
        acknowledged
    }

    /// No transaction was acknowledged, in whole or in part, before all of it was in the queue.
    fn judge(&self, deliveries: &[Delivery]) {
        for &(acknowledged, depth) in &self.0 {
            let (there, missing) = deliveries.split_at(depth);
            let there: HashSet<_> = there.iter().map(|delivery| &delivery.message_id).collect();
            for delivery in missing.iter().filter(|delivery| !there.contains(&delivery.message_id)) {
                let (id, commit) = (&delivery.message_id, commit_lsn(delivery));
                assert!(acknowledged <= commit, "{acknowledged} was acknowledged before {id} was in the queue");
            }
        }
    }
}

/// 1. An acknowledged LSN is computed: from the length of a payload, say, which is no length in the WAL. A large value
///    that the WAL holds compressed puts it far beyond the transaction; the server believes it, and after a restart skips
///    the transactions that were committed there.
#[tokio::test]
async fn what_is_acknowledged_is_never_beyond_what_is_in_the_queue() {
    const LARGE: &str = "INSERT INTO ledger (filler) VALUES (repeat('x', 1000000))";
    const SMALL: &str = "INSERT INTO ledger DEFAULT VALUES";
    const ROUNDS: usize = 3;
    let scene = Scene::new().await;
    // The same messages in the same order, left where they are.
    scene.vhost.queue("copy", &[]).await;
    scene.vhost.bind("copy", "shop.changes", "#").await;
    let mut pgsluice = streaming(&scene, &[("checkpoint.interval_ms", "10")]).await;
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    let mut samples = Samples::default();
    for round in 0..ROUNDS {
        for sql in [LARGE, SMALL, SMALL] {
            scene.database.execute(sql).await;
            samples.take(&scene, "copy").await;
        }
        let large = loop {
            let delivery = consumer.next(SOON).await;
            account.take(&delivery);
            if delivery.json()["after"]["id"] == 8 * round + 1 {
                break delivery;
            }
        };
        let commit = commit_lsn(&large);
        eventually("the large row is acknowledged", SOON, async || {
            (samples.take(&scene, "copy").await > commit).then_some(())
        })
        .await;
        pgsluice.kill();
        for _ in 0..5 {
            scene.database.execute(SMALL).await;
        }
        samples.take(&scene, "copy").await;
        pgsluice.restart();
    }
    account.settle(&scene, &mut consumer, SOON).await;
    scene.acknowledged().await;
    assert_eq!(account.len(), 8 * ROUNDS);
    let copies = scene.vhost.depth("copy").await as usize;
    samples.judge(&scene.vhost.consume("copy", copies, SOON).await);
}

/// 2. The abort of a subtransaction is taken for that of its transaction, or is not noticed at all, where a transaction
///    is too large for the server's memory and comes in pieces. Only the rows after the savepoint are undone.
#[tokio::test]
async fn a_savepoint_that_is_rolled_back_in_a_large_transaction_takes_only_its_own_rows() {
    let scene = Scene::new().await;
    let url = format!("{}?options=-c%20logical_decoding_work_mem%3D64kB", scene.database.url());
    let _pgsluice = streaming(&scene, &[("source.url", &url)]).await;
    let insert = |what: &str, rows: usize| {
        format!("INSERT INTO ledger (filler) SELECT repeat('{what}', 50) FROM generate_series(1, {rows});")
    };
    let writer = scene.database.client().await;
    let begin = format!("BEGIN; {} SAVEPOINT a; {}", insert("kept", 1000), insert("undone", 500));
    writer.batch_execute(&begin).await.expect("the first part");
    // One of another transaction, which is committed first.
    scene.database.execute(&insert("between", 1)).await;
    let end = format!(
        "ROLLBACK TO a; {} SAVEPOINT b; {} RELEASE b; COMMIT; BEGIN; {} ROLLBACK;",
        insert("kept", 500),
        insert("kept", 500),
        insert("undone", 500)
    );
    writer.batch_execute(&end).await.expect("the second part");
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    account.settle(&scene, &mut consumer, SOON).await;
    scene.acknowledged().await;
    assert_eq!((account.len(), account.repeated, scene.vhost.depth("all").await), (2001, 0, 0));
    let spilled = "SELECT spill_txns > 0 FROM pg_stat_replication_slots WHERE slot_name = current_database()";
    eventually("the server ran out of memory for it", SOON, async || {
        (scene.database.query_one(spilled).await == "t").then_some(())
    })
    .await;
}

/// 3. A stop in the middle of a transaction is taken for its end, and all of it acknowledged.
#[tokio::test]
async fn sigterm_in_the_middle_of_a_large_transaction_is_not_its_end() {
    const ROWS: usize = 50_000;
    let scene = Scene::new().await;
    let mut pgsluice = scene.run_with("in_flight_events = 100").await;
    scene.database.execute(&format!("INSERT INTO ledger SELECT FROM generate_series(1, {ROWS})")).await;
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    for _ in 0..500 {
        account.take(&consumer.next(SOON).await);
    }
    pgsluice.terminate();
    let (code, log) = pgsluice.wait(SOON).await;
    assert_eq!(code, Some(0), "{log}");
    let _again = scene.run().await;
    account.settle(&scene, &mut consumer, std::time::Duration::from_mins(2)).await;
    // What was settled before the stop is in the checkpoint, in the middle of the transaction.
    assert_eq!((account.len(), account.repeated), (ROWS, 0));
}

/// How much lies unread in the sockets of a server on this port.
pub(crate) fn unread_bytes(port: u16) -> u64 {
    let port = format!(":{port:04X}");
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let unread = |line: &str| {
        // number, local address, remote address, state, bytes to send:bytes to read
        let fields: Vec<_> = line.split_whitespace().collect();
        let (local, state, queues) = (fields.get(1)?, fields.get(3)?, fields.get(4)?);
        (local.ends_with(&port) && *state == "01").then_some(())?;
        u64::from_str_radix(queues.split_once(':')?.1, 16).ok()
    };
    tables.iter().flat_map(|table| table.lines()).filter_map(unread).sum()
}

/// 4. An event counts as delivered once it is written to the socket. What the broker had not read, or had read and not
///    stored, when it died is gone.
#[tokio::test]
async fn what_the_broker_had_not_confirmed_when_it_died_comes_again() {
    let rabbitmq = RabbitServer::private(&[]);
    let scene = Scene::on(postgres(), &rabbitmq).await;
    // So many that the window does not fill.
    let _pgsluice =
        streaming(&scene, &[("rabbitmq.in_flight_events", "10000"), ("source.report_every_ms", "100")]).await;
    let mut account = Account::default();
    scene.database.execute("INSERT INTO ledger SELECT FROM generate_series(1, 3000)").await;
    for delivery in scene.vhost.consume("all", 100, SOON).await {
        account.take(&delivery);
    }
    // Somewhere in the transaction: some of it is with the broker, and not confirmed.
    rabbitmq.pause();
    scene.database.execute("INSERT INTO ledger SELECT FROM generate_series(1, 100)").await;
    eventually("events lie unread", SOON, async || (unread_bytes(rabbitmq.port()) > 10_000).then_some(())).await;
    let acknowledged = acknowledged_from_now_on(&scene).await;
    rabbitmq.kill();
    rabbitmq.start();
    let mut consumer = scene.vhost.consumer("all").await;
    let rest = consumer.until(SOON, |all| all.last().is_some_and(|last| last.json()["after"]["id"] == 3100)).await;
    for delivery in &rest {
        account.take(delivery);
    }
    let last = commit_lsn(rest.last().expect("one at least"));
    assert!(acknowledged <= last, "{acknowledged} was acknowledged before {last} was in the queue");
    account.settle(&scene, &mut consumer, SOON).await;
    scene.acknowledged().await;
    assert_eq!(account.len(), 3100);
}

/// 5. The broker confirms what no queue takes, and drops it.
#[tokio::test]
async fn an_event_without_a_queue_waits_for_one() {
    let scene = Scene::new().await;
    let overrides = [("changes.exchange", "nobody.listens"), ("source.report_every_ms", "100")];
    let mut pgsluice = streaming(&scene, &overrides).await;
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    let mut acknowledged = Vec::new();
    for _ in 0..2 {
        pgsluice.wait_for_log("no queue takes event", SOON).await;
        acknowledged.push(acknowledged_from_now_on(&scene).await);
        pgsluice.restart();
    }
    scene.vhost.bind("all", "nobody.listens", "#").await;
    let deliveries = scene.vhost.consume("all", 2, SOON).await;
    let first = commit_lsn(&deliveries[0]);
    assert!(
        acknowledged.iter().all(|it| *it <= first),
        "{acknowledged:?} were acknowledged, and {first} not delivered"
    );
    assert_eq!([&deliveries[0].json()["after"]["id"], &deliveries[1].json()["after"]["id"]], [&json!(1), &json!(2)]);
    scene.acknowledged().await;
    assert_eq!(scene.vhost.depth("all").await, 0);
}

/// 6. The acknowledged LSN is that of the latest confirm, whatever became of the events before it.
#[tokio::test]
async fn a_confirm_acknowledges_nothing_that_failed_before_it() {
    const LATER: usize = 50;
    let scene = Scene::new().await;
    scene.vhost.declare_exchange("picky", "topic").await;
    scene.vhost.queue("events", &[]).await;
    scene.vhost.bind("events", "picky", "public.ledger.*").await;
    let overrides = [("changes.exchange", "picky"), ("source.report_every_ms", "100")];
    let mut pgsluice = streaming(&scene, &overrides).await;
    // It gets all of them at once, and publishes some of the later ones before it hears of the first.
    pgsluice.signal(Signal::STOP);
    let client = scene.database.client().await;
    client.batch_execute("INSERT INTO orders VALUES (1, 'a', 1, 'new')").await.expect("an order");
    for _ in 0..LATER {
        client.batch_execute("INSERT INTO ledger DEFAULT VALUES").await.expect("a row");
    }
    let end = scene.database.query_one("SELECT pg_current_wal_insert_lsn()").await;
    let sent = format!(
        "SELECT sent_lsn >= '{end}' FROM pg_stat_replication JOIN pg_replication_slots ON pid = active_pid
         WHERE slot_name = current_database()"
    );
    eventually("all are sent", SOON, async || (scene.database.query_one(&sent).await == "t").then_some(())).await;
    pgsluice.signal(Signal::CONT);
    let mut acknowledged = Vec::new();
    for _ in 0..2 {
        pgsluice.wait_for_log("no queue takes event", SOON).await;
        eventually("a later one is in its queue", SOON, async || (scene.vhost.depth("events").await > 0).then_some(()))
            .await;
        acknowledged.push(acknowledged_from_now_on(&scene).await);
        pgsluice.restart();
    }
    scene.vhost.bind("events", "picky", "public.orders.*").await;
    let is_order = |delivery: &Delivery| delivery.routing_key == "public.orders.insert";
    let mut consumer = scene.vhost.consumer("events").await;
    let deliveries = consumer
        .until(SOON, |all| {
            let order = all.iter().rposition(is_order);
            order.is_some_and(|order| all.len() - order > LATER)
        })
        .await;
    let order = deliveries.iter().rposition(is_order).expect("the order came");
    let first = commit_lsn(&deliveries[order]);
    assert!(
        acknowledged.iter().all(|it| *it <= first),
        "{acknowledged:?} were acknowledged, and {first} not delivered"
    );
    // From the one that failed on, all come in order.
    let ids = deliveries[order + 1..].iter().map(|delivery| delivery.json()["after"]["id"].as_u64());
    assert!(ids.eq((1..=LATER as u64).map(Some)));
    scene.acknowledged().await;
}

/// Waits for the end over a gap, which is the same when it is started again: from the checkpoint to the slot.
async fn in_doubt(scene: &Scene, mut pgsluice: Process) {
    let message = ended(&mut pgsluice, 5).await;
    let (from, to) = (checkpoint(scene), acknowledged(scene).await);
    assert!(from < to);
    says(&message, &["is ahead of the checkpoint", "Changes committed between "]);
    pgsluice.restart();
    let message = ended(&mut pgsluice, 5).await;
    let range = format!("Changes committed between {from} and {to} may be missing.");
    says(&message, &["is ahead of the checkpoint", &range, "hint: Somebody else read from the slot"]);
    assert_eq!((checkpoint(scene), acknowledged(scene).await), (from, to));
    assert_eq!(scene.vhost.depth("all").await, 0);
}

async fn slot_is_free(scene: &Scene) {
    let active = "SELECT active FROM pg_replication_slots WHERE slot_name = current_database()";
    eventually("the slot is free", SOON, async || (scene.database.query_one(active).await == "f").then_some(())).await;
}

/// A pgsluice that has delivered a row, and up to where its checkpoint is.
async fn delivered(scene: &Scene) -> Process {
    let pgsluice = streaming(scene, &[]).await;
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    scene.vhost.consume("all", 1, SOON).await;
    scene.acknowledged().await;
    pgsluice
}

fn checkpoint(scene: &Scene) -> Lsn {
    ::pgsluice::checkpoint::file::read(&scene.checkpoint()).expect("reads").expect("is there").flushed
}

/// 7. A slot that was dropped and created again looks like the old one, and starts behind the changes between.
#[tokio::test]
async fn a_slot_that_was_created_again_is_not_taken_for_the_old_one() {
    let scene = Scene::new().await;
    let mut pgsluice = delivered(&scene).await;
    pgsluice.terminate();
    assert_eq!(pgsluice.wait(SOON).await.0, Some(0));
    slot_is_free(&scene).await;
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    scene.database.execute("SELECT pg_drop_replication_slot(current_database())").await;
    scene.database.execute("SELECT pg_create_logical_replication_slot(current_database(), 'pgoutput')").await;
    pgsluice.restart();
    in_doubt(&scene, pgsluice).await;
}

/// 7. A slot that somebody has advanced starts where that one left it, whatever start is asked for: the server forwards
///    it without a word. Here under a stream that was cut, so that it is found out on the way back.
#[tokio::test]
async fn a_slot_that_somebody_has_advanced_is_not_followed() {
    let scene = Scene::new().await;
    let pgsluice = delivered(&scene).await;
    pgsluice.signal(Signal::STOP);
    let cut = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
               WHERE slot_name = current_database() AND active";
    scene.database.execute(cut).await;
    slot_is_free(&scene).await;
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    let advance = "SELECT pg_replication_slot_advance(current_database(), pg_current_wal_insert_lsn())";
    scene.database.execute(advance).await;
    pgsluice.signal(Signal::CONT);
    in_doubt(&scene, pgsluice).await;
}

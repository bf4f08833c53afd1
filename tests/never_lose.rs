//! Nothing is lost, nothing is out of order, and a repeat has the `message_id` of the first, whatever dies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::{Account, Database, RabbitServer, SOON, Scene, postgres};

/// A load of small and middling transactions, some with savepoints, some rolled back, until it is stopped.
struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(database: &Database) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let writers = (0..3).map(|writer| {
            let (stop, database) = (Arc::clone(&stop), database.clone());
            tokio::spawn(async move {
                let client = database.client().await;
                for turn in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let rows = if turn % 10 == 0 { 200 } else { 1 + turn % 7 };
                    let end = if turn % 5 == writer { "ROLLBACK" } else { "COMMIT" };
                    let sql = format!(
                        "BEGIN; INSERT INTO ledger (filler) SELECT 'kept' FROM generate_series(1, {rows});
                         SAVEPOINT s; INSERT INTO ledger (filler) SELECT 'undone' FROM generate_series(1, {rows});
                         ROLLBACK TO s; INSERT INTO ledger (filler) VALUES ('kept'); {end}"
                    );
                    client.batch_execute(&sql).await.expect("a transaction of the load");
                }
            })
        });
        Self { writers: writers.collect(), stop }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.expect("a writer of the load");
        }
    }
}

#[tokio::test]
async fn sigkill_at_random_moments_under_load_loses_nothing() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let scene = Scene::new().await;
    let mut pgsluice = scene.run().await;
    let load = Load::start(&scene.database);
    let mut account = Account::default();
    let mut consumer = scene.vhost.consumer("all").await;
    for _ in 0..10 {
        // The moment: after so many more deliveries, wherever pgsluice then is.
        for _ in 0..random.usize(1..2_000) {
            account.take(&consumer.next(SOON).await);
        }
        pgsluice.restart();
    }
    load.stop().await;
    account.settle(&scene, &mut consumer, Duration::from_mins(2)).await;
    println!("{} rows, {} repeats", account.len(), account.repeated);
}

#[tokio::test]
async fn a_broker_that_is_stopped_under_load_and_started_again_misses_nothing() {
    let rabbitmq = RabbitServer::private(&[]);
    let scene = Scene::on(postgres(), &rabbitmq).await;
    let pgsluice = scene.run().await;
    let load = Load::start(&scene.database);
    let mut account = Account::default();
    for how in [RabbitServer::stop, RabbitServer::kill] {
        for delivery in scene.vhost.consume("all", 300, SOON).await {
            account.take(&delivery);
        }
        how(&rabbitmq);
        pgsluice.wait_for_log("RabbitMQ", SOON).await;
        rabbitmq.start();
    }
    let mut consumer = scene.vhost.consumer("all").await;
    for _ in 0..300 {
        account.take(&consumer.next(SOON).await);
    }
    load.stop().await;
    account.settle(&scene, &mut consumer, Duration::from_mins(2)).await;
    let walsenders = "SELECT count(*) FROM pg_stat_replication WHERE application_name LIKE 'pgsluice%'";
    assert_ne!(scene.database.query_one(walsenders).await, "0", "the stream stayed open");
}

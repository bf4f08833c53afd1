//! A load of transactions, and the account of what arrives of it, while a test breaks things.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::{Account, Consumer, Database, SOON, Scene};

/// So many rows may be committed that have not come yet: several windows, so that it never runs dry, and few enough to
/// be taken in time.
const AHEAD: usize = 5000;
/// Between two rows, where the load is not what is waited for.
const PACE: Duration = Duration::from_millis(1);

/// Small and middling transactions, some with savepoints, some rolled back; of at most so many rows as have room.
#[derive(Debug)]
struct Load {
    room: Arc<Semaphore>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(database: &Database) -> Self {
        let room = Arc::new(Semaphore::new(AHEAD));
        let writers = (0..3).map(|writer| tokio::spawn(write(database.clone(), Arc::clone(&room), writer)));
        Self { writers: writers.collect(), room }
    }

    async fn stop(&mut self) {
        self.room.close();
        for writer in self.writers.drain(..) {
            writer.await.expect("a writer of the load");
        }
    }
}

async fn write(database: Database, room: Arc<Semaphore>, writer: u32) {
    let client = database.client().await;
    for turn in 0_u32.. {
        let rows = if turn % 10 == 0 { 200 } else { 1 + turn % 7 };
        let is_kept = turn % 5 != writer;
        if is_kept {
            let Ok(permit) = room.acquire_many(rows + 1).await else { return };
            permit.forget();
        }
        let end = if is_kept { "COMMIT" } else { "ROLLBACK" };
        let sql = format!(
            "BEGIN; INSERT INTO ledger (filler) SELECT 'kept' FROM generate_series(1, {rows});
             SAVEPOINT s; INSERT INTO ledger (filler) SELECT 'undone' FROM generate_series(1, {rows});
             ROLLBACK TO s; INSERT INTO ledger (filler) VALUES ('kept'); {end}"
        );
        client.batch_execute(&sql).await.expect("a transaction of the load");
    }
}

/// A load on a scene, and what arrived of it.
#[derive(Debug)]
pub(crate) struct Traffic<'a> {
    scene: &'a Scene,
    load: Load,
    /// From the first time on that something is taken.
    consumer: Option<Consumer>,
    account: Account,
}

impl<'a> Traffic<'a> {
    /// Starts the load. The queue `all` gets it; whoever consumes from it must be its single active consumer.
    pub(crate) fn start(scene: &'a Scene, account: Account) -> Self {
        Self { scene, load: Load::start(&scene.database), consumer: None, account }
    }

    async fn consumer(&mut self) -> &mut Consumer {
        let consumer = match self.consumer.take() {
            Some(consumer) => consumer,
            None => self.scene.vhost.steady_consumer("all").await,
        };
        self.consumer.insert(consumer)
    }

    /// Cancel-safe once there is a consumer.
    async fn next(&mut self) {
        // Long: whoever waits has a deadline.
        let delivery = self.consumer().await.next(20 * SOON).await;
        let before = self.account.len();
        self.account.take(&delivery);
        self.load.room.add_permits(self.account.len() - before);
    }

    /// Rows that came, each counted once.
    pub(crate) fn len(&self) -> usize {
        self.account.len()
    }

    /// Waits until so many more rows have come.
    pub(crate) async fn more(&mut self, rows: usize, deadline: Duration) {
        let enough = self.account.len() + rows;
        let all = async {
            while self.account.len() < enough {
                self.next().await;
            }
        };
        let in_time = tokio::time::timeout(deadline, all).await.is_ok();
        assert!(in_time, "{} rows came, expected {enough} within {deadline:?}", self.account.len());
    }

    /// Takes what comes, and with that goes on with the load, while something else goes on: slowly, to leave the machine's
    /// time to servers that start.
    pub(crate) async fn during<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = std::pin::pin!(other);
        let mut pace = tokio::time::interval(PACE);
        self.consumer().await;
        loop {
            let next = async {
                pace.tick().await;
                self.next().await;
            };
            tokio::select! { biased;
                done = &mut other => return done,
                () = next => {}
            }
        }
    }

    /// Stops the load; every committed row must have come then. The account of it.
    pub(crate) async fn settle(mut self, deadline: Duration) -> Account {
        let lost = self.finish(deadline).await;
        assert!(lost.is_empty(), "{} committed rows did not come, as {:?}", lost.len(), &lost[..lost.len().min(10)]);
        self.account
    }

    /// [`Self::settle`] where rows may be gone: which ones did not come.
    pub(crate) async fn settle_but_for_what_is_gone(mut self, deadline: Duration) -> Vec<i64> {
        self.finish(deadline).await
    }

    async fn finish(&mut self, deadline: Duration) -> Vec<i64> {
        self.load.stop().await;
        let scene = self.scene;
        self.during(scene.acknowledged()).await;
        // All else is settled: what comes before this one is all there is, repeats too.
        let last = "INSERT INTO ledger (filler) VALUES ('the last') RETURNING id";
        let last = scene.database.query_one(last).await.parse().expect("an id");
        let all = async {
            while !self.account.has(last) {
                self.next().await;
            }
        };
        let in_time = tokio::time::timeout(deadline, all).await.is_ok();
        assert!(in_time, "{} rows came, but not the last within {deadline:?}", self.account.len());
        self.account.missing(scene).await
    }
}

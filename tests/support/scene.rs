//! The usual scene: a shop's database, a queue that gets everything, and pgsluice between them; and the account of what
//! was committed against what arrived.

use std::collections::HashMap;
use std::time::Duration;

use lapin::types::AMQPValue;
use serde_json::Value;

use super::{
    Consumer, Database, Delivery, PostgresServer, Process, RabbitServer, Vhost, lifetime, pgsluice, postgres, rabbitmq,
};

/// Tables of a shop, its outbox with Debezium's column names, and a ledger for the account.
const TABLES: &str = "
    CREATE TABLE orders (id bigint PRIMARY KEY, customer text NOT NULL, total numeric(12,2), status text NOT NULL);
    CREATE TABLE outbox (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text NOT NULL, aggregateid text NOT NULL,
        type text NOT NULL, payload jsonb);
    CREATE TABLE ledger (id bigserial PRIMARY KEY, filler text NOT NULL DEFAULT '');";

/// A database and a virtual host of one test.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) database: Database,
    pub(crate) vhost: Vhost,
    folder: std::path::PathBuf,
}

impl Scene {
    /// On the shared servers.
    pub(crate) async fn new() -> Self {
        Self::on(postgres(), rabbitmq()).await
    }

    /// On servers that the test may kill.
    pub(crate) async fn on(postgres: &PostgresServer, rabbitmq: &RabbitServer) -> Self {
        Self::with(postgres, rabbitmq.vhost(), &[]).await
    }

    /// With a virtual host of any broker, and arguments for the queue that gets everything.
    pub(crate) async fn with(postgres: &PostgresServer, vhost: Vhost, queue: &[(&str, AMQPValue)]) -> Self {
        Self::of(postgres.database().await, vhost, queue).await
    }

    /// With an empty database of any kind.
    pub(crate) async fn of(database: Database, vhost: Vhost, queue: &[(&str, AMQPValue)]) -> Self {
        database.execute(TABLES).await;
        vhost.queue("all", queue).await;
        for exchange in ["shop.changes", "shop.events"] {
            vhost.declare_exchange(exchange, "topic").await;
            vhost.bind("all", exchange, "#").await;
        }
        Self { database, vhost, folder: lifetime::folder("scene") }
    }

    /// The configuration: the ledger, the orders and the outbox. The slot has the database's name, because slots are the
    /// whole server's. `more` is appended.
    pub(crate) fn config(&self, more: &str) -> String {
        let (slot, url, amqp) = (self.database.name(), self.database.url(), self.vhost.url());
        format!(
            "name = \"shop\"\n\
             [source]\nurl = \"{url}\"\ntables = [\"public.orders\", \"public.ledger\"]\nslot = \"{slot}\"\n\
             [outbox]\ntable = \"public.outbox\"\n\
             [checkpoint]\npath = \"{}\"\n\
             [rabbitmq]\nurl = \"{amqp}\"\n{more}",
            self.checkpoint().display()
        )
    }

    /// The checkpoint's folder; the same for every process of the scene.
    pub(crate) fn checkpoint(&self) -> std::path::PathBuf {
        self.folder.join("checkpoint")
    }

    /// pgsluice, once it streams.
    pub(crate) async fn run(&self) -> Process {
        self.run_with("").await
    }

    /// [`Self::run`] with more configuration.
    pub(crate) async fn run_with(&self, more: &str) -> Process {
        let process = pgsluice(&self.config(more));
        process.wait_for_log("streaming from PostgreSQL", super::SOON).await;
        process
    }

    /// Waits until PostgreSQL was told that everything up to now is done with.
    pub(crate) async fn acknowledged(&self) {
        let now = self.database.query_one("SELECT pg_current_wal_insert_lsn()").await;
        let slot = self.database.name();
        let sql = format!("SELECT confirmed_flush_lsn >= '{now}' FROM pg_replication_slots WHERE slot_name = '{slot}'");
        let what = format!("the slot is past {now}");
        super::eventually(&what, super::SOON, async || (self.database.query_one(&sql).await == "t").then_some(()))
            .await;
    }
}

/// The ledger's rows as they arrived, held against the table.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// By ledger id: the message id of its first delivery.
    seen: HashMap<i64, String>,
    last: Option<(u64, u64)>,
    /// Deliveries beyond the first of each.
    pub(crate) repeated: usize,
    order: Order,
}

/// Which deliveries have to be in order.
#[derive(Debug, Default)]
enum Order {
    /// The first of each row.
    #[default]
    First,
    /// The last of each row: the position of each delivery, and the last one of each row.
    Last { positions: Vec<(u64, u64)>, of_row: HashMap<i64, usize> },
}

impl Account {
    /// For a queue that refuses events, or is not bound for a while: of several in flight a later one may be the first
    /// that is taken, but then it comes again after the others.
    pub(crate) fn after_refusals() -> Self {
        Self { order: Order::Last { positions: Vec::new(), of_row: HashMap::new() }, ..Self::default() }
    }

    /// Counts one delivery. Panics when a first delivery is out of order, or a repeat has another `message_id`.
    pub(crate) fn take(&mut self, delivery: &Delivery) {
        let event = delivery.json();
        let id = event["after"]["id"].as_i64().expect("a ledger row");
        let position = position(&event);
        assert_eq!(event["id"], delivery.message_id.as_str());
        if let Order::Last { positions, of_row } = &mut self.order {
            of_row.insert(id, positions.len());
            positions.push(position);
        }
        if let Some(first) = self.seen.get(&id) {
            assert_eq!(*first, delivery.message_id, "a repeat of row {id} has the message id of its first delivery");
            self.repeated += 1;
        } else {
            let in_order = self.last < Some(position) || matches!(self.order, Order::Last { .. });
            assert!(in_order, "row {id} at {position:?} came after {:?}", self.last);
            self.last = Some(position);
            self.seen.insert(id, delivery.message_id.clone());
        }
    }

    /// Different rows that came.
    pub(crate) fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether this row has come.
    pub(crate) fn has(&self, id: i64) -> bool {
        self.seen.contains_key(&id)
    }

    /// Takes from the queue until every row of the ledger has come; panics when no further one has come for `deadline`,
    /// naming what is lost. Rows that were never committed must not be among them.
    pub(crate) async fn settle(&mut self, scene: &Scene, consumer: &mut Consumer, deadline: Duration) {
        let rows: usize =
            scene.database.query_one("SELECT count(*) FROM ledger").await.parse().expect("a number of rows");
        let mut end = tokio::time::Instant::now() + deadline;
        while self.len() < rows {
            // Longer: whoever gives up here names what is lost.
            let Ok(delivery) = tokio::time::timeout_at(end, consumer.next(2 * deadline)).await else { break };
            let before = self.len();
            self.take(&delivery);
            if self.len() > before {
                end = tokio::time::Instant::now() + deadline;
            }
        }
        let lost = self.missing(scene).await;
        let some = &lost[..lost.len().min(10)];
        assert!(lost.is_empty(), "{} of {rows} committed rows did not come, as {some:?}", lost.len());
    }

    /// Which committed rows have not come. Panics when rows came that were not committed, or the last deliveries are out of
    /// order.
    pub(crate) async fn missing(&self, scene: &Scene) -> Vec<i64> {
        let rows = scene.database.client().await.query("SELECT id FROM ledger", &[]).await.expect("read the ledger");
        let committed: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        let missing: Vec<_> = committed.iter().copied().filter(|id| !self.has(*id)).collect();
        assert_eq!(self.len(), committed.len() - missing.len(), "rows came that were not committed");
        if let Order::Last { positions, of_row } = &self.order {
            let mut last: Vec<_> = of_row.values().copied().collect();
            last.sort_unstable();
            assert!(last.is_sorted_by_key(|delivery| positions[*delivery]), "the last deliveries are out of order");
        }
        missing
    }
}

/// `(commit_lsn, ordinal)` of a row event.
fn position(event: &Value) -> (u64, u64) {
    let lsn: ::pgsluice::lsn::Lsn = event["commit_lsn"].as_str().expect("commit_lsn").parse().expect("an LSN");
    (lsn.0, event["ordinal"].as_u64().expect("ordinal"))
}

//! Whatever happens to the broker under a load of transactions: nothing is lost, what is in flight is published again in
//! order, and PostgreSQL's stream is none the wiser.
//!
//! That is proven by a server that closes a stream on which it hears nothing for two seconds: at the end, the walsender is
//! the one of the beginning.

mod channel;
mod node;
mod queue;

use std::sync::OnceLock;

use ::pgsluice::lsn::Lsn;
use lapin::types::AMQPValue;

use crate::support::{PostgresServer, Process, SOON, Scene, eventually, rabbitmq};

/// For a queue from which the load is taken, see [`crate::support::Vhost::steady_consumer`].
const ONE_CONSUMER: (&str, AMQPValue) = ("x-single-active-consumer", AMQPValue::Boolean(true));

/// A server that hangs up on a client from which it hears nothing for four seconds.
pub(crate) fn impatient_postgres() -> &'static PostgresServer {
    static SHARED: OnceLock<PostgresServer> = OnceLock::new();
    SHARED.get_or_init(|| PostgresServer::private(&[("wal_sender_timeout", "4s")]))
}

/// On the shared broker.
async fn scene() -> Scene {
    Scene::with(impatient_postgres(), rabbitmq().vhost(), &[ONE_CONSUMER]).await
}

/// Which walsender serves the scene's slot: another one after each reconnect.
pub(crate) async fn walsender(scene: &Scene) -> String {
    let sql = "SELECT pid || ' since ' || backend_start FROM pg_stat_replication
               JOIN pg_replication_slots ON pid = active_pid WHERE slot_name = current_database()";
    scene.database.query_one(sql).await
}

/// For longer than [`impatient_postgres`] waits for a client, nothing that is committed from now on is acknowledged.
pub(crate) async fn nothing_is_acknowledged(scene: &Scene) {
    let query = async |sql: &str| scene.database.query_one(sql).await;
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    let committed: Lsn = query("SELECT pg_current_wal_insert_lsn()").await.parse().expect("an LSN");
    let since = query("SELECT clock_timestamp()").await;
    let passed = format!("SELECT clock_timestamp() > '{since}'::timestamptz + interval '6s'");
    eventually("time passes", SOON, async || (query(&passed).await == "t").then_some(())).await;
    let acknowledged = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = current_database()";
    let acknowledged: Lsn = query(acknowledged).await.parse().expect("an LSN");
    assert!(
        acknowledged < committed,
        "{acknowledged} is acknowledged, although not all up to {committed} is confirmed"
    );
}

/// The broker's ports that pgsluice has been connected to, in this order.
pub(crate) fn connections(pgsluice: &Process) -> Vec<u16> {
    let log = pgsluice.stderr();
    let connects = log.lines().filter(|line| line.contains("\"connected to RabbitMQ\""));
    let port = |line: &str| line.split_once("\"peer\":\"127.0.0.1:")?.1.split_once('"')?.0.parse().ok();
    connects.filter_map(port).collect()
}

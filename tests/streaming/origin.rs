//! Changes that came to the server by replication from elsewhere.

use std::time::Duration;

use super::process::{run, scene_on};
use crate::bad_input::{ended, says, start, streaming};
use crate::support::{Account, Database, PostgresServer, SOON, Scene};

/// Rows, as an apply worker writes them.
async fn apply(database: &Database, sql: &str) {
    let client = database.client().await;
    let session = "SELECT pg_replication_origin_session_setup('elsewhere')";
    client.batch_execute(session).await.expect("is free");
    let at = "SELECT pg_replication_origin_xact_setup('0/1234', '2026-01-01')";
    client.batch_execute(&format!("BEGIN; {at}; {sql}; COMMIT")).await.expect(sql);
    client.batch_execute("SELECT pg_replication_origin_session_reset()").await.expect("is reset");
}

async fn ids(scene: &Scene, count: usize) -> Vec<u64> {
    let deliveries = scene.vhost.consume("all", count, Duration::from_mins(1)).await;
    deliveries.iter().map(|delivery| delivery.json()["after"]["id"].as_u64().expect("an id")).collect()
}

#[tokio::test]
async fn what_came_by_replication_is_sent_or_not_as_configured() {
    let server = PostgresServer::private_of(16, &[]);
    let (scene, folder) = scene_on(&server).await;
    scene.database.execute("SELECT pg_replication_origin_create('elsewhere')").await;
    for (turn, (origin, expected)) in [("any", 2002), ("none", 2), ("streamed", 2002)].into_iter().enumerate() {
        let mut process = match origin {
            "streamed" => run(&scene, &folder).await,
            origin => streaming(&scene, &[("source.origin", origin)]).await,
        };
        let first = turn as u64 * 10_000;
        scene.database.execute(&format!("INSERT INTO ledger VALUES ({first})")).await;
        let foreign = "INSERT INTO ledger SELECT n, repeat('f', 50) FROM generate_series";
        apply(&scene.database, &format!("{foreign}({}, {}) n", first + 1, first + 2000)).await;
        scene.database.execute(&format!("INSERT INTO ledger VALUES ({})", first + 2001)).await;
        let ids = ids(&scene, expected).await;
        assert_eq!((ids[0], ids[expected - 1]), (first, first + 2001), "{origin}");
        scene.acknowledged().await;
        assert_eq!(scene.vhost.depth("all").await, 0);
        process.terminate();
        assert_eq!(process.wait(SOON).await.0, Some(0));
    }
    let sql =
        format!("SELECT stream_txns FROM pg_stat_replication_slots WHERE slot_name = '{}'", scene.database.name());
    assert_eq!(scene.database.query_one(&sql).await, "1");
}

#[tokio::test]
async fn a_server_that_can_not_leave_it_out_is_refused_before_anything_is_created() {
    let server = PostgresServer::private_of(15, &[]);
    let (scene, _) = scene_on(&server).await;
    let message = ended(&mut start(&scene, &[("source.origin", "none")]), 3).await;
    says(
        &message,
        &["source.origin = \"none\" needs PostgreSQL 16 or newer", "is PostgreSQL 15", "hint: Remove the key"],
    );
    let slot = scene.database.name();
    let made = format!(
        "SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}') + (SELECT count(*) FROM pg_publication)"
    );
    assert_eq!(scene.database.query_one(&made).await, "0");
    let _any = streaming(&scene, &[("source.origin", "any")]).await;
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    Account::default().settle(&scene, &mut scene.vhost.consumer("all").await, SOON).await;
}

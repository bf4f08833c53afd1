//! Two-phase transactions: they come when they are committed, in both modes. And slots that would send them before.

use std::time::Duration;

use super::process::{run, scene_on};
use crate::bad_input::{ended, says, start};
use crate::support::{Account, PostgresServer, SOON, postgres};

const ROWS: &str = "INSERT INTO ledger (filler) SELECT repeat('x', 100) FROM generate_series(1, 3000)";

#[tokio::test]
async fn a_prepared_transaction_comes_when_it_is_committed() {
    let server = PostgresServer::private(&[("max_prepared_transactions", "10")]);
    for is_streamed in [false, true] {
        let (scene, folder) = scene_on(&server).await;
        let started = async || if is_streamed { run(&scene, &folder).await } else { scene.run().await };
        let mut pgsluice = started().await;
        let prepare =
            |name: &str| format!("BEGIN; {ROWS}; SAVEPOINT s; {ROWS}; ROLLBACK TO s; PREPARE TRANSACTION '{name}'");
        let names = ["kept", "kept_later", "undone", "undone_later"].map(|name| format!("{name}_{is_streamed}"));
        for name in &names {
            scene.database.execute(&prepare(name)).await;
        }
        scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
        let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
        account.settle(&scene, &mut consumer, SOON).await;
        scene.acknowledged().await;
        assert_eq!(account.len(), 1, "nothing that is only prepared");
        scene.database.execute(&format!("COMMIT PREPARED '{}'", names[0])).await;
        scene.database.execute(&format!("ROLLBACK PREPARED '{}'", names[2])).await;
        account.settle(&scene, &mut consumer, Duration::from_mins(1)).await;
        scene.acknowledged().await;
        assert_eq!(account.len(), 3001);
        // The others are older than all that is acknowledged.
        pgsluice.terminate();
        assert_eq!(pgsluice.wait(SOON).await.0, Some(0));
        let _again = started().await;
        scene.database.execute(&format!("ROLLBACK PREPARED '{}'", names[3])).await;
        scene.database.execute(&format!("COMMIT PREPARED '{}'", names[1])).await;
        account.settle(&scene, &mut consumer, Duration::from_mins(1)).await;
        scene.acknowledged().await;
        assert_eq!((account.len(), account.repeated, scene.vhost.depth("all").await), (6001, 0, 0));
    }
}

/// Such a slot sends a transaction when it is prepared, and that once: who takes it must keep it for good until it is
/// committed. It is refused at the first start as at any later one.
#[tokio::test]
async fn a_slot_that_sends_what_is_only_prepared_is_refused() {
    let (scene, _) = scene_on(postgres()).await;
    let slot = scene.database.name();
    let create = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput', false, true)");
    scene.database.execute(&create).await;
    let message = ended(&mut start(&scene, &[]), 3).await;
    says(&message, &[slot, "sends transactions when they are prepared (two_phase)", "hint: "]);
    assert_eq!(scene.database.query_one("SELECT count(*) FROM pg_publication").await, "0", "nothing was created");
}

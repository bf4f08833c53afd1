//! What somebody does to a filter, or to a table beneath it, while pgsluice streams.

use super::has_filters;
use crate::bad_input::{ended, says};
use crate::support::{Process, SOON, Scene, pgsluice, pgsluice_command};

/// Streams with a filter, and looks often.
async fn watched(scene: &Scene) -> Process {
    let filter = "[[source.filters]]\ntable = \"public.ledger\"\nwhere = \"id > 0\"\n";
    let config = scene.config(filter).replace("[source]\n", "[source]\nwatch_every_ms = 200\n");
    let process = pgsluice(&config);
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    process
}

/// Rows that it left out while it was another are missing.
#[tokio::test]
async fn a_filter_that_somebody_alters_is_in_doubt_and_ours_again_once_that_is_accepted() {
    for alter in
        ["SET TABLE orders, outbox, ledger WHERE (id > 5)", "SET TABLE orders, outbox, ledger (id) WHERE (id > 0)"]
    {
        let scene = Scene::new().await;
        if !has_filters(&scene.database).await {
            return;
        }
        let mut process = watched(&scene).await;
        scene.database.execute(&format!("ALTER PUBLICATION shop {alter}")).await;
        says(&ended(&mut process, 5).await, &["public.ledger left the publication \"shop\"", "or changed in it"]);
        process.restart();
        says(&ended(&mut process, 5).await, &["public.ledger left the publication \"shop\""]);
        let config = process.config_path().display().to_string();
        let (code, output) = pgsluice_command(&["checkpoint", "reset", "--config", &config], &[]).wait(SOON).await;
        assert_eq!(code, Some(0), "{output}");
        process.restart();
        process.wait_for_log("public.ledger is filtered anew", SOON).await;
        process.wait_for_log("streaming from PostgreSQL", SOON).await;
        let filter = "SELECT rowfilter || attnames::text FROM pg_publication_tables WHERE tablename = 'ledger'";
        assert_eq!(scene.database.query_one(filter).await, "(id > 0){id,filler}");
    }
}

#[tokio::test]
async fn a_replica_identity_that_a_filter_does_not_fit_any_more_is_warned_about() {
    let scene = Scene::new().await;
    if !has_filters(&scene.database).await {
        return;
    }
    let mut process = watched(&scene).await;
    scene
        .database
        .execute("ALTER TABLE ledger ADD n int NOT NULL UNIQUE DEFAULT 1; ALTER TABLE ledger REPLICA IDENTITY USING INDEX ledger_n_key; INSERT INTO ledger DEFAULT VALUES")
        .await;
    let warning = "PostgreSQL rejects every UPDATE and DELETE on public.ledger: its row filter uses id, not part";
    process.wait_for_log(warning, SOON).await;
    let updated = scene.database.client().await.batch_execute("UPDATE ledger SET filler = 'x'").await;
    assert!(updated.is_err(), "as it says");
    // A start goes on with what is there, and says it again.
    process.restart();
    process.wait_for_log(warning, SOON).await;
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
}

//! Tables that join the publication, or leave it, while transactions write to them: what PostgreSQL sends of such a transaction
//! must be the same in each session, because a checkpoint within it counts its changes.

use crate::support::{Delivery, Process, SOON, Scene, pgsluice};

/// The configuration with the orders alone, or with the ledger too.
fn config(scene: &Scene, with_ledger: bool) -> String {
    let config = scene.config("");
    if with_ledger { config } else { config.replacen(", \"public.ledger\"", "", 1) }
}

/// Streams without the ledger (or with it), and is stopped.
async fn stopped(scene: &Scene, with_ledger: bool) -> Process {
    let mut process = pgsluice(&config(scene, with_ledger));
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    process.terminate();
    assert_eq!(process.wait(SOON).await.0, Some(0));
    std::fs::write(process.config_path(), config(scene, !with_ledger)).expect("write the configuration");
    process
}

fn order(id: u32) -> String {
    format!("INSERT INTO orders VALUES ({id}, 'Ann', 1, 'new')")
}

const LEDGER: &str = "INSERT INTO ledger DEFAULT VALUES";

fn seen(deliveries: &[Delivery]) -> Vec<(&str, String)> {
    deliveries.iter().map(|delivery| (delivery.message_id.as_str(), delivery.text())).collect()
}

fn tables(deliveries: &[Delivery]) -> String {
    let table = |delivery: &Delivery| delivery.json()["table"].as_str().expect("a table").to_owned();
    deliveries.iter().map(table).collect::<Vec<_>>().join(" ")
}

/// Of the transaction that was waited for no row of the ledger comes: either it had not joined, or it is not selected any more.
#[tokio::test]
async fn a_table_joins_or_leaves_once_those_that_have_written_to_it_are_done() {
    for joins in [true, false] {
        let scene = Scene::new().await;
        let mut process = stopped(&scene, !joins).await;
        let (writer, other) = (scene.database.client().await, scene.database.client().await);
        writer.batch_execute(&format!("BEGIN; {LEDGER}; {}", order(1))).await.expect("writes");
        process.restart();
        let said = process.wait_for_log("waiting for an open transaction", SOON).await;
        assert!(said.contains(r#"\"public\".\"ledger\""#) && said.contains("idle in transaction"), "{said}");
        other.batch_execute("SET lock_timeout = '100ms'").await.expect("sets");
        other.batch_execute(LEDGER).await.expect("nobody is held up");
        writer.batch_execute(LEDGER).await.expect("nor those that are waited for");
        assert!(!process.stderr().contains("streaming from PostgreSQL"), "{}", process.stderr());
        writer.batch_execute(&format!("{}; COMMIT", order(2))).await.expect("commits");
        process.wait_for_log("streaming from PostgreSQL", SOON).await;
        other.batch_execute(LEDGER).await.expect("writes");
        other.batch_execute(&order(3)).await.expect("writes");
        let expected = if joins { "orders orders ledger orders" } else { "orders orders orders" };
        let deliveries = scene.vhost.consume("all", expected.split(' ').count(), SOON).await;
        assert_eq!(tables(&deliveries), expected);
        scene.acknowledged().await;
        assert_eq!(scene.vhost.depth("all").await, 0);
    }
}

/// A transaction that writes to the ledger only once that has joined: a session that has decoded others of the ledger before,
/// and one that begins behind those, make the same events of it.
#[tokio::test]
async fn a_transaction_that_spans_the_change_is_the_same_to_each_session() {
    let scene = Scene::new().await;
    let mut process = stopped(&scene, false).await;
    let writer = scene.database.client().await;
    writer.batch_execute(&format!("BEGIN; {}", order(1))).await.expect("writes");
    process.restart();
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    scene.database.execute(LEDGER).await;
    assert_eq!(tables(&scene.vhost.consume("all", 1, SOON).await), "ledger");
    scene.acknowledged().await;
    let (slot, later) = (scene.database.name().to_owned(), format!("{}_later", scene.database.name()));
    scene.database.execute(&format!("SELECT pg_copy_logical_replication_slot('{slot}', '{later}')")).await;
    let rest = format!("{LEDGER}; {}; {LEDGER}; {}; COMMIT", order(2), order(3));
    writer.batch_execute(&rest).await.expect("commits");
    let of_one = scene.vhost.consume("all", 5, SOON).await;
    assert_eq!(tables(&of_one), "orders ledger orders ledger orders");
    process.kill();
    let config = std::fs::read_to_string(process.config_path()).expect("read the configuration");
    let folder = scene.checkpoint().display().to_string();
    let config = config.replacen(&format!("slot = \"{slot}\""), &format!("slot = \"{later}\""), 1);
    let _later = pgsluice(&config.replacen(&folder, &format!("{folder}-later"), 1));
    let of_other = scene.vhost.consume("all", 5, SOON).await;
    assert_eq!(seen(&of_one), seen(&of_other));
}

/// While a start waits, another instance, which needs no change, takes the slot: the first looks at everything anew, and its turn
/// comes later.
#[tokio::test]
async fn who_has_waited_for_writers_and_finds_the_slot_taken_stands_by() {
    let scene = Scene::new().await;
    let path = format!("path = \"{}\"", scene.checkpoint().display());
    let in_a_table = |with_ledger| config(&scene, with_ledger).replacen(&path, "store = \"postgres\"", 1);
    let mut other = pgsluice(&in_a_table(false));
    other.wait_for_log("streaming from PostgreSQL", SOON).await;
    other.terminate();
    assert_eq!(other.wait(SOON).await.0, Some(0));
    let writer = scene.database.client().await;
    writer.batch_execute(&format!("BEGIN; {LEDGER}; {}", order(1))).await.expect("writes");
    let process = pgsluice(&in_a_table(true));
    process.wait_for_log("waiting for an open transaction", SOON).await;
    other.restart();
    other.wait_for_log("streaming from PostgreSQL", SOON).await;
    writer.batch_execute("COMMIT").await.expect("commits");
    process.wait_for_log("standing by", SOON).await;
    scene.database.execute(&format!("{LEDGER}; {}", order(2))).await;
    assert_eq!(tables(&scene.vhost.consume("all", 2, SOON).await), "orders orders");
    scene.acknowledged().await;
    assert!(!process.stderr().contains("streaming from PostgreSQL"), "{}", process.stderr());
    other.kill();
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    scene.database.execute(&format!("{LEDGER}; {}", order(3))).await;
    assert_eq!(tables(&scene.vhost.consume("all", 2, SOON).await), "ledger orders");
    assert_eq!(scene.vhost.depth("all").await, 0);
}

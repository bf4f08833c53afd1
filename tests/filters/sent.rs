//! What comes, end to end, and that nothing else is lost when filters are altered.

use serde_json::{Value, json};

use super::has_filters;
use crate::support::{Account, Process, SOON, Scene, Traffic, pgsluice_command};

const FILTERS: &str = r#"
[[source.filters]]
table = "public.orders"
columns = ["id", "status"]
where = "status <> 'draft'"
[[source.filters]]
table = "public.outbox"
where = "id <> '00000000-0000-0000-0000-000000000000'"
"#;

async fn next(consumer: &mut crate::support::Consumer) -> Value {
    consumer.next(SOON).await.json()
}

#[tokio::test]
async fn rows_and_columns_that_are_left_out_never_come_and_a_row_that_crosses_comes_or_goes() {
    let scene = Scene::new().await;
    if !has_filters(&scene.database).await {
        return;
    }
    scene
        .database
        .execute(
            "CREATE UNIQUE INDEX named ON orders (id, status); ALTER TABLE orders REPLICA IDENTITY USING INDEX named",
        )
        .await;
    let _process = scene.run_with(FILTERS).await;
    let mut consumer = scene.vhost.consumer("all").await;
    scene
        .database
        .execute(
            "INSERT INTO orders VALUES (1, 'Ann', 9, 'draft'), (2, 'Bob', 9, 'paid'); UPDATE orders SET total = 8;
             UPDATE orders SET status = 'paid' WHERE id = 1; UPDATE orders SET status = 'draft'; DELETE FROM orders;
             INSERT INTO outbox VALUES ('00000000-0000-0000-0000-000000000000', 'x', '1', 'Left', '{}'),
                                       ('00000000-0000-0000-0000-000000000001', 'x', '1', 'Sent', '{}');",
        )
        .await;
    for (op, before, after) in [
        ("insert", Value::Null, json!({"id": 2, "status": "paid"})),
        ("update", Value::Null, json!({"id": 2, "status": "paid"})),
        ("insert", Value::Null, json!({"id": 1, "status": "paid"})),
        ("delete", json!({"id": 2, "status": "paid"}), Value::Null),
        ("delete", json!({"id": 1, "status": "paid"}), Value::Null),
    ] {
        let event = next(&mut consumer).await;
        assert_eq!(json!([event["op"], event["before"], event["after"]]), json!([op, before, after]));
    }
    assert_eq!(consumer.next(SOON).await.event_type, "Sent");
    scene.acknowledged().await;
    assert_eq!(scene.vhost.depth("all").await, 0);
}

#[tokio::test]
async fn an_outbox_without_a_column_that_its_events_need_is_refused() {
    let scene = Scene::new().await;
    if !has_filters(&scene.database).await {
        return;
    }
    let filter = "[[source.filters]]\ntable = \"public.outbox\"\ncolumns = [\"id\", \"type\"]\n";
    let mut process = crate::support::pgsluice(&scene.config(filter));
    let message = crate::bad_input::ended(&mut process, 3).await;
    let parts = ["source.filters[0].columns", "public.outbox", "aggregateid, aggregatetype, payload"];
    crate::bad_input::says(&message, &parts);
    assert_eq!(scene.database.query_one("SELECT count(*) FROM pg_publication").await, "0");
}

/// Ends it, and starts it with other filters of the ledger. Each passes every row.
async fn restarted(scene: &Scene, process: &mut Process, filter: &str) {
    process.kill();
    std::fs::write(process.config_path(), scene.config(filter)).expect("write the configuration");
    process.restart();
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    process.wait_for_log("ALTER PUBLICATION", SOON).await;
}

#[tokio::test]
async fn filters_that_are_altered_under_load_lose_nothing_and_a_transaction_that_spans_it_neither() {
    let scene = Scene::new().await;
    if !has_filters(&scene.database).await {
        return;
    }
    scene.database.execute("CREATE TABLE elsewhere (id int)").await;
    let mut process = scene.run().await;
    let mut traffic = Traffic::start(&scene, Account::default());
    traffic.more(100, SOON).await;
    for round in 1..=6 {
        let filter = match round % 3 {
            0 => String::new(),
            1 => format!("[[source.filters]]\ntable = \"public.ledger\"\nwhere = \"id > -{round}\"\n"),
            _ => format!(
                "[[source.filters]]\ntable = \"public.ledger\"\nwhere = \"id > -{round}\"\ncolumns = [\"id\"]\n"
            ),
        };
        let client = scene.database.client().await;
        let insert = "INSERT INTO ledger DEFAULT VALUES";
        client.batch_execute("BEGIN; INSERT INTO elsewhere VALUES (1)").await.expect("writes");
        traffic.during(restarted(&scene, &mut process, &filter)).await;
        client.batch_execute(&format!("{insert}; COMMIT")).await.expect("commits");
        traffic.more(100, SOON).await;
    }
    traffic.settle(SOON).await;
}

/// A slot reads what was written as it was published then.
#[tokio::test]
async fn what_was_written_before_a_filter_was_altered_comes_as_it_was_filtered_then() {
    let scene = Scene::new().await;
    if !has_filters(&scene.database).await {
        return;
    }
    let filter = "[[source.filters]]\ntable = \"public.ledger\"\nwhere = \"id % 2 = 0\"\n";
    let insert = "INSERT INTO ledger DEFAULT VALUES; INSERT INTO ledger DEFAULT VALUES";
    let mut process = scene.run().await;
    let mut consumer = scene.vhost.consumer("all").await;
    // One that is stopped is behind.
    for (now, expected) in [(filter, vec![1, 2]), ("", vec![4]), (filter, vec![5, 6])] {
        process.terminate();
        assert_eq!(process.wait(SOON).await.0, Some(0));
        scene.database.execute(insert).await;
        restarted(&scene, &mut process, now).await;
        for id in expected {
            assert_eq!(next(&mut consumer).await["after"]["id"], id);
        }
        scene.acknowledged().await;
        assert_eq!(scene.vhost.depth("all").await, 0);
    }
}

/// What was no event does not become one.
#[tokio::test]
async fn a_replay_from_the_outbox_table_leaves_out_what_the_filter_does() {
    let scene = Scene::new().await;
    if !has_filters(&scene.database).await {
        return;
    }
    let filter = "[[source.filters]]\ntable = \"public.outbox\"\nwhere = \"id < '20000000-0000-0000-0000-000000000000' -- others are internal\"\n";
    let process = scene.run_with(filter).await;
    let mut consumer = scene.vhost.consumer("all").await;
    let ids = [
        "10000000-0000-0000-0000-000000000000",
        "20000000-0000-0000-0000-000000000000",
        "11000000-0000-0000-0000-000000000000",
    ];
    for id in ids {
        scene.database.execute(&format!("INSERT INTO outbox VALUES ('{id}', 'x', '1', 'Sent', '{{}}')")).await;
    }
    for id in [ids[0], ids[2]] {
        assert_eq!(consumer.next(SOON).await.message_id, id);
    }
    scene.acknowledged().await;
    let config = process.config_path().display().to_string();
    let arguments = ["replay", "--config", &config, "--from-table", "--order-by", "id"];
    let (code, output) = pgsluice_command(&arguments, &[]).wait(SOON).await;
    assert_eq!(code, Some(0), "{output}");
    for id in [ids[0], ids[2]] {
        assert_eq!(consumer.next(SOON).await.message_id, id);
    }
    assert_eq!(scene.vhost.depth("all").await, 0);
}

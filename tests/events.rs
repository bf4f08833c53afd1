//! Rules: every option, against real servers. `events/` has what happens when something dies, or is altered.

use serde_json::json;

use crate::support::{Delivery, Process, SOON, Scene, pgsluice};

/// A table that nobody else's sections mention, whose old rows are told as a whole.
const TABLE: &str = "
    CREATE TABLE bills (id bigint PRIMARY KEY, customer text, status text, total numeric(12,2), doc jsonb, email text,
        phone text, tags text[], \"größe \"\"x\"\"\" int, created timestamptz);
    ALTER TABLE bills REPLICA IDENTITY FULL";

async fn scene() -> Scene {
    let scene = Scene::new().await;
    scene.database.execute(TABLE).await;
    scene
}

/// A rule on that table.
fn rule(more: &str) -> String {
    format!("[[events]]\ntable = \"public.bills\"\n{more}\n")
}

async fn run(scene: &Scene, rules: &str) -> Process {
    let process = pgsluice(&scene.config(rules));
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    process
}

/// The events of these statements.
async fn events(scene: &Scene, rules: &str, statements: &[&str], count: usize) -> Vec<Delivery> {
    let _running = run(scene, rules).await;
    for statement in statements {
        scene.database.execute(statement).await;
    }
    scene.vhost.consume("all", count, SOON).await
}

const PAID: &str = "
    type = \"OrderPaid\"
    on = \"update\"
    when = \"old.status != new.status && new.status == 'paid'\"
    data = [\"id\", \"customer\", \"total\"]";

#[tokio::test]
async fn a_change_that_a_rule_wants_is_an_event_and_others_are_none() {
    let scene = scene().await;
    let statements = [
        "INSERT INTO bills (id, customer, status, total) VALUES (1, 'Zoë', 'new', 19.90), (2, 'b', 'paid', 1)",
        "UPDATE bills SET total = 20.50",
        "UPDATE bills SET status = 'paid'",
        "UPDATE bills SET status = 'gone'",
        "DELETE FROM bills",
        "INSERT INTO orders VALUES (7, 'x', 1, 'end')",
    ];
    let events = events(&scene, &rule(PAID), &statements, 2).await;
    let event = events[0].json();
    assert_eq!(event["data"], json!({"id": 1, "customer": "Zoë", "total": "20.50"}));
    assert_eq!((&event["type"], &event["op"], &event["missing"]), (&json!("OrderPaid"), &json!("update"), &json!([])));
    assert_eq!((&event["schema"], &event["table"]), (&json!("public"), &json!("bills")));
    let position = events[0].headers["position"].as_str().expect("a position").to_owned();
    assert_eq!(events[0].message_id, format!("shop:{position}:OrderPaid"));
    assert_eq!(event["id"], events[0].message_id.as_str());
    assert_eq!((events[0].exchange.as_str(), events[0].routing_key.as_str()), ("shop.events", "OrderPaid"));
    assert_eq!(events[1].json()["after"]["status"], "end");
}

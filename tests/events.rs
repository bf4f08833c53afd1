//! Rules: every option, against real servers. `events/` has what happens when something dies, or is altered.

mod page;
mod trouble;

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

#[tokio::test]
async fn one_change_is_several_events_each_with_its_columns_at_its_exchange_and_numbered() {
    let scene = scene().await;
    for exchange in ["billing", "mail"] {
        scene.vhost.declare_exchange(exchange, "topic").await;
        scene.vhost.bind("all", exchange, "#").await;
    }
    let rules = format!(
        "{}{}{}",
        rule(
            "type = \"Billed\"\non = \"insert\"\nexchange = \"billing\"\nrouting_key = \"{type}.{new.id}\"\ndata = [\"id\", \"total\"]"
        ),
        rule(
            "type = \"Mailed\"\non = [\"insert\"]\nexchange = \"{new.status}\"\ndata = [\"email\"]\n\
             headers = { id = \"{new.id}/{op}/{schema}.{table}/{type}/{name}\", none = \"{new.phone}\" }"
        ),
        rule("type = \"Never\"\non = [\"insert\", \"update\"]\nwhen = \"new.id > 100\""),
    );
    let config = scene.config(&rules).replace("\"public.ledger\"]", "\"public.ledger\", \"public.bills\"]");
    let running = pgsluice(&config);
    running.wait_for_log("streaming from PostgreSQL", SOON).await;
    let insert = "INSERT INTO bills (id, status, total, email) VALUES (1, 'mail', 1.50, 'a@b'), (2, 'mail', 2, NULL)";
    scene.database.execute(insert).await;
    let events = scene.vhost.consume("all", 6, SOON).await;
    let exchanges: Vec<&str> = events.iter().map(|event| event.exchange.as_str()).collect();
    assert_eq!(exchanges, ["shop.changes", "billing", "mail"].repeat(2));
    assert_eq!(events[1].json()["data"], json!({"id": 1, "total": "1.50"}));
    assert_eq!((events[1].routing_key.as_str(), events[1].event_type.as_str()), ("Billed.1", "Billed"));
    assert_eq!(events[2].json()["data"], json!({"email": "a@b"}));
    assert_eq!(events[2].headers["id"], "1/insert/public.bills/Mailed/shop");
    assert!(!events[2].headers.contains_key("none"), "a null is no text, and no header");
    assert_eq!(events[5].json()["data"], json!({"email": null}));
    let numbers: Vec<_> =
        events.iter().map(|it| it.headers["transaction_number"].as_i64().expect("a number")).collect();
    let last: Vec<_> = events.iter().map(|it| it.headers["transaction_last"] == true).collect();
    assert_eq!((numbers, last), (vec![1, 2, 3, 4, 5, 6], vec![false, false, false, false, false, true]));
    let position = events[0].message_id.clone();
    assert_eq!(events[1].message_id, format!("{position}:Billed"));
    assert_eq!(events[2].message_id, format!("{position}:Mailed"));
    assert_eq!(events[0].headers["position"], events[2].headers["position"]);
}

#[tokio::test]
async fn data_is_renamed_computed_masked_and_hashed() {
    let scene = scene().await;
    let more = "type = \"Billed\"\non = \"insert\"\ndata = [\"*\", \"!doc\", \"!tags\", \"!created\"]\nhash = [\"email\"]\n\
                rename = { customer = \"buyer\", 'größe \"x\"' = \"size\" }\nmask = { phone = \"***\" }\n\
                compute = { cents = \"int(double(new.total) * 100.0 + 0.5)\", big = 'new[\"größe \\\"x\\\"\"] > 3', \
                city = \"new.doc.address.city\", status = \"new.status + '!'\", tags = \"new.tags.map(t, 't:' + t)\" }";
    let mut config = scene.config(&rule(more));
    config.push_str("\n[hash]\nkey_file = \"hash.key\"\n");
    let folder = crate::support::folder("events");
    std::fs::write(folder.join("hash.key"), "0123456789abcdef0123\n").expect("write the key");
    let config = config.replace("hash.key", &folder.join("hash.key").display().to_string());
    let running = pgsluice(&config);
    running.wait_for_log("streaming from PostgreSQL", SOON).await;
    let insert = "INSERT INTO bills VALUES (1, 'Zoë', 'new', 19.90, '{\"address\": {\"city\": \"Köln\"}}', 'a@b.example', '123', \
                  '{a,b}', 4, now())";
    scene.database.execute(insert).await;
    let event = scene.vhost.consume("all", 1, SOON).await.remove(0).json();
    let expected = json!({
        "id": 1, "buyer": "Zoë", "status": "new!", "total": "19.90", "phone": "***", "size": 4, "cents": 1990, "big": true,
        "city": "Köln", "tags": ["t:a", "t:b"],
        // echo -n a@b.example | openssl dgst -sha256 -hmac 0123456789abcdef0123
        "email": HASHED,
    });
    assert_eq!(event["data"], expected);
    assert!(!running.stderr().contains("0123456789abcdef0123"));
}

const HASHED: &str = "7173f8bbf148372867822acf82eb87246e7b03f728334e6ac57fa2ae00305282";

#[tokio::test]
async fn every_operation_has_what_postgresql_sends_of_it() {
    let scene = scene().await;
    scene.database.execute("CREATE TABLE files (id int PRIMARY KEY, name text, body text)").await;
    scene.database.execute("ALTER TABLE files ALTER body SET STORAGE EXTERNAL").await;
    let rules = "[[events]]\nname = \"files\"\ntable = \"public.files\"\ntype = \"File.{op}\"\n\
                 on = [\"insert\", \"update\", \"delete\", \"truncate\"]\nrouting_key = \"{old.id}.{new.id}\"\nmask = { name = \"-\" }";
    let statements = [
        "INSERT INTO files VALUES (1, 'a', repeat('x', 9000))",
        "UPDATE files SET name = 'b'",
        "UPDATE files SET id = 2",
        "DELETE FROM files",
        "TRUNCATE files",
    ];
    let events = events(&scene, rules, &statements, 5).await;
    let seen: Vec<_> = events.iter().map(|event| (event.routing_key.as_str(), event.event_type.as_str())).collect();
    let expected = [
        (".1", "File.insert"),
        ("1.1", "File.update"),
        ("1.2", "File.update"),
        ("2.", "File.delete"),
        (".", "File.truncate"),
    ];
    assert_eq!(seen, expected);
    assert_eq!(events[0].json()["data"]["body"].as_str().map(str::len), Some(9000));
    let data = |event: usize| (events[event].json()["data"].clone(), events[event].json()["missing"].clone());
    assert_eq!(data(1), (json!({"id": 1, "name": "-"}), json!(["body"])));
    assert_eq!(data(3), (json!({"id": 2}), json!(["name", "body"])));
    assert_eq!(data(4), (json!(null), json!([])));
}

/// Tables that only rules name are published, and no row event comes of them; wide ones cost what is used of them.
#[tokio::test]
async fn a_rule_on_two_of_1600_columns_of_a_table_that_nothing_else_selects() {
    let scene = scene().await;
    let columns: Vec<String> = (1..1600).map(|column| format!("c{column} int")).collect();
    scene.database.execute(&format!("CREATE TABLE wide (id int PRIMARY KEY, {})", columns.join(", "))).await;
    let rules = "[[events]]\ntable = \"public.wide\"\ntype = \"Wide\"\non = \"update\"\nwhen = \"new.c1599 > new.c1\"\n\
                 data = [\"id\", \"c1599\"]\nkey = \"{new.id}\"";
    let config = scene.config(rules).replace("tables = [\"public.orders\", \"public.ledger\"]\n", "");
    let config = config.replace("[outbox]\ntable = \"public.outbox\"\n", "");
    let running = pgsluice(&config);
    running.wait_for_log("streaming from PostgreSQL", SOON).await;
    scene.database.execute("INSERT INTO wide (id, c1, c1599) VALUES (1, 1, 1), (2, 1, 1)").await;
    scene.database.execute("UPDATE wide SET c1599 = 2 WHERE id = 2; UPDATE wide SET c1 = 9").await;
    scene.database.execute("UPDATE wide SET c1599 = 10 WHERE id = 1").await;
    let events = scene.vhost.consume("all", 2, SOON).await;
    assert_eq!(events[0].json()["data"], json!({"id": 2, "c1599": 2}));
    assert_eq!(events[1].json()["data"], json!({"id": 1, "c1599": 10}));
}

//! The saga as a whole: both services, a pgsluice for each of their databases, and a broker between them.

use std::net::SocketAddr;

use serde_json::{Value, json};
use uuid::Uuid;

use super::contracts;
use super::stage::{self, Running, Stage, ask};
use crate::support::{Process, SOON, folder, pgsluice_command};

/// A service and its pgsluice.
struct Part {
    stage: Stage,
    listen: SocketAddr,
    _pgsluice: Process,
    _running: Running,
}

/// The arguments of a service.
fn arguments(name: &str, stage: &Stage, broker: &str, listen: SocketAddr, more: &[&str]) -> Vec<String> {
    let (database, listen) = (stage.database.url(), listen.to_string());
    let all = [&[name, "--database", &database, "--broker", broker, "--listen", &listen], more].concat();
    all.into_iter().map(str::to_owned).collect()
}

async fn part(name: &str, broker: &str, start: impl FnOnce(Vec<String>) -> Running, more: &[&str]) -> Part {
    let stage = Stage::new(&[]).await;
    let listen = stage::address();
    let running = start(arguments(name, &stage, broker, listen, more));
    assert_eq!(ask(listen, "GET", "/healthz", &Value::Null).await.0, 200, "the tables are there");
    let config = format!("examples/shop/{name}/pgsluice.toml");
    let checkpoint = folder(name);
    let pgsluice = pgsluice_command(
        &["run", "--config", &config],
        &[
            ("PGSLUICE__SOURCE__URL", &stage.database.url()),
            // Slots are the whole server's.
            ("PGSLUICE__SOURCE__SLOT", stage.database.name()),
            ("PGSLUICE__RABBITMQ__URL", broker),
            ("PGSLUICE__CHECKPOINT__PATH", checkpoint.to_str().expect("text")),
        ],
    );
    pgsluice.wait_for_log("streaming from PostgreSQL", SOON).await;
    Part { stage, listen, _pgsluice: pgsluice, _running: running }
}

fn orders_service(arguments: Vec<String>) -> Running {
    let options = <orders::Options as clap::Parser>::parse_from(arguments);
    Running::of(async move { orders::run(options).await.expect("orders run") })
}

fn inventory_service(arguments: Vec<String>) -> Running {
    let options = <inventory::Options as clap::Parser>::parse_from(arguments);
    Running::of(async move { inventory::run(options).await.expect("inventory runs") })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_order_is_confirmed_or_cancelled_and_the_stock_is_right() {
    let broker = crate::support::rabbitmq().vhost();
    // The view's part: pgsluice waits until a queue takes what it tells the view.
    for (exchange, key) in [("members", "member.for_view"), ("products", "product.for_view")] {
        broker.declare_exchange(exchange, "topic").await;
        broker.queue(key, &[]).await;
        broker.bind(key, exchange, key).await;
    }
    let orders = part("orders", &broker.url(), orders_service, &["--lock-timeout-ms", "60000"]).await;
    let inventory = part("inventory", &broker.url(), inventory_service, &[]).await;

    let member = json!({"name": "Zoë", "email": "zoe@example.org", "address": "Köln"});
    assert_eq!(ask(orders.listen, "PUT", "/members/1", &member).await.0, 204);
    for product in 1..=3 {
        let body = json!({"name": format!("p{product}"), "price": "1.50", "cost": "1", "initial": 10});
        assert_eq!(ask(inventory.listen, "PUT", &format!("/products/{product}"), &body).await.0, 204);
    }
    orders.stage.becomes("SELECT count(*) FROM product_prices", "3").await;
    inventory.stage.becomes("SELECT coalesce(string_agg(address, ','), '') FROM ship_to", "Köln").await;
    // Twice as much as there is, one product that isn't, and a member who changes his mind.
    for n in 0..20_i64 {
        let product = if n == 7 { 99 } else { n % 3 + 1 };
        let id = Uuid::new_v4();
        let body = json!({"id": id, "member": 1, "lines": [{"product": product, "quantity": 3}]});
        assert_eq!(ask(orders.listen, "POST", "/orders", &body).await.0, 201);
        if n % 5 == 0 {
            ask(orders.listen, "POST", &format!("/orders/{id}/cancel"), &Value::Null).await;
        }
    }
    orders.stage.becomes("SELECT count(*) FROM orders WHERE status = 'placed'", "0").await;
    // The last to hear of it.
    let decided = "SELECT count(*) FROM reservation_state WHERE state = 'locked'";
    inventory.stage.becomes(decided, "0").await;
    inventory.stage.becomes("SELECT count(*) FROM reservation_state", "20").await;

    let confirmed = "SELECT coalesce(string_agg(concat(product_id, ':', sum), ' ' ORDER BY product_id), '') FROM (SELECT product_id, sum(quantity)
        FROM order_lines JOIN orders ON id = order_id WHERE status = 'confirmed' GROUP BY product_id) AS it";
    let taken = "SELECT coalesce(string_agg(concat(id, ':', initial - on_hand), ' ' ORDER BY id), '') FROM products WHERE on_hand < initial";
    let confirmed = orders.stage.database.query_one(confirmed).await;
    inventory.stage.becomes(taken, &confirmed).await;
    assert_eq!(inventory.stage.database.query_one("SELECT min(on_hand) >= 0 FROM products").await, "t");
    let reasons = "SELECT string_agg(DISTINCT reason, ', ' ORDER BY reason) FROM orders";
    assert_eq!(
        orders.stage.database.query_one(reasons).await,
        "cancelled by the member, out of stock, unknown product"
    );
    assert_eq!(orders.stage.database.query_one("SELECT count(*) FROM orders WHERE total IS NULL").await, "1");

    for (part, name) in [(&orders, "orders"), (&inventory, "inventory")] {
        let told = part.stage.database.client().await.query("SELECT type, payload FROM outbox", &[]).await;
        for row in told.expect("read the outbox") {
            contracts::allows(name, row.get(0), &row.get(1));
        }
    }
    let members = broker.consume("member.for_view", 1, SOON).await;
    contracts::allows("orders", "member-for-view", &members[0].json());
    for product in broker.consume("product.for_view", 3, SOON).await {
        contracts::allows("inventory", "product-for-view", &product.json());
    }
}

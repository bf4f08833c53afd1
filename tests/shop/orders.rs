//! The order service: what is placed is confirmed or cancelled, once, whatever comes first.

use std::time::Duration;

use messaging::Event;
use orders::saga::Saga;
use orders::{MIGRATIONS, Options, commands, prices, sweeper};
use serde_json::{Value, json};
use uuid::Uuid;

use super::stage::{self, Running, Stage, ask, event};

const LONG: Duration = Duration::from_hours(1);

/// Tables, a member, and orders of it.
struct Orders {
    stage: Stage,
}

impl Orders {
    async fn new() -> Self {
        let stage = Stage::new(MIGRATIONS).await;
        stage.database.execute("INSERT INTO members VALUES (1, 'Zoë', 'zoe@example.org', 'Köln')").await;
        Self { stage }
    }

    async fn place(&self, lock_timeout: Duration) -> Uuid {
        let order = Uuid::new_v4();
        let mut client = self.stage.pool.get().await.expect("a connection");
        let transaction = client.transaction().await.expect("a transaction");
        let lines = [line(7, 2), line(8, 1)];
        commands::place(&transaction, order, 1, &lines, lock_timeout).await.expect("placed");
        transaction.commit().await.expect("committed");
        order
    }

    async fn hears(&self, event_type: &str, body: &Value) {
        self.stage.handle(&Saga, &event(event_type, body)).await.expect("it is handled");
    }

    async fn status(&self, order: Uuid) -> String {
        let sql = format!("SELECT concat_ws(': ', status, reason) FROM orders WHERE id = '{order}'");
        self.stage.database.query_one(&sql).await
    }

    /// What the outbox says of an order, but for its first event.
    async fn answers(&self, order: Uuid) -> Vec<(String, Value)> {
        let mut told = self.stage.told(order).await;
        assert_eq!(told.remove(0).0, "OrderCreated");
        told
    }
}

fn line(product: i64, quantity: i32) -> orders::events::Line {
    orders::events::Line { product, quantity }
}

fn of(event_type: &str, body: Value) -> (String, Value) {
    (event_type.to_owned(), body)
}

#[tokio::test]
async fn a_locked_order_is_confirmed_once() {
    let orders = Orders::new().await;
    let order = orders.place(LONG).await;
    let created = orders.stage.told(order).await.remove(0);
    assert_eq!(created.0, "OrderCreated");
    assert_eq!(created.1["lines"], json!([{"product": 7, "quantity": 2}, {"product": 8, "quantity": 1}]));
    assert_eq!((&created.1["order"], &created.1["member"]), (&json!(order), &json!(1)));

    for _ in 0..2 {
        orders.hears("InventoryLocked", &json!({"order": order})).await;
    }
    assert_eq!(orders.status(order).await, "confirmed");
    assert_eq!(orders.answers(order).await, [of("OrderConfirmed", json!({"order": order}))]);
}

#[tokio::test]
async fn an_order_that_cannot_be_locked_is_cancelled_with_the_reason() {
    let orders = Orders::new().await;
    let order = orders.place(LONG).await;
    let failed = json!({"order": order, "reason": "out of stock"});
    orders.hears("LockFailed", &failed).await;
    orders.hears("InventoryLocked", &json!({"order": order})).await;
    assert_eq!(orders.status(order).await, "cancelled: out of stock");
    assert_eq!(orders.answers(order).await, [of("OrderCancelled", failed)]);
}

#[tokio::test]
async fn a_lock_that_comes_after_the_deadline_changes_nothing() {
    let orders = Orders::new().await;
    let (late, early) = (orders.place(Duration::ZERO).await, orders.place(LONG).await);
    assert_eq!(sweeper::sweep(&orders.stage.pool).await.expect("swept"), 1);
    assert_eq!(sweeper::sweep(&orders.stage.pool).await.expect("swept"), 0);
    orders.hears("InventoryLocked", &json!({"order": late})).await;
    assert_eq!(orders.status(late).await, "cancelled: timed out");
    assert_eq!(orders.answers(late).await, [of("OrderCancelled", json!({"order": late, "reason": "timed out"}))]);
    assert_eq!(orders.status(early).await, "placed");
}

#[tokio::test]
async fn an_order_that_is_just_being_decided_is_not_swept() {
    let orders = Orders::new().await;
    let order = orders.place(Duration::ZERO).await;
    let mut client = orders.stage.pool.get().await.expect("a connection");
    let deciding = client.transaction().await.expect("a transaction");
    commands::lock(&deciding, order).await.expect("locked");
    assert_eq!(sweeper::sweep(&orders.stage.pool).await.expect("swept"), 0);
    commands::confirm(&deciding, order).await.expect("confirmed");
    deciding.commit().await.expect("committed");
    assert_eq!(sweeper::sweep(&orders.stage.pool).await.expect("swept"), 0);
    assert_eq!(orders.status(order).await, "confirmed");
}

#[tokio::test]
async fn an_answer_about_an_order_that_nobody_placed_is_an_error() {
    let orders = Orders::new().await;
    let wrong = event("InventoryLocked", &json!({"order": Uuid::new_v4()}));
    orders.stage.handle(&Saga, &wrong).await.expect_err("it is refused");
    orders.hears("InventoryReleased", &json!({"order": Uuid::new_v4()})).await;
}

#[tokio::test]
async fn the_newest_price_wins_and_makes_the_total() {
    let orders = Orders::new().await;
    let price = |product: i64, price: &str, position: &str| Event {
        position: Some(position.parse().expect("a position")),
        ..event("ProductChanged", &json!({"id": product, "price": price}))
    };
    let unknown = orders.place(LONG).await;
    // The older one comes last, as after a retry.
    for event in [price(7, "19.90", "1/20:0"), price(8, "0.10", "1/20:1"), price(7, "5.00", "1/10:9")] {
        orders.stage.handle(&prices::Prices, &event).await.expect("it is handled");
    }
    orders
        .stage
        .handle(&prices::Prices, &event("ProductChanged", &json!({"id": 7, "price": "1"})))
        .await
        .expect_err("no position");
    let known = orders.place(LONG).await;
    let total = async |order| {
        let sql = format!("SELECT coalesce(total::text, 'unknown') FROM orders WHERE id = '{order}'");
        orders.stage.database.query_one(&sql).await
    };
    assert_eq!((total(unknown).await, total(known).await), ("unknown".to_owned(), "39.90".to_owned()));
}

#[tokio::test]
async fn commands_by_http_may_be_asked_again() {
    let stage = Stage::new(&[]).await;
    let listen = stage::address();
    let arguments = ["orders", "--database", &stage.database.url(), "--broker", &stage.vhost.url()].map(str::to_owned);
    let arguments = arguments.into_iter().chain(["--listen".to_owned(), listen.to_string()]);
    let options = <Options as clap::Parser>::parse_from(arguments);
    let _running = Running::of(async move {
        orders::run(options).await.expect("it runs");
    });
    let ask = async |method, path: &str, body| ask(listen, method, path, &body).await;

    let order = Uuid::new_v4();
    let wanted = json!({"id": order, "member": 1, "lines": [{"product": 7, "quantity": 2}]});
    assert_eq!(ask("POST", "/orders", wanted.clone()).await.0, 400, "no such member yet");
    let member = json!({"name": "Zoë", "email": "zoe@example.org", "address": "Köln"});
    for _ in 0..2 {
        assert_eq!(ask("PUT", "/members/1", member.clone()).await.0, 204);
    }
    assert_eq!(ask("POST", "/orders", wanted.clone()).await, (201, json!({"id": order})));
    assert_eq!(ask("POST", "/orders", wanted).await, (200, json!({"id": order})));
    for lines in [
        json!([]),
        json!([{"product": 7, "quantity": 0}]),
        json!([{"product": 7, "quantity": 1}, {"product": 7, "quantity": 1}]),
    ] {
        assert_eq!(ask("POST", "/orders", json!({"member": 1, "lines": lines})).await.0, 400, "{lines}");
    }
    let cancel = format!("/orders/{order}/cancel");
    for _ in 0..2 {
        assert_eq!(ask("POST", &cancel, Value::Null).await.0, 200);
    }
    assert_eq!(ask("POST", &format!("/orders/{}/cancel", Uuid::new_v4()), Value::Null).await.0, 404);
    let reason = stage.database.query_one(&format!("SELECT reason FROM orders WHERE id = '{order}'")).await;
    assert_eq!(reason, commands::BY_THE_MEMBER);
    stage.database.execute("UPDATE orders SET reason = 'timed out'").await;
    assert_eq!(ask("POST", &cancel, Value::Null).await.0, 409);
    let told: Vec<String> = stage.told(order).await.into_iter().map(|(event_type, _)| event_type).collect();
    assert_eq!(told, ["OrderCreated", "OrderCancelled"], "each once");
}

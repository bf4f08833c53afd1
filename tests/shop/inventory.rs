//! The inventory service: stock is never promised twice, and comes back, in whatever order the events come.

use futures_util::future::join_all;
use inventory::saga::Saga;
use inventory::{MIGRATIONS, Options, ship_to};
use messaging::Event;
use serde_json::{Value, json};
use uuid::Uuid;

use super::stage::{self, Running, Stage, ask, event};

/// Tables, and products 1, 2 and 3 with ten each.
struct Inventory {
    stage: Stage,
}

impl Inventory {
    async fn new() -> Self {
        let stage = Stage::new(MIGRATIONS).await;
        let products = "INSERT INTO products SELECT n, 'p' || n, 1, 1, 10, 10 FROM generate_series(1, 3) n";
        stage.database.execute(products).await;
        Self { stage }
    }

    async fn hears(&self, event_type: &str, order: Uuid, lines: &[(i64, i64)]) {
        let lines: Vec<Value> = lines.iter().map(|(product, n)| json!({"product": product, "quantity": n})).collect();
        let body = json!({"order": order, "lines": lines, "reason": "cancelled by the member"});
        self.stage.handle(&Saga, &event(event_type, &body)).await.expect("it is handled");
    }

    async fn on_hand(&self) -> String {
        self.stage.database.query_one("SELECT string_agg(on_hand::text, ' ' ORDER BY id) FROM products").await
    }

    async fn state(&self, order: Uuid) -> String {
        self.stage.database.query_one(&format!("SELECT state FROM reservation_state WHERE order_id = '{order}'")).await
    }

    /// The types of what was told about an order.
    async fn told(&self, order: Uuid) -> Vec<String> {
        self.stage.told(order).await.into_iter().map(|(event_type, _)| event_type).collect()
    }
}

#[tokio::test]
async fn an_order_is_locked_as_a_whole_or_not_at_all() {
    let inventory = Inventory::new().await;
    let [good, short, unknown] = [(); 3].map(|()| Uuid::new_v4());
    inventory.hears("OrderCreated", good, &[(1, 10), (2, 1)]).await;
    inventory.hears("OrderCreated", good, &[(1, 10), (2, 1)]).await;
    inventory.hears("OrderCreated", short, &[(2, 1), (1, 1)]).await;
    inventory.hears("OrderCreated", unknown, &[(2, 1), (9, 1)]).await;
    assert_eq!(inventory.on_hand().await, "0 9 10");
    assert_eq!(inventory.told(good).await, ["InventoryLocked"]);
    let failed = |order: Uuid, reason: &str| ("LockFailed".to_owned(), json!({"order": order, "reason": reason}));
    assert_eq!(inventory.stage.told(short).await, [failed(short, "out of stock")]);
    assert_eq!(inventory.stage.told(unknown).await, [failed(unknown, "unknown product")]);
    assert_eq!((inventory.state(good).await, inventory.state(short).await), ("locked".into(), "failed".into()));
}

#[tokio::test]
async fn a_cancellation_releases_what_was_locked_once() {
    let inventory = Inventory::new().await;
    let [locked, confirmed, failed] = [(); 3].map(|()| Uuid::new_v4());
    inventory.hears("OrderCreated", locked, &[(1, 3)]).await;
    inventory.hears("OrderCreated", confirmed, &[(1, 4), (2, 5)]).await;
    inventory.hears("OrderConfirmed", confirmed, &[]).await;
    inventory.hears("OrderCreated", failed, &[(1, 4)]).await;
    assert_eq!((inventory.on_hand().await, inventory.state(confirmed).await), ("3 5 10".into(), "confirmed".into()));
    for order in [locked, confirmed, failed, locked, confirmed, failed] {
        inventory.hears("OrderCancelled", order, &[]).await;
    }
    assert_eq!(inventory.on_hand().await, "10 10 10");
    assert_eq!(inventory.told(locked).await, ["InventoryLocked", "InventoryReleased"]);
    assert_eq!(inventory.told(confirmed).await, ["InventoryLocked", "InventoryReleased"]);
    assert_eq!(
        (inventory.told(failed).await, inventory.state(failed).await),
        (vec!["LockFailed".into()], "failed".into())
    );
}

#[tokio::test]
async fn a_cancellation_that_comes_before_the_order_keeps_it_from_locking() {
    let inventory = Inventory::new().await;
    let order = Uuid::new_v4();
    inventory.hears("OrderCancelled", order, &[]).await;
    inventory.hears("OrderCreated", order, &[(1, 3)]).await;
    assert_eq!((inventory.on_hand().await, inventory.state(order).await), ("10 10 10".into(), "released".into()));
    assert!(inventory.told(order).await.is_empty());
}

#[tokio::test]
async fn a_confirmation_that_comes_after_the_cancellation_changes_nothing() {
    let inventory = Inventory::new().await;
    let order = Uuid::new_v4();
    inventory.hears("OrderCreated", order, &[(1, 3)]).await;
    inventory.hears("OrderCancelled", order, &[]).await;
    inventory.hears("OrderConfirmed", order, &[]).await;
    assert_eq!((inventory.on_hand().await, inventory.state(order).await), ("10 10 10".into(), "released".into()));
    let unknown = event("OrderConfirmed", &json!({"order": Uuid::new_v4()}));
    inventory.stage.handle(&Saga, &unknown).await.expect_err("never locked");
}

/// More demand than stock, at once, with the products in any order; and half of the orders are cancelled meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_sold_twice_by_many_at_once() {
    let inventory = Inventory::new().await;
    inventory.stage.database.execute("UPDATE products SET initial = 40, on_hand = 40").await;
    let orders: Vec<Uuid> = (0..60).map(|_| Uuid::new_v4()).collect();
    let one = async |n: usize, order: Uuid| {
        let lines = if n.is_multiple_of(2) { [(1, 1), (2, 2), (3, 1)] } else { [(3, 2), (2, 1), (1, 1)] };
        let created = inventory.hears("OrderCreated", order, &lines);
        let twice = inventory.hears("OrderCreated", order, &lines);
        if n.is_multiple_of(3) {
            tokio::join!(created, twice, inventory.hears("OrderCancelled", order, &[]));
        } else {
            tokio::join!(created, twice);
        }
    };
    join_all(orders.iter().enumerate().map(|(n, order)| one(n, *order))).await;

    let sql =
        "SELECT count(*) FROM products WHERE on_hand < 0 OR on_hand != initial - (SELECT coalesce(sum(quantity), 0)
        FROM reservations JOIN reservation_state USING (order_id) WHERE product_id = id AND state = 'locked')";
    assert_eq!(inventory.stage.database.query_one(sql).await, "0", "on hand is initial minus locked");
    let sql = "SELECT count(*) FILTER (WHERE state = 'locked') > 0 AND count(*) FILTER (WHERE state = 'failed') > 0
        AND count(*) = 60 FROM reservation_state";
    assert_eq!(inventory.stage.database.query_one(sql).await, "t", "some could be had, some not");
    // Whoever was cancelled holds nothing, whichever was first.
    for order in orders.iter().step_by(3) {
        assert_ne!(inventory.state(*order).await, "locked");
    }
    for order in &orders {
        let told = inventory.told(*order).await;
        let answers = told.iter().filter(|event_type| *event_type != "InventoryReleased").count();
        assert!(answers <= 1, "{told:?}");
    }
}

#[tokio::test]
async fn the_newest_address_wins_and_who_is_gone_stays_gone() {
    let inventory = Inventory::new().await;
    let hears = async |event_type: &str, position: &str, body: Value| {
        let event = Event { position: Some(position.parse().expect("a position")), ..event(event_type, &body) };
        inventory.stage.handle(&ship_to::ShipTo, &event).await.expect("it is handled");
    };
    hears("MemberChanged", "1/20:0", json!({"id": 1, "address": "Köln"})).await;
    hears("MemberChanged", "1/10:0", json!({"id": 1, "address": "Bonn"})).await;
    hears("MemberDeleted", "1/30:0", json!({"id": 2})).await;
    hears("MemberChanged", "1/10:1", json!({"id": 2, "address": "Ulm"})).await;
    let sql =
        "SELECT string_agg(concat_ws(' ', member_id, coalesce(address, '-')), ', ' ORDER BY member_id) FROM ship_to";
    assert_eq!(inventory.stage.database.query_one(sql).await, "1 Köln, 2 -");
}

#[tokio::test]
async fn products_by_http_keep_their_stock() {
    let stage = Stage::new(&[]).await;
    let listen = stage::address();
    let arguments =
        ["inventory", "--database", &stage.database.url(), "--broker", &stage.vhost.url()].map(str::to_owned);
    let arguments = arguments.into_iter().chain(["--listen".to_owned(), listen.to_string()]);
    let options = <Options as clap::Parser>::parse_from(arguments);
    let _running = Running::of(async move {
        inventory::run(options).await.expect("it runs");
    });
    let product = |price: &str, initial: i64| json!({"name": "pen", "price": price, "cost": "0.5", "initial": initial});
    assert_eq!(ask(listen, "PUT", "/products/1", &product("1.50", 5)).await.0, 204);
    stage.database.execute("UPDATE products SET on_hand = 3").await;
    assert_eq!(ask(listen, "PUT", "/products/1", &product("2.50", 99)).await.0, 204);
    assert_eq!(
        stage.database.query_one("SELECT concat_ws(' ', price, initial, on_hand) FROM products").await,
        "2.50 5 3"
    );
    assert_eq!(ask(listen, "PUT", "/products/2", &product("cheap", 5)).await.0, 400);
    assert_eq!(ask(listen, "PUT", "/products/2", &product("1", -1)).await.0, 400);
    assert_eq!(ask(listen, "GET", "/healthz", &Value::Null).await.0, 200);
}

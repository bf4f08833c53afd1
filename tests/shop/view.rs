//! The view service: its history, its copies of base data, and its queries.

use clap::Parser as _;
use messaging::{Position, migrations, service};
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;
use view::base_data::{self, Change, Key, Member, Product};
use view::history::{self, Record};
use view::query::{self, Filter, Page};

use crate::stage::{Running, Stage, address, ask};
use crate::support::{Database, SOON, eventually, postgres};

async fn empty_view() -> (Database, Client) {
    let database = postgres().database().await;
    let pool = service::pool(&database.url()).expect("a URL");
    migrations::apply(&pool, &view::MIGRATIONS).await.expect("migrations");
    assert_eq!(migrations::apply(&pool, &view::MIGRATIONS).await.expect("migrations"), 0, "applied twice");
    let client = database.client().await;
    (database, client)
}

fn time(seconds: i64) -> String {
    format!("2026-11-28T16:56:{seconds:02}+00:00")
}

fn record(kind: &str, order: Uuid, mut payload: Value) -> Record {
    payload["order"] = json!(order);
    Record { message_id: format!("{order}:{kind}"), kind: kind.into(), payload }
}

fn created(order: Uuid, member: i64, products: &[i64], placed_at: &str) -> Record {
    let lines: Vec<Value> = products.iter().map(|product| json!({"product": product, "quantity": 2})).collect();
    record("OrderCreated", order, json!({"member": member, "lines": lines, "placed_at": placed_at}))
}

/// A retry brings an event late, a second queue brings one early, a replay brings all of them again.
#[tokio::test]
async fn an_order_is_the_same_in_whatever_order_its_events_come() {
    let (_database, client) = empty_view().await;
    let order = Uuid::from_u128(1);
    let life = [
        created(order, 7, &[1, 2], &time(0)),
        record("InventoryLocked", order, json!({})),
        record("OrderConfirmed", order, json!({})),
        record("OrderCancelled", order, json!({"reason": "cancelled by the member"})),
        record("InventoryReleased", order, json!({})),
    ];
    let mut seen = Vec::new();
    for rotation in 0..life.len() {
        client.batch_execute("TRUNCATE history, view_orders CASCADE").await.expect("truncate");
        let rotated: Vec<&Record> = life[rotation..].iter().chain(&life[..rotation]).rev().collect();
        for record in rotated.iter().chain(&rotated) {
            history::take(&client, record).await.expect("take");
        }
        seen.push(query::one(&client, order).await.expect("query").expect("the order"));
    }
    let expected = json!({
        "order": order, "status": "cancelled", "reason": "cancelled by the member", "stock": "released",
        "placed_at": "2026-11-28T16:56:00+00:00", "member": {"id": 7, "name": null},
        "lines": [
            {"product": 1, "name": null, "quantity": 2, "on_hand": null},
            {"product": 2, "name": null, "quantity": 2, "on_hand": null},
        ],
    });
    for shown in seen {
        assert_eq!(shown, expected);
    }
    let story = history::tell(&client, order).await.expect("query").expect("the order");
    let kinds: Vec<&str> =
        story["events"].as_array().into_iter().flatten().filter_map(|it| it["type"].as_str()).collect();
    assert_eq!(kinds[0], "OrderCreated");
    assert_eq!(kinds[4], "InventoryReleased");
    assert_eq!(story["state"]["status"], json!({"cancelled": "cancelled by the member"}));
}

/// Two queues, or two instances, have events of the same order at the same time: the second sees what the first has stored.
#[tokio::test]
async fn two_events_of_an_order_at_once_are_both_folded() {
    let (database, mut first) = empty_view().await;
    let second = database.client().await;
    let order = Uuid::from_u128(1);
    let transaction = first.transaction().await.expect("begin");
    history::take(&transaction, &created(order, 7, &[1], &time(0))).await.expect("take");
    let confirmed = record("OrderConfirmed", order, json!({}));
    let (waited, committed) = tokio::join!(history::take(&second, &confirmed), async {
        let waits =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        eventually("the second waits", SOON, async || (database.query_one(waits).await == "1").then_some(())).await;
        transaction.commit().await
    });
    waited.expect("take");
    committed.expect("commit");
    let shown = query::one(&first, order).await.expect("query").expect("the order");
    assert_eq!((&shown["status"], &shown["member"]["id"]), (&json!("confirmed"), &json!(7)));
}

#[tokio::test]
async fn what_is_not_placed_yet_is_not_shown_and_what_is_no_event_is_refused() {
    let (_database, client) = empty_view().await;
    let order = Uuid::from_u128(1);
    history::take(&client, &record("InventoryLocked", order, json!({}))).await.expect("take");
    assert_eq!(query::one(&client, order).await.expect("query"), None);
    assert!(query::list(&client, &Filter::default(), None, 10).await.expect("query").items.is_empty());
    assert!(history::tell(&client, order).await.expect("query").is_some());
    history::take(&client, &record("OrderGiftWrapped", order, json!({}))).await.expect("not for the view");
    for (kind, payload) in [
        ("OrderCreated", json!({"order": order})),
        ("OrderConfirmed", json!({"order": "x"})),
        ("OrderConfirmed", json!({})),
        ("OrderConfirmed", json!("text")),
    ] {
        let poison = Record { message_id: "poison".into(), kind: kind.into(), payload };
        assert!(history::take(&client, &poison).await.is_err(), "{poison:?}");
    }
}

/// The newest position wins, whichever comes last.
#[tokio::test]
async fn base_data_never_goes_back() {
    let (_database, client) = empty_view().await;
    let at = |text: &str| text.parse::<Position>().expect("a position");
    let product = |name: &str, on_hand| Change::Is(Product { id: 1, name: name.into(), on_hand });
    let member = |name: &str| Change::Is(Member { id: 7, name: name.into() });
    let order = Uuid::from_u128(1);
    history::take(&client, &created(order, 7, &[1], &time(0))).await.expect("take");
    for (position, name, on_hand) in [("1/20:1", "new", 3), ("1/20:0", "old", 4), ("0/FF:9", "older", 5)] {
        base_data::product(&client, at(position), &product(name, on_hand)).await.expect("product");
        base_data::member(&client, at(position), &member(name)).await.expect("member");
    }
    let shown = query::one(&client, order).await.expect("query").expect("the order");
    assert_eq!(shown["lines"], json!([{"product": 1, "name": "new", "quantity": 2, "on_hand": 3}]));
    assert_eq!(shown["member"], json!({"id": 7, "name": "new"}));
    base_data::product(&client, at("2/0:0"), &Change::Gone(Key { id: 1 })).await.expect("product");
    base_data::member(&client, at("2/0:0"), &Change::Gone(Key { id: 7 })).await.expect("member");
    base_data::product(&client, at("1/FF:0"), &product("late", 1)).await.expect("product");
    base_data::member(&client, at("1/FF:0"), &member("late")).await.expect("member");
    let shown = query::one(&client, order).await.expect("query").expect("the order");
    assert_eq!(shown["lines"], json!([{"product": 1, "name": null, "quantity": 2, "on_hand": null}]));
    assert_eq!(shown["member"], json!({"id": 7, "name": null}));
}

/// Page by page: each order once, newest first, although some are of the same moment and new ones come meanwhile.
#[tokio::test]
async fn pages_are_whole_and_filters_hold() {
    let (_database, client) = empty_view().await;
    for number in 0..25_i64 {
        let order = Uuid::from_u128(u128::try_from(number).expect("not negative"));
        let products: &[i64] = if number % 2 == 0 { &[1] } else { &[1, 2] };
        history::take(&client, &created(order, number % 3, products, &time(number / 4))).await.expect("take");
        if number % 5 == 0 {
            history::take(&client, &record("OrderConfirmed", order, json!({}))).await.expect("take");
        }
    }
    let all = pages(&client, &Filter::default(), true).await;
    assert_eq!(all, (0..25).rev().collect::<Vec<u128>>());
    let member = Filter { member: Some(2), ..Filter::default() };
    assert_eq!(pages(&client, &member, false).await, [23, 20, 17, 14, 11, 8, 5, 2]);
    let product = Filter { product: Some(2), member: Some(2), ..Filter::default() };
    assert_eq!(pages(&client, &product, false).await, [23, 17, 11, 5]);
    let status = Filter { status: Some("confirmed".into()), ..Filter::default() };
    assert_eq!(pages(&client, &status, false).await, [20, 15, 10, 5, 0]);
    let none = Filter { status: Some("confirmed".into()), product: Some(3), ..Filter::default() };
    assert!(pages(&client, &none, false).await.is_empty());
}

/// By HTTP: what can't be answered says why.
#[tokio::test]
async fn a_question_that_makes_no_sense_is_refused() {
    let stage = Stage::new(&view::MIGRATIONS).await;
    let address = address();
    let [database, broker, listen] = [stage.database.url(), stage.vhost.url(), address.to_string()];
    let arguments = ["view", "--database", &database, "--broker", &broker, "--listen", &listen];
    let options = view::Options::parse_from(arguments);
    let _running = Running::of(async move { view::run(options).await.expect("the view runs") });
    let asked = async |path: &str| ask(address, "GET", path, &Value::Null).await;
    assert_eq!(asked("/orders?limit=7").await, (200, json!({"items": [], "next": null})));
    for wrong in ["limit=0", "limit=201", "status=lost", "after=1", "member=x", "color=red"] {
        let (code, answer) = asked(&format!("/orders?{wrong}")).await;
        assert_eq!(code, 400, "{wrong}: {answer}");
    }
    let unknown = Uuid::from_u128(1);
    assert_eq!(asked(&format!("/orders/{unknown}")).await.0, 404);
    assert_eq!(asked(&format!("/orders/{unknown}/history")).await.0, 404);
}

/// The ids of all pages of four; between two pages something new is placed, if wanted.
async fn pages(client: &Client, filter: &Filter, is_busy: bool) -> Vec<u128> {
    let (mut ids, mut after) = (Vec::new(), None);
    loop {
        let Page { items, next } = query::list(client, filter, after, 4).await.expect("query");
        assert!(items.len() <= 4);
        ids.extend(
            items.iter().map(|item| item["order"].as_str().expect("an id").parse::<Uuid>().expect("an id").as_u128()),
        );
        let Some(next) = next else { return ids };
        after = Some(next.to_string().parse().expect("its own text"));
        if is_busy {
            history::take(client, &created(Uuid::new_v4(), 9, &[9], &time(59))).await.expect("take");
        }
    }
}

//! What the services have in their databases, read for comparison. Nobody but the auditor reads more than one of them.

use std::collections::{BTreeMap, BTreeSet};

use hyper::Method;
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::http::insist;
use crate::shop::{Database, Name, Shop};

/// The order service's database.
#[derive(Debug)]
pub(crate) struct Orders {
    pub(crate) all: BTreeMap<Uuid, Order>,
    /// Name and address.
    pub(crate) members: BTreeMap<i64, (String, String)>,
    /// What it knows of products.
    pub(crate) prices: BTreeMap<i64, String>,
    pub(crate) told: Vec<Told>,
    pub(crate) inbox: Inbox,
}

#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) status: String,
    pub(crate) reason: Option<String>,
    pub(crate) member: i64,
    /// As JSON writes it.
    pub(crate) placed_at: Value,
    /// Product and quantity.
    pub(crate) lines: Vec<(i64, i64)>,
}

/// The inventory service's database.
#[derive(Debug)]
pub(crate) struct Inventory {
    pub(crate) products: BTreeMap<i64, Product>,
    /// By order.
    pub(crate) reservations: BTreeMap<Uuid, String>,
    /// What it knows of members.
    pub(crate) addresses: BTreeMap<i64, String>,
    pub(crate) told: Vec<Told>,
    pub(crate) inbox: Inbox,
}

#[derive(Debug)]
pub(crate) struct Product {
    pub(crate) name: String,
    pub(crate) price: String,
    pub(crate) initial: i64,
    pub(crate) on_hand: i64,
}

/// A row of an outbox.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) id: String,
    pub(crate) order: Uuid,
    pub(crate) kind: String,
}

/// Queue and message id of what was handled.
pub(crate) type Inbox = BTreeSet<(String, String)>;

impl Orders {
    pub(crate) async fn read(shop: &Shop) -> anyhow::Result<Self> {
        let mut client = shop.audit(Database::Orders).await?;
        // One snapshot for all.
        let transaction = client.build_transaction().isolation_level(REPEATABLE_READ).read_only(true).start().await?;
        let client = transaction.client();
        let mut orders = BTreeMap::new();
        let query = "SELECT id, status, reason, member_id, to_jsonb(placed_at) FROM orders";
        for row in client.query(query, &[]).await? {
            let (status, reason, member, placed_at) = (row.get(1), row.get(2), row.get(3), row.get(4));
            orders.insert(row.get(0), Order { status, reason, member, placed_at, lines: Vec::new() });
        }
        let query = "SELECT order_id, product_id, quantity::bigint FROM order_lines ORDER BY order_id, product_id";
        for row in client.query(query, &[]).await? {
            let order = orders.get_mut(&row.get(0));
            order.expect("a line has its order").lines.push((row.get(1), row.get(2)));
        }
        let members = client.query("SELECT id, name, address FROM members", &[]).await?;
        let prices = client.query("SELECT product_id, price::text FROM product_prices", &[]).await?;
        Ok(Self {
            all: orders,
            members: members.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect(),
            prices: prices.iter().map(|row| (row.get(0), row.get(1))).collect(),
            told: told(client).await?,
            inbox: inbox(client).await?,
        })
    }

    /// How many of each product were sold.
    pub(crate) fn sold(&self) -> BTreeMap<i64, i64> {
        let mut sold = BTreeMap::new();
        for order in self.all.values().filter(|order| order.status == "confirmed") {
            for (product, quantity) in &order.lines {
                *sold.entry(*product).or_insert(0) += quantity;
            }
        }
        sold
    }
}

impl Inventory {
    pub(crate) async fn read(shop: &Shop) -> anyhow::Result<Self> {
        let mut client = shop.audit(Database::Inventory).await?;
        let transaction = client.build_transaction().isolation_level(REPEATABLE_READ).read_only(true).start().await?;
        let client = transaction.client();
        let products = client.query("SELECT id, name, price::text, initial, on_hand FROM products", &[]).await?;
        let product = |row: &tokio_postgres::Row| {
            (row.get(0), Product { name: row.get(1), price: row.get(2), initial: row.get(3), on_hand: row.get(4) })
        };
        let reservations = client.query("SELECT order_id, state FROM reservation_state", &[]).await?;
        let addresses = client.query("SELECT member_id, address FROM ship_to", &[]).await?;
        Ok(Self {
            products: products.iter().map(product).collect(),
            reservations: reservations.iter().map(|row| (row.get(0), row.get(1))).collect(),
            addresses: addresses.iter().map(|row| (row.get(0), row.get(1))).collect(),
            told: told(client).await?,
            inbox: inbox(client).await?,
        })
    }
}

const REPEATABLE_READ: tokio_postgres::IsolationLevel = tokio_postgres::IsolationLevel::RepeatableRead;

async fn told(client: &Client) -> anyhow::Result<Vec<Told>> {
    let rows = client.query("SELECT id::text, aggregateid::uuid, type FROM outbox", &[]).await?;
    Ok(rows.iter().map(|row| Told { id: row.get(0), order: row.get(1), kind: row.get(2) }).collect())
}

/// Of a service.
pub(crate) async fn inbox(client: &Client) -> anyhow::Result<Inbox> {
    let rows = client.query("SELECT queue, message_id FROM inbox", &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// What the view has to say, by order, of what the others have.
pub(crate) fn expected_view(orders: &Orders, inventory: &Inventory) -> BTreeMap<String, Value> {
    let stock = stock(inventory);
    let line = |(product, quantity): &(i64, i64)| {
        let known = inventory.products.get(product);
        let (name, on_hand) = known.map(|known| (&known.name, known.on_hand)).unzip();
        json!({"product": product, "name": name, "quantity": quantity, "on_hand": on_hand})
    };
    let item = |(id, order): (&Uuid, &Order)| {
        let Order { status, reason, member, placed_at, lines } = order;
        let name = orders.members.get(member).map(|(name, _)| name);
        let item = json!({
            "order": id, "status": status, "reason": reason, "placed_at": placed_at,
            "stock": stock.get(id).map_or("asked", |(_, stock)| *stock),
            "member": {"id": member, "name": name},
            "lines": lines.iter().map(line).collect::<Vec<_>>(),
        });
        (id.to_string(), item)
    };
    orders.all.iter().map(item).collect()
}

/// The furthest that the inventory has told of each order.
fn stock(inventory: &Inventory) -> BTreeMap<Uuid, (usize, &'static str)> {
    let steps = [("InventoryLocked", "locked"), ("LockFailed", "refused"), ("InventoryReleased", "released")];
    let mut stock = BTreeMap::new();
    for Told { order, kind, .. } in &inventory.told {
        let step = steps.iter().enumerate().find(|(_, (event, _))| event == kind);
        let (rank, (_, name)) = step.expect("an event of the contract");
        let known = stock.entry(*order).or_insert((rank, *name));
        *known = (rank, *name).max(*known);
    }
    stock
}

/// What the view does say, page by page, as a customer would ask for it.
pub(crate) async fn shown_view(shop: &Shop) -> anyhow::Result<BTreeMap<String, Value>> {
    let mut shown = BTreeMap::new();
    let mut path = "/orders?limit=100".to_owned();
    loop {
        let (status, page) = insist(shop.address(Name::View), Method::GET, &path, &Value::Null).await?;
        anyhow::ensure!(status.is_success(), "{path}: {status} {page}");
        for item in page["items"].as_array().into_iter().flatten() {
            let id = item["order"].as_str().unwrap_or_default().to_owned();
            anyhow::ensure!(shown.insert(id, item.clone()).is_none(), "an order is on two pages");
        }
        match page["next"].as_str() {
            Some(next) => path = format!("/orders?limit=100&after={next}"),
            None => return Ok(shown),
        }
    }
}

//! Customers and shopkeepers: orders for more than there is, cancellations, new names and prices.
//!
//! Whoever gets no answer asks again, with the same order id: that a service may be killed between doing and answering is
//! part of the load. What was answered is in the [`Ledger`], and has to be true in the end.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use fastrand::Rng;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::http::insist;

const MEMBERS: i64 = 20;
const PRODUCTS: usize = 100;
/// An order asks for some of so many products. The window moves on with the orders, so that there is always some stock left,
/// and always too little.
const WINDOW: usize = 4;
/// Orders until the window moves on by one product: those ask for more than one product has.
const ORDERS_PER_STEP: usize = 15;
const STOCK: i64 = 25;
/// Nobody sells it.
const UNKNOWN_PRODUCT: i64 = 999_999;
const CUSTOMERS: u32 = 4;
const SHOPKEEPERS_EVERY: Duration = Duration::from_millis(150);

/// What customers were told.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Orders that were taken.
    pub(crate) accepted: Vec<Uuid>,
    /// Of these, orders of which a cancellation was taken.
    pub(crate) withdrawn: Vec<Uuid>,
}

/// Customers at work, until they are stopped.
pub(crate) struct Load {
    shared: Rc<Shared>,
    tasks: JoinSet<anyhow::Result<()>>,
}

struct Shared {
    orders: SocketAddr,
    inventory: SocketAddr,
    pause: Duration,
    placed: Cell<usize>,
    is_over: Cell<bool>,
    ledger: RefCell<Ledger>,
}

/// Members and products, before anybody orders.
pub(crate) async fn stock_up(orders: SocketAddr, inventory: SocketAddr) -> anyhow::Result<()> {
    for id in 1..=MEMBERS {
        put_member(orders, id, 0).await?;
    }
    for id in 1..=PRODUCTS {
        put_product(inventory, i64::try_from(id)?, 0).await?;
    }
    Ok(())
}

impl Load {
    /// So many orders a second, by all customers together, while all is well.
    pub(crate) fn start(orders: SocketAddr, inventory: SocketAddr, seed: u64, orders_per_second: u32) -> Self {
        let shared = Rc::new(Shared {
            orders,
            inventory,
            pause: Duration::from_secs(1) * CUSTOMERS / orders_per_second,
            placed: Cell::new(0),
            is_over: Cell::new(false),
            ledger: RefCell::default(),
        });
        let mut tasks = JoinSet::new();
        for customer in 0..CUSTOMERS {
            let random = Rng::with_seed(seed.wrapping_add(u64::from(customer)));
            tasks.spawn_local(buy(Rc::clone(&shared), random));
        }
        tasks.spawn_local(keep_shop(Rc::clone(&shared), Rng::with_seed(!seed)));
        Self { shared, tasks }
    }

    /// How many orders were placed so far.
    pub(crate) fn placed(&self) -> usize {
        self.shared.placed.get()
    }

    /// Lets everybody end what they are at.
    pub(crate) async fn stop(mut self) -> anyhow::Result<Ledger> {
        self.shared.is_over.set(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(self.shared.ledger.take())
    }
}

async fn buy(shared: Rc<Shared>, mut random: Rng) -> anyhow::Result<()> {
    while !shared.is_over.get() {
        let number = shared.placed.replace(shared.placed.get() + 1);
        let id = Uuid::from_u128(random.u128(..));
        let order = json!({"id": id, "member": random.i64(1..=MEMBERS), "lines": lines(number, &mut random)});
        let (status, answer) = insist(shared.orders, Method::POST, "/orders", &order).await?;
        if !matches!(status, StatusCode::CREATED | StatusCode::OK) {
            bail!("an order was refused: {status} {answer}");
        }
        shared.note(|ledger| ledger.accepted.push(id));
        if random.u8(..10) == 0 {
            let path = format!("/orders/{id}/cancel");
            match insist(shared.orders, Method::POST, &path, &json!({})).await? {
                (StatusCode::OK, _) => shared.note(|ledger| ledger.withdrawn.push(id)),
                (StatusCode::CONFLICT, _) => {} // too late
                (status, answer) => bail!("a cancellation was refused: {status} {answer}"),
            }
        }
        tokio::time::sleep(shared.pause.mul_f64(0.5 + random.f64())).await;
    }
    Ok(())
}

fn lines(number: usize, random: &mut Rng) -> Vec<Value> {
    if random.u8(..50) == 0 {
        return vec![json!({"product": UNKNOWN_PRODUCT, "quantity": 1})];
    }
    let mut window: Vec<usize> = (0..WINDOW).map(|place| (number / ORDERS_PER_STEP + place) % PRODUCTS + 1).collect();
    random.shuffle(&mut window);
    window.truncate(random.usize(1..=3));
    window.into_iter().map(|product| json!({"product": product, "quantity": random.i64(1..=3)})).collect()
}

/// Renames members and reprices products.
async fn keep_shop(shared: Rc<Shared>, mut random: Rng) -> anyhow::Result<()> {
    let mut version = 0;
    while !shared.is_over.get() {
        version += 1;
        put_member(shared.orders, random.i64(1..=MEMBERS), version).await?;
        put_product(shared.inventory, random.i64(1..=i64::try_from(PRODUCTS)?), version).await?;
        tokio::time::sleep(SHOPKEEPERS_EVERY).await;
    }
    Ok(())
}

async fn put_member(orders: SocketAddr, id: i64, version: i64) -> anyhow::Result<()> {
    let member = json!({
        "name": format!("Member {id}.{version}"),
        "email": format!("{id}@example.org"),
        "address": format!("{version} Main Street"),
    });
    put(orders, &format!("/members/{id}"), &member).await
}

async fn put_product(inventory: SocketAddr, id: i64, version: i64) -> anyhow::Result<()> {
    let product = json!({
        "name": format!("Product {id}.{version}"),
        "price": format!("{}.90", 5 + version % 50),
        "cost": "3.00",
        "initial": STOCK,
    });
    put(inventory, &format!("/products/{id}"), &product).await
}

async fn put(to: SocketAddr, path: &str, body: &Value) -> anyhow::Result<()> {
    let (status, answer) = insist(to, Method::PUT, path, body).await?;
    if !status.is_success() {
        return Err(anyhow::anyhow!("{status} {answer}")).with_context(|| format!("PUT {path}"));
    }
    Ok(())
}

impl Shared {
    fn note(&self, what: impl FnOnce(&mut Ledger)) {
        what(&mut self.ledger.borrow_mut());
    }
}

//! The proof: what has to hold once all is settled, line by line, from the databases, the queues and the query API.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use uuid::Uuid;

use crate::broker;
use crate::load::Ledger;
use crate::report::Line;
use crate::shop::{Database, Shop};
use crate::truth::{Inbox, Inventory, Orders, Told, expected_view, inbox, shown_view};
use crate::wait::{Look, or_stalled};

/// Nothing has come nearer to it for so long: it will not.
const PATIENCE: Duration = Duration::from_secs(40);

/// Where the poison is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Poison {
    /// Among the dead letters, in the end.
    PutAside,
    /// It was taken out of there.
    Taken,
}

/// Waits until each way to an end was taken, while customers order and nobody is killed: where kills follow closely upon each
/// other nearly every order may time out. If it takes too long, the line of the proof says what is missing.
pub(crate) async fn each_way_taken(shop: &Shop) -> anyhow::Result<()> {
    let taken = or_stalled(PATIENCE, async || {
        let line = all_ways(&Orders::read(shop).await?);
        Ok(if line.holds { Look::Done(()) } else { Look::NotYet(()) })
    });
    taken.await.map(|_taken_or_stalled| ())
}

/// Waits until every line holds, or until nothing changes any more, and gives the lines as they are then.
pub(crate) async fn settle(shop: &mut Shop, ledger: &Ledger, poison: Poison) -> anyhow::Result<Vec<Line>> {
    let settled = or_stalled(PATIENCE, async || {
        let lines = take(shop, ledger, poison).await?;
        Ok(if lines.iter().all(|line| line.holds) { Look::Done(lines) } else { Look::NotYet(lines) })
    });
    Ok(settled.await?.unwrap_or_else(|last| last))
}

async fn take(shop: &mut Shop, ledger: &Ledger, poison: Poison) -> anyhow::Result<Vec<Line>> {
    let orders = Orders::read(shop).await?;
    let inventory = Inventory::read(shop).await?;
    let view_inbox = inbox(&shop.audit(Database::View).await?).await?;
    let depths = broker::depths(&shop.broker_url()).await?;
    Ok(vec![
        Line::new("parts", "none has ended by itself".into(), &shop.deserters()),
        ends(&orders),
        answers(&orders, ledger),
        all_ways(&orders),
        stock(&orders, &inventory),
        sides(&orders, &inventory),
        copies(&orders, &inventory),
        view(&orders, &inventory, shop).await?,
        nothing_lost(&orders, &inventory, &view_inbox),
        queues(&depths, poison),
    ])
}

/// Confirmed or cancelled, all of them.
fn ends(orders: &Orders) -> Line {
    let count = |status| orders.all.values().filter(|order| order.status == status).count();
    let open = orders.all.iter().filter(|(_, order)| !matches!(order.status.as_str(), "confirmed" | "cancelled"));
    let wrong: Vec<String> = open.map(|(id, order)| format!("{id} is {}", order.status)).collect();
    let [confirmed, cancelled] = [count("confirmed"), count("cancelled")];
    Line::new("every order has ended", format!("{confirmed} confirmed, {cancelled} cancelled"), &wrong)
}

/// What customers were told is so.
fn answers(orders: &Orders, ledger: &Ledger) -> Line {
    let accepted: BTreeSet<&Uuid> = ledger.accepted.iter().collect();
    let present: BTreeSet<&Uuid> = orders.all.keys().collect();
    let mut wrong: Vec<String> =
        accepted.difference(&present).map(|id| format!("{id} was accepted, and is gone")).collect();
    wrong.extend(present.difference(&accepted).map(|id| format!("{id} was placed by nobody")));
    for id in &ledger.withdrawn {
        if orders.all.get(id).is_none_or(|order| order.status != "cancelled") {
            wrong.push(format!("{id} was withdrawn, and is not cancelled"));
        }
    }
    let found = format!("{} orders, {} cancellations", ledger.accepted.len(), ledger.withdrawn.len());
    Line::new("as customers were told", found, &wrong)
}

/// A load that did not take each way to an end would prove little.
fn all_ways(orders: &Orders) -> Line {
    let mut ways = BTreeMap::from([
        ("out of stock", 0),
        ("timed out", 0),
        ("cancelled by the member", 0),
        ("unknown product", 0),
        ("confirmed", 0),
    ]);
    let mut wrong = Vec::new();
    for order in orders.all.values().filter(|order| order.status != "placed") {
        match ways.get_mut(order.reason.as_deref().unwrap_or("confirmed")) {
            Some(count) => *count += 1,
            None => wrong.push(format!("a reason of its own: {:?}", order.reason)),
        }
    }
    wrong.extend(ways.iter().filter(|(_, count)| **count == 0).map(|(way, _)| format!("none: {way}")));
    let found: Vec<String> = ways.iter().map(|(way, count)| format!("{count} {way}")).collect();
    Line::new("each way was taken", found.join(", "), &wrong)
}

/// What is there is what there was, less what was sold.
fn stock(orders: &Orders, inventory: &Inventory) -> Line {
    let sold = orders.sold();
    let mut wrong = Vec::new();
    for (id, product) in &inventory.products {
        let left = product.initial - sold.get(id).unwrap_or(&0);
        if product.on_hand != left || product.on_hand < 0 {
            wrong.push(format!("product {id}: {} on hand, should be {left}", product.on_hand));
        }
    }
    for id in sold.keys().filter(|id| !inventory.products.contains_key(id)) {
        wrong.push(format!("product {id}: sold, and unknown"));
    }
    let [initial, left] = inventory
        .products
        .values()
        .fold([0, 0], |[initial, left], product| [initial + product.initial, left + product.on_hand]);
    let found = format!("{initial} at first - {} sold = {left}, never negative", sold.values().sum::<i64>());
    Line::new("stock", found, &wrong)
}

/// Both services think the same of each order.
fn sides(orders: &Orders, inventory: &Inventory) -> Line {
    let mut wrong = Vec::new();
    for (id, order) in &orders.all {
        let state = inventory.reservations.get(id).map(String::as_str);
        let agrees = match order.status.as_str() {
            "confirmed" => state == Some("confirmed"),
            // An order that nobody could lock anything for may have no reservation.
            _ => matches!(state, Some("released" | "failed")),
        };
        if !agrees {
            wrong.push(format!("{id} is {}, its reservation {}", order.status, state.unwrap_or("missing")));
        }
    }
    let strangers = inventory.reservations.keys().filter(|id| !orders.all.contains_key(id));
    wrong.extend(strangers.map(|id| format!("{id}: a reservation of no order")));
    Line::new("orders and reservations", format!("{} agree", inventory.reservations.len()), &wrong)
}

/// What the services keep of each other's members and products.
fn copies(orders: &Orders, inventory: &Inventory) -> Line {
    let prices: BTreeMap<&i64, &String> = inventory.products.iter().map(|(id, product)| (id, &product.price)).collect();
    let addresses: BTreeMap<&i64, &String> = orders.members.iter().map(|(id, (_, address))| (id, address)).collect();
    let mut wrong = differences("price of product", &prices, &orders.prices.iter().collect());
    wrong.extend(differences("address of member", &addresses, &inventory.addresses.iter().collect()));
    let found = format!("{} prices at orders, {} addresses at inventory", prices.len(), addresses.len());
    Line::new("copies of base data", found, &wrong)
}

async fn view(orders: &Orders, inventory: &Inventory, shop: &Shop) -> anyhow::Result<Line> {
    let expected = expected_view(orders, inventory);
    let shown = shown_view(shop).await?;
    let wrong = differences("order", &expected, &shown);
    Ok(Line::new("the view is the truth", format!("{} orders, by its query API", shown.len()), &wrong))
}

fn differences<K: Ord + Debug, V: PartialEq + Debug>(
    what: &str,
    expected: &BTreeMap<K, V>,
    found: &BTreeMap<K, V>,
) -> Vec<String> {
    let keys: BTreeSet<&K> = expected.keys().chain(found.keys()).collect();
    let differing = keys.into_iter().filter(|key| expected.get(key) != found.get(key));
    let told = |key: &K| {
        let is = |value: Option<&V>| value.map_or("not there".to_owned(), |value| format!("{value:?}"));
        format!("{what} {key:?} is {}, should be {}", is(found.get(key)), is(expected.get(key)))
    };
    differing.map(told).collect()
}

/// Each event that a service has told was handled by each service that listens.
fn nothing_lost(orders: &Orders, inventory: &Inventory, view: &Inbox) -> Line {
    let mut wrong = missing(&orders.told, "inventory.saga", &inventory.inbox);
    wrong.extend(missing(&orders.told, "view.orders", view));
    wrong.extend(missing(&inventory.told, "orders.saga", &orders.inbox));
    wrong.extend(missing(&inventory.told, "view.orders", view));
    let found = format!(
        "{} events of orders, {} of inventory, each handled by each that listens",
        orders.told.len(),
        inventory.told.len()
    );
    Line::new("nothing lost", found, &wrong)
}

fn missing(told: &[Told], queue: &str, inbox: &Inbox) -> Vec<String> {
    let lost = told.iter().filter(|told| !inbox.contains(&(queue.to_owned(), told.id.clone())));
    lost.map(|told| format!("{} {} has not come by {queue}", told.kind, told.id)).collect()
}

/// Nothing is left to do, and what is put aside is the poison: at least once each, as everything.
fn queues(depths: &[broker::Depth], poison: Poison) -> Line {
    let expected = match poison {
        Poison::PutAside => broker::expected_dead_letters(),
        Poison::Taken => BTreeMap::new(),
    };
    let mut wrong = Vec::new();
    for broker::Depth { queue, ready, dead } in depths {
        if *ready > 0 {
            wrong.push(format!("{queue} has {ready} messages"));
        }
        let poison = expected.get(queue).map_or(0, BTreeSet::len);
        let dead_count = usize::try_from(*dead).unwrap_or(usize::MAX);
        if dead_count < poison || (poison == 0 && dead_count > 0) {
            wrong.push(format!("{queue} has put aside {dead} messages, should be {poison}"));
        }
    }
    Line::new("queues are empty", format!("{} of them", depths.len()), &wrong)
}

/// Takes the dead letters out: the poison, and nothing else.
pub(crate) async fn dead_letters(shop: &Shop) -> anyhow::Result<Line> {
    let expected = broker::expected_dead_letters();
    let found = broker::take_dead_letters(&shop.broker_url()).await?;
    let wrong = differences("dead letters of", &expected, &found);
    let count: usize = found.values().map(BTreeSet::len).sum();
    Ok(Line::new("dead letters", format!("{count}, the poison of each queue and nothing else"), &wrong))
}

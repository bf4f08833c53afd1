//! Event sourcing: what an order is, folded from its events.
//!
//! The events come from two databases, which have no clock in common, and a retry may deliver one later than its
//! successors. So the fold asks for no order: each part of the state only ever moves up, to the greatest of what was
//! told. Any order of the same events, with any of them repeated, gives the same state. A property test holds it to
//! that. No IO here: [`history`](crate::history) stores the events and what is folded from them.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What happened to an order, as the services tell it. Fields that the view has no use for are not here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "payload")]
pub enum OrderEvent {
    /// By the order service: a member has placed it.
    OrderCreated(Placed),
    /// By the order service, after the inventory has locked the stock.
    OrderConfirmed {},
    /// By the order service: by the member, for lack of stock, or in time's name.
    OrderCancelled(Cancelled),
    /// By the inventory service: the stock of all its lines is set aside.
    InventoryLocked {},
    /// By the inventory service: none of it is.
    LockFailed {},
    /// By the inventory service: what was set aside is back.
    InventoryReleased {},
}

/// What a member ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Placed {
    /// Who.
    pub member: i64,
    /// What.
    pub lines: Vec<Line>,
    /// When.
    pub placed_at: DateTime<Utc>,
}

/// Why an order was cancelled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cancelled {
    /// As the order service says it.
    pub reason: String,
}

/// So much of one product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Line {
    /// Its id.
    pub product: i64,
    /// How many.
    pub quantity: i64,
}

/// An order, as its events tell it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Order {
    /// None until that event has arrived.
    pub placed: Option<Placed>,
    /// Of the order.
    pub status: Status,
    /// Of what it reserves.
    pub stock: Stock,
}

/// In the order in which they can follow each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Waiting for the inventory.
    #[default]
    Placed,
    /// It has its stock.
    Confirmed,
    /// And why.
    Cancelled(String),
}

/// In the order in which they can follow each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stock {
    /// The inventory has not answered.
    #[default]
    Asked,
    /// Set aside, or sold.
    Locked,
    /// There is too little.
    Refused,
    /// Was set aside, and is back.
    Released,
}

impl OrderEvent {
    /// The event of a message. None for a type that the view doesn't know: a service may tell more than we listen to.
    ///
    /// # Errors
    /// The body is not what its type promises.
    pub fn read(kind: &str, payload: &Value) -> serde_json::Result<Option<Self>> {
        // An object, whose fields the variants without any would not ask for.
        let event = if payload.is_object() { payload.clone() } else { Value::Null };
        match kind {
            "OrderCreated" | "OrderConfirmed" | "OrderCancelled" | "InventoryLocked" | "LockFailed"
            | "InventoryReleased" => serde_json::from_value(json!({"type": kind, "payload": event})).map(Some),
            _ => Ok(None),
        }
    }

    /// Where it stands among the events of its order, for a reader: no two databases share a clock.
    #[must_use]
    pub fn step(&self) -> u8 {
        match self {
            Self::OrderCreated(_) => 0,
            Self::InventoryLocked {} | Self::LockFailed {} => 1,
            Self::OrderConfirmed {} | Self::OrderCancelled(_) => 2,
            Self::InventoryReleased {} => 3,
        }
    }
}

/// The state of an order after these events, in whatever order they come.
#[must_use]
pub fn fold<'a>(events: impl IntoIterator<Item = &'a OrderEvent>) -> Order {
    let mut order = Order::default();
    for event in events {
        order.apply(event);
    }
    order
}

impl Order {
    fn apply(&mut self, event: &OrderEvent) {
        match event {
            OrderEvent::OrderCreated(placed) => self.placed = Some(placed.clone()),
            OrderEvent::OrderConfirmed {} => self.rise(Status::Confirmed),
            OrderEvent::OrderCancelled(Cancelled { reason }) => self.rise(Status::Cancelled(reason.clone())),
            OrderEvent::InventoryLocked {} => self.stock = self.stock.max(Stock::Locked),
            OrderEvent::LockFailed {} => self.stock = self.stock.max(Stock::Refused),
            OrderEvent::InventoryReleased {} => self.stock = self.stock.max(Stock::Released),
        }
    }

    fn rise(&mut self, status: Status) {
        if status > self.status {
            self.status = status;
        }
    }
}

impl Status {
    /// Its name, and the reason where there is one.
    #[must_use]
    pub fn parts(&self) -> (&'static str, Option<&str>) {
        match self {
            Self::Placed => ("placed", None),
            Self::Confirmed => ("confirmed", None),
            Self::Cancelled(reason) => ("cancelled", Some(reason)),
        }
    }
}

impl Stock {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Locked => "locked",
            Self::Refused => "refused",
            Self::Released => "released",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::{Index, subsequence};

    use super::*;

    /// What can happen to one order, from its first event to its last.
    fn lives() -> [Vec<OrderEvent>; 5] {
        let placed =
            Placed { member: 7, lines: vec![Line { product: 1, quantity: 2 }], placed_at: DateTime::UNIX_EPOCH };
        let created = OrderEvent::OrderCreated(placed);
        let cancelled = |reason: &str| OrderEvent::OrderCancelled(Cancelled { reason: reason.into() });
        let (locked, released) = (OrderEvent::InventoryLocked {}, OrderEvent::InventoryReleased {});
        [
            vec![created.clone(), locked.clone(), OrderEvent::OrderConfirmed {}],
            vec![
                created.clone(),
                locked.clone(),
                OrderEvent::OrderConfirmed {},
                cancelled("by the member"),
                released.clone(),
            ],
            vec![created.clone(), OrderEvent::LockFailed {}, cancelled("out of stock")],
            vec![created.clone(), cancelled("timed out"), locked, released],
            vec![created, cancelled("cancelled by the member")],
        ]
    }

    proptest! {
        /// Any order, any repetitions: the same state. A retry, a replay and a rebuild must not matter.
        #[test]
        fn neither_order_nor_repetition_changes_the_state(
            which in any::<Index>(),
            repeated in subsequence((0..5).collect::<Vec<_>>(), 0..=5),
            shuffle in proptest::collection::vec(any::<u32>(), 10),
        ) {
            let lives = lives();
            let life = which.get(&lives);
            let again = repeated.iter().filter_map(|index| life.get(*index));
            let mut delivered: Vec<(u32, &OrderEvent)> = shuffle.into_iter().zip(life.iter().chain(again)).collect();
            delivered.sort_by_key(|(place, _)| *place);
            prop_assert_eq!(fold(delivered.iter().map(|(_, event)| *event)), fold(life));
        }

        /// In the order in which it happened, each event shows.
        #[test]
        fn an_order_never_goes_back(which in any::<Index>()) {
            let lives = lives();
            let life = which.get(&lives);
            let states: Vec<Order> = (0..=life.len()).map(|length| fold(&life[..length])).collect();
            for pair in states.windows(2) {
                prop_assert!(pair[0] != pair[1]);
                prop_assert!(pair[0].status <= pair[1].status && pair[0].stock <= pair[1].stock);
            }
        }
    }

    #[test]
    fn each_life_ends_as_it_should() {
        let ends: Vec<(Status, Stock)> = lives().iter().map(|life| (fold(life).status, fold(life).stock)).collect();
        let cancelled = |reason: &str| Status::Cancelled(reason.into());
        assert_eq!(
            ends,
            [
                (Status::Confirmed, Stock::Locked),
                (cancelled("by the member"), Stock::Released),
                (cancelled("out of stock"), Stock::Refused),
                (cancelled("timed out"), Stock::Released),
                (cancelled("cancelled by the member"), Stock::Asked),
            ]
        );
    }

    #[test]
    fn a_body_that_is_not_what_its_type_promises_is_an_error_and_an_unknown_type_is_not() {
        let read = |kind, payload| OrderEvent::read(kind, &payload);
        assert!(read("OrderCreated", json!({"not": "an order"})).is_err());
        assert!(read("OrderConfirmed", json!("text")).is_err());
        assert_eq!(
            read("OrderConfirmed", json!({"order": "x", "more": 1})).expect("open"),
            Some(OrderEvent::OrderConfirmed {})
        );
        assert_eq!(read("OrderGiftWrapped", json!({})).expect("unknown"), None);
    }
}

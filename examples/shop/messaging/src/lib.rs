//! What a service needs to live on events: the reusable part of the shop, to be lifted out.
//!
//! ```text
//!  a command ─▶ [ business rows + outbox row ]  one transaction
//!                        │ the write-ahead log
//!                     pgsluice ─▶ RabbitMQ ─▶ consumer
//!                                               ▼
//!               [ inbox row + business rows + outbox row ]  one transaction, then the ack
//! ```
//!
//! * [`outbox`]: the event of a change is inserted in the transaction of the change. pgsluice publishes it, at least once.
//! * [`inbox`]: the id of a message is inserted in the transaction of its effect, so that it has its effect once.
//! * [`consumer`]: takes messages off a queue; tries again later what fails; puts aside what fails too often.
//! * [`migrations`]: the tables of a service, made by the service.
//! * [`service`]: start, stop, database, HTTP.
//!
//! # What a handler may rely on, and what not
//!
//! A handler runs in a transaction, and that commits once for each message, whatever is killed in between.
//!
//! **The order is not one of these things.** The queue is in commit order, but a message that is tried again later is
//! overtaken by those behind it, and a second instance of the service takes every other message. So a handler has to be
//! right in any order: it looks at the state that it finds (a cancellation of what is not known yet is remembered, a
//! confirmation of what is cancelled changes nothing), or compares [`Event::position`] with that of what it has stored.

pub mod consumer;
pub mod event;
pub mod failure;
pub mod http;
pub mod inbox;
pub mod migrations;
pub mod outbox;
pub mod service;

pub use consumer::{Consumer, Handler};
pub use deadpool_postgres::Pool;
pub use event::{Event, Position};
pub use migrations::Migration;

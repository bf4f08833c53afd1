//! The worked example, `examples/shop`: what its services have in common, the services, their contracts, and the saga as a whole.
//!
//! Apart from the other tests, so that whoever changes the example compiles nothing else.

mod consumer;
mod contracts;
mod faults;
mod inventory;
mod migrations;
mod orders;
mod saga;
mod stage;
#[path = "../support/mod.rs"]
mod support;
mod view;

//! The worked example, `examples/shop`: what its services have in common, the services, their contracts, and the saga as a whole.

mod contracts;
mod faults;
mod inventory;
mod messaging;
mod migrations;
mod orders;
mod saga;
mod stage;

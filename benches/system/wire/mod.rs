//! The leanest clients that can be: blocking sockets, and no more of a protocol than a floor needs.

pub(crate) mod amqp;
pub(crate) mod low_water;
pub(crate) mod postgres;

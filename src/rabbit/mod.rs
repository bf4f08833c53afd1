//! RabbitMQ: the confirmed, pipelined publisher, and the topology that it needs.
//!
//! [`publisher`] drives a [`lane`] (the memory of what is in flight) over a [`channel`] (our own publish-only AMQP
//! 0-9-1 connection). Below these: [`wire`] frames what goes out, `inbox` what comes in, `handshake` opens and
//! `tls` encrypts a connection, `topology` carries out the [`steps`] to a topology through lapin,
//! [`survey`] only looks; `refusal` sorts what the broker
//! refuses. `alarm` keeps the time.

mod alarm;
pub mod channel;
mod handshake;
mod inbox;
pub mod lane;
pub mod publisher;
mod refusal;
pub mod steps;
pub mod survey;
mod tls;
mod topology;
pub mod uri;
pub mod wire;

pub use inbox::ProtocolError;

//! RabbitMQ: the confirmed, pipelined publisher, and the topology that it needs.

pub mod uri;

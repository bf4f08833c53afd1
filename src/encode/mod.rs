//! From a change to what is published: the body, and the AMQP properties beside it.

pub mod message;

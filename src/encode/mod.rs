//! From a change to what is published: the body, and the AMQP properties beside it.

pub mod json;
pub mod message;
pub mod text;
pub mod time;
pub mod values;

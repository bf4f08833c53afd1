//! All tests that need a server, in one binary, so that they share one PostgreSQL and one RabbitMQ.

mod harness;
mod publisher;
mod support;

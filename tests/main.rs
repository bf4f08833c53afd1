//! All tests that need a server, in one binary, so that they share one PostgreSQL and one RabbitMQ.

mod checkpoint;
mod harness;
mod open;
mod preflight;
mod support;

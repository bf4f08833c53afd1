//! All tests that need a server, in one binary, so that they share one PostgreSQL and one RabbitMQ.

mod config;
mod decode;
mod connect;
mod harness;
mod main_job;
mod never_lose;
mod checkpoint;
mod preflight;
mod support;

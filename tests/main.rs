//! All tests that need a server, in one binary, so that they share one PostgreSQL and one RabbitMQ.

mod bad_input;
mod broker_faults;
mod checkpoint;
mod checkpoint_commands;
mod cluster;
mod config;
mod connect;
mod decode;
mod docs;
mod failover;
mod faults;
mod harness;
mod main_job;
mod never_lose;
mod open;
mod peers_losses;
mod preflight;
mod process_faults;
mod publisher;
mod replay;
mod source_faults;
mod standby;
mod streaming;
mod support;
mod watch;

//! pgsluice streams the row changes of a PostgreSQL database into RabbitMQ, in commit order, without losing one.
//!
//! The modules in the order in which a change flows through them:
//!
//! 1. [`postgres`]: the replication client, the slot and publication, the pgoutput decoder
//! 2. [`transaction`]: begin, change, commit → `(position, change)`; streams, never collects
//! 3. [`route`]: change → verdict: publish to a destination, or skip
//! 4. [`encode`]: change → body and AMQP properties
//! 5. [`rabbit`]: the confirmed, pipelined publisher
//! 6. [`progress`]: the in-flight window → the watermark
//! 7. [`checkpoint`]: the watermark, stored durably, then reported to PostgreSQL
//!
//! [`cleanup`] says which rows of an outbox are no longer needed. [`pipeline`] is the loop that joins them; [`replay`] runs it over the past that [`retention`] has kept, and [`tail`] prints its events. [`source`] and
//! [`broker`] are the two traits that stand between it and the real peers; the simulation implements them too. [`schema`] says
//! what all of it can publish.

pub mod backoff;
pub mod broker;
pub mod change;
pub mod checkpoint;
pub mod cleanup;
pub mod cli;
pub mod config;
pub mod encode;
pub mod failure;
pub mod finding;
pub mod lsn;
pub mod pipeline;
pub mod postgres;
pub mod progress;
pub mod rabbit;
pub mod replay;
pub mod retention;
pub mod route;
pub mod schema;
pub mod source;
pub mod tail;
pub mod telemetry;
pub mod transaction;

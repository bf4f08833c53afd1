//! Real servers for the tests: PostgreSQL and RabbitMQ, started once per run and shared, a database and a
//! virtual host per test; private ones for tests that kill things; and pgsluice itself as a process.
//!
//! Nothing outlives the test process, in whatever way it ends: see [`lifetime`].

// Some helpers wait for their first test.
#![allow(dead_code, unused_imports)]

pub(crate) mod browser;
pub(crate) mod cluster;
pub(crate) mod cutter;
pub(crate) mod lifetime;
pub(crate) mod load;
pub(crate) mod pgsluice;
pub(crate) mod postgres;
pub(crate) mod proxy;
pub(crate) mod rabbit;
pub(crate) mod scene;
mod server;
pub(crate) mod traffic;
pub(crate) mod vhost;
pub(crate) mod web;

use std::time::{Duration, Instant};

pub(crate) use cluster::RabbitCluster;
pub(crate) use cutter::Cutter;
pub(crate) use lifetime::folder;
pub(crate) use load::Load;
pub(crate) use pgsluice::{Process, done, pgsluice, pgsluice_command, pgsluice_under, refused};
pub(crate) use postgres::{Database, PostgresServer, postgres};
pub(crate) use proxy::Proxy;
pub(crate) use rabbit::{RabbitServer, rabbitmq};
pub(crate) use scene::{Account, Scene};
pub(crate) use traffic::Traffic;
pub(crate) use vhost::{Consumer, Delivery, Vhost};
pub(crate) use web::Web;

/// How long a test waits for what should come soon, on a slow and busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Polls a condition until it gives a value, and panics with `what` at the deadline.
///
/// The only way to wait in tests: no sleeps.
pub(crate) async fn eventually<T>(what: &str, deadline: Duration, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, condition()).await {
            Ok(Some(value)) => return value,
            Ok(None) if !left.is_zero() => tokio::time::sleep(Duration::from_millis(10)).await,
            Ok(None) | Err(_) => panic!("not within {deadline:?}: {what}"),
        }
    }
}

/// [`eventually`] for code that may block: the servers' start.
fn eventually_blocking<T>(deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        let value = condition();
        if value.is_some() || Instant::now() > end {
            return value;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

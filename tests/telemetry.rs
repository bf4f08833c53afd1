//! What operators see of a pgsluice that runs, with real servers: the metrics, readiness, pause and resume, who may ask, the
//! command `status`, and the page in a real browser.

#![allow(clippy::float_cmp, reason = "whole numbers, and small ones")]

mod access;
mod metrics;
mod otlp;
mod page;
mod pause;
mod ready;
mod status;

use std::net::TcpListener;

use crate::support::{Process, SOON, Scene, pgsluice};

/// The scene's configuration, listening at a port that is free, with more lines of `[http]` and of `[rabbitmq]`.
fn config(scene: &Scene, http: &str, rabbitmq: &str) -> String {
    let often = "watch_every_ms = 200\nreport_every_ms = 200\n";
    let config = scene.config(rabbitmq).replace("[source]\n", &format!("[source]\n{often}"));
    let listen = if http.contains("listen") { "" } else { "listen = \"127.0.0.1:0\"\n" };
    format!("{config}\n[http]\n{listen}{http}")
}

async fn streaming(config: &str) -> Process {
    let process = pgsluice(config);
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    process
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("an address").port()
}

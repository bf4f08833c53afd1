//! A peer that says nothing, or is not heard: pgsluice notices by itself, opens its connection again, and loses nothing.
//!
//! The proxy answers for TCP, as a load balancer would: neither the kernel's keepalives nor its timeouts can notice.

use std::collections::HashMap;

use crate::bad_input::streaming;
use crate::support::proxy::{Direction, Entrance, Flow};
use crate::support::{Account, Process, Proxy, SOON, Scene, eventually, postgres, rabbitmq};

/// A scene with a proxy in front of each server, and short patience on all sides.
struct Stage {
    scene: Scene,
    postgres: Proxy,
    rabbitmq: Proxy,
}

impl Stage {
    async fn new() -> Self {
        let (postgres, rabbitmq) = (Proxy::to(postgres().port()).await, Proxy::to(rabbitmq().port()).await);
        Self { scene: Scene::new().await, postgres, rabbitmq }
    }

    async fn run(&self) -> Process {
        self.run_with(&[]).await
    }

    async fn run_with(&self, more: &[(&str, &str)]) -> Process {
        let source = self.scene.database.url_through(&self.postgres);
        let source = format!("{source}?connect_timeout=2&options=-c%20wal_sender_timeout%3D2s");
        let broker = self.scene.vhost.url_through(&self.rabbitmq);
        let broker = format!("{broker}?heartbeat=1&connection_timeout=2");
        let overrides = [&[("source.url", source.as_str()), ("rabbitmq.url", broker.as_str())], more].concat();
        streaming(&self.scene, &overrides).await
    }

    async fn insert(&self, rows: usize) {
        self.scene.database.execute(&format!("INSERT INTO ledger SELECT FROM generate_series(1, {rows})")).await;
    }

    /// Everything that was committed arrives, and is acknowledged.
    async fn settle(&self, account: &mut Account) {
        account.settle(&self.scene, &mut self.scene.vhost.consumer("all").await, SOON).await;
        self.scene.acknowledged().await;
    }
}

const STREAM_LOST: &str = "the replication stream can't go on";
const BROKER_LOST: &str = "not connected to RabbitMQ";

/// The walsender gives up and frees the slot; pgsluice hears nothing of that.
#[tokio::test]
async fn a_stream_that_is_black_holed_is_opened_again() {
    let stage = Stage::new().await;
    let pgsluice = stage.run().await;
    let mut account = Account::default();
    stage.insert(1).await;
    stage.settle(&mut account).await;
    stage.postgres.lose();
    stage.insert(1).await;
    pgsluice.wait_for_log(STREAM_LOST, SOON).await;
    stage.settle(&mut account).await;
    assert_eq!(account.len(), 2);
}

/// The walsender hears from pgsluice all the time, and is content.
#[tokio::test]
async fn a_stream_of_which_only_the_answers_are_lost_is_opened_again() {
    let stage = Stage::new().await;
    let pgsluice = stage.run().await;
    let mut account = Account::default();
    stage.insert(1).await;
    stage.settle(&mut account).await;
    stage.postgres.flow(Direction::Answers, Flow::Stalled);
    stage.insert(1).await;
    pgsluice.wait_for_log(STREAM_LOST, SOON).await;
    stage.postgres.heal().await;
    stage.settle(&mut account).await;
    assert_eq!(account.len(), 2);
}

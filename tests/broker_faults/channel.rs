//! A connection that is cut, and a channel that is closed over an exchange that is gone, a permission that was taken away,
//! or an event that is too large.

use std::time::Duration;

use lapin::options::ExchangeDeleteOptions;
use serde_json::json;

use super::{ONE_CONSUMER, connections, impatient_postgres, scene, walsender};
use crate::bad_input::{ended, says, streaming};
use crate::support::{Account, RabbitServer, SOON, Scene, Traffic, eventually, rabbitmq};

/// Much longer than it lasts.
const RECOVERY: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_under_load_lose_nothing() {
    let scene = scene().await;
    let pgsluice = streaming(&scene, &[]).await;
    let (stream, mut traffic) = (walsender(&scene).await, Traffic::start(&scene, Account::default()));
    for round in 1..=3 {
        traffic.more(1000, RECOVERY).await;
        let cut = eventually("it is connected again", RECOVERY, async || {
            scene.vhost.close_connections(rabbitmq()).await;
            (connections(&pgsluice).len() > round).then_some(())
        });
        traffic.during(cut).await;
    }
    traffic.more(1000, RECOVERY).await;
    traffic.settle(RECOVERY).await;
    assert_eq!(walsender(&scene).await, stream, "the stream stayed open");
}

/// 404. The queue's binding is gone with the exchange: what is published until there is another one comes back, and waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_is_deleted_under_load_is_declared_again() {
    let scene = scene().await;
    let pgsluice = streaming(&scene, &[]).await;
    let (stream, mut traffic) = (walsender(&scene).await, Traffic::start(&scene, Account::after_refusals()));
    traffic.more(1000, RECOVERY).await;
    let deleted = async {
        let channel = scene.vhost.channel().await;
        let options = ExchangeDeleteOptions::default();
        channel.exchange_delete("shop.changes".into(), options).await.expect("delete an exchange");
        pgsluice.wait_for_log("no queue takes event", SOON).await;
        scene.vhost.bind("all", "shop.changes", "#").await;
    };
    traffic.during(deleted).await;
    traffic.more(6000, RECOVERY).await;
    traffic.settle(RECOVERY).await;
    pgsluice.wait_for_log("NOT_FOUND - no exchange 'shop.changes'", SOON).await;
    assert_eq!(walsender(&scene).await, stream, "the stream stayed open");
}

/// 403. A human has to mend that, so it stops; started again, it goes on where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permission_that_is_taken_away_under_load_costs_no_event() {
    let scene = scene().await;
    let (vhost, user) = (scene.vhost.name(), format!("user_{}", scene.vhost.name()));
    let may_write = |write: &str| {
        let permissions = json!({"configure": ".*", "write": write, "read": ""});
        rabbitmq().api("PUT", &format!("/permissions/{vhost}/{user}"), Some(&permissions));
    };
    rabbitmq().api("PUT", &format!("/users/{user}"), Some(&json!({"password": "secret", "tags": ""})));
    may_write(".*");
    let url = scene.vhost.url_as(&format!("{user}:secret"));
    let mut pgsluice = streaming(&scene, &[("rabbitmq.url", &url)]).await;
    let mut traffic = Traffic::start(&scene, Account::default());
    traffic.more(1000, RECOVERY).await;
    let stopped = async {
        may_write("");
        // A channel remembers what it may.
        scene.vhost.close_connections(rabbitmq()).await;
        ended(&mut pgsluice, 4).await
    };
    let message = traffic.during(stopped).await;
    says(&message, &["RabbitMQ refuses to take events: ", "exchange 'shop.changes'", "set_permissions"]);
    may_write(".*");
    pgsluice.restart();
    traffic.more(6000, RECOVERY).await;
    traffic.settle(RECOVERY).await;
}

/// 406. The channel is closed over one of the events in flight, and with it the confirms of those before. They are had
/// all the same, so that no start is stuck with them; and the event is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_too_large_for_the_broker_under_load_keeps_only_what_is_behind_it() {
    let node = RabbitServer::private(&[("max_message_size", "3000")]);
    let scene = Scene::with(impatient_postgres(), node.vhost(), &[ONE_CONSUMER]).await;
    let mut pgsluice = streaming(&scene, &[("rabbitmq.poison.policy", "stop")]).await;
    let mut traffic = Traffic::start(&scene, Account::default());
    traffic.more(1000, RECOVERY).await;
    scene.database.execute("INSERT INTO ledger (filler) VALUES (repeat('x', 5000))").await;
    let message = traffic.during(ended(&mut pgsluice, 8)).await;
    says(&message, &["an event is larger than RabbitMQ takes", "hint: raise max_message_size on the broker"]);
    // All that comes after the first start.
    scene.vhost.queue_on("rest", "shop.changes").await;
    pgsluice.restart();
    let again = traffic.during(ended(&mut pgsluice, 8)).await;
    assert_eq!(position(&again), position(&message));

    node.rabbitmqctl(&["eval", "application:set_env(rabbit, max_message_size, 10000)."]);
    pgsluice.restart();
    traffic.more(6000, RECOVERY).await;
    traffic.settle(RECOVERY).await;
    let mut rest = scene.vhost.consumer("rest").await;
    let large = rest.until(SOON, |all| all.last().is_some_and(|last| last.body.len() > 5000)).await.pop();
    assert_eq!(large.expect("at least one").headers["position"], position(&message));
}

/// Of the oldest event, in the message that says which one can't be published.
fn position(message: &str) -> &str {
    let after = message.split_once(" from ").or_else(|| message.split_once(" event at "));
    after.and_then(|(_, rest)| rest.split_whitespace().next()).unwrap_or_else(|| panic!("no position: {message}"))
}

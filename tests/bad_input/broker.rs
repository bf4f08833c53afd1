//! What RabbitMQ refuses.

use serde_json::json;

use super::{SECRET, commit, delivered, ended, mended, refused, says, streaming};
use crate::support::{SOON, Scene, rabbitmq};

/// A user of the scene's own, with these permissions on its virtual host; his `user:password`.
fn user(scene: &Scene, configure: &str, write: &str) -> String {
    let vhost = scene.vhost.name();
    let user = format!("user_{vhost}");
    rabbitmq().api("PUT", &format!("/users/{user}"), Some(&json!({"password": SECRET, "tags": ""})));
    let permissions = json!({"configure": configure, "write": write, "read": ""});
    rabbitmq().api("PUT", &format!("/permissions/{vhost}/{user}"), Some(&permissions));
    format!("{user}:{SECRET}")
}

#[tokio::test]
async fn a_wrong_password_or_virtual_host() {
    let scene = Scene::new().await;
    let vhost = scene.vhost.name();
    let message = refused(&scene, &[("rabbitmq.url", &scene.vhost.url_as(&format!("guest:{SECRET}")))], 4).await;
    says(
        &message,
        &["RabbitMQ refuses the login of user 'guest'", "hint: check the user of rabbitmq.url, and its password"],
    );
    let message = refused(&scene, &[("rabbitmq.url", &scene.vhost.url().replace(vhost, "nowhere"))], 4).await;
    says(&message, &["RabbitMQ refuses virtual host 'nowhere'", "hint: create it, rabbitmqctl add_vhost 'nowhere'"]);
    let login = user(&scene, "", "");
    rabbitmq().api("DELETE", &format!("/permissions/{vhost}/user_{vhost}"), None);
    let message = refused(&scene, &[("rabbitmq.url", &scene.vhost.url_as(&login))], 4).await;
    says(
        &message,
        &[
            &format!("virtual host '{vhost}' to user 'user_{vhost}'"),
            "hint: pgsluice needs `configure`",
            "rabbitmqctl set_permissions -p",
        ],
    );
    mended(&scene, &[]).await;
}

#[tokio::test]
async fn a_user_who_may_not_declare() {
    let scene = Scene::new().await;
    let url = scene.vhost.url_as(&user(&scene, "^shop.events$", ".*"));
    let message = refused(&scene, &[("rabbitmq.url", &url)], 4).await;
    says(
        &message,
        &[
            "RabbitMQ refuses to declare exchange 'shop.changes'",
            "hint: pgsluice needs `configure`",
            "set rabbitmq.declare = false",
        ],
    );
    mended(&scene, &[("rabbitmq.url", &url), ("rabbitmq.declare", "false")]).await;
}

#[tokio::test]
async fn a_user_who_may_not_write() {
    let scene = Scene::new().await;
    let url = scene.vhost.url_as(&user(&scene, ".*", "^shop.events$"));
    let mut process = streaming(&scene, &[("rabbitmq.url", &url)]).await;
    process.wait_for_log("connected to RabbitMQ", SOON).await;
    commit(&scene, 3).await;
    let message = ended(&mut process, 4).await;
    says(
        &message,
        &[
            "error: can't publish to RabbitMQ at 127.0.0.1:",
            "cause: RabbitMQ refuses to take events: ",
            "exchange 'shop.changes'",
        ],
    );
    says(&message, &["hint: pgsluice needs `configure` (to declare) and `write` (to publish) on its exchanges"]);
    user(&scene, ".*", ".*");
    mended(&scene, &[("rabbitmq.url", &url)]).await;
}

#[tokio::test]
async fn an_exchange_that_exists_with_another_type() {
    let scene = Scene::new().await;
    let mut process = streaming(&scene, &[]).await;
    commit(&scene, 1).await;
    delivered(&scene).await;
    process.terminate();
    process.wait(SOON).await;
    commit(&scene, 2).await;
    let message = refused(&scene, &[("rabbitmq.exchange_type", "direct")], 4).await;
    says(&message, &["RabbitMQ refuses to declare exchange 'shop.changes', which exists with other properties"]);
    says(
        &message,
        &[
            "received 'direct' but current is 'topic'",
            "hint: set type in [[rabbitmq.exchanges]], or rabbitmq.exchange_type to what exchange 'shop.changes' has",
        ],
    );
    let rest = streaming(&scene, &[]).await;
    assert_eq!(scene.vhost.consume("all", 2, SOON).await.len(), 2);
    drop(rest);
}

#[tokio::test]
async fn an_exchange_that_is_expected_and_not_there() {
    let scene = Scene::new().await;
    let overrides = [("rabbitmq.declare", "false"), ("changes.exchange", "nowhere")];
    let message = refused(&scene, &overrides, 4).await;
    says(
        &message,
        &["RabbitMQ refuses exchange 'nowhere': it does not exist", "hint: create it, or let pgsluice declare it"],
    );
    scene.vhost.queue_on("nowhere", "nowhere").await;
    let _process = streaming(&scene, &overrides).await;
    commit(&scene, 1).await;
    scene.vhost.consume("nowhere", 1, SOON).await;
}

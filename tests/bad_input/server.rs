//! What needs a PostgreSQL server with other settings.

use super::checkpoint::{move_away, read};
use super::{SECRET, commit, delivered, ended, mended, path, refused, says, streaming};
use crate::support::{PostgresServer, SOON, Scene, eventually, folder, rabbitmq};

#[tokio::test]
async fn a_server_that_is_not_set_up_for_it_says_what_it_lacks() {
    let server = PostgresServer::private(&[("max_replication_slots", "1"), ("max_wal_senders", "1")]);
    let scene = Scene::on(&server, rabbitmq()).await;
    let database = &scene.database;

    database.execute("ALTER SYSTEM SET wal_level = replica").await;
    server.stop();
    server.start();
    let message = refused(&scene, &[], 3).await;
    says(&message, &["error: the server's wal_level is replica", "hint: Run ALTER SYSTEM SET wal_level = logical"]);
    database.execute("ALTER SYSTEM SET wal_level = logical").await;
    server.stop();
    server.start();

    let hba = server.dir().join("data/pg_hba.conf");
    let trust = std::fs::read_to_string(&hba).expect("read pg_hba.conf");
    std::fs::write(&hba, format!("host all app 127.0.0.1/32 scram-sha-256\n{trust}")).expect("write pg_hba.conf");
    database.execute("CREATE ROLE app SUPERUSER LOGIN PASSWORD 'right'; SELECT pg_reload_conf()").await;
    let url = database.url_as("app");
    let login = |password| [("source.url", url.as_str()), ("source.password", password)];
    let lets_in = async || tokio_postgres::connect(&url, tokio_postgres::NoTls).await.is_ok();
    eventually("the reload", SOON, async || (!lets_in().await).then_some(())).await;
    let message = refused(&scene, &login(SECRET), 3).await;
    says(
        &message,
        &[
            "password authentication failed for user \"app\"",
            "hint: the password for role \"app\" is wrong: the password comes from source.password",
        ],
    );
    let message = refused(&scene, &[("source.url", &url)], 3).await;
    says(&message, &["none is configured", "hint: the password comes from"]);

    database.execute("SELECT pg_create_physical_replication_slot('standby_7')").await;
    let message = refused(&scene, &login("right"), 3).await;
    says(&message, &["max_replication_slots is 1", "standby_7 (inactive)", "hint: Drop a slot that nobody needs"]);
    database.execute("SELECT pg_drop_replication_slot('standby_7')").await;

    let mut first = streaming(&scene, &login("right")).await;
    let other = path(&folder("other"));
    let overrides = [("source.slot", "another"), ("checkpoint.path", other.as_str()), ("standby_timeout_ms", "200")];
    let message = refused(&scene, &overrides, 3).await;
    let pid = database.query_one("SELECT active_pid FROM pg_replication_slots").await;
    says(&message, &["max_wal_senders is 1", &format!("PID {pid}"), "hint: Stop a replication client"]);
    first.kill();
    mended(&scene, &login("right")).await;
}

#[tokio::test]
async fn a_slot_that_was_invalidated_is_in_doubt() {
    let server = PostgresServer::private(&[("max_slot_wal_keep_size", "1MB"), ("max_wal_size", "32MB")]);
    let scene = Scene::on(&server, rabbitmq()).await;
    let mut process = streaming(&scene, &[]).await;
    commit(&scene, 1).await;
    delivered(&scene).await;
    scene.acknowledged().await;
    process.terminate();
    process.wait(SOON).await;
    let stored = read(&scene).flushed;
    invalidate(&scene).await;
    for _ in 0..2 {
        let message = refused(&scene, &[], 5).await;
        says(
            &message,
            &["was invalidated by the server", &format!("committed between {stored} and "), "may be missing"],
        );
        says(&message, &["hint: Drop it (SELECT pg_drop_replication_slot(", "max_slot_wal_keep_size"]);
    }

    // While it streams: the slot of a process that is stopped where it is.
    let drop_it = format!("SELECT pg_drop_replication_slot('{}')", scene.database.name());
    scene.database.execute(&drop_it).await;
    move_away(&scene);
    let mut process = streaming(&scene, &[]).await;
    scene.acknowledged().await;
    process.signal(rustix::process::Signal::STOP);
    invalidate(&scene).await;
    process.signal(rustix::process::Signal::CONT);
    let message = ended(&mut process, 5).await;
    says(&message, &["was invalidated by the server", "committed between"]);
}

/// Writes WAL until the server gives up the slot.
async fn invalidate(scene: &Scene) {
    eventually("the slot is invalidated", SOON, async || {
        scene
            .database
            .execute("INSERT INTO orders SELECT count(*), '', 0, '' FROM orders; SELECT pg_switch_wal()")
            .await;
        scene.database.execute("CHECKPOINT").await;
        (scene.database.query_one("SELECT wal_status FROM pg_replication_slots").await == "lost").then_some(())
    })
    .await;
}

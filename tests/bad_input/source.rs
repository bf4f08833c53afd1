//! What is wrong with the role, the tables, the publication or the slot, said before anything is created.

use super::{commit, delivered, mended, path, refused, says, start, streaming};
use crate::support::{SOON, Scene, folder, postgres};

/// Neither slot nor publication: a refusal at the first start leaves nothing behind.
async fn nothing_was_created(scene: &Scene) {
    let sql = format!(
        "SELECT (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}')",
        scene.database.name()
    );
    assert_eq!(scene.database.query_one(&sql).await, "0");
}

#[tokio::test]
async fn a_role_without_replication() {
    let scene = Scene::new().await;
    let role = format!("{}_plain", scene.database.name());
    scene.database.execute(&format!("CREATE ROLE {role} LOGIN")).await;
    let url = scene.database.url_as(&role);
    let message = refused(&scene, &[("source.url", &url)], 3).await;
    let fix = format!("ALTER ROLE \"{role}\" REPLICATION");
    says(&message, &["error: the role ", "REPLICATION attribute", "hint: ", &fix]);
    nothing_was_created(&scene).await;
    scene.database.execute(&fix).await;
    let message = refused(&scene, &[("source.url", &url)], 3).await;
    says(
        &message,
        &[
            "error: can't create or change the publication \"shop\"",
            "permission denied",
            "hint: A publication takes CREATE on the database",
            "CREATE PUBLICATION \"shop\"",
        ],
    );
    nothing_was_created(&scene).await;
    let fix = message.split_once("run: ").expect("a statement").1;
    scene.database.execute(fix).await;
    mended(&scene, &[("source.url", &url)]).await;
}

#[tokio::test]
async fn a_database_or_a_role_that_is_not_there() {
    let scene = Scene::new().await;
    let url = scene.database.url().replace(scene.database.name(), "no_such_database");
    let message = refused(&scene, &[("source.url", &url)], 3).await;
    says(
        &message,
        &["database \"no_such_database\" does not exist", "hint: create the database, or name the right one"],
    );
    let message = refused(&scene, &[("source.url", &scene.database.url_as("no_such_role"))], 3).await;
    says(&message, &["role \"no_such_role\" does not exist", "hint: check that role \"no_such_role\" exists"]);
}

#[tokio::test]
async fn a_table_that_is_not_there() {
    let scene = Scene::new().await;
    let message = refused(&scene, &[("source.tables", "public.order,public.ledger")], 3).await;
    says(
        &message,
        &[
            "error: the table public.order, which `source.tables` names, does not exist",
            "hint: Did you mean public.orders?",
        ],
    );
    let message = refused(&scene, &[("outbox.table", "public.outbx")], 3).await;
    says(
        &message,
        &[
            "error: the table public.outbx, which `outbox.table` names, does not exist",
            "hint: Did you mean public.outbox?",
        ],
    );
    nothing_was_created(&scene).await;
}

#[tokio::test]
async fn an_outbox_without_a_needed_column() {
    let scene = Scene::new().await;
    scene.database.execute("ALTER TABLE outbox RENAME payload TO body").await;
    let message = refused(&scene, &[("outbox.routing_key", "{tenant}")], 3).await;
    says(&message, &["error: the outbox table public.outbox lacks columns", "\"payload\" (outbox.columns.payload)"]);
    says(
        &message,
        &["\"tenant\" (outbox.routing_key)", "hint: Add them to the table, or name the table's own columns"],
    );
    nothing_was_created(&scene).await;
    mended(&scene, &[("outbox.columns.payload", "body")]).await;
}

#[tokio::test]
async fn a_publication_without_a_selected_table() {
    let scene = Scene::new().await;
    scene.database.execute("CREATE PUBLICATION shop FOR TABLE orders, outbox").await;
    let message = refused(&scene, &[], 3).await;
    says(&message, &["error: the publication \"shop\" does not send public.ledger", "changes would be missing"]);
    let fix = "ALTER PUBLICATION \"shop\" ADD TABLE ONLY \"public\".\"ledger\"";
    says(&message, &["hint: ", fix]);
    scene.database.execute(fix).await;
    mended(&scene, &[]).await;
}

#[tokio::test]
async fn a_table_without_replica_identity_is_warned_about_before_it_is_published() {
    let scene = Scene::new().await;
    scene.database.execute("CREATE TABLE keyless (id int); INSERT INTO keyless VALUES (1)").await;
    let process = streaming(&scene, &[("source.tables", "public.ledger,public.keyless")]).await;
    let log = process.stderr();
    let warning = log.find("PostgreSQL rejects every UPDATE and DELETE on public.keyless").expect(&log);
    assert!(warning < log.find("CREATE PUBLICATION").expect(&log), "the warning comes first: {log}");
    assert!(log[warning..].contains("ALTER TABLE \\\"public\\\".\\\"keyless\\\" REPLICA IDENTITY FULL"), "{log}");
    let client = scene.database.client().await;
    client.batch_execute("UPDATE keyless SET id = 2").await.expect_err("PostgreSQL rejects it");
    commit(&scene, 1).await;
    delivered(&scene).await;
    // What the warning advises helps, while it runs.
    client
        .batch_execute("ALTER TABLE keyless REPLICA IDENTITY FULL; UPDATE keyless SET id = 2")
        .await
        .expect("updates");
    let update = &scene.vhost.consume("all", 1, SOON).await[0];
    assert_eq!(update.routing_key, "public.keyless.update");
}

#[tokio::test]
async fn a_slot_in_use_is_waited_for_and_then_the_user_is_named() {
    let scene = Scene::new().await;
    let mut first = streaming(&scene, &[]).await;
    let other = path(&folder("other"));
    let overrides = [("checkpoint.path", other.as_str()), ("standby_timeout_ms", "300")];
    let message = refused(&scene, &overrides, 3).await;
    let slot = scene.database.name();
    let sql = format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{slot}'");
    let pid = scene.database.query_one(&sql).await;
    says(&message, &[&format!("error: replication slot \"{slot}\" is in use by PID {pid} (user postgres")]);
    says(&message, &["hint: ", &format!("pg_terminate_backend({pid})"), "standby_timeout_ms"]);
    // A patient one takes over when the first ends.
    let second = start(&scene, &[("checkpoint.path", &other)]);
    second.wait_for_log("standing by", SOON).await;
    first.terminate();
    assert_eq!(first.wait(SOON).await.0, Some(0));
    second.wait_for_log("streaming from PostgreSQL", SOON).await;
    commit(&scene, 1).await;
    delivered(&scene).await;
}

#[tokio::test]
async fn a_slot_of_another_plugin_or_database() {
    let (scene, elsewhere) = (Scene::new().await, postgres().database().await);
    let slot = scene.database.name();
    for (owner, plugin, what) in [
        (&scene.database, "test_decoding", "uses the output plugin test_decoding; pgsluice reads pgoutput".to_owned()),
        (
            &elsewhere,
            "pgoutput",
            format!("is of the database \"{}\", and the connection is to \"{slot}\"", elsewhere.name()),
        ),
    ] {
        owner.execute(&format!("SELECT pg_create_logical_replication_slot('{slot}', '{plugin}')")).await;
        let message = refused(&scene, &[], 3).await;
        says(
            &message,
            &[&format!("error: replication slot \"{slot}\" {what}"), "hint: Set `source.slot` to another name"],
        );
        owner.execute(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
        nothing_was_created(&scene).await;
    }
    mended(&scene, &[]).await;
}

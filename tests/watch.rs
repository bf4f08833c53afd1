//! What the stream can't tell of itself: a publication that somebody alters, and a server that shuts down.

use crate::bad_input::{ended, says, streaming};
use crate::support::{
    Account, PostgresServer, Process, RabbitServer, SOON, Scene, eventually, pgsluice, pgsluice_command, rabbitmq,
};

const OFTEN: &[(&str, &str)] = &[("source.watch_every_ms", "200"), ("source.report_every_ms", "200")];

async fn insert(scene: &Scene) {
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
}

/// Streams, and has delivered a row.
async fn watched(scene: &Scene) -> (Process, Account, crate::support::Consumer) {
    let process = streaming(scene, OFTEN).await;
    let (mut account, mut consumer) = (Account::default(), scene.vhost.consumer("all").await);
    insert(scene).await;
    account.settle(scene, &mut consumer, SOON).await;
    (process, account, consumer)
}

async fn reset(process: &Process) {
    let config = process.config_path().display().to_string();
    let mut reset = pgsluice_command(&["checkpoint", "reset", "--config", &config], &[]);
    let (code, output) = reset.wait(SOON).await;
    assert_eq!(code, Some(0), "{output}");
}

#[tokio::test]
async fn a_table_that_somebody_takes_out_of_the_publication_is_in_doubt_until_a_human_has_looked() {
    let scene = Scene::new().await;
    let (mut process, mut account, mut consumer) = watched(&scene).await;
    let before = scene.database.query_one("SELECT pg_current_wal_lsn()").await;
    scene.database.execute("ALTER PUBLICATION shop DROP TABLE ledger").await;
    // Lost; nothing in the stream says so.
    insert(&scene).await;
    let message = ended(&mut process, 5).await;
    says(&message, &["public.ledger left the publication \"shop\"", "such changes in that range may be missing"]);
    says(&message, &["hint: Somebody has altered the publication", "pgsluice checkpoint reset"]);
    let range = message.split_once("between ").expect("a range").1;
    let [from, to] = [0, 2].map(|at| range.split([' ', ':']).nth(at).expect("an LSN").to_owned());
    let inside = format!("SELECT '{from}'::pg_lsn <= '{before}' AND '{before}' < '{to}'::pg_lsn");
    assert_eq!(scene.database.query_one(&inside).await, "t", "{before} in {message}");
    // Put back, it is in doubt all the same, at every start.
    scene.database.execute("ALTER PUBLICATION shop ADD TABLE ledger").await;
    process.restart();
    says(&ended(&mut process, 5).await, &["public.ledger left the publication"]);
    process.restart();
    says(&ended(&mut process, 5).await, &["public.ledger left the publication"]);
    scene.database.execute("DELETE FROM ledger WHERE id = (SELECT max(id) FROM ledger)").await;
    reset(&process).await;
    process.restart();
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    // It stays accepted when the stream is opened again.
    let slot = scene.database.name();
    scene
        .database
        .execute(&format!(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{slot}'"
        ))
        .await;
    insert(&scene).await;
    loop {
        let delivery = consumer.next(SOON).await;
        // Of the row that was lost: that table is published again.
        if delivery.json()["op"] == "delete" {
            break;
        }
        account.take(&delivery);
    }
    account.settle(&scene, &mut consumer, SOON).await;
}

#[tokio::test]
async fn a_table_that_was_out_for_a_moment_and_an_operation_that_is_left_out_are_in_doubt() {
    for (alter, what) in [
        ("ALTER PUBLICATION shop DROP TABLE ledger; ALTER PUBLICATION shop ADD TABLE ledger", "public.ledger left"),
        ("ALTER PUBLICATION shop SET (publish = 'insert, delete, truncate')", "every update left"),
        (
            "ALTER PUBLICATION shop SET (publish_via_partition_root = false)",
            "the rows of partitions under their root's name left",
        ),
    ] {
        let scene = Scene::new().await;
        let (mut process, ..) = watched(&scene).await;
        scene.database.execute(alter).await;
        says(&ended(&mut process, 5).await, &[what]);
    }
}

/// A container that comes up without its disk, or a first look by hand.
#[tokio::test]
async fn a_checkpoint_that_is_lost_does_not_hide_that_a_table_was_out() {
    let scene = Scene::new().await;
    let (mut process, ..) = watched(&scene).await;
    process.kill();
    scene.database.execute("ALTER PUBLICATION shop DROP TABLE ledger").await;
    insert(&scene).await;
    scene.database.execute("ALTER PUBLICATION shop ADD TABLE ledger").await;
    std::fs::remove_file(scene.checkpoint().join("checkpoint.json")).expect("removes the checkpoint");
    process.restart();
    says(&ended(&mut process, 5).await, &["public.ledger left the publication"]);
}

#[tokio::test]
async fn a_table_that_is_dropped_or_renamed_leaves_nothing_in_doubt() {
    let scene = Scene::new().await;
    let (mut process, mut account, mut consumer) = watched(&scene).await;
    scene
        .database
        .execute("DROP TABLE orders; ALTER TABLE outbox RENAME TO old_outbox; ALTER TABLE old_outbox RENAME TO outbox")
        .await;
    let looks =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_start > '{since}'";
    let since = scene.database.query_one("SELECT clock_timestamp()").await;
    let seen = looks.replace("{since}", &since);
    // A look lasts some milliseconds: seen once in a while.
    eventually("it was looked at again", SOON, async || (scene.database.query_one(&seen).await != "1").then_some(()))
        .await;
    insert(&scene).await;
    account.settle(&scene, &mut consumer, SOON).await;
    assert!(process.runs());
    process.terminate();
    assert_eq!(process.wait(SOON).await.0, Some(0));
}

const SWAP: &str = "ALTER TABLE ledger RENAME TO ledger_before; \
                    CREATE TABLE ledger (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, filler text)";

/// As migrations do it: rows of the new table are in no publication.
#[tokio::test]
async fn another_table_in_the_place_of_one_that_is_named_is_in_doubt_until_a_human_has_looked() {
    for swap in [SWAP, "DROP TABLE ledger; CREATE TABLE ledger (LIKE orders INCLUDING ALL)"] {
        let scene = Scene::new().await;
        let (mut process, ..) = watched(&scene).await;
        scene.database.execute(swap).await;
        let left = "public.ledger (another table by now) left the publication";
        says(&ended(&mut process, 5).await, &[left]);
        process.restart();
        says(&ended(&mut process, 5).await, &[left]);
        if swap != SWAP {
            continue;
        }
        insert(&scene).await;
        reset(&process).await;
        process.restart();
        process.wait_for_log("streaming from PostgreSQL", SOON).await;
        insert(&scene).await;
        let delivery = scene.vhost.consume("all", 1, SOON).await.remove(0);
        assert_eq!((&delivery.json()["table"], &delivery.json()["after"]["id"]), (&"ledger".into(), &2.into()));
    }
}

/// Nothing selects the new name, and nothing is passed over for that: what was written comes once something does. The same if
/// pgsluice was away, and has a configuration that selects the new name alone.
#[tokio::test]
async fn a_table_that_is_renamed_to_what_nothing_selects_stops_at_its_first_change_and_loses_none() {
    let scene = Scene::new().await;
    let (mut process, mut account, mut consumer) = watched(&scene).await;
    let path = process.config_path();
    let config = std::fs::read_to_string(&path).expect("read the configuration");
    let select = |tables: &str| {
        let other = config.replacen("\"public.orders\", \"public.ledger\"", tables, 1);
        assert_ne!(config, other);
        std::fs::write(&path, other).expect("write the configuration");
    };
    insert(&scene).await;
    scene.database.execute("ALTER TABLE ledger RENAME TO book; INSERT INTO book DEFAULT VALUES").await;
    let message = ended(&mut process, 2).await;
    says(&message, &["public.book was renamed: by another name it is selected", "hint: Nothing was passed over"]);
    // It is the new name that is selected now, and rows with the old one are still to be read.
    process.kill();
    scene.database.execute("INSERT INTO book DEFAULT VALUES").await;
    select("\"public.orders\", \"public.book\"");
    process.restart();
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    scene.database.execute("ALTER TABLE book RENAME TO ledger; INSERT INTO ledger DEFAULT VALUES").await;
    says(&ended(&mut process, 2).await, &["public.ledger was renamed"]);
    process.restart();
    says(&ended(&mut process, 3).await, &["public.book"]);
    select("\"public.orders\", \"public.l*\", \"public.b*\"");
    process.restart();
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    account.settle(&scene, &mut consumer, SOON).await;
    // Who wants none of it says so.
    scene.database.execute("ALTER TABLE ledger RENAME TO archive; INSERT INTO archive DEFAULT VALUES").await;
    says(&ended(&mut process, 2).await, &["public.archive was renamed", "`\"!schema.table\"`"]);
    process.restart();
    says(&ended(&mut process, 2).await, &["public.archive was renamed", "pgsluice checkpoint reset"]);
    select("\"public.orders\", \"public.l*\", \"public.b*\", \"!public.archive\"");
    process.restart();
    scene.acknowledged().await;
    assert_eq!(scene.vhost.depth("all").await, 0);
}

/// An outbox that is renamed while the broker is away: the stream that is opened again finds it by its new name, as a table of
/// which every change is selected, and the outbox's events would be lost.
#[tokio::test]
async fn an_outbox_that_is_renamed_to_what_a_pattern_selects_stops_too_and_after_a_reconnect() {
    let scene = Scene::new().await;
    let config = scene.config("[http]\nlisten = \"127.0.0.1:0\"\n");
    let mut process = pgsluice(&config.replacen("\"public.orders\", \"public.ledger\"", "\"public.*\"", 1));
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    let client = scene.database.client().await;
    client.batch_execute("BEGIN; ALTER TABLE outbox RENAME TO outbox_before").await.expect("renames");
    let slot = scene.database.name();
    let kill = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = ";
    client.batch_execute("COMMIT").await.expect("commits");
    scene.database.execute(&format!("{kill}'{slot}'")).await;
    let event = "INSERT INTO outbox_before (aggregatetype, aggregateid, type, payload) VALUES ('a', '1', 'b', '{}')";
    // What empties it makes no event of the outbox.
    scene.database.execute("TRUNCATE outbox_before").await;
    insert(&scene).await;
    let before = scene.vhost.consume("all", 2, SOON).await;
    assert_eq!(before.iter().map(|it| it.json()["op"].clone()).collect::<Vec<_>>(), ["truncate", "insert"]);
    scene.database.execute(event).await;
    says(&ended(&mut process, 2).await, &["public.outbox_before was renamed", "set `outbox.table` to this name"]);
    let path = process.config_path();
    let config = std::fs::read_to_string(&path).expect("read the configuration");
    std::fs::write(&path, config.replace("\"public.outbox\"", "\"public.outbox_before\"")).expect("write it");
    process.restart();
    assert_eq!(scene.vhost.consume("all", 1, SOON).await[0].text(), "{}");
}

#[tokio::test]
async fn a_table_that_joins_the_publication_as_it_takes_the_place_of_another_leaves_nothing_in_doubt() {
    let scene = Scene::new().await;
    let (mut process, ..) = watched(&scene).await;
    scene.database.execute(&format!("BEGIN; {SWAP}; ALTER PUBLICATION shop ADD TABLE ledger; COMMIT")).await;
    for id in 1..=2 {
        insert(&scene).await;
        let delivery = scene.vhost.consume("all", 1, SOON).await.remove(0);
        assert_eq!((&delivery.json()["table"], &delivery.json()["after"]["id"]), (&"ledger".into(), &id.into()));
        scene.acknowledged().await;
        process.restart();
        process.wait_for_log("streaming from PostgreSQL", SOON).await;
    }
}

/// Its owner may alter it, but a table that is selected has to be in it.
#[tokio::test]
async fn a_selected_table_that_leaves_a_publication_of_the_users_own_is_in_doubt() {
    let scene = Scene::new().await;
    scene
        .database
        .execute(
            "CREATE TABLE other (id int PRIMARY KEY); CREATE PUBLICATION mine FOR TABLE orders, ledger, outbox, other",
        )
        .await;
    let overrides = [OFTEN, &[("source.publication", "mine")]].concat();
    let mut process = streaming(&scene, &overrides).await;
    scene
        .database
        .execute("ALTER PUBLICATION mine DROP TABLE other; ALTER PUBLICATION mine SET (publish = 'insert')")
        .await;
    insert(&scene).await;
    Account::default().settle(&scene, &mut scene.vhost.consumer("all").await, SOON).await;
    scene.database.execute("ALTER PUBLICATION mine DROP TABLE orders").await;
    says(&ended(&mut process, 5).await, &["public.orders left the publication \"mine\""]);
    scene.database.execute("ALTER PUBLICATION mine ADD TABLE orders").await;
    reset(&process).await;
    process.restart();
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    scene.database.execute(SWAP).await;
    says(&ended(&mut process, 5).await, &["public.ledger (another table by now) left the publication"]);
}

/// The window is full, and more than the socket holds is waiting: nobody reads what the server wants to get rid of.
#[tokio::test]
async fn a_database_can_be_shut_down_while_the_broker_is_away_and_nothing_is_read() {
    let postgres = PostgresServer::private(&[]);
    let rabbitmq = RabbitServer::private(&[]);
    let scene = Scene::on(&postgres, &rabbitmq).await;
    let overrides = [OFTEN, &[("rabbitmq.in_flight_events", "10")]].concat();
    let (process, mut account, mut consumer) = {
        let process = streaming(&scene, &overrides).await;
        (process, Account::default(), scene.vhost.consumer("all").await)
    };
    rabbitmq.pause();
    let slot = scene.database.name();
    scene.database.execute("INSERT INTO ledger (filler) SELECT repeat('x', 500) FROM generate_series(1, 20000)").await;
    let waits = format!(
        "SELECT COALESCE(wait_event, '') = 'WalSenderWriteData' FROM pg_stat_activity JOIN pg_replication_slots ON pid = active_pid
         WHERE slot_name = {slot}",
        slot = format_args!("'{slot}'")
    );
    eventually("the server can't send", SOON, async || (scene.database.query_one(&waits).await == "t").then_some(()))
        .await;
    // Panics when the server has not ended in time.
    postgres.stop();
    process.wait_for_log("must not wait for the broker", SOON).await;
    postgres.start();
    rabbitmq.resume();
    account.settle(&scene, &mut consumer, SOON * 2).await;
    assert_eq!(account.len(), 20_000);
}

/// It would be one for PostgreSQL: commits would wait for RabbitMQ, and then count as replicated though no standby has them.
#[tokio::test]
async fn a_stream_that_becomes_a_synchronous_standby_ends_until_it_is_none() {
    let postgres = PostgresServer::private(&[("synchronous_commit", "local")]);
    let scene = Scene::on(&postgres, rabbitmq()).await;
    let (process, mut account, mut consumer) = watched(&scene).await;
    let synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_priority > 0";
    for statement in ["ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"] {
        scene.database.execute(statement).await;
    }
    process.wait_for_log("a synchronous standby: commits would wait for RabbitMQ", SOON).await;
    eventually("it has let go", SOON, async || (scene.database.query_one(synchronous).await == "0").then_some(()))
        .await;
    insert(&scene).await;
    for statement in ["ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"] {
        scene.database.execute(statement).await;
    }
    account.settle(&scene, &mut consumer, SOON).await;
}

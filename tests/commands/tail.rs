//! `pgsluice tail`: the events as they are committed, and nothing left behind.

use rustix::process::Signal;
use serde_json::Value;

use super::{done, refused, run};
use crate::support::{Database, Process, SOON, Scene, eventually, folder, pgsluice_under, postgres};

const SHOWING: &str = "showing what is committed from now on";

/// `pgsluice tail` of the database, once it streams.
async fn tail(database: &Database, arguments: &[&str]) -> Process {
    let url = database.url();
    let mut all = vec!["tail", "--database", &url];
    all.extend(arguments);
    let process = run(&all);
    process.wait_for_log(SHOWING, SOON).await;
    process
}

async fn lines(process: &Process, count: usize) -> Vec<Value> {
    let lines = eventually("the events are printed", SOON, async || {
        let stdout = process.stdout();
        (stdout.lines().count() >= count).then_some(stdout)
    });
    lines
        .await
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

async fn publications(database: &Database) -> String {
    database.query_one("SELECT count(*) FROM pg_publication").await
}

async fn slots(database: &Database) -> String {
    database.query_one("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()").await
}

async fn nothing_is_left(database: &Database) {
    assert_eq!(publications(database).await, "0");
    eventually("the slot is gone", SOON, async || (slots(database).await == "0").then_some(())).await;
}

async fn shop() -> Database {
    let database = postgres().database().await;
    database
        .execute(
            "CREATE TABLE orders (id int PRIMARY KEY, total numeric); CREATE TABLE audit (id int PRIMARY KEY); \
             CREATE TABLE keyless (id int)",
        )
        .await;
    database
}

#[tokio::test]
async fn events_are_lines_of_json_and_a_signal_leaves_nothing_behind() {
    let database = shop().await;
    for signal in [Signal::TERM, Signal::INT] {
        let process = tail(&database, &["--table", "public.*", "--table", "!public.audit"]).await;
        assert_eq!((publications(&database).await, slots(&database).await), ("1".to_owned(), "1".to_owned()));
        database.execute("INSERT INTO audit VALUES (1); INSERT INTO orders VALUES (1, 12345678901234567890.10)").await;
        database.execute("UPDATE orders SET total = 2").await;
        database.execute("DELETE FROM orders; DELETE FROM audit").await;
        let events = lines(&process, 3).await;
        let ops: Vec<&str> = events.iter().map(|event| event["op"].as_str().expect("an op")).collect();
        assert_eq!(ops, ["insert", "update", "delete"]);
        assert_eq!(events[0]["after"]["total"], "12345678901234567890.10");
        assert_eq!(events[0]["table"], "orders");
        process.signal(signal);
        let printed = done(process).await;
        assert_eq!(printed.lines().count(), 3, "the audit is not shown: {printed}");
        assert!(!printed.contains('\x1b'), "no colours but on a terminal");
        nothing_is_left(&database).await;
    }
}

/// A publication of a table without a replica identity would keep the application from its updates.
#[tokio::test]
async fn looking_never_breaks_the_application() {
    let database = shop().await;
    let process = tail(&database, &[]).await;
    assert!(process.stderr().contains("left out: \"public\".\"keyless\""), "{}", process.stderr());
    database
        .execute("INSERT INTO keyless VALUES (1); UPDATE keyless SET id = 2; INSERT INTO orders VALUES (1, 1)")
        .await;
    let events = lines(&process, 1).await;
    assert_eq!(events[0]["table"], "orders");
    let url = database.url();
    let only = refused(run(&["tail", "-d", &url, "-t", "public.keyless"]), 3).await;
    assert!(only.contains("no table can be published: \"public\".\"keyless\""), "{only}");
    process.terminate();
    done(process).await;
    nothing_is_left(&database).await;
}

#[tokio::test]
async fn after_a_kill_the_slot_is_gone_and_the_next_one_drops_the_publication() {
    let database = shop().await;
    let alive = tail(&database, &[]).await;
    let mut killed = tail(&database, &[]).await;
    killed.kill();
    let one_slot = async || (slots(&database).await == "1").then_some(());
    eventually("the slot of the killed one is gone", SOON, one_slot).await;
    assert_eq!(publications(&database).await, "2");
    let next = tail(&database, &[]).await;
    assert_eq!(publications(&database).await, "2", "that of the killed one is dropped, and of no other");
    database.execute("INSERT INTO orders VALUES (1, 1)").await;
    for process in [&alive, &next] {
        lines(process, 1).await;
        process.terminate();
    }
    done(alive).await;
    done(next).await;
    nothing_is_left(&database).await;
}

#[tokio::test]
async fn who_may_not_create_a_publication_is_told_and_may_use_one() {
    let database = shop().await;
    let role = format!("{}_reader", database.name());
    database
        .execute(&format!("CREATE ROLE {role} LOGIN REPLICATION; CREATE PUBLICATION theirs FOR TABLE orders"))
        .await;
    let url = database.url_as(&role);
    let error = refused(run(&["tail", "-d", &url]), 3).await;
    assert!(error.contains("permission denied") && error.contains("--publication NAME"), "{error}");
    let error = refused(run(&["tail", "-d", &url, "--publication", "nobodys"]), 3).await;
    assert!(error.contains("there is no publication \"nobodys\""), "{error}");
    let process = run(&["tail", "-d", &url, "--publication", "theirs"]);
    process.wait_for_log(SHOWING, SOON).await;
    database.execute("INSERT INTO orders VALUES (1, 1)").await;
    lines(&process, 1).await;
    process.terminate();
    done(process).await;
    assert_eq!(publications(&database).await, "1", "it is not ours to drop");
}

#[tokio::test]
async fn formats_are_those_of_the_configuration_or_of_the_flag() {
    let database = shop().await;
    let cloudevents = tail(&database, &["--format", "cloudevents"]).await;
    let whole = tail(&database, &["--format", "debezium", "--properties"]).await;
    database.execute("INSERT INTO orders VALUES (1, 1)").await;
    let event = lines(&cloudevents, 1).await.remove(0);
    assert_eq!(event["specversion"], "1.0");
    let event = lines(&whole, 1).await.remove(0);
    assert_eq!(event["routing_key"], "public.orders.insert");
    assert_eq!(event["body"]["op"], "c");
    assert!(event["message_id"].as_str().is_some_and(|id| id.starts_with("pgsluice:")), "{event}");
    assert!(event["headers"]["committed_at_us"].is_i64(), "{event}");
    for process in [cloudevents, whole] {
        process.terminate();
        done(process).await;
    }
    nothing_is_left(&database).await;
}

/// Beside the pgsluice that runs, with its publication; no event of its is taken away.
#[tokio::test]
async fn with_a_configuration_the_outbox_is_shown_as_it_is_published() {
    let scene = Scene::new().await;
    let file = folder("tail").join("pgsluice.toml");
    std::fs::write(&file, scene.config("")).expect("write the configuration");
    let running = scene.run().await;
    let process = run(&["tail", "--config", file.to_str().expect("text"), "--properties"]);
    process.wait_for_log(SHOWING, SOON).await;
    scene
        .database
        .execute(
            "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) \
             VALUES (gen_random_uuid(), 'order', '1', 'OrderPlaced', '{\"n\": 1.10}')",
        )
        .await;
    let event = lines(&process, 1).await.remove(0);
    assert_eq!(
        (&event["exchange"], &event["routing_key"]),
        (&Value::from("shop.events"), &Value::from("order.OrderPlaced"))
    );
    let delivery = scene.vhost.consume("all", 1, SOON).await.remove(0);
    assert_eq!(event["message_id"], delivery.message_id.as_str());
    assert!(process.stdout().contains("1.10"), "every digit: {}", process.stdout());
    process.terminate();
    done(process).await;
    assert_eq!(publications(&scene.database).await, "1", "that of the running one");
    drop(running);
}

/// `pgsluice tail | head -n 1`
#[tokio::test]
async fn who_has_seen_enough_ends_it() {
    let database = shop().await;
    let wrapper = ["bash", "-c", "exec \"$0\" \"$@\" > >(head -n 1 >&2)"];
    let mut process = pgsluice_under(&wrapper, &["tail", "--database", &database.url()], &[]);
    process.wait_for_log(SHOWING, SOON).await;
    database.execute("INSERT INTO orders VALUES (1, 1)").await;
    process.wait_for_log("\"op\":\"insert\"", SOON).await;
    let ended = eventually("it ends with its reader", SOON, async || {
        database.execute("UPDATE orders SET total = total + 1").await;
        (!process.runs()).then_some(())
    });
    ended.await;
    let (code, log) = process.wait(SOON).await;
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("error"), "{log}");
    nothing_is_left(&database).await;
}

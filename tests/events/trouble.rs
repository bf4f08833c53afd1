//! Rules when something dies between the events of one change, when a row does not fit, and when a table is altered.

use std::collections::BTreeSet;

use serde_json::json;

use super::{PAID, rule, run, scene};
use crate::bad_input::says;
use crate::support::{SOON, Scene, eventually, pgsluice};

const STOP: &str = "poison.policy = \"stop\"\n";

/// What pgsluice says of a configuration that the database does not fit.
async fn refused(scene: &Scene, rules: &str, parts: &[&str]) {
    let (code, log) = pgsluice(&scene.config(rules)).wait(SOON).await;
    assert_eq!(code, Some(3), "{log}");
    says(&log, parts);
    let publications = scene.database.query_one("SELECT count(*) FROM pg_publication").await;
    assert_eq!(publications, "0", "nothing was created");
}

#[tokio::test]
async fn a_rule_that_does_not_fit_its_table_is_refused_before_anything_is_created() {
    let scene = scene().await;
    let billed = |more: &str| rule(&format!("type = \"Billed\"\n{more}"));
    let lists = "hint: PostgreSQL sends of public.bills: id, customer, status, total";
    for (more, what) in [
        (
            "when = \"new.state == 'paid'\"",
            "`events[0].when` uses the column \"state\", which public.bills does not have",
        ),
        ("routing_key = \"x.{new.state}\"", "`events[0].routing_key` uses the column \"state\""),
        ("headers = { x = \"{old.state}\" }", "`events[0].headers.x` uses the column \"state\""),
        ("data = [\"id\", \"state\"]", "`events[0].data` uses the column \"state\""),
        ("data = [\"*\", \"!state\"]", "`events[0].data` uses the column \"state\""),
        ("compute = { x = \"new['größe']\" }", "`events[0].compute.x` uses the column \"größe\""),
        (
            "rename = { status = \"email\" }",
            "`events[0].rename` gives a field the name \"email\", which another one has",
        ),
    ] {
        refused(&scene, &billed(more), &[what, lists]).await;
    }
    let parts = ["the table public.bill, which `events[0].table` names, does not exist", "Did you mean public.bills?"];
    refused(&scene, "[[events]]\ntable = \"public.bill\"\ntype = \"x\"", &parts).await;
}

#[tokio::test]
async fn a_condition_on_old_rows_that_postgresql_does_not_send_is_refused() {
    let scene = scene().await;
    let orders = |when: &str| format!("[[events]]\ntable = \"public.orders\"\ntype = \"Paid\"\nwhen = \"{when}\"");
    let hint = "hint: Run ALTER TABLE \"public\".\"orders\" REPLICA IDENTITY FULL";
    let parts =
        ["uses old.status, which PostgreSQL does not send of public.orders: its replica identity is DEFAULT", hint];
    refused(&scene, &orders("op == 'update' && old.status != new.status"), &parts).await;
    refused(&scene, &orders("'status' in changed"), &["uses changed, which PostgreSQL does not send", hint]).await;
    let _running = run(&scene, &orders("op == 'update' && old.id == new.id && !has(old.status)")).await;
    scene.database.execute("INSERT INTO orders VALUES (1, 'a', 1, 'x'); UPDATE orders SET status = 'y'").await;
    let events = scene.vhost.consume("all", 3, SOON).await;
    assert!(events[2].message_id.ends_with(":Paid"), "{}", events[2].message_id);
}

/// Otherwise it is an empty text, and the events go elsewhere than they should.
#[tokio::test]
async fn a_template_with_what_postgresql_does_not_send_of_old_rows_is_refused() {
    let scene = scene().await;
    let orders = |more: &str| format!("[[events]]\ntable = \"public.orders\"\nname = \"x\"\ntype = \"x\"\n{more}");
    for (key, more) in [
        ("type", "type = \"{old.status}\""),
        ("exchange", "exchange = \"{old.status}\""),
        ("routing_key", "routing_key = \"x.{old.id}.{old.status}\""),
        ("key", "key = \"{old.status}\""),
        ("headers.was", "headers = { was = \"{old.status}\" }"),
    ] {
        let uses = format!("`events[0].{key}` uses {{old.status}}, which PostgreSQL does not send of public.orders");
        let parts =
            [&*uses, "its replica identity is DEFAULT", "ALTER TABLE \"public\".\"orders\" REPLICA IDENTITY FULL"];
        let config = orders(more);
        let config = if key == "type" { config.replace("type = \"x\"\n", "") } else { config };
        refused(&scene, &config, &parts).await;
    }
    let _running = run(&scene, &orders("on = \"insert\"\nheaders = { was = \"{old.status}{old.id}\" }")).await;
}

/// The index holds it, but the WAL does not.
#[tokio::test]
async fn a_column_that_the_key_only_includes_is_not_sent_of_old_rows() {
    let scene = scene().await;
    let table = "CREATE TABLE parcels (id int, status text, PRIMARY KEY (id) INCLUDE (status))";
    scene.database.execute(table).await;
    let parcels = |when: &str| {
        format!("[[events]]\ntable = \"public.parcels\"\ntype = \"Sent\"\non = \"update\"\nwhen = \"{when}\"")
    };
    let parts = ["uses old.status, which PostgreSQL does not send of public.parcels: its replica identity is DEFAULT"];
    refused(&scene, &parcels("old.status != new.status"), &parts).await;
    let _running = run(&scene, &parcels("old.id == new.id")).await;
    scene.database.execute("INSERT INTO parcels VALUES (1, 'a'); UPDATE parcels SET status = 'b'").await;
    assert_eq!(scene.vhost.consume("all", 1, SOON).await[0].json()["data"], json!({"id": 1, "status": "b"}));
}

/// Its old rows come as whole ones, with nulls: a condition would be false, and nobody would know.
#[tokio::test]
async fn a_partition_that_logs_less_of_old_rows_than_its_table_is_refused_where_a_rule_sees_them() {
    let scene = scene().await;
    let tables = "CREATE TABLE visits (id int PRIMARY KEY, status text) PARTITION BY RANGE (id);
        CREATE TABLE visits_1 PARTITION OF visits FOR VALUES FROM (0) TO (9);
        CREATE TABLE visits_2 PARTITION OF visits FOR VALUES FROM (9) TO (99);
        ALTER TABLE visits REPLICA IDENTITY FULL; ALTER TABLE visits_1 REPLICA IDENTITY FULL";
    scene.database.execute(tables).await;
    let visits = |more: &str| format!("[[events]]\ntable = \"public.visits\"\ntype = \"Visit\"\n{more}\n");
    let was = visits("on = \"update\"\nwhen = \"old.status == 'a'\"");
    for rule in [
        &was,
        &visits("on = \"update\"\ncompute = { x = \"changed\" }"),
        &visits("on = \"update\"\nheaders = { was = \"{old.status}\" }"),
        &visits("on = [\"insert\", \"delete\"]"),
    ] {
        let parts = [
            "`events[0]` sees old rows, and the replica identity of public.visits_2 is not that of public.visits",
            "hint: Run ALTER TABLE \"public\".\"visits_2\" REPLICA IDENTITY FULL",
        ];
        refused(&scene, rule, &parts).await;
    }
    let mut running = run(&scene, &visits("on = [\"insert\", \"update\"]\nwhen = \"new.status == 'a'\"")).await;
    running.kill();
    scene.database.execute("ALTER TABLE visits_2 REPLICA IDENTITY FULL").await;
    let _running = run(&scene, &was).await;
    scene.database.execute("INSERT INTO visits VALUES (1, 'a'), (10, 'a'); UPDATE visits SET status = 'b'").await;
    let events = scene.vhost.consume("all", 2, SOON).await;
    assert_eq!([0, 1].map(|event| events[event].json()["data"]["id"].clone()), [json!(1), json!(10)]);
}

/// Otherwise the first delete would be poison.
#[tokio::test]
async fn an_expression_on_a_row_that_an_operation_does_not_have_is_refused() {
    let scene = scene().await;
    let billed = |more: &str| rule(&format!("type = \"Billed\"\n{more}"));
    for (more, what, hint) in [
        (
            "when = \"new.status == 'paid'\"",
            "`events[0].when` uses new.status, and the rule is on delete too, of which there is no new row",
            "hint: set `events[0].on` = [\"insert\", \"update\"]; or ask for it first: op != 'delete', new != null",
        ),
        (
            "when = \"old.status != new.status\"",
            "`events[0].when` uses old.status, and the rule is on insert too, of which there is no old row",
            "hint: set `events[0].on` = [\"update\", \"delete\"]; or ask",
        ),
        (
            "on = \"delete\"\ncompute = { x = \"new.status\" }",
            "`events[0].compute.x` uses new.status, and the rule is on delete too, of which there is no new row",
            "hint: ask for it first: op != 'delete', new != null",
        ),
    ] {
        refused(&scene, &billed(more), &[what, hint]).await;
    }
    let guarded = "when = \"new != null && new.status == 'paid'\"\ncompute = { x = \"new.status\" }";
    let _running = run(&scene, &billed(guarded)).await;
    scene.database.execute("INSERT INTO bills (id, status) VALUES (1, 'paid'); DELETE FROM bills").await;
    scene.database.execute("INSERT INTO orders VALUES (1, 'a', 1, 'x')").await;
    let events = scene.vhost.consume("all", 2, SOON).await;
    assert_eq!((&events[0].json()["data"]["x"], &events[1].json()["table"]), (&json!("paid"), &json!("orders")));
}

/// The first event of the change is confirmed, the second one has no queue yet: at every restart all of them come again,
/// under the same names.
#[tokio::test]
async fn killed_between_the_events_of_one_change_all_of_them_come() {
    let scene = scene().await;
    for exchange in ["one", "two", "three"] {
        scene.vhost.declare_exchange(exchange, "topic").await;
    }
    scene.vhost.bind("all", "one", "#").await;
    scene.vhost.bind("all", "three", "#").await;
    let rules =
        ["one", "two", "three"].map(|it| rule(&format!("type = \"{it}\"\non = \"insert\"\nexchange = \"{it}\"")));
    let mut running = run(&scene, &rules.concat()).await;
    scene.database.execute("INSERT INTO bills (id) VALUES (1)").await;
    let mut consumer = scene.vhost.consumer("all").await;
    let first = consumer.next(SOON).await;
    assert_eq!(first.exchange, "one");
    running.kill();
    running.restart();
    let again = consumer
        .until(SOON, |all| {
            all.iter().any(|it| it.exchange == "one" && !it.redelivered && it.message_id == first.message_id)
        })
        .await;
    assert!(again.iter().all(|it| it.exchange != "two"));
    running.kill();
    scene.vhost.bind("all", "two", "#").await;
    running.restart();
    let all = consumer
        .until(SOON, |all| all.iter().any(|it| it.exchange == "three") && all.iter().any(|it| it.exchange == "two"))
        .await;
    let names: BTreeSet<&str> = all.iter().chain(&again).map(|it| it.message_id.as_str()).collect();
    let change = first.message_id.strip_suffix(":one").expect("the rule's name");
    assert_eq!(names, ["one", "three", "two"].map(|it| format!("{change}:{it}")).iter().map(String::as_str).collect());
    let number = |exchange: &str| {
        all.iter().rev().find(|it| it.exchange == exchange).expect("came").headers["transaction_number"].clone()
    };
    assert_eq!([number("one"), number("two"), number("three")], [json!(1), json!(2), json!(3)]);
    scene.acknowledged().await;
}

/// It is a poison event: what came before it is published, it is named without its values, and it is never passed over.
#[tokio::test]
async fn a_row_for_which_a_condition_has_no_value_stops_there() {
    let scene = scene().await;
    let rules = rule("type = \"Big\"\non = \"insert\"\nwhen = \"double(new.customer) > 1.0\"");
    let mut running = run(&scene, &format!("{STOP}{rules}")).await;
    scene.database.execute("INSERT INTO bills (id, customer) VALUES (1, '2'), (2, '0'), (3, 'secret'), (4, '5')").await;
    for attempt in 1..=2 {
        let (code, log) = running.wait(SOON).await;
        assert_eq!(code, Some(8), "{log}");
        let what = [
            "can't publish the insert of public.bills at ",
            "`events[0].when` can't be evaluated",
            "`double` can't be applied",
            "hint: ",
        ];
        says(&log, &what);
        assert!(!log.contains("secret"), "a value is never told: {log}");
        if attempt == 1 {
            running.restart();
        }
    }
    let event = scene.vhost.consume("all", 1, SOON).await.remove(0);
    assert_eq!(event.json()["data"]["id"], 1);
    let cautious = "when = \"new.customer.matches('^[0-9]+$') && double(new.customer) > 1.0\"";
    let _running = run(&scene, &rules.replace("when = \"double(new.customer) > 1.0\"", cautious)).await;
    eventually("the row behind it", SOON, async || {
        let event = scene.vhost.consume("all", 1, SOON).await.remove(0).json();
        (event["data"]["id"] == 4).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_table_that_is_altered_stops_at_the_first_row_that_does_not_fit_and_not_before() {
    let scene = scene().await;
    let mut running =
        run(&scene, &format!("{STOP}{}", rule(&format!("{PAID}\ncompute = {{ mail = \"new.email\" }}")))).await;
    scene.database.execute("ALTER TABLE bills ADD extra int; INSERT INTO bills (id, status) VALUES (1, 'new')").await;
    scene.database.execute("UPDATE bills SET status = 'paid'").await;
    assert_eq!(scene.vhost.consume("all", 1, SOON).await[0].json()["data"]["id"], 1);
    scene.database.execute("ALTER TABLE bills RENAME email TO mail").await;
    // The rule is on updates only.
    scene
        .database
        .execute("INSERT INTO bills (id, status) VALUES (2, 'new'); INSERT INTO orders VALUES (1, 'a', 1, 'x')")
        .await;
    assert_eq!(scene.vhost.consume("all", 1, SOON).await[0].json()["table"], "orders");
    scene.database.execute("UPDATE bills SET status = 'paid' WHERE id = 2").await;
    let (code, log) = running.wait(SOON).await;
    assert_eq!(code, Some(8), "{log}");
    let what = "`events[0].compute.mail` uses the column \"email\", which public.bills does not have";
    says(&log, &["can't publish the update of public.bills at ", what, "its columns were id, customer,"]);
    let _running = run(&scene, &rule(&format!("{PAID}\ncompute = {{ mail = \"new.mail\" }}"))).await;
    eventually("its event", SOON, async || {
        (scene.vhost.consume("all", 1, SOON).await[0].json()["data"]["id"] == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_a_template_makes_of_null_is_empty_and_no_exchange_is_no_event() {
    for (more, cause) in [
        ("exchange = \"{new.phone}\"", "the name of its exchange is empty"),
        ("routing_key = \"{new.email}\"", "255"),
        ("type = \"{new.email}\"\nname = \"x\"\nrouting_key = \"k\"", "255"),
    ] {
        let scene = scene().await;
        let more = if more.starts_with("type") { more.to_owned() } else { format!("type = \"Billed\"\n{more}") };
        let mut running = run(&scene, &format!("{STOP}{}", rule(&format!("{more}\non = \"insert\"")))).await;
        scene.database.execute("INSERT INTO bills (id, email) VALUES (1, repeat('é', 128))").await;
        let (code, log) = running.wait(SOON).await;
        assert_eq!(code, Some(8), "{log}");
        says(&log, &["can't publish the insert of public.bills as ", cause, "hint: "]);
    }
}

/// Each rule's event is parked under its own name, and those of other rules and rows go their way.
#[tokio::test]
async fn events_of_rules_that_can_not_be_made_are_parked_each_by_its_name() {
    let scene = scene().await;
    let rules = [
        rule("type = \"Big\"\non = \"insert\"\nwhen = \"double(new.customer) > 1.0\""),
        rule("type = \"Computed\"\non = \"insert\"\ncompute = { x = \"int(new.customer)\" }"),
        rule("type = \"Any\"\non = \"insert\""),
    ];
    let _running = run(&scene, &format!("poison.policy = \"park\"\n{}", rules.concat())).await;
    scene.database.execute("INSERT INTO bills (id, customer) VALUES (1, 'secret'), (2, '7')").await;
    let came = scene.vhost.consume("all", 4, SOON).await;
    let came: Vec<_> = came.iter().map(|it| (it.event_type.as_str(), it.json()["data"]["id"].clone())).collect();
    assert_eq!(came, [("Any", json!(1)), ("Big", json!(2)), ("Computed", json!(2)), ("Any", json!(2))]);
    let parked = scene.vhost.consume("shop.parked", 2, SOON).await;
    for (parked, rule) in parked.iter().zip(["Big", "Computed"]) {
        assert!(parked.message_id.ends_with(&format!(":{rule}")), "{}", parked.message_id);
        assert_eq!((&parked.headers["parked_reason"], parked.event_type.as_str()), (&json!("expression"), rule));
        let error = parked.headers["parked_error"].as_str().expect("text");
        assert!(error.contains("can't be evaluated") && !error.contains("secret"), "{error}");
    }
    scene.acknowledged().await;
}

/// What PostgreSQL leaves out itself is in no event, and no rule may ask for it.
#[tokio::test]
async fn a_column_that_a_filter_or_a_publication_leaves_out_is_refused_where_a_rule_uses_it() {
    let scene = scene().await;
    let filter = "[[source.filters]]\ntable = \"public.bills\"\nwhere = \"id < 5\"\ncolumns = [\"id\", \"status\"]\n";
    scene.database.execute("ALTER TABLE bills REPLICA IDENTITY DEFAULT").await;
    let billed = |columns: &str| rule(&format!("type = \"Billed\"\non = \"insert\"\ndata = {columns}"));
    if scene.database.query_one("SELECT current_setting('server_version_num')::int >= 150000").await == "t" {
        let config = |columns: &str| format!("{filter}{}", billed(columns));
        let parts = ["`events[0].data` uses the column \"total\"", "PostgreSQL sends of public.bills: id, status."];
        refused(&scene, &config("[\"id\", \"total\"]"), &parts).await;
        let _running = run(&scene, &config("[\"*\"]")).await;
        scene.database.execute("INSERT INTO bills (id, status, total) VALUES (7, 'x', 1), (1, 'x', 1)").await;
        let event = scene.vhost.consume("all", 1, SOON).await.remove(0).json();
        assert_eq!(event["data"], json!({"id": 1, "status": "x"}));
    }
}

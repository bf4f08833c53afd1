//! `pgsluice check`: says what a start would find and do, and does none of it.

use serde_json::Value;

use super::{at_broker, bind, config, exchange, insert, queue, run, stop};
use crate::support::{SOON, Scene, folder, pgsluice_command};

/// Exit code, standard output, standard error.
async fn check(config: &str, more: &[&str]) -> (i32, String, String) {
    let path = folder("check").join("pgsluice.toml");
    std::fs::write(&path, config).expect("write the configuration");
    let mut arguments = vec!["check", "--config", path.to_str().expect("text")];
    arguments.extend(more);
    let mut process = pgsluice_command(&arguments, &[]);
    let (code, stderr) = process.wait(SOON).await;
    (code.expect("ends by itself"), process.stdout(), stderr)
}

/// One line for each of these, which may be its beginning.
fn lines(output: &str, expected: &[&str]) {
    for expected in expected {
        assert_eq!(output.lines().filter(|line| line.starts_with(expected)).count(), 1, "{expected}\nin:\n{output}");
    }
}

fn sections() -> String {
    [
        exchange("t.changes", "alternate_exchange = \"t.rest\""),
        exchange("t.rest", "type = \"fanout\"\nauto_delete = true"),
        queue("q", "arguments = { x-delivery-limit = 5 }"),
        queue("short", "type = \"classic\"\narguments = { x-max-length = 5 }"),
        bind("t.changes", "q", "routing_key = \"orders\""),
        bind("t.changes", "all", ""),
    ]
    .concat()
}

/// What is in the way of a first start is nothing, and nothing is there afterwards.
#[tokio::test]
async fn nothing_is_created_and_all_that_would_be_is_shown() {
    let scene = Scene::new().await;
    let slot = scene.database.name();
    let (code, output, stderr) = check(&config(&scene, "", &sections()), &[]).await;
    assert_eq!((code, stderr.as_str()), (0, ""), "{output}");
    lines(
        &output,
        &[
            "ok       postgresql: PostgreSQL ",
            "ok       postgresql: the outbox public.outbox has the columns that are used: aggregateid, ",
            "ok       postgresql: selected tables: public.ledger, public.orders",
            &format!("ok       postgresql: replication slot \"{slot}\" is not there: it will be created"),
            "ok       postgresql: publication \"shop\" is not there: it will be created: CREATE PUBLICATION \"shop\" FOR TABLE ",
            "ok       rabbitmq: RabbitMQ ",
            "ok       rabbitmq: queue 'all', which the binding of queue 'all' to exchange 't.changes' names is there",
            "ok       rabbitmq: exchange 't.changes' is not there: it will be declared, topic, alternate-exchange = \"t.rest\"",
            "ok       rabbitmq: exchange 't.rest' is not there: it will be declared, fanout, auto-delete",
            "ok       rabbitmq: exchange 't.events' is not there: it will be declared, topic",
            "ok       rabbitmq: queue 'q' is not there: it will be declared, durable, x-delivery-limit = 5, x-queue-type = \"quorum\"",
            "ok       rabbitmq: queue 'short' is not there: it will be declared, durable, ",
            "ok       rabbitmq: the binding of queue 'q' to exchange 't.changes' will be declared, routing key 'orders', unless",
            "ok       rabbitmq: the binding of queue 'all' to exchange 't.changes' will be declared, routing key '#', unless",
            "warning  rabbitmq: exchange 't.rest' is deleted with its last binding",
            "warning  rabbitmq: queue 'short' is classic",
            "warning  rabbitmq: queue 'short' drops its oldest messages",
            "warning  rabbitmq: queue 'short' is bound by no ",
        ],
    );
    let position = |text: &str| output.find(text).unwrap_or_else(|| panic!("{text} in {output}"));
    assert!(position("exchange 't.rest' is not") < position("exchange 't.changes' is not"), "{output}");
    let left = format!(
        "SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}') + (SELECT count(*) FROM pg_publication)"
    );
    assert_eq!(scene.database.query_one(&left).await, "0");
    for (list, name) in [
        ("exchanges", "t.changes"),
        ("exchanges", "t.rest"),
        ("exchanges", "t.events"),
        ("queues", "q"),
        ("queues", "short"),
    ] {
        assert!(at_broker(&scene.vhost, list, name).is_none(), "{list}/{name} was declared");
    }
    assert!(!scene.checkpoint().exists(), "no checkpoint's folder");
}

#[tokio::test]
async fn what_is_there_is_named_while_pgsluice_runs_and_after() {
    let scene = Scene::new().await;
    let (slot, config) = (scene.database.name(), config(&scene, "", &sections()));
    let running = run(&scene, &sections()).await;
    insert(&scene).await;
    scene.acknowledged().await;
    for is_running in [true, false] {
        let (code, output, stderr) = check(&config, &[]).await;
        assert_eq!(code, 0, "{output}{stderr}");
        lines(
            &output,
            &[
                &format!("ok       postgresql: replication slot \"{slot}\" can go on from the checkpoint, "),
                "ok       postgresql: publication \"shop\" sends all that is selected",
                "ok       rabbitmq: exchange 't.changes' is there; whether it is topic, alternate-exchange = \"t.rest\" shows only",
                "ok       rabbitmq: queue 'q' is there; whether it is durable, x-delivery-limit = 5, ",
            ],
        );
        assert_eq!(output.contains("reads from it now"), is_running, "{output}");
        assert!(!output.contains("is not there"), "{output}");
        if is_running {
            running.terminate();
            crate::support::eventually("it has let go", SOON, async || {
                let sql = format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}'");
                (scene.database.query_one(&sql).await == "f").then_some(())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn what_would_be_changed_and_what_is_in_doubt() {
    let scene = Scene::new().await;
    stop(run(&scene, "").await).await;
    let more = config(&scene, "", "").replacen("\"public.ledger\"]", "\"public.ledger\", \"public.late\"]", 1);
    scene.database.execute("CREATE TABLE late (id int PRIMARY KEY)").await;
    let (code, output, _) = check(&more, &[]).await;
    assert_eq!(code, 0, "{output}");
    let statement = "ok       postgresql: publication \"shop\" will be changed: BEGIN; SET LOCAL statement_timeout = '500ms'; \
                     LOCK TABLE \"public\".\"late\" IN SHARE ROW EXCLUSIVE MODE; ALTER PUBLICATION \"shop\" ADD TABLE ";
    lines(&output, &[statement]);
    scene.database.execute("ALTER PUBLICATION shop DROP TABLE orders").await;
    let (code, output, stderr) = check(&more, &[]).await;
    assert_eq!(code, 5, "{output}{stderr}");
    assert!(output.contains("failure  postgresql: ") && output.contains("public.orders"), "{output}");
    let sql = "SELECT count(*) FROM pg_publication_tables WHERE tablename IN ('late', 'orders')";
    assert_eq!(scene.database.query_one(sql).await, "0", "it is as it was");
}

#[tokio::test]
async fn what_is_missing_is_a_failure_with_the_exit_code_of_a_start() {
    let scene = Scene::new().await;
    let nothing_there = config(&scene, "declare = false", &sections());
    let (code, output, stderr) = check(&nothing_there, &[]).await;
    assert_eq!((code, stderr.as_str()), (4, "error: 5 checks failed\n"), "{output}");
    lines(
        &output,
        &[
            "failure  rabbitmq: RabbitMQ refuses exchange 't.changes': it does not exist: NOT_FOUND",
            "failure  rabbitmq: RabbitMQ refuses exchange 't.rest': it does not exist",
            "failure  rabbitmq: RabbitMQ refuses exchange 't.events': it does not exist",
            "failure  rabbitmq: RabbitMQ refuses queue 'q': it does not exist",
            "failure  rabbitmq: RabbitMQ refuses queue 'short': it does not exist",
        ],
    );
    assert!(output.contains("\n         hint: create it, or let pgsluice declare it"), "{output}");

    let (code, output, _) = check(&config(&scene, "", &queue("q", "dead_letter_exchange = \"no\"")), &[]).await;
    assert_eq!(code, 4, "{output}");
    lines(&output, &["failure  rabbitmq: RabbitMQ refuses exchange 'no', the dead-letter exchange of queue 'q'"]);

    // The first failure decides; the others are named too.
    scene.database.execute("ALTER TABLE outbox RENAME COLUMN payload TO body").await;
    let (code, output, stderr) = check(&nothing_there.replacen("ledger\"", "leger\"", 1), &["--json"]).await;
    assert_eq!((code, stderr.as_str()), (3, "error: 6 checks failed\n"), "{output}");
    let first_failure = |output: &str| -> Value {
        let lines = output.lines().map(|line| serde_json::from_str::<Value>(line).expect("an object"));
        lines.into_iter().find(|line| line["level"] == "failure").expect("a failure")
    };
    let failure = first_failure(&output);
    assert_eq!((&failure["part"], &failure["code"]), (&"postgresql".into(), &3.into()));
    assert!(failure["message"].as_str().is_some_and(|text| text.contains("public.leger")), "{failure}");
    assert_eq!(failure["hint"], "Did you mean public.ledger? Names are compared exactly, with their case.");
    let (_, output, _) = check(&nothing_there, &["--json"]).await;
    let message = first_failure(&output)["message"].to_string();
    assert!(
        message.contains("lacks columns that the configuration needs: \\\"payload\\\" (outbox.columns.payload)"),
        "{message}"
    );
}

#[tokio::test]
async fn servers_that_are_away_are_not_waited_for() {
    let scene = Scene::new().await;
    let away = config(&scene, "", "").replace(&scene.database.url(), "postgres://app@127.0.0.1:1/shop");
    let (code, output, _) = check(&away.replace(&scene.vhost.url(), "amqp://127.0.0.1:1"), &[]).await;
    assert_eq!(code, 6, "{output}");
    lines(&output, &["failure  postgresql: ", "failure  rabbitmq: no connection to RabbitMQ: 127.0.0.1:1: "]);
    let (code, output, stderr) = check("name = \"Shop\"", &[]).await;
    assert_eq!((code, output.as_str()), (2, ""), "{stderr}");
}

/// Nobody declares it, since its name follows from the tables.
#[tokio::test]
async fn an_exchange_that_a_template_names_is_looked_for_by_the_tables() {
    let scene = Scene::new().await;
    let by_table = |sections: &str| {
        config(&scene, "", sections).replacen("exchange = \"t.changes\"", "exchange = \"t.{table}.{op}\"", 1)
    };
    let (code, output, _) = check(&by_table(&exchange("t.orders.insert", "")), &[]).await;
    assert_eq!(code, 0, "{output}");
    lines(
        &output,
        &[
            "ok       rabbitmq: exchange 't.orders.insert' is not there: it will be declared",
            "warning  rabbitmq: exchange 't.orders.update' is not there, and changes of selected tables go to it",
            "warning  rabbitmq: exchange 't.ledger.truncate' is not there, and ",
        ],
    );
    scene.vhost.declare_exchange("t.orders.update", "topic").await;
    let (_, output, _) = check(&by_table(""), &[]).await;
    assert!(!output.contains("'t.orders.update'"), "{output}");
    lines(&output, &["warning  rabbitmq: exchange 't.orders.insert' is not there"]);
}

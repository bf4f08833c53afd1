//! Several pipelines in one process: each delivers its own database, and what ends one ends no other.

#![allow(clippy::float_cmp, reason = "whole numbers, and small ones")]

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::browser::Browser;
use crate::support::{
    Account, Load, PostgresServer, Process, SOON, Scene, Web, done, eventually, folder, pgsluice, pgsluice_command,
    rabbitmq, refused,
};

/// Two shops with a database and a virtual host each, and one configuration of both.
struct Two {
    shop: Scene,
    bill: Scene,
}

impl Two {
    async fn new() -> Self {
        Self { shop: Scene::new().await, bill: Scene::new().await }
    }

    /// `http`: where it listens, with more lines of that section; the others are of one pipeline each.
    fn config_with(&self, http: &str, shop: &str, bill: &str) -> String {
        let (shop, bill) = (section("shop", &self.shop, shop), section("bill", &self.bill, bill));
        format!(
            "[source]\ntables = [\"public.orders\", \"public.ledger\"]\nwatch_every_ms = 200\nreport_every_ms = 200\n\
             [changes]\nexchange = \"shop.changes\"\n[http]\n{http}\n{shop}{bill}"
        )
    }

    fn config(&self) -> String {
        self.config_with("listen = \"127.0.0.1:0\"", "", "")
    }

    /// Once both stream.
    async fn run(&self, config: &str) -> (Process, Web) {
        let process = pgsluice(config);
        let web = Web::of(&process).await;
        web.becomes(&[]).await;
        (process, web)
    }
}

/// One of them.
pub(crate) fn section(name: &str, scene: &Scene, more: &str) -> String {
    let (slot, url, amqp) = (scene.database.name(), scene.database.url(), scene.vhost.url());
    let checkpoint = scene.checkpoint();
    format!(
        "[[pipelines]]\nname = \"{name}\"\nsource = {{ url = \"{url}\", slot = \"{slot}\" }}\nrabbitmq.url = \"{amqp}\"\n\
         checkpoint.path = \"{}\"\n{more}\n",
        checkpoint.display()
    )
}

async fn insert(scene: &Scene, ids: std::ops::Range<u32>) {
    let (from, to) = (ids.start, ids.end - 1);
    scene
        .database
        .execute(&format!("INSERT INTO orders SELECT g, 'ann', g, 'new' FROM generate_series({from}, {to}) g"))
        .await;
}

/// The lines of the log that are about one pipeline.
fn of<'l>(log: &'l str, name: &str) -> Vec<Value> {
    let lines = log.lines().filter_map(|line: &'l str| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["pipeline"] == name).collect()
}

/// Has its slot dropped, which is a definite failure.
async fn lose_the_slot(scene: &Scene) {
    let slot = scene.database.name();
    let drop_it = format!(
        "SELECT count(pg_terminate_backend(active_pid))::text FROM pg_replication_slots WHERE slot_name = '{slot}'"
    );
    let client = scene.database.client().await;
    eventually("the slot is dropped between two streams", SOON, async || {
        scene.database.query_one(&drop_it).await;
        client.batch_execute(&format!("SELECT pg_drop_replication_slot('{slot}')")).await.ok()
    })
    .await;
}

#[tokio::test]
async fn each_delivers_its_own_and_is_told_apart() {
    let two = Two::new().await;
    let (mut process, web) = two.run(&two.config()).await;
    insert(&two.shop, 1..31).await;
    insert(&two.bill, 1..11).await;
    for (scene, name, count) in [(&two.shop, "shop", 30), (&two.bill, "bill", 10)] {
        for delivery in scene.vhost.consume("all", count, SOON).await {
            assert!(delivery.message_id.starts_with(&format!("{name}:")), "{}", delivery.message_id);
        }
        let metric =
            format!("pgsluice_events_total{{table=\"public.orders\",exchange=\"shop.changes\",pipeline=\"{name}\"}}");
        eventually("it is counted", SOON, async || {
            (web.get("/metrics").await.body.contains(&format!("{metric} {count}\n"))).then_some(())
        })
        .await;
        assert_eq!(web.metric(&format!("pgsluice_pipeline_up{{pipeline=\"{name}\"}}")).await, 1.0);
        let status = web.get(&format!("/status?pipeline={name}")).await.json();
        assert_eq!((&status["name"], &status["events"]["settled"]), (&name.into(), &count.into()));
    }
    // Each metric is described once, and has the samples of both behind it.
    let text = web.get("/metrics").await.body;
    assert_eq!(text.matches("# TYPE pgsluice_lag_bytes gauge\npgsluice_lag_bytes{pipeline=\"shop\"} ").count(), 1);
    assert!(text.lines().all(|line| line.starts_with('#') || line.contains("pipeline=\"")), "{text}");
    let names: Vec<Value> =
        web.status().await["pipelines"].as_array().expect("a list").iter().map(|it| it["name"].clone()).collect();
    assert_eq!(names, ["shop", "bill"]);
    // A name that is not understood pauses none.
    let refused = [
        web.post("/pause?name=bill").await,
        web.post("/pause?Pipeline=bill").await,
        web.ask("POST", "/pause", &[("Host", "localhost"), ("Content-Length", "13")]).await,
    ];
    for answer in refused {
        assert!(answer.code == 400 && answer.body.contains("?pipeline=NAME"), "{answer:?}");
    }
    assert_eq!(web.get("/readyz").await.code, 200);
    // One is paused, and the other is not.
    let paused = web.post("/pause?pipeline=bill").await.json();
    assert_eq!(paused, json!({"paused": true, "changed": true, "pipelines": ["bill"]}));
    eventually("one is not ready", SOON, async || (web.get("/readyz").await.code == 503).then_some(())).await;
    let ready = web.get("/readyz").await.json();
    assert_eq!(ready["reasons"][0]["pipeline"], "bill");
    assert_eq!((web.get("/readyz?pipeline=shop").await.code, web.get("/readyz?pipeline=bill").await.code), (200, 503));
    insert(&two.bill, 11..12).await;
    insert(&two.shop, 31..32).await;
    two.shop.vhost.consume("all", 1, SOON).await;
    assert_eq!(two.bill.vhost.depth("all").await, 0);
    let resumed = web.post("/resume").await.json();
    assert_eq!(resumed, json!({"paused": false, "changed": true, "pipelines": ["shop", "bill"]}));
    two.bill.vhost.consume("all", 1, SOON).await;
    web.becomes(&[]).await;
    // What is about one has to say which.
    for path in ["/history", "/check"] {
        assert_eq!(web.get(path).await.code, 400, "{path}");
        assert_eq!(web.get(&format!("{path}?pipeline=shop")).await.code, 200, "{path}");
    }
    assert_eq!(web.get("/status?pipeline=x").await.code, 404);
    assert_eq!(web.get("/healthz").await.json()["live"], true);
    // Both stop, each with its checkpoint.
    for scene in [&two.shop, &two.bill] {
        scene.acknowledged().await;
    }
    process.terminate();
    let (code, log) = process.wait(SOON).await;
    assert_eq!(code, Some(0), "{log}");
    for (scene, name) in [(&two.shop, "shop"), (&two.bill, "bill")] {
        assert!(scene.checkpoint().join("checkpoint.json").exists(), "{name}");
        let lines = of(&log, name);
        for message in ["streaming from PostgreSQL", "stopped"] {
            let has = |line: &Value| line["message"].as_str().is_some_and(|said| said.starts_with(message));
            assert!(lines.iter().any(has), "{name}: {message}: {log}");
        }
    }
    // The next start repeats nothing.
    process.restart();
    let web = Web::of(&process).await;
    web.becomes(&[]).await;
    insert(&two.bill, 12..13).await;
    let next = two.bill.vhost.consume("all", 1, SOON).await;
    assert_eq!(next[0].json()["after"]["id"], 12);
    assert_eq!(two.shop.vhost.depth("all").await, 0);
}

#[tokio::test]
async fn one_that_fails_is_told_and_the_other_goes_on() {
    let two = Two::new().await;
    let (mut process, web) = two.run(&two.config()).await;
    lose_the_slot(&two.shop).await;
    web.becomes(&["failed"]).await;
    let ready = web.get("/readyz").await.json();
    assert_eq!((&ready["reasons"][0]["pipeline"], &ready["pipelines"][1]["ready"]), (&"shop".into(), &true.into()));
    assert!(ready["reasons"][0]["message"].as_str().expect("text").contains("does not exist"), "{ready}");
    assert_eq!(web.get("/readyz?pipeline=bill").await.code, 200);
    assert_eq!(web.get("/healthz").await.code, 200, "alive, though not all of it");
    for (metric, value) in [
        ("pgsluice_pipeline_up{pipeline=\"shop\"}", 0.0),
        ("pgsluice_pipeline_up{pipeline=\"bill\"}", 1.0),
        ("pgsluice_ready{pipeline=\"shop\"}", 0.0),
        ("pgsluice_ready{pipeline=\"bill\"}", 1.0),
        ("pgsluice_state{state=\"failed\",pipeline=\"shop\"}", 1.0),
    ] {
        assert_eq!(web.metric(metric).await, value, "{metric}");
    }
    let status = web.get("/status?pipeline=shop").await.json();
    assert_eq!((&status["state"], &status["last_error"]["part"]), (&"failed".into(), &"pipeline".into()));
    let log = process.stderr();
    let failure = of(&log, "shop").into_iter().find(|line| line["level"] == "ERROR").expect("an error");
    assert_eq!(failure["exit_code"], 5, "{failure}");
    assert!(!failure["hint"].as_str().expect("text").is_empty());
    assert!(of(&log, "bill").iter().all(|line| line["level"] != "ERROR"), "{log}");
    insert(&two.bill, 1..11).await;
    two.bill.vhost.consume("all", 10, SOON).await;
    two.bill.acknowledged().await;
    // The failure is the process's in the end.
    process.terminate();
    let (code, log) = process.wait(SOON).await;
    assert_eq!(code, Some(5), "{log}");
    assert!(log.contains("error: pipeline shop\n"), "{log}");
}

#[tokio::test]
async fn one_that_can_not_start_does_not_keep_the_other_from_it_and_is_started_again() {
    let two = Two::new().await;
    // A table that no database has yet, and without which there is no start.
    let config = two.config_with("listen = \"127.0.0.1:0\"", "outbox.table = \"public.later\"", "");
    let mut process = pgsluice(&config);
    let web = Web::of(&process).await;
    web.becomes(&["failed"]).await;
    assert_eq!(web.metric("pgsluice_pipeline_up{pipeline=\"shop\"}").await, 0.0);
    insert(&two.bill, 1..11).await;
    two.bill.vhost.consume("all", 10, SOON).await;
    let log = process.stderr();
    let failure = of(&log, "shop").into_iter().find(|line| line["level"] == "ERROR").expect("an error");
    assert_eq!(failure["exit_code"], 3, "{failure}");
    two.shop.database.execute("CREATE TABLE later (LIKE outbox INCLUDING ALL)").await;
    web.becomes(&[]).await;
    assert_eq!(web.metric("pgsluice_pipeline_up{pipeline=\"shop\"}").await, 1.0);
    insert(&two.shop, 1..2).await;
    two.shop.vhost.consume("all", 1, SOON).await;
    process.terminate();
    let (code, log) = process.wait(SOON).await;
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(of(&log, "shop").iter().filter(|line| line["level"] == "ERROR").count(), 1, "once: {log}");
}

/// Who was replaced by another instance stands by, as if it was started again: else nobody would take over from that one.
#[tokio::test]
async fn one_that_was_replaced_stands_by_and_takes_over_again() {
    let server = PostgresServer::private(&[("wal_sender_timeout", "1s")]);
    let two = Two { shop: Scene::on(&server, rabbitmq()).await, bill: Scene::new().await };
    let path = format!("checkpoint.path = \"{}\"", two.shop.checkpoint().display());
    let config = two.config().replace(&path, "checkpoint.store = \"postgres\"");
    let (mut first, web) = two.run(&config).await;
    let second =
        pgsluice_command(&["run", "--pipeline", "shop", "--config", first.config_path().to_str().expect("text")], &[]);
    second.wait_for_log("standing by", SOON).await;
    insert(&two.shop, 1..11).await;
    two.shop.vhost.consume("all", 10, SOON).await;
    first.signal(Signal::STOP);
    second.wait_for_log("streaming from PostgreSQL", SOON).await;
    insert(&two.shop, 11..21).await;
    two.shop.acknowledged().await;
    first.signal(Signal::CONT);
    first.wait_for_log("another pgsluice has taken over", SOON).await;
    web.becomes(&["standby"]).await;
    insert(&two.bill, 1..11).await;
    two.bill.vhost.consume("all", 10, SOON).await;
    second.terminate();
    web.becomes(&[]).await;
    insert(&two.shop, 21..31).await;
    eventually("the first streams again", SOON, async || {
        let next = two.shop.vhost.consume("all", 1, SOON).await;
        (next[0].json()["after"]["id"] == 30).then_some(())
    })
    .await;
    first.terminate();
    assert_eq!(first.wait(SOON).await.0, Some(0));
}

#[tokio::test]
async fn the_last_to_end_ends_the_process() {
    let two = Two::new().await;
    let (mut process, web) = two.run(&two.config()).await;
    lose_the_slot(&two.shop).await;
    web.becomes(&["failed"]).await;
    lose_the_slot(&two.bill).await;
    let (code, log) = process.wait(SOON).await;
    assert_eq!(code, Some(5), "{log}");
    for name in ["shop", "bill"] {
        assert!(of(&log, name).iter().any(|line| line["exit_code"] == 5), "{log}");
    }
}

#[tokio::test]
async fn a_kill_loses_nothing_of_either() {
    let two = Two::new().await;
    let mut process = pgsluice(&two.config());
    Web::of(&process).await.becomes(&[]).await;
    let loads = [
        Load::paced(&two.shop.database, Duration::from_millis(20)),
        Load::paced(&two.bill.database, Duration::from_millis(20)),
    ];
    let (mut shop, mut bill) = (Account::default(), Account::default());
    let mut of_shop = two.shop.vhost.consumer("all").await;
    let mut of_bill = two.bill.vhost.consumer("all").await;
    for _ in 0..3 {
        for _ in 0..100 {
            shop.take(&of_shop.next(SOON).await);
            bill.take(&of_bill.next(SOON).await);
        }
        process.kill();
        process.restart();
    }
    for load in loads {
        load.stop().await;
    }
    shop.settle(&two.shop, &mut of_shop, SOON).await;
    bill.settle(&two.bill, &mut of_bill, SOON).await;
}

/// An event that no queue takes holds up a stop for as long as `shutdown_timeout_ms`.
#[tokio::test]
async fn a_stop_that_takes_its_time_holds_up_no_other() {
    let two = Two::new().await;
    let nowhere = "changes.exchange = \"nowhere\"\nshutdown_timeout_ms = 600000";
    let (mut process, web) = two.run(&two.config_with("listen = \"127.0.0.1:0\"", nowhere, "")).await;
    insert(&two.shop, 1..2).await;
    web.becomes(&["broker_retrying"]).await;
    process.terminate();
    web.becomes(&["broker_retrying", "stopped"]).await;
    assert_eq!(web.metric("pgsluice_state{state=\"stopped\",pipeline=\"bill\"}").await, 1.0);
    assert!(process.runs());
    process.signal(Signal::TERM);
    assert_eq!(process.wait(SOON).await.0, Some(128 + 15));
}

#[tokio::test]
async fn commands_are_about_one_or_all() {
    let two = Two::new().await;
    let (mut process, web) = two.run(&two.config()).await;
    // The address that it has found, for who asks by the configuration.
    let path = folder("pipelines").join("two.toml");
    let listen = format!("listen = \"{}\"", web.address);
    std::fs::write(&path, two.config_with(&listen, "", "")).expect("write the configuration");
    let file = path.to_str().expect("text");
    let run = |arguments: &[&str]| pgsluice_command(&[arguments, &["--config", file]].concat(), &[]);

    for command in [
        &["checkpoint", "show"][..],
        &["schema"],
        &["slot", "list"],
        &["parked", "list"],
        &["replay", "--from", "0/1"],
        &["tail"],
        &["run", "--from", "0/1"],
    ] {
        let error = refused(run(command), 2).await;
        assert!(
            error.starts_with("error: the configuration has several pipelines, and this is about one\n"),
            "{command:?}: {error}"
        );
        assert!(error.contains("hint: say which by --pipeline: shop, bill"), "{error}");
    }
    let error = refused(run(&["check", "--pipeline", "x"]), 2).await;
    assert!(error.contains("the configuration has no pipeline \"x\"\n\nhint: there is: shop, bill"), "{error}");
    let shown = done(run(&["checkpoint", "show", "--pipeline", "bill"])).await;
    assert!(shown.contains(two.bill.database.name()) && !shown.contains(two.shop.database.name()), "{shown}");
    let contract = done(run(&["schema", "--pipeline", "shop"])).await;
    assert!(contract.contains("public.ledger"), "{contract}");

    let checked = done(run(&["check"])).await;
    for name in ["shop", "bill"] {
        assert!(
            checked.contains(&format!("{name}: postgresql: ")) && checked.contains(&format!("{name}: rabbitmq: ")),
            "{checked}"
        );
    }
    let checked = done(run(&["check", "--json", "--pipeline", "shop"])).await;
    assert!(checked.lines().all(|line| line.contains("\"pipeline\":\"shop\"")), "{checked}");

    let status = done(run(&["status"])).await;
    assert!(status.starts_with("shop: flowing (") && status.contains("\nbill: flowing ("), "{status}");
    let status = done(run(&["status", "--pipeline", "bill", "--json"])).await;
    assert_eq!(serde_json::from_str::<Value>(&status).expect("JSON")["name"], "bill");
    process.terminate();
    assert_eq!(process.wait(SOON).await.0, Some(0));
    let status = done(run(&["status"])).await;
    assert!(
        status.contains("pipeline shop\nfrom the database alone: ") && status.contains("\npipeline bill\n"),
        "{status}"
    );
    let status: Value = serde_json::from_str(&done(run(&["status", "--json"])).await).expect("JSON");
    assert_eq!(status["pipelines"][1]["slots"][0]["name"], two.bill.database.name());

    let shown = done(run(&["config", "show"])).await;
    assert_eq!(
        (shown.matches("[[pipelines]]").count(), shown.matches("[pipelines.source]").count()),
        (2, 2),
        "{shown}"
    );
    assert_eq!(shown.matches("\n[http]").count(), 1, "{shown}");
    let shown = done(run(&["config", "show", "--json", "--pipeline", "bill"])).await;
    let shown: Vec<Value> = serde_json::from_str(&shown).expect("JSON");
    let place = |key: &str| shown.iter().find(|line| line["key"] == key).map(|line| line["place"].clone());
    let line = |number: u32| Some(Value::from(format!("{file}:{number}")));
    assert_eq!(place("pipelines[1].source.tables"), line(2), "from the top");
    assert_eq!(place("pipelines[1].source.slot"), line(17), "its own");
    assert_eq!(place("pipelines[0].name"), None);
    assert_eq!(place("http.listen"), line(8));
    // What is shown is a configuration too.
    let again = folder("pipelines").join("again.toml");
    std::fs::write(&again, done(run(&["config", "show"])).await).expect("write");
    done(pgsluice_command(&["config", "show", "--config", again.to_str().expect("text")], &[])).await;

    // One of them by itself.
    let mut alone = run(&["run", "--pipeline", "bill"]);
    let web = Web::of(&alone).await;
    web.becomes(&[]).await;
    assert_eq!(web.metric("pgsluice_pipeline_up{pipeline=\"bill\"}").await, 1.0);
    assert!(!web.get("/metrics").await.body.contains("shop\""));
    alone.terminate();
    let (code, log) = alone.wait(SOON).await;
    assert_eq!(code, Some(0), "{log}");
    assert!(!of(&log, "bill").is_empty() && of(&log, "shop").is_empty(), "{log}");
}

#[tokio::test]
async fn the_page_shows_each_of_them() {
    let two = Two::new().await;
    let (_process, web) = two.run(&two.config()).await;
    insert(&two.bill, 1..11).await;
    let browser = Browser::open(390, 844, "dark").await;
    browser.go(&format!("http://{}/", web.address)).await;
    browser.shows("#state", "flowing").await;
    assert_eq!(browser.text("#name").await, "shop");
    assert_eq!(
        browser.text("#pipeline-list").await.split_whitespace().collect::<Vec<_>>(),
        ["shop", "flowing", "bill", "flowing"]
    );
    browser.click("#pipeline-list li:nth-child(2) a").await;
    browser.shows("#name", "bill").await;
    browser.shows("#tables td:nth-child(3)", "10").await;
    browser.click("#pause").await;
    browser.shows("#state", "paused").await;
    assert_eq!((web.get("/readyz?pipeline=shop").await.code, web.get("/readyz?pipeline=bill").await.code), (200, 503));
    browser.click("#resume").await;
    browser.shows("#state", "flowing").await;
    lose_the_slot(&two.shop).await;
    browser.shows("#pipeline-list li:nth-child(1) span", "failed").await;
    assert_eq!(browser.text("#state").await, "flowing");
    browser.click("#pipeline-list li:nth-child(1) a").await;
    browser.shows("#state", "failed").await;
    assert!(browser.text("#reasons").await.contains("does not exist"));
    let overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
    assert_eq!(browser.run(overflow).await, 0);
    assert_eq!(browser.errors().await, Vec::<String>::new());
    if let Some(pictures) = std::env::var_os("PGSLUICE_TEST_PICTURES") {
        browser.screenshot(&std::path::Path::new(&pictures).join("pipelines.png")).await;
    }
}

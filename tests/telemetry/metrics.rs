//! What is scraped is what was sent.

#![allow(clippy::cast_precision_loss, reason = "whole numbers, and small ones")]

use std::collections::{BTreeMap, BTreeSet};

use pgsluice::telemetry::metrics::exposition::METRICS;
use regex::Regex;

use super::{config, streaming};
use crate::support::{PostgresServer, SOON, Scene, Web, eventually, rabbitmq};

/// One sample: name, labels, value.
type Sample = (String, BTreeMap<String, String>, f64);

/// Reads the text format, strictly, and checks what it promises of itself.
fn parse(text: &str) -> Vec<Sample> {
    let line = Regex::new(r#"^([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\+Inf|[0-9.e+-]+)$"#)
        .expect("a pattern");
    let label = Regex::new(r#"([a-z_]+)="((?:[^"\\\n]|\\["\\n])*)""#).expect("a pattern");
    let (mut samples, mut family) = (Vec::new(), (String::new(), String::new()));
    let mut families = Vec::new();
    assert!(text.ends_with('\n'));
    let mut lines = text.lines();
    while let Some(text) = lines.next() {
        if let Some(help) = text.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("a help text");
            assert!(!help.is_empty());
            let kind = lines.next().and_then(|line| line.strip_prefix("# TYPE ")).expect("a type");
            let (typed, kind) = kind.split_once(' ').expect("a type");
            assert_eq!(name, typed);
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
            family = (name.to_owned(), kind.to_owned());
            families.push(name.to_owned());
            continue;
        }
        let parts = line.captures(text).unwrap_or_else(|| panic!("no sample: {text}"));
        let name = parts[1].to_owned();
        let of_family = name.strip_prefix(&family.0).unwrap_or_else(|| panic!("{name} is not of {}", family.0));
        let allowed: &[&str] = if family.1 == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        assert!(allowed.contains(&of_family), "{name}");
        let labels = label.captures_iter(parts.get(2).map_or("", |it| it.as_str()));
        let labels: BTreeMap<_, _> = labels.map(|label| (label[1].to_owned(), label[2].to_owned())).collect();
        samples.push((name, labels, parts[3].replace("+Inf", "inf").parse().expect("a number")));
    }
    assert_eq!(families, METRICS.map(|(name, ..)| name));
    for ((name, labels, _), rest) in samples.iter().zip(1..) {
        assert!(
            !samples[rest..].iter().any(|(other, others, _)| other == name && others == labels),
            "{name} {labels:?} twice"
        );
    }
    for (name, ..) in METRICS.iter().filter(|(_, kind, _)| *kind == "histogram") {
        let of =
            |suffix: &str| -> Vec<&Sample> { samples.iter().filter(|it| it.0 == format!("{name}{suffix}")).collect() };
        let buckets = of("_bucket");
        assert!(buckets.is_sorted_by_key(|it| it.2) && buckets.len() > 10);
        assert_eq!(buckets.last().map(|it| (it.1["le"].as_str(), it.2)), Some(("+Inf", of("_count")[0].2)));
    }
    samples
}

fn value(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> f64 {
    let wanted =
        |it: &&Sample| it.0 == name && labels.iter().all(|(key, value)| it.1.get(*key).is_some_and(|is| is == value));
    samples.iter().find(wanted).unwrap_or_else(|| panic!("no {name} {labels:?}")).2
}

async fn scrape(web: &Web) -> Vec<Sample> {
    let answer = web.get("/metrics").await;
    assert_eq!(answer.code, 200);
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    parse(&answer.body)
}

/// Waits until so many events are settled.
async fn settled(web: &Web, count: u64) {
    eventually("all is settled", SOON, async || (web.status().await["events"]["settled"] == count).then_some(())).await;
}

#[tokio::test]
async fn what_is_scraped_is_what_was_sent() {
    let scene = Scene::new().await;
    let process = streaming(&config(&scene, "", "lanes = 3\n")).await;
    let web = Web::of(&process).await;
    scene.database.execute("INSERT INTO orders SELECT g, 'ann', g, 'new' FROM generate_series(1, 700) g").await;
    scene.database.execute("UPDATE orders SET status = 'paid' WHERE id <= 50").await;
    scene.database.execute("INSERT INTO ledger SELECT g, repeat('x', g) FROM generate_series(1, 300) g").await;
    scene
        .database
        .execute("INSERT INTO outbox (aggregatetype, aggregateid, type, payload) SELECT 'order', g, 'Paid', to_jsonb(repeat('y', g)) FROM generate_series(1, 120) g")
        .await;
    let deliveries = scene.vhost.consume("all", 1170, SOON).await;
    settled(&web, 1170).await;
    let samples = scrape(&web).await;
    let mut sent: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    for delivery in &deliveries {
        let table = match delivery.exchange.as_str() {
            "shop.events" => "public.outbox",
            _ => delivery.event_type.rsplit_once('.').expect("schema, table and operation").0,
        };
        let count = sent.entry((table.to_owned(), delivery.exchange.clone())).or_default();
        *count = (count.0 + 1, count.1 + delivery.body.len() as u64);
    }
    assert_eq!(sent.values().map(|(events, _)| events).collect::<Vec<_>>(), [&300, &750, &120]);
    for ((table, exchange), (events, bytes)) in &sent {
        let labels = [("table", table.as_str()), ("exchange", exchange)];
        assert_eq!(value(&samples, "pgsluice_events_total", &labels), *events as f64, "{table}");
        assert_eq!(value(&samples, "pgsluice_event_body_bytes_total", &labels), *bytes as f64, "{table}");
    }
    let plain = |name: &str| value(&samples, name, &[]);
    for all in [
        "pgsluice_events_confirmed_total",
        "pgsluice_event_latency_seconds_count",
        "pgsluice_confirm_latency_seconds_count",
    ] {
        assert_eq!(plain(all), 1170.0, "{all}");
    }
    for none in [
        "pgsluice_in_flight_events",
        "pgsluice_in_flight_bytes",
        "pgsluice_events_unroutable_total",
        "pgsluice_events_parked_total",
        "pgsluice_events_discarded_total",
        "pgsluice_events_nacked_total",
        "pgsluice_events_republished_total",
        "pgsluice_paused",
        "pgsluice_checkpoint_failing",
    ] {
        assert_eq!(plain(none), 0.0, "{none}");
    }
    assert_eq!(value(&samples, "pgsluice_state", &[("state", "flowing")]), 1.0);
    assert_eq!(plain("pgsluice_ready"), 1.0);
    assert!(
        value(&samples, "pgsluice_build_info", &[("version", env!("CARGO_PKG_VERSION")), ("pipeline", "shop")]) > 0.0
    );
    // Commits of the last minutes, settled since.
    let mean = plain("pgsluice_event_latency_seconds_sum") / 1170.0;
    assert!((0.0..300.0).contains(&mean), "{mean}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64();
    assert!((now - plain("pgsluice_last_settled_commit_timestamp_seconds")).abs() < 300.0);
    // What is settled is stored, told, and no longer behind.
    scene.acknowledged().await;
    let acknowledged = "SELECT (confirmed_flush_lsn - '0/0')::text FROM pg_replication_slots WHERE slot_name = ";
    let sql = format!("{acknowledged}'{}'", scene.database.name());
    let flushed: f64 = scene.database.query_one(&sql).await.parse().expect("bytes");
    assert!(web.metric("pgsluice_wal_position_bytes{position=\"stored\"}").await >= flushed);
    assert!(web.metric("pgsluice_checkpoint_age_seconds").await < 60.0);
}

#[tokio::test]
async fn what_comes_back_or_is_parked_is_counted() {
    let scene = Scene::new().await;
    let config = config(&scene, "", "unroutable.policy = \"park\"\n")
        .replace("[checkpoint]", "exchange = \"nowhere\"\n[checkpoint]");
    let process = streaming(&config).await;
    let web = Web::of(&process).await;
    scene
        .database
        .execute(
            "INSERT INTO outbox (aggregatetype, aggregateid, type) SELECT 'a', g, 't' FROM generate_series(1, 25) g",
        )
        .await;
    scene.database.execute("INSERT INTO orders VALUES (1, 'ann', 1, 'new')").await;
    scene.vhost.consume("all", 1, SOON).await;
    settled(&web, 26).await;
    let samples = scrape(&web).await;
    assert_eq!(scene.vhost.depth("shop.parked").await, 25);
    assert_eq!(value(&samples, "pgsluice_events_parked_total", &[]), 25.0);
    assert_eq!(value(&samples, "pgsluice_events_unroutable_total", &[]), 25.0);
    assert_eq!(value(&samples, "pgsluice_events_confirmed_total", &[]), 1.0);
    assert_eq!(value(&samples, "pgsluice_events_total", &[("exchange", "nowhere")]), 25.0);
}

#[tokio::test]
async fn reconnects_of_both_ends_are_counted() {
    let scene = Scene::new().await;
    let process = streaming(&config(&scene, "", "")).await;
    let web = Web::of(&process).await;
    web.becomes(&[]).await;
    let of = |peer: &str| format!("pgsluice_reconnects_total{{peer=\"{peer}\"}}");
    assert_eq!((web.metric(&of("postgresql")).await, web.metric(&of("rabbitmq")).await), (0.0, 0.0));
    let slot = scene.database.name();
    scene
        .database
        .query_one(&format!(
            "SELECT pg_terminate_backend(active_pid)::text FROM pg_replication_slots WHERE slot_name = '{slot}'"
        ))
        .await;
    eventually("the stream is opened again", SOON, async || (web.metric(&of("postgresql")).await == 1.0).then_some(()))
        .await;
    scene.vhost.close_connections(rabbitmq()).await;
    eventually("the broker is connected again", SOON, async || {
        (web.metric(&of("rabbitmq")).await >= 1.0).then_some(())
    })
    .await;
    web.becomes(&[]).await;
    assert_eq!(web.status().await["last_error"]["part"], "broker");
}

#[tokio::test]
async fn the_slots_cost_is_what_the_server_says() {
    let server = PostgresServer::private(&[("max_slot_wal_keep_size", "256MB")]);
    let scene = Scene::on(&server, rabbitmq()).await;
    let process = streaming(&config(&scene, "", "")).await;
    let web = Web::of(&process).await;
    eventually("somebody has looked", SOON, async || (!web.status().await["slot"].is_null()).then_some(())).await;
    assert_eq!(web.metric("pgsluice_slot_keep_max_bytes").await, 268_435_456.0);
    assert_eq!(web.metric("pgsluice_slot_wal_status{status=\"reserved\"}").await, 1.0);
    let (before, safe) =
        (web.metric("pgsluice_slot_retained_bytes").await, web.metric("pgsluice_slot_safe_bytes").await);
    assert!((1.0..=4e8).contains(&safe), "{safe}");
    // Nothing is acknowledged, and much is written.
    assert_eq!(web.post("/pause").await.code, 200);
    scene.database.execute("INSERT INTO ledger (filler) SELECT repeat('x', 1500) FROM generate_series(1, 30000)").await;
    eventually("the slot holds it", SOON, async || {
        (web.metric("pgsluice_slot_retained_bytes").await >= before + 4e7).then_some(())
    })
    .await;
    assert!(web.metric("pgsluice_slot_safe_bytes").await <= safe - 3e7);
    assert!(web.metric("pgsluice_lag_bytes").await >= 3e7);
    assert!(web.metric("pgsluice_lag_seconds").await > 0.0);
    assert!(web.metric("pgsluice_wal_bytes_per_second").await > 0.0);
    assert!(web.metric("pgsluice_slot_invalidation_seconds").await.is_finite());
    web.post("/resume").await;
    eventually("nothing is behind", SOON * 4, async || (web.metric("pgsluice_lag_bytes").await < 1e6).then_some(()))
        .await;
}

/// The page of the documents lists what is exposed, and the fields of the status.
#[test]
fn the_page_lists_every_metric_and_no_other() {
    let page = std::fs::read_to_string("docs/telemetry.md").expect("the page");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `pgsluice_"));
    let listed: Vec<(String, &str)> = rows
        .map(|row| {
            let (name, rest) = row.split_once('`').expect("a name");
            let name = name.split('{').next().expect("a name");
            (format!("pgsluice_{name}"), rest.split('|').nth(1).expect("a type").trim())
        })
        .collect();
    let exposed: Vec<(String, &str)> = METRICS.iter().map(|(name, kind, _)| ((*name).to_owned(), *kind)).collect();
    assert_eq!(listed.iter().collect::<BTreeSet<_>>(), exposed.iter().collect::<BTreeSet<_>>());
    assert_eq!(listed.len(), METRICS.len());
}

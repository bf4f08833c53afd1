//! Whatever the collector does, all events arrive, and memory is bounded.

use std::time::{Duration, Instant};

use axum::http::StatusCode;

use super::collector::{Collector, Mood};
use super::{ends, insert, scene, traced, traceparent};
use crate::support::{Process, SOON, Scene, Web, eventually};
use crate::telemetry::{free_port, streaming};

/// All of them begin a trace, and nobody waits long.
const OTLP: &str = "sample_per_million = 1000000\ntimeout_ms = 500\n";
const DROPPED: &str = "pgsluice_otlp_dropped_spans_total";
const EXPORTED: &str = "pgsluice_otlp_exported_spans_total";
const TROUBLE: &str = "does not take spans";

/// In bytes.
fn resident(process: &Process) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", process.pid().as_raw_nonzero())).expect("it runs");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * rustix::param::page_size() as u64
}

/// So many events, which all arrive.
async fn flow(scene: &Scene, web: &Web, events: u32) {
    let before = web.metric("pgsluice_events_confirmed_total").await;
    scene.database.execute(&format!("INSERT INTO ledger SELECT FROM generate_series(1, {events})")).await;
    eventually("all are confirmed", SOON * 4, async || {
        (web.metric("pgsluice_events_confirmed_total").await == before + f64::from(events)).then_some(())
    })
    .await;
}

fn lines(process: &Process, text: &str) -> usize {
    process.stderr().lines().filter(|line| line.contains(text)).count()
}

#[tokio::test]
async fn a_collector_that_is_dead_costs_spans_and_nothing_else() {
    let scene = scene().await;
    let nobody = free_port();
    let collector = Collector::start(Mood::Takes).await;
    let config = traced(&scene, &collector, OTLP, "").replace(&collector.port.to_string(), &nobody.to_string());
    let mut process = streaming(&config).await;
    let web = Web::of(&process).await;
    process.wait_for_log(TROUBLE, SOON).await;
    flow(&scene, &web, 9_000).await;
    let (before, dropped) = (resident(&process), web.metric(DROPPED).await);
    assert!(dropped >= 800.0, "8,192 have a place: {dropped}");
    flow(&scene, &web, 40_000).await;
    assert_eq!(web.metric(DROPPED).await, dropped + 40_000.0);
    assert_eq!(web.metric(EXPORTED).await, 0.0);
    let more = resident(&process).saturating_sub(before);
    assert!(more < 24 << 20, "{more} bytes more for 40,000 spans that nobody takes");
    assert_eq!(lines(&process, TROUBLE), 1, "{}", process.stderr());
    let stopped = Instant::now();
    ends(&mut process).await;
    assert!(stopped.elapsed() < Duration::from_secs(10), "{:?}", stopped.elapsed());
    assert_eq!(scene.vhost.depth("all").await, 49_000);
}

#[tokio::test]
async fn what_a_collector_refuses_is_dropped_and_counted() {
    for mood in [
        Mood::Answers(StatusCode::INTERNAL_SERVER_ERROR),
        Mood::Answers(StatusCode::UNAUTHORIZED),
        Mood::Rejects(1 << 40),
    ] {
        let scene = scene().await;
        let collector = Collector::start(mood).await;
        let process = streaming(&traced(&scene, &collector, OTLP, "")).await;
        let web = Web::of(&process).await;
        flow(&scene, &web, 1_200).await;
        // And those of the connections.
        eventually("all are dropped", SOON, async || (web.metric(DROPPED).await == 1_202.0).then_some(())).await;
        assert_eq!(web.metric(EXPORTED).await, 0.0, "{mood:?}");
        assert_eq!(lines(&process, TROUBLE), 1, "{}", process.stderr());
        collector.set(Mood::Takes);
        flow(&scene, &web, 1).await;
        process.wait_for_log("takes spans again", SOON).await;
        assert_eq!((web.metric(EXPORTED).await, web.metric(DROPPED).await), (1.0, 1_202.0), "{mood:?}");
    }
}

#[tokio::test]
async fn what_a_collector_can_not_take_now_it_gets_later() {
    for mood in [Mood::Answers(StatusCode::SERVICE_UNAVAILABLE), Mood::Hangs] {
        let scene = scene().await;
        let collector = Collector::start(mood).await;
        let process = streaming(&traced(&scene, &collector, OTLP, "")).await;
        let web = Web::of(&process).await;
        flow(&scene, &web, 1_200).await;
        process.wait_for_log(TROUBLE, SOON).await;
        let asked = collector.requests();
        eventually("it is asked again", SOON, async || (collector.requests() > asked).then_some(())).await;
        assert_eq!((web.metric(EXPORTED).await, web.metric(DROPPED).await), (0.0, 0.0), "{mood:?}");
        collector.set(Mood::Takes);
        process.wait_for_log("takes spans again", SOON).await;
        assert_eq!(collector.wait_for("publish", 1_200).await.len(), 1_200, "each once");
        assert_eq!(lines(&process, TROUBLE), 1);
    }
}

#[tokio::test]
async fn an_answer_that_is_garbage_is_as_good_as_its_status() {
    let scene = scene().await;
    let collector = Collector::start(Mood::Babbles).await;
    let process = streaming(&traced(&scene, &collector, "", "")).await;
    insert(&scene, &traceparent(1, "01")).await;
    assert_eq!(collector.wait_for("publish", 1).await.len(), 1);
    assert_eq!(lines(&process, TROUBLE), 0);
}

#[tokio::test]
async fn a_stop_sends_what_there_is_and_waits_for_no_collector_for_long() {
    let scene = scene().await;
    let collector = Collector::start(Mood::Takes).await;
    for (mood, timeout_ms) in [(Mood::TakesSlowly, 5_000), (Mood::Hangs, 500)] {
        collector.set(mood);
        let timeout = format!("timeout_ms = {timeout_ms}\n");
        let mut process = streaming(&traced(&scene, &collector, &timeout, "")).await;
        insert(&scene, &traceparent(1, "01")).await;
        scene.vhost.consume("all", 1, SOON).await;
        let stopped = Instant::now();
        ends(&mut process).await;
        assert!(stopped.elapsed() < Duration::from_secs(10), "{:?}", stopped.elapsed());
        // Before the second in which a span waits for others.
        assert_eq!(collector.named("publish").len(), 1, "{mood:?}");
    }
}

//! Alerts and the dashboard: by promtool, and by what a pgsluice that runs exports.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use serde_json::Value;

use super::{program, ran, read, text, yaml};
use crate::support::{SOON, Scene, Web, eventually, folder, pgsluice};

const ALERTS: &str = "deploy/prometheus/alerts.yml";
const ALERTS_TEST: &str = "deploy/prometheus/alerts.test.yml";
const DASHBOARD: &str = "deploy/grafana/pgsluice.json";

fn dashboard() -> Value {
    serde_json::from_str(&read(DASHBOARD)).expect("JSON")
}

/// Each query of the dashboard, with what Grafana puts in the place of its variables.
fn queries() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries = targets.map(|target| text(target, "/expr"));
    queries
        .map(|query| query.replace("$__rate_interval", "5m").replace("$job", ".*").replace("$instance", ".*"))
        .collect()
}

fn rules() -> Vec<Value> {
    yaml(ALERTS)[0]["groups"][0]["rules"].as_array().expect("rules").clone()
}

fn expressions() -> Vec<String> {
    rules().iter().map(|rule| text(rule, "/expr").to_owned()).chain(queries()).collect()
}

#[test]
fn promtool_takes_the_rules_and_their_tests_pass() {
    ran("promtool", &["check", "rules", ALERTS]);
    ran("promtool", &["test", "rules", ALERTS_TEST]);
    // The tests can fail.
    let folder = folder("alerts");
    let later = read(ALERTS).replace("pgsluice_lag_seconds > 300", "pgsluice_lag_seconds > 300000");
    assert_ne!(later, read(ALERTS));
    std::fs::write(folder.join("alerts.yml"), later).expect("write");
    std::fs::copy(ALERTS_TEST, folder.join("alerts.test.yml")).expect("copy");
    let tests = folder.join("alerts.test.yml");
    assert!(!program("promtool", &["test", "rules", tests.to_str().expect("text")]).status.success());
}

/// Every alert is tested to fire, has a limit that a person can judge, and a section of the runbook that is there.
#[test]
fn each_alert_says_what_to_do() {
    let runbook = read("docs/runbook.md");
    let headings = runbook.lines().filter_map(|line| line.strip_prefix("## "));
    let anchors: BTreeSet<String> = headings.map(|heading| heading.to_lowercase().replace(' ', "-")).collect();
    let tests = read(ALERTS_TEST);
    let mut named = BTreeSet::new();
    for rule in rules() {
        let name = text(&rule, "/alert").to_owned();
        assert!(["warning", "critical"].contains(&text(&rule, "/labels/severity")), "{name}");
        assert!(!text(&rule, "/annotations/summary").is_empty() && !text(&rule, "/annotations/description").is_empty());
        let anchor = text(&rule, "/annotations/runbook_url").strip_prefix("docs/runbook.md#").expect("the runbook");
        assert!(anchors.contains(anchor), "{name}: {anchor}, of {anchors:?}");
        let fires = format!("{{alertname=\"{name}\"");
        assert!(tests.contains(&fires), "{name} is not tested");
        assert!(named.insert(name.clone()), "{name} twice");
    }
    let all = [
        "slot-lost",
        "wal-growing",
        "broker-blocked",
        "unroutable",
        "failover",
        "upgrade",
        "parked",
        "lag",
        "not-ready",
    ];
    for anchor in all {
        assert!(read(ALERTS).contains(&format!("#{anchor}\n")), "no alert leads to {anchor}");
    }
}

/// Names with the labels that they have.
type Exported = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// What a pgsluice exports that has sent something.
async fn exported() -> Exported {
    let scene = Scene::new().await;
    let config = scene.config("").replace("[source]\n", "[source]\nwatch_every_ms = 200\n");
    let process = pgsluice(&format!("{config}[http]\nlisten = \"127.0.0.1:0\"\n"));
    let web = Web::of(&process).await;
    web.becomes(&[]).await;
    scene.database.execute("INSERT INTO orders VALUES (1, 'ann', 1, 'new')").await;
    scene.vhost.consume("all", 1, SOON).await;
    let scrape = eventually("all metrics are there", SOON, async || {
        let text = web.get("/metrics").await.body;
        // The last one needs two looks at the server.
        let all = ["pgsluice_slot_invalidation_seconds ", "pgsluice_events_total{", "pgsluice_wal_bytes_per_second "];
        all.iter().all(|name| text.contains(&format!("\n{name}"))).then_some(text)
    })
    .await;
    let label = Regex::new(r#"([a-z_]+)="([^"]*)""#).expect("a pattern");
    let mut exported = Exported::new();
    for line in scrape.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().expect("a name");
        let labels = exported.entry(name.to_owned()).or_default();
        for found in label.captures_iter(line) {
            labels.entry(found[1].to_owned()).or_default().insert(found[2].to_owned());
        }
    }
    exported
}

#[tokio::test]
async fn rules_and_dashboard_use_what_is_exported() {
    let exported = exported().await;
    // Prometheus adds the first two to all that it scrapes; several pipelines in one process have the third.
    let added = ["job", "instance", "pipeline"];
    let selector = Regex::new(r"\b(pgsluice_[a-z_]+)(?:\{([^}]*)\})?").expect("a pattern");
    let matcher = Regex::new(r#"([a-z_]+)(=~|!=|=|!~)"([^"]*)""#).expect("a pattern");
    let mut used = BTreeSet::new();
    for expression in expressions() {
        for found in selector.captures_iter(&expression) {
            let name = found[1].to_owned();
            let labels = exported.get(&name).unwrap_or_else(|| panic!("{name} is not exported: {expression}"));
            for matcher in matcher.captures_iter(found.get(2).map_or("", |it| it.as_str())) {
                if added.contains(&&matcher[1]) {
                    continue;
                }
                let values = labels.get(&matcher[1]).unwrap_or_else(|| panic!("{name} has no {}", &matcher[1]));
                for value in matcher[3].split('|') {
                    assert!(values.contains(value), "{name}: {} is never {value}, but {values:?}", &matcher[1]);
                }
            }
            used.insert(name);
        }
    }
    assert!(used.len() > 25, "{used:?}");
}

/// A counter is only looked at through its increase, a histogram through its quantiles.
#[test]
fn counters_are_rates_and_histograms_quantiles() {
    let counter = Regex::new(r"pgsluice_[a-z_]+_total").expect("a pattern");
    let increase =
        Regex::new(r"(rate|increase)\((pgsluice_[a-z_]+_(?:total|bucket))(?:\{[^}]*\})?\[").expect("a pattern");
    let gauge_as_counter =
        Regex::new(r"(rate|increase)\(pgsluice_[a-z_]+_(bytes|events|seconds)[{\[]").expect("a pattern");
    let (mut counters, mut quantiles) = (0, 0);
    for expression in expressions() {
        let increases = increase.captures_iter(&expression).filter(|found| found[2].ends_with("_total")).count();
        assert_eq!(counter.find_iter(&expression).count(), increases, "{expression}");
        counters += increases;
        if expression.contains("_bucket") {
            assert!(
                expression.starts_with("histogram_quantile(0.") && expression.contains("sum by (le) (rate("),
                "{expression}"
            );
            assert!(increase.is_match(&expression), "{expression}");
            quantiles += 1;
        }
        assert!(!gauge_as_counter.is_match(&expression), "{expression}");
    }
    assert!(counters > 8 && quantiles == 6, "{counters} {quantiles}");
}

#[test]
fn prometheus_takes_every_query_of_the_dashboard() {
    let rules: Vec<String> = queries()
        .iter()
        .enumerate()
        .map(|(number, query)| format!("      - record: query_{number}\n        expr: {}\n", serde_json::json!(query)))
        .collect();
    let path = folder("dashboard").join("queries.yml");
    std::fs::write(&path, format!("groups:\n  - name: queries\n    rules:\n{}", rules.concat())).expect("write");
    let said = ran("promtool", &["check", "rules", path.to_str().expect("text")]);
    assert!(said.contains(&format!("{} rules found", rules.len())) && rules.len() > 25, "{said}");
}

#[test]
fn the_dashboards_panels_are_apart_and_ask_the_chosen_source() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels");
    let of = |panel: &Value, key: &str| panel["gridPos"][key].as_u64().expect("a number");
    let mut places = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in panels {
        let title = text(panel, "/title");
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title}");
        let (x, y, wide, high) = (of(panel, "x"), of(panel, "y"), of(panel, "w"), of(panel, "h"));
        assert!(x + wide <= 24, "{title}");
        for place in (x..x + wide).flat_map(|x| (y..y + high).map(move |y| (x, y))) {
            assert!(places.insert(place), "{title} lies over another one");
        }
        if panel["type"] != "row" {
            assert_eq!(text(panel, "/datasource/uid"), "${datasource}", "{title}");
            assert!(panel["targets"].as_array().is_some_and(|targets| !targets.is_empty()), "{title}");
        }
    }
    let variables: BTreeSet<&str> = dashboard["templating"]["list"]
        .as_array()
        .expect("variables")
        .iter()
        .map(|variable| text(variable, "/name"))
        .collect();
    assert_eq!(variables, BTreeSet::from(["datasource", "job", "instance"]));
}

//! Spans of OpenTelemetry, as a collector gets them: held against the rows, and against what arrived in the queue.

mod collector;
mod trouble;

use std::collections::BTreeMap;
use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use tokio_rustls::TlsAcceptor;

use self::collector::{Collector, Mood, attributes};
use super::{config, streaming};
use crate::pipelines::section;
use crate::support::{Delivery, Process, SOON, Scene, Web, eventually, folder, pgsluice, pgsluice_command, rabbitmq};

/// A row's trace, with these flags.
fn traceparent(trace: u32, flags: &str) -> String {
    format!("00-0af7651916cd43dd8448eb21{trace:08x}-b7ad6b7169203331-{flags}")
}

/// A scene whose outbox has a column for the trace.
async fn scene() -> Scene {
    let scene = Scene::new().await;
    scene.database.execute("ALTER TABLE outbox ADD COLUMN trace text").await;
    scene
}

/// [`scene`]'s configuration, with what is exported to this collector.
fn traced(scene: &Scene, collector: &Collector, otlp: &str, rabbitmq: &str) -> String {
    let outbox = "[outbox]\ncolumns.trace_context = \"trace\"\n";
    let config = config(scene, "", rabbitmq).replace("[outbox]\n", outbox);
    format!("{config}\n{}", collector.section(otlp))
}

/// A row with such a trace.
async fn insert(scene: &Scene, trace: &str) {
    let sql = format!(
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload, trace) \
         VALUES ('order', '7', 'Paid', '{{\"total\": 7}}', E'{trace}')"
    );
    scene.database.execute(&sql).await;
}

async fn ends(process: &mut Process) {
    process.terminate();
    assert_eq!(process.wait(SOON).await.0, Some(0));
}

fn text(value: &str) -> Value {
    Value::StringValue(value.to_owned())
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).expect("a nibble");
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn header(delivery: &Delivery, name: &str) -> String {
    delivery.headers[name].as_str().expect("text").to_owned()
}

#[tokio::test]
async fn an_event_of_a_recorded_trace_has_a_span_and_its_header_stays_as_it_is() {
    let scene = scene().await;
    let collector = Collector::start(Mood::Takes).await;
    let secrets = "token = \"s3cret-token\"\nheaders = { x-tenant = \"s3cret-tenant\" }\n";
    let mut process = streaming(&traced(&scene, &collector, secrets, "lanes = 2\n")).await;
    let parent = traceparent(1, "01");
    for trace in [&format!("traceparent={parent}\\ntracestate=shop=1"), &traceparent(2, "00"), "none", ""] {
        insert(&scene, trace).await;
    }
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    let deliveries = scene.vhost.consume("all", 5, SOON).await;
    ends(&mut process).await;
    let spans = collector.named("publish");
    let [span] = spans.as_slice() else { panic!("one of five events is of a recorded trace: {spans:?}") };
    let of_trace = |name: &str| deliveries.iter().find(|it| it.headers.get("traceparent") == Some(&json!(name)));
    let delivery = of_trace(&parent).expect("with the header of its row");
    assert!(of_trace(&traceparent(2, "00")).is_some(), "so has one that nobody records");
    assert_eq!(deliveries.iter().filter(|it| it.headers.contains_key("traceparent")).count(), 2);
    assert_eq!(delivery.headers["tracestate"], "shop=1");

    assert_eq!(format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.parent_span_id)), parent);
    assert!(span.span_id.len() == 8 && span.span_id != span.parent_span_id && span.span_id != [0; 8]);
    assert_eq!((span.trace_state.as_str(), span.flags), ("shop=1", 0x301));
    let [link] = span.links.as_slice() else { panic!("one link: {span:?}") };
    assert_eq!((&link.trace_id, &link.span_id), (&span.trace_id, &span.parent_span_id));
    assert_eq!((span.name.as_str(), span.kind()), ("publish shop.events", SpanKind::Client));
    assert!(span.status.is_none(), "{span:?}");
    let committed_at = delivery.headers["committed_at_us"].as_u64().expect("a number");
    let (start, end) = (span.start_time_unix_nano / 1_000, span.end_time_unix_nano / 1_000);
    assert!(committed_at <= start && start <= end, "{committed_at} {start} {end}");
    let lag = Value::IntValue(i64::try_from(start - committed_at).expect("small"));
    let expected = BTreeMap::from([
        ("messaging.system", text("rabbitmq")),
        ("messaging.operation.type", text("send")),
        ("messaging.operation.name", text("publish")),
        ("messaging.destination.name", text(&format!("{}:{}", delivery.exchange, delivery.routing_key))),
        ("messaging.rabbitmq.destination.routing_key", text(&delivery.routing_key)),
        ("messaging.message.id", text(&delivery.message_id)),
        ("messaging.message.body.size", Value::IntValue(i64::try_from(delivery.body.len()).expect("small"))),
        ("pgsluice.event.type", text("Paid")),
        ("pgsluice.table", text("public.outbox")),
        ("pgsluice.position", text(&header(delivery, "position"))),
        ("pgsluice.commit_lag_us", lag),
    ]);
    let expected: BTreeMap<String, Value> =
        expected.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    assert_eq!(attributes(&span.attributes), expected);

    for (resource, _) in collector.spans() {
        assert_eq!(resource["service.name"], text("shop"));
        assert_eq!(resource["service.version"], text(env!("CARGO_PKG_VERSION")));
    }
    for headers in collector.headers() {
        assert_eq!(headers["authorization"], "Bearer s3cret-token");
        assert_eq!(headers["x-tenant"], "s3cret-tenant");
        assert_eq!(headers["content-type"], "application/x-protobuf");
    }
    assert!(!process.stderr().contains("s3cret"));
}

#[tokio::test]
async fn nothing_is_counted_where_nothing_is_exported() {
    let scene = Scene::new().await;
    let process = streaming(&config(&scene, "", "")).await;
    let metrics = Web::of(&process).await.get("/metrics").await.body;
    assert!(
        metrics.contains("# TYPE pgsluice_otlp_dropped_spans_total counter") && !metrics.contains("\npgsluice_otlp")
    );
}

#[tokio::test]
async fn of_events_without_a_trace_some_begin_one_which_is_nobodys_else() {
    let scene = scene().await;
    let collector = Collector::start(Mood::Takes).await;
    let process = streaming(&traced(&scene, &collector, "sample_per_million = 1000000\n", "")).await;
    let web = Web::of(&process).await;
    insert(&scene, &traceparent(1, "00")).await;
    scene.database.execute("INSERT INTO ledger SELECT FROM generate_series(1, 1000)").await;
    let deliveries = scene.vhost.consume("all", 1001, SOON).await;
    let spans = collector.wait_for("publish", 1000).await;
    assert_eq!(spans.len(), 1000, "what is known not to be recorded is none of them");
    let mut traces: Vec<_> = spans.iter().map(|span| span.trace_id.clone()).collect();
    traces.sort();
    traces.dedup();
    assert_eq!(traces.len(), 1000);
    for span in &spans {
        assert!(span.parent_span_id.is_empty() && span.links.is_empty() && span.flags == 0x101, "{span:?}");
    }
    let with_trace = deliveries.iter().filter(|it| it.headers.contains_key("traceparent"));
    assert_eq!(with_trace.count(), 1, "no event says what another delivery of it would not");
    assert!(web.metric("pgsluice_otlp_exported_spans_total").await >= 1000.0);
    assert_eq!(web.metric("pgsluice_otlp_dropped_spans_total").await, 0.0);
}

#[tokio::test]
async fn a_connection_has_a_span_until_it_is_there() {
    let scene = scene().await;
    let collector = Collector::start(Mood::Takes).await;
    let _process = streaming(&traced(&scene, &collector, "", "")).await;
    for name in ["connect postgresql", "connect rabbitmq"] {
        let spans = collector.wait_for(name, 1).await;
        let first = attributes(&spans[0].attributes);
        assert_eq!(first["pgsluice.is_reconnect"], Value::BoolValue(false));
        assert!(spans[0].start_time_unix_nano <= spans[0].end_time_unix_nano && spans[0].trace_id != [0; 16]);
    }
    let slot = scene.database.name();
    let end = format!("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{slot}'");
    assert_eq!(scene.database.query_one(&end).await, "t");
    let again = collector.wait_for("connect postgresql", 2).await;
    let again = attributes(&again[1].attributes);
    assert_eq!(
        (&again["pgsluice.is_reconnect"], &again["db.system.name"]),
        (&Value::BoolValue(true), &text("postgresql"))
    );
    assert!(matches!(&again["pgsluice.trouble"], Value::StringValue(why) if !why.is_empty()));
    scene.vhost.close_connections(rabbitmq()).await;
    let again = collector.wait_for("connect rabbitmq", 2).await;
    assert_eq!(attributes(&again[1].attributes)["pgsluice.is_reconnect"], Value::BoolValue(true));
}

/// A crash before the checkpoint: all comes again, as it was.
#[tokio::test]
async fn what_is_delivered_again_has_the_same_trace_and_a_span_of_its_own() {
    let scene = scene().await;
    let collector = Collector::start(Mood::Takes).await;
    let config = traced(&scene, &collector, "", "").replace("[checkpoint]\n", "[checkpoint]\ninterval_ms = 60000\n");
    let mut process = streaming(&config).await;
    insert(&scene, &traceparent(1, "01")).await;
    let first = scene.vhost.consume("all", 1, SOON).await.remove(0);
    collector.wait_for("publish", 1).await;
    process.restart();
    let again = scene.vhost.consume("all", 1, SOON).await.remove(0);
    assert_eq!((&first.message_id, &first.body, &first.headers), (&again.message_id, &again.body, &again.headers));
    assert_eq!(header(&again, "traceparent"), traceparent(1, "01"));
    let spans = collector.wait_for("publish", 2).await;
    assert_eq!((&spans[0].trace_id, &spans[0].parent_span_id), (&spans[1].trace_id, &spans[1].parent_span_id));
    assert_ne!(spans[0].span_id, spans[1].span_id);
}

#[tokio::test]
async fn an_event_that_is_parked_has_a_span_that_says_so() {
    let scene = scene().await;
    let collector = Collector::start(Mood::Takes).await;
    let park = "unroutable.policy = \"park\"\npoison.policy = \"park\"\n";
    let outbox = "[outbox]\nexchange = \"shop.nowhere\"\nproperties.priority = \"{aggregateid}\"\n";
    let _process = streaming(&traced(&scene, &collector, "", park).replace("[outbox]\n", outbox)).await;
    insert(&scene, &traceparent(1, "01")).await;
    let spans = collector.wait_for("publish", 1).await;
    assert_eq!(attributes(&spans[0].attributes)["error.type"], text("unroutable"));
    assert_eq!(spans[0].status.as_ref().expect("a status").code(), StatusCode::Error);
    let trace = traceparent(2, "01");
    let wrong = format!("INSERT INTO outbox VALUES (DEFAULT, 'order', '256', 'Paid', '1', '{trace}')");
    scene.database.execute(&wrong).await;
    let spans = collector.wait_for("publish", 2).await;
    assert_eq!(attributes(&spans[1].attributes)["error.type"], text("property"));
    scene.vhost.consume("shop.parked", 2, SOON).await;
}

#[tokio::test]
async fn a_replay_has_one_span() {
    let scene = scene().await;
    let collector = Collector::start(Mood::Takes).await;
    let config = traced(&scene, &collector, "", "");
    let process = streaming(&config).await;
    insert(&scene, &traceparent(1, "01")).await;
    scene.vhost.consume("all", 1, SOON).await;
    collector.wait_for("publish", 1).await;
    let path = process.config_path();
    let path = path.to_str().expect("text");
    let mut replay = pgsluice_command(&["replay", "--config", path, "--from-table"], &[]);
    let (code, stderr) = replay.wait(SOON).await;
    assert_eq!(code, Some(0), "{stderr}");
    let again = scene.vhost.consume("all", 1, SOON).await.remove(0);
    assert_eq!(header(&again, "traceparent"), traceparent(1, "01"));
    let spans = collector.named("replay");
    let [span] = spans.as_slice() else { panic!("one: {spans:?}") };
    let attributes = attributes(&span.attributes);
    assert_eq!(attributes["pgsluice.replay.events"], Value::IntValue(1));
    assert_eq!(attributes["pgsluice.replay.of"], text("public.outbox"));
    assert_eq!(collector.named("publish").len(), 1, "its events are not traced again");
}

#[tokio::test]
async fn each_pipeline_of_a_process_is_a_service_of_its_own() {
    let scenes = [Scene::new().await, Scene::new().await];
    let collector = Collector::start(Mood::Takes).await;
    let sections = ["shop", "bill"].into_iter().zip(&scenes).map(|(name, scene)| section(name, scene, ""));
    let mut process = pgsluice(&format!(
        "[source]\ntables = [\"public.ledger\"]\n[changes]\nexchange = \"shop.changes\"\n\
         [http]\nlisten = \"127.0.0.1:0\"\n{}{}",
        collector.section("sample_per_million = 1000000\n"),
        sections.collect::<String>()
    ));
    let web = Web::of(&process).await;
    web.becomes(&[]).await;
    for (scene, rows) in scenes.iter().zip([3, 5]) {
        scene.database.execute(&format!("INSERT INTO ledger SELECT FROM generate_series(1, {rows})")).await;
        scene.vhost.consume("all", rows, SOON).await;
    }
    collector.wait_for("publish", 8).await;
    // And those of its two connections.
    for (sample, value) in [("{pipeline=\"shop\"}", 5.0), ("{pipeline=\"bill\"}", 7.0)] {
        let sample = format!("pgsluice_otlp_exported_spans_total{sample}");
        eventually(&sample, SOON, async || (web.metric(&sample).await == value).then_some(())).await;
    }
    ends(&mut process).await;
    let of = |name: &str| collector.spans().into_iter().filter(|(of, _)| of["service.name"] == text(name)).count();
    assert_eq!((of("shop"), of("bill")), (5, 7));
}

#[tokio::test]
async fn a_collector_may_want_tls_and_only_a_known_one_is_told() {
    let files = folder("otlp-tls");
    let key = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    let certificate = files.join("otlp.crt");
    std::fs::write(&certificate, key.cert.pem()).expect("write");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).expect("a key");
    let server =
        server.expect("versions").with_no_client_auth().with_single_cert(vec![key.cert.der().clone()], private);
    let acceptor = TlsAcceptor::from(Arc::new(server.expect("a certificate")));
    let collector = Collector::listen(Mood::Takes, Some(acceptor)).await;
    let scene = scene().await;
    let config = traced(&scene, &collector, "", "").replace("endpoint = \"http:", "endpoint = \"https:");
    let stranger = streaming(&config).await;
    let line = stranger.wait_for_log("does not take spans", SOON).await;
    assert!(line.contains("no TLS with 127.0.0.1"), "{line}");
    drop(stranger);
    assert_eq!(collector.requests(), 0);
    let _process = streaming(&format!("{config}tls_ca_file = \"{}\"\n", certificate.display())).await;
    insert(&scene, &traceparent(1, "01")).await;
    collector.wait_for("publish", 1).await;

    let mut wrong = pgsluice(&format!("{config}tls_ca_file = \"absent.crt\"\n"));
    let (code, text) = wrong.wait(SOON).await;
    assert!(code == Some(2) && text.contains("otlp.tls_ca_file can't be used"), "{text}");
}

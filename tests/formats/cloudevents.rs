//! CloudEvents, read by the official SDK.

use cloudevents::event::Data;
use cloudevents::{AttributesReader, Event};
use serde_json::{Value, json};

use super::config;
use crate::support::{Delivery, SOON, Scene, pgsluice};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn read(delivery: &Delivery) -> Event {
    let content_type = delivery.properties.content_type().as_ref().map(ToString::to_string);
    assert_eq!(content_type.as_deref(), Some("application/cloudevents+json; charset=utf-8"));
    serde_json::from_slice(&delivery.body).unwrap_or_else(|error| panic!("{error}: {}", delivery.text()))
}

fn attribute(event: &Event, name: &str) -> Option<String> {
    event.extension(name).map(ToString::to_string)
}

#[tokio::test]
async fn a_change_is_in_a_cloud_event_as_it_is_in_plain() {
    let scene = Scene::new().await;
    let _process = scene.run_with("[changes]\nformat = \"cloudevents\"\n").await;
    scene.database.execute("INSERT INTO orders VALUES (7, 'Zoë', 19.90, 'new'), (8, 'Ada', 1, 'new')").await;
    scene.database.execute("TRUNCATE orders").await;
    let deliveries = scene.vhost.consume("all", 3, SOON).await;
    let events: Vec<Event> = deliveries.iter().map(read).collect();
    for (event, delivery) in events.iter().zip(&deliveries) {
        assert_eq!((event.id(), event.ty()), (delivery.message_id.as_str(), delivery.event_type.as_str()));
        assert_eq!(event.source(), "/pgsluice/shop/public/orders");
        let Some(Data::Json(data)) = event.data() else { panic!("{event}") };
        assert_eq!(data["id"], json!(delivery.message_id));
        let committed_at_us = event.time().expect("a time").timestamp_micros();
        assert_eq!(delivery.headers["committed_at_us"], json!(committed_at_us));
    }
    let Some(Data::Json(data)) = events[0].data() else { panic!("data") };
    assert_eq!(data["after"], json!({"id": 7, "customer": "Zoë", "total": "19.90", "status": "new"}));
    assert_eq!((events[0].subject(), events[2].subject()), (Some("7"), None));
    assert_eq!(attribute(&events[1], "partitionkey").as_deref(), Some("8"));
    let sequences: Vec<_> = events.iter().map(|event| attribute(event, "sequence").expect("a sequence")).collect();
    assert!(sequences.is_sorted_by(|left, right| left < right), "{sequences:?}");
}

const OUTBOX: &str = "[outbox]\ntable = \"public.outbox\"\nheaders = { tenant = \"{aggregatetype}\" }\n\
    columns = { timestamp = \"at\", trace_context = \"trace\" }\n";

#[tokio::test]
async fn an_outbox_event_has_its_attributes_in_the_body_or_in_headers() {
    for payload in ["jsonb", "text", "bytea"] {
        let scene = Scene::new().await;
        let alter = format!(
            "ALTER TABLE outbox ADD at timestamptz, ADD trace text; ALTER TABLE outbox DROP payload, ADD payload {payload}"
        );
        scene.database.execute(&alter).await;
        let id = "0191d6f0-0000-7000-8000-000000000001";
        let insert = format!(
            "INSERT INTO outbox VALUES ('{id}', 'Order', '7', 'Paid', '2026-11-21 02:37:00.5Z', '{TRACE}', '\"a\"'), \
             (gen_random_uuid(), 'Order', '8', 'Paid', NULL, NULL, NULL)"
        );
        let mut structured = pgsluice(&config(&scene, &format!("{OUTBOX}format = \"cloudevents\"\n")));
        structured.wait_for_log("streaming from PostgreSQL", SOON).await;
        scene.database.execute(&insert).await;
        let deliveries = scene.vhost.consume("all", 2, SOON).await;
        structured.terminate();
        assert_eq!(structured.wait(SOON).await.0, Some(0));
        let event = read(&deliveries[0]);
        assert_eq!((event.id(), event.ty(), event.subject()), (id, "Paid", Some("7")));
        assert_eq!(event.time().expect("a time").timestamp_millis(), 1_795_228_620_500);
        assert_eq!(attribute(&event, "traceparent").as_deref(), Some(TRACE));
        assert_eq!(deliveries[0].headers["tenant"], json!("Order"));
        let (data, content_type) = match payload {
            "jsonb" => (Data::Json(json!("a")), "application/json"),
            "text" => (Data::String("\"a\"".to_owned()), "text/plain; charset=utf-8"),
            _ => (Data::Binary(b"\"a\"".to_vec()), "application/octet-stream"),
        };
        assert_eq!(event.data(), Some(&data), "{payload}");
        assert_eq!(event.datacontenttype(), Some(content_type));
        let empty = read(&deliveries[1]);
        assert_eq!((empty.data(), empty.time(), empty.datacontenttype()), (None, None, None));

        scene.database.execute("DELETE FROM outbox").await;
        let binary = pgsluice(&config(&scene, &format!("{OUTBOX}format = \"cloudevents-binary\"\n")));
        binary.wait_for_log("streaming from PostgreSQL", SOON).await;
        scene.database.execute(&insert).await;
        let deliveries = scene.vhost.consume("all", 2, SOON).await;
        let of_binary: serde_json::Map<String, Value> = deliveries[0]
            .headers
            .iter()
            .filter_map(|(name, value)| Some((name.strip_prefix("cloudEvents:")?.to_owned(), value.clone())))
            .collect();
        let expected = json!({
            "specversion": "1.0", "id": id, "source": "/pgsluice/shop/public/outbox", "type": "Paid", "subject": "7",
            "partitionkey": "7", "time": "2026-11-21T02:37:00.500000Z", "traceparent": TRACE,
        });
        assert_eq!(Value::Object(of_binary), expected);
        assert_eq!(deliveries[0].body, b"\"a\"");
        let got = deliveries[0].properties.content_type().as_ref().map(ToString::to_string);
        assert_eq!(got.as_deref(), Some(content_type));
        assert!(deliveries[1].body.is_empty());
    }
}

#[tokio::test]
async fn an_envelope_is_the_data() {
    let scene = Scene::new().await;
    let more = "[outbox]\ntable = \"public.outbox\"\nformat = \"cloudevents\"\nenvelope = { what = \"type\" }\n";
    let process = pgsluice(&config(&scene, more));
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    scene
        .database
        .execute("INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', '1', 'Paid', '[1]')")
        .await;
    let event = read(&scene.vhost.consume("all", 1, SOON).await[0]);
    assert_eq!(event.data(), Some(&Data::Json(json!({"payload": [1], "what": "Paid"}))));
}

/// It is not sent, nor passed over.
#[tokio::test]
async fn an_outbox_row_without_a_type_can_not_be_a_cloud_event() {
    let scene = Scene::new().await;
    let more = "[outbox]\ntable = \"public.outbox\"\nformat = \"cloudevents\"\n";
    let mut process = pgsluice(&config(&scene, more));
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    let insert =
        "INSERT INTO outbox (aggregatetype, aggregateid, type) VALUES ('Order', '1', 'Paid'), ('Order', '1', '')";
    scene.database.execute(insert).await;
    let (code, log) = process.wait(SOON).await;
    assert!(code == Some(8) && log.contains("its type is empty, which that of a CloudEvent must not be"), "{log}");
    assert_eq!(read(&scene.vhost.consume("all", 1, SOON).await[0]).ty(), "Paid");
}

#[tokio::test]
async fn the_content_of_a_logical_message_is_the_data() {
    let scene = Scene::new().await;
    scene.vhost.declare_exchange("shop.messages", "topic").await;
    scene.vhost.bind("all", "shop.messages", "#").await;
    let more = "[messages]\nprefixes = [\"*\"]\nformat = \"cloudevents\"\ncontent_type = \"application/json\"\n";
    let _process = scene.run_with(more).await;
    for (is_transactional, content) in [(true, "{\"a\": 1}"), (false, "no JSON")] {
        let sql = format!("SELECT pg_logical_emit_message({is_transactional}, 'app.paid', '{content}')");
        scene.database.execute(&sql).await;
    }
    scene.database.execute("INSERT INTO ledger DEFAULT VALUES").await;
    let deliveries = scene.vhost.consume("all", 3, SOON).await;
    let (inside, outside) = (read(&deliveries[0]), read(&deliveries[1]));
    assert_eq!((inside.source(), inside.ty()), (&"/pgsluice/shop".to_owned(), "app.paid"));
    assert_eq!(inside.data(), Some(&Data::Json(json!({"a": 1}))));
    assert_eq!(outside.data(), Some(&Data::Binary(b"no JSON".to_vec())));
    assert!(inside.time().is_some() && outside.time().is_none());
}

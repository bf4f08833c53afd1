//! What events look like: each format, against real servers, and each page about one as it says.

mod cloudevents;
pub(crate) mod connect;
mod debezium;

use serde_json::{Value, json};

use crate::support::{SOON, Scene, pgsluice};

/// The blocks of a page in this language.
fn blocks<'p>(page: &'p str, language: &'static str) -> impl Iterator<Item = &'p str> {
    let fence = format!("```{language}\n");
    let blocks: Vec<&str> = page.split(&fence).skip(1).collect();
    blocks.into_iter().map(|rest| rest.split("```").next().expect("the block"))
}

/// What is another one each time has only its type.
fn masked(mut event: Value) -> Value {
    const VARYING: [&str; 14] = [
        "commit_lsn",
        "xid",
        "committed_at",
        "lsn",
        "txId",
        "ts_ms",
        "ts_us",
        "ts_ns",
        "es",
        "ts",
        "sequence",
        "db",
        "position",
        "schema_version",
    ];
    let Some(fields) = event.as_object_mut() else { return event };
    let is_canal = fields.contains_key("isDdl");
    for (name, value) in fields.iter_mut() {
        let is_ours = name == "id" && (is_canal || value.as_str().is_some_and(|id| id.starts_with("shop:")));
        let known = value.take();
        *value = match known {
            Value::Number(_) if is_ours || VARYING.contains(&name.as_str()) => json!("a number"),
            Value::String(_) if is_ours || VARYING.contains(&name.as_str()) => json!("a string"),
            other => masked(other),
        };
    }
    event
}

/// The scene's configuration with a page's.
fn config(scene: &Scene, more: &str) -> String {
    let config = scene.config(more);
    // A section is written once.
    if more.contains("[outbox]") { config.replacen("[outbox]\ntable = \"public.outbox\"\n", "", 1) } else { config }
}

/// Its SQL makes events, the last of which are its JSON.
async fn check(page: &str) {
    let text = std::fs::read_to_string(format!("docs/formats/{page}.md")).expect("the page");
    let [more] = blocks(&text, "toml").collect::<Vec<_>>()[..] else { panic!("one configuration") };
    let sql = blocks(&text, "sql").collect::<String>();
    let (alter, run): (Vec<&str>, Vec<&str>) =
        sql.split_inclusive(";\n").filter(|line| !line.trim().is_empty()).partition(|line| line.starts_with("ALTER"));
    let scene = Scene::new().await;
    scene.database.execute(&alter.concat()).await;
    let process = pgsluice(&config(&scene, more));
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    for statement in &run {
        scene.database.execute(statement).await;
    }
    let events = scene.vhost.consume("all", run.len(), SOON).await;
    let expected: Vec<Value> = blocks(&text, "json").map(|json| serde_json::from_str(json).expect(json)).collect();
    assert!(!expected.is_empty());
    for (event, expected) in events[run.len() - expected.len()..].iter().zip(expected) {
        assert_eq!(masked(event.json()), masked(expected), "{page}: {}", event.text());
        for header in ["position", "transaction_id", "transaction_number", "transaction_last"] {
            assert!(event.headers.contains_key(header), "{page}: {header}");
        }
    }
}

#[tokio::test]
async fn the_example_of_plain_holds() {
    check("plain").await;
}

#[tokio::test]
async fn the_example_of_raw_holds() {
    check("raw").await;
}

#[tokio::test]
async fn the_example_of_cloudevents_holds() {
    check("cloudevents").await;
}

#[tokio::test]
async fn the_example_of_debezium_holds() {
    check("debezium").await;
}

#[tokio::test]
async fn the_example_of_canal_holds() {
    check("canal").await;
}

/// The content as it is.
#[tokio::test]
async fn a_logical_message_may_be_raw() {
    let scene = Scene::new().await;
    scene.vhost.declare_exchange("shop.messages", "topic").await;
    scene.vhost.bind("all", "shop.messages", "#").await;
    for (more, content_type) in [("", "application/octet-stream"), ("content_type = \"text/csv\"\n", "text/csv")] {
        let mut process = scene.run_with(&format!("[messages]\nprefixes = [\"*\"]\nformat = \"raw\"\n{more}")).await;
        scene.database.execute("SELECT pg_logical_emit_message(true, 'app.paid', '\\x00ff'::bytea)").await;
        let event = scene.vhost.consume("all", 1, SOON).await.remove(0);
        assert_eq!((event.body.as_slice(), event.event_type.as_str()), (&b"\x00\xff"[..], "app.paid"));
        assert_eq!(event.properties.content_type().as_ref().map(ToString::to_string).as_deref(), Some(content_type));
        process.terminate();
        assert_eq!(process.wait(SOON).await.0, Some(0));
    }
}

//! What docs/domain-events.md shows is what happens.

use serde_json::Value;

use crate::support::{SOON, Scene, folder, pgsluice_command};

/// The blocks of this language.
fn blocks<'p>(page: &'p str, language: &str) -> Vec<&'p str> {
    let starts = page.split("```").skip(1).step_by(2);
    starts.filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n')).collect()
}

/// Without what is another one each time.
fn lasting(mut event: Value) -> Value {
    for field in ["id", "schema_version", "commit_lsn", "xid", "ordinal", "committed_at"] {
        assert!(event.as_object_mut().expect("an object").remove(field).is_some(), "{field}");
    }
    event["data"].as_object_mut().expect("an object").remove("email");
    event
}

#[tokio::test]
async fn the_example_of_the_page_is_true() {
    let page = std::fs::read_to_string("docs/domain-events.md").expect("the page");
    let (sql, rules, json) = (blocks(&page, "sql"), blocks(&page, "toml"), blocks(&page, "json"));
    let ([table, statements], [rules], [_, _]) = (&sql[..], &rules[..], &json[..]) else { panic!("other blocks") };
    let scene = Scene::new().await;
    scene.database.execute("DROP TABLE orders").await;
    scene.database.execute(table).await;
    for exchange in ["billing", "mail"] {
        scene.vhost.declare_exchange(exchange, "topic").await;
        scene.vhost.bind("all", exchange, "#").await;
    }
    let config = scene.config(rules).replace("\"public.orders\", ", "");
    let file = folder("page").join("pgsluice.toml");
    std::fs::write(&file, config).expect("write the configuration");
    let arguments = ["run", "--config", file.to_str().expect("UTF-8")];
    let running = pgsluice_command(&arguments, &[("PGSLUICE__HASH__KEY", "a key for the test of the page")]);
    running.wait_for_log("streaming from PostgreSQL", SOON).await;
    scene.database.execute(statements).await;
    let events = scene.vhost.consume("all", 2, SOON).await;
    for (event, shown) in events.iter().zip(json) {
        let shown: Value = serde_json::from_str(shown).expect("JSON");
        assert_eq!(lasting(event.json()), lasting(shown));
    }
    let route = |event: usize| (events[event].exchange.as_str(), events[event].routing_key.as_str());
    assert_eq!([route(0), route(1)], [("billing", "OrderPaid"), ("mail", "receipts.12")]);
}

//! The blocks that are no commands: configurations are read by the real loader, SQL is run, JSON is JSON.

use serde_json::Value;
use toml::Table;

use super::pages::{Block, pages};
use crate::support::{PostgresServer, done, folder, pgsluice_command};

/// What the pages' statements are about, unless they create it themselves.
const TABLES: &str = "
    CREATE TABLE orders (id bigint PRIMARY KEY, customer text NOT NULL, total numeric(12,2), status text NOT NULL);
    CREATE TABLE outbox (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text NOT NULL, aggregateid text NOT NULL,
        type text NOT NULL, payload jsonb);";

/// What a fragment needs around it to be a configuration.
const FRAME: [(&str, &str, &str); 3] =
    [("", "name", "shop"), ("source", "url", "postgres://app@db1/shop"), ("rabbitmq", "url", "amqp://app@mq1/shop")];

#[tokio::test]
async fn every_configuration_is_one() {
    let mut seen = 0;
    for block in pages().iter().flat_map(|page| page.blocks_of("toml")) {
        let mut config: Table = toml::from_str(&block.text).unwrap_or_else(|error| panic!("{}: {error}", block.place));
        complete(&mut config);
        let folder = folder("fragment");
        std::fs::write(folder.join("http.token"), "0123456789abcdef").expect("write the token that telemetry.md names");
        let file = folder.join("shop.toml");
        std::fs::write(&file, toml::to_string(&config).expect("TOML")).expect("write the configuration");
        let arguments = ["config", "show", "--config", file.to_str().expect("text")];
        println!("{}", block.place);
        done(pgsluice_command(&arguments, &[("PGSLUICE__HASH__KEY", "a key of sixteen bytes")])).await;
        seen += 1;
    }
    assert!(seen > 10, "{seen}");
}

fn complete(config: &mut Table) {
    // Each pipeline has a name of its own.
    let frame = FRAME.iter().filter(|(_, key, _)| *key != "name" || !config.contains_key("pipelines"));
    for (section, key, value) in frame.copied().collect::<Vec<_>>() {
        let table = match section {
            "" => &mut *config,
            name => {
                let entry = config.entry(name).or_insert_with(|| Table::new().into());
                entry.as_table_mut().expect("a section")
            }
        };
        table.entry(key).or_insert_with(|| value.into());
    }
    let selects = ["outbox", "events", "messages"].iter().any(|section| config.contains_key(*section));
    let source = config["source"].as_table_mut().expect("a section");
    if !selects && !source.contains_key("tables") {
        source.insert("tables".to_owned(), toml::Value::Array(vec!["public.*".into()]));
    }
}

/// Each page's statements, one after the other, in a database that has the shop's tables.
#[tokio::test]
async fn every_statement_is_one() {
    let server = PostgresServer::private(&[]);
    let mut seen = 0;
    for page in pages() {
        let blocks = page.blocks_of("sql");
        if blocks.is_empty() {
            continue;
        }
        let database = server.database().await;
        database.execute(TABLES).await;
        for block in blocks {
            println!("{}", block.place);
            database.execute(&replaced_tables(&block)).await;
            // What stands for values of the reader's own.
            database.execute(&block.text.replace("orders …", "orders VALUES (42, 'ann', 1, 'new')")).await;
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}

/// Tables that the block creates and the shop has.
fn replaced_tables(block: &Block) -> String {
    let created = block.text.split("CREATE TABLE ").skip(1).filter_map(|rest| rest.split([' ', '(']).next());
    created.flat_map(|table| ["DROP TABLE IF EXISTS ", table, ";"]).collect()
}

#[test]
fn every_json_is_json() {
    let mut seen = 0;
    for block in pages().iter().flat_map(|page| page.blocks_of("json")) {
        let parsed: Result<Value, _> = serde_json::from_str(&block.text);
        assert!(parsed.is_ok(), "{}: {parsed:?}", block.place);
        seen += 1;
    }
    assert!(seen > 5, "{seen}");
}

/// A block of a language that nobody looks at would be a gap in all this.
#[test]
fn every_block_has_a_language_that_is_checked() {
    // YAML is that of deploy/, which has tests of its own.
    let known = ["sh", "toml", "sql", "json", "text", "yaml"];
    let unknown: Vec<String> = pages()
        .iter()
        .flat_map(super::pages::Page::blocks)
        .filter(|block| !known.contains(&block.language.as_str()))
        .map(|block| format!("{}: {}", block.place, block.language))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

//! The document itself: valid by `AsyncAPI`'s own schema, the same whenever it is written, and readable.

use jsonschema::Draft;
use serde_json::{Value, json};

use super::contract::{Contract, file, schema};
use crate::support::Scene;

/// `AsyncAPI`'s own, with the bindings of AMQP and no other.
const ASYNCAPI: &str = include_str!("asyncapi-3.0.0.json");

fn is_asyncapi(document: &Value) {
    let specification: Value = serde_json::from_str(ASYNCAPI).expect("JSON");
    let validator = jsonschema::options().with_draft(Draft::Draft7).build(&specification).expect("a schema");
    let wrong: Vec<String> =
        validator.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(wrong.is_empty(), "{wrong:#?}\n{document:#}");
}

const TABLES: &str = r#"
    CREATE TYPE status AS ENUM ('open', 'paid');
    CREATE SCHEMA "Größe.1";
    CREATE TABLE "Größe.1"."a b" ("x/y~z" status[], n int PRIMARY KEY);
    CREATE TABLE "Größe.1"."a_b" ("x/y~z" status NOT NULL, n int PRIMARY KEY);
    CREATE DOMAIN email AS varchar(200) NOT NULL;
    ALTER TABLE orders ADD state status, ADD mail email DEFAULT '';
    COMMENT ON TABLE orders IS 'What customers buy';
    COMMENT ON COLUMN orders.total IS 'With taxes';
    COMMENT ON COLUMN orders.state IS 'How far it is';"#;

async fn scene() -> Scene {
    let scene = Scene::new().await;
    scene.database.execute(TABLES).await;
    scene
}

fn config(scene: &Scene) -> String {
    let all = "tables = [\"*.*\", \"!public.outbox\"]";
    scene.config("[messages]\nprefixes = [\"app.*\"]\n").replacen(
        "tables = [\"public.orders\", \"public.ledger\"]",
        all,
        1,
    )
}

#[tokio::test]
async fn it_is_valid_by_asyncapi_and_names_what_the_owners_say() {
    let scene = scene().await;
    let contract = Contract::of(&file(&config(&scene))).await;
    is_asyncapi(&contract.document);
    assert_eq!(contract.at("/info/title"), "shop");
    assert_eq!(contract.at("/components/messages/public.orders.insert/description"), "What customers buy");
    assert_eq!(contract.column("public.orders", "total")["description"], "With taxes");
    assert_eq!(contract.column("public.orders", "total")["type"], json!(["string", "null"]));
    assert_eq!(contract.column("public.orders", "total")["x-postgres-type"], "numeric(12,2)");
    assert_eq!(contract.column("public.orders", "customer")["type"], "string");
    assert_eq!(contract.column("public.orders", "mail")["maxLength"], 200);
    assert_eq!(contract.column("public.orders", "mail")["type"], "string", "the domain refuses null");
    assert_eq!(contract.column("public.orders", "state")["description"], "How far it is");
    assert_eq!(contract.at("/components/schemas/type.public.status/enum"), &json!(["open", "paid"]));
    let insert = contract.at("/channels/shop.changes.public.orders.insert");
    assert_eq!(insert["address"], "public.orders.insert");
    let exchange = json!({"name": "shop.changes", "type": "topic", "durable": true, "vhost": scene.vhost.name()});
    assert_eq!(insert["bindings"]["amqp"]["exchange"], exchange);
    assert_eq!(contract.at("/operations/send.shop.changes.public.orders.insert/action"), "send");
    // Names that no key can have are told apart.
    let names: Vec<&Value> =
        contract.at("/components/messages").as_object().expect("messages").values().map(|it| &it["name"]).collect();
    assert!(
        names.contains(&&json!("Größe.1.a b.insert")) && names.contains(&&json!("Größe.1.a_b.insert")),
        "{names:?}"
    );
}

#[tokio::test]
async fn it_is_the_same_until_something_changes_and_creates_nothing() {
    let scene = scene().await;
    let config = file(&config(&scene));
    let (first, second) = (Contract::of(&config).await, Contract::of(&config).await);
    assert_eq!(first.text, second.text);
    assert!(first.text.starts_with("{\n  \"asyncapi\": \"3.0.0\",\n  \"channels\""), "by name: {}", first.text);
    scene.database.execute("ALTER TABLE orders ADD note text").await;
    let third = Contract::of(&config).await;
    assert_ne!(first.at("/info/version"), third.at("/info/version"));
    let there = scene.database.query_one(
        "SELECT count(*) FROM (SELECT FROM pg_publication UNION ALL SELECT FROM pg_replication_slots \
         WHERE database = current_database()) made",
    );
    assert_eq!(there.await, "0");
}

/// As `run` says it, with the same exit codes.
#[tokio::test]
async fn what_can_not_be_read_is_an_error_and_no_document() {
    let scene = scene().await;
    let config = config(&scene);
    let missing = file(&config.replacen("\"*.*\"", "\"public.ordes\"", 1));
    let away = file(&config.replacen(&scene.database.url(), "postgres://postgres@127.0.0.1:1/x", 1));
    for (config, expected, says) in
        [(&missing, 3, "Did you mean public.orders?"), (&away, 6, "127.0.0.1:1"), (&file("name = 1"), 2, "name")]
    {
        let (code, stdout, stderr) = schema(config, &[]).await;
        assert_eq!((code, stdout.as_str()), (Some(expected), ""), "{stderr}");
        assert!(stderr.contains(says), "{stderr}");
    }
}

/// A role that may read the catalog and nothing else, on a server without logical replication.
#[tokio::test]
async fn it_needs_no_privilege_but_to_connect() {
    let scene = scene().await;
    scene.database.execute("CREATE ROLE reader LOGIN").await;
    let config = config(&scene).replacen(&scene.database.url(), &scene.database.url_as("reader"), 1);
    let contract = Contract::of(&file(&config)).await;
    assert!(contract.text.contains("public.orders.insert"));
}

/// A publication that somebody else has made sends what it lists, and no more.
#[tokio::test]
async fn a_publication_of_somebody_elses_says_what_is_sent() {
    let scene = Scene::new().await;
    if scene.database.major().await < 15 {
        return;
    }
    let sql = "CREATE PUBLICATION shop FOR TABLE orders (id, status) WHERE (id > 0), ledger, outbox WITH (publish = 'insert, delete')";
    scene.database.execute(sql).await;
    let contract = Contract::of(&file(&scene.config(""))).await;
    let columns: Vec<&String> =
        contract.at("/components/schemas/row.public.orders/properties").as_object().expect("columns").keys().collect();
    assert_eq!(columns, ["id", "status"]);
    let messages = contract.at("/components/messages").as_object().expect("messages");
    assert!(messages.contains_key("public.orders.delete") && !messages.contains_key("public.orders.update"));
    // An insert may be an update that the row filter let in.
    let after = contract.at("/components/messages/public.orders.insert/payload/properties/after/required");
    assert_eq!(after, &json!(["id"]));
}

/// As `[[source.filters]]` has it in the publication that is yet to be made.
#[tokio::test]
async fn what_a_filter_leaves_out_is_not_in_it() {
    let scene = Scene::new().await;
    if scene.database.major().await < 15 {
        return;
    }
    let filter = "[[source.filters]]\ntable = \"public.orders\"\nwhere = \"id > 0\"\ncolumns = [\"id\", \"status\"]\n";
    let contract = Contract::of(&file(&scene.config(filter))).await;
    let columns = contract.at("/components/schemas/row.public.orders/properties").as_object().expect("columns");
    assert_eq!(columns.keys().collect::<Vec<_>>(), ["id", "status"]);
    let after = contract.at("/components/messages/public.orders.insert/payload/properties/after/required");
    assert_eq!(after, &json!(["id"]), "an insert may be an update that the filter let in");
}

#[tokio::test]
async fn an_exchange_is_as_the_configuration_describes_it() {
    let scene = Scene::new().await;
    let exchange = "[[rabbitmq.exchanges]]\nname = \"shop.changes\"\ntype = \"fanout\"\n";
    let contract = Contract::of(&file(&scene.config(exchange))).await;
    let described = contract.at("/channels/shop.changes.public.orders.insert/bindings/amqp/exchange/type");
    assert_eq!(described, "fanout");
}

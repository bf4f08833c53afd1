//! The types of a database of one's own, as a running pgsluice finds out about them.

use serde_json::{Value, json};

use crate::support::{Consumer, Process, SOON, Scene, pgsluice};

const TYPES: &str = "CREATE TYPE pair AS (a integer, b text); CREATE DOMAIN price AS numeric(10,2); \
    CREATE DOMAIN event AS jsonb; CREATE TABLE things (id serial PRIMARY KEY, pair pair, pairs pair[], price price)";

/// The scene with `things`, too.
fn start(scene: &Scene) -> Process {
    pgsluice(&scene.config("").replace("\"public.ledger\"]", "\"public.ledger\", \"public.things\"]"))
}

async fn started(scene: &Scene) -> (Process, Consumer) {
    scene.database.execute(TYPES).await;
    let process = start(scene);
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    (process, scene.vhost.consumer("all").await)
}

async fn insert(scene: &Scene, consumer: &mut Consumer, pair: &str) -> Value {
    scene
        .database
        .execute(&format!("INSERT INTO things (pair, pairs, price) VALUES ({pair}, ARRAY[{pair}], 1.5)"))
        .await;
    consumer.next(SOON).await.json()
}

#[tokio::test]
async fn a_type_is_known_before_the_first_row_and_from_then_on() {
    let scene = Scene::new().await;
    let (_process, mut consumer) = started(&scene).await;
    for n in 1..=3 {
        let event = insert(&scene, &mut consumer, &format!("({n}, 'x \"y\"')::pair")).await;
        let pair = json!({"a": n, "b": "x \"y\""});
        assert_eq!(event["after"], json!({"id": n, "pair": pair, "pairs": [pair], "price": "1.50"}));
    }
    scene
        .database
        .execute("CREATE TYPE mood AS ENUM ('well'); ALTER TABLE things ADD mood mood[] DEFAULT '{well}'")
        .await;
    assert_eq!(insert(&scene, &mut consumer, "NULL::pair").await["after"]["mood"], json!(["well"]));
}

#[tokio::test]
async fn a_composite_type_that_is_altered_is_asked_for_again() {
    let scene = Scene::new().await;
    let (_process, mut consumer) = started(&scene).await;
    let known = insert(&scene, &mut consumer, "(1, 'x')::pair").await;
    scene.database.execute("ALTER TYPE pair ADD ATTRIBUTE c boolean").await;
    let end = tokio::time::Instant::now() + SOON;
    let event = loop {
        let event = insert(&scene, &mut consumer, "(1, 'x', true)::pair").await;
        if event["after"]["pair"].is_object() {
            break event;
        }
        assert_eq!(event["after"]["pair"], "(1,x,t)");
        assert!(tokio::time::Instant::now() < end, "it is never asked for again");
    };
    assert_eq!(event["after"]["pairs"], json!([{"a": 1, "b": "x", "c": true}]));
    assert_ne!(event["schema_version"], known["schema_version"]);

    // Nothing in the stream tells, and the number of fields fits.
    scene.database.execute("ALTER TYPE pair RENAME ATTRIBUTE b TO name").await;
    let end = tokio::time::Instant::now() + SOON;
    loop {
        let pair = insert(&scene, &mut consumer, "(1, 'x', true)::pair").await["after"]["pair"].clone();
        if pair == json!({"a": 1, "name": "x", "c": true}) {
            break;
        }
        assert_eq!(pair, json!({"a": 1, "b": "x", "c": true}));
        assert!(tokio::time::Instant::now() < end, "the new name is never heard of");
    }
}

/// The rows wait for the answer, and are not acknowledged before: the stream is opened again until it is given.
#[tokio::test]
async fn a_type_that_can_not_be_asked_for_is_waited_for() {
    let scene = Scene::new().await;
    let name = scene.database.name();
    scene.database.execute(TYPES).await;
    let role = format!(
        "CREATE ROLE {name} LOGIN REPLICATION; ALTER DATABASE {name} OWNER TO {name}; ALTER TABLE orders OWNER TO {name}; \
         ALTER TABLE ledger OWNER TO {name}; ALTER TABLE outbox OWNER TO {name}; ALTER TABLE things OWNER TO {name}"
    );
    scene.database.execute(&role).await;
    let config = scene.config("").replace(&scene.database.url(), &scene.database.url_as(name));
    let mut process = pgsluice(&config.replace("\"public.ledger\"]", "\"public.ledger\", \"public.things\"]"));
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    let mut consumer = scene.vhost.consumer("all").await;

    let insert = "INSERT INTO things (pair) VALUES ((1, 'x'))";
    scene.database.execute(&format!("ALTER ROLE {name} CONNECTION LIMIT 0; {insert}")).await;
    process.wait_for_log("too many connections", SOON).await;
    process.kill();
    process.restart();
    process.wait_for_log("too many connections", SOON).await;
    assert!(process.runs());
    scene.database.execute(&format!("ALTER ROLE {name} CONNECTION LIMIT -1")).await;
    assert_eq!(consumer.next(SOON).await.json()["after"]["pair"], json!({"a": 1, "b": "x"}));
}

#[tokio::test]
async fn what_was_written_with_a_type_that_is_gone_is_still_sent() {
    let scene = Scene::new().await;
    let (mut process, mut consumer) = started(&scene).await;
    insert(&scene, &mut consumer, "NULL::pair").await;
    scene.acknowledged().await;
    process.kill();
    let drop = "INSERT INTO things (pair, price) VALUES ((1, 'x'), 2.5); ALTER TABLE things DROP pair, DROP pairs, DROP price; \
                DROP TYPE pair; DROP DOMAIN price; INSERT INTO things DEFAULT VALUES";
    scene.database.execute(drop).await;
    process.restart();
    let first = consumer.next(SOON).await.json();
    // A domain over a built-in type needs nothing of the catalog.
    assert_eq!(first["after"], json!({"id": 2, "pair": "(1,x)", "pairs": null, "price": "2.50"}));
    assert_eq!(consumer.next(SOON).await.json()["after"], json!({"id": 3}));
}

/// The scene with `things`, and with binary transfer.
async fn started_binary(scene: &Scene) -> (Process, Consumer) {
    scene.database.execute(TYPES).await;
    let config = scene.config("").replace("\"public.ledger\"]", "\"public.ledger\", \"public.things\"]\nbinary = true");
    let process = pgsluice(&config);
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    (process, scene.vhost.consumer("all").await)
}

const LEFT: &str = "they come as text";

#[tokio::test]
async fn binary_transfer_makes_the_same_events_and_is_left_where_it_can_not_be_read() {
    let scene = Scene::new().await;
    let (process, mut consumer) = started_binary(&scene).await;
    let event = insert(&scene, &mut consumer, "(1, 'x \"y\"')::pair").await;
    let pair = json!({"a": 1, "b": "x \"y\""});
    assert_eq!(event["after"], json!({"id": 1, "pair": pair, "pairs": [pair], "price": "1.50"}));
    scene.database.execute("UPDATE things SET id = 7").await;
    let event = consumer.next(SOON).await.json();
    assert_eq!(event["before"], json!({"id": 1}));
    assert_eq!(event["after"], json!({"id": 7, "pair": pair, "pairs": [pair], "price": "1.50"}));
    let outbox =
        "INSERT INTO outbox VALUES ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'order', '1', 'Paid', '{\"a\": 1}')";
    scene.database.execute(outbox).await;
    let delivery = consumer.next(SOON).await;
    assert_eq!(delivery.message_id, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
    assert_eq!((delivery.routing_key.as_str(), delivery.text().as_str()), ("order.Paid", "{\"a\": 1}"));
    assert!(!process.stderr().contains(LEFT), "{}", process.stderr());

    scene.database.execute("ALTER TABLE things ADD about regclass DEFAULT 'pg_class'").await;
    let event = insert(&scene, &mut consumer, "NULL::pair").await;
    assert_eq!((&event["after"]["about"], &event["after"]["price"]), (&json!("pg_class"), &json!("1.50")));
    assert!(process.stderr().contains(LEFT), "{}", process.stderr());
}

/// PostgreSQL has no binary form of it, and its walsender fails at each attempt.
#[tokio::test]
async fn a_type_without_a_binary_form_stops_nothing() {
    let scene = Scene::new().await;
    let (process, mut consumer) = started_binary(&scene).await;
    scene.database.execute("ALTER TABLE things ADD rights aclitem[] DEFAULT '{=r/pg_monitor}'").await;
    assert_eq!(insert(&scene, &mut consumer, "NULL::pair").await["after"]["rights"], json!(["=r/pg_monitor"]));
    assert!(process.stderr().contains(LEFT), "{}", process.stderr());
}

#[tokio::test]
async fn a_payload_of_a_domain_is_what_its_base_type_is() {
    let scene = Scene::new().await;
    scene.database.execute("CREATE DOMAIN event AS jsonb; ALTER TABLE outbox ALTER payload TYPE event").await;
    let _process = scene.run().await;
    let insert =
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('order', '1', 'Paid', '{\"a\": 1}')";
    scene.database.execute(insert).await;
    let delivery = scene.vhost.consumer("all").await.next(SOON).await;
    let content_type = delivery.properties.content_type().as_ref().map(ToString::to_string);
    assert_eq!((delivery.text().as_str(), content_type.as_deref()), ("{\"a\": 1}", Some("application/json")));
}

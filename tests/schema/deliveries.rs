//! Every delivery of every kind of event is what the document says; and one that is not is told from it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::contract::{Contract, file, with};
use crate::support::{
    Consumer, Database, Delivery, Process, SOON, Vhost, folder, pgsluice_command, postgres, rabbitmq,
};
use crate::values::generated::{columns, each, row, seed};
use crate::values::setup;

const ROWS: usize = 200;

/// A database and what pgsluice sends of it.
struct Deliveries {
    database: Database,
    contract: Contract,
    consumer: Consumer,
    process: Process,
    _vhost: Vhost,
}

impl Deliveries {
    async fn of(setup: &str, tables: &str, more: &str) -> Self {
        let database = postgres().database().await;
        database.execute(setup).await;
        let vhost = rabbitmq().vhost();
        for exchange in ["shop.changes", "shop.events", "shop.messages", "domain.shop", "domain.crm"] {
            vhost.declare_exchange(exchange, "topic").await;
        }
        vhost.queue("all", &[]).await;
        for exchange in ["shop.changes", "shop.events", "shop.messages", "domain.shop", "domain.crm"] {
            vhost.bind("all", exchange, "#").await;
        }
        let config = file(&format!(
            "name = \"shop\"\n[source]\nurl = \"{}\"\ntables = {tables}\nslot = \"{}\"\n[checkpoint]\npath = \"{}\"\n\
             [rabbitmq]\nurl = \"{}\"\n{more}",
            database.url(),
            database.name(),
            folder("schema").join("checkpoint").display(),
            vhost.url()
        ));
        let contract = Contract::of(&config).await;
        let process = pgsluice_command(&["run", "--config", config.to_str().expect("text")], &[]);
        process.wait_for_log("streaming from PostgreSQL", SOON).await;
        let consumer = vhost.consumer("all").await;
        Self { database, contract, consumer, process, _vhost: vhost }
    }

    /// The next one, which is what the document says.
    async fn next(&mut self) -> Delivery {
        let delivery = self.consumer.next(SOON).await;
        if let Err(why) = self.contract.judge(&delivery) {
            panic!("{why}");
        }
        delivery
    }

    /// What these statements make, each of which makes one.
    async fn after(&mut self, statements: &[&str]) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        for statement in statements {
            self.database.execute(statement).await;
            deliveries.push(self.next().await);
        }
        deliveries
    }

    fn refuses(&self, delivery: &Delivery, pointer: &str, value: Option<Value>) {
        let said = format!("{pointer} as {value:?}");
        assert!(self.contract.judge(&with(delivery, pointer, value)).is_err(), "{said} is taken");
    }
}

#[tokio::test]
async fn generated_values_of_every_type_are_what_the_document_says() {
    let (seed, mut rng) = seed();
    let columns = columns();
    let types = each(&columns, |(n, column)| format!("c{n} {}", column.name));
    let names = each(&columns, |(n, _)| format!("c{n}"));
    for (option, binary) in [("string", false), ("number", true)] {
        let sql = format!(
            "{}; CREATE TABLE v (id serial PRIMARY KEY, {types}); CREATE TABLE w (LIKE v INCLUDING ALL); \
             ALTER TABLE w REPLICA IDENTITY FULL",
            setup()
        );
        let more = format!("[changes]\nnumeric = \"{option}\"\n");
        let tables = format!("[\"public.*\"]\nbinary = {binary}");
        let mut deliveries = Deliveries::of(&sql, &tables, &more).await;
        for _ in 0..ROWS {
            let values = row(&columns, &mut rng);
            let sql = format!("INSERT INTO v ({names}) VALUES ({values}); INSERT INTO w ({names}) VALUES ({values})");
            deliveries.database.execute(&sql).await;
        }
        deliveries.database.execute("UPDATE v SET id = -id; UPDATE w SET id = -id; DELETE FROM v; DELETE FROM w").await;
        let mut kinds = BTreeSet::new();
        for _ in 0..ROWS * 6 {
            let delivery = deliveries.consumer.next(SOON).await;
            match deliveries.contract.judge(&delivery) {
                Ok(event) => kinds.insert(event.to_owned()),
                Err(why) => panic!("VALUES_SEED={seed}, {why}"),
            };
        }
        assert_eq!(kinds.len(), 6, "{kinds:?}");
        assert!(deliveries.process.runs());
    }
}

/// For each type, a value that another type would have.
#[tokio::test]
async fn a_value_of_another_type_is_not_what_the_document_says() {
    let cases = [
        ("boolean", "true", json!("t")),
        ("smallint", "1", json!(40_000)),
        ("integer", "1", json!(3_000_000_000_u32)),
        ("bigint", "1", json!("1")),
        ("numeric", "1.5", json!(1.5)),
        ("real", "1.5", json!("1.5")),
        ("double precision", "1.5", json!("inf")),
        ("varchar(3)", "'abc'", json!("abcd")),
        ("character(3)", "'a'", json!("a")),
        ("text", "'a'", json!(1)),
        ("mood", "'well'", json!("ill")),
        ("json", "'1'", Value::Null),
        ("date", "'2026-11-21'", json!("21.11.2026")),
        ("time", "'02:37'", json!("02:37")),
        ("timetz", "'02:37+00'", json!("02:37:00")),
        ("timestamp", "'2026-11-21 02:37'", json!("2026-11-21T02:37:00Z")),
        ("timestamptz", "'2026-11-21 02:37+00'", json!("2026-11-21 02:37:00+00")),
        ("interval", "'1 day'", json!("1 day")),
        ("bytea", "'x'", json!("\\x78")),
        ("bit(3)", "B'101'", json!("10")),
        ("uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", json!("a0eebc99")),
        ("oid", "1", json!(1)),
        ("integer[]", "'{1,NULL}'", json!([1, "2"])),
        ("integer[]", "'{{1},{2}}'", json!([[1], ["2"]])),
        ("mood[]", "'{well}'", json!(["ill"])),
        ("positive", "7", json!("7")),
        ("positives", "'{7}'", json!([["7"]])),
        ("item", "ROW(1, 'a', NULL)", json!({"n": 1, "label": "a"})),
        ("item", "ROW(1, 'a', NULL)", json!({"n": 1, "label": 2, "price": null})),
        ("item[]", "ARRAY[ROW(1, 'a', NULL)::item]", json!([{"n": "1", "label": "a", "price": null}])),
        ("shelf", "ROW(ROW(1, '', NULL)::item, '{1}')", json!({"item": {"n": 1}, "places": []})),
        ("hstore", "'a=>1'", json!({"a": 1})),
    ];
    let types = cases.iter().enumerate().map(|(n, (name, ..))| format!("c{n} {name} NOT NULL")).collect::<Vec<_>>();
    let sql = format!("{}; CREATE TABLE v (id int PRIMARY KEY, {}, n int)", setup(), types.join(", "));
    let mut deliveries = Deliveries::of(&sql, "[\"public.v\"]", "").await;
    let values = cases.iter().map(|(_, value, _)| *value).collect::<Vec<_>>().join(", ");
    let row = &deliveries.after(&[&format!("INSERT INTO v VALUES (1, {values}, NULL)")]).await[0];
    for (n, (name, _, wrong)) in cases.iter().enumerate() {
        let pointer = format!("/after/c{n}");
        // Of JSON anything is JSON.
        if *name != "json" {
            deliveries.refuses(row, &pointer, Some(wrong.clone()));
            deliveries.refuses(row, &pointer, Some(Value::Null));
        }
        deliveries.refuses(row, &pointer, None);
    }
    deliveries.refuses(row, "/after/n", Some(json!("1")));
    deliveries.refuses(row, "/after/more", Some(json!(1)));
    for (field, wrong) in [
        ("op", json!("update")),
        ("id", json!("shop:1")),
        ("table", json!("w")),
        ("identity", json!("full")),
        ("key", json!([])),
        ("before", json!({})),
        ("after", Value::Null),
        ("before_columns", json!("key")),
        ("changed", json!([])),
        ("committed_at", json!("2026-11-21")),
        ("ordinal", json!(-1)),
    ] {
        deliveries.refuses(row, &format!("/{field}"), Some(wrong));
        deliveries.refuses(row, &format!("/{field}"), None);
    }
}

/// What a change says of the row before it, by the replica identity; and what an update does not say.
#[tokio::test]
async fn before_and_after_are_what_the_replica_identity_lets_them_be() {
    let sql = "
        CREATE TABLE d (id int PRIMARY KEY, large text NOT NULL, n int NOT NULL);
        CREATE TABLE f (LIKE d INCLUDING ALL); ALTER TABLE f REPLICA IDENTITY FULL;
        CREATE TABLE i (id int PRIMARY KEY, code text NOT NULL, large text, n int);
        CREATE UNIQUE INDEX by_code ON i (code) INCLUDE (n); ALTER TABLE i REPLICA IDENTITY USING INDEX by_code;
        CREATE TABLE none (n int);
        CREATE TABLE p (id int, at date NOT NULL, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
        ALTER TABLE d ALTER large SET STORAGE EXTERNAL; ALTER TABLE f ALTER large SET STORAGE EXTERNAL;
        ALTER TABLE i ALTER large SET STORAGE EXTERNAL;";
    let mut deliveries = Deliveries::of(sql, "[\"public.*\"]", "").await;
    let seen = deliveries
        .after(&[
            "INSERT INTO d VALUES (1, repeat('x', 20000), 1)",
            "UPDATE d SET n = 2",
            "UPDATE d SET id = 2",
            "DELETE FROM d",
            "TRUNCATE d CASCADE",
            "INSERT INTO f VALUES (1, repeat('x', 20000), 1)",
            "UPDATE f SET n = 2",
            "DELETE FROM f",
            "TRUNCATE f RESTART IDENTITY",
            "INSERT INTO i VALUES (1, 'a', repeat('x', 20000), 1)",
            "UPDATE i SET n = 2",
            "UPDATE i SET code = 'b'",
            "DELETE FROM i",
            "INSERT INTO none VALUES (1)",
            "TRUNCATE none",
            "INSERT INTO p VALUES (1, '2026-05-01')",
            "UPDATE p SET id = 2",
            "DELETE FROM p",
        ])
        .await;
    let [_, kept, moved, gone, ..] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!(kept.json()["unchanged"], json!(["large"]), "the update does not say it, and the document allows it");
    // But the document allows nothing beyond.
    deliveries.refuses(kept, "/after/n", None);
    deliveries.refuses(kept, "/before", Some(json!({"id": 1, "n": 1})));
    deliveries.refuses(moved, "/before_columns", Some(json!("all")));
    deliveries.refuses(gone, "/before", Some(Value::Null));
    deliveries.refuses(gone, "/before/id", None);
    deliveries.refuses(&seen[6], "/after/large", None);
    deliveries.refuses(&seen[6], "/changed", Some(Value::Null));
    let messages = deliveries.contract.at("/components/messages").as_object().expect("messages");
    assert!(!messages.contains_key("public.none.update"), "the server refuses it");
}

#[tokio::test]
async fn events_of_an_outbox_are_what_the_document_says() {
    let sql = "
        CREATE TYPE kind AS ENUM ('OrderPaid', 'OrderShipped');
        CREATE TABLE plain (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text NOT NULL, aggregateid text NOT NULL,
            type kind NOT NULL, payload jsonb);
        CREATE TABLE rich (id text PRIMARY KEY, aggregatetype text, aggregateid text, type text, payload bytea NOT NULL,
            region text, urgency text, at timestamptz, version int, trace text, total numeric(10,2) NOT NULL, saga uuid);
        CREATE TABLE texts (LIKE plain INCLUDING ALL); ALTER TABLE texts ALTER payload TYPE text;";
    let more = r#"
        [[outbox]]
        table = "public.plain"
        [[outbox]]
        table = "public.texts"
        tombstone_on_empty_payload = true
        properties = { content_type = "text/csv" }
        [[outbox]]
        table = "public.rich"
        exchange = "domain.{route}"
        routing_key = "{type}.{region}"
        headers = { region = "{region}", fixed = "x" }
        envelope = { total = "total", at = "at" }
        columns = { timestamp = "at", schema_version = "version", trace_context = "trace" }
        properties = { correlation_id = "{saga}", priority = "{urgency}", app_id = "{schema}" }
        route = { column = "aggregatetype", pattern = "x_(.*)", replacement = "$1" }"#;
    let mut deliveries = Deliveries::of(sql, "[]", more).await;
    let seen = deliveries
        .after(&[
            "INSERT INTO plain (aggregatetype, aggregateid, type, payload) VALUES ('order', '7', 'OrderPaid', '{\"a\": 1}')",
            "INSERT INTO texts (aggregatetype, aggregateid, type, payload) VALUES ('order', '7', 'OrderPaid', 'a,b')",
            "INSERT INTO texts (aggregatetype, aggregateid, type) VALUES ('order', '7', 'OrderShipped')",
            "INSERT INTO rich VALUES ('1', 'x_shop', 'a', 'T', 'x', 'eu', '7', now(), 3, \
             '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', 19.9, gen_random_uuid())",
            "INSERT INTO rich VALUES ('2', 'x_crm', NULL, NULL, 'x', NULL, NULL, NULL, NULL, NULL, 1, NULL)",
        ])
        .await;
    deliveries.refuses(&seen[3], "/payload", Some(Value::Null));
    deliveries.refuses(&seen[3], "/total", Some(json!(19.9)));
    let contract = &deliveries.contract;
    let channel = contract.at("/channels/shop.events.aggregatetype.type");
    assert_eq!(channel["address"], "{aggregatetype}.{type}");
    assert_eq!(channel["parameters"]["type"]["enum"], json!(["OrderPaid", "OrderShipped"]));
    assert_eq!(contract.at("/components/messages/public.texts/contentType"), "text/csv");
    let mut other = with(&seen[0], "/a", Some(json!(2)));
    assert!(contract.judge(&other).is_ok(), "the payload is the application's own");
    other.headers.insert("aggregate_id".to_owned(), json!(7));
    assert!(contract.judge(&other).is_err());
}

#[tokio::test]
async fn logical_messages_are_what_the_document_says() {
    let more = "[messages]\nprefixes = [\"app.*\", \"audit\", \"a?[x]\"]\n";
    let mut deliveries = Deliveries::of("CREATE TABLE t (n int)", "[]", more).await;
    let seen = deliveries
        .after(&[
            "SELECT pg_logical_emit_message(true, 'app.paid', '\\x00ff'::bytea)",
            "SELECT pg_logical_emit_message(false, 'audit', 'x'), pg_switch_wal()",
            "SELECT pg_logical_emit_message(true, 'aü[x]', 'x')",
        ])
        .await;
    deliveries.refuses(&seen[0], "/content", Some(json!("\u{0}")));
    deliveries.refuses(&seen[0], "/prefix", Some(json!("other")));
    deliveries.refuses(&seen[1], "/transactional", Some(json!(0)));
    assert_eq!(deliveries.contract.at("/channels/shop.messages.audit/address"), "audit");
}

#[tokio::test]
async fn events_of_an_outbox_without_a_table_are_what_the_document_says() {
    let more = r#"
        [[outbox]]
        prefix = "app.*"
        headers = { tenant = "{tenant}" }
        envelope = { at = "at" }
        [[outbox]]
        prefix = "audit"
        routing_key = "{prefix}.{type}""#;
    let mut deliveries = Deliveries::of("CREATE TABLE t (n int)", "[]", more).await;
    let object = r#"{"id": "1", "aggregatetype": "order", "aggregateid": "7", "type": "OrderPaid", "payload": {"a": 1}, "tenant": 3, "at": "x"}"#;
    let statements =
        ["app.a", "audit"].map(|prefix| format!("SELECT pg_logical_emit_message(true, '{prefix}', '{object}')"));
    let seen = deliveries.after(&statements.each_ref().map(String::as_str)).await;
    deliveries.refuses(&seen[0], "/at", None);
    assert_eq!(deliveries.contract.at("/channels/shop.events.audit.type/address"), "audit.{type}");
}

/// Of all types, and with values that an update does not say.
#[tokio::test]
async fn events_are_what_the_document_says_in_every_format() {
    const ROWS: usize = 20;
    let (seed, mut rng) = seed();
    let columns = columns();
    let types = each(&columns, |(n, column)| format!("c{n} {}", column.name));
    let names = each(&columns, |(n, _)| format!("c{n}"));
    let sql = format!(
        "{}; CREATE TABLE v (id serial PRIMARY KEY, large text, bytes bytea, words text[], {types});
         ALTER TABLE v ALTER large SET STORAGE EXTERNAL, ALTER bytes SET STORAGE EXTERNAL, ALTER words SET STORAGE EXTERNAL;
         CREATE TABLE w (LIKE v INCLUDING ALL); ALTER TABLE w REPLICA IDENTITY FULL;
         CREATE TABLE box (id text PRIMARY KEY, aggregatetype text NOT NULL DEFAULT 'a', aggregateid text NOT NULL DEFAULT 'b',
             type text NOT NULL DEFAULT 't', payload jsonb, at timestamptz);
         CREATE TABLE bytes (LIKE box INCLUDING ALL); ALTER TABLE bytes ALTER payload TYPE bytea USING NULL",
        setup()
    );
    for format in ["raw", "cloudevents", "cloudevents-binary", "debezium", "debezium-schema", "canal"] {
        let own = if format.starts_with("cloudevents") { format } else { "raw" };
        let more = format!(
            "[changes]\nformat = \"{format}\"\n[messages]\nprefixes = [\"app.*\"]\nformat = \"{own}\"\n\
             [[outbox]]\ntable = \"public.box\"\nformat = \"{own}\"\ncolumns.timestamp = \"at\"\n\
             [[outbox]]\ntable = \"public.bytes\"\nformat = \"{own}\"\n"
        );
        let mut deliveries = Deliveries::of(&sql, "[\"public.v\", \"public.w\"]", &more).await;
        let large = "repeat('x', 9999), convert_to(repeat('x', 9999), 'UTF8'), ARRAY[repeat('x', 9999)]";
        for _ in 0..ROWS {
            let values = row(&columns, &mut rng);
            let insert =
                |table| format!("INSERT INTO {table} (large, bytes, words, {names}) VALUES ({large}, {values});");
            deliveries.database.execute(&[insert("v"), insert("w")].concat()).await;
        }
        let sql = "UPDATE v SET c2 = 1; UPDATE w SET c2 = 1; UPDATE v SET id = -id; DELETE FROM v; DELETE FROM w; TRUNCATE v, w;
            INSERT INTO box (id, payload, at) VALUES ('1', '{\"a\": [1]}', now()), ('2', NULL, NULL);
            INSERT INTO bytes (id, payload) VALUES ('3', '\\x00ff'), ('4', NULL);
            SELECT pg_logical_emit_message(true, 'app.a', 'x'), pg_logical_emit_message(true, 'app.b', '\\x00ff'::bytea)";
        deliveries.database.execute(sql).await;
        let mut kinds = BTreeSet::new();
        for _ in 0..ROWS * 7 + 8 {
            let delivery = deliveries.consumer.next(SOON).await;
            match deliveries.contract.judge(&delivery) {
                Ok(event) => kinds.insert(event.to_owned()),
                Err(why) => panic!("{format}, VALUES_SEED={seed}, {}", &why[..why.len().min(3000)]),
            };
        }
        assert_eq!(kinds.len(), 11, "{format}: {kinds:?}");
        let insert = deliveries.contract.at("/components/messages/public.v.insert");
        assert_eq!(insert["x-format"], format);
    }
}

#[tokio::test]
async fn events_of_rules_are_what_the_document_says() {
    let sql = "
        CREATE TYPE status AS ENUM ('open', 'paid');
        CREATE TABLE orders (id int PRIMARY KEY, status status NOT NULL, total numeric(10,2), mail text NOT NULL, note text);
        ALTER TABLE orders ALTER note SET STORAGE EXTERNAL;
        CREATE TABLE kept (LIKE orders INCLUDING ALL); ALTER TABLE kept REPLICA IDENTITY FULL;";
    let more = r#"
        [[events]]
        table = "public.orders"
        type = "OrderPaid"
        on = "update"
        when = "new.status == 'paid'"
        data = ["id", "total", "mail"]
        rename = { total = "amount" }
        mask = { mail = "***" }
        compute = { twice = "new.id * 2" }
        exchange = "domain.shop"
        headers = { region = "{schema}", kind = "{new.status}" }
        [[events]]
        table = ["public.orders", "public.kept"]
        name = "all"
        type = "{table}.{op}"
        on = ["insert", "update", "delete", "truncate"]
        exchange = "domain.crm"
        routing_key = "{type}.{new.status}"
        hash = ["mail"]
        [hash]
        key = "0123456789abcdef0123456789abcdef""#;
    let mut deliveries = Deliveries::of(sql, "[]", more).await;
    let mut seen = Vec::new();
    for (statement, events) in [
        ("INSERT INTO orders VALUES (1, 'open', 1.5, 'a@b', repeat('x', 9999))", 1),
        ("UPDATE orders SET status = 'paid'", 2),
        ("DELETE FROM orders", 1),
        ("TRUNCATE orders", 1),
        ("INSERT INTO kept VALUES (1, 'open', NULL, 'a@b', repeat('x', 9999))", 1),
        ("UPDATE kept SET status = 'paid'", 1),
        ("DELETE FROM kept", 1),
        ("TRUNCATE kept", 1),
    ] {
        deliveries.database.execute(statement).await;
        for _ in 0..events {
            seen.push(deliveries.next().await);
        }
    }
    let paid = seen.iter().find(|it| it.event_type == "OrderPaid").expect("one");
    deliveries.refuses(paid, "/data/amount", Some(json!(1.5)));
    deliveries.refuses(paid, "/data/mail", Some(json!("a@b")));
    deliveries.refuses(paid, "/data/id", None);
    deliveries.refuses(paid, "/op", Some(json!("delete")));
    deliveries.refuses(paid, "/data/note", Some(json!("x")));
    let channel = deliveries.contract.at("/channels/domain.shop.OrderPaid");
    assert_eq!(channel["address"], "OrderPaid");
    let kept = deliveries.contract.at("/components/messages/all.public.kept/payload/properties/data/anyOf/0/required");
    assert_eq!(kept, &json!(["id", "status", "total", "mail", "note"]), "with FULL, nothing is missing");
}

#[tokio::test]
async fn events_of_rules_of_whole_rows_are_what_the_document_says() {
    for format in ["debezium", "debezium-schema", "canal"] {
        let more = format!(
            "[[events]]\ntable = \"public.orders\"\ntype = \"OrderChanged\"\nformat = \"{format}\"\nexchange = \"domain.shop\"\n\
             when = \"op == 'delete' || new.id < 5\"\n"
        );
        let mut deliveries = Deliveries::of("CREATE TABLE orders (id int PRIMARY KEY, mail text)", "[]", &more).await;
        deliveries.database.execute("INSERT INTO orders VALUES (7, 'x')").await;
        let statements = ["INSERT INTO orders VALUES (1, 'a@b')", "UPDATE orders SET mail = NULL WHERE id = 1"];
        let seen = deliveries.after(&statements).await;
        assert_eq!(
            seen[0].properties.content_type().as_ref().map(lapin::types::ShortString::as_str),
            Some("application/json")
        );
        let body = seen[0].json();
        let (after, mail) = match format {
            "debezium" => (&body["after"], "a@b"),
            "debezium-schema" => (&body["payload"]["after"], "a@b"),
            _ => (&body["data"][0], "a@b"),
        };
        assert_eq!(after["mail"], mail, "{format}: {body}");
    }
}

#[tokio::test]
async fn events_of_rules_are_what_the_document_says_in_each_format() {
    for format in ["raw", "cloudevents", "cloudevents-binary"] {
        let more = format!(
            "[[events]]\ntable = \"public.orders\"\ntype = \"OrderChanged\"\nformat = \"{format}\"\nexchange = \"domain.shop\"\n\
             data = [\"id\", \"mail\"]\ncompute = {{ twice = \"(op == 'delete' ? old.id : new.id) * 2\" }}\n"
        );
        let sql = "CREATE TABLE orders (id int PRIMARY KEY, mail text)";
        let mut deliveries = Deliveries::of(sql, "[]", &more).await;
        let statements =
            ["INSERT INTO orders VALUES (1, 'a@b')", "UPDATE orders SET mail = NULL", "DELETE FROM orders"];
        let seen = deliveries.after(&statements).await;
        let data = match format {
            "cloudevents" => seen[0].json()["data"].clone(),
            _ => seen[0].json(),
        };
        assert_eq!(data, json!({"id": 1, "mail": "a@b", "twice": 2}), "{format}");
        assert_eq!(seen[0].headers.contains_key("cloudEvents:subject"), format == "cloudevents-binary");
        let in_data = if format == "cloudevents" { "/data/twice" } else { "/twice" };
        deliveries.refuses(&seen[0], in_data, None);
    }
}

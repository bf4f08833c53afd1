//! What is wrong with a database is said before anything is changed in it, with what to do about it;
//! and the publication holds exactly what the configuration selects.

use bytes::BytesMut;
use pgsluice::config::{OnUpdate, Ordering, OutboxColumns, OutboxOf, OutboxSettings, OutboxTableSettings};
use pgsluice::failure::{Definite, Failure, Kind};
use pgsluice::postgres::catalog::{Wanted, resolve};
use pgsluice::postgres::conninfo::Conninfo;
use pgsluice::postgres::preflight::{self, Look};
use pgsluice::postgres::publication::{self, Plan};
use pgsluice::postgres::sql;
use pgsluice::route::select::Selection;
use pgsluice::route::template::Template;
use postgres_protocol::message::frontend;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_postgres::{Client, NoTls};

use crate::support::{self, Database, PostgresServer, SOON, eventually};

fn selection(patterns: &[&str]) -> Selection {
    Selection::parse(&patterns.iter().map(ToString::to_string).collect::<Vec<_>>()).expect("valid patterns")
}

fn outbox(routing_key: &str) -> OutboxSettings {
    let template = |text| Template::parse(text).expect("a valid template");
    let column = str::to_owned;
    OutboxSettings {
        of: OutboxOf::Table(OutboxTableSettings {
            schema: "public".to_owned(),
            table: "outbox".to_owned(),
            on_update: OnUpdate::Warn,
            cleanup: None,
        }),
        exchange: template("{name}.events"),
        routing_key: template(routing_key),
        columns: OutboxColumns {
            id: column("id"),
            aggregate_type: Some(column("aggregatetype")),
            aggregate_id: Some(column("aggregateid")),
            event_type: Some(column("type")),
            payload: column("payload"),
            timestamp: None,
            schema_version: None,
            trace_context: None,
        },
        key: "outbox".to_owned(),
        format: None,
        properties: Vec::new(),
        headers: Vec::new(),
        envelope: Vec::new(),
        route: None,
        expand_json_payload: false,
        ordering: Ordering::Key,
        tombstone_on_empty_payload: false,
    }
}

const OUTBOX: &str = "CREATE TABLE outbox (id uuid PRIMARY KEY, aggregatetype text, aggregateid text, type text, \
                      payload jsonb, tenant text);";

/// The definite failure with its hint, which holds each of `parts`.
pub(crate) fn refused<T>(result: Result<T, Failure>, kind: Kind, parts: &[&str]) -> Definite {
    match result {
        Err(Failure::Definite(error)) => {
            let text = format!("{error}\nhint: {}", error.hint);
            assert_eq!(error.kind, kind, "{text}");
            for part in parts {
                assert!(text.contains(part), "`{part}` in: {text}");
            }
            error
        }
        Err(Failure::Transient(error)) => panic!("transient: {error:#}"),
        Ok(_) => panic!("was not refused; expected {parts:?}"),
    }
}

/// A database with `sql` run in it, and a client.
async fn database(sql: &str) -> (Database, Client) {
    let database = support::postgres().database().await;
    database.execute(sql).await;
    let client = database.client().await;
    (database, client)
}

pub(crate) async fn client_as(database: &Database, user: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(&database.url_as(user), NoTls).await.expect("connects");
    tokio::spawn(connection);
    client
}

async fn wanted(client: &Client, patterns: &[&str], outbox: Option<&OutboxSettings>) -> Wanted {
    resolve(client, &selection(patterns), outbox.map_or(&[], std::slice::from_ref), &[]).await.expect("resolves")
}

/// Plans and applies, as `open` does.
async fn publish(client: &Client, name: &str, wanted: &Wanted) -> Result<Plan, Failure> {
    let server = preflight::check(client, Look::First).await?;
    let publication = publication::read(client, name).await?;
    let plan = publication::plan(name, publication.as_ref(), wanted, &server)?;
    assert!(publication::apply(client, name, &plan, wanted).await?, "nobody writes");
    Ok(plan)
}

async fn published(database: &Database, name: &str) -> String {
    let sql = "SELECT COALESCE(string_agg(schemaname || '.' || tablename, ' ' ORDER BY schemaname, tablename), '') \
               FROM pg_publication_tables WHERE pubname = ";
    database.query_one(&format!("{sql} '{name}'")).await
}

#[tokio::test]
async fn a_server_and_a_role_that_fit_pass() {
    let database = support::postgres().database().await;
    let server = preflight::check(&database.client().await, Look::First).await.expect("passes");
    assert!(server.version >= 140_000);
    assert_eq!(server.database, database.name());
}

/// A walsender whose client has flushed something.
async fn walsender(database: &Database, application_name: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", database.port())).await.expect("connects");
    let mut messages = BytesMut::new();
    let parameters = [("user", "postgres"), ("replication", "true"), ("application_name", application_name)];
    frontend::startup_message(parameters, &mut messages).expect("no zero bytes");
    let from = database.query_one("SELECT pg_current_wal_flush_lsn()").await;
    frontend::query(&format!("START_REPLICATION PHYSICAL {from}"), &mut messages).expect("no zero bytes");
    // Standby status update: written, flushed, applied, the time, no answer wanted.
    let status: Vec<u8> = [&b"r"[..], &1_i64.to_be_bytes(), &1_i64.to_be_bytes(), &[0; 17]].concat();
    frontend::CopyData::new(&status[..]).expect("short").write(&mut messages);
    stream.write_all(&messages).await.expect("writes");
    stream
}

/// Held against what PostgreSQL says of a walsender of that name.
#[tokio::test]
async fn pgsluice_must_not_be_a_synchronous_standby() {
    let server = PostgresServer::private(&[("synchronous_commit", "local")]);
    let database = server.database().await;
    for (setting, name) in [
        ("", "pgsluice"),
        ("*", "pgsluice"),
        ("standby", "pgsluice"),
        ("standby, PgSluice", "pgsluice"),
        ("ANY 1 (standby, pgsluice_2)", "pgsluice"),
        ("any 1 (standby, pgsluice)", "pgsluice"),
        ("2(standby, *)", "pgsluice"),
        (r#"first 1 ("a "" (b), c", other)"#, r#"a " (b), c"#),
        (r#"first 1 ("a "" (b), c", other)"#, "c"),
        (r#""*""#, "pgsluice"),
        ("7", "7"),
        ("1 (7)", "1"),
    ] {
        database.execute(&format!("ALTER SYSTEM SET synchronous_standby_names = '{setting}'")).await;
        database.execute("SELECT pg_reload_conf()").await;
        let show = "SHOW synchronous_standby_names";
        eventually(setting, SOON, async || (database.query_one(show).await == setting).then_some(())).await;
        let text = format!("host=127.0.0.1 port={} user=postgres dbname={}", database.port(), database.name());
        let text = format!("{text} application_name='{name}'");
        let conninfo = Conninfo::parse_with(&text, &|_| None).expect("a connection string");
        let walsender = walsender(&database, name).await;
        let port = walsender.local_addr().expect("an address").port();
        let sql = format!(
            "SELECT (SELECT sync_priority FROM pg_stat_replication WHERE client_port = {port} AND flush_lsn IS NOT NULL) \
             IS NOT DISTINCT FROM "
        );
        let is = async |priority: &str| database.query_one(&format!("{sql}{priority}")).await == "t";
        eventually("it has reported", SOON, async || (!is("NULL").await).then_some(())).await;
        let is_asynchronous = is("0").await;
        drop(walsender);
        let client = sql::connect(&conninfo).await.expect("connects");
        let checked = preflight::check(&client, Look::First).await;
        if is_asynchronous {
            assert!(checked.is_ok(), "{setting} for {name}: {checked:?}");
        } else {
            let parts = [&format!("synchronous_standby_names is {setting}"), "would wait for RabbitMQ"];
            refused(checked, Kind::Source, &parts);
        }
    }
}

#[tokio::test]
async fn wal_level_must_be_logical() {
    let server = PostgresServer::private(&[("wal_level", "replica")]);
    let client = server.database().await.client().await;
    let parts = ["wal_level is replica", "ALTER SYSTEM SET wal_level = logical", "restart"];
    refused(preflight::check(&client, Look::First).await, Kind::Source, &parts);
}

#[tokio::test]
async fn the_role_must_have_replication() {
    let database = support::postgres().database().await;
    let role = format!("{}_plain", database.name());
    database.execute(&format!("CREATE ROLE {role} LOGIN")).await;
    let client = client_as(&database, &role).await;
    let fix = format!("ALTER ROLE \"{role}\" REPLICATION");
    refused(preflight::check(&client, Look::First).await, Kind::Source, &["REPLICATION attribute", &fix]);
    database.execute(&fix).await;
    preflight::check(&client, Look::First).await.expect("the hint helps");
}

#[tokio::test]
async fn a_table_that_is_not_there_is_named_with_those_that_were_perhaps_meant() {
    let (database, client) = database(
        "CREATE TABLE orders (id int PRIMARY KEY); CREATE SCHEMA sales; CREATE TABLE sales.customers (id int)",
    )
    .await;
    let resolve = async |pattern| resolve(&client, &selection(&[pattern]), &[], &[]).await;
    let parts = ["public.order,", "source.tables", "Did you mean public.orders?", database.name()];
    refused(resolve("public.order").await, Kind::Source, &parts);
    refused(resolve("public.customers").await, Kind::Source, &["public.customers", "Did you mean sales.customers?"]);
    refused(resolve("public.\"Orders\"").await, Kind::Source, &["public.Orders", "Did you mean public.orders?"]);
    refused(resolve("public.nothing_like_it").await, Kind::Source, &["public.nothing_like_it", "Create it"]);
    resolve("future.*").await.expect("a pattern may match nothing yet");
}

#[tokio::test]
async fn what_has_no_changes_in_the_wal_is_said_to_be_what_it_is() {
    let (_database, client) = database(
        "CREATE VIEW v AS SELECT 1 AS a; CREATE MATERIALIZED VIEW m AS SELECT 1 AS a; CREATE UNLOGGED TABLE u (id int)",
    )
    .await;
    for (pattern, what) in [
        ("public.v", "is a view"),
        ("public.m", "is a materialized view"),
        ("public.u", "is an unlogged table"),
        ("pg_catalog.pg_class", "is a system table"),
    ] {
        refused(resolve(&client, &selection(&[pattern]), &[], &[]).await, Kind::Source, &[pattern, what]);
    }
    assert!(wanted(&client, &["*.*"], None).await.tables.is_empty());
}

#[tokio::test]
async fn the_outbox_must_be_there_with_every_column_that_is_used() {
    let (database, client) = database("CREATE TABLE outboxes (id int)").await;
    let none = selection(&[]);
    let settings = outbox("{tenant}.{type}");
    let parts = ["public.outbox,", "outbox.table", "Did you mean public.outboxes?"];
    refused(resolve(&client, &none, std::slice::from_ref(&settings), &[]).await, Kind::Source, &parts);

    database.execute("CREATE TABLE outbox (id uuid PRIMARY KEY, aggregatetype text, type text, body jsonb)").await;
    let parts = ["\"aggregateid\" (", "\"payload\" (", "\"tenant\" (", "it has id, aggregatetype, type, body"];
    let error = refused(resolve(&client, &none, std::slice::from_ref(&settings), &[]).await, Kind::Source, &parts);
    assert!(!error.to_string().contains("\"name\""), "a built-in variable is no column: {error}");

    database.execute(&format!("DROP TABLE outbox; {OUTBOX}")).await;
    let found =
        resolve(&client, &none, std::slice::from_ref(&settings), &[]).await.expect("is complete").outboxes.remove(0);
    assert_eq!(found.columns, ["aggregateid", "aggregatetype", "id", "payload", "tenant", "type"]);
}

#[tokio::test]
async fn the_publication_is_created_with_exactly_what_is_selected() {
    let (database, client) = database(
        "CREATE TABLE \"Odd \"\" name\" (id int PRIMARY KEY); CREATE TABLE orders (id int PRIMARY KEY); \
         CREATE TABLE orders_child () INHERITS (orders); CREATE TABLE audit_log (id int PRIMARY KEY); \
         CREATE TABLE events (id int PRIMARY KEY) PARTITION BY RANGE (id); \
         CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (9); \
         CREATE TABLE outbox (id uuid PRIMARY KEY, aggregatetype text, aggregateid text, type text, payload jsonb)",
    )
    .await;
    let patterns = ["public.*", "!public.audit_*", "!public.orders_child", "!public.outbox"];
    let wanted = wanted(&client, &patterns, Some(&outbox("{type}"))).await;
    let name = "it's \"quoted\"";
    let plan = publish(&client, name, &wanted).await.expect("creates");
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
    assert_eq!(
        published(&database, "it''s \"quoted\"").await,
        "public.Odd \" name public.events public.orders public.outbox"
    );
    let state = publication::read(&client, name).await.expect("reads").expect("exists");
    assert!(state.managed && state.via_root && !state.all_tables && state.unpublished.is_empty(), "{state:?}");
    // Once more changes nothing.
    assert_eq!(publish(&client, name, &wanted).await.expect("is fine"), Plan::default());
}

#[tokio::test]
async fn a_publication_of_ours_follows_the_configuration() {
    let (database, client) = database(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY)",
    )
    .await;
    publish(&client, "p", &wanted(&client, &["public.a", "public.b"], None).await).await.expect("creates");
    let plan = publish(&client, "p", &wanted(&client, &["public.b", "public.c"], None).await).await.expect("alters");
    assert_eq!(published(&database, "p").await, "public.b public.c");
    assert!(plan.notes.iter().any(|note| note.contains("public.c")), "{:?}", plan.notes);
    // Those that are written to now are sent in part; the one that stays is not held up.
    let script = "BEGIN; SET LOCAL statement_timeout = '500ms'; \
                  LOCK TABLE \"public\".\"a\", \"public\".\"c\" IN SHARE ROW EXCLUSIVE MODE; \
                  ALTER PUBLICATION \"p\" DROP TABLE ONLY \"public\".\"a\"; \
                  ALTER PUBLICATION \"p\" ADD TABLE ONLY \"public\".\"c\"; COMMIT";
    assert_eq!(plan.script(), script);
    // Somebody took it over: from now on it is left alone.
    database.execute("COMMENT ON PUBLICATION p IS NULL").await;
    let wanted = wanted(&client, &["public.a", "public.b"], None).await;
    refused(publish(&client, "p", &wanted).await, Kind::Source, &["public.a", "ADD TABLE ONLY \"public\".\"a\""]);
    assert_eq!(published(&database, "p").await, "public.b public.c");
}

#[tokio::test]
async fn a_publication_is_not_changed_beneath_a_transaction_that_has_written_to_what_joins() {
    let private = PostgresServer::private(&[("max_prepared_transactions", "1")]);
    let database = private.database().await;
    database
        .execute(
            "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY) PARTITION BY RANGE (id); \
             CREATE TABLE b_1 PARTITION OF b FOR VALUES FROM (0) TO (9); CREATE TABLE c (id int PRIMARY KEY)",
        )
        .await;
    let client = database.client().await;
    client.batch_execute("SET search_path = ''").await.expect("sets");
    publish(&client, "p", &wanted(&client, &["public.a"], None).await).await.expect("creates");
    let server = preflight::check(&client, Look::First).await.expect("passes");
    let all = wanted(&client, &["public.*"], None).await;
    let publication = publication::read(&client, "p").await.expect("reads");
    let plan = publication::plan("p", publication.as_ref(), &all, &server).expect("plans");
    let writers = async || {
        let writers = publication::writers(&client, plan.locked.keys().copied()).await.expect("looks");
        writers.into_iter().map(|writer| writer.who).collect::<Vec<_>>().join("; ")
    };
    let writer = database.client().await;
    for (wrote, who, end) in [
        ("INSERT INTO b_1 VALUES (1)", "idle in transaction", "ROLLBACK"),
        ("INSERT INTO c VALUES (1); PREPARE TRANSACTION 'it'", "a prepared transaction", "ROLLBACK PREPARED 'it'"),
    ] {
        writer.batch_execute(&format!("BEGIN; INSERT INTO a VALUES (1); {wrote}")).await.expect("writes");
        assert!(writers().await.contains(who), "{}", writers().await);
        assert!(!publication::apply(&client, "p", &plan, &all).await.expect("gives way"), "{wrote}");
        writer.batch_execute(end).await.expect("was not ended");
    }
    // It has `b` and waits for `c`; who has `c` and waits for `b` is not the victim of that.
    writer.batch_execute("BEGIN; INSERT INTO c VALUES (1)").await.expect("writes");
    let crossing = async {
        let sql = "SELECT count(*) FROM pg_locks \
                   WHERE relation = 'b'::regclass AND mode = 'ShareRowExclusiveLock' AND granted";
        let is_locked = async || (database.query_one(sql).await == "1").then_some(());
        support::eventually("it has locked b", support::SOON, is_locked).await;
        writer.batch_execute("INSERT INTO b VALUES (2)").await
    };
    let (applied, crossed) = tokio::join!(publication::apply(&client, "p", &plan, &all), crossing);
    assert!(!applied.expect("gives way"));
    crossed.expect("has its turn");
    assert_eq!(published(&database, "p").await, "public.a");
    // Who has only read, or written to what stays, is not in the way.
    writer.batch_execute("ROLLBACK; BEGIN; INSERT INTO a VALUES (2); SELECT FROM b FOR UPDATE").await.expect("reads");
    assert_eq!(writers().await, "");
    assert!(publication::apply(&client, "p", &plan, &all).await.expect("alters"));
    assert_eq!(published(&database, "p").await, "public.a public.b public.c");
    let timeout = client.query_one("SHOW statement_timeout", &[]).await.expect("shows").get::<_, String>(0);
    assert_eq!(timeout, "0");
}

#[tokio::test]
async fn an_empty_database_gets_an_empty_publication_with_a_warning() {
    let (database, client) = database("").await;
    let plan = publish(&client, "p", &wanted(&client, &["public.*"], None).await).await.expect("creates");
    assert!(plan.warnings[0].contains("no table matches"), "{:?}", plan.warnings);
    database.execute("CREATE TABLE a (id int PRIMARY KEY)").await;
    publish(&client, "p", &wanted(&client, &["public.*"], None).await).await.expect("alters");
    assert_eq!(published(&database, "p").await, "public.a");
}

#[tokio::test]
async fn without_the_privilege_the_statement_is_in_the_hint() {
    let (database, client) = database("CREATE TABLE orders (id int PRIMARY KEY)").await;
    let role = format!("{}_poor", database.name());
    database.execute(&format!("CREATE ROLE {role} LOGIN REPLICATION")).await;
    let poor = client_as(&database, &role).await;
    let wanted = wanted(&client, &["public.*"], None).await;
    let error =
        refused(publish(&poor, "p", &wanted).await, Kind::Source, &["CREATE on the database", "CREATE PUBLICATION"]);
    let statement = &error.hint[error.hint.find("CREATE PUBLICATION").expect("is there")..];
    database.execute(statement).await;
    let plan = publish(&poor, "p", &wanted).await.expect("the hint helps");
    assert_eq!(plan, Plan::default());
}

#[tokio::test]
async fn a_publication_of_the_users_is_used_as_it_is_and_drift_is_reported() {
    let (database, client) = database(
        "CREATE TABLE a (id int PRIMARY KEY, x int); CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY); \
         CREATE PUBLICATION p FOR TABLE a, c WITH (publish = 'insert, update, delete')",
    )
    .await;
    let both = wanted(&client, &["public.a", "public.b"], None).await;
    let parts = ["\"p\"", "public.b", "ALTER PUBLICATION \"p\" ADD TABLE ONLY \"public\".\"b\"", "source.publication"];
    refused(publish(&client, "p", &both).await, Kind::Source, &parts);

    let plan = publish(&client, "p", &wanted(&client, &["public.a"], None).await).await.expect("is used");
    assert!(plan.statements.is_empty());
    let warnings = plan.warnings.join("\n");
    assert!(warnings.contains("not selected; their changes are skipped: public.c"), "{warnings}");
    assert!(warnings.contains("does not publish truncate"), "{warnings}");

    database.execute("CREATE PUBLICATION everything FOR ALL TABLES").await;
    assert_eq!(publish(&client, "everything", &both).await.expect("is used"), Plan::default());
}

#[tokio::test]
async fn column_lists_and_row_filters_are_seen() {
    let (database, client) = database(&format!("{OUTBOX} CREATE TABLE a (id int PRIMARY KEY, x int)")).await;
    if preflight::check(&client, Look::First).await.expect("passes").version < 150_000 {
        return;
    }
    database
        .execute("CREATE PUBLICATION p FOR TABLE a (id) WHERE (id > 0), outbox (id, type, payload) WITH (publish = 'insert')")
        .await;
    let wanted = wanted(&client, &["public.a"], Some(&outbox("{type}"))).await;
    let parts = ["public.outbox", "aggregateid, aggregatetype", "column list"];
    refused(publish(&client, "p", &wanted).await, Kind::Source, &parts);
    database.execute("ALTER PUBLICATION p SET TABLE a (id) WHERE (id > 0), outbox").await;
    let plan = publish(&client, "p", &wanted).await.expect("is used");
    assert!(plan.notes.iter().any(|note| note.contains("public.a has a row filter and a column list")), "{plan:?}");
    assert_eq!(plan.notes.len(), 1, "{plan:?}");
}

#[tokio::test]
async fn an_outbox_whose_inserts_are_not_published_is_refused() {
    let (_database, client) =
        database(&format!("{OUTBOX} CREATE PUBLICATION p FOR TABLE outbox WITH (publish = 'update')")).await;
    let wanted = wanted(&client, &[], Some(&outbox("{type}"))).await;
    refused(publish(&client, "p", &wanted).await, Kind::Source, &["does not publish inserts", "SET (publish ="]);
}

#[tokio::test]
async fn rows_that_would_come_under_a_name_that_is_not_selected_are_refused() {
    let (database, client) = database(
        "CREATE TABLE events (id int PRIMARY KEY) PARTITION BY RANGE (id); \
         CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (9); \
         CREATE PUBLICATION p FOR TABLE events",
    )
    .await;
    let root = wanted(&client, &["public.events"], None).await;
    let fix = "ALTER PUBLICATION \"p\" SET (publish_via_partition_root = true)";
    refused(publish(&client, "p", &root).await, Kind::Source, &["public.events", fix]);
    let all = wanted(&client, &["public.*"], None).await;
    assert_eq!(publish(&client, "p", &all).await.expect("each partition is selected too"), Plan::default());

    database.execute(fix).await;
    assert_eq!(publish(&client, "p", &root).await.expect("the hint helps"), Plan::default());
    let leaf = wanted(&client, &["public.events_1"], None).await;
    refused(publish(&client, "p", &leaf).await, Kind::Source, &["public.events_1", "Select the partitioned table"]);
}

#[tokio::test]
async fn a_table_whose_updates_will_be_rejected_is_warned_about_before_it_happens() {
    let (database, client) = database(
        "CREATE TABLE keyless (id int); CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING; \
         CREATE TABLE late (id int PRIMARY KEY DEFERRABLE); CREATE TABLE fine (id int PRIMARY KEY); \
         CREATE TABLE by_index (id int NOT NULL UNIQUE); ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_id_key; \
         CREATE TABLE whole (id int); ALTER TABLE whole REPLICA IDENTITY FULL; \
         CREATE TABLE parts (id int) PARTITION BY RANGE (id); \
         CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (9); \
         INSERT INTO keyless VALUES (1); INSERT INTO nothing VALUES (1); INSERT INTO late VALUES (1); \
         INSERT INTO fine VALUES (1); INSERT INTO by_index VALUES (1); INSERT INTO whole VALUES (1); INSERT INTO parts VALUES (1)",
    )
    .await;
    let wanted = wanted(&client, &["public.*"], None).await;
    let server = preflight::check(&client, Look::First).await.expect("passes");
    let plan = publication::plan("p", None, &wanted, &server).expect("plans");
    let [warning] = plan.warnings.as_slice() else { panic!("one warning: {:?}", plan.warnings) };
    assert!(
        warning.contains("on public.keyless, public.late, public.nothing, public.parts_1 from now on"),
        "{warning}"
    );
    assert!(warning.contains("ALTER TABLE \"public\".\"keyless\" REPLICA IDENTITY FULL"), "{warning}");
    assert!(publication::apply(&client, "p", &plan, &wanted).await.expect("creates"));
    // The warning says what PostgreSQL really does.
    for table in ["keyless", "late", "nothing", "parts", "fine", "by_index", "whole"] {
        let updated = client.batch_execute(&format!("UPDATE public.{table} SET id = 2")).await;
        assert_eq!(updated.is_err(), warning.contains(&format!("public.{table}")), "{table}: {updated:?}");
    }
    let again = publish(&client, "p", &wanted).await.expect("is fine");
    assert!(again.warnings[0].contains("while they are published"), "{:?}", again.warnings);
    database.execute("ALTER TABLE keyless REPLICA IDENTITY FULL; ALTER TABLE nothing REPLICA IDENTITY FULL").await;
    database.execute("ALTER TABLE late REPLICA IDENTITY FULL; ALTER TABLE parts_1 REPLICA IDENTITY FULL").await;
    let wanted = resolve(&client, &selection(&["public.*"]), &[], &[]).await.expect("resolves");
    assert_eq!(publish(&client, "p", &wanted).await.expect("is fine"), Plan::default());
}

#[tokio::test]
async fn used_up_slots_and_walsenders_are_named() {
    let server = PostgresServer::private(&[("max_replication_slots", "1"), ("max_wal_senders", "1")]);
    let database = server.database().await;
    let client = database.client().await;
    assert!(preflight::no_free_walsender(&client).await.expect("answers").is_none());
    database.execute("SELECT pg_create_logical_replication_slot('other', 'pgoutput')").await;
    let failure = preflight::no_free_slot(&client, "shop").await;
    let parts = ["\"shop\"", "max_replication_slots is 1", "other (inactive)", "pg_drop_replication_slot"];
    refused::<()>(Err(failure), Kind::Source, &parts);
}

//! `pgsluice init`: what is written runs, and the SQL is enough for a role that may do nothing else.

use std::path::Path;

use super::snapshots::{is_as_before, names};
use super::{done, refused, run};
use crate::support::{Database, SOON, Vhost, eventually, folder, pgsluice_command, postgres, rabbitmq};

const TABLES: &str = "CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE keyless (id int); \
    CREATE TABLE whole (id int); ALTER TABLE whole REPLICA IDENTITY FULL; CREATE TABLE \"Odd *\" (id int PRIMARY KEY); \
    CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (9)";
const OUTBOX: &str =
    "CREATE TABLE outbox (id uuid PRIMARY KEY, aggregatetype text, aggregateid text, type text, payload jsonb)";
const OTHER_OUTBOX: &str = "CREATE SCHEMA app; CREATE TABLE app.events (id uuid PRIMARY KEY, aggregate_type text, aggregate_id text, \
    event_type text, payload jsonb)";

async fn database(sql: &str) -> Database {
    let database = postgres().database().await;
    database.execute(sql).await;
    database
}

/// What is the same for every run of the tests.
fn settled(text: &str, database: &Database) -> String {
    let port = database.port().to_string();
    let version =
        text.lines().find_map(|line| line.strip_prefix("# PostgreSQL ")?.split(',').next().map(str::to_owned));
    let text = text.replace(database.name(), "shop").replace(&port, "5432");
    version
        .map_or(text.clone(), |version| text.replace(&version, "15.18"))
        .replace(", publish_generated_columns = stored", "")
}

async fn written(database: &Database, arguments: &[&str]) -> String {
    let url = database.url();
    let mut all = vec!["init", "--database", &url];
    all.extend(arguments);
    done(run(&all)).await
}

/// Runs a command with the broker's password in the environment, since it is never written down.
async fn with_password(arguments: &[&str]) -> String {
    done(pgsluice_command(arguments, &[("PGSLUICE__RABBITMQ__PASSWORD", "guest")])).await
}

#[tokio::test]
async fn what_is_written_says_what_was_found() {
    let plain = database(TABLES).await;
    let with_outbox = database(&format!("{TABLES}; {OUTBOX}")).await;
    let other = database(OTHER_OUTBOX).await;
    let empty = database("").await;
    let of = [("plain", &plain), ("outbox", &with_outbox), ("other-outbox", &other), ("empty", &empty)];
    for (name, database) in of {
        is_as_before(&format!("init/{name}"), &settled(&written(database, &[]).await, database));
    }
    let services = ["self", "rds", "cloud-sql", "azure", "supabase", "neon"];
    for service in services {
        let sql = written(&with_outbox, &["--sql", "--for", service]).await;
        is_as_before(&format!("init/sql-{service}"), &settled(&sql, &with_outbox));
    }
    let sql = written(&plain, &["--sql"]).await;
    is_as_before("init/sql-plain", &settled(&sql, &plain));
    let known = services.map(|service| format!("sql-{service}")).into_iter();
    let known = known.chain(of.map(|(name, _)| name.to_owned())).chain(["sql-plain".to_owned()]);
    assert_eq!(names("init"), known.collect());
}

#[tokio::test]
async fn what_is_written_passes_a_check_and_is_written_over_nothing() {
    let vhost = rabbitmq().vhost();
    for sql in [TABLES.to_owned(), format!("{TABLES}; {OUTBOX}"), OTHER_OUTBOX.to_owned(), String::new()] {
        let database = database(&sql).await;
        let file = folder("init").join("shop.toml");
        let path = file.to_str().expect("text");
        let url = database.url();
        let write = ["init", "-d", &url, "-r", &vhost.url(), "-o", path];
        assert_eq!(done(run(&write)).await, "", "it is in the file");
        let text = std::fs::read_to_string(&file).expect("written");
        assert!(!text.contains("guest:guest"), "{text}");
        let found = with_password(&["check", "--config", path]).await;
        assert!(!found.contains("failure "), "{found}");
        let error = refused(run(&write), 2).await;
        assert!(error.contains("nothing is written over"), "{error}");
        assert_eq!(std::fs::read_to_string(&file).expect("still there"), text);
    }
}

/// The whole way: the SQL as a superuser, then pgsluice as the role, which may read no table.
#[tokio::test]
async fn the_sql_is_enough_for_a_role_that_may_do_nothing_else() {
    let database = database(&format!("{TABLES}; {OUTBOX}")).await;
    let vhost = rabbitmq().vhost();
    let role = format!("{}_sluice", database.name());
    let sql = written(&database, &["--sql", "--role", &role]).await;
    database.execute(&sql).await;
    let file = folder("init").join("shop.toml");
    let path = file.to_str().expect("text");
    let url = database.url_as(&role);
    done(run(&["init", "-d", &url, "-r", &vhost.url(), "-o", path])).await;
    assert!(database.query_one(&format!("SELECT has_table_privilege('{role}', 'outbox', 'SELECT')")).await == "f");
    delivers(&database, &vhost, &file).await;
}

async fn delivers(database: &Database, vhost: &Vhost, file: &Path) {
    let exchange = format!("{}.events", database.name());
    vhost.declare_exchange(&exchange, "topic").await;
    vhost.queue_on("all", &exchange).await;
    let arguments = ["run", "--config", file.to_str().expect("text")];
    let mut process = pgsluice_command(&arguments, &[("PGSLUICE__RABBITMQ__PASSWORD", "guest")]);
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    let insert = "INSERT INTO outbox VALUES (gen_random_uuid(), 'order', '1', 'OrderPlaced', '{}')";
    database.execute(insert).await;
    let delivery = vhost.consume("all", 1, SOON).await.remove(0);
    assert_eq!(delivery.json(), serde_json::json!({}));
    process.terminate();
    let (code, log) = process.wait(SOON).await;
    assert_eq!(code, Some(0), "{log}");
    let slot = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}'", database.name());
    eventually("it has its slot", SOON, async || (database.query_one(&slot).await == "1").then_some(())).await;
}

#[tokio::test]
async fn a_service_is_told_by_its_roles() {
    let server = crate::support::PostgresServer::private(&[]);
    let database = server.database().await;
    assert!(written(&database, &["--sql"]).await.contains("ALTER SYSTEM"));
    database.execute("CREATE ROLE rds_replication").await;
    let sql = written(&database, &["--sql"]).await;
    assert!(sql.contains("GRANT rds_replication TO \"pgsluice\"") && sql.contains("rds.logical_replication"), "{sql}");
    database.execute(&sql).await;
}

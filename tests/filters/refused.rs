//! A filter that can't be, or that would make the application's own statements fail, ends the start before it is there.

use pgsluice::failure::Kind;
use pgsluice::postgres::publication::Plan;

use super::{database, filter, has_filters, publish};
use crate::preflight::refused;
use crate::support::{self, PostgresServer};

struct Case {
    table: &'static str,
    columns: &'static [&'static str],
    rows: &'static str,
    /// What is said of it; nothing: it fits.
    says: &'static [&'static str],
}

const TABLES: &str = r#"
    CREATE TABLE plain (id int PRIMARY KEY, status text NOT NULL, n int);
    CREATE TABLE by_index (id int NOT NULL, status text NOT NULL, n int, UNIQUE (id, status));
    ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_id_status_key;
    CREATE TABLE includes (id int NOT NULL, status text NOT NULL, n int);
    CREATE UNIQUE INDEX includes_i ON includes (id) INCLUDE (status);
    ALTER TABLE includes REPLICA IDENTITY USING INDEX includes_i;
    CREATE TABLE whole (id int, status text, n int); ALTER TABLE whole REPLICA IDENTITY FULL;
    CREATE TABLE "Odd "" one" (id int PRIMARY KEY, "Größe, ""cm""" text, n int);
    CREATE TABLE parts (id int PRIMARY KEY, status text NOT NULL, n int) PARTITION BY RANGE (id);
    CREATE TABLE parts_1 (n int, status text NOT NULL, id int NOT NULL);
    ALTER TABLE parts ATTACH PARTITION parts_1 FOR VALUES FROM (0) TO (9);
    CREATE TABLE loose (id int PRIMARY KEY, status text NOT NULL, n int) PARTITION BY RANGE (id);
    CREATE TABLE loose_1 PARTITION OF loose FOR VALUES FROM (0) TO (9); ALTER TABLE loose_1 REPLICA IDENTITY FULL;
    CREATE TABLE parent (id int PRIMARY KEY, status text, n int); CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);"#;

const CASES: &[Case] = &[
    Case { table: "plain", columns: &[], rows: "status <> 'draft'", says: &["where` uses status", "on public.plain"] },
    Case { table: "plain", columns: &["id", "status"], rows: "status <> 'a' AND n > 1", says: &["uses n, status"] },
    Case { table: "plain", columns: &["id", "n"], rows: "id % 2 = 0 -- even", says: &[] },
    Case { table: "plain", columns: &["status"], rows: "", says: &["columns` lacks id", "on public.plain"] },
    Case { table: "by_index", columns: &["id", "status"], rows: "status <> 'draft'", says: &[] },
    Case { table: "by_index", columns: &["id"], rows: "", says: &["columns` lacks status"] },
    Case { table: "includes", columns: &["id"], rows: "id > 0", says: &[] },
    Case { table: "includes", columns: &[], rows: "status <> 'draft'", says: &["where` uses status"] },
    Case { table: "whole", columns: &[], rows: "status <> 'draft' OR n IS NULL", says: &[] },
    Case {
        table: "whole",
        columns: &["id", "status"],
        rows: "",
        says: &["columns` is one of", "REPLICA IDENTITY FULL"],
    },
    Case { table: "whole", columns: &["id", "status", "n"], rows: "", says: &["Leave `columns` out"] },
    Case { table: r#"Odd " one"#, columns: &["id", r#"Größe, "cm""#], rows: "", says: &[] },
    Case {
        table: r#"Odd " one"#,
        columns: &[],
        rows: r#""Größe, ""cm""" > '1'"#,
        says: &[r#"uses Größe, "cm", not part"#, r#"on public.Odd " one"#],
    },
    Case { table: "parts", columns: &["id", "n"], rows: "id > 1", says: &[] },
    Case { table: "parts", columns: &[], rows: "n > 1", says: &["where` uses n", "on public.parts_1"] },
    Case { table: "loose", columns: &["id", "n"], rows: "", says: &["on public.loose_1", "REPLICA IDENTITY FULL"] },
    Case { table: "loose", columns: &[], rows: "n > 1", says: &[] },
    Case { table: "parent", columns: &["id"], rows: "id > 0", says: &[] },
];

/// What is refused is what PostgreSQL would do to the application, and what is not refused it does not.
async fn what_is_refused_would_fail(server: &PostgresServer) {
    let (database, client) = database(server, TABLES).await;
    if !has_filters(&database).await {
        return;
    }
    for Case { table, columns, rows, says } in CASES {
        let quoted = format!("\"{}\"", table.replace('"', "\"\""));
        let published = publish(&client, &[filter(table, columns, rows)]).await;
        if says.is_empty() {
            published.unwrap_or_else(|error| panic!("{table} {columns:?} {rows}: {error}"));
        } else {
            refused(published, Kind::Source, &[&["source.filters[0]", "UPDATE and DELETE"], *says].concat());
            let left = database.query_one("SELECT count(*) FROM pg_publication").await;
            assert_eq!(left, "0", "{table} {columns:?} {rows}");
            // The same by hand.
            let list: Vec<String> = columns.iter().map(|it| format!("\"{}\"", it.replace('"', "\"\""))).collect();
            let list = if list.is_empty() { String::new() } else { format!("({})", list.join(", ")) };
            let rows = if rows.is_empty() { String::new() } else { format!("WHERE ({rows})") };
            let with = "WITH (publish_via_partition_root = true)";
            database.execute(&format!("CREATE PUBLICATION p FOR TABLE ONLY {quoted} {list} {rows} {with}")).await;
        }
        database.execute(&format!("INSERT INTO {quoted} VALUES (1, 'x', 2)")).await;
        for sql in [format!("UPDATE {quoted} SET n = 3"), format!("DELETE FROM {quoted}")] {
            let done = database.client().await.batch_execute(&sql).await;
            assert_eq!(done.is_ok(), says.is_empty(), "{sql} with {columns:?} {rows}: {done:?}");
        }
        database.execute(&format!("DROP PUBLICATION p; TRUNCATE {quoted}")).await;
    }
}

#[tokio::test]
async fn what_would_fail_the_applications_updates_is_refused() {
    what_is_refused_would_fail(support::postgres()).await;
}

#[tokio::test]
async fn what_would_fail_the_applications_updates_is_refused_on_postgresql_16() {
    what_is_refused_would_fail(&PostgresServer::private_of(16, &[])).await;
}

#[tokio::test]
async fn what_would_fail_the_applications_updates_is_refused_on_postgresql_17() {
    what_is_refused_would_fail(&PostgresServer::private_of(17, &[])).await;
}

#[tokio::test]
async fn what_would_fail_the_applications_updates_is_refused_on_postgresql_18() {
    what_is_refused_would_fail(&PostgresServer::private_of(18, &[])).await;
}

/// The text of a condition is one condition, whatever is written.
#[tokio::test]
async fn a_condition_that_is_none_is_refused_with_postgresqls_words_and_changes_nothing() {
    let setup = "CREATE TABLE t (id int PRIMARY KEY, s text); CREATE TABLE other (id int PRIMARY KEY); \
                 CREATE FUNCTION own(int) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT true'";
    let (database, client) = database(support::postgres(), setup).await;
    if !has_filters(&database).await {
        return;
    }
    for (rows, says) in [
        ("id >", "syntax error"),
        ("nope = 1", "column \"nope\" does not exist"),
        ("id", "must be type boolean"),
        ("id = 'x'", "invalid input syntax"),
        ("other.id = 1", "missing FROM-clause entry"),
        ("true), public.other WHERE (true", "syntax error"),
        ("true) , ONLY public.other WHERE (true", "syntax error"),
        ("true) WITH (publish = 'insert'", "syntax error"),
        ("true); DROP TABLE public.other; SELECT (true", "multiple commands"),
        ("true) OR (false", "syntax error"),
        ("true) UNION SELECT (1", "syntax error"),
        ("true) FOR UPDATE OF t, public.other WHERE (true", "syntax error"),
        ("true", ""),
        ("true /*", "unterminated"),
        ("id = 1 --", ""),
        ("id = $$1", "unterminated"),
        ("s = 'it", "unterminated"),
        ("id = $1", "has a parameter"),
        ("(SELECT true)", "invalid publication WHERE expression"),
        ("count(*) > 1", "aggregate functions are not allowed"),
        ("now() > '2020-01-01'", "mutable functions are not allowed"),
        ("current_user = 'x'", "invalid publication WHERE expression"),
        ("public.own(id)", "User-defined or built-in mutable functions"),
        ("ctid IS NOT NULL", "System columns are not allowed"),
    ] {
        let published = publish(&client, &[filter("t", &[], rows)]).await;
        if says.is_empty() {
            published.unwrap_or_else(|error| panic!("{rows}: {error}"));
            let members = "SELECT string_agg(tablename || ':' || COALESCE(rowfilter, '-'), ' ' ORDER BY tablename) FROM pg_publication_tables";
            let expected = if rows.starts_with("id") { "other:- t:(id = 1)" } else { "other:- t:true" };
            assert_eq!(database.query_one(members).await, expected);
            database.execute("DROP PUBLICATION p").await;
        } else {
            refused(published, Kind::Source, &["source.filters[0]", says, "`where` takes one condition"]);
        }
        assert_eq!(database.query_one("SELECT count(*) FROM pg_publication").await, "0", "{rows}");
        database.execute("SELECT FROM other").await;
    }
}

#[tokio::test]
async fn what_a_list_can_not_hold_is_named() {
    let setup = "CREATE TABLE t (id int PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a + 1) STORED); \
                 CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id); \
                 CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (9)";
    let (database, client) = database(support::postgres(), setup).await;
    if !has_filters(&database).await {
        return;
    }
    let parts = ["source.filters[0].columns", "names \"A\"", "public.t has id, a, g"];
    refused(publish(&client, &[filter("t", &["id", "A"], "")]).await, Kind::Source, &parts);
    let parts = ["source.filters[0].table", "public.parts_1, a partition", "public.parts", "Filter the partitioned"];
    refused(publish(&client, &[filter("parts_1", &[], "id > 1")]).await, Kind::Source, &parts);
    let parts = ["source.filters[0].table", "public.gone", "no such table"];
    refused(publish(&client, &[filter("gone", &[], "id > 1")]).await, Kind::Source, &parts);
    let generated = publish(&client, &[filter("t", &["id", "g"], "")]).await;
    if database.major().await < 18 {
        refused(generated, Kind::Source, &["source.filters[0].columns", "\"g\" of public.t, a generated column"]);
    } else {
        generated.expect("18 sends stored ones");
    }
}

#[tokio::test]
async fn a_virtual_column_can_not_be_listed_and_a_stored_one_can_on_postgresql_18() {
    let server = PostgresServer::private_of(18, &[]);
    let setup = "CREATE TABLE t (id int PRIMARY KEY, s int GENERATED ALWAYS AS (id + 1) STORED, \
                 v int GENERATED ALWAYS AS (id + 1) VIRTUAL)";
    let (database, client) = database(&server, setup).await;
    refused(publish(&client, &[filter("t", &["id", "v"], "")]).await, Kind::Source, &["\"v\" of public.t", "stored"]);
    // A condition over it is one over what it is made of.
    publish(&client, &[filter("t", &[], "v > 1")]).await.expect("creates");
    assert_eq!(database.query_one("SELECT rowfilter FROM pg_publication_tables").await, "((id + 1) > 1)");
    database.execute("INSERT INTO t VALUES (1); UPDATE t SET id = 2").await;
    publish(&client, &[filter("t", &["id", "s"], "")]).await.expect("a stored one");
    assert_eq!(database.query_one("SELECT attnames FROM pg_publication_tables").await, "{id,s}");
    assert_eq!(publish(&client, &[filter("t", &["s", "id"], "")]).await.expect("is fine"), Plan::default());
}

#[tokio::test]
async fn an_old_server_is_named_on_postgresql_14() {
    let server = PostgresServer::private_of(14, &[]);
    let (database, client) = database(&server, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let parts = ["source.filters[0]", "needs PostgreSQL 15 or newer", "14.", "Remove the filter"];
    refused(publish(&client, &[filter("t", &[], "id > 1")]).await, Kind::Source, &parts);
    assert_eq!(database.query_one("SELECT count(*) FROM pg_publication").await, "0");
    publish(&client, &[]).await.expect("does without");
    publish(&client, &[]).await.expect("once more");
}

#[tokio::test]
async fn a_publication_of_the_users_own_is_not_filtered_for_them() {
    let setup = "CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t";
    let (database, client) = database(support::postgres(), setup).await;
    if !has_filters(&database).await {
        return;
    }
    let parts =
        ["source.filters[0]", "did not create the publication \"p\"", "ALTER PUBLICATION \"p\"", "source.publication"];
    refused(publish(&client, &[filter("t", &[], "id > 1")]).await, Kind::Source, &parts);
}

#[tokio::test]
async fn without_the_privilege_the_statements_are_in_the_hint_and_make_a_publication_of_the_users_own() {
    let (database, _) = database(support::postgres(), "CREATE TABLE t (id int PRIMARY KEY)").await;
    if !has_filters(&database).await {
        return;
    }
    let role = format!("{}_poor", database.name());
    database.execute(&format!("CREATE ROLE {role} LOGIN REPLICATION")).await;
    let client = crate::preflight::client_as(&database, &role).await;
    let filters = [filter("t", &["id"], "id > 1")];
    let parts = ["ownership of its tables", "ADD TABLE ONLY \"public\".\"t\" (\"id\") WHERE (id > 1)"];
    let error = refused(publish(&client, &filters).await, Kind::Source, &parts);
    let (_, statements) = error.hint.split_once("run: ").expect("statements");
    let (statements, then) = statements.split_once(" The publication is yours then").expect("what to do then");
    assert!(then.contains("remove `source.filters`"), "{then}");
    database.execute(statements).await;
    assert!(publish(&client, &[]).await.expect("is used").statements.is_empty());
}

//! The publication follows the filters of the configuration, and is left alone where it has them already.

use pgsluice::failure::Kind;
use pgsluice::postgres::publication::Plan;

use super::{database, filter, has_filters, publish};
use crate::preflight::refused;
use crate::support::{self, Database};

async fn filters(database: &Database) -> String {
    let sql = "SELECT string_agg(format('%s %s %s', tablename, array_to_string(attnames, ','), COALESCE(rowfilter, '-')), '; ' \
               ORDER BY tablename) FROM pg_publication_tables WHERE pubname = 'p'";
    database.query_one(sql).await
}

#[tokio::test]
async fn a_filter_follows_the_configuration_and_is_altered_only_when_it_differs() {
    let setup = "CREATE TABLE a (id int PRIMARY KEY, n int, secret text); CREATE TABLE b (id int PRIMARY KEY)";
    let (database, client) = database(support::postgres(), setup).await;
    if !has_filters(&database).await {
        return;
    }
    let entries = "SELECT string_agg(oid::text, ' ' ORDER BY prrelid) FROM pg_publication_rel";
    publish(&client, &[filter("a", &["n", "id"], "id<>7 AND id IN (1,2)")]).await.expect("creates");
    assert_eq!(filters(&database).await, "a id,n ((id <> 7) AND (id = ANY (ARRAY[1, 2]))); b id -");
    let before = database.query_one(entries).await;
    for columns in [["n", "id"], ["id", "n"]] {
        let again = publish(&client, &[filter("a", &columns, "id<>7 AND id IN (1,2)")]).await.expect("is fine");
        assert_eq!(again, Plan::default());
    }
    assert_eq!(database.query_one(entries).await, before);
    // Each step alters that table alone, and says so.
    let other = database.query_one("SELECT oid FROM pg_publication_rel WHERE prrelid = 'b'::regclass").await;
    for (filter, expected, says) in [
        (Some(filter("a", &["n", "id"], "id <> 8")), "a id,n (id <> 8); b id -", "public.a is filtered anew"),
        (Some(filter("a", &[], "id <> 8")), "a id,n,secret (id <> 8); b id -", "public.a is filtered anew"),
        (Some(filter("a", &["id", "n", "secret"], "")), "a id,n,secret -; b id -", "public.a is filtered anew"),
        (None, "a id,n,secret -; b id -", "public.a is not filtered any more"),
        (Some(filter("a", &["id"], "")), "a id -; b id -", "public.a is filtered anew"),
    ] {
        let plan = publish(&client, filter.as_slice()).await.expect("alters");
        assert_eq!(filters(&database).await, expected);
        assert!(plan.notes.iter().any(|note| note.contains(says)), "{:?}", plan.notes);
        assert!(plan.notes[0].contains("what was left out before does not come"), "{:?}", plan.notes);
        assert_eq!(publish(&client, filter.as_slice()).await.expect("is fine"), Plan::default());
    }
    assert_eq!(database.query_one("SELECT oid FROM pg_publication_rel WHERE prrelid = 'b'::regclass").await, other);
}

/// A list that names all columns of today does not send those of tomorrow.
#[tokio::test]
async fn a_list_of_all_columns_stays_a_list() {
    let (database, client) = database(support::postgres(), "CREATE TABLE a (id int PRIMARY KEY, n int)").await;
    if !has_filters(&database).await {
        return;
    }
    publish(&client, &[filter("a", &["id", "n"], "")]).await.expect("creates");
    database.execute("ALTER TABLE a ADD later int").await;
    assert_eq!(filters(&database).await, "a id,n -");
    publish(&client, &[]).await.expect("alters");
    assert_eq!(filters(&database).await, "a id,n,later -");
}

/// PostgreSQL's filter goes with a column that is renamed; the configuration's text does not.
#[tokio::test]
async fn a_column_that_is_renamed_or_dropped_beneath_a_filter_is_noticed() {
    let (database, client) = database(support::postgres(), "CREATE TABLE a (id int PRIMARY KEY, n int)").await;
    if !has_filters(&database).await {
        return;
    }
    let rows = filter("a", &[], "id > 1");
    publish(&client, std::slice::from_ref(&rows)).await.expect("creates");
    let dropped = database.client().await.batch_execute("ALTER TABLE a DROP id").await;
    assert!(dropped.is_err(), "PostgreSQL keeps a column that a filter uses");
    database.execute("ALTER TABLE a RENAME id TO old").await;
    refused(
        publish(&client, std::slice::from_ref(&rows)).await,
        Kind::Source,
        &["source.filters[0].where", "\"id\" does not exist"],
    );
    refused(
        publish(&client, &[filter("a", &["id"], "")]).await,
        Kind::Source,
        &["source.filters[0].columns", "has old, n"],
    );
    // Another column of that name: the same text means another filter.
    database
        .execute(
            "ALTER TABLE a DROP CONSTRAINT a_pkey; ALTER TABLE a RENAME n TO id; ALTER TABLE a ADD PRIMARY KEY (id)",
        )
        .await;
    assert_eq!(filters(&database).await, "a old,id (old > 1)");
    publish(&client, &[rows]).await.expect("alters");
    assert_eq!(filters(&database).await, "a old,id (id > 1)");
}

/// Of what a schema publishes as a whole, no filter holds.
#[tokio::test]
async fn a_schema_that_somebody_has_put_into_our_publication_goes() {
    let (database, client) = database(support::postgres(), "CREATE TABLE a (id int PRIMARY KEY, n int)").await;
    if !has_filters(&database).await {
        return;
    }
    let rows = [filter("a", &[], "id > 1")];
    publish(&client, &rows).await.expect("creates");
    database.execute("ALTER PUBLICATION p ADD TABLES IN SCHEMA public").await;
    assert_eq!(filters(&database).await, "a id,n -");
    publish(&client, &rows).await.expect("alters");
    assert_eq!(filters(&database).await, "a id,n (id > 1)");
}

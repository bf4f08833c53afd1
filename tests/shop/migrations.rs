//! The services' tables: made once, all or none, by whoever is first.

use messaging::{Migration, migrations, service};

use crate::support::postgres;

const GOOD: Migration = Migration { name: "good", sql: "CREATE TABLE good (n int); INSERT INTO good VALUES (1);" };
const BAD: Migration = Migration { name: "bad", sql: "CREATE TABLE bad (n int); INSERT INTO nowhere VALUES (1);" };
const LATER: Migration = Migration { name: "later", sql: "UPDATE good SET n = n + 1;" };

#[tokio::test]
async fn each_is_applied_once_by_however_many_start() {
    let database = postgres().database().await;
    let pool = service::pool(&database.url()).expect("a URL");
    let all = futures_util::future::join_all((0..6).map(|_| migrations::apply(&pool, &[GOOD, LATER]))).await;
    let mut applied: Vec<usize> = all.into_iter().map(|applied| applied.expect("applied")).collect();
    applied.sort_unstable();
    assert_eq!(applied, [0, 0, 0, 0, 0, 2]);
    assert_eq!(database.query_one("SELECT n FROM good").await, "2");
}

#[tokio::test]
async fn one_that_is_refused_leaves_nothing_and_ends_the_start() {
    let database = postgres().database().await;
    let error = service::database(&database.url(), &[GOOD, BAD]).await.expect_err("it is refused");
    assert!(format!("{error:#}").contains("the migration \"bad\""), "{error:#}");
    assert_eq!(database.query_one("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").await, "0");
}

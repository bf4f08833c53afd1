//! Connecting to a real PostgreSQL: every way to log in, TLS, several hosts, and the replication stream.

mod fixture;
mod hosts;
mod login;
mod stream;
mod tls;

use pgsluice::failure::{Definite, Failure, Kind};
use pgsluice::postgres::client::{ClientError, Connection, Purpose};
use pgsluice::postgres::conninfo::Conninfo;
use pgsluice::postgres::sql;

/// A connection string without the environment of whoever runs the tests.
fn conninfo(url: &str) -> Conninfo {
    Conninfo::parse_with(url, &|_| None).expect("a valid connection string")
}

/// Who both clients say they are, over a walsender and over an ordinary session.
async fn logs_in(url: &str) -> String {
    let conninfo = conninfo(url);
    let mut connection = Connection::connect(&conninfo, Purpose::Replication).await.expect(url);
    let identity = connection.query("IDENTIFY_SYSTEM").await.expect("IDENTIFY_SYSTEM");
    assert_eq!(identity[0].len(), 4);
    let client = sql::connect(&conninfo).await.expect(url);
    let row = client.query_one("SELECT current_user::text, current_setting('search_path')", &[]).await.expect("a row");
    assert_eq!(row.get::<_, &str>(1), "");
    let rows = connection.query("SELECT current_user").await.expect("SQL over a walsender");
    assert_eq!(rows[0][0].as_deref(), Some(row.get::<_, &str>(0)));
    row.get(0)
}

/// Why neither client gets in; the same for both.
async fn refused(url: &str) -> (ClientError, Definite) {
    let conninfo = conninfo(url);
    let error = Connection::connect(&conninfo, Purpose::Replication).await.expect_err(url);
    let text = format!("{error} {error:?}");
    assert!(!text.contains("hunter2"), "the password is shown: {text}");
    let by_sql = definite(sql::connect(&conninfo).await.expect_err(url));
    let by_us = definite(Connection::connect(&conninfo, Purpose::Replication).await.expect_err(url).into());
    assert_eq!((by_us.kind, &by_us.hint), (by_sql.kind, &by_sql.hint), "{by_us} / {by_sql}");
    assert_eq!(by_us.kind, Kind::Source);
    (error, by_us)
}

fn definite(failure: Failure) -> Definite {
    match failure {
        Failure::Definite(definite) => definite,
        Failure::Transient(error) => panic!("transient: {error:#}"),
    }
}

async fn transient(url: &str) -> ClientError {
    let conninfo = conninfo(url);
    let failure = sql::connect(&conninfo).await.expect_err(url);
    assert!(matches!(failure, Failure::Transient(_)), "{failure}");
    let connect = || Connection::connect(&conninfo, Purpose::Replication);
    let failure = Failure::from(connect().await.expect_err(url));
    assert!(matches!(failure, Failure::Transient(_)), "{failure}");
    connect().await.expect_err(url)
}

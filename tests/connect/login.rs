use pgsluice::postgres::client::{Connection, Purpose};

use super::fixture::Fixture;
use super::{conninfo, logs_in, refused};

#[tokio::test]
async fn every_way_to_log_in() {
    let fixture = Fixture::get().await;
    assert_eq!(logs_in(&fixture.url("postgres", "sslmode=disable")).await, "postgres");
    for user in ["app_password", "app_md5", "app_scram"] {
        assert_eq!(logs_in(&fixture.url(&format!("{user}:hunter2"), "sslmode=disable")).await, user);
    }
}

#[tokio::test]
async fn over_a_unix_socket() {
    let fixture = Fixture::get().await;
    let folder = fixture.server.dir().display();
    let url = fixture.url("postgres", &format!("host={folder}&sslmode=verify-full"));
    assert_eq!(logs_in(&url).await, "postgres", "libpq ignores sslmode there too");
}

#[tokio::test]
async fn with_a_password_file() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::get().await;
    let path = fixture.file("pgpass");
    std::fs::write(&path, "*:*:*:app_scram:hunter2\n").expect("write the file");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("permissions");
    assert_eq!(logs_in(&fixture.url("app_scram", &format!("passfile={path}"))).await, "app_scram");
}

#[tokio::test]
async fn a_wrong_password_says_where_one_can_come_from() {
    let fixture = Fixture::get().await;
    for user in ["app_password", "app_md5", "app_scram"] {
        let (error, definite) = refused(&fixture.url(&format!("{user}:hunter22"), "sslmode=disable")).await;
        assert_eq!(error.code(), Some("28P01"), "{error}");
        assert!(definite.hint.contains("PGPASSWORD"), "{}", definite.hint);
        assert!(definite.hint.contains(user), "{}", definite.hint);
    }
    for user in ["app_password", "app_md5", "app_scram"] {
        let (error, definite) = refused(&fixture.url(user, "sslmode=disable")).await;
        assert!(error.to_string().contains("none is configured"), "{error}");
        assert!(definite.hint.contains("PGPASSWORD"), "{}", definite.hint);
    }
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let fixture = Fixture::get().await;
    let (error, definite) = refused(&fixture.url("nobody", "sslmode=disable")).await;
    assert_eq!(error.code(), Some("28000"), "{error}");
    assert!(
        definite.hint.contains(&format!("`host {} nobody 127.0.0.1/32 ", fixture.database.name())),
        "{}",
        definite.hint
    );

    let missing = fixture.url("postgres", "dbname=no_such_database");
    let (error, definite) = refused(&missing).await;
    assert_eq!(error.code(), Some("3D000"), "{error}");
    assert!(definite.hint.contains("create the database"), "{}", definite.hint);
}

#[tokio::test]
async fn a_role_without_replication_is_told_how_to_get_it() {
    let fixture = Fixture::get().await;
    let conninfo = conninfo(&fixture.url("app_norepl", ""));
    let error = Connection::connect(&conninfo, Purpose::Replication).await.expect_err("no privilege");
    assert_eq!(error.code(), Some("42501"), "{error}");
    let definite = super::definite(error.into());
    assert!(definite.hint.contains("ALTER ROLE \"app_norepl\" REPLICATION"), "{}", definite.hint);
    Connection::connect(&conninfo, Purpose::Queries).await.expect("an ordinary session needs none");
}

#[tokio::test]
async fn values_are_written_our_way_whatever_the_database_says() {
    let fixture = Fixture::get().await;
    let database = fixture.server.database().await;
    database.execute(&format!("ALTER DATABASE {} SET DateStyle = 'German'", database.name())).await;
    // Silenced, the server would not say that it skips a publication.
    database.execute(&format!("ALTER DATABASE {} SET client_min_messages = 'error'", database.name())).await;
    let conninfo = conninfo(&format!("{}?options=-c%20DateStyle%3DSQL%20-c%20work_mem%3D1234", database.url()));
    let mut connection = Connection::connect(&conninfo, Purpose::Replication).await.expect("connected");
    let rows = connection.query("SELECT date '2024-01-31', current_setting('work_mem'), NULL").await.expect("a row");
    assert_eq!(rows, [[Some("2024-01-31".to_owned()), Some("1234kB".to_owned()), None]]);
    let level = connection.query("SHOW client_min_messages").await.expect("a row");
    assert_eq!(level, [[Some("notice".to_owned())]]);
    assert_eq!(connection.parameter("client_encoding"), Some("UTF8"));
    assert_eq!(connection.parameter("application_name"), Some("pgsluice"));
    let pid = connection.query("SELECT pg_backend_pid()").await.expect("a row");
    assert_eq!(pid[0][0], Some(connection.process_id().to_string()));
}

#[tokio::test]
async fn a_refused_query_leaves_the_connection_usable() {
    let fixture = Fixture::get().await;
    let conninfo = conninfo(&fixture.url("postgres", ""));
    let mut connection = Connection::connect(&conninfo, Purpose::Replication).await.expect("connected");
    let error = connection.query("SELECT 1 FROM nowhere.nothing").await.expect_err("no such table");
    assert_eq!(error.code(), Some("42P01"));
    assert_eq!(error.server().and_then(|error| error.position), Some(15));
    let rows = connection.query("SHOW wal_sender_timeout").await.expect("a row");
    assert_eq!(rows[0][0].as_deref(), Some("1min"));
    // Abandoned in the middle, it takes no other: the answers would be mixed up.
    let abandoned = tokio::time::timeout(std::time::Duration::from_millis(50), connection.query("SELECT pg_sleep(60)"));
    abandoned.await.expect_err("it sleeps");
    let error = connection.query("SELECT 1").await.expect_err("the answer would be that of the other query");
    assert_eq!(
        std::error::Error::source(&error).map(ToString::to_string).as_deref(),
        Some("an earlier request on this connection was abandoned")
    );
}

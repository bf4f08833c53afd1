use pgsluice::failure::{Failure, Kind};
use pgsluice::postgres::client::{Connection, Purpose};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::fixture::Fixture;
use super::{conninfo, definite, logs_in, refused};
use crate::support;

async fn is_encrypted(url: &str) -> bool {
    let conninfo = conninfo(url);
    let mut connection = Connection::connect(&conninfo, Purpose::Replication).await.expect(url);
    let rows =
        connection.query("SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_backend_pid()").await.expect("a row");
    let encrypted = rows[0][0].as_deref() == Some("t");
    assert_eq!(connection.is_encrypted(), encrypted);
    encrypted
}

#[tokio::test]
async fn sslmode_decides_about_encryption() {
    let fixture = Fixture::get().await;
    for (mode, encrypted) in [("disable", false), ("allow", false), ("prefer", true), ("require", true)] {
        assert_eq!(is_encrypted(&fixture.url("postgres", &format!("sslmode={mode}"))).await, encrypted, "{mode}");
    }
    // The roles of which pg_hba.conf wants the other thing.
    assert!(is_encrypted(&fixture.url("app_ssl:hunter2", "sslmode=allow")).await);
    assert!(!is_encrypted(&fixture.url("app_plain:hunter2", "sslmode=prefer")).await);
    assert_eq!(logs_in(&fixture.url("app_plain:hunter2", "")).await, "app_plain");
    for (user, mode) in [("app_ssl:hunter2", "disable"), ("app_plain:hunter2", "require")] {
        let (error, _) = refused(&fixture.url(user, &format!("sslmode={mode}"))).await;
        assert_eq!(error.code(), Some("28000"), "{error}");
    }
}

#[tokio::test]
async fn certificates_are_verified_as_asked() {
    let fixture = Fixture::get().await;
    let (root, stranger) = (fixture.file("root.crt"), fixture.file("stranger.crt"));
    let with = |mode: &str, file: &str| format!("sslmode={mode}&sslrootcert={file}");
    let user = "app_scram:hunter2";
    logs_in(&fixture.url(user, &with("require", &root))).await;
    logs_in(&fixture.url(user, &with("verify-ca", &root))).await;
    logs_in(&fixture.url_by_name(user, &with("verify-full", &root))).await;

    let (error, wrong_name) = refused(&fixture.url(user, &with("verify-full", &root))).await;
    assert!(wrong_name.hint.contains("another name"), "{error}: {}", wrong_name.hint);
    // With a root file, libpq's `require` verifies the chain too.
    for mode in ["require", "verify-ca", "verify-full"] {
        let (error, unknown) = refused(&fixture.url_by_name(user, &with(mode, &stranger))).await;
        assert!(unknown.hint.contains("sslrootcert"), "{error}: {}", unknown.hint);
    }
    for parameters in [with("verify-ca", "/nowhere/root.crt"), "sslmode=verify-full".to_owned()] {
        let (error, unusable) = refused(&fixture.url_by_name(user, &parameters)).await;
        assert!(!unusable.hint.is_empty(), "{error}");
    }
}

#[tokio::test]
async fn scram_is_bound_to_the_channel() {
    let fixture = Fixture::get().await;
    let required = "sslmode=require&channel_binding=require";
    assert_eq!(logs_in(&fixture.url("app_scram:hunter2", required)).await, "app_scram");
    assert_eq!(
        logs_in(&fixture.url("app_scram:hunter2", "sslmode=require&channel_binding=disable")).await,
        "app_scram"
    );
    for (user, parameters) in [
        ("app_password:hunter2", required),
        ("app_md5:hunter2", required),
        ("postgres", required),
        ("app_scram:hunter2", "sslmode=disable&channel_binding=require"),
    ] {
        let (error, definite) = refused(&fixture.url(user, parameters)).await;
        assert!(definite.hint.contains("channel binding needs TLS"), "{user}: {error}: {}", definite.hint);
    }
}

#[tokio::test]
async fn by_client_certificate() {
    let fixture = Fixture::get().await;
    let (certificate, key) = (fixture.file("client.crt"), fixture.file("client.key"));
    let identity = format!("sslmode=require&sslcert={certificate}&sslkey={key}");
    assert_eq!(logs_in(&fixture.url("app_cert", &identity)).await, "app_cert");
    let (error, _) = refused(&fixture.url("app_cert", "sslmode=require")).await;
    assert_eq!(error.code(), Some("28000"), "{error}");
    let foreign_key = format!("sslmode=require&sslcert={certificate}&sslkey={}", fixture.file("root.crt"));
    let (error, definite) = refused(&fixture.url("app_cert", &foreign_key)).await;
    assert!(error.to_string().contains("private key"), "{error}");
    assert!(definite.hint.contains("PEM"), "{}", definite.hint);
}

#[tokio::test]
async fn a_server_without_tls() {
    let database = support::postgres().database().await;
    let required = conninfo(&format!("{}?sslmode=require", database.url()));
    let error = Connection::connect(&required, Purpose::Queries).await.expect_err("no TLS there");
    let definite = definite(error.into());
    assert_eq!(definite.kind, Kind::Source);
    assert!(definite.to_string().contains("does not support TLS"), "{definite}");
    assert!(definite.hint.contains("ssl = on"), "{}", definite.hint);
    assert!(!is_encrypted(&format!("{}?sslmode=prefer", database.url())).await);
}

/// As a process of a server does whose parent has just been killed.
#[tokio::test]
async fn a_server_that_fails_before_tls_is_tried_again() {
    for (answer, is_transient) in [(&b"EFATAL\0"[..], true), (b"HTTP/1.1", false)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let url = format!("postgres://app@{}/shop", listener.local_addr().expect("address"));
        let server = tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.expect("accept");
            client.read_exact(&mut [0; 8]).await.expect("the request for TLS");
            client.write_all(answer).await.expect("write");
        });
        let error = Connection::connect(&conninfo(&url), Purpose::Queries).await.expect_err("no server");
        assert_eq!(matches!(Failure::from(error), Failure::Transient(_)), is_transient);
        server.await.expect("the server");
    }
}

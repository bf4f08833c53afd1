use std::time::{Duration, Instant};

use pgsluice::postgres::client::{Connection, Purpose};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{conninfo, definite, logs_in, transient};
use crate::support;

/// A port where nobody listens.
async fn dead_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address").port()
}

/// Answers every connection with these bytes, after it has sent something.
async fn answering(answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 8];
                socket.read_exact(&mut request).await.ok();
                socket.write_all(answer).await.ok();
                tokio::io::copy(&mut socket, &mut tokio::io::sink()).await.ok();
            });
        }
    });
    port
}

/// Logged in, and a standby by `ParameterStatus`, as PostgreSQL 14 and later say it; for `SELECT`, the same.
const STANDBY: &[u8] = b"R\0\0\0\x08\0\0\0\0S\0\0\0\x16in_hot_standby\0on\0Z\0\0\0\x05I\
    T\0\0\0\x1b\0\x01a\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0D\0\0\0\x0b\0\x01\0\0\0\x01tC\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I";

#[tokio::test]
async fn the_primary_is_found_behind_a_dead_host_and_a_standby() {
    let database = support::postgres().database().await;
    let (dead, standby) = (dead_port().await, answering(STANDBY).await);
    let url = format!("{}?sslmode=disable", database.url()).replacen(
        "@127.0.0.1",
        &format!("@127.0.0.1:{dead},127.0.0.1:{standby},127.0.0.1"),
        1,
    );
    assert_eq!(logs_in(&url).await, "postgres");
}

#[tokio::test]
async fn when_no_host_will_do_all_are_named() {
    let (dead, standby) = (dead_port().await, answering(STANDBY).await);
    let error = transient(&format!("postgres://a@127.0.0.1:{dead},127.0.0.1:{standby}/d?sslmode=disable")).await;
    let text = error.to_string();
    assert!(
        text.contains(&format!("127.0.0.1:{dead}: the connection to PostgreSQL broke: Connection refused")),
        "{text}"
    );
    assert!(text.contains(&format!("127.0.0.1:{standby}: it is a standby")), "{text}");
}

#[tokio::test]
async fn a_standby_will_do_when_any_server_will() {
    let standby = answering(STANDBY).await;
    let conninfo = conninfo(&format!("postgres://a@127.0.0.1:{standby}/d?sslmode=disable&target_session_attrs=any"));
    let connection = Connection::connect(&conninfo, Purpose::Replication).await.expect("connected");
    assert_eq!(connection.parameter("in_hot_standby"), Some("on"));
}

#[tokio::test]
async fn a_peer_that_never_answers_has_a_time_limit() {
    let silent = answering(b"").await;
    for mode in ["disable", "require"] {
        let started = Instant::now();
        let error = transient(&format!("postgres://a@127.0.0.1:{silent}/d?sslmode={mode}&connect_timeout=1")).await;
        assert!(error.to_string().contains("connecting: no answer within 1000 ms"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(10), "three attempts of a second each");
    }
}

#[tokio::test]
async fn something_else_than_postgresql() {
    let web = answering(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    for mode in ["disable", "prefer"] {
        let conninfo = conninfo(&format!("postgres://a@127.0.0.1:{web}/d?sslmode={mode}"));
        let error = Connection::connect(&conninfo, Purpose::Replication).await.expect_err("no PostgreSQL");
        let definite = definite(error.into());
        assert!(definite.hint.contains("belong to PostgreSQL"), "{definite}: {}", definite.hint);
    }
}

#[tokio::test]
async fn a_server_that_is_starting_is_waited_for() {
    let starting = answering(b"E\0\0\0\x3eSFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0").await;
    let error = transient(&format!("postgres://a@127.0.0.1:{starting}/d?sslmode=disable")).await;
    assert_eq!(error.code(), Some("57P03"), "{error}");
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_transient() {
    let error = transient("postgres://a@no-such-host.invalid/d?connect_timeout=5").await;
    assert!(error.to_string().contains("no-such-host.invalid:5432"), "{error}");
}

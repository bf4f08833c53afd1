//! TLS to a real RabbitMQ: whom it trusts, whom we trust, and logins by certificate.

use std::net::TcpListener;

use pgsluice::config::RabbitSettings;
use pgsluice::failure::Kind;
use pgsluice::rabbit::publisher::PublishError;
use serde_json::json;

use super::{EXCHANGE, Rig, refusal, settings};
use crate::support::{self, RabbitServer, SOON};

/// A certificate authority with a broker's and a client's certificate, as files.
fn certificates(dir: &std::path::Path) {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text).expect("write a PEM file");
    let named = |names: &[&str], common: &str| {
        let mut params =
            CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).expect("names");
        params.distinguished_name.push(DnType::CommonName, common);
        params
    };
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = named(&[], "test authority");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    write("ca.pem", ca.self_signed(&ca_key).expect("a certificate").pem());
    let issuer = Issuer::new(ca, ca_key);
    for (name, params) in [("server", named(&["localhost"], "localhost")), ("client", named(&["client"], "tls-app"))] {
        let key = KeyPair::generate().expect("a key");
        write(&format!("{name}.pem"), params.signed_by(&key, &issuer).expect("a certificate").pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
}

#[tokio::test]
async fn tls_logins_by_certificate_and_the_brokers_own_size_limit() {
    let files = support::folder("rabbitmq-tls");
    std::fs::create_dir_all(&files).expect("a folder");
    certificates(&files);
    let file = |name: &str| files.join(name).to_str().expect("UTF-8").to_owned();
    let port = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address").port();
    let server = RabbitServer::private(&[
        ("listeners.ssl.1", &format!("127.0.0.1:{port}")),
        ("ssl_options.cacertfile", &file("ca.pem")),
        ("ssl_options.certfile", &file("server.pem")),
        ("ssl_options.keyfile", &file("server.key")),
        ("ssl_options.verify", "verify_peer"),
        ("ssl_options.fail_if_no_peer_cert", "false"),
        ("auth_mechanisms.1", "PLAIN"),
        ("auth_mechanisms.2", "AMQPLAIN"),
        ("auth_mechanisms.3", "EXTERNAL"),
        ("ssl_cert_login_from", "common_name"),
        ("max_message_size", "100000"),
    ]);
    let vhost = server.vhost();
    vhost.queue_on("all", EXCHANGE).await;
    let url = |login: &str, host: &str, query: &str| format!("amqps://{login}{host}:{port}/{}?{query}", vhost.name());
    let trusted = format!("cacertfile={}", file("ca.pem"));

    let mut rig = Rig::connected(&settings(&url("", "localhost", &trusted))).await;
    rig.body = vec![b'x'; 90_000];
    rig.settle(200).await;
    rig.publisher.close().await;
    assert!(vhost.consume("all", 200, SOON).await.iter().all(|one| one.body.len() == 90_000));
    assert!(server.log().contains("pgsluice test topology"), "declared on a connection of that name");
    let mut rig = Rig::connected(&settings(&url("", "127.0.0.1", "verify=verify_none"))).await;
    rig.settle(1).await;

    let stranger = refusal(&settings(&url("", "localhost", ""))).await;
    assert!(format!("{stranger} {}", stranger.hint).contains("cacertfile"), "{stranger}");
    let other_name = refusal(&settings(&url("", "127.0.0.1", &trusted))).await;
    assert!(other_name.to_string().contains("certificate"), "{other_name}");

    let external =
        format!("{trusted}&auth_mechanism=external&certfile={}&keyfile={}", file("client.pem"), file("client.key"));
    let not_offered = refusal(&settings(&url("", "localhost", &external))).await;
    assert!(not_offered.hint.contains("rabbitmq_auth_mechanism_ssl"), "{not_offered} {}", not_offered.hint);
    // Enabled while the node runs, so that the refusal above could be seen first.
    server.rabbitmqctl(&[
        "eval",
        "Plugins = filename:dirname(code:lib_dir(rabbit)), \
         [Ebin] = filelib:wildcard(filename:join([Plugins, \"rabbitmq_auth_mechanism_ssl-*\", \"ebin\"])), \
         true = code:add_patha(Ebin), ok = application:load(rabbitmq_auth_mechanism_ssl), \
         rabbit:start_apps([rabbitmq_auth_mechanism_ssl]).",
    ]);
    let unknown = refusal(&settings(&url("", "localhost", &external))).await;
    assert!(unknown.to_string().contains("login"), "{unknown}");
    server.api("PUT", "/users/tls-app", Some(&json!({"password_hash": "", "tags": ""})));
    let all = json!({"configure": ".*", "write": ".*", "read": ".*"});
    server.api("PUT", &format!("/permissions/{}/tls-app", vhost.name()), Some(&all));
    let mut rig = Rig::connected(&settings(&url("", "localhost", &external))).await;
    rig.settle(1).await;

    // Larger than the broker takes: known beforehand if we are told, from its refusal if not.
    rig.body = vec![b'x'; 100_001];
    rig.publish().expect("the default limit is higher");
    let definite = rig.run(2).await.expect_err("too large");
    assert_eq!(definite.kind, Kind::Event);
    assert!(definite.to_string().contains("message size 100001"), "{definite}");
    let told = RabbitSettings { max_message_bytes: Some(100_000), ..settings(&vhost.url()) };
    let mut rig = Rig::connected(&told).await;
    rig.body = vec![b'x'; 100_001];
    assert_eq!(rig.publish(), Err(PublishError::TooLarge { bytes: 100_001, limit: 100_000 }));
    rig.body.pop();
    rig.settle(1).await;
}

//! Who may ask: a token, TLS, other pages and other names.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::{config, free_port, streaming};
use crate::support::web::{Answer, exchange};
use crate::support::{SOON, Scene, Web, folder, pgsluice, pgsluice_command};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const LOCAL: (&str, &str) = ("Host", "localhost");

#[tokio::test]
async fn without_the_token_one_hears_whether_it_is_well_and_nothing_else() {
    let scene = Scene::new().await;
    let process = streaming(&config(&scene, &format!("token = \"{TOKEN}\"\n"), "")).await;
    let web = Web::of(&process).await;
    let bearer = format!("Bearer {TOKEN}");
    let with = ("Authorization", bearer.as_str());
    for path in ["/status", "/metrics", "/history", "/check"] {
        let answer = web.get(path).await;
        assert_eq!(answer.code, 401, "{path}");
        assert!(answer.head.contains("www-authenticate: bearer") && !answer.body.contains("shop"), "{answer:?}");
        assert_eq!(web.ask("GET", path, &[LOCAL, ("Authorization", "Bearer 0123")]).await.code, 401, "{path}");
        assert_eq!(web.ask("GET", path, &[LOCAL, with]).await.code, 200, "{path}");
        // A scraper of another machine has a name for this one, and the token.
        assert_eq!(web.ask("GET", path, &[("Host", "db1:9187"), with]).await.code, 200, "{path}");
    }
    assert_eq!((web.get("/healthz").await.code, web.get("/").await.code), (200, 200));
    let ready = web.get("/readyz").await;
    assert_eq!(
        ready.json().as_object().map(|it| it.keys().cloned().collect::<Vec<_>>()),
        Some(vec!["ready".to_owned()])
    );
    for path in ["/pause", "/resume"] {
        assert_eq!(web.post(path).await.code, 401);
        assert_eq!(web.ask("GET", path, &[LOCAL, with]).await.code, 405);
    }
    let foreign = [LOCAL, with, ("Origin", "http://evil.example")];
    assert_eq!(web.ask("POST", "/pause", &foreign).await.code, 403);
    assert_eq!(web.ask("GET", "/status", &[LOCAL, with]).await.json()["paused"], false);
    assert_eq!(web.ask("POST", "/pause", &[LOCAL, with]).await.json()["paused"], true);
    assert!(!process.stderr().contains(TOKEN));
}

#[tokio::test]
async fn other_pages_and_other_names_get_nothing() {
    let scene = Scene::new().await;
    let process = streaming(&config(&scene, "", "")).await;
    let web = Web::of(&process).await;
    for (method, path, headers) in [
        ("GET", "/status", vec![("Host", "evil.example")]),
        ("GET", "/metrics", vec![]),
        ("POST", "/pause", vec![("Host", "evil.example:9187")]),
        ("POST", "/pause", vec![LOCAL, ("Origin", "http://evil.example")]),
        ("POST", "/pause", vec![LOCAL, ("Origin", "null")]),
        ("POST", "/pause", vec![LOCAL, ("Sec-Fetch-Site", "cross-site")]),
    ] {
        let answer = web.ask(method, path, &headers).await;
        // What has no Host at all is no HTTP/1.1.
        assert!([400, 403].contains(&answer.code), "{method} {path} {headers:?}: {answer:?}");
        assert!(!answer.head.contains("access-control-"), "{answer:?}");
    }
    assert_eq!(web.status().await["paused"], false);
    let answer = web.ask("GET", "/status", &[LOCAL, ("Origin", "http://evil.example")]).await;
    assert!(!answer.head.contains("access-control-"), "no other page can read it: {answer:?}");
    let page = web.get("/").await;
    assert!(
        page.head.contains("content-security-policy: default-src 'none'") && page.head.contains("nosniff"),
        "{}",
        page.head
    );
}

#[tokio::test]
async fn with_a_certificate_only_tls_is_answered_and_the_command_knows_it() {
    let files = folder("http-tls");
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let [certificate, private, token] = ["http.crt", "http.key", "http.token"].map(|name| files.join(name));
    std::fs::write(&certificate, key.cert.pem()).expect("write");
    std::fs::write(&private, key.signing_key.serialize_pem()).expect("write");
    std::fs::write(&token, format!("{TOKEN}\n")).expect("write");
    let (certificate, private, token) = (certificate.display(), private.display(), token.display());
    let scene = Scene::new().await;
    let port = free_port();
    let http = format!(
        "listen = \"127.0.0.1:{port}\"\ntls_certificate_file = \"{certificate}\"\ntls_key_file = \"{private}\"\ntoken_file = \"{token}\"\n"
    );
    let process = streaming(&config(&scene, &http, "")).await;
    let web = Web::of(&process).await;
    let bearer = format!("Bearer {TOKEN}");
    let headers = [LOCAL, ("Authorization", bearer.as_str())];
    assert_eq!(web.ask("GET", "/status", &headers).await.code, 0, "in clear");
    let answer: Answer = {
        let mut roots = RootCertStore::empty();
        let pem = key.cert.pem();
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM")).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
        let client = client.with_root_certificates(roots).with_no_client_auth();
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("connects");
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = TlsConnector::from(Arc::new(client)).connect(name, stream).await.expect("TLS");
        exchange(stream, "GET", "/status", &headers).await
    };
    assert_eq!((answer.code, answer.json()["name"].as_str()), (200, Some("shop")));
    let run = async |arguments: &[&str]| {
        let mut command = pgsluice_command(&[&["status"], arguments].concat(), &[]);
        let (code, stderr) = command.wait(SOON).await;
        (code, format!("{}{stderr}", command.stdout()))
    };
    let path = process.config_path();
    let (code, text) = run(&["--config", path.to_str().expect("text")]).await;
    assert!(code == Some(0) && text.starts_with("shop: flowing (pgsluice "), "{text}");
    let url = format!("https://localhost:{port}");
    let (certificate, token) = (certificate.to_string(), token.to_string());
    let (code, text) = run(&["--url", &url, "--cacert", &certificate, "--token-file", &token, "--json"]).await;
    assert!(code == Some(0) && text.starts_with('{'), "{text}");
    let (code, text) = run(&["--url", &url, "--cacert", &certificate]).await;
    assert!(code == Some(2) && text.contains("401") && text.contains("hint: give the token"), "{text}");
    let (code, text) = run(&["--url", &url, "--token-file", &token]).await;
    assert!(code == Some(6) && text.contains("can't ask"), "who signed it is not known: {text}");
}

#[tokio::test]
async fn a_certificate_that_can_not_be_used_is_said_at_the_start() {
    let scene = Scene::new().await;
    let http = "tls_certificate_file = \"absent.crt\"\ntls_key_file = \"absent.key\"\n";
    let mut process = pgsluice(&config(&scene, http, ""));
    let (code, text) = process.wait(SOON).await;
    assert!(
        code == Some(2) && text.contains("http.tls_certificate_file can't be used") && text.contains("hint:"),
        "{text}"
    );
}

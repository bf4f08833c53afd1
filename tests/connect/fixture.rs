//! A server with a role for each way to log in, and certificates for both sides.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::sync::OnceCell;

use crate::support::{Database, PostgresServer, folder};

/// The server, and the client's files.
pub(super) struct Fixture {
    pub(super) server: PostgresServer,
    pub(super) database: Database,
    files: PathBuf,
}

/// First match wins. The address decides nothing; the role does.
const PG_HBA: &str = "\
local all all trust
host all postgres 127.0.0.1/32 trust
host all app_password 127.0.0.1/32 password
host all app_md5 127.0.0.1/32 md5
host all app_scram 127.0.0.1/32 scram-sha-256
host all app_norepl 127.0.0.1/32 trust
hostssl all app_ssl 127.0.0.1/32 scram-sha-256
hostnossl all app_plain 127.0.0.1/32 scram-sha-256
hostssl all app_cert 127.0.0.1/32 cert";

const ROLES: &str = "\
SET password_encryption = 'md5';
CREATE ROLE app_md5 LOGIN REPLICATION PASSWORD 'hunter2';
SET password_encryption = 'scram-sha-256';
CREATE ROLE app_password LOGIN REPLICATION PASSWORD 'hunter2';
CREATE ROLE app_scram LOGIN REPLICATION PASSWORD 'hunter2';
CREATE ROLE app_ssl LOGIN REPLICATION PASSWORD 'hunter2';
CREATE ROLE app_plain LOGIN REPLICATION PASSWORD 'hunter2';
CREATE ROLE app_norepl LOGIN;
CREATE ROLE app_cert LOGIN REPLICATION;
ALTER SYSTEM SET ssl = on;
ALTER SYSTEM SET ssl_ca_file = 'root.crt';";

impl Fixture {
    /// Started by the first test that asks.
    pub(super) async fn get() -> &'static Self {
        static SHARED: OnceCell<Fixture> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    async fn start() -> Self {
        let server = PostgresServer::private(&[]);
        let database = server.database().await;
        let files = folder("certificates");
        let (authority, root) = authority("pgsluice test authority");
        let (server_certificate, server_key) = issue(&authority, "database", &["localhost"]);
        let (client_certificate, client_key) = issue(&authority, "app_cert", &[]);
        let (_, stranger) = self::authority("somebody else");
        for (name, text) in [
            ("root.crt", &root),
            ("stranger.crt", &stranger),
            ("client.crt", &client_certificate),
            ("client.key", &client_key),
        ] {
            std::fs::write(files.join(name), text).expect("write a certificate");
        }
        for (name, text) in [("server.crt", &server_certificate), ("server.key", &server_key), ("root.crt", &root)] {
            put(&database, name, text).await;
        }
        for statement in ROLES.lines() {
            // ALTER SYSTEM wants no transaction, and the setting of the first lines must last.
            assert!(statement.ends_with(';'));
        }
        let client = database.client().await;
        for statement in ROLES.lines() {
            client.batch_execute(statement).await.expect(statement);
        }
        put(&database, "pg_hba.conf", PG_HBA).await;
        client.batch_execute("SELECT pg_reload_conf()").await.expect("reload");
        crate::support::eventually("TLS is on", crate::support::SOON, async || {
            (database.query_one("SHOW ssl").await == "on").then_some(())
        })
        .await;
        Self { server, database, files }
    }

    /// A file of the client's.
    pub(super) fn file(&self, name: &str) -> String {
        self.files.join(name).to_string_lossy().into_owned()
    }

    /// `postgres://{user}@127.0.0.1:PORT/DB?{parameters}`
    pub(super) fn url(&self, user: &str, parameters: &str) -> String {
        format!("{}?{parameters}", self.database.url_as(user))
    }

    /// The same by the name that stands in the certificate.
    pub(super) fn url_by_name(&self, user: &str, parameters: &str) -> String {
        self.url(user, &format!("hostaddr=127.0.0.1&{parameters}")).replacen("@127.0.0.1", "@localhost", 1)
    }
}

/// Writes a file of the server's as the server's own user, in its data folder.
async fn put(database: &Database, name: &str, text: &str) {
    let lines = text.replace('\'', "''");
    let copy =
        format!("COPY (SELECT unnest(string_to_array('{lines}', chr(10)))) TO PROGRAM 'umask 077; cat > {name}'");
    database.execute(&copy).await;
}

fn authority(name: &str) -> (Issuer<'static, KeyPair>, String) {
    let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().expect("a key");
    let pem = parameters.self_signed(&key).expect("a root certificate").pem();
    (Issuer::new(parameters, key), pem)
}

/// A certificate and its key, as PEM.
fn issue(authority: &Issuer<'static, KeyPair>, common_name: &str, names: &[&str]) -> (String, String) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut parameters = CertificateParams::new(names).expect("names");
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    let key = KeyPair::generate().expect("a key");
    let certificate = parameters.signed_by(&key, authority).expect("a certificate");
    (certificate.pem(), key.serialize_pem())
}

//! TLS as libpq understands `sslmode`, on rustls with the ring provider.
//!
//! One [`Connector`] serves our own client and `tokio-postgres` ([`super::sql`]), so that both trust the same
//! servers. Whom it trusts is decided in `verify`; what SCRAM binds to, in `binding`.

mod binding;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::conninfo::{Address, Host, Identity, Negotiation, RootCertificates, SslMode, TlsSettings};
use verify::{Trust, Verifier};

pub use binding::tls_server_end_point;

/// Why there is no TLS session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// `N` in answer to the `SSLRequest`, with an `sslmode` that insists.
    #[error("the server does not support TLS")]
    Unsupported,
    /// A file with certificates or a key.
    #[error("{purpose} `{}` can't be used: {why}", path.display())]
    File {
        /// What it is for.
        purpose: &'static str,
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// `verify-ca` or `verify-full` without anything to verify against.
    #[error("no root certificate to verify the server with")]
    NoRoots,
    /// A host name that can't be in a certificate.
    #[error("`{0}` is no name that a certificate can hold")]
    Name(String),
    /// rustls does not take the settings (a key that does not belong to its certificate, for instance).
    #[error("the TLS settings don't fit together")]
    Settings(#[source] rustls::Error),
    /// The handshake failed for good: unknown authority, another name, an alert.
    #[error("the TLS handshake failed")]
    Handshake(#[source] rustls::Error),
}

impl TlsError {
    /// What a human can do.
    pub(crate) fn hint(&self) -> String {
        use rustls::{CertificateError as Bad, Error};
        let text = match self {
            Self::Unsupported => {
                "set `ssl = on` (with a certificate) in postgresql.conf, or allow an unencrypted connection with `sslmode=prefer` in the source URL"
            }
            Self::File { .. } => "check that the file exists, is PEM, and can be read by the user that runs pgsluice",
            Self::NoRoots => {
                "name the CA's certificate with `sslrootcert=<file>`, or use `sslrootcert=system` for a public authority"
            }
            Self::Name(_) => "use the host name that stands in the server's certificate, or `sslmode=verify-ca`",
            Self::Settings(_) => "check that `sslkey` is the private key of `sslcert`",
            Self::Handshake(Error::InvalidCertificate(Bad::UnknownIssuer)) => {
                "the server's certificate is not signed by an authority in `sslrootcert`: name the right CA file there"
            }
            Self::Handshake(Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. })) => {
                "the server's certificate is for another name: connect by that name, or use `sslmode=verify-ca`"
            }
            Self::Handshake(Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. })) => {
                "renew the server's certificate"
            }
            Self::Handshake(Error::AlertReceived(_)) => {
                "the server refused the handshake: check the client certificate (`sslcert`, `sslkey`) and the server's log"
            }
            Self::Handshake(_) => "check the server's certificate and TLS settings, and its log",
        };
        text.to_owned()
    }
}

/// Makes TLS sessions for one connection string.
#[derive(Debug, Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    /// Whether a host's name must be one that a certificate can hold.
    names_matter: bool,
}

impl Connector {
    /// Reads the certificates and the key that the settings name.
    ///
    /// # Errors
    /// A file that can't be used, or nothing to verify against although `sslmode` asks for it.
    pub fn new(settings: &TlsSettings) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trust = trust(settings)?;
        let names_matter = trust.checks_names();
        let verifier = Verifier::new(trust, provider.signature_verification_algorithms);
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Settings)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &settings.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = load_identity(identity)?;
                builder.with_client_auth_cert(chain, key).map_err(TlsError::Settings)?
            }
        };
        if settings.negotiation == Negotiation::Direct {
            // Required by the server then, so that no other protocol can be tricked into answering.
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(Self { config: Arc::new(config), names_matter })
    }

    /// The handshake, over a connection on which the server has agreed to TLS.
    ///
    /// # Errors
    /// [`std::io::Error`] for a broken connection; what rustls decided is inside, see [`handshake_error`].
    pub(crate) async fn handshake(
        &self,
        host: &Host,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, HandshakeError> {
        let name = self.server_name(host)?;
        tokio_rustls::TlsConnector::from(self.config.clone()).connect(name, stream).await.map_err(handshake_error)
    }

    fn server_name(&self, host: &Host) -> Result<ServerName<'static>, TlsError> {
        let Address::Tcp(name) = &host.address else { return Err(TlsError::Unsupported) };
        match ServerName::try_from(name.clone()) {
            Ok(name) => Ok(name),
            // An address is sent to nobody and compared with nothing here.
            Err(_) if !self.names_matter => Ok(ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())),
            Err(_) => Err(TlsError::Name(name.clone())),
        }
    }
}

/// A handshake that failed: by a decision, or because the connection broke.
#[derive(Debug)]
pub(crate) enum HandshakeError {
    Tls(TlsError),
    Io(std::io::Error),
}

impl From<TlsError> for HandshakeError {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}

fn handshake_error(error: std::io::Error) -> HandshakeError {
    match decided_by_tls(&error) {
        Some(decision) => HandshakeError::Tls(TlsError::Handshake(decision)),
        None => HandshakeError::Io(error),
    }
}

/// rustls' verdict inside an IO error, if that is what it is. TLS 1.3 servers refuse a client certificate only
/// after the handshake, so it can come out of any later read.
pub(crate) fn decided_by_tls(error: &std::io::Error) -> Option<rustls::Error> {
    error.get_ref()?.downcast_ref::<rustls::Error>().cloned()
}

/// What `sslmode` and `sslrootcert` together mean ("SSL Mode Descriptions" in the PostgreSQL manual).
fn trust(settings: &TlsSettings) -> Result<Trust, TlsError> {
    let roots = || match &settings.roots {
        RootCertificates::File(path) | RootCertificates::Default(Some(path)) => roots_from_file(path).map(Some),
        RootCertificates::System => roots_from_system().map(Some),
        RootCertificates::Default(None) => Ok(None),
    };
    match settings.mode {
        SslMode::Disable | SslMode::Allow | SslMode::Prefer => Ok(Trust::Anybody),
        SslMode::Require => Ok(roots()?.map_or(Trust::Anybody, Trust::Chain)),
        SslMode::VerifyCa => roots()?.map(Trust::Chain).ok_or(TlsError::NoRoots),
        SslMode::VerifyFull => roots()?.map(Trust::ChainAndName).ok_or(TlsError::NoRoots),
    }
}

fn unusable(purpose: &'static str, path: &Path, why: &impl ToString) -> TlsError {
    TlsError::File { purpose, path: path.to_owned(), why: why.to_string() }
}

fn certificates(purpose: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|why| unusable(purpose, path, &why));
    match found {
        Ok(found) if found.is_empty() => Err(unusable(purpose, path, &"it holds no certificate")),
        found => found,
    }
}

fn roots_from_file(path: &Path) -> Result<verify::Roots, TlsError> {
    let certificates = certificates("the root certificate file", path)?;
    verify::Roots::new(certificates)
        .ok_or_else(|| unusable("the root certificate file", path, &"no certificate in it is valid"))
}

fn roots_from_system() -> Result<verify::Roots, TlsError> {
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        tracing::debug!(%error, "a certificate of the operating system can't be used");
    }
    verify::Roots::new(loaded.certs).ok_or(TlsError::NoRoots)
}

fn load_identity(identity: &Identity) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = certificates("the client certificate", &identity.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&identity.key)
        .map_err(|why| unusable("the private key of the client certificate", &identity.key, &why))?;
    Ok((chain, key))
}

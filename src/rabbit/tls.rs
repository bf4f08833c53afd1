//! TLS towards the broker: what is trusted, and which certificate is shown.
//!
//! The files are read at each connect, so that a renewed certificate is taken up without a restart.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::uri::TlsOptions;
use crate::failure::{Failure, Kind};

/// Encrypts, and verifies that `host` answers unless the configuration trusts anyone.
pub(super) async fn encrypt(
    stream: TcpStream,
    host: &str,
    config: &Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, Failure> {
    let name = ServerName::try_from(host.to_owned()).map_err(|error| {
        Failure::definite(Kind::Broker, error, "TLS needs a host name or an address in rabbitmq.url")
    })?;
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await.map_err(refused)
}

/// A certificate that does not verify will not do so in a second either.
pub(super) fn refused(error: std::io::Error) -> Failure {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    if matches!(inner, Some(rustls::Error::InvalidCertificate(_))) {
        let hint = "set cacertfile in rabbitmq.url to the authority that signed the broker's certificate, and connect \
                    by a name that the certificate holds";
        return Failure::definite(Kind::Broker, anyhow!(error).context("the broker's TLS certificate"), hint);
    }
    Failure::transient(anyhow!(error).context("TLS handshake"))
}

/// Reads the files; what it returns serves all connections of one attempt.
pub(super) async fn config(options: TlsOptions) -> Result<Arc<ClientConfig>, Failure> {
    // Reading the system's certificates takes milliseconds: not on the thread that serves the connections.
    let built = tokio::task::spawn_blocking(move || build(&options)).await.map_err(anyhow::Error::from);
    built.flatten().map(Arc::new).map_err(|error| {
        Failure::definite(Kind::Broker, error, "check cacertfile, certfile and keyfile in rabbitmq.url")
    })
}

fn build(options: &TlsOptions) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .context("TLS versions")?;
    let builder = if options.trust_anyone {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(TrustAnyone(provider)))
    } else {
        builder.with_root_certificates(roots(options.ca_file.as_deref())?)
    };
    let Some((certificate, key)) = &options.client else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_file(key).with_context(|| format!("private key {}", key.display()))?;
    builder.with_client_auth_cert(chain, private).context("the client certificate and its key")
}

fn roots(ca_file: Option<&Path>) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_file {
        for certificate in certificates(path)? {
            roots.add(certificate).with_context(|| format!("certificate file {}", path.display()))?;
        }
        return Ok(roots);
    }
    let native = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(native.certs);
    if roots.is_empty() {
        return Err(anyhow!("the system has no trusted certificates; set cacertfile"));
    }
    Ok(roots)
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let what = || format!("certificate file {}", path.display());
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).with_context(what)?.collect::<Result<_, _>>().with_context(what)?;
    if found.is_empty() { Err(anyhow!("no certificate in it").context(what())) } else { Ok(found) }
}

/// `verify=verify_none`: whoever answers is trusted, but must hold the key of what it shows.
#[derive(Debug)]
struct TrustAnyone(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

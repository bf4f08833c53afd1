//! Asks a pgsluice that runs: `pgsluice status`. What it knows of URLs and certificates, `otlp` uses too.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::Token;

/// For the whole of it.
const PATIENCE: Duration = Duration::from_secs(10);
/// No status is as long.
const BODY_BYTES_MAX: usize = 16 << 20;

/// Where to ask, and how to know that it is the right one.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `http://…` or `https://…`, without a path.
    pub url: String,
    /// What it wants to see.
    pub token: Option<Token>,
    /// With `https`.
    pub trust: Trust,
}

/// Which certificate is the right one.
#[derive(Debug, Clone)]
pub enum Trust {
    /// One that an authority of the system has signed.
    System,
    /// One that this authority has signed (PEM).
    Authority(std::path::PathBuf),
    /// This one itself (PEM), whatever it is called.
    Itself(std::path::PathBuf),
}

/// The answer to `GET path`, whatever the status is.
///
/// # Errors
/// Nobody answers there, or not in time.
pub async fn get(endpoint: &Endpoint, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let asking = ask(endpoint, path);
    let answer = tokio::time::timeout(PATIENCE, asking).await;
    let answer = answer.unwrap_or_else(|_| Err(anyhow!("no answer within {} ms", PATIENCE.as_millis())));
    answer.with_context(|| format!("can't ask {}", endpoint.url))
}

async fn ask(endpoint: &Endpoint, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let Peer { authority, host, port, is_tls } = Peer::of(&endpoint.url.parse::<Uri>().context("no URL")?)?;
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    let mut request = Request::get(path).header(HOST, authority);
    if let Some(token) = &endpoint.token {
        request = request.header(AUTHORIZATION, format!("Bearer {}", token.reveal()));
    }
    let request = request.body(Empty::new())?;
    if !is_tls {
        return exchange(stream, request).await;
    }
    let trust = endpoint.trust.clone();
    let config = tokio::task::spawn_blocking(move || tls(&trust)).await??;
    let name = ServerName::try_from(host)?;
    exchange(TlsConnector::from(Arc::new(config)).connect(name, stream).await.context("TLS")?, request).await
}

/// Who is meant by a URL.
#[derive(Debug, Clone)]
pub(in crate::telemetry) struct Peer {
    /// As it is written, for the header `Host`.
    pub(in crate::telemetry) authority: String,
    /// A name or an address, without brackets.
    pub(in crate::telemetry) host: String,
    pub(in crate::telemetry) port: u16,
    /// Whether it wants TLS.
    pub(in crate::telemetry) is_tls: bool,
}

impl Peer {
    /// # Errors
    /// There is no host in it, or it is of another scheme than HTTP's.
    pub(in crate::telemetry) fn of(uri: &Uri) -> anyhow::Result<Self> {
        let authority = uri.authority().context("the URL names no host")?;
        let (is_tls, port) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            Some(_) | None => bail!("a URL begins with http:// or https://"),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(port);
        Ok(Self { authority: authority.as_str().to_owned(), host, port, is_tls })
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
    connection.abort();
    Ok((status, body.map_err(|error| anyhow!("{error}"))?.to_bytes()))
}

/// # Errors
/// A file can't be used.
pub(in crate::telemetry) fn tls(trust: &Trust) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let mut roots = RootCertStore::empty();
    match trust {
        Trust::System => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        Trust::Authority(file) => {
            for certificate in certificates(file)? {
                roots.add(certificate)?;
            }
        }
        Trust::Itself(file) => {
            let expected = certificates(file)?.into_iter().next().context("no certificate")?;
            let verifier = Arc::new(Pinned { expected, provider });
            return Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth());
        }
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    read.map_err(|error| anyhow!("{error}")).with_context(|| format!("can't use {}", file.display()))
}

/// The configuration names the certificate: it is this one or none.
#[derive(Debug)]
struct Pinned {
    expected: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.expected {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

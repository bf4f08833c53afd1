//! The server's side of TLS.

use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsFiles;
use crate::failure::{Definite, Kind};

/// Reads both files.
///
/// # Errors
/// One of them can't be used, or they don't fit together.
pub(super) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, Definite> {
    let read = || {
        let certificates = CertificateDer::pem_file_iter(&files.certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| anyhow!("{error}"))
            .with_context(|| format!("http.tls_certificate_file can't be used: {}", files.certificate.display()))?;
        let key = PrivateKeyDer::from_pem_file(&files.key)
            .map_err(|error| anyhow!("{error}"))
            .with_context(|| format!("http.tls_key_file can't be used: {}", files.key.display()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(certificates, key)
            .context("http.tls_certificate_file and http.tls_key_file don't fit together")?;
        Ok::<_, anyhow::Error>(config)
    };
    let mut config = read().map_err(|error| {
        Definite::new(Kind::Usage, error, "both are PEM files that the user can read that runs pgsluice: the certificate with those of its authorities, and its key without a password")
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

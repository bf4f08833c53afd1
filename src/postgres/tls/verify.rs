//! Whether a server's certificate is good enough.
//!
//! webpki does the work. Two things that PostgreSQL's documentation recommends and webpki refuses are added:
//! a self-signed server certificate that is itself in the root file, and a name that stands only in the
//! subject's common name. Both are what libpq with OpenSSL accepts.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::der::oid::db::{rfc4519::COMMON_NAME, rfc5280::ID_CE_SUBJECT_ALT_NAME};
use x509_cert::der::{Decode, asn1};

/// Certificates that are trusted.
#[derive(Debug, Clone)]
pub(super) struct Roots {
    store: Arc<RootCertStore>,
    /// The same, to recognise a server certificate that is itself one of them.
    exact: Arc<[CertificateDer<'static>]>,
}

impl Roots {
    /// None when no certificate is usable.
    pub(super) fn new(certificates: Vec<CertificateDer<'static>>) -> Option<Self> {
        let mut store = RootCertStore::empty();
        let (added, ignored) = store.add_parsable_certificates(certificates.iter().cloned());
        if ignored > 0 {
            tracing::debug!(added, ignored, "some root certificates can't be used");
        }
        (added > 0).then(|| Self { store: Arc::new(store), exact: certificates.into() })
    }
}

/// What is asked of a server.
#[derive(Debug, Clone)]
pub(super) enum Trust {
    /// Nothing: encryption against listeners only.
    Anybody,
    /// A chain to a root.
    Chain(Roots),
    /// A chain to a root, and the name that was connected to.
    ChainAndName(Roots),
}

impl Trust {
    pub(super) fn checks_names(&self) -> bool {
        match self {
            Self::Anybody | Self::Chain(_) => false,
            Self::ChainAndName(_) => true,
        }
    }
}

#[derive(Debug)]
pub(super) struct Verifier {
    trust: Trust,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(super) fn new(trust: Trust, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { trust, algorithms }
    }

    fn chain(
        &self,
        roots: &Roots,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if roots.exact.iter().any(|root| root.as_ref() == certificate.as_ref()) {
            return valid_at(certificate, now);
        }
        let parsed = ParsedCertificate::try_from(certificate)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots.store, intermediates, now, self.algorithms.all)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.trust {
            Trust::Anybody => {}
            Trust::Chain(roots) => self.chain(roots, end_entity, intermediates, now)?,
            Trust::ChainAndName(roots) => {
                self.chain(roots, end_entity, intermediates, now)?;
                name(end_entity, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn parse(certificate: &CertificateDer<'_>) -> Result<Certificate, Error> {
    Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding.into())
}

fn valid_at(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let validity = parse(certificate)?.tbs_certificate.validity;
    if now.as_secs() < validity.not_before.to_unix_duration().as_secs() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now.as_secs() > validity.not_after.to_unix_duration().as_secs() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

fn name(certificate: &CertificateDer<'_>, wanted: &ServerName<'_>) -> Result<(), Error> {
    let refused = match ParsedCertificate::try_from(certificate).and_then(|parsed| verify_server_name(&parsed, wanted))
    {
        Ok(()) => return Ok(()),
        Err(refused) => refused,
    };
    let parsed = parse(certificate)?;
    let extensions = parsed.tbs_certificate.extensions.as_deref().unwrap_or_default();
    if extensions.iter().any(|extension| extension.extn_id == ID_CE_SUBJECT_ALT_NAME) {
        return Err(refused);
    }
    match common_name(&parsed) {
        Some(name) if matches(&name, &wanted.to_str()) => Ok(()),
        _ => Err(refused),
    }
}

fn common_name(certificate: &Certificate) -> Option<String> {
    let subject = &certificate.tbs_certificate.subject;
    let value = subject.0.iter().flat_map(|rdn| rdn.0.iter()).find(|attribute| attribute.oid == COMMON_NAME)?;
    let value = &value.value;
    (value.decode_as::<asn1::Utf8StringRef<'_>>().map(|text| text.to_string()))
        .or_else(|_| value.decode_as::<asn1::PrintableStringRef<'_>>().map(|text| text.to_string()))
        .ok()
}

/// Case does not count; `*.` stands for one label (`pq_verify_peer_name_matches_certificate_name` in libpq).
fn matches(pattern: &str, name: &str) -> bool {
    match (pattern.strip_prefix("*."), name.split_once('.')) {
        (Some(rest), Some((_, parent))) if rest.contains('.') => rest.eq_ignore_ascii_case(parent),
        _ => pattern.eq_ignore_ascii_case(name),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn self_signed(common_name: &str, names: Vec<String>) -> CertificateDer<'static> {
        let mut parameters = CertificateParams::new(names).expect("names");
        parameters.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().expect("a key");
        parameters.self_signed(&key).expect("a certificate").der().clone()
    }

    #[test]
    fn a_common_name_counts_only_without_alternative_names() {
        let wanted = ServerName::try_from("db.example.org").expect("a name");
        assert!(name(&self_signed("DB.example.org", vec![]), &wanted).is_ok());
        assert!(name(&self_signed("*.example.org", vec![]), &wanted).is_ok());
        assert!(name(&self_signed("other.example.org", vec![]), &wanted).is_err());
        assert!(name(&self_signed("db.example.org", vec!["other".to_owned()]), &wanted).is_err());
        assert!(name(&self_signed("x", vec!["db.example.org".to_owned()]), &wanted).is_ok());
    }

    #[test]
    fn wildcards_stand_for_one_label() {
        assert!(matches("*.example.org", "db.example.org"));
        assert!(!matches("*.example.org", "a.db.example.org"));
        assert!(!matches("*.org", "example.org"));
    }

    #[test]
    fn a_root_is_its_own_server_certificate_while_it_is_valid() {
        let certificate = self_signed("db", vec![]);
        let roots = Roots::new(vec![certificate.clone()]).expect("roots");
        let provider = rustls::crypto::ring::default_provider();
        let verifier = Verifier::new(Trust::Chain(roots.clone()), provider.signature_verification_algorithms);
        let at = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        assert!(verifier.chain(&roots, &certificate, &[], at(1_700_000_000)).is_ok());
        assert!(verifier.chain(&roots, &certificate, &[], at(100_000_000_000)).is_err());
        assert!(verifier.chain(&roots, &self_signed("db", vec![]), &[], at(1_700_000_000)).is_err());
    }
}

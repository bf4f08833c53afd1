//! `[http]`: where the process tells what it does.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// `[http]`
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// Where to.
    pub listen: SocketAddr,
    /// Who has it may ask; none: everybody who can connect.
    pub token: Option<Token>,
    /// None: in clear.
    pub tls: Option<TlsFiles>,
    /// Not ready with more lag than this.
    pub ready_lag_bytes: Option<u64>,
    /// Not ready with more lag than this.
    pub ready_lag: Option<Duration>,
}

/// A secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// A certificate with those of its authorities, and its key, as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate first.
    pub certificate: PathBuf,
    /// Without a password.
    pub key: PathBuf,
}

impl Token {
    /// From what was written.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The secret itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// Never shown.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

//! Broker URIs.

/// stub
#[derive(Debug, Clone)]
pub struct BrokerUri;

/// stub
#[derive(Debug, thiserror::Error)]
#[error("not a broker URI")]
pub struct UriError;

impl BrokerUri {
    /// stub
    pub fn parse(text: &str) -> Result<Self, UriError> {
        if text.starts_with("amqp") { Ok(Self) } else { Err(UriError) }
    }

    /// stub
    #[must_use]
    pub fn with_password(self, _password: String) -> Self {
        self
    }
}

//! Connection strings, as libpq reads them.

/// stub
#[derive(Debug, Clone)]
pub struct Conninfo;

/// stub
#[derive(Debug, thiserror::Error)]
#[error("not a connection string")]
pub struct ConninfoError;

impl Conninfo {
    /// stub
    pub fn parse(text: &str) -> Result<Self, ConninfoError> {
        if text.starts_with("postgres") || text.contains('=') { Ok(Self) } else { Err(ConninfoError) }
    }

    /// stub
    #[must_use]
    pub fn with_password(self, _password: String) -> Self {
        self
    }
}

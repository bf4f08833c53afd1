//! What `pgsluice check` finds: something that is as it should be, that may surprise, or that would stop a start.

use crate::failure::{Definite, Failure, Kind};

/// One of them.
#[derive(Debug)]
pub enum Finding {
    /// As it should be, or will be made so.
    Ok(String),
    /// A start works, and a human may want something else.
    Warning {
        /// What.
        what: String,
        /// What helps; may be empty.
        hint: String,
    },
    /// A start would end with this.
    Failure(Definite),
}

impl Finding {
    /// A warning with its hint.
    pub fn warning(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Warning { what: what.into(), hint: hint.into() }
    }
}

/// Nobody waits here for a server to come back.
impl From<Failure> for Finding {
    fn from(failure: Failure) -> Self {
        Self::Failure(match failure {
            Failure::Definite(definite) => definite,
            Failure::Transient(error) => Definite::new(
                Kind::Unreachable,
                error,
                "`pgsluice run` would wait for it; see that it is up, and can be reached from here",
            ),
        })
    }
}

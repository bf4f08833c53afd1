//! A login that worked before, and is refused now.
//!
//! A password is changed in two places, one after the other, and the reload of a `pg_hba.conf` or a directory service
//! that is away can refuse for a moment what is right. So a refusal is said at once, and waited out for a while: libpq's
//! password file is read again at each attempt. Then it is definite, because a process that is started again may be given
//! the new password where this one can't see it: in its configuration and environment. A login that never worked is
//! definite at once.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::client::{AuthError, ClientError};
use crate::failure::Failure;

/// Longer than an orchestrator takes to bring a changed secret to its file.
const PATIENCE: Duration = Duration::from_mins(2);

/// What became of the attempts to log in.
#[derive(Debug, Default)]
pub(crate) struct Logins(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    NeverWorked,
    Works,
    RefusedSince(Instant),
}

impl Logins {
    /// Takes note of an attempt, and makes a refusal transient that may pass.
    pub(crate) fn judge<T>(&self, attempt: Result<T, Failure>) -> Result<T, Failure> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*state, attempt) {
            (_, Ok(session)) => {
                *state = State::Works;
                Ok(session)
            }
            (State::Works, Err(Failure::Definite(definite))) if is_refusal(&definite.error) => {
                warn!(
                    error = %definite,
                    "the login that worked before is refused: trying again for {} s, while the password is perhaps being \
                     changed",
                    PATIENCE.as_secs()
                );
                *state = State::RefusedSince(Instant::now());
                Err(Failure::Transient(definite.error))
            }
            (State::RefusedSince(since), Err(Failure::Definite(definite))) if is_refusal(&definite.error) => {
                if since.elapsed() < PATIENCE {
                    return Err(Failure::Transient(definite.error));
                }
                let what = format!("the login that worked before has been refused for {} s", PATIENCE.as_secs());
                Err(definite.context(what).into())
            }
            (State::NeverWorked | State::Works | State::RefusedSince(_), Err(failure)) => Err(failure),
        }
    }
}

/// Classes 28 (invalid authorization) of the SQLSTATEs, and a password that is missing.
fn is_refusal(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ClientError>().is_some_and(|error| match error {
        ClientError::Connect(error) => error.attempts.iter().any(|attempt| {
            let no_password = matches!(attempt.error, ClientError::Auth(AuthError::NoPassword { .. }));
            no_password || attempt.error.code().is_some_and(|code| code.starts_with("28"))
        }),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Kind;
    use crate::postgres::client::{Attempt, ConnectError, ServerError};

    fn attempt(code: &str) -> Result<(), Failure> {
        let error = ServerError { code: code.to_owned(), ..ServerError::default() };
        let attempt = Attempt { host: "a".to_owned(), address: None, error: Box::new(error).into() };
        Err(ClientError::from(Box::new(ConnectError { user: "app".to_owned(), attempts: vec![attempt] })).into())
    }

    fn is_transient(judged: Result<(), Failure>) -> bool {
        match judged.expect_err("a failure stays one") {
            Failure::Transient(_) => true,
            Failure::Definite(definite) => {
                assert_eq!(definite.kind, Kind::Source);
                assert!(!definite.hint.is_empty());
                false
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_that_worked_may_be_refused_for_a_while() {
        let logins = Logins::default();
        assert!(!is_transient(logins.judge(attempt("28P01"))), "it never worked");
        assert!(logins.judge(Ok(())).is_ok());
        assert!(!is_transient(logins.judge(attempt("3D000"))), "another matter");
        assert!(is_transient(logins.judge(attempt("28P01"))));
        tokio::time::advance(PATIENCE / 2).await;
        assert!(is_transient(logins.judge(attempt("28000"))));
        assert!(logins.judge(Ok(())).is_ok());
        tokio::time::advance(PATIENCE).await;
        assert!(is_transient(logins.judge(attempt("28P01"))), "it worked again between");
        tokio::time::advance(PATIENCE).await;
        assert!(is_transient(logins.judge(attempt("57P03"))), "it is away");
        assert!(!is_transient(logins.judge(attempt("28P01"))), "too long");
    }
}

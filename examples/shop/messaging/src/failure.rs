//! Two kinds of failure: what passes by itself, and what may be the message's fault.

use std::error::Error;
use std::io;
use std::time::Duration;

use deadpool_postgres::PoolError;
use tokio_postgres::error::SqlState;

/// Whether the same may work later: the database is away or starts, refuses whoever asks, can't write, or two transactions
/// were in each other's way. Such a failure says nothing about the message that was being handled, and does not count as an
/// attempt. What else a handler may talk to, and what times out there, is not of this kind: it could be the message that
/// makes it so.
#[must_use]
pub fn passes(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(PoolError::Timeout(_)))
            || cause.downcast_ref::<tokio_postgres::Error>().is_some_and(of_postgres)
    })
}

/// Whether the server has refused a value: what was sent can't be stored, whoever sends it, and whenever.
pub(crate) fn is_of_a_value(error: &anyhow::Error) -> bool {
    let codes = error.chain().filter_map(|cause| cause.downcast_ref::<tokio_postgres::Error>()?.code());
    codes.into_iter().any(|code| code.code().starts_with("22"))
}

fn of_postgres(error: &tokio_postgres::Error) -> bool {
    let Some(code) = error.code() else {
        // Not said by the server: the connection is gone, or in the middle of a password that it did not ask for.
        return error.is_closed() || error.source().is_some_and(<dyn Error>::is::<io::Error>);
    };
    let later = [
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::LOCK_NOT_AVAILABLE,
        // It has become a standby.
        SqlState::READ_ONLY_SQL_TRANSACTION,
    ];
    // Connection exceptions; a login that is refused, a database that is not there (a password that is changed, another
    // server); insufficient resources; shut down, crashed, not yet started; the disk's errors.
    let classes = ["08", "28", "3D", "53", "57P", "58"];
    later.contains(code) || classes.iter().any(|class| code.code().starts_with(class))
}

/// How long to wait before the next try: twice as long each time, and with jitter, so that not all come back at once.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(5);

    /// From the beginning.
    #[must_use]
    pub fn new() -> Self {
        Self { next: Self::FIRST }
    }

    /// Waits, longer each time.
    pub async fn wait(&mut self) {
        // A random number that costs no dependency: the low bits of a random id.
        let jitter = f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0;
        tokio::time::sleep(self.next.mul_f64(0.5 + jitter / 2.0)).await;
        self.next = (self.next * 2).min(Self::LONGEST);
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

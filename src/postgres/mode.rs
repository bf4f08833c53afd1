//! How a stream is asked for: as it is configured, until the server fails at it.
//!
//! What comes out is the same in every mode, so that the next stream just goes on in another one. Invariant: a mode that was
//! left is not tried again by this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::client::ClientError;
use crate::config::{SourceSettings, Streaming};
use crate::failure::Failure;

/// How the streams of one source are asked for.
#[derive(Debug, Clone)]
pub(super) struct Mode(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    streaming: Option<Streaming>,
    streaming_fails: AtomicBool,
    binary: bool,
    binary_fails: AtomicBool,
}

impl Mode {
    /// As it is configured.
    pub(super) fn new(settings: &SourceSettings) -> Self {
        let (streaming, binary) = (settings.streaming.clone(), settings.binary);
        Self(Arc::new(Inner {
            streaming,
            binary,
            streaming_fails: AtomicBool::new(false),
            binary_fails: AtomicBool::new(false),
        }))
    }

    /// Whether transactions are asked for while they are in progress.
    ///
    /// Decoding what is not committed has limits in every version up to 18 (15.20 has fewer). Of a row of the catalog that a transaction alters in
    /// a subtransaction, rolls that back, and alters again, the walsender sees no version in between: it fails with an internal
    /// error ("could not map filenode"), at each attempt. And the folder may be full. A transaction that is committed needs
    /// neither.
    pub(super) fn streaming(&self) -> Option<&Streaming> {
        self.0.streaming.as_ref().filter(|_| !self.0.streaming_fails.load(Ordering::Relaxed))
    }

    /// Whether values are asked for in their binary form.
    ///
    /// A type without one (`aclitem`) makes the walsender fail, at each attempt; and of others it is not known how to read it.
    pub(super) fn binary(&self) -> bool {
        self.0.binary && !self.0.binary_fails.load(Ordering::Relaxed)
    }

    /// What the stream has failed with, as it is to be taken: transient where the next stream goes on in another mode.
    pub(super) fn take(&self, error: ClientError) -> Failure {
        if self.streaming().is_some() && sees_a_wrong_catalog(&error) {
            self.leave_streaming(&error);
            return Failure::transient(error);
        }
        // undefined_function. What would tell of the type before, its table's description, may be kept with its transaction.
        if error.code() == Some("42883") && self.binary() {
            self.leave_binary(&error);
            return Failure::transient(error);
        }
        error.into()
    }

    /// From here on transactions come when they are committed.
    pub(super) fn leave_streaming(&self, why: &dyn std::fmt::Display) {
        self.0.streaming_fails.store(true, Ordering::Relaxed);
        tracing::warn!(%why, "a transaction that is in progress can't be streamed: from here on each is read once it is \
            committed, as with source.streaming = false");
    }

    /// From here on values come as text.
    pub(super) fn leave_binary(&self, why: &dyn std::fmt::Display) {
        self.0.binary_fails.store(true, Ordering::Relaxed);
        tracing::warn!(%why, "not every value can be read in its binary form: from here on they come as text, as with \
            source.binary = false");
    }
}

/// What a walsender fails with that finds a table, a column, a schema (class XX, internal errors), the label of an enum (22,
/// data exceptions) or the publication (42704, `undefined_object`; from 18 on only a notice) missing.
fn sees_a_wrong_catalog(error: &ClientError) -> bool {
    let code = error.code().unwrap_or_default();
    matches!(error, ClientError::SkippedPublication(_))
        || code.starts_with("XX")
        || code.starts_with("22")
        || code == "42704"
}

#[cfg(test)]
mod tests {
    use super::super::client::ServerError;
    use super::*;

    fn failed(mode: &Mode, code: &str) -> Failure {
        let error = ServerError { code: code.to_owned(), ..ServerError::default() };
        mode.take(Box::new(error).into())
    }

    fn mode() -> Mode {
        let streaming = Streaming { memory_bytes: 0, folder: std::env::temp_dir() };
        let (streaming_fails, binary_fails) = (AtomicBool::new(false), AtomicBool::new(false));
        Mode(Arc::new(Inner { streaming: Some(streaming), streaming_fails, binary: true, binary_fails }))
    }

    #[test]
    fn what_fails_in_one_mode_is_tried_in_another_and_then_taken_as_it_is() {
        let (streamed, binary) = (mode(), mode());
        for (code, mode, left) in [("42704", &streamed, (false, true)), ("42883", &binary, (true, false))] {
            assert!(matches!(failed(mode, code), Failure::Transient(_)), "{code}");
            assert_eq!((mode.streaming().is_some(), mode.binary()), left, "{code}");
            assert!(matches!(failed(mode, code), Failure::Definite(_)), "{code}");
        }
    }
}

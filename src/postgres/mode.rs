//! How a stream is asked for: as it is configured, until the server fails at it.
//!
//! What comes out is the same in every mode, so that the next stream just goes on in another one. Invariant: a mode that was
//! left is not tried again by this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::client::ClientError;
use crate::config::{SourceSettings, Streaming};

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
    /// Decoding what is not committed has limits in every version up to 18: a transaction that alters a table in a
    /// subtransaction that it rolls back, and alters it again, makes the walsender fail with an internal error ("could not map
    /// filenode"), at each attempt. And the folder may be full. A transaction that is committed needs neither.
    pub(super) fn streaming(&self) -> Option<&Streaming> {
        self.0.streaming.as_ref().filter(|_| !self.0.streaming_fails.load(Ordering::Relaxed))
    }

    /// Whether values are asked for in their binary form.
    ///
    /// A type without one (`aclitem`) makes the walsender fail, at each attempt; and of others it is not known how to read it.
    pub(super) fn binary(&self) -> bool {
        self.0.binary && !self.0.binary_fails.load(Ordering::Relaxed)
    }

    /// Notes what the stream has failed with.
    pub(super) fn note(&self, error: &ClientError) {
        let code = error.code().unwrap_or_default();
        // Class XX: internal errors.
        if code.starts_with("XX") && self.streaming().is_some() {
            self.leave_streaming(error);
        }
        // undefined_function
        if code == "42883" && self.binary() {
            self.leave_binary(error);
        }
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

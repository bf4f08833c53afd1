//! The span of a connection that is being opened, however often that is tried.

use super::span::Kind;
use super::tracer::{Open, Tracer};
use crate::telemetry::metrics::now_us;

/// One connection; while it is there, there is no span.
#[derive(Debug)]
pub struct Connecting {
    tracer: Tracer,
    name: &'static str,
    /// An attribute that says to what.
    system: (&'static str, &'static str),
    open: Option<Open>,
    /// It was there before.
    is_again: bool,
}

impl Connecting {
    /// Called `name`; nothing has begun.
    #[must_use]
    pub fn new(tracer: Tracer, name: &'static str, system: (&'static str, &'static str)) -> Self {
        Self { tracer, name, system, open: None, is_again: false }
    }

    /// It is not there, and wanted: since now, if that is new.
    pub fn begin(&mut self) {
        if self.open.is_some() || !self.tracer.is_on() {
            return;
        }
        self.open = self.tracer.start(self.name.to_owned(), Kind::Client, None);
        if let Some(open) = &mut self.open {
            open.set(self.system.0, self.system.1);
            open.set("pgsluice.is_reconnect", self.is_again);
        }
    }

    /// Why it is not there yet; the last reason is kept.
    pub fn trouble(&mut self, why: &str) {
        if let Some(open) = &mut self.open {
            open.set("pgsluice.trouble", why);
        }
    }

    /// It is there.
    pub fn done(&mut self) {
        if let Some(open) = self.open.take() {
            open.end(now_us());
        }
        self.is_again = true;
    }
}

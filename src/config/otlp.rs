//! `[otlp]`: where the process's own spans go.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use hyper::header::HeaderMap;

/// `[otlp]`
#[derive(Debug, Clone)]
pub struct OtlpSettings {
    /// Where to post them: `http` or `https`, with a host and the path of the traces.
    pub traces: Uri,
    /// What goes with each request; none of them is shown.
    pub headers: HeaderMap,
    /// Who signs the collector's certificate, as PEM; none: an authority of the system.
    pub tls_ca: Option<PathBuf>,
    /// For one request.
    pub timeout: Duration,
    /// Of a million events without a trace, so many begin one.
    pub sample_per_million: u32,
}

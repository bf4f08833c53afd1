//! The answers, by path.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::{RawQuery, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::access::{Access, Verdict};
use crate::telemetry::metrics::exposition;
use crate::telemetry::report::{Reason, Report};
use crate::telemetry::status::Status;

/// The page, whole: it asks for nothing but `/status`, `/history` and `/check`.
const PAGE: &str = include_str!("page.html");

/// What `pgsluice check` has found last, each as it prints it; none: it did not run yet.
#[derive(Debug, Clone, Default)]
pub struct Findings(Arc<Mutex<Option<Found>>>);

#[derive(Debug, Clone, Serialize)]
struct Found {
    at_ms: u64,
    findings: Vec<serde_json::Value>,
}

impl Findings {
    /// It has run, and this is all that it said.
    pub fn set(&self, findings: Vec<serde_json::Value>) {
        let found = Found { at_ms: crate::telemetry::metrics::now_ms(), findings };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
    }

    fn get(&self) -> Option<Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Debug, Clone)]
struct Served {
    report: Report,
    findings: Findings,
}

/// All paths.
pub(super) fn router(report: Report, findings: Findings, access: Access) -> Router {
    // What is not there yet is there for whoever has the token, or there is none to have.
    Router::new()
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/history", get(history))
        .route("/check", get(check))
        .route("/pause", post(pause))
        .route("/resume", post(resume))
        .route_layer(axum::middleware::from_fn(granted_only))
        .route("/", get(page))
        .route("/healthz", get(live))
        .route("/readyz", get(ready))
        .layer(from_fn_with_state(access, judged))
        .with_state(Served { report, findings })
}

/// Judges each request, and adds to each answer what keeps it from being used by another page.
async fn judged(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    let mut response = match access.judge(request.method(), request.headers()) {
        Verdict::Refused(why) => refused(StatusCode::FORBIDDEN, why),
        verdict @ (Verdict::Granted | Verdict::Unknown) => {
            request.extensions_mut().insert(verdict);
            next.run(request).await
        }
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn granted_only(Extension(verdict): Extension<Verdict>, request: Request, next: Next) -> Response {
    match verdict {
        Verdict::Granted => next.run(request).await,
        Verdict::Unknown | Verdict::Refused(_) => {
            let mut response =
                refused(StatusCode::UNAUTHORIZED, "the token is missing, or is another one (http.token)");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
    }
}

fn refused(status: StatusCode, why: &str) -> Response {
    json_of(status, &json!({ "error": why }))
}

fn json_of(status: StatusCode, value: &impl Serialize) -> Response {
    let body = serde_json::to_string(value).expect("our own documents always serialize");
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn page() -> Response {
    let headers =
        [(header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()), (header::CONTENT_SECURITY_POLICY, policy())];
    (headers, PAGE).into_response()
}

/// The page's own script and style, and nothing else.
fn policy() -> String {
    let digest = |tag: &str| {
        let inside = PAGE.split_once(&format!("<{tag}>")).and_then(|(_, rest)| rest.split_once(&format!("</{tag}>")));
        STANDARD.encode(Sha256::digest(inside.map_or("", |(inside, _)| inside)))
    };
    let (style, script) = (digest("style"), digest("script"));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

async fn live() -> Response {
    json_of(StatusCode::OK, &json!({ "live": true }))
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    reasons: Vec<Reason>,
    paused: bool,
    lag_bytes: u64,
    lag_ms: u64,
    #[serde(flatten)]
    state: crate::telemetry::health::State,
}

/// `?standby`: for who asks whether it could go on in the place of another, as a rollout does; a standby is ready then.
async fn ready(
    State(served): State<Served>,
    RawQuery(query): RawQuery,
    Extension(verdict): Extension<Verdict>,
) -> Response {
    let Served { report, .. } = served;
    let mut reasons = report.reasons();
    if query.as_deref() == Some("standby") {
        reasons.retain(|reason| reason.code != "standby");
    }
    let ready = reasons.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match verdict {
        Verdict::Granted => {
            let metrics = report.metrics();
            let (lag_bytes, lag_ms) = (metrics.lag_bytes(), metrics.lag_us() / 1_000);
            let (paused, state) = (report.is_paused(), report.state());
            json_of(status, &Readiness { ready, reasons, paused, lag_bytes, lag_ms, state })
        }
        Verdict::Unknown | Verdict::Refused(_) => json_of(status, &json!({ "ready": ready })),
    }
}

async fn metrics(State(served): State<Served>) -> Response {
    ([(header::CONTENT_TYPE, exposition::CONTENT_TYPE)], Body::from(exposition::render(&served.report))).into_response()
}

async fn status(State(served): State<Served>) -> Response {
    json_of(StatusCode::OK, &Status::of(&served.report))
}

/// `?after_ms=…`: only the samples after that moment.
async fn history(State(served): State<Served>, RawQuery(query): RawQuery) -> Response {
    let after = query.as_deref().and_then(|query| query.strip_prefix("after_ms=")?.parse().ok()).unwrap_or(0);
    json_of(StatusCode::OK, &served.report.metrics().history().after(after))
}

async fn check(State(served): State<Served>) -> Response {
    json_of(StatusCode::OK, &served.findings.get())
}

async fn pause(State(served): State<Served>) -> Response {
    set_pause(&served, true)
}

async fn resume(State(served): State<Served>) -> Response {
    set_pause(&served, false)
}

fn set_pause(served: &Served, paused: bool) -> Response {
    let changed = served.report.health().pause(paused);
    json_of(StatusCode::OK, &json!({ "paused": paused, "changed": changed }))
}

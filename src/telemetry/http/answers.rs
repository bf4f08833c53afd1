//! The answers, by path.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, HttpBody as _};
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
use super::served::{Chosen, Served, Unknown, parameter};
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

/// All paths.
pub(super) fn router(served: Served, access: Access) -> Router {
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
        .with_state(served)
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

/// Every pipeline's own thread, where they have one, must answer.
async fn live(State(served): State<Served>) -> Response {
    let live = served.is_alive().await;
    json_of(if live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &json!({ "live": live }))
}

/// Of one pipeline.
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

impl Readiness {
    fn of(report: &Report) -> Self {
        let (reasons, metrics) = (report.reasons(), report.metrics());
        Self {
            ready: reasons.is_empty(),
            reasons,
            paused: report.is_paused(),
            lag_bytes: metrics.lag_bytes(),
            lag_ms: metrics.lag_us() / 1_000,
            state: report.state(),
        }
    }
}

/// What is said of one of several pipelines, with its name.
#[derive(Serialize)]
struct Named<'n, T> {
    pipeline: &'n str,
    #[serde(flatten)]
    said: T,
}

/// Of all of them.
#[derive(Serialize)]
struct AllReady<'n> {
    ready: bool,
    reasons: Vec<Named<'n, Reason>>,
    pipelines: Vec<Named<'n, Readiness>>,
}

async fn ready(
    State(served): State<Served>,
    RawQuery(query): RawQuery,
    Extension(verdict): Extension<Verdict>,
) -> Response {
    let chosen = match served.chosen(query.as_deref()) {
        Ok(chosen) => chosen,
        Err(unknown) => return unknown.into_response(),
    };
    // For who asks whether it could go on in the place of another, as a rollout does.
    let may_stand_by = parameter(query.as_deref(), "standby") == Some("ready");
    let is_in_the_way = |reason: &Reason| !(may_stand_by && reason.code == "standby");
    // One look at each, or what is said would contradict itself: others' threads go on meanwhile.
    let looks: Vec<_> = chosen.reports().map(|report| named(report, Readiness::of(report))).collect();
    let ready = !looks.iter().any(|look| look.said.reasons.iter().any(is_in_the_way));
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match (verdict, &chosen) {
        (Verdict::Unknown | Verdict::Refused(_), _) => json_of(status, &json!({ "ready": ready })),
        (Verdict::Granted, Chosen::One(_)) => {
            let one = looks.into_iter().next().map(|look| Readiness { ready, ..look.said });
            json_of(status, &one)
        }
        (Verdict::Granted, Chosen::All(_)) => {
            let of_one = |look: &Named<'_, Readiness>| look.said.reasons.clone();
            let reasons = chosen.reports().zip(looks.iter().map(of_one));
            let reasons = reasons.flat_map(|(report, said)| said.into_iter().map(|reason| named(report, reason)));
            json_of(status, &AllReady { ready, reasons: reasons.collect(), pipelines: looks })
        }
    }
}

fn named<T>(report: &Report, said: T) -> Named<'_, T> {
    Named { pipeline: report.name(), said }
}

async fn metrics(State(served): State<Served>) -> Response {
    let reports = served.all().iter().map(|pipeline| &pipeline.report);
    let text = exposition::render(&reports, served.is_list());
    ([(header::CONTENT_TYPE, exposition::CONTENT_TYPE)], Body::from(text)).into_response()
}

async fn status(State(served): State<Served>, RawQuery(query): RawQuery) -> Response {
    match served.chosen(query.as_deref()) {
        Ok(Chosen::One(one)) => json_of(StatusCode::OK, &Status::of(&one.report)),
        Ok(all @ Chosen::All(_)) => {
            let pipelines: Vec<Status> = all.reports().map(Status::of).collect();
            json_of(StatusCode::OK, &json!({ "pipelines": pipelines }))
        }
        Err(unknown) => unknown.into_response(),
    }
}

/// `?after_ms=…`: only the samples after that moment.
async fn history(State(served): State<Served>, RawQuery(query): RawQuery) -> Response {
    let after = parameter(query.as_deref(), "after_ms").and_then(|after| after.parse().ok()).unwrap_or(0);
    match served.one(query.as_deref()) {
        Ok(one) => json_of(StatusCode::OK, &one.report.metrics().history().after(after)),
        Err(unknown) => unknown.into_response(),
    }
}

async fn check(State(served): State<Served>, RawQuery(query): RawQuery) -> Response {
    match served.one(query.as_deref()) {
        Ok(one) => json_of(StatusCode::OK, &one.findings.get()),
        Err(unknown) => unknown.into_response(),
    }
}

async fn pause(State(served): State<Served>, request: Request) -> Response {
    set_pause(&served, &request, true)
}

async fn resume(State(served): State<Served>, request: Request) -> Response {
    set_pause(&served, &request, false)
}

/// Of all pipelines, unless one is named.
fn set_pause(served: &Served, request: &Request, paused: bool) -> Response {
    // A body might have been meant to name one.
    let is_bare = request.body().is_end_stream();
    let chosen = if is_bare { served.chosen_exactly(request.uri().query()) } else { Err(Unknown::Parameter) };
    match chosen {
        Ok(chosen) => {
            let changed = chosen.reports().filter(|report| report.health().pause(paused)).count() > 0;
            let mut answer = json!({ "paused": paused, "changed": changed });
            if served.is_list() {
                answer["pipelines"] = chosen.reports().map(Report::name).collect();
            }
            json_of(StatusCode::OK, &answer)
        }
        Err(unknown) => unknown.into_response(),
    }
}

impl IntoResponse for Unknown {
    fn into_response(self) -> Response {
        match self {
            Self::Name => refused(StatusCode::NOT_FOUND, "there is no such pipeline: GET /status has their names"),
            Self::Several => {
                refused(StatusCode::BAD_REQUEST, "there are several pipelines: name one, as in ?pipeline=NAME")
            }
            Self::Parameter => refused(
                StatusCode::BAD_REQUEST,
                "it takes no body, and no parameter but the name of one pipeline, as in ?pipeline=NAME",
            ),
        }
    }
}

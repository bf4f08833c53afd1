//! A collector of OTLP over HTTP, which reads with the official definitions, and can be in any mood.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::{SOON, eventually};

/// What it does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Takes,
    /// After half a second.
    TakesSlowly,
    /// But for so many spans.
    Rejects(i64),
    Answers(StatusCode),
    /// 200, with a body that is nothing.
    Babbles,
    /// Reads, and says nothing.
    Hangs,
}

#[derive(Debug)]
struct Inner {
    mood: Mood,
    requests: usize,
    /// Of each request that it took: the headers, and what was in it.
    taken: Vec<(HeaderMap, ExportTraceServiceRequest)>,
}

#[derive(Debug, Clone)]
pub(super) struct Collector {
    inner: Arc<Mutex<Inner>>,
    pub(super) port: u16,
}

impl Collector {
    pub(super) async fn start(mood: Mood) -> Self {
        Self::listen(mood, None).await
    }

    pub(super) async fn listen(mood: Mood, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let port = listener.local_addr().expect("an address").port();
        let collector = Self { inner: Arc::new(Mutex::new(Inner { mood, requests: 0, taken: Vec::new() })), port };
        let router = Router::new().route("/v1/traces", post(answer)).with_state(collector.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (router, tls) = (router.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, router).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, router).await;
                            }
                        }
                    }
                });
            }
        });
        collector
    }

    /// The section of the configuration.
    pub(super) fn section(&self, more: &str) -> String {
        format!("[otlp]\nendpoint = \"http://127.0.0.1:{}\"\n{more}", self.port)
    }

    pub(super) fn set(&self, mood: Mood) {
        self.inner().mood = mood;
    }

    pub(super) fn requests(&self) -> usize {
        self.inner().requests
    }

    /// The headers of the requests that it took.
    pub(super) fn headers(&self) -> Vec<HeaderMap> {
        self.inner().taken.iter().map(|(headers, _)| headers.clone()).collect()
    }

    /// What it took, with the attributes of who says it.
    pub(super) fn spans(&self) -> Vec<(BTreeMap<String, Value>, Span)> {
        let mut spans = Vec::new();
        for (_, request) in &self.inner().taken {
            for resource in &request.resource_spans {
                let of = attributes(&resource.resource.as_ref().expect("a resource").attributes);
                for scope in &resource.scope_spans {
                    assert_eq!(scope.scope.as_ref().expect("a scope").name, "pgsluice");
                    spans.extend(scope.spans.iter().map(|span| (of.clone(), span.clone())));
                }
            }
        }
        spans
    }

    /// Those whose name begins so.
    pub(super) fn named(&self, name: &str) -> Vec<Span> {
        self.spans().into_iter().map(|(_, span)| span).filter(|span| span.name.starts_with(name)).collect()
    }

    /// [`Self::named`], once there are so many.
    pub(super) async fn wait_for(&self, name: &str, count: usize) -> Vec<Span> {
        let what = format!("{count} spans {name:?}");
        eventually(&what, SOON, async || Some(self.named(name)).filter(|spans| spans.len() >= count)).await
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let service = TowerToHyperService::new(router);
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(State(collector): State<Collector>, headers: HeaderMap, body: Bytes) -> Response {
    let mood = {
        let mut inner = collector.inner();
        inner.requests += 1;
        inner.mood
    };
    let rejected_spans = match mood {
        Mood::Takes | Mood::Babbles => 0,
        Mood::TakesSlowly => {
            tokio::time::sleep(Duration::from_millis(500)).await;
            0
        }
        Mood::Rejects(count) => count,
        Mood::Answers(status) => return status.into_response(),
        Mood::Hangs => std::future::pending().await,
    };
    let request = ExportTraceServiceRequest::decode(body).expect("a request as the definitions have it");
    collector.inner().taken.push((headers, request));
    if mood == Mood::Babbles {
        return Bytes::from_static(b"\xff\xff<html>").into_response();
    }
    let partial = ExportTracePartialSuccess { rejected_spans, error_message: "too many".to_owned() };
    let answer = ExportTraceServiceResponse { partial_success: (rejected_spans > 0).then_some(partial) };
    Bytes::from(answer.encode_to_vec()).into_response()
}

/// Each of them once.
pub(super) fn attributes(list: &[KeyValue]) -> BTreeMap<String, Value> {
    let pair = |pair: &KeyValue| {
        let value = pair.value.clone().and_then(|AnyValue { value }| value);
        (pair.key.clone(), value.expect("a value"))
    };
    let attributes: BTreeMap<String, Value> = list.iter().map(pair).collect();
    assert_eq!(attributes.len(), list.len());
    attributes
}

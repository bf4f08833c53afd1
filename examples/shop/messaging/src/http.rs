//! What HTTP answers when something is wrong.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tracing::warn;

use crate::failure::passes;

/// Why a request was not done. The body of the answer is `{"error": …}`.
#[derive(Debug)]
pub enum Problem {
    /// 400, and what is wrong with the request.
    Invalid(String),
    /// 404
    NotFound,
    /// 409, and what is in the way.
    Conflict(String),
    /// 503 if it passes, else 500. The cause is logged, and not told.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Problem {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, message) = match self {
            Self::Invalid(message) => (StatusCode::BAD_REQUEST, message),
            Self::NotFound => (StatusCode::NOT_FOUND, "no such thing".to_owned()),
            Self::Conflict(message) => (StatusCode::CONFLICT, message),
            Self::Failed(error) => {
                warn!("a request failed: {error:#}");
                let status =
                    if passes(&error) { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::INTERNAL_SERVER_ERROR };
                (status, "try again later".to_owned())
            }
        };
        (status, Json(json!({ "error": message }))).into_response()
    }
}

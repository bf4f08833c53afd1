//! The query API. It reads the view and nothing else; there are no commands here.

use axum::extract::{Path, Query, State};
use axum::routing::get;
use axum::{Json, Router};
use messaging::Pool;
use messaging::http::Problem;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::history;
use crate::query::{self, Filter, Page};

const LIMIT_DEFAULT: i64 = 20;
const LIMIT_MAX: i64 = 200;

/// The routes.
pub fn router(pool: Pool) -> Router {
    Router::new()
        .route("/orders", get(list))
        .route("/orders/{id}", get(one))
        .route("/orders/{id}/history", get(tell))
        .with_state(pool)
}

/// `GET /orders?member=7&status=confirmed&product=3&limit=20&after=…`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    member: Option<i64>,
    status: Option<String>,
    product: Option<i64>,
    limit: Option<i64>,
    after: Option<String>,
}

async fn list(State(pool): State<Pool>, Query(ask): Query<Ask>) -> Result<Json<Value>, Problem> {
    let Ask { member, status, product, limit, after } = ask;
    let limit = limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Problem::Invalid(format!("limit: allowed are 1 to {LIMIT_MAX}")));
    }
    if !matches!(status.as_deref(), None | Some("placed" | "confirmed" | "cancelled")) {
        return Err(Problem::Invalid("status: allowed are placed, confirmed and cancelled".into()));
    }
    let after = after.map(|after| after.parse()).transpose();
    let after = after.map_err(|error: anyhow::Error| Problem::Invalid(format!("after: {error}")))?;
    let filter = Filter { member, status, product };
    let Page { items, next } = query::list(&**pool.get().await?, &filter, after, limit).await?;
    Ok(Json(json!({"items": items, "next": next.map(|next| next.to_string())})))
}

async fn one(State(pool): State<Pool>, Path(id): Path<Uuid>) -> Result<Json<Value>, Problem> {
    query::one(&**pool.get().await?, id).await?.map(Json).ok_or(Problem::NotFound)
}

async fn tell(State(pool): State<Pool>, Path(id): Path<Uuid>) -> Result<Json<Value>, Problem> {
    history::tell(&**pool.get().await?, id).await?.map(Json).ok_or(Problem::NotFound)
}

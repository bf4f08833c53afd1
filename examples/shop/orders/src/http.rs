//! The commands, by HTTP. There are no queries here: those are the view's.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::{Path, State as Of};
use axum::http::StatusCode;
use axum::routing::{post, put};
use axum::{Json, Router};
use messaging::Pool;
use messaging::http::Problem;
use serde::{Deserialize, Serialize};
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::commands::{self, BY_THE_MEMBER, Placed, Status};
use crate::events::Line;

#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) pool: Pool,
    pub(crate) lock_timeout: Duration,
}

pub(crate) fn router(state: State) -> Router {
    Router::new()
        .route("/members/{id}", put(put_member))
        .route("/orders", post(place))
        .route("/orders/{id}/cancel", post(cancel))
        .with_state(state)
}

#[derive(Debug, Deserialize)]
struct Member {
    name: String,
    email: String,
    address: String,
}

async fn put_member(
    Of(state): Of<State>,
    Path(id): Path<i64>,
    Json(member): Json<Member>,
) -> Result<StatusCode, Problem> {
    let sql = "INSERT INTO members AS known (id, name, email, address) VALUES ($1, $2, $3, $4)
        ON CONFLICT (id) DO UPDATE SET name = excluded.name, email = excluded.email, address = excluded.address
        WHERE known IS DISTINCT FROM excluded";
    state.pool.get().await?.execute(sql, &[&id, &member.name, &member.email, &member.address]).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize)]
struct Order {
    /// Chosen by whoever asks, so that to ask again does not order twice.
    id: Option<Uuid>,
    member: i64,
    lines: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Id {
    id: Uuid,
}

async fn place(Of(state): Of<State>, Json(order): Json<Order>) -> Result<(StatusCode, Json<Id>), Problem> {
    let products: BTreeSet<i64> = order.lines.iter().map(|line| line.product).collect();
    if products.is_empty() || products.len() < order.lines.len() || order.lines.iter().any(|line| line.quantity < 1) {
        return Err(Problem::Invalid("an order has lines, each of another product, of at least one".to_owned()));
    }
    let id = order.id.unwrap_or_else(Uuid::new_v4);
    let mut client = state.pool.get().await?;
    let transaction = client.transaction().await?;
    let placed = commands::place(&transaction, id, order.member, &order.lines, state.lock_timeout).await;
    let placed =
        placed.map_err(|error| match error.downcast_ref::<tokio_postgres::Error>().and_then(|it| it.code()) {
            Some(&SqlState::FOREIGN_KEY_VIOLATION) => Problem::Invalid(format!("there is no member {}", order.member)),
            _ => Problem::Failed(error),
        })?;
    transaction.commit().await?;
    let status = match placed {
        Placed::New => StatusCode::CREATED,
        Placed::Before => StatusCode::OK,
    };
    Ok((status, Json(Id { id })))
}

/// May be asked again, as everything else: that the member has cancelled it before is no conflict.
async fn cancel(Of(state): Of<State>, Path(id): Path<Uuid>) -> Result<Json<Id>, Problem> {
    let mut client = state.pool.get().await?;
    let transaction = client.transaction().await?;
    match commands::lock(&transaction, id).await? {
        Some(Status::Placed | Status::Confirmed) => commands::cancel(&transaction, id, BY_THE_MEMBER).await?,
        Some(Status::Cancelled { reason }) if reason == BY_THE_MEMBER => {}
        Some(Status::Cancelled { reason }) => return Err(Problem::Conflict(format!("it is cancelled: {reason}"))),
        None => return Err(Problem::NotFound),
    }
    transaction.commit().await.context("cancel")?;
    Ok(Json(Id { id }))
}

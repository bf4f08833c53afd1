//! The commands, by HTTP. There are no queries here: those are the view's.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::put;
use axum::{Json, Router};
use messaging::Pool;
use messaging::http::Problem;
use serde::Deserialize;
use tokio_postgres::error::SqlState;

pub(crate) fn router(pool: Pool) -> Router {
    Router::new().route("/products/{id}", put(put_product)).with_state(pool)
}

#[derive(Debug, Deserialize)]
struct Product {
    name: String,
    /// Decimals are text: JSON's numbers are doubles for many who read them.
    price: String,
    cost: String,
    /// What is there at first. Of a product that is known it changes nothing.
    initial: i64,
}

async fn put_product(
    State(pool): State<Pool>,
    Path(id): Path<i64>,
    Json(product): Json<Product>,
) -> Result<StatusCode, Problem> {
    let sql = "INSERT INTO products AS known (id, name, price, cost, initial, on_hand)
        VALUES ($1, $2, $3::text::numeric, $4::text::numeric, $5, $5)
        ON CONFLICT (id) DO UPDATE SET name = excluded.name, price = excluded.price, cost = excluded.cost
        WHERE (known.name, known.price, known.cost) IS DISTINCT FROM (excluded.name, excluded.price, excluded.cost)";
    let Product { name, price, cost, initial } = &product;
    let put = pool.get().await?.execute(sql, &[&id, name, price, cost, initial]).await;
    put.map_err(|error| match error.code() {
        Some(
            &(SqlState::INVALID_TEXT_REPRESENTATION | SqlState::NUMERIC_VALUE_OUT_OF_RANGE | SqlState::CHECK_VIOLATION),
        ) => Problem::Invalid("a price or cost that is no decimal, or a negative initial stock".to_owned()),
        _ => error.into(),
    })?;
    Ok(StatusCode::NO_CONTENT)
}

//! The contract: what the configuration can publish, as an `AsyncAPI` 3.0 document with a JSON Schema of every event.
//!
//! ```text
//! catalog   the live tables → relations, as the stream would describe them, and what only the catalog knows of them
//!    ▼
//! events    relations → the router's own plans → one [`event::Event`] for each kind of event
//!    ▼       (rows, rules, outbox and messages each know a body, formats what is made of it; types knows a value)
//! document  events → `AsyncAPI`
//! check     an older document and this one → what a consumer of the older one can't take
//! ```
//!
//! Invariant: where an event goes, and which [`Kind`](crate::encode::values::Kind) a value has, is asked of the router and the
//! encoder, never decided again here; and the same database and configuration make the same document, byte for byte.

pub mod catalog;
pub mod check;
pub mod document;
pub mod event;
pub mod events;
mod formats;
mod messages;
mod outbox;
mod rows;
mod rules;
mod tableless;
pub mod types;

use std::time::Duration;

use serde_json::Value;

use crate::config::Settings;
use crate::failure::{Failure, within};
use crate::postgres::sql;

/// The catalog answers at once, or something is wrong with it.
const ANSWER_LIMIT: Duration = Duration::from_mins(1);

/// The document for these settings, from the tables as they are now. Asks `PostgreSQL`, and changes nothing there.
///
/// # Errors
/// A table that is named isn't there, or an outbox lacks a column (definite); the server can't answer.
pub async fn of(settings: &Settings) -> Result<Value, Failure> {
    let client = sql::connect(&settings.source.conninfo).await?;
    let catalog = within(ANSWER_LIMIT, "reading the catalog", catalog::read(&client, settings)).await?;
    let contract = events::all(settings, &catalog)?;
    Ok(document::write(settings, contract))
}

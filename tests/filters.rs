//! `[[source.filters]]`: rows and columns that never leave the database, and nothing else is lost by them; a filter that would
//! do harm is refused before it is there.

mod altered;
mod refused;
mod sent;
mod watched;

use pgsluice::config::FilterSettings;
use pgsluice::failure::Failure;
use pgsluice::postgres::catalog::{Wanted, resolve};
use pgsluice::postgres::filters;
use pgsluice::postgres::preflight::{self, Look};
use pgsluice::postgres::publication::{self, Plan};
use pgsluice::route::select::Selection;
use tokio_postgres::Client;

use crate::support::{Database, PostgresServer};

/// A database on `server` with `sql` run in it, and a client as pgsluice's, which has no search path.
async fn database(server: &PostgresServer, sql: &str) -> (Database, Client) {
    let database = server.database().await;
    database.execute(sql).await;
    let client = database.client().await;
    client.batch_execute("SET search_path = ''").await.expect("sets");
    (database, client)
}

/// The filter of the table `public.{table}`.
fn filter(table: &str, columns: &[&str], rows: &str) -> FilterSettings {
    FilterSettings {
        key: "source.filters[0]".to_owned(),
        schema: "public".to_owned(),
        table: table.to_owned(),
        rows: (!rows.is_empty()).then(|| rows.to_owned()),
        columns: (!columns.is_empty()).then(|| columns.iter().map(ToString::to_string).collect()),
    }
}

async fn wanted(client: &Client, filters: &[FilterSettings]) -> Result<Wanted, Failure> {
    let server = preflight::check(client, Look::First).await?;
    let selection = Selection::parse(&["public.*".to_owned()]).expect("a valid pattern");
    let mut wanted = resolve(client, &selection, &[], &[]).await?;
    wanted.filters = filters::resolve(client, filters, &wanted, &server).await?;
    Ok(wanted)
}

/// Plans and applies the publication `p` of all tables, as `open` does.
async fn publish(client: &Client, filters: &[FilterSettings]) -> Result<Plan, Failure> {
    let server = preflight::check(client, Look::First).await?;
    let wanted = wanted(client, filters).await?;
    let publication = publication::read(client, "p").await?;
    let plan = publication::plan("p", publication.as_ref(), &wanted, &server)?;
    assert!(publication::apply(client, "p", &plan, &wanted).await?, "nobody writes");
    Ok(plan)
}

/// Whether the server has filters at all; one that has not refuses them.
async fn has_filters(database: &Database) -> bool {
    database.major().await >= 15
}

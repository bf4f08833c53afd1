//! The tables of a workload, in an empty database.

use super::Workload;
use super::rows::Row;
use crate::stage::PUBLICATION;
use crate::support::Database;

/// How many tables (h) has.
pub(super) const TABLES: u64 = 1_000;

/// Creates the tables, what is in them before the load, and the publication.
pub(crate) async fn create(database: &Database, workload: Workload, rows: u64) {
    let client = database.client().await;
    let execute = async |sql: String| {
        client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{error}: {:?}", error.as_db_error()));
    };
    match workload {
        Workload::Outbox => execute(format!("CREATE TABLE outbox ({})", Row::outbox().columns())).await,
        Workload::Wide => execute(format!("CREATE TABLE load ({})", Row::wide().columns())).await,
        Workload::FanOut => {
            let columns = Row::order().columns();
            // A lock each; not all in one transaction.
            for first in (0..TABLES).step_by(100) {
                let tables = (first..first + 100).map(|index| format!("CREATE TABLE fan_{index:04} ({columns});"));
                execute(tables.collect()).await;
            }
        }
        Workload::FullUpdates => {
            let row = Row::order();
            execute(format!(
                "CREATE TABLE load ({}); ALTER TABLE load REPLICA IDENTITY FULL;
                 INSERT INTO load SELECT {} FROM generate_series(1, {rows}) i",
                row.columns(),
                row.values()
            ))
            .await;
        }
        Workload::OneRow
        | Workload::Thousand
        | Workload::Giant
        | Workload::Latency
        | Workload::Outage
        | Workload::Restart => execute(format!("CREATE TABLE load ({})", Row::order().columns())).await,
    }
    let names = "SELECT string_agg(quote_ident(tablename), ', ') FROM pg_tables WHERE schemaname = 'public'";
    let names = database.query_one(names).await;
    execute(format!("CREATE PUBLICATION {PUBLICATION} FOR TABLE {names}")).await;
}

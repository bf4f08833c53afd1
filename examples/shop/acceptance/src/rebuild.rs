//! The view's database is dropped, and told again from what the other services have: row by row the same as before.
//!
//! Two ways. From the write-ahead log, to the exchanges that all listen to: all events in their order, which the other services
//! know already, and so do nothing. From the outbox tables as event store, in which every order's events are, to the exchange that
//! the view alone listens to; base data has no outbox, so it comes from the log.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::report::Line;
use crate::shop::{Database, Name, Shop};
use crate::wait::{Look, or_stalled, until};

/// The checkpoint of both pipelines before there was anything.
pub(crate) const BEGINNING: &str = "beginning";
const PATIENCE: Duration = Duration::from_secs(40);
const EXCHANGE: &str = "view.rebuild";

/// All rows of a database's tables, by table.
type Content = BTreeMap<String, Vec<String>>;

/// Names the position of both pipelines, which have just begun.
pub(crate) async fn name_the_beginning(shop: &mut Shop) -> anyhow::Result<()> {
    for database in [Database::Orders, Database::Inventory] {
        until("a first checkpoint", PATIENCE, async || {
            let named = shop.run_pgsluice(database, &["checkpoint", "name", "--replace", BEGINNING], &[]).await;
            Ok(match named {
                Ok(()) => Look::Done(()),
                Err(error) => Look::NotYet(format!("{error:#}")),
            })
        })
        .await?;
    }
    Ok(())
}

/// Both ways, one after the other.
pub(crate) async fn both_ways(shop: &mut Shop) -> anyhow::Result<Vec<Line>> {
    let before = view(shop).await?;
    let others = [content(shop, Database::Orders, &[]).await?, content(shop, Database::Inventory, &[]).await?];

    forget(shop).await?;
    for database in [Database::Orders, Database::Inventory] {
        shop.run_pgsluice(database, &["replay", "--from", BEGINNING], &[]).await?;
    }
    let from_the_log = equal("rebuilt from the log", shop, &before).await?;
    forget(shop).await?;
    for (database, base_data) in [(Database::Orders, "public.members"), (Database::Inventory, "public.products")] {
        let outbox = ["replay", "--from-table", "--order-by", "created_at", "--exchange", EXCHANGE];
        shop.run_pgsluice(database, &outbox, &[]).await?;
        let log = ["replay", "--from", BEGINNING, "--table", base_data, "--exchange", EXCHANGE];
        // Of the two events of each change, one is for another service, which doesn't listen here.
        shop.run_pgsluice(database, &log, &[("PGSLUICE__RABBITMQ__UNROUTABLE__POLICY", "discard")]).await?;
    }
    let from_the_outbox = equal("rebuilt from the outboxes", shop, &before).await?;
    let still = [content(shop, Database::Orders, &[]).await?, content(shop, Database::Inventory, &[]).await?];
    let mut changed = Vec::new();
    for (database, before, after) in [("orders", &others[0], &still[0]), ("inventory", &others[1], &still[1])] {
        changed.extend(differing(before, after).into_iter().map(|table| format!("{database}: {table}")));
    }
    let unmoved = Line::new(
        "heard twice",
        "all events once more, and no row of orders and inventory is another".into(),
        &changed,
    );
    Ok(vec![from_the_log, from_the_outbox, unmoved])
}

/// Stops the view, drops its database, and starts it: it has its tables again, and nothing in them.
async fn forget(shop: &mut Shop) -> anyhow::Result<()> {
    shop.stop(Name::View).await?;
    shop.create(Database::View).await?;
    shop.start(Name::View).await
}

/// Waits until the view has the same rows again.
async fn equal(what: &'static str, shop: &mut Shop, before: &Content) -> anyhow::Result<Line> {
    let outcome = or_stalled(PATIENCE, async || {
        let now = view(shop).await?;
        Ok(if now == *before { Look::Done(()) } else { Look::NotYet(now) })
    });
    let wrong = outcome.await?.err().map(|now| differing(before, &now)).unwrap_or_default();
    let rows: Vec<String> = before.iter().map(|(table, rows)| format!("{} {table}", rows.len())).collect();
    Ok(Line::new(what, format!("row by row: {}", rows.join(", ")), &wrong))
}

/// The tables that differ, and how.
fn differing(before: &Content, after: &Content) -> Vec<String> {
    let mut found = Vec::new();
    for (table, rows) in before {
        let now = after.get(table).map_or(&[][..], Vec::as_slice);
        if let Some((was, is)) = std::iter::zip(rows, now).find(|(was, is)| was != is) {
            found.push(format!("{table}: {was} is {is}"));
        } else if rows.len() != now.len() {
            found.push(format!("{table}: {} rows were {}", now.len(), rows.len()));
        }
    }
    found
}

async fn view(shop: &Shop) -> anyhow::Result<Content> {
    // When a message was handled, and a migration applied, is of this life, and not of the truth.
    content(shop, Database::View, &["inbox", "migrations"]).await
}

/// Of all tables but some.
async fn content(shop: &Shop, database: Database, but: &[&str]) -> anyhow::Result<Content> {
    let client = shop.audit(database).await?;
    let query = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1";
    let mut content = Content::new();
    for row in client.query(query, &[]).await? {
        let table: String = row.get(0);
        if !but.contains(&table.as_str()) {
            let rows =
                client.query(&format!("SELECT to_jsonb(t)::text FROM public.{table} AS t ORDER BY 1"), &[]).await?;
            content.insert(table, rows.iter().map(|row| row.get(0)).collect());
        }
    }
    Ok(content)
}

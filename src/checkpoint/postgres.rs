//! The checkpoint as a row of a table, for a process without a disk of its own.
//!
//! Invariant: the row changes only in the hands of who read it last. A pgsluice that was replaced while it could
//! not be heard finds that at its next store, and ends; so no progress ever goes back. The commit waits for the
//! disk of that server, whatever `synchronous_commit` is there.
//!
//! One row is the checkpoint (`label` is empty), others are positions that were given a name.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::file::StoreError;
use super::{Checkpoint, Loading, Store, Storing, document};
use crate::failure::{Definite, Failure, Kind, within};
use crate::postgres::conninfo::Conninfo;
use crate::postgres::ident::{quote_literal, quote_qualified};
use crate::postgres::sql;

/// A server that takes longer is in trouble.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Where the server is the one that is read from, storing writes WAL, whose end a keepalive tells, which would be
/// stored: that must not go on without a pause.
const IDLE_INTERVAL: Duration = Duration::from_secs(10);

/// The rows of one pgsluice.
#[derive(Debug)]
pub struct PostgresStore {
    conninfo: Conninfo,
    /// Schema and table, quoted.
    table: String,
    /// Of this pgsluice; a literal.
    name: String,
    /// Names this process.
    owner: String,
    client: tokio::sync::Mutex<Option<Client>>,
    known: Mutex<Known>,
}

/// The row, as far as this process knows it.
#[derive(Debug, Default)]
struct Known {
    /// What was read, until the first store; whoever stores in between wins.
    read: Option<String>,
    last: Option<Checkpoint>,
    /// A store was tried: this process goes on from what it read.
    begun: bool,
    owned: bool,
}

impl PostgresStore {
    /// The rows of the pgsluice called `name`. Connects to nothing yet.
    #[must_use]
    pub fn new(conninfo: Conninfo, schema: &str, table: &str, name: &str) -> Self {
        Self {
            conninfo,
            table: quote_qualified(schema, table),
            name: quote_literal(name),
            owner: format!("process {} {:016x}", std::process::id(), fastrand::u64(..)),
            client: tokio::sync::Mutex::default(),
            known: Mutex::default(),
        }
    }

    async fn read(&self) -> Result<Option<Checkpoint>, Failure> {
        let sql = format!("SELECT checkpoint, owner FROM {} WHERE name = {} AND label = ''", self.table, self.name);
        let rows = self.query("reading the checkpoint", &sql).await?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let row = rows.first();
        let text = row.and_then(|row| row.get("checkpoint"));
        let is_own = row.and_then(|row| row.get("owner")) == Some(&self.owner);
        // Before the first store there is a standby, to whom the row is as good as any.
        if known.begun && !is_own && (known.owned || text != known.read.as_deref()) {
            return Err(self.superseded().into());
        }
        let checkpoint = text.map(|text| document::parse(&self.described(), text.as_bytes())).transpose()?;
        known.read = text.map(str::to_owned);
        known.last.clone_from(&checkpoint);
        Ok(checkpoint)
    }

    async fn write(&self, checkpoint: Checkpoint) -> Result<(), Failure> {
        let sql = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.begun = true;
            if let Some(stored) = known.last.as_ref().filter(|stored| !checkpoint.follows(stored)) {
                let (stored, given) = (stored.clone().into(), checkpoint.into());
                return Err(StoreError::Backwards { stored, given }.into());
            }
            // One that was stored although its answer was lost is ours, too.
            let unchanged = match &known.read {
                Some(text) if !known.owned => format!("OR stored.checkpoint = {}", quote_literal(text)),
                Some(_) | None => String::new(),
            };
            let condition = format!("WHERE stored.owner = {} {unchanged}", quote_literal(&self.owner));
            self.upsert("", &checkpoint, &condition)
        };
        let stored = !self.query("storing the checkpoint", &sql).await?.is_empty();
        if !stored {
            return Err(self.superseded().into());
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Known { read: None, last: Some(checkpoint), begun: true, owned: true };
        Ok(())
    }

    /// Replaces the checkpoint, wherever it is. A pgsluice that runs is superseded by this.
    ///
    /// # Errors
    /// The server is away, or refuses.
    pub async fn overwrite(&self, checkpoint: &Checkpoint) -> Result<(), Failure> {
        self.query("storing the checkpoint", &self.upsert("", checkpoint, "")).await?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Known { read: None, last: Some(checkpoint.clone()), begun: true, owned: true };
        Ok(())
    }

    /// Deletes the checkpoint.
    ///
    /// # Errors
    /// The server is away, or refuses.
    pub async fn forget(&self) -> Result<(), Failure> {
        let sql = format!("DELETE FROM {} WHERE name = {} AND label = ''", self.table, self.name);
        self.query("deleting the checkpoint", &sql).await.map(|_| ())
    }

    /// Stores a position under a name; false when the name is taken, and was not to be replaced.
    ///
    /// # Errors
    /// The server is away, or refuses.
    pub async fn keep(&self, label: &str, checkpoint: &Checkpoint, replace: bool) -> Result<bool, Failure> {
        let condition = if replace { "" } else { "WHERE false" };
        let rows = self.query("storing the position", &self.upsert(label, checkpoint, condition)).await?;
        Ok(!rows.is_empty())
    }

    /// The positions that have a name, in its order.
    ///
    /// # Errors
    /// The server is away, or refuses; one can't be read.
    pub async fn kept(&self) -> Result<Vec<(String, Checkpoint)>, Failure> {
        let sql = format!(
            "SELECT label, checkpoint FROM {} WHERE name = {} AND label <> '' ORDER BY label COLLATE \"C\"",
            self.table, self.name
        );
        let rows = self.query("reading the positions", &sql).await?;
        let parse = |row: &SimpleQueryRow| {
            let label = row.get("label").unwrap_or_default();
            let text = row.get("checkpoint").unwrap_or_default();
            Ok((label.to_owned(), document::parse(&format!("the position \"{label}\""), text.as_bytes())?))
        };
        rows.iter().map(parse).collect()
    }

    /// Returns a row when it was stored.
    fn upsert(&self, label: &str, checkpoint: &Checkpoint, condition: &str) -> String {
        let [label, text, owner] = [label, &document::render(checkpoint), &self.owner].map(quote_literal);
        format!(
            "INSERT INTO {} AS stored (name, label, checkpoint, owner) VALUES ({}, {label}, {text}, {owner}) \
             ON CONFLICT (name, label) DO UPDATE SET checkpoint = excluded.checkpoint, owner = excluded.owner, \
             stored_at = pg_catalog.now() {condition} RETURNING 1",
            self.table, self.name
        )
    }

    /// On the connection that is there, or a new one. Plain statements: a pooler may stand in between.
    async fn query(&self, doing: &str, sql: &str) -> Result<Vec<SimpleQueryRow>, Failure> {
        within(ANSWER_LIMIT, doing, async {
            let mut slot = self.client.lock().await;
            let client = match slot.take().filter(|client| !client.is_closed()) {
                Some(client) => client,
                None => self.connect().await?,
            };
            let answer = client.simple_query(sql).await.map_err(|error| sql::failure(&error))?;
            *slot = Some(client);
            let row = |message| match message {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            };
            Ok(answer.into_iter().filter_map(row).collect())
        })
        .await
        .map_err(|failure| failure.context(format!("the checkpoint's table {}", self.table)))
    }

    async fn connect(&self) -> Result<Client, Failure> {
        let client = sql::connect(&self.conninfo).await?;
        // Looked for first: a role that may not create it may yet use it.
        let exists = format!("SELECT 1 WHERE pg_catalog.to_regclass({}) IS NOT NULL", quote_literal(&self.table));
        let run = async |sql: &str| client.simple_query(sql).await.map_err(|error| sql::failure(&error));
        let answer = run(&format!("SET synchronous_commit = on; {exists}")).await?;
        if !answer.iter().any(|message| matches!(message, SimpleQueryMessage::Row(_))) {
            run(&format!(
                "CREATE TABLE IF NOT EXISTS {} (name text NOT NULL, label text NOT NULL, checkpoint text NOT NULL, \
                 owner text NOT NULL, stored_at timestamptz NOT NULL DEFAULT pg_catalog.now(), PRIMARY KEY (name, label))",
                self.table
            ))
            .await?;
        }
        Ok(client)
    }

    fn described(&self) -> String {
        format!("the checkpoint in {} (name {})", self.table, self.name)
    }

    fn superseded(&self) -> Definite {
        let error = anyhow!("another pgsluice has taken over {}", self.described());
        let hint = "A standby went on from it while this one could not be heard, or the checkpoint was set by hand. Nothing is \
                    lost; what this one had in flight may be published twice. Start it again: it waits as a standby.";
        Definite::new(Kind::Checkpoint, error, hint)
    }
}

impl Store for PostgresStore {
    fn load(self: Arc<Self>) -> Loading {
        Box::pin(async move { self.read().await })
    }

    fn store(self: Arc<Self>, checkpoint: Checkpoint) -> Storing {
        Box::pin(async move { self.write(checkpoint).await })
    }

    fn idle_interval(&self) -> Duration {
        IDLE_INTERVAL
    }
}

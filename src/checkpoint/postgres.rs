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
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::file::StoreError;
use super::{Checkpoint, Loading, Store, Storing, document};
use crate::failure::{Definite, Failure, Kind, within};
use crate::postgres::conninfo::Conninfo;
use crate::postgres::ident::{quote_literal, quote_qualified};
use crate::postgres::{Logins, sql};

/// A server that takes longer is in trouble.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Where the server is the one that is read from, storing writes WAL, whose end a keepalive tells, which would be
/// stored: that must not go on without a pause.
const IDLE_INTERVAL: Duration = Duration::from_secs(10);
/// A session that is not used for so long is ended: it would hold up a smart shutdown of the server.
const LINGER: Duration = Duration::from_secs(3);

/// The rows of one pgsluice.
#[derive(Debug)]
pub struct PostgresStore {
    conninfo: Conninfo,
    /// Schema and table, quoted.
    table: String,
    /// Of this pgsluice; a literal.
    name: String,
    /// Names this process; a literal.
    owner: String,
    session: Arc<tokio::sync::Mutex<Session>>,
    logins: Logins,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Session {
    client: Option<Client>,
    /// Counts what was asked.
    uses: u64,
}

/// The row, as far as this process knows it.
#[derive(Debug, Clone, Default)]
struct Known {
    row: Row,
    last: Option<Checkpoint>,
    /// A store was tried: this process goes on from what it has read.
    begun: bool,
}

/// Who may replace it.
#[derive(Debug, Clone, Default)]
enum Row {
    /// There was none.
    #[default]
    Missing,
    /// It was somebody's: whoever replaces it first has it.
    Read { owner: String, checkpoint: String },
    /// It is ours.
    Owned,
}

impl PostgresStore {
    /// The rows of the pgsluice called `name`. Connects to nothing yet.
    #[must_use]
    pub fn new(conninfo: Conninfo, schema: &str, table: &str, name: &str) -> Self {
        Self {
            conninfo,
            table: quote_qualified(schema, table),
            name: quote_literal(name),
            owner: quote_literal(&format!("process {} {:016x}", std::process::id(), fastrand::u64(..))),
            session: Arc::default(),
            logins: Logins::default(),
            known: Mutex::default(),
        }
    }

    /// The checkpoint as it is now; none when there is none, or no table yet.
    ///
    /// # Errors
    /// The server is away, or refuses; the checkpoint can't be read.
    pub async fn peek(&self) -> Result<Option<Checkpoint>, Failure> {
        let rows = self.select("label = ''").await?;
        let parse = |row: &SimpleQueryRow| {
            let text = row.get("checkpoint").unwrap_or_default();
            Ok(document::parse(&self.described(), text.as_bytes())?)
        };
        rows.first().map(parse).transpose()
    }

    async fn read(&self) -> Result<Option<Checkpoint>, Failure> {
        self.create().await?;
        let rows = self.select("label = ''").await?;
        let column = |row: &SimpleQueryRow, name| row.get(name).unwrap_or_default().to_owned();
        let row = rows.first().map(|row| (column(row, "owner"), column(row, "checkpoint")));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_own = row.as_ref().is_some_and(|(owner, _)| quote_literal(owner) == self.owner);
        let is_unchanged = match (&known.row, &row) {
            (Row::Missing, None) => true,
            (Row::Read { owner, checkpoint }, Some(row)) => (owner, checkpoint) == (&row.0, &row.1),
            (Row::Missing | Row::Read { .. } | Row::Owned, _) => false,
        };
        // Before the first store there is a standby, to whom the row is as good as any.
        if known.begun && !is_own && !is_unchanged {
            return Err(self.superseded().into());
        }
        let parse = |text: &String| document::parse(&self.described(), text.as_bytes());
        let checkpoint = row.as_ref().map(|(_, checkpoint)| parse(checkpoint)).transpose()?;
        known.last.clone_from(&checkpoint);
        match (&known.row, row) {
            (Row::Owned, _) => {}
            (_, Some((owner, checkpoint))) => known.row = Row::Read { owner, checkpoint },
            (_, None) => known.row = Row::Missing,
        }
        Ok(checkpoint)
    }

    async fn write(&self, checkpoint: Checkpoint) -> Result<(), Failure> {
        let known = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.begun = true;
            known.clone()
        };
        if let Some(stored) = known.last.filter(|stored| !checkpoint.follows(stored)) {
            let (stored, given) = (stored.into(), checkpoint.into());
            return Err(StoreError::Backwards { stored, given }.into());
        }
        let Self { table, name, owner, .. } = self;
        let Values { text, flushed } = values(&checkpoint);
        // One that was stored although its answer was lost is ours, too. One that was given up, and comes to pass after
        // all, changes nothing any more.
        let own = format!("stored.owner = {owner} AND stored.flushed <= {flushed}");
        let update = |condition: &str| {
            format!(
                "UPDATE {table} AS stored SET checkpoint = {text}, flushed = {flushed}, owner = {owner}, \
                 stored_at = pg_catalog.now() WHERE name = {name} AND label = '' AND ({condition}) RETURNING 1"
            )
        };
        let sql = match &known.row {
            Row::Missing => self.upsert("", &checkpoint, &format!("WHERE {own}")),
            Row::Read { owner: before, checkpoint } => {
                let [before, checkpoint] = [before, checkpoint].map(|text| quote_literal(text));
                update(&format!("{own} OR stored.owner = {before} AND stored.checkpoint = {checkpoint}"))
            }
            Row::Owned => update(&own),
        };
        if self.change("storing the checkpoint", &sql).await?.is_empty() {
            return Err(self.superseded().into());
        }
        self.is_ours(Some(checkpoint));
        Ok(())
    }

    /// Replaces the checkpoint, wherever it is. A pgsluice that runs is superseded by this.
    ///
    /// # Errors
    /// The server is away, or refuses.
    pub async fn overwrite(&self, checkpoint: &Checkpoint) -> Result<(), Failure> {
        self.change("storing the checkpoint", &self.upsert("", checkpoint, "")).await?;
        self.is_ours(Some(checkpoint.clone()));
        Ok(())
    }

    /// Deletes the checkpoint, whatever it holds; false when there was none. A pgsluice that runs is superseded by this.
    ///
    /// # Errors
    /// The server is away, or refuses.
    pub async fn forget(&self) -> Result<bool, Failure> {
        self.create().await?;
        let sql = format!("DELETE FROM {} WHERE name = {} AND label = '' RETURNING 1", self.table, self.name);
        Ok(!self.change("deleting the checkpoint", &sql).await?.is_empty())
    }

    /// Stores a position under a name; false when the name is taken, and was not to be replaced.
    ///
    /// # Errors
    /// The server is away, or refuses.
    pub async fn keep(&self, label: &str, checkpoint: &Checkpoint, replace: bool) -> Result<bool, Failure> {
        let condition = if replace { "" } else { "WHERE false" };
        let rows = self.change("storing the position", &self.upsert(label, checkpoint, condition)).await?;
        Ok(!rows.is_empty())
    }

    /// The positions that have a name, in its order.
    ///
    /// # Errors
    /// The server is away, or refuses; one can't be read.
    pub async fn kept(&self) -> Result<Vec<(String, Checkpoint)>, Failure> {
        let rows = self.select("label <> ''").await?;
        let parse = |row: &SimpleQueryRow| {
            let label = row.get("label").unwrap_or_default();
            let text = row.get("checkpoint").unwrap_or_default();
            Ok((label.to_owned(), document::parse(&format!("the position \"{label}\""), text.as_bytes())?))
        };
        rows.iter().map(parse).collect()
    }

    fn is_ours(&self, last: Option<Checkpoint>) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Known { row: Row::Owned, last, begun: true };
    }

    /// Returns a row when it was stored.
    fn upsert(&self, label: &str, checkpoint: &Checkpoint, condition: &str) -> String {
        let Values { text, flushed } = values(checkpoint);
        let Self { table, name, owner, .. } = self;
        format!(
            "INSERT INTO {table} AS stored (name, label, checkpoint, flushed, owner) \
             VALUES ({name}, {}, {text}, {flushed}, {owner}) \
             ON CONFLICT (name, label) DO UPDATE SET checkpoint = excluded.checkpoint, flushed = excluded.flushed, \
             owner = excluded.owner, stored_at = pg_catalog.now() {condition} RETURNING 1",
            quote_literal(label)
        )
    }

    /// No rows when there is no table.
    async fn select(&self, condition: &str) -> Result<Vec<SimpleQueryRow>, Failure> {
        let exists = format!("SELECT 1 WHERE pg_catalog.to_regclass({}) IS NOT NULL", quote_literal(&self.table));
        if self.query("looking for the checkpoint's table", &exists).await?.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT label, checkpoint, owner FROM {} WHERE name = {} AND {condition} ORDER BY label COLLATE \"C\"",
            self.table, self.name
        );
        self.query("reading the checkpoint", &sql).await
    }

    /// Looked for first: a role that may not create it may yet use it.
    async fn create(&self) -> Result<(), Failure> {
        let exists = format!("SELECT 1 WHERE pg_catalog.to_regclass({}) IS NOT NULL", quote_literal(&self.table));
        if !self.query("looking for the checkpoint's table", &exists).await?.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {} (name text NOT NULL, label text NOT NULL, checkpoint text NOT NULL, \
             flushed pg_lsn NOT NULL, owner text NOT NULL, stored_at timestamptz NOT NULL DEFAULT pg_catalog.now(), \
             PRIMARY KEY (name, label))",
            self.table
        );
        self.query("creating the checkpoint's table", &sql).await.map(|_| ())
    }

    /// A commit that is waited for, whatever the default of the database.
    async fn change(&self, doing: &str, sql: &str) -> Result<Vec<SimpleQueryRow>, Failure> {
        // One message is one transaction, and reaches one session, whatever pooler stands in between.
        self.query(doing, &format!("SET LOCAL synchronous_commit = on; {sql}")).await
    }

    /// On the connection that is there, or a new one.
    async fn query(&self, doing: &str, sql: &str) -> Result<Vec<SimpleQueryRow>, Failure> {
        within(ANSWER_LIMIT, doing, async {
            let mut session = self.session.lock().await;
            let client = match session.client.take().filter(|client| !client.is_closed()) {
                Some(client) => client,
                None => self.logins.judge(sql::connect(&self.conninfo).await)?,
            };
            let answer = client.simple_query(sql).await.map_err(|error| failure(&error))?;
            session.client = Some(client);
            session.uses += 1;
            tokio::spawn(end_unused(Arc::clone(&self.session), session.uses));
            let row = |message| match message {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            };
            Ok(answer.into_iter().filter_map(row).collect())
        })
        .await
        .map_err(|failure| failure.context(format!("the checkpoint's table {}", self.table)))
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

/// Ends the session unless it is used again soon.
async fn end_unused(session: Arc<tokio::sync::Mutex<Session>>, uses: u64) {
    tokio::time::sleep(LINGER).await;
    let mut session = session.lock().await;
    if session.uses == uses {
        session.client = None;
    }
}

/// As literals.
struct Values {
    text: String,
    flushed: String,
}

fn values(checkpoint: &Checkpoint) -> Values {
    let flushed = format!("{}::pg_catalog.pg_lsn", quote_literal(&checkpoint.flushed.to_string()));
    Values { text: quote_literal(&document::render(checkpoint)), flushed }
}

fn failure(error: &tokio_postgres::Error) -> Failure {
    let raced = [SqlState::UNIQUE_VIOLATION, SqlState::DUPLICATE_TABLE, SqlState::DUPLICATE_OBJECT];
    match sql::failure(error) {
        // Two that start at once create the table both.
        Failure::Definite(definite) if error.code().is_some_and(|code| raced.contains(code)) => {
            Failure::Transient(definite.error)
        }
        failure => failure,
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

//! The past of a slot that somebody else reads: a temporary copy of it, on a connection of its own.
//!
//! The copy (`pg_copy_logical_replication_slot`) starts where the slot was acknowledged last, and holds the WAL from there
//! for as long as it lives. It belongs to the session that makes it, which is the one that streams: it is gone with it,
//! however that ends. The slot itself is only looked at. Invariant: the stream starts only where nothing between the
//! wanted start and the copy is missing, at first and after each lost connection. `replay` is the caller.

use std::sync::Arc;

use anyhow::anyhow;
use tokio_postgres::Client;

use super::client::{ClientError, Connection, Purpose};
use super::held::{self, Held};
use super::ident::quote_literal;
use super::mode::Mode;
use super::open::{StartAt, report_every};
use super::preflight::{self, Look, sql_failure};
use super::slot::{SlotState, first, verify};
use super::sql;
use super::streamed::{self, CommittedStream};
use super::walsender::{self, ANSWER_LIMIT, Session};
use super::watch::WatchedStream;
use crate::checkpoint::Checkpoint;
use crate::config::SourceSettings;
use crate::failure::{Definite, Failure, Kind, within};
use crate::lsn::Lsn;
use crate::source::{Opened, Resume, Source};
use crate::telemetry::health::Health;

/// Opens streams of the past of one slot.
#[derive(Debug, Clone)]
pub struct CopiedSlot(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: SourceSettings,
    /// None: as early as it goes.
    from: Option<StartAt>,
    mode: Mode,
}

/// How far a slot's past reaches, and what it costs.
#[derive(Debug, Clone, Copy)]
pub struct Past {
    /// Transactions that were committed before it are gone.
    pub earliest: Lsn,
    /// How far the server's WAL is flushed.
    pub end: Lsn,
    /// WAL that the slot holds, in bytes.
    pub held_bytes: u64,
}

/// Looks at the slot, as it is now.
///
/// # Errors
/// There is no such slot, or the server can't serve a replay.
pub async fn past(settings: &SourceSettings) -> Result<Past, Failure> {
    let client = sql::connect(&settings.conninfo).await?;
    let looking = async {
        preflight::check(&client, Look::First).await?;
        let failed = |error: tokio_postgres::Error| sql_failure("looking at the replication slot", &error);
        let sql = "SELECT pg_current_wal_flush_lsn()::text, \
                          (SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1)";
        let row = client.query_one(sql, &[&settings.slot]).await.map_err(failed)?;
        let (end, earliest): (String, Option<String>) =
            row.try_get(0).and_then(|end| Ok((end, row.try_get(1)?))).map_err(failed)?;
        let earliest = earliest.ok_or_else(|| no_slot(&settings.slot))?;
        let lsn = |text: String| text.parse::<Lsn>().map_err(Failure::transient);
        let Held { bytes, .. } = held::look(&client, &settings.slot).await?;
        Ok(Past { earliest: lsn(earliest)?, end: lsn(end)?, held_bytes: bytes })
    };
    within(ANSWER_LIMIT, "looking at the past of the replication slot", looking).await
}

impl CopiedSlot {
    /// The past of the slot that `settings` name, from there on, or as early as it goes. Connects to nothing yet.
    #[must_use]
    pub fn new(settings: SourceSettings, from: Option<StartAt>) -> Self {
        let mode = Mode::new(&settings);
        Self(Arc::new(Inner { settings, from, mode }))
    }
}

impl Source for CopiedSlot {
    type Stream = WatchedStream;

    fn open(&self, resume: Resume) -> impl Future<Output = Result<Opened<WatchedStream>, Failure>> + Send + 'static {
        let inner = Arc::clone(&self.0);
        async move { inner.open(resume.reached).await }
    }
}

impl Inner {
    async fn open(&self, reached: Option<Checkpoint>) -> Result<Opened<WatchedStream>, Failure> {
        let SourceSettings { slot: name, publication, .. } = &self.settings;
        let look = if reached.is_none() { Look::First } else { Look::Again };
        let sql = sql::connect(&self.settings.conninfo).await?;
        let server = within(ANSWER_LIMIT, "checking the database", preflight::check(&sql, look)).await?;
        if look == Look::First {
            streamed::check(&self.settings, &server).await?;
        }
        let mut connection = self.connect(&sql, look).await?;
        let slot = walsender::read_slot(&mut connection, name).await?.ok_or_else(|| no_slot(name))?;
        let since = match (&reached, &self.from) {
            (Some(checkpoint), _) | (None, Some(StartAt::Checkpoint(checkpoint))) => Some(checkpoint.timeline),
            (None, Some(StartAt::Lsn(_)) | None) => None,
        };
        let session = walsender::identify(&mut connection, since).await?;
        let copy = format!("pgsluice_replay_{}", session.pid);
        // What is not retained has a message of its own; what can't be copied is said before it is tried.
        if let Some(confirmed) = slot.confirmed_flush {
            self.start(&session, reached.clone(), confirmed)?;
        }
        verify(name, publication, None, Some(&slot), &session.server)?;
        let earliest = match copy_slot(&mut connection, name, &copy).await {
            Err(error) if error.code() == Some("53400") => return Err(preflight::no_free_slot(&sql, &copy).await),
            Err(error) => return Err(Failure::from(error).context("copying the replication slot")),
            Ok(earliest) => earliest.ok_or_else(|| Failure::transient(anyhow!("the copied slot is at no LSN")))?,
        };
        let start = self.start(&session, reached, earliest)?;
        let copied = SlotState { confirmed_flush: Some(earliest), ..slot };
        verify(name, publication, Some(&start), Some(&copied), &session.server)?;
        let starting = CommittedStream::start(connection, &copy, &self.settings, &self.mode, start.flushed);
        let starting = async { Ok(starting.await?) };
        let stream = within(ANSWER_LIMIT, "starting the replication stream", starting).await?;
        let stream = WatchedStream::new(stream, self.settings.clone(), None, start.flushed, Health::default());
        let report_every = report_every(&self.settings, &session);
        Ok(Opened { stream, start, selected: Vec::new(), report_every })
    }

    async fn connect(&self, sql: &Client, look: Look) -> Result<Connection, Failure> {
        match Connection::connect(&self.settings.conninfo, Purpose::Replication).await {
            // too_many_connections. Later it may be our own predecessor, whose end nobody has noticed yet.
            Err(error) if error.code() == Some("53300") && look == Look::First => {
                let asking = preflight::no_free_walsender(sql);
                let failure = within(ANSWER_LIMIT, "looking for who uses the walsenders", asking).await?;
                Err(failure.unwrap_or_else(|| error.into()))
            }
            connected => connected.map_err(|error| Failure::from(error).context("opening the replication connection")),
        }
    }

    /// Where the stream starts, of what the slot has from `earliest` on.
    fn start(&self, session: &Session, reached: Option<Checkpoint>, earliest: Lsn) -> Result<Checkpoint, Definite> {
        let SourceSettings { slot, publication, .. } = &self.settings;
        if let Some(reached) = reached {
            return if reached.flushed < earliest {
                Err(moved_on(slot, reached.flushed, earliest))
            } else {
                Ok(reached)
            };
        }
        let start = match &self.from {
            None => first(slot, publication, &session.server, earliest),
            Some(StartAt::Lsn(lsn)) => first(slot, publication, &session.server, *lsn),
            Some(StartAt::Checkpoint(checkpoint)) => checkpoint.clone(),
        };
        if start.flushed < earliest { Err(not_retained(slot, start.flushed, earliest)) } else { Ok(start) }
    }
}

/// Copies a slot as a temporary one of this session; where the copy was acknowledged.
async fn copy_slot(connection: &mut Connection, slot: &str, copy: &str) -> Result<Option<Lsn>, ClientError> {
    let sql = format!(
        "SELECT lsn FROM pg_catalog.pg_copy_logical_replication_slot({}, {}, true)",
        quote_literal(slot),
        quote_literal(copy)
    );
    let doing = "copying the replication slot";
    let copied = super::client::within(ANSWER_LIMIT, doing, connection.query(&sql)).await?;
    Ok(copied.into_iter().flatten().flatten().next().and_then(|lsn| lsn.parse().ok()))
}

fn no_slot(slot: &str) -> Failure {
    Failure::definite(
        Kind::Source,
        anyhow!("replication slot \"{slot}\" does not exist: there is no past to replay"),
        "the slot is made by the first `pgsluice run`, and holds nothing from before; is this the same configuration \
         (`name`, `source.slot`, `source.url`)? Rows that are still in the outbox can be sent with `--from-table`",
    )
}

fn not_retained(slot: &str, from: Lsn, earliest: Lsn) -> Definite {
    Definite::new(
        Kind::Usage,
        anyhow!(
            "{from} is no longer retained: the earliest LSN that replication slot \"{slot}\" can be replayed from is {earliest}"
        ),
        format!(
            "`--from {earliest}` replays all that is there. `replay.retain_ms` and `replay.retain_bytes` keep more from now \
             on; rows that are still in the outbox can be sent with `--from-table`"
        ),
    )
}

/// The connection was lost, and with it the copy that held the past.
fn moved_on(slot: &str, reached: Lsn, earliest: Lsn) -> Definite {
    Definite::new(
        Kind::Source,
        anyhow!(
            "the connection was lost when the replay had come to {reached}, and meanwhile replication slot \"{slot}\" was \
             released up to {earliest}: what lies between them is no longer retained"
        ),
        "a larger `replay.retain_ms` or `replay.retain_bytes` keeps more",
    )
}

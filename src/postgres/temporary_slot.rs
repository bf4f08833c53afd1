//! The changes from now on, by a slot that belongs to its connection: for `pgsluice tail`.
//!
//! The slot is gone with the connection, however that ends, and nothing can go on from it: a stream that is lost is
//! definite. Invariant: nothing is left at the server, and nobody else's slot is touched.

use std::sync::Arc;

use anyhow::anyhow;
use tracing::{info, warn};

use super::client::{Connection, Purpose};
use super::mode::Mode;
use super::open::{QUICK, blockers, report_every};
use super::preflight::{self, Look};
use super::slot;
use super::sql;
use super::streamed::{self, CommittedStream};
use super::walsender::{self, ANSWER_LIMIT, CreateError};
use super::watch::WatchedStream;
use crate::config::SourceSettings;
use crate::failure::{Failure, Kind, within};
use crate::lsn::Lsn;
use crate::source::{Opened, Resume, Source};
use crate::telemetry::health::Health;

/// Opens one stream, from now on.
#[derive(Debug, Clone)]
pub struct TemporarySlot(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: SourceSettings,
    mode: Mode,
}

impl TemporarySlot {
    /// Of the publication that `settings` name; its slot's name means nothing. Connects to nothing yet.
    #[must_use]
    pub fn new(settings: SourceSettings) -> Self {
        let mode = Mode::new(&settings);
        Self(Arc::new(Inner { settings, mode }))
    }
}

impl Source for TemporarySlot {
    type Stream = WatchedStream;

    fn open(&self, resume: Resume) -> impl Future<Output = Result<Opened<WatchedStream>, Failure>> + Send + 'static {
        let inner = Arc::clone(&self.0);
        async move {
            match resume.reached {
                None => inner.open().await,
                Some(reached) => Err(Failure::definite(
                    Kind::Unreachable,
                    anyhow!(
                        "the connection was lost, and with it the slot: what was committed after {} is not shown",
                        reached.flushed
                    ),
                    "start it again, to see what is committed from then on",
                )),
            }
        }
    }
}

impl Inner {
    async fn open(&self) -> Result<Opened<WatchedStream>, Failure> {
        let sql = sql::connect(&self.settings.conninfo).await?;
        let server = within(ANSWER_LIMIT, "checking the database", preflight::check(&sql, Look::First)).await?;
        streamed::check(&self.settings, &server).await?;
        let mut connection = match Connection::connect(&self.settings.conninfo, Purpose::Replication).await {
            // too_many_connections
            Err(error) if error.code() == Some("53300") => {
                let asking = preflight::no_free_walsender(&sql);
                let failure = within(ANSWER_LIMIT, "looking for who uses the walsenders", asking).await?;
                return Err(failure.unwrap_or_else(|| error.into()));
            }
            connected => {
                connected.map_err(|error| Failure::from(error).context("opening the replication connection"))?
            }
        };
        let session = walsender::identify(&mut connection, None).await?;
        let name = format!("pgsluice_tail_{}", session.pid);
        let from = self.create(&sql, &mut connection, &name, session.pid).await?;
        let start = slot::first(&name, &self.settings.publication, &session.server, from);
        let starting = CommittedStream::start(connection, &name, &self.settings, &self.mode, from);
        let starting = async { Ok(starting.await?) };
        let stream = within(ANSWER_LIMIT, "starting the replication stream", starting).await?;
        let stream = WatchedStream::new(stream, self.settings.clone(), None, from, Health::default());
        info!(target: "pgsluice::tail", %from, "showing what is committed from now on");
        let report_every = report_every(&self.settings, &session);
        Ok(Opened { stream, start, selected: Vec::new(), report_every })
    }

    /// Waits for every transaction that is open now, and says for which.
    async fn create(
        &self,
        sql: &tokio_postgres::Client,
        connection: &mut Connection,
        name: &str,
        pid: i32,
    ) -> Result<Lsn, Failure> {
        let creating = walsender::create_temporary_slot(connection, name);
        tokio::pin!(creating);
        let created = if let Ok(created) = tokio::time::timeout(QUICK, &mut creating).await {
            created
        } else {
            let blockers = within(ANSWER_LIMIT, "looking for open transactions", blockers(sql, pid)).await?;
            warn!("waiting for transactions that are open: {blockers}");
            creating.await
        };
        match created {
            Ok(from) => Ok(from),
            Err(CreateError::Answer(failure)) => Err(failure),
            // configuration_limit_exceeded
            Err(CreateError::Refused(error)) if error.code() == Some("53400") => {
                Err(preflight::no_free_slot(sql, name).await)
            }
            Err(CreateError::Refused(error)) => Err(Failure::from(error).context("creating the temporary slot")),
        }
    }
}

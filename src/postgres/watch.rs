//! A stream, and what it can't tell of itself.
//!
//! pgoutput says nothing when a table leaves the publication: its changes just stop coming. And a server that shuts
//! down waits for a stream that is not being read, for as long as the broker is away. So from time to time somebody
//! looks, on a connection of its own, that lasts no longer than the look: an idle session would hold up a smart
//! shutdown. A stream that the server takes for a synchronous standby ends, too, before commits wait for the broker. What the
//! types are made of that the stream names is asked for on such a connection, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio_postgres::Client;

use super::client::ClientError;
use super::filters::{self, Unfit};
use super::preflight::{self, sql_failure};
use super::publication::{self, Name, Sent};
use super::streamed::CommittedStream;
use super::types::finder::TypeFinder;
use super::walsender::ANSWER_LIMIT;
use super::{cost, slot, sql};
use crate::config::SourceSettings;
use crate::failure::{Failure, within};
use crate::lsn::Lsn;
use crate::source::{Batch, ChangeStream, Status};
use crate::telemetry::health::Health;

/// Who was here so lately may still come for more.
const LATELY: Duration = Duration::from_secs(1);

/// A stream that is looked after.
#[derive(Debug)]
pub struct WatchedStream {
    stream: CommittedStream,
    /// It is read because of the past, of which there may be much.
    is_far_behind: bool,
    /// When somebody left it, with something or without, and has not come back for more.
    left: Option<Instant>,
    found: oneshot::Receiver<Failure>,
    server_ends: Arc<AtomicBool>,
    task: AbortHandle,
    types: TypeFinder,
}

impl WatchedStream {
    /// Looks after `stream`, of these tables. None: it is a replay. What becomes of the publication is nothing to
    /// the past, and a server that shuts down need not wait until the stream has caught up, however well it is read.
    pub(super) fn new(
        stream: CommittedStream,
        settings: SourceSettings,
        sends: Option<Sends>,
        from: Lsn,
        health: Health,
    ) -> Self {
        let is_far_behind = sends.is_none();
        let (tell, found) = oneshot::channel();
        let server_ends = Arc::new(AtomicBool::new(false));
        let types = TypeFinder::new(settings.conninfo.clone(), stream.mode());
        let watch = Watch {
            settings,
            sends,
            fine_until: from,
            server_ends: Arc::clone(&server_ends),
            unfit: Vec::new(),
            health,
        };
        let task = tokio::spawn(async move {
            // The stream may be gone.
            let _ = tell.send(watch.until_found().await);
        });
        // Nobody has come yet, and during a pause nobody will.
        let left = Some(Instant::now());
        Self { stream, is_far_behind, left, found, server_ends, task: task.abort_handle(), types }
    }
}

impl Drop for WatchedStream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ChangeStream for WatchedStream {
    async fn next(&mut self) -> Result<Batch, Failure> {
        let _left = Left::by(&mut self.left);
        tokio::select! { biased;
            Ok(failure) = &mut self.found => Err(failure),
            batch = self.types.complete(self.stream.next()) => batch,
        }
    }

    async fn report(&mut self, status: Status) -> Result<(), Failure> {
        if let Ok(failure) = self.found.try_recv() {
            return Err(failure);
        }
        let is_held_up = self.left.is_some_and(|left| left.elapsed() > LATELY);
        if (is_held_up || self.is_far_behind) && self.server_ends.load(Ordering::Relaxed) {
            return Err(Failure::transient(anyhow!("the server shuts down, and must not wait for the broker")));
        }
        self.stream.report(status).await
    }
}

/// Somebody is at the stream, until this is dropped.
struct Left<'s>(&'s mut Option<Instant>);

impl<'s> Left<'s> {
    fn by(left: &'s mut Option<Instant>) -> Self {
        *left = None;
        Self(left)
    }
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        *self.0 = Some(Instant::now());
    }
}

/// What a publication is there for.
#[derive(Debug)]
pub(super) struct Sends {
    /// The selected tables that it sent when the stream began.
    pub(super) sent: Vec<Sent>,
    /// Those that the configuration names one by one.
    pub(super) named: Vec<Name>,
}

struct Watch {
    settings: SourceSettings,
    /// None: the publication does not matter.
    sends: Option<Sends>,
    /// Up to here nothing was found.
    fine_until: Lsn,
    server_ends: Arc<AtomicBool>,
    /// What was last said of filters that make the application's UPDATEs fail.
    unfit: Vec<Unfit>,
    /// Hears of what the slot costs.
    health: Health,
}

impl Watch {
    async fn until_found(mut self) -> Failure {
        loop {
            match self.look().await {
                Ok(None) => {}
                Ok(Some(found)) => return found,
                // Whatever else is wrong, the stream says so, or goes on in spite of it.
                Err(failure) => tracing::debug!(error = %failure, "could not look at the publication"),
            }
            tokio::time::sleep(self.settings.watch_every).await;
        }
    }

    /// What the stream must end for.
    async fn look(&mut self) -> Result<Option<Failure>, Failure> {
        let connected = sql::first(&self.settings.conninfo).await;
        self.server_ends.store(connected.as_ref().is_err_and(is_shutting_down), Ordering::Relaxed);
        let client = connected?;
        within(ANSWER_LIMIT, "looking at the publication", self.compare(&client)).await
    }

    async fn compare(&mut self, client: &Client) -> Result<Option<Failure>, Failure> {
        if let Some(definite) = preflight::taken_for_standby(client).await? {
            return Ok(Some(Failure::Transient(definite.error)));
        }
        let Some(Sends { sent, named }) = &self.sends else { return Ok(None) };
        match cost::look(client, &self.settings.slot).await {
            Ok(cost) => self.health.metrics().slot().look(Instant::now(), cost),
            Err(failure) => tracing::debug!(error = %failure, "could not look at what the slot costs"),
        }
        let now = end_of_wal(client).await?;
        let name = &self.settings.publication;
        // Without the publication, reading the stream fails.
        let Some(publication) = publication::read(client, name).await? else { return Ok(None) };
        let left = match &publication.record {
            Some(record) => publication::removed(client, record, named, &publication).await?,
            None => publication::unsent(client, sent, named, &publication).await?,
        };
        if left.is_empty() {
            self.fine_until = now;
            return self.warn_of_unfit(client).await.and(Ok(None));
        }
        Ok(Some(slot::tables_left(name, &left, self.fine_until, end_of_wal(client).await?).into()))
    }

    /// Somebody may have altered a table's replica identity.
    async fn warn_of_unfit(&mut self, client: &Client) -> Result<(), Failure> {
        if self.settings.filters.is_empty() {
            return Ok(());
        }
        let unfit = filters::unfit(client, &self.settings.publication).await?;
        for unfit in unfit.iter().filter(|unfit| !self.unfit.contains(unfit)) {
            tracing::warn!(publication = self.settings.publication, "{}", unfit.warning());
        }
        self.unfit = unfit;
        Ok(())
    }
}

/// No host lets us in, and one of them because it ends. (One that starts up says the same, but has no stream.)
fn is_shutting_down(error: &ClientError) -> bool {
    match error {
        ClientError::Connect(error) => error.attempts.iter().any(|attempt| is_shutting_down(&attempt.error)),
        error => error.code() == Some("57P03"),
    }
}

pub(super) async fn end_of_wal(client: &Client) -> Result<Lsn, Failure> {
    let doing = "looking at the end of the WAL";
    let failed = |error: tokio_postgres::Error| sql_failure(doing, &error);
    let text: String = client
        .query_one("SELECT pg_catalog.pg_current_wal_lsn()::text", &[])
        .await
        .and_then(|row| row.try_get(0))
        .map_err(failed)?;
    text.parse().map_err(|error| Failure::transient(anyhow!("{doing}: {error}")))
}

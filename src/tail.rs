//! A look at the events as they are committed: a pipeline whose events are printed and not published.
//!
//! Its source is a temporary slot (`postgres::temporary_slot`), its checkpoint dies with it, its broker takes everything and
//! sends it nowhere. Invariant: when it ends, by a signal, an error or a panic, nothing of it is left at the server; after
//! SIGKILL at most the publication, which the next one drops.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::pin::pin;
use std::sync::Arc;

use anyhow::anyhow;
use futures_util::FutureExt as _;

use crate::checkpoint::memory::MemoryStore;
use crate::config::Settings;
use crate::encode::Delivery;
use crate::failure::{Definite, Failure, Kind};
use crate::lsn::Lsn;
use crate::pipeline::scope::{Range, Scope};
use crate::pipeline::{Announce, Pipeline, Replay};
use crate::postgres::temporary_publication::{self, TemporaryPublication};
use crate::postgres::temporary_slot::TemporarySlot;
use crate::replay::nowhere::Nowhere;
use crate::telemetry::health::Health;

/// Whose publication is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Publication {
    /// One that exists.
    Existing(String),
    /// One that exists, or else one for the time of the command.
    IfThere(String),
    /// One for the time of the command.
    Temporary,
}

/// Tells `announce` of each event from now on, until `shutdown` completes (then `Ok`) or it has to stop.
///
/// # Errors
/// The server can't be reached or refuses; the connection is lost; an event can't be made, or `announce` fails.
pub async fn run(
    mut settings: Settings,
    publication: Publication,
    announce: Announce,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Definite> {
    let mut shutdown = pin!(shutdown);
    let prepared = tokio::select! { biased;
        () = &mut shutdown => return Ok(()),
        prepared = prepare(&settings, publication) => prepared.map_err(unreachable)?,
    };
    // Not given up in between: what is created is known, and dropped.
    let temporary = match prepared {
        Prepared::Existing(name) => {
            settings.source.publication = name;
            None
        }
        Prepared::Temporary(prepared) => {
            let temporary = prepared.create().await.map_err(unreachable)?;
            temporary.name().clone_into(&mut settings.source.publication);
            Some(temporary)
        }
    };
    let ended = AssertUnwindSafe(print(settings, announce, shutdown)).catch_unwind().await;
    if let Some(temporary) = temporary {
        TemporaryPublication::drop_it(temporary).await;
    }
    ended.unwrap_or_else(|panic| resume_unwind(panic))
}

enum Prepared {
    Existing(String),
    Temporary(Box<temporary_publication::Prepared>),
}

async fn prepare(settings: &Settings, publication: Publication) -> Result<Prepared, Failure> {
    match publication {
        Publication::Existing(name) | Publication::IfThere(name)
            if temporary_publication::exists(settings, &name).await? =>
        {
            Ok(Prepared::Existing(name))
        }
        Publication::Existing(name) => Err(Failure::definite(
            Kind::Source,
            anyhow!("there is no publication \"{name}\""),
            "SELECT pubname FROM pg_publication lists them; without --publication one is made for the time of the command",
        )),
        Publication::IfThere(_) | Publication::Temporary => {
            if !settings.source.filters.is_empty() {
                tracing::warn!(
                    "source.filters leave nothing out here: it is the publication of `pgsluice run` that has them"
                );
            }
            Ok(Prepared::Temporary(Box::new(temporary_publication::prepare(settings).await?)))
        }
    }
}

async fn print(settings: Settings, announce: Announce, shutdown: impl Future<Output = ()>) -> Result<(), Definite> {
    let source = TemporarySlot::new(settings.source.clone());
    let scope = Scope::new(Range { from_time: None, to: Lsn(u64::MAX), to_time: None });
    let all = Replay { scope, delivery: Delivery::First, announce: Some(announce) };
    let broker = Nowhere { max_message_bytes: usize::MAX };
    let pipeline = Pipeline::new(settings, source, broker, Arc::new(MemoryStore::default()), Health::default());
    Box::pin(pipeline.replaying(all).run(shutdown)).await
}

fn unreachable(failure: Failure) -> Definite {
    match failure {
        Failure::Definite(definite) => definite,
        Failure::Transient(error) => {
            Definite::new(Kind::Unreachable, error.context("can't reach PostgreSQL"), "is it up, and is the URL right?")
        }
    }
}

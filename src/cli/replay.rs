//! `pgsluice replay`: send events again that were delivered before.

use std::io::{Write as _, stdout};
use std::pin::pin;

use anyhow::{Context as _, anyhow};

use super::checkpoint::named;
use super::run::Shutdown;
use super::{Configuration, block_on, cannot_start};
use crate::checkpoint::configured::Configured;
use crate::config::Settings;
use crate::encode::time::parse_rfc3339;
use crate::failure::{Definite, Failure, Kind};
use crate::lsn::Lsn;
use crate::postgres::open::StartAt;
use crate::postgres::outbox_table::Rows;
use crate::replay::{From, Overrides, Plan, To};
use crate::route::select::Selection;
use crate::telemetry::health::Health;
use crate::telemetry::logging;
use crate::telemetry::otlp::Exporter;

/// What to replay.
#[derive(Debug, clap::Args)]
pub struct ReplayArguments {
    #[command(flatten)]
    configuration: Configuration,

    /// Begin there: an LSN, a time such as 2026-11-21T10:00:00Z, or the name of a checkpoint; with --from-table, a value
    /// of the outbox's id
    #[arg(long, value_name = "LSN|TIME|NAME", required_unless_present = "from_table")]
    from: Option<String>,

    /// End before that LSN, or with that time; with --from-table, with that value. Unset, everything that is there now
    #[arg(long, value_name = "LSN|TIME")]
    to: Option<String>,

    /// Only tables that match; repeat it for more, as source.tables of the configuration
    #[arg(long, value_name = "PATTERN")]
    table: Vec<String>,

    /// Publish to this exchange instead
    #[arg(long, value_name = "NAME")]
    exchange: Option<String>,

    /// Publish with this routing key instead
    #[arg(long, value_name = "KEY")]
    routing_key: Option<String>,

    /// Publish nothing, and print a line for each event: position, commit time, change, message id, exchange, routing key,
    /// bytes
    #[arg(long)]
    dry_run: bool,

    /// Send the rows that are still in the outbox table, from further back than the WAL goes. Of several, --table names one
    #[arg(long)]
    from_table: bool,

    /// With --from-table: the column that orders the rows, and that --from and --to are values of; the id unless set
    #[arg(long, value_name = "COLUMN", requires = "from_table")]
    order_by: Option<String>,
}

/// Runs until the end of what is to be replayed, SIGTERM, SIGINT or a definite failure.
///
/// # Errors
/// Whatever keeps it from its end; a configuration that can't be used.
pub fn run(arguments: &ReplayArguments) -> Result<(), Definite> {
    let settings = arguments.configuration.load()?;
    logging::start(&settings.log).map_err(cannot_start)?;
    block_on(async {
        // Before anything else, so that no signal meets the default action.
        let shutdown = Shutdown::listen().context("signal handlers").map_err(cannot_start)?.requested();
        let mut shutdown = pin!(shutdown);
        let (exporter, name) = (Exporter::start(settings.otlp.as_ref())?, settings.name.clone());
        let plan = tokio::select! { biased;
            () = &mut shutdown => return Ok(()),
            plan = arguments.plan(settings) => plan?,
        };
        let summary = plan.run(&exporter.tracer(&name), shutdown).await;
        exporter.finish().await;
        // Who has stopped reading a dry run does not want it.
        let _ = writeln!(stdout(), "{}", summary.text);
        summary.result
    })
}

impl ReplayArguments {
    async fn plan(&self, settings: Settings) -> Result<Plan, Definite> {
        let overrides = self.overrides()?;
        if self.from_table {
            let Self { order_by, from, to, .. } = self;
            let rows = Rows { order_by: order_by.clone(), from: from.clone(), to: to.clone(), filter: None };
            return Plan::of_table(settings, &overrides, rows);
        }
        let (to, from) = (self.to()?, self.from(&settings).await?);
        Plan::of_slot(settings, &overrides, from, to).await
    }

    fn overrides(&self) -> Result<Overrides, Definite> {
        let tables = Selection::parse(&self.table).map_err(|error| {
            let hint = error.hint();
            Definite::new(Kind::Usage, anyhow!(error).context("--table can't be used"), hint)
        })?;
        Ok(Overrides {
            tables: Some(tables).filter(|tables| !tables.is_empty()),
            exchange: self.exchange.clone(),
            routing_key: self.routing_key.clone(),
            dry_run: self.dry_run,
        })
    }

    async fn from(&self, settings: &Settings) -> Result<From, Definite> {
        let text = self.from.as_deref().unwrap_or_default();
        if text.contains('/') {
            return Ok(From::At(StartAt::Lsn(lsn("--from", text)?)));
        }
        if is_date(text) {
            return Ok(From::Time(time("--from", text)?));
        }
        match named(&Configured::new(settings, &Health::default()), text).await {
            Ok(checkpoint) => Ok(From::At(StartAt::Checkpoint(checkpoint))),
            Err(Failure::Definite(definite)) => Err(definite),
            Err(Failure::Transient(error)) => Err(Definite::new(Kind::Unreachable, error, "try again")),
        }
    }

    fn to(&self) -> Result<Option<To>, Definite> {
        let to =
            |text: &str| if is_date(text) { time("--to", text).map(To::Time) } else { lsn("--to", text).map(To::Lsn) };
        self.to.as_deref().map(to).transpose()
    }
}

/// `2026-…`: no LSN, and no name that anybody would give to a checkpoint.
fn is_date(text: &str) -> bool {
    text.get(..5).is_some_and(|start| start.ends_with('-') && start[..4].bytes().all(|byte| byte.is_ascii_digit()))
}

fn lsn(flag: &str, text: &str) -> Result<Lsn, Definite> {
    let allowed = "allowed: an LSN such as 16/B374D848, or a time such as 2026-11-21T10:00:00Z";
    text.parse().map_err(|error| Definite::new(Kind::Usage, anyhow!("{flag}: {error}"), allowed))
}

fn time(flag: &str, text: &str) -> Result<i64, Definite> {
    let error = || anyhow!("{flag}: no time, or one without its zone: {text}");
    let allowed = "allowed: a time such as 2026-11-21T10:00:00Z or '2026-11-21 11:00:00.5+01:00'";
    parse_rfc3339(text).ok_or_else(|| Definite::new(Kind::Usage, error(), allowed))
}

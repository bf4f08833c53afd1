//! `pgsluice run`: load the settings, start logging, stream until told to stop. One pipeline runs on this thread; several have
//! `pipelines`.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use super::check;
use super::checkpoint::rewind;
use super::{Configuration, block_on, cannot_start};
use crate::checkpoint::configured::Configured;
use crate::config::{LogFormat, Settings};
use crate::failure::Definite;
use crate::pipeline;
use crate::telemetry::health::Health;
use crate::telemetry::http::served::Served;
use crate::telemetry::http::{self, Findings};
use crate::telemetry::logging;
use crate::telemetry::notify::Notifier;
use crate::telemetry::otlp::Exporter;
use crate::telemetry::report::{Facts, Report};

/// Flags override the environment, which overrides the file.
#[derive(Debug, clap::Args)]
pub struct RunArguments {
    #[command(flatten)]
    configuration: Configuration,

    /// Go on from an earlier position: an LSN that is still retained, or the name of a checkpoint; of several pipelines, --pipeline
    /// names the one, which runs alone
    #[arg(long, value_name = "POSITION")]
    from: Option<String>,

    /// Give up when a server can't be reached at start, instead of trying for ever
    #[arg(long)]
    fail_fast: bool,

    /// Overrides log.format; text on a terminal and JSON elsewhere, unless either is set
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,

    /// Log more: -v is debug, -vv is trace; overrides log.level
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// Runs until SIGTERM, SIGINT or a definite failure.
///
/// # Errors
/// Whatever ends the pipeline; a configuration that can't be used.
pub fn run(arguments: &RunArguments) -> Result<(), Definite> {
    let mut pipelines = arguments.configuration.load_all()?;
    for settings in pipelines.all_mut() {
        settings.fail_fast |= arguments.fail_fast;
        settings.log.format = arguments.log_format.or(settings.log.format);
        settings.log.level = match arguments.verbose {
            0 => std::mem::take(&mut settings.log.level),
            1 => "debug".to_owned(),
            2.. => "trace".to_owned(),
        };
    }
    let is_list = pipelines.is_list();
    match (pipelines.all(), &arguments.from) {
        ([settings], from) => {
            logging::start(&settings.log).map_err(cannot_start)?;
            alone(settings.clone(), is_list, from.as_deref())
        }
        (several, None) => {
            logging::start(&several[0].log).map_err(cannot_start)?;
            super::pipelines::run(several)
        }
        (_, Some(_)) => {
            // The error that says so.
            pipelines.one(None).map(|_| ())
        }
    }
}

/// On this thread.
fn alone(settings: Settings, is_list: bool, from: Option<&str>) -> Result<(), Definite> {
    if is_list {
        logging::of_pipeline(&settings.name);
    }
    block_on(async {
        // Before anything else, so that no signal meets the default action.
        let shutdown = Shutdown::listen().context("signal handlers").map_err(cannot_start)?;
        let exporter = Exporter::start(settings.otlp.as_ref())?;
        let health = Health::traced(exporter.tracer(&settings.name));
        let findings = Findings::default();
        let report = Report::new(health.clone(), Facts::of(&settings));
        let notifier = Notifier::from_environment();
        tokio::spawn(notifier.clone().watch(vec![report.clone()]));
        if let Some(listening) = &settings.http {
            let pipeline = http::served::Pipeline { report, findings: findings.clone(), runtime: None };
            http::serve(listening, Served::new(vec![pipeline], is_list)).await?;
        }
        let shutdown = notifier.stopping_once(shutdown.requested());
        let result = stream(settings, health, findings, from, shutdown).await;
        exporter.finish().await;
        result
    })
}

/// One pipeline, until `shutdown` completes or it has to stop; what it is doing is said by `health`.
pub(super) async fn stream(
    settings: Settings,
    health: Health,
    findings: Findings,
    from: Option<&str>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Definite> {
    // Ends with this.
    let mut checks = JoinSet::new();
    if settings.http.is_some() {
        checks.spawn(check::keep(settings.clone(), health.clone(), findings));
    }
    let store = Configured::new(&settings, &health);
    let mut shutdown = std::pin::pin!(shutdown);
    if let Some(position) = from {
        tokio::select! { biased;
            () = &mut shutdown => return Ok(()),
            moved = rewind(&settings, &store, position) => moved?,
        }
    }
    pipeline::run(settings, store.store(), health, shutdown).await
}

/// SIGTERM and SIGINT.
pub(super) struct Shutdown {
    terminate: Signal,
    interrupt: Signal,
}

impl Shutdown {
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Resolves at the first signal. The second one ends the process at once: what was not settled is
    /// sent again by the next run.
    pub(super) async fn requested(mut self) {
        let first = self.next().await;
        tracing::info!(signal = first, "stopping: waiting for what is in flight; a second signal stops at once");
        tokio::spawn(async move {
            let second = self.next().await;
            std::process::exit(128 + second);
        });
    }

    /// Resolves at the first signal, for who has nothing to wait for then.
    pub(super) async fn requested_once(mut self) {
        self.next().await;
    }

    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
        }
    }
}

//! Several pipelines in one process: each has a thread, a runtime, and a failure of its own.
//!
//! Invariant: what ends one pipeline, be it a panic, ends no other. A signal is passed on to all of them at once, so that none
//! waits for another's stop. This thread runs no pipeline: it waits for signals, answers over HTTP, and ends the process when
//! the last pipeline has ended, with the failure that came first.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};

use super::run::{Shutdown, stream};
use super::{block_on, cannot_start};
use crate::config::Settings;
use crate::failure::Definite;
use crate::telemetry::health::{Ended, Health};
use crate::telemetry::http::served::{Pipeline, Served};
use crate::telemetry::http::{self, Findings};
use crate::telemetry::logging;
use crate::telemetry::otlp::Exporter;
use crate::telemetry::otlp::tracer::Tracer;
use crate::telemetry::report::{Facts, Report};

/// As the main thread's usually is; no page of it is there before it is used.
const STACK_BYTES: usize = 8 << 20;

/// Runs all of them until they have ended.
///
/// # Errors
/// The failure that came first.
///
/// # Panics
/// When that was a panic.
pub(super) fn run(all: &[Settings]) -> Result<(), Definite> {
    let failure = block_on(async {
        // Before anything else, so that no signal meets the default action.
        let shutdown = Shutdown::listen().context("signal handlers").map_err(cannot_start)?;
        let exporter = Exporter::start(all[0].otlp.as_ref())?;
        let member = |settings: &Settings| Member::new(settings, exporter.tracer(&settings.name));
        let members = all.iter().map(member).collect::<Result<Vec<_>, _>>()?;
        if let Some(listening) = &all[0].http {
            http::serve(listening, Served::new(members.iter().map(Member::served).collect(), true)).await?;
        }
        let names: Vec<&str> = all.iter().map(|settings| settings.name.as_str()).collect();
        let healths: Vec<Health> = members.iter().map(|member| member.health.clone()).collect();
        let stop = watch::Sender::new(false);
        let (ending, ended) = mpsc::unbounded_channel();
        for (index, member) in members.into_iter().enumerate() {
            let (ending, stop) = (ending.clone(), stop.subscribe());
            // Nobody listens any more once the process ends.
            member.start(stop, move |outcome| drop(ending.send((index, outcome))))?;
        }
        drop(ending);
        tokio::spawn(async move {
            shutdown.requested().await;
            stop.send_replace(true);
        });
        let failure = first_failure(ended, &names, &healths).await;
        exporter.finish().await;
        Ok(failure)
    })?;
    match failure {
        None => Ok(()),
        Some(Failed::Definite(definite)) => Err(definite),
        Some(Failed::Panicked(payload)) => resume_unwind(payload),
    }
}

/// What ended a pipeline before its time.
enum Failed {
    Definite(Definite),
    Panicked(Box<dyn Any + Send>),
}

impl Failed {
    fn of(outcome: thread::Result<Result<(), Definite>>) -> Option<Self> {
        match outcome {
            Ok(Ok(())) => None,
            Ok(Err(definite)) => Some(Self::Definite(definite)),
            Err(payload) => Some(Self::Panicked(payload)),
        }
    }

    /// Logged at once: the process may go on for long.
    fn log(&self, name: &str) -> Ended {
        const SAYS: &str = "this pipeline can't go on, and needs a start of the process; the others go on";
        match self {
            Self::Definite(definite) => {
                let (code, hint) = (definite.exit_code(), &definite.hint);
                tracing::error!(pipeline = name, exit_code = code, error = %definite, hint, "{SAYS}");
                Ended::Failed(definite.to_string())
            }
            Self::Panicked(_) => {
                tracing::error!(pipeline = name, exit_code = 101, "a bug in pgsluice; please report it: {SAYS}");
                Ended::Failed("a bug in pgsluice; please report it".to_owned())
            }
        }
    }
}

type Endings = mpsc::UnboundedReceiver<(usize, thread::Result<Result<(), Definite>>)>;

/// Waits until all have ended.
async fn first_failure(mut ended: Endings, names: &[&str], healths: &[Health]) -> Option<Failed> {
    let mut first = None;
    while let Some((index, outcome)) = ended.recv().await {
        let (name, health) = (names[index], &healths[index]);
        match Failed::of(outcome) {
            None => {
                tracing::info!(pipeline = name, "stopped");
                health.end(Ended::AsAsked);
            }
            Some(failed) => {
                let how = failed.log(name);
                if let Ended::Failed(why) = &how {
                    health.metrics().trouble("pipeline", why);
                }
                health.end(how);
                let failed = match failed {
                    Failed::Definite(definite) => Failed::Definite(definite.context(format!("pipeline {name}"))),
                    panicked @ Failed::Panicked(_) => panicked,
                };
                first.get_or_insert(failed);
            }
        }
    }
    first
}

/// One pipeline that was not started yet.
struct Member {
    settings: Settings,
    runtime: Runtime,
    health: Health,
    report: Report,
    findings: Findings,
}

impl Member {
    fn new(settings: &Settings, tracer: Tracer) -> Result<Self, Definite> {
        let (name, health) = (settings.name.clone(), Health::traced(tracer));
        let runtime = Builder::new_current_thread()
            .enable_all()
            // Those that store the checkpoint, and the like.
            .on_thread_start(move || logging::of_pipeline(&name))
            .build();
        Ok(Self {
            runtime: runtime.context("runtime").map_err(cannot_start)?,
            report: Report::new(health.clone(), Facts::of(settings)),
            findings: Findings::default(),
            settings: settings.clone(),
            health,
        })
    }

    fn served(&self) -> Pipeline {
        let runtime = Some(self.runtime.handle().clone());
        Pipeline { report: self.report.clone(), findings: self.findings.clone(), runtime }
    }

    /// On a thread of its own; `ended` is told how it ended.
    fn start(
        self,
        mut stop: watch::Receiver<bool>,
        ended: impl FnOnce(thread::Result<Result<(), Definite>>) + Send + 'static,
    ) -> Result<(), Definite> {
        let Self { settings, runtime, health, findings, .. } = self;
        let name = settings.name.clone();
        let work = move || {
            logging::of_pipeline(&settings.name);
            let stopped = async move {
                // Its sender lives as long as the process; or else there is nothing to go on for.
                let _ = stop.wait_for(|stop| *stop).await;
            };
            let streaming = || runtime.block_on(stream(settings, health, findings, None, stopped));
            let outcome = catch_unwind(AssertUnwindSafe(streaming));
            // A name lookup that still hangs must not hold up the end.
            runtime.shutdown_background();
            ended(outcome);
        };
        let started = thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(work);
        started.map(drop).context("thread").map_err(cannot_start)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;
    use crate::failure::Kind;

    /// What comes of two pipelines that end so, in this order.
    fn end(outcomes: [thread::Result<Result<(), Definite>>; 2]) -> (Option<Failed>, [Option<Ended>; 2]) {
        let healths = [Health::default(), Health::default()];
        let (ending, ended) = mpsc::unbounded_channel();
        for outcome in outcomes.into_iter().enumerate() {
            ending.send(outcome).expect("is open");
        }
        drop(ending);
        let waiting = async { Ok(first_failure(ended, &["a", "b"], &healths).await) };
        let first = block_on(waiting).unwrap_or_else(|definite| panic!("{definite}"));
        (first, healths.map(|health| health.ended().cloned()))
    }

    fn panicked() -> thread::Result<Result<(), Definite>> {
        thread::spawn(|| -> Result<(), Definite> { panic!("a test's") }).join()
    }

    fn failed(kind: Kind) -> Definite {
        Definite::new(kind, anyhow!("no slot"), "make one")
    }

    #[test]
    fn the_first_failure_is_the_process_s_and_each_is_told_of_its_own() {
        let (first, how) = end([Ok(Ok(())), Ok(Ok(()))]);
        assert!(first.is_none());
        assert_eq!(how, [Some(Ended::AsAsked), Some(Ended::AsAsked)]);
        let (first, how) = end([Ok(Err(failed(Kind::InDoubt))), Ok(Err(failed(Kind::Source)))]);
        let Some(Failed::Definite(definite)) = first else { panic!("a failure") };
        assert_eq!((definite.exit_code(), definite.to_string().as_str()), (5, "pipeline a: no slot"));
        assert_eq!(how, [(); 2].map(|()| Some(Ended::Failed("no slot".to_owned()))));
        let (first, how) = end([Ok(Ok(())), panicked()]);
        assert!(matches!(first, Some(Failed::Panicked(_))));
        assert!(matches!(how, [Some(Ended::AsAsked), Some(Ended::Failed(_))]), "{how:?}");
    }
}

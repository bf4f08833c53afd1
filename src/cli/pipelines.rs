//! Several pipelines in one process: each has a thread, a runtime, and a failure of its own.
//!
//! Invariant: what ends one pipeline, be it a panic, ends no other. One that has failed is started again, as whoever looks after the
//! process would if it were alone; unless no start can cure it ([`Failed::may_pass`]). A signal is passed on to all of them at once, so that none
//! waits for another's stop. This thread runs no pipeline: it waits for signals, answers over HTTP, and ends the process when
//! the last pipeline has ended, with the failure that came first.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::run::{Shutdown, stream};
use super::{block_on, cannot_start};
use crate::backoff::Backoff;
use crate::config::Settings;
use crate::failure::{Definite, Kind};
use crate::telemetry::health::{Ended, Health};
use crate::telemetry::http::served::{Pipeline, Served};
use crate::telemetry::http::{self, Findings};
use crate::telemetry::logging;
use crate::telemetry::notify::Notifier;
use crate::telemetry::otlp::Exporter;
use crate::telemetry::otlp::tracer::Tracer;
use crate::telemetry::report::{Facts, Report};

/// Before a pipeline that has failed is started again: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// What ran for so long has not failed at its start.
const RAN: Duration = Duration::from_mins(1);
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
        let notifier = Notifier::from_environment();
        tokio::spawn(notifier.clone().watch(members.iter().map(|member| member.report.clone()).collect()));
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
            notifier.stopping_once(shutdown.requested()).await;
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

    /// Whether a start of the same pipeline may succeed: the password is right again, the active instance has ended, the table
    /// that was missing is there. Not where a human has to decide (in doubt, a stop at an event), nor what the configuration
    /// says, nor where somebody has asked to fail at once.
    fn may_pass(&self) -> bool {
        match self {
            Self::Panicked(_) => true,
            Self::Definite(definite) => match definite.kind {
                Kind::Process | Kind::Source | Kind::Broker | Kind::Checkpoint => true,
                Kind::Usage | Kind::InDoubt | Kind::Unreachable | Kind::Event | Kind::Contract => false,
            },
        }
    }

    fn why(&self) -> String {
        match self {
            Self::Definite(definite) => definite.to_string(),
            Self::Panicked(_) => "a bug in pgsluice; please report it".to_owned(),
        }
    }

    /// At once: the process may go on for long.
    fn log(&self, name: &str, says: &str) {
        let why = self.why();
        match self {
            Self::Definite(definite) => {
                let (code, hint) = (definite.exit_code(), &definite.hint);
                tracing::error!(pipeline = name, exit_code = code, error = why, hint, "{says}");
            }
            Self::Panicked(_) => tracing::error!(pipeline = name, exit_code = 101, error = why, "{says}"),
        }
    }

    /// Whoever asks for the health is told.
    fn tell(&self, health: &Health, is_tried_again: bool) {
        health.metrics().trouble("pipeline", &self.why());
        health.end(Ended::Failed { why: self.why(), is_tried_again });
    }
}

type Endings = mpsc::UnboundedReceiver<(usize, Option<Failed>)>;

/// Waits until all have ended.
async fn first_failure(mut ended: Endings, names: &[&str], healths: &[Health]) -> Option<Failed> {
    let mut first = None;
    while let Some((index, failed)) = ended.recv().await {
        let (name, health) = (names[index], &healths[index]);
        match failed {
            None => {
                tracing::info!(pipeline = name, "stopped");
                health.end(Ended::AsAsked);
            }
            Some(failed) => {
                failed.log(name, "this pipeline can't go on, and needs a start of the process; the others go on");
                failed.tell(health, false);
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
        stop: watch::Receiver<bool>,
        ended: impl FnOnce(Option<Failed>) + Send + 'static,
    ) -> Result<(), Definite> {
        let name = self.settings.name.clone();
        let work = move || {
            logging::of_pipeline(&self.settings.name);
            let outcome = self.run(&stop);
            // A name lookup that still hangs must not hold up the end.
            self.runtime.shutdown_background();
            ended(outcome);
        };
        let started = thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(work);
        started.map(drop).context("thread").map_err(cannot_start)
    }

    /// Until it is told to stop (none), or has failed for good.
    fn run(&self, stop: &watch::Receiver<bool>) -> Option<Failed> {
        let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
        let mut told = None;
        loop {
            let begun = Instant::now();
            let failed = self.attempt(stop)?;
            if *stop.borrow() || !failed.may_pass() {
                return Some(failed);
            }
            if begun.elapsed() > RAN {
                (backoff, told) = (Backoff::new(AGAIN.0, AGAIN.1), None);
            }
            // One line for one change of state.
            if told.as_ref() != Some(&failed.why()) {
                failed.log(
                    &self.settings.name,
                    "this pipeline can't go on now, and is started again in a while; the others go on",
                );
                told = Some(failed.why());
            }
            failed.tell(&self.health, true);
            let wait = backoff.next_wait();
            if self.runtime.block_on(async { timeout(wait, asked(stop.clone())).await }).is_ok() {
                return None;
            }
            self.health.begin_again();
        }
    }

    fn attempt(&self, stop: &watch::Receiver<bool>) -> Option<Failed> {
        let (settings, health, findings) = (self.settings.clone(), self.health.clone(), self.findings.clone());
        let streaming = || self.runtime.block_on(stream(settings, health, findings, None, asked(stop.clone())));
        Failed::of(catch_unwind(AssertUnwindSafe(streaming)))
    }
}

/// Completes once a stop was asked for.
async fn asked(mut stop: watch::Receiver<bool>) {
    // Its sender lives as long as the process; or else there is nothing to go on for.
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    /// What comes of two pipelines that end so, in this order.
    fn end(outcomes: [Option<Failed>; 2]) -> (Option<Failed>, [Option<Ended>; 2]) {
        let healths = [Health::default(), Health::default()];
        let (ending, ended) = mpsc::unbounded_channel();
        for outcome in outcomes.into_iter().enumerate() {
            ending.send(outcome).expect("is open");
        }
        drop(ending);
        let waiting = async { Ok(first_failure(ended, &["a", "b"], &healths).await) };
        let first = block_on(waiting).unwrap_or_else(|definite| panic!("{definite}"));
        (first, healths.map(|health| health.ended()))
    }

    fn panicked() -> Option<Failed> {
        Failed::of(thread::spawn(|| -> Result<(), Definite> { panic!("a test's") }).join())
    }

    fn failed(kind: Kind) -> Failed {
        Failed::Definite(Definite::new(kind, anyhow!("no slot"), "make one"))
    }

    #[test]
    fn the_first_failure_is_the_process_s_and_each_is_told_of_its_own() {
        let (first, how) = end([None, None]);
        assert!(first.is_none());
        assert_eq!(how, [Some(Ended::AsAsked), Some(Ended::AsAsked)]);
        let (first, how) = end([Some(failed(Kind::InDoubt)), Some(failed(Kind::Source))]);
        let Some(Failed::Definite(definite)) = first else { panic!("a failure") };
        assert_eq!((definite.exit_code(), definite.to_string().as_str()), (5, "pipeline a: no slot"));
        assert_eq!(how, [(); 2].map(|()| Some(Ended::Failed { why: "no slot".to_owned(), is_tried_again: false })));
        let (first, how) = end([None, panicked()]);
        assert!(matches!(first, Some(Failed::Panicked(_))));
        assert!(matches!(how, [Some(Ended::AsAsked), Some(Ended::Failed { .. })]), "{how:?}");
    }
}

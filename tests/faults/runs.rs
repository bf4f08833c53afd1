//! pgsluice, one process after the other.

use rustix::process::Signal;

use super::watch::Watch;
use crate::support::{Process, SOON};

pub(super) struct Runs {
    process: Process,
    /// What those before have logged.
    past: Vec<String>,
    watch: Watch,
}

impl Runs {
    pub(super) fn new(process: Process, watch: Watch) -> Self {
        watch.process(process.pid());
        Self { process, past: Vec::new(), watch }
    }

    /// Kills it, and starts the next.
    pub(super) fn restart(&mut self) {
        self.process.kill();
        self.past.push(self.process.stderr());
        self.process.restart();
        self.watch.process(self.process.pid());
    }

    /// It never ends by itself.
    pub(super) fn runs(&mut self) {
        assert!(self.process.runs(), "pgsluice has ended: {}", self.process.stderr());
        self.watch.runs();
    }

    pub(super) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Ends it, as asked.
    pub(super) async fn terminate(&mut self) {
        self.runs();
        self.process.terminate();
        let (code, log) = self.process.wait(SOON).await;
        // A signal that comes before it listens to any just ends it.
        assert!(code == Some(0) || (code.is_none() && log.is_empty()), "{code:?}: {log}");
    }

    /// The most memory that a process took, in kB, and how often the slot was looked at.
    pub(super) async fn end(&mut self) -> (u64, u64) {
        self.terminate().await;
        self.watch.stop().await
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in &self.past {
                eprintln!("--- pgsluice wrote:\n{log}---");
            }
        }
    }
}

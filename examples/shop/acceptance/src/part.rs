//! One process of the shop: started, killed, started again with the same command, and what it has logged.
//!
//! Each one dies with this process, whatever ends that: the kernel sends SIGKILL when the thread that has started it ends.
//! So all are started on the main thread, on which the whole program runs.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::{Look, until};

const ENDS_WITHIN: Duration = Duration::from_secs(40);
const LOG_SHOWN_LINES: usize = 25;

/// What to run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Invocation {
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

/// A process, or the place for one.
#[derive(Debug)]
pub(crate) struct Part {
    name: &'static str,
    invocation: Invocation,
    log: PathBuf,
    child: Option<Child>,
}

impl Invocation {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        Self { program: program.as_ref().into(), ..Self::default() }
    }

    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().into());
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().into()));
        self
    }

    fn spawn(&self, output: &File) -> anyhow::Result<Child> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&self.program).args(&self.arguments);
        // What this shell has set for PostgreSQL's programs, for pgsluice or for RabbitMQ is not part of the shop; but where
        // the programs are, is.
        let chosen = ["PGBIN", "PG_MAJOR"];
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PG") && !chosen.contains(&name.as_str()))
        {
            command.env_remove(name);
        }
        command.env("NO_COLOR", "1"); // the logs are files
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
        command.spawn().context("run setpriv, of util-linux")
    }
}

impl Part {
    pub(crate) fn new(name: &'static str, log: PathBuf, invocation: Invocation) -> Self {
        Self { name, invocation, log, child: None }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Starts it; does nothing if it runs.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        if self.child.is_none() {
            let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
            self.child = Some(self.invocation.spawn(&log).with_context(|| self.name)?);
        }
        Ok(())
    }

    /// How it ended, if it was not us who ended it.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    /// It has ended, and may be started again.
    pub(crate) fn forget(&mut self) {
        self.child = None;
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, after which it has to end with 0.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        let child = self.child.as_ref().with_context(|| format!("{} does not run", self.name))?;
        kill_process(Pid::from_child(child), Signal::TERM)?;
        self.success().await
    }

    /// Waits until it has ended by itself, with 0; as long as its log grows.
    pub(crate) async fn success(&mut self) -> anyhow::Result<()> {
        let what = format!("the end of {}", self.name);
        let log = self.log.clone();
        let size = || std::fs::metadata(&log).map_or(0, |file| file.len());
        let status =
            until(&what, ENDS_WITHIN, async || Ok(self.ended().map_or_else(|| Look::NotYet(size()), Look::Done)));
        let status = status.await?;
        self.forget();
        if !status.success() {
            bail!("{}: {status}\n{}", self.name, self.log_end());
        }
        Ok(())
    }

    /// The last lines that it has logged.
    pub(crate) fn log_end(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let shown = &lines[lines.len().saturating_sub(LOG_SHOWN_LINES)..];
        shown.iter().flat_map(|line| ["  | ", line, "\n"]).collect()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a program of `scripts/lib` to its end, and gives what it prints.
pub(crate) fn script(name: &str, arguments: &[&OsStr]) -> anyhow::Result<String> {
    let output = Command::new(scripts().join(name)).args(arguments).output().with_context(|| name.to_owned())?;
    if !output.status.success() {
        bail!("scripts/lib/{name}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Removes a folder when it is dropped, or when this process ends in another way: a shell that waits for the other end of a
/// pipe to close.
#[derive(Debug)]
pub(crate) struct Janitor(Child);

impl Janitor {
    pub(crate) fn of(folder: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new("bash");
        command.args(["-c", r#"trap '' INT TERM HUP; read -r; exec "$0" "$1""#]);
        command.arg(scripts().join("remove")).arg(folder).stdin(Stdio::piped());
        Ok(Self(command.spawn().context("bash")?))
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Where the scripts are that start servers.
pub(crate) fn scripts() -> PathBuf {
    repository().join("scripts/lib")
}

/// The folder of the repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

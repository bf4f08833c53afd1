//! pgsluice as a process.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{eventually, lifetime};

/// Writes the configuration to a folder of its own and runs `pgsluice run --config …`.
pub(crate) fn pgsluice(config: &str) -> Process {
    let path = lifetime::folder("pgsluice").join("pgsluice.toml");
    std::fs::write(&path, config).expect("write the configuration");
    pgsluice_command(&["run", "--config", path.to_str().expect("the path is text")], &[])
}

/// Runs any command of pgsluice, with additions to the environment.
pub(crate) fn pgsluice_command(arguments: &[&str], environment: &[(&str, &str)]) -> Process {
    pgsluice_under(&[], arguments, environment)
}

/// The same, as the last arguments of another command, which must become pgsluice (`exec`).
pub(crate) fn pgsluice_under(wrapper: &[&str], arguments: &[&str], environment: &[(&str, &str)]) -> Process {
    let own = |text: &&str| (*text).to_owned();
    Process::start(Invocation {
        wrapper: wrapper.iter().map(own).collect(),
        arguments: arguments.iter().map(own).collect(),
        environment: environment.iter().map(|(name, value)| (own(name), own(value))).collect(),
    })
}

#[derive(Debug, Clone)]
struct Invocation {
    wrapper: Vec<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

/// A running pgsluice. Killed when dropped, and with the test process.
#[derive(Debug)]
pub(crate) struct Process {
    invocation: Invocation,
    child: Child,
    stdout: Output,
    stderr: Output,
}

impl Process {
    fn start(invocation: Invocation) -> Self {
        let mut program = invocation.wrapper.clone();
        program.push(env!("CARGO_BIN_EXE_pgsluice").to_owned());
        let mut command = lifetime::command(&program[0]);
        command.args(&program[1..]);
        // Whoever runs the tests: no error of pgsluice's shows a back-trace.
        command.env("RUST_BACKTRACE", "1");
        // What the developer's shell has set for libpq or for pgsluice is not part of the test.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        command.args(&invocation.arguments).envs(invocation.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = lifetime::spawn(command).expect("run setpriv, of util-linux");
        Self {
            stdout: Output::of(child.stdout.take().expect("stdout is piped")),
            stderr: Output::of(child.stderr.take().expect("stderr is piped")),
            invocation,
            child,
        }
    }

    /// The same command once more, after this one has ended or was killed.
    pub(crate) fn restart(&mut self) {
        self.kill();
        *self = Self::start(self.invocation.clone());
    }

    /// The configuration file, when there is one.
    pub(crate) fn config_path(&self) -> PathBuf {
        let mut arguments = self.invocation.arguments.iter().skip_while(|argument| *argument != "--config");
        Path::new(arguments.nth(1).expect("started with --config")).to_owned()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Any signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("pgsluice runs");
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().expect("ask for pgsluice").is_none()
    }

    /// Waits until it ends. Gives the exit code, none after a signal, and everything it wrote to stderr.
    pub(crate) async fn wait(&mut self, deadline: Duration) -> (Option<i32>, String) {
        let child = &mut self.child;
        let ended: ExitStatus =
            eventually("pgsluice ends", deadline, async || child.try_wait().expect("ask for pgsluice")).await;
        self.stdout.finish();
        self.stderr.finish();
        (ended.code(), self.stderr())
    }

    /// Waits for a line on stderr that contains `text`, and gives it.
    pub(crate) async fn wait_for_log(&self, text: &str, deadline: Duration) -> String {
        let what = || format!("pgsluice logs {text:?}; it wrote:\n{}", self.stderr());
        let found =
            tokio::time::timeout(deadline, eventually(text, deadline * 2, async || self.stderr.line_with(text)));
        found.await.unwrap_or_else(|_| panic!("not within {deadline:?}: {}", what()))
    }

    /// What it has written to stderr so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// What it has written to stdout so far.
    pub(crate) fn stdout(&self) -> String {
        self.stdout.text()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- pgsluice wrote:\n{}---", self.stderr());
        }
    }
}

/// The lines of a pipe, collected by a thread.
#[derive(Debug)]
struct Output {
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Output {
    fn of(pipe: impl std::io::Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let reader = std::thread::spawn({
            let lines = Arc::clone(&lines);
            move || {
                for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line).into_owned();
                    lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                }
            }
        });
        Self { lines, reader: Some(reader) }
    }

    /// Waits for the end of the pipe, once the process has ended.
    fn finish(&mut self) {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }

    fn line_with(&self, text: &str) -> Option<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().find(|line| line.contains(text)).cloned()
    }

    fn text(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
    }
}

/// What it printed, once it has ended well.
pub(crate) async fn done(mut process: Process) -> String {
    let (code, log) = process.wait(super::SOON).await;
    assert_eq!(code, Some(0), "{log}");
    process.stdout()
}

/// The message, once it has ended with this code.
pub(crate) async fn refused(mut process: Process, code: i32) -> String {
    let (ended, log) = process.wait(super::SOON).await;
    assert_eq!(ended, Some(code), "{log}");
    log[log.find("error: ").expect("a message")..].to_owned()
}

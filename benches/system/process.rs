//! A contestant as a process: started, listened to, looked at in `/proc`, ended.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::child::{self, Job, Word};
use crate::support::{folder, lifetime};

/// How long a contestant may take to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running contestant. Killed when dropped, with its children.
pub(crate) struct Running {
    child: Child,
    words: Receiver<(Instant, Word)>,
    log: PathBuf,
    /// When it was started.
    pub(crate) started: Instant,
}

/// What a process, with its children, has used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) cpu_s: f64,
    pub(crate) peak_rss_kib: u64,
}

impl Running {
    /// This binary, with a job.
    pub(crate) fn job(job: &Job) -> Self {
        let mut command = lifetime::command(std::env::current_exe().expect("the bench's binary"));
        command.arg(child::FLAG).arg(serde_json::to_string(job).expect("a job is JSON"));
        Self::start(command)
    }

    /// A command of [`lifetime::command`]'s making.
    pub(crate) fn start(mut command: Command) -> Self {
        let log = folder("contestant").join("log");
        let file = File::create(&log).expect("create a log");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file);
        // What the shell has set for libpq or pgsluice is not part of the measurement.
        let given: Vec<_> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") && !given.contains(&name) {
                command.env_remove(name);
            }
        }
        let started = Instant::now();
        let mut child = lifetime::spawn(command).expect("run setpriv, of util-linux");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, words) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let at = Instant::now();
                if let Ok(word) = serde_json::from_str(&line) {
                    let _ = sender.send((at, word));
                }
            }
        });
        Self { child, words, log, started }
    }

    pub(crate) fn pid(&self) -> i32 {
        Pid::from_child(&self.child).as_raw_nonzero().get()
    }

    /// What it has said since the last call.
    pub(crate) fn word(&self) -> Option<(Instant, Word)> {
        self.words.try_recv().ok()
    }

    /// The next thing that it says.
    pub(crate) fn next_word(&self, deadline: Duration) -> Result<(Instant, Word), String> {
        self.words.recv_timeout(deadline).map_err(|error| format!("{error}; {}", self.last_words()))
    }

    /// Whether it has ended, but was not waited for: it can still be looked at.
    pub(crate) fn has_ended(&self) -> bool {
        state(self.pid()).is_none_or(|state| state == "Z")
    }

    /// Whether it ended well. Only after [`Self::has_ended`].
    pub(crate) fn is_success(&mut self) -> bool {
        self.child.wait().is_ok_and(|status| status.success())
    }

    pub(crate) fn usage(&self) -> Usage {
        let tree = std::iter::once(self.pid()).chain(descendants(self.pid()));
        tree.fold(Usage::default(), |sum, pid| Usage {
            cpu_s: sum.cpu_s + cpu_s(pid).unwrap_or(0.0),
            peak_rss_kib: sum.peak_rss_kib + peak_rss_kib(pid).unwrap_or(0),
        })
    }

    /// SIGTERM, and waits.
    pub(crate) fn terminate(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let end = Instant::now() + PATIENCE;
        while !self.has_ended() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
    }

    /// SIGKILL, and waits.
    pub(crate) fn kill(&mut self) {
        let children: Vec<_> = descendants(self.pid()).collect();
        let _ = self.child.kill();
        for pid in children {
            let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
        }
        let _ = self.child.wait();
    }

    /// The end of what it wrote to stderr.
    pub(crate) fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The time of all threads: to the nanosecond of those that live, and to the clock tick with those that have ended (proc(5):
/// `/proc/PID/task/TID/schedstat`, and `/proc/PID/stat`, fields 14 and 15).
pub(crate) fn cpu_s(pid: i32) -> Option<f64> {
    let ticks = |field: Option<String>| field?.parse::<u32>().ok().map(f64::from);
    let user = ticks(stat(pid, 14))?;
    let system = ticks(stat(pid, 15))?;
    let per_second = u32::try_from(rustix::param::clock_ticks_per_second()).ok().map(f64::from)?;
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(Result::ok);
    let on_cpu = |task: std::fs::DirEntry| -> Option<u64> {
        std::fs::read_to_string(task.path().join("schedstat")).ok()?.split(' ').next()?.parse().ok()
    };
    let living = Duration::from_nanos(tasks.filter_map(on_cpu).sum()).as_secs_f64();
    Some(living.max((user + system) / per_second))
}

fn peak_rss_kib(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}

fn state(pid: i32) -> Option<String> {
    stat(pid, 3)
}

/// Counted from 1, as in the manual. The second one, the name in parentheses, may hold anything.
fn stat(pid: i32, field: usize) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after) = text.rsplit_once(") ")?;
    after.split(' ').nth(field - 3).map(str::to_owned)
}

/// All processes below this one.
fn descendants(pid: i32) -> impl Iterator<Item = i32> {
    let children = |of: i32| {
        let tasks = std::fs::read_dir(format!("/proc/{of}/task")).into_iter().flatten().filter_map(Result::ok);
        let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        let pids: Vec<i32> =
            lists.flat_map(|list| list.split_whitespace().flat_map(str::parse).collect::<Vec<_>>()).collect();
        pids
    };
    let mut found = children(pid);
    let mut at = 0;
    while at < found.len() {
        let more = children(found[at]);
        found.extend(more);
        at += 1;
    }
    found.into_iter()
}

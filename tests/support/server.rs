//! What the two servers have in common: started through a script of `scripts/lib`, killed, started again.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{eventually_blocking, lifetime};

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(90);

/// A server process that can be started again with the same data, port and settings.
#[derive(Debug)]
pub(super) struct Server {
    script: &'static str,
    settings: Vec<String>,
    /// For the script.
    environment: Vec<(&'static str, String)>,
    dir: PathBuf,
    log: PathBuf,
    port: u16,
    child: Mutex<Option<Child>>,
}

impl Server {
    pub(super) fn new(script: &'static str, settings: &[(&str, &str)]) -> Self {
        let dir = lifetime::folder(script);
        Self {
            script,
            settings: settings.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            environment: vec![("DIE_WITH_PARENT", "1".into())],
            log: dir.with_extension("log"),
            dir,
            port: free_ports(),
            child: Mutex::new(None),
        }
    }

    /// With more for the script's environment.
    pub(super) fn with_environment(mut self, more: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        self.environment.extend(more);
        self
    }

    /// With more settings.
    pub(super) fn with_settings(mut self, more: impl IntoIterator<Item = (String, String)>) -> Self {
        self.settings.extend(more.into_iter().map(|(name, value)| format!("{name}={value}")));
        self
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the server has written since it was last started.
    pub(super) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Starts the server, and returns when it is `ready`. Does nothing if it runs.
    pub(super) fn start(&self, ready: impl Fn() -> bool) {
        let mut child = self.child();
        if child.is_some() {
            return;
        }
        let end = Instant::now() + PATIENCE;
        while let Err(problem) = self.attempt(&mut child, &ready) {
            // The processes of a PostgreSQL that was killed take a moment to notice.
            let is_held = self.log().contains("pre-existing shared memory block");
            assert!(
                is_held && Instant::now() < end,
                "scripts/lib/{}: {problem} (scripts/test installs what is missing). It said:\n{}",
                self.script,
                self.log()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn attempt(&self, child: &mut Option<Child>, ready: &impl Fn() -> bool) -> Result<(), String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lib").join(self.script);
        let log = File::create(&self.log).expect("create the server's log");
        let mut command = lifetime::command(script);
        command.arg(&self.dir).arg(self.port.to_string()).args(&self.settings);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(std::process::Stdio::null());
        command.stdout(log.try_clone().expect("clone a file handle")).stderr(log);
        let started = child.insert(lifetime::spawn(command).expect("run setpriv, of util-linux"));
        let outcome = eventually_blocking(PATIENCE, || match started.try_wait().expect("ask for the server") {
            Some(status) => Some(Err(format!("ended with {status}"))),
            None => ready().then_some(Ok(())),
        });
        let result = outcome.unwrap_or_else(|| Err(format!("not ready after {PATIENCE:?}")));
        if result.is_err() {
            *child = None;
        }
        result
    }

    /// SIGTERM, and waits until the server has ended.
    pub(super) fn stop(&self, signal: Signal) {
        let mut slot = self.child();
        let Some(child) = slot.as_mut() else { return };
        let _ = kill_process(Pid::from_child(child), signal);
        let ended = eventually_blocking(PATIENCE, || child.try_wait().expect("ask for the server"));
        ended.unwrap_or_else(|| panic!("{} did not stop within {PATIENCE:?}: {}", self.script, self.log()));
        *slot = None;
    }

    /// Sends a signal to the server and its children.
    pub(super) fn signal(&self, signal: Signal) {
        let slot = self.child();
        let child = slot.as_ref().unwrap_or_else(|| panic!("{} does not run", self.script));
        let pid = Pid::from_child(child);
        for pid in [pid].into_iter().chain(children(pid)) {
            let _ = kill_process(pid, signal);
        }
    }

    // A test that panicked with the lock held leaves a usable value.
    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The first of four free ports on loopback, below the range of the ephemeral ones. Never gives a port twice.
pub(super) fn free_ports() -> u16 {
    const PORTS: u16 = 4;
    // Test processes that run at the same time start far apart: a server that is stopped for a while still has its port.
    static NEXT: AtomicU16 = AtomicU16::new(0);

    let offset = u16::try_from(std::process::id() % 5000 * 797 % 5000).expect("below 5000") * PORTS;
    for _ in 0..5000 {
        let first = 12_000 + (offset + NEXT.fetch_add(PORTS, Ordering::Relaxed)) % 20_000;
        if (first..first + PORTS).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
    panic!("no free ports on 127.0.0.1");
}

/// The processes whose parent is `parent`.
fn children(parent: Pid) -> Vec<Pid> {
    let is_child = |pid: i32| -> Option<Pid> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // pid (name) state ppid …, where the name may hold anything
        let ppid = stat.rsplit_once(") ")?.1.split(' ').nth(1)?;
        (ppid == parent.as_raw_nonzero().to_string()).then(|| Pid::from_raw(pid))?
    };
    let entries = std::fs::read_dir("/proc").expect("read /proc");
    entries.filter_map(|entry| is_child(entry.ok()?.file_name().to_str()?.parse().ok()?)).collect()
}

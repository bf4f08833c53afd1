//! What ends with the test process, however it ends: its child processes and its temporary files.
//!
//! Every child asks the kernel for SIGKILL on its parent's death. That is sent when the *thread* that
//! spawned it ends, so one thread that never ends spawns them all. The files lie below one folder, which a
//! janitor removes: a shell that waits for the other end of a pipe to close, which only we hold.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{OnceLock, mpsc};

/// Spawns a child that dies with this process. The command must set the signal itself, see [`command`].
pub(crate) fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::SyncSender<io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();

    let spawner = SPAWNER.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                for (mut command, reply) in orders {
                    let _ = reply.send(command.spawn());
                }
            })
            .expect("start the spawner thread");
        sender
    });
    let (reply, child) = mpsc::sync_channel(1);
    spawner.send((command, reply)).expect("the spawner thread lives as long as the process");
    child.recv().expect("the spawner thread answers")
}

/// Runs a command to its end, with the same signal.
pub(crate) fn run(command: &Command) -> Output {
    let mut dying = self::command(command.get_program());
    dying.args(command.get_args()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => dying.env(name, value),
            None => dying.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        dying.current_dir(folder);
    }
    spawn(dying).and_then(Child::wait_with_output).expect("run a command")
}

/// A command that runs `program` so that it dies with its parent.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// A new folder, removed at the end of the run. Users other than ours may look into it.
pub(crate) fn folder(name: &str) -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);

    let folder = root().join(format!("{name}-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir(&folder).expect("create a temporary folder");
    folder
}

fn root() -> &'static Path {
    static ROOT: OnceLock<(PathBuf, Child)> = OnceLock::new();

    let (root, _janitor) = ROOT.get_or_init(|| {
        let root = tempfile::Builder::new()
            .prefix("pgsluice-test-")
            .permissions(Permissions::from_mode(0o755))
            .disable_cleanup(true)
            .tempdir()
            .expect("create a temporary folder")
            .keep();
        let janitor = Command::new("bash")
            .args(["-c", r#"trap '' INT TERM HUP; read -r; exec "$0" "$1""#])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lib/remove"))
            .arg(&root)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start bash");
        (root, janitor)
    });
    root
}

//! The program itself. That it is tested makes cargo build it, for the acceptance test, too.

use std::process::Command;

#[test]
fn the_help_names_what_the_environment_can_say() {
    let output = Command::new(env!("CARGO_BIN_EXE_view")).arg("--help").output().expect("run it");
    let text = String::from_utf8_lossy(&output.stdout);
    for name in ["DATABASE_URL", "BROKER_URL", "LISTEN", "RETRY_DELAY_MS"] {
        assert!(output.status.success() && text.contains(name), "{name}: {text}");
    }
}

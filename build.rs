//! What `pgsluice --version` says of its build. Needs nothing but rustc, and git where there is a checkout.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let rustc = output(&variable("RUSTC"), &["--version"]).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=PGSLUICE_RUSTC={rustc}");
    println!("cargo:rustc-env=PGSLUICE_TARGET={}", variable("TARGET"));
    println!("cargo:rustc-env=PGSLUICE_PROFILE={}", variable("PROFILE"));
    // Where there is no checkout, as in a container's build, somebody may say it.
    println!("cargo:rerun-if-env-changed=PGSLUICE_COMMIT");
    let said = Some(variable("PGSLUICE_COMMIT")).filter(|commit| !commit.is_empty());
    // A debug build is not compiled anew for each commit.
    let here = || commit(&variable("CARGO_MANIFEST_DIR")).filter(|_| variable("PROFILE") == "release");
    let commit = said.or_else(here);
    println!("cargo:rustc-env=PGSLUICE_COMMIT={}", commit.unwrap_or_else(|| "unknown".to_owned()));
}

/// Of the checkout that the package is the root of: a package within somebody else's checkout has none.
fn commit(package: &str) -> Option<String> {
    let root = output("git", &["rev-parse", "--show-toplevel"])?;
    if Path::new(&root).canonicalize().ok()? != Path::new(package).canonicalize().ok()? {
        return None;
    }
    let log = output("git", &["rev-parse", "--git-path", "logs/HEAD"])?;
    println!("cargo:rerun-if-changed={log}");
    let hash = output("git", &["rev-parse", "--short=12", "HEAD"])?;
    let date = output("git", &["show", "--no-patch", "--format=%cs", "HEAD"])?;
    Some(format!("{hash} ({date})"))
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

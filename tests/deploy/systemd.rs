//! The unit: by systemd's own judgement, and by what pgsluice does when it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use regex::Regex;

use super::{STOP_MAX_SECONDS, program, ran, read};
use crate::support::{SOON, Scene, folder, pgsluice_under};

const UNIT: &str = "deploy/systemd/pgsluice.service";

/// All values of a key of the unit, each split at its blanks.
fn values(key: &str) -> Vec<String> {
    let unit = read(UNIT);
    let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

/// With this binary in its place, so that systemd finds what it is to start.
fn unit() -> PathBuf {
    let text = read(UNIT);
    let there = text.replace("/usr/local/bin/pgsluice", env!("CARGO_BIN_EXE_pgsluice"));
    assert_ne!(there, text);
    let path = folder("systemd").join("pgsluice.service");
    std::fs::write(&path, there).expect("write the unit");
    path
}

#[test]
fn systemd_takes_the_unit_and_finds_it_hardened() {
    let path = unit();
    let path = path.to_str().expect("text");
    // Others on this machine may have their faults: only what is said of this one counts.
    let said = ran("systemd-analyze", &["verify", "--man=no", path]);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("pgsluice")).collect();
    assert!(ours.is_empty(), "{ours:?}");
    let security = |threshold: &str| program("systemd-analyze", &["security", "--offline=true", threshold, path]);
    assert!(security("--threshold=20").status.success(), "{:?}", security("--threshold=20"));
    assert!(!security("--threshold=1").status.success(), "it can fail");
}

/// A restart that can't help hides what a human has to look at.
#[test]
fn it_is_not_started_again_after_what_no_restart_cures() {
    assert_eq!(values("RestartPreventExitStatus"), ["2", "5", "8"]);
    assert_eq!(values("Restart"), ["on-failure"]);
    let readme = read("README.md");
    for (code, meaning) in [("2", "configuration is wrong"), ("5", "may be missing"), ("8", "can't be published")] {
        assert!(
            readme.lines().any(|line| line.starts_with(&format!("| {code} |")) && line.contains(meaning)),
            "{code}"
        );
    }
    let seconds: u64 = values("TimeoutStopSec")[0].parse().expect("seconds");
    assert!(seconds > STOP_MAX_SECONDS);
    assert_eq!((values("Type"), values("TimeoutStartSec")), (vec!["notify".to_owned()], vec!["infinity".to_owned()]));
}

/// The system calls in these groups, with those in groups within.
fn calls(groups: &[&str]) -> BTreeSet<String> {
    let said = ran("systemd-analyze", &[&["syscall-filter", "--no-pager"], groups].concat());
    let items = said.lines().filter_map(|line| line.strip_prefix("    ")).map(str::trim);
    let (within, calls): (Vec<&str>, Vec<&str>) =
        items.filter(|item| !item.starts_with('#')).partition(|item| item.starts_with('@'));
    let mut calls: BTreeSet<String> = calls.into_iter().map(str::to_owned).collect();
    if !within.is_empty() {
        calls.extend(self::calls(&within));
    }
    calls
}

/// One system call: its name and the rest of the line.
type Call = (String, String);

/// What pgsluice asks of the kernel from its start to its stop, with events, and a transaction that comes in parts.
async fn traced(scene: &Scene, config: &str) -> Vec<Call> {
    let folder = folder("strace");
    let (trace, path) = (folder.join("trace"), folder.join("pgsluice.toml"));
    std::fs::write(&path, config).expect("write the configuration");
    let trace_to = trace.to_str().expect("text");
    // -D: pgsluice is our child, and strace its.
    let mut process = pgsluice_under(
        &["strace", "-D", "-f", "-qq", "-o", trace_to],
        &["run", "--config", path.to_str().expect("text")],
        &[],
    );
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    scene.database.execute("INSERT INTO orders VALUES (1, 'ann', 1, 'new')").await;
    scene
        .database
        .execute("INSERT INTO ledger (filler) SELECT repeat(md5(g::text), 30) FROM generate_series(1, 2000) g")
        .await;
    scene.database.execute("INSERT INTO outbox (aggregatetype, aggregateid, type) VALUES ('a', '1', 't')").await;
    scene.vhost.consume("all", 2002, SOON).await;
    scene.acknowledged().await;
    process.terminate();
    let (code, log) = process.wait(SOON).await;
    assert_eq!(code, Some(0), "{log}");
    let line = Regex::new(r"(?m)^\d+ +([a-z0-9_]+)\((.*)$").expect("a pattern");
    let text = read(&trace);
    line.captures_iter(&text).map(|call| (call[1].to_owned(), call[2].to_owned())).collect()
}

#[tokio::test]
async fn what_pgsluice_asks_of_the_kernel_is_allowed() {
    let scene = Scene::new().await;
    // By names, which are looked up.
    let config = scene.config("").replace("@127.0.0.1:", "@localhost:");
    // So that a transaction of some megabytes goes into a file.
    let name = scene.database.name();
    scene.database.execute(&format!("ALTER DATABASE \"{name}\" SET logical_decoding_work_mem = '64kB'")).await;
    let parts = folder("streaming");
    let streaming =
        format!("streaming = true\nstreaming_memory_bytes = 65536\nstreaming_folder = \"{}\"\n", parts.display());
    let config = config.replace("[source]\n", &format!("[source]\n{streaming}"));
    let calls_made = traced(&scene, &format!("{config}[http]\nlisten = \"127.0.0.1:0\"\n")).await;
    assert!(calls_made.len() > 300, "{}", calls_made.len());

    let (filters, refused): (Vec<String>, Vec<String>) =
        (vec!["@system-service".to_owned()], vec!["@privileged".to_owned(), "@resources".to_owned()]);
    assert_eq!(
        values("SystemCallFilter"),
        [&filters[..], &["~@privileged".to_owned(), "@resources".to_owned()]].concat(),
        "as below"
    );
    let of = |groups: &[String]| calls(&groups.iter().map(String::as_str).collect::<Vec<_>>());
    let allowed: BTreeSet<String> = of(&filters).difference(&of(&refused)).cloned().collect();
    let others: BTreeSet<&String> =
        calls_made.iter().map(|(name, _)| name).filter(|it| !allowed.contains(*it)).collect();
    assert!(others.is_empty(), "{others:?}");

    // glibc asks which kinds of addresses the machine has, and takes it for both when it hears nothing.
    let mut families: BTreeSet<String> = values("RestrictAddressFamilies").into_iter().collect();
    families.insert("AF_NETLINK".to_owned());
    let mut kinds = BTreeMap::new();
    for (_, rest) in calls_made.iter().filter(|(name, _)| name == "socket") {
        kinds.insert(rest.split(',').next().expect("a family").to_owned(), rest);
    }
    assert!(kinds.contains_key("AF_INET") && kinds.keys().all(|family| families.contains(family)), "{kinds:?}");
    // MemoryDenyWriteExecute
    let is_code = |rest: &str| rest.contains("PROT_WRITE|PROT_EXEC");
    assert!(!calls_made.iter().any(|(_, rest)| is_code(rest)));
    // ProtectSystem=strict: it writes only into its checkpoint's folder, and that of the large transactions.
    let ours = std::env::temp_dir();
    let written: Vec<&String> = calls_made
        .iter()
        .filter(|(name, rest)| name == "openat" && (rest.contains("O_WRONLY") || rest.contains("O_RDWR")))
        .map(|(_, rest)| rest)
        .collect();
    let is_ours =
        |rest: &str| rest.split('"').nth(1).is_some_and(|path| path.starts_with(ours.to_str().expect("text")));
    assert!(written.iter().all(|rest| is_ours(rest)), "{written:?}");
    for folder in [scene.checkpoint(), parts] {
        let folder = folder.to_str().expect("text");
        assert!(written.iter().any(|rest| rest.contains(folder)), "{folder}: {written:?}");
    }
}

//! A configuration that can't be used, through the binary: exit code 2, one clear message with a hint on
//! standard error, no back-trace, no secret, and no server asked.

use std::path::Path;
use std::process::{Command, Output};

use crate::support;

const SECRET: &str = "hunter2hunter2";

/// Runs `pgsluice run --config shop.toml` in a folder of its own, where the file holds `text`.
fn run(text: Option<&str>, variables: &[(&str, &str)]) -> Output {
    let folder = tempfile::tempdir().expect("a temporary folder");
    if let Some(text) = text {
        std::fs::write(folder.path().join("shop.toml"), text).expect("the configuration is written");
    }
    pgsluice(folder.path(), &["run", "--config", "shop.toml"], variables)
}

fn pgsluice(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pgsluice"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("RUST_BACKTRACE", "1")
        .envs(variables.iter().copied())
        .output()
        .expect("the binary runs")
}

/// What standard error says of a configuration that can't be used.
fn refused(text: Option<&str>, variables: &[(&str, &str)]) -> String {
    let output = run(text, variables);
    let error = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(output.stdout.is_empty());
    assert!(!error.contains("backtrace") && !error.contains("panicked"), "{error}");
    assert!(!error.contains(SECRET), "{error}");
    error
}

fn shop(more: &str) -> String {
    format!(
        "name = \"shop\"\n[source]\nurl = \"postgres://app:{SECRET}@127.0.0.1:1/shop\"\ntables = [\"public.*\"]\n\
         [rabbitmq]\nurl = \"amqp://app:{SECRET}@127.0.0.1:1\"\n{more}\n"
    )
}

#[test]
fn a_missing_file() {
    assert_eq!(
        refused(None, &[]),
        "error: cannot read the configuration shop.toml\n  \
           cause: No such file or directory (os error 2)\n\n\
         hint: give the path of the configuration: --config FILE\n"
    );
}

#[test]
fn a_file_that_is_empty_or_none() {
    assert_eq!(
        refused(Some(""), &[]),
        "error: shop.toml: name is missing\n\n\
         hint: a short name for this pipeline, as in name = \"shop\"; it names the slot\n"
    );
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = pgsluice(folder.path(), &["run", "--config", "."], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: cannot read the configuration .\n  \
           cause: Is a directory (os error 21)\n\n\
         hint: give the path of the configuration: --config FILE\n"
    );
    std::fs::write(folder.path().join("latin1.toml"), b"name = \"\xE4\"").expect("the configuration is written");
    let output = pgsluice(folder.path(), &["run", "--config", "latin1.toml"], &[]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.ends_with("hint: the file must be TOML, in UTF-8\n"), "{error}");
}

#[test]
fn text_that_is_not_toml_is_located_and_not_quoted() {
    assert_eq!(
        refused(Some(&format!("name = \"shop\"\n[source]\npassword = {SECRET}\n")), &[]),
        "error: shop.toml:3:12: not valid TOML\n  \
           cause: string values must be quoted, expected literal string\n\n\
         hint: see https://toml.io; text goes in quotes, sections in [brackets]\n"
    );
}

#[test]
fn an_unknown_key() {
    assert_eq!(
        refused(Some(&shop("in_fligth_events = 5")), &[]),
        "error: shop.toml:7: rabbitmq.in_fligth_events is unknown\n\n\
         hint: did you mean rabbitmq.in_flight_events? known in [rabbitmq]: url, password, password_file, declare, \
         exchange_type, lanes, in_flight_events, in_flight_bytes, confirm_timeout_ms, max_message_bytes, unroutable, poison, parking, exchanges, queues, bindings\n"
    );
}

#[test]
fn an_unknown_variable() {
    assert_eq!(
        refused(Some(&shop("")), &[("PGSLUICE__SOURCE__PASWORD", SECRET)]),
        "error: PGSLUICE__SOURCE__PASWORD: source.pasword is unknown\n\n\
         hint: did you mean source.password? known in [source]: url, password, password_file, tables, slot, \
         publication, binary, report_every_ms, watch_every_ms, streaming, streaming_memory_bytes, streaming_folder, origin, \
         filters\n"
    );
}

#[test]
fn a_mistyped_value() {
    assert_eq!(
        refused(Some(&shop("declare = 1")), &[]),
        "error: shop.toml:7: rabbitmq.declare is not true or false, but an integer\n\n\
         hint: allowed: true or false\n"
    );
}

#[test]
fn a_variable_overrides_the_file_and_is_named_when_it_is_wrong() {
    assert_eq!(
        refused(Some(&shop("in_flight_bytes = 2000")), &[("PGSLUICE__RABBITMQ__IN_FLIGHT_BYTES", "0")]),
        "error: PGSLUICE__RABBITMQ__IN_FLIGHT_BYTES: rabbitmq.in_flight_bytes is out of range: 0\n\n\
         hint: allowed: 1024 to 4294967296 bytes\n"
    );
}

#[test]
fn a_missing_section() {
    assert_eq!(
        refused(Some("name = \"shop\"\n[source]\nurl = \"postgres://app@h/shop\"\ntables = [\"a.b\"]"), &[]),
        "error: shop.toml: rabbitmq.url is missing\n\n\
         hint: an AMQP URL, as in url = \"amqps://app@mq1,mq2/shop\"\n"
    );
}

#[test]
fn nothing_selected() {
    assert_eq!(
        refused(
            Some("name = \"shop\"\n[source]\nurl = \"postgres://app@h/shop\"\n[rabbitmq]\nurl = \"amqp://h\""),
            &[]
        ),
        "error: shop.toml: source.tables is missing, and there is no [outbox]: nothing is selected\n\n\
         hint: write source.tables = [\"public.*\"] for the changes of tables, an [outbox] section, or both\n"
    );
}

#[test]
fn a_pattern_without_a_schema() {
    assert_eq!(
        refused(Some(&shop("")), &[("PGSLUICE__SOURCE__TABLES", "public.*,!audit")]),
        "error: PGSLUICE__SOURCE__TABLES: source.tables holds a pattern that can't be used\n  \
           cause: `audit` names no schema\n\n\
         hint: write schema.table, as in public.orders; a part that contains a dot goes in double quotes\n"
    );
}

#[test]
fn a_template_with_an_unknown_variable() {
    assert_eq!(
        refused(Some(&shop("[changes]\nrouting_key = \"{tabel}\"")), &[]),
        "error: shop.toml:8: changes.routing_key can't be used\n  \
           cause: the template `{tabel}` uses {tabel}, which is none of {schema}, {table}, {op}\n\n\
         hint: allowed: {name}, {schema}, {table}, {op}\n"
    );
}

#[test]
fn urls_that_cannot_be_parsed_are_not_quoted() {
    let error = refused(Some(&shop("")), &[("PGSLUICE__SOURCE__URL", &format!("mysql://app:{SECRET}@db/shop"))]);
    assert!(error.starts_with("error: PGSLUICE__SOURCE__URL: source.url can't be used\n  cause: "), "{error}");
    assert!(
        error.ends_with(
            "\n\nhint: a PostgreSQL connection string, as in url = \"postgres://app@db1/shop?sslmode=verify-full\"\n"
        ),
        "{error}"
    );
    let url = format!("postgres://app:{SECRET}@db:99999/shop");
    let error = refused(Some(&shop("")), &[("PGSLUICE__SOURCE__URL", &url)]);
    assert!(error.contains("cause: `port` is `99999`; allowed: a port from 1 to 65535"), "{error}");
    let error = refused(Some(&shop("")), &[("PGSLUICE__RABBITMQ__URL", &format!("http://app:{SECRET}@mq"))]);
    assert!(error.starts_with("error: PGSLUICE__RABBITMQ__URL: rabbitmq.url can't be used\n  cause: "), "{error}");
    assert!(error.ends_with("\n\nhint: an AMQP URL, as in url = \"amqps://app@mq1,mq2/shop\"\n"), "{error}");
}

#[test]
fn a_password_in_the_wrong_type_is_not_shown() {
    let error = refused(Some(&shop("password = 424242424242")), &[]);
    assert!(!error.contains("4242"), "{error}");
    assert_eq!(
        refused(Some(&shop("")), &[("PGSLUICE__SOURCE__PASSWORD__X", SECRET)]),
        "error: PGSLUICE__SOURCE__PASSWORD__X: source.password is not a string, but a section\n\n\
         hint: source.password is a key, not a section\n"
    );
}

#[test]
fn a_wrong_command_line_and_the_help() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let status = |arguments: &[&str]| pgsluice(folder.path(), arguments, &[]).status.code();
    assert_eq!(status(&["run"]), Some(2));
    assert_eq!(status(&["fly"]), Some(2));
    assert_eq!(status(&["run", "--config", "x", "--log-format", "xml"]), Some(2));
    let version = pgsluice(folder.path(), &["-V"], &[]);
    assert_eq!(String::from_utf8_lossy(&version.stdout), format!("pgsluice {}\n", env!("CARGO_PKG_VERSION")));
    let version = pgsluice(folder.path(), &["--version"], &[]);
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let facts: Vec<&str> =
        version.lines().skip(1).filter_map(|line| line.split_once(": ")).map(|(name, _)| name).collect();
    assert_eq!(facts, ["commit", "rustc", "target", "profile"], "{version}");
    assert!(version.contains("rustc: rustc 1."), "{version}");
    let help = pgsluice(folder.path(), &["run", "--help"], &[]);
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&help.stdout).contains("5  changes may be missing"));
}

#[test]
fn the_configuration_in_the_readme_is_valid() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("README.md");
    let toml = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a TOML block");
    let path = support::folder("readme").join("shop.toml");
    std::fs::write(&path, toml).expect("write the configuration");
    let settings = ::pgsluice::config::load(&path).unwrap_or_else(|definite| panic!("{definite}"));
    assert_eq!(settings.name, "shop");
    assert!(settings.source.tables.selects("public", "orders") && !settings.source.tables.selects("public", "audit_1"));
    assert!(settings.outboxes[0].is("public", "outbox"));
}

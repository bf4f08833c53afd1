//! The real pipeline between a source that has all its frames in memory and a broker that takes everything at once: what one
//! event costs pgsluice itself, without servers, sockets or a clock. For the allocation tests and the benches.

#![allow(dead_code, reason = "each of those who include it uses a part of it")]

mod broker;
#[path = "../../src/postgres/pgoutput/fixture.rs"]
pub(crate) mod fixture;
mod source;
pub(crate) mod steady;
pub(crate) mod tables;
mod wal;
pub(crate) mod workload;

use pgsluice::config::{self, Settings};
pub(crate) use pgsluice::postgres::pgoutput::Value;

/// Settings with these keys beside those that every configuration needs.
pub(crate) fn settings(keys: &str) -> Settings {
    let (tops, sections): (Vec<&str>, Vec<&str>) = keys.lines().partition(|line| line.starts_with("source."));
    let file = tempfile::NamedTempFile::with_suffix(".toml").expect("a file");
    let text = format!(
        "name = \"shop\"\nsource.url = \"postgres://app@localhost/shop\"\n{}\n{}\n\
         [checkpoint]\npath = \"unused\"\n[hash]\nkey = \"0123456789abcdef0123\"\n",
        tops.join("\n"),
        sections.join("\n"),
    );
    std::fs::write(file.path(), text).expect("writes");
    config::load(file.path()).unwrap_or_else(|error| panic!("{error}"))
}

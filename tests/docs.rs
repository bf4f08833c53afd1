//! What the documents say is true: their commands work, their configurations are ones, their links lead somewhere, and the
//! tests exist that they name.

mod blocks;
mod elsewhere;
mod links;
mod pages;
mod shell;
mod spans;
pub(crate) mod world;

use std::collections::BTreeSet;
use std::path::Path;

/// Every `module::test` of a page exists.
#[test]
fn every_test_that_the_guarantees_name_exists() {
    let page = std::fs::read_to_string("docs/guarantees.md").expect("the page");
    let is_test = |span: &&str| {
        span.contains("::")
            && span.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == ':')
    };
    let named: BTreeSet<&str> = page.split('`').skip(1).step_by(2).filter(is_test).collect();
    assert!(named.len() > 30, "{named:?}");
    let missing: Vec<&&str> = named.iter().filter(|name| !exists(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

fn exists(name: &str) -> bool {
    let (module, function) = name.rsplit_once("::").expect("a path");
    let file = Path::new("tests").join(module.replace("::", "/")).with_extension("rs");
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let (_, after) = text.split_once(&format!("fn {function}(")).unwrap_or_default();
    let (before, _) = text.split_once(&format!("fn {function}(")).unwrap_or_default();
    !after.is_empty() && before.lines().rev().take(3).any(|line| line.contains("test]") || line.contains("test("))
}

//! `pgsluice schema`: the contract, and what of an older one it breaks.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use serde_json::{Value, json};

use super::{Configuration, block_on, now_or_never, print_line};
use crate::failure::{Definite, Kind};
use crate::schema;
use crate::schema::check::{Finding, compare};

/// What to do with the contract.
#[derive(Debug, clap::Args)]
pub struct SchemaArguments {
    #[command(flatten)]
    configuration: Configuration,

    /// Compare with an older document instead of writing one: a line for each change that a consumer of the older one
    /// can't take, and exit code 9 if there is any
    #[arg(long, value_name = "OLD")]
    check: Option<PathBuf>,

    /// With --check: the findings as JSON
    #[arg(long, requires = "check")]
    json: bool,
}

/// Writes the document, or checks it against an older one.
///
/// # Errors
/// The tables can't be read; there are incompatible changes.
pub fn run(arguments: &SchemaArguments) -> Result<(), Definite> {
    let settings = arguments.configuration.load()?;
    // What can't be read is found before any connection is made.
    let old = arguments.check.as_deref().map(|path| Ok::<_, Definite>((path, read(path)?))).transpose()?;
    let document = async { schema::of(&settings).await.map_err(|failure| now_or_never(failure, "try again")) };
    let document = block_on(document)?;
    match old {
        None => print_line(&format!("{document:#}")),
        Some((path, old)) => {
            let findings = compare(&old, &document).map_err(|error| unusable(path, error.into()))?;
            report(&findings, arguments.json)?;
            verdict(path, &findings)
        }
    }
}

fn read(path: &Path) -> Result<Value, Definite> {
    let text = std::fs::read(path).map_err(|error| unusable(path, error.into()))?;
    serde_json::from_slice(&text).map_err(|error| unusable(path, error.into()))
}

fn unusable(path: &Path, error: anyhow::Error) -> Definite {
    let error = error.context(format!("{} can't be used as the older contract", path.display()));
    Definite::new(Kind::Usage, error, "--check takes a document that pgsluice schema has written")
}

fn report(findings: &[Finding], as_json: bool) -> Result<(), Definite> {
    if as_json {
        return print_line(&format!("{:#}", json!({"compatible": findings.is_empty(), "findings": findings})));
    }
    if findings.is_empty() {
        return print_line("compatible");
    }
    findings.iter().try_for_each(|finding| print_line(&finding.to_string()))
}

fn verdict(path: &Path, findings: &[Finding]) -> Result<(), Definite> {
    let changes = match findings.len() {
        0 => return Ok(()),
        1 => "1 incompatible change".to_owned(),
        count => format!("{count} incompatible changes"),
    };
    let error = anyhow!("{changes} since {}", path.display());
    let hint = "Consumers of the older contract can't take them. If that is meant, tell them, and write the new contract over the \
                old one with `pgsluice schema`.";
    Err(Definite::new(Kind::Contract, error, hint))
}

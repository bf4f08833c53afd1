//! `pgsluice completions` and `pgsluice man`: what a package installs beside the binary.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::CommandFactory as _;

use super::{Arguments, print_line};
use crate::failure::{Definite, Kind};

/// For which shell.
#[derive(Debug, clap::Args)]
pub struct CompletionsArguments {
    /// The shell
    shell: clap_complete::Shell,
}

/// Where to.
#[derive(Debug, clap::Args)]
pub struct ManArguments {
    /// Write a page for each command into this folder; unset, the first page goes to standard output
    #[arg(short, long, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

/// Prints the script.
///
/// # Errors
/// Nobody reads it.
pub fn completions(arguments: &CompletionsArguments) -> Result<(), Definite> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "pgsluice", &mut script);
    print_line(String::from_utf8_lossy(&script).trim_end())
}

/// Prints or writes the pages.
///
/// # Errors
/// The folder can't be written to.
pub fn man(arguments: &ManArguments) -> Result<(), Definite> {
    let failed = |error: std::io::Error| {
        Definite::new(Kind::Process, anyhow!(error).context("can't write the man pages"), "may this user write there?")
    };
    if let Some(folder) = &arguments.output {
        std::fs::create_dir_all(folder).map_err(failed)?;
        return clap_mangen::generate_to(Arguments::command(), folder).map_err(failed);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Arguments::command()).render(&mut page).map_err(failed)?;
    print_line(String::from_utf8_lossy(&page).trim_end())
}

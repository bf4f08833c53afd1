//! pgsluice as a user has it: the release binary, and a configuration with the defaults.

use std::path::PathBuf;
use std::process::Command;

use crate::stage::{EXCHANGE, PUBLICATION, Stage};
use crate::support::{folder, lifetime};
use crate::work::Workload;

/// The broker of a pipeline that has none.
pub(crate) const NOWHERE: &str = "amqp://guest:guest@127.0.0.1:1/none";

/// Writes a configuration for this slot, with no checkpoint yet, and gives its path.
pub(crate) fn configure(stage: &Stage<'_>, slot: &str, amqp_url: &str) -> PathBuf {
    let folder = folder("pgsluice");
    let url = stage.database.url();
    let what = match stage.workload {
        Workload::Outbox => format!("[outbox]\ntable = \"public.outbox\"\nexchange = \"{EXCHANGE}\"\n"),
        _ => format!("[changes]\nexchange = \"{EXCHANGE}\"\n"),
    };
    let tables = if stage.workload == Workload::Outbox { "" } else { "tables = [\"public.*\"]\n" };
    let text = format!(
        "name = \"bench\"\n\
         [source]\nurl = \"{url}\"\n{tables}slot = \"{slot}\"\npublication = \"{PUBLICATION}\"\n\
         {what}\
         [rabbitmq]\nurl = \"{amqp_url}\"\n\
         [checkpoint]\npath = \"{}\"\n",
        folder.join("checkpoint").display()
    );
    let path = folder.join("pgsluice.toml");
    std::fs::write(&path, text).expect("write a configuration");
    path
}

/// `pgsluice run`.
pub(crate) fn command(config: &std::path::Path) -> Command {
    let mut command = lifetime::command(env!("CARGO_BIN_EXE_pgsluice"));
    command.args(["run", "--config"]).arg(config);
    command
}

//! `pgsluice tail`: see the events of a database as they are committed.

use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal as _, Write as _, stdout};

use anyhow::{Context as _, anyhow};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::builder::PossibleValuesParser;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::database::{Database, Given};
use super::run::Shutdown;
use super::{block_on, cannot_start, paint};
use crate::config::{LogFormat, OF_CHANGES};
use crate::encode::message::{Event, Header};
use crate::failure::{Definite, Kind};
use crate::pipeline::Announce;
use crate::replay::Overrides;
use crate::route::select::Selection;
use crate::tail::{self, Publication};
use crate::telemetry::logging;

/// What to show.
#[derive(Debug, clap::Args)]
pub struct TailArguments {
    #[command(flatten)]
    database: Database,

    /// Only tables that match, as 'public.*' or '!public.audit_*'; repeat it for more. With --config, of those that it
    /// selects
    #[arg(short, long, value_name = "PATTERN")]
    table: Vec<String>,

    /// How the events of tables look; plain, or as the configuration has it, unless set
    #[arg(short, long, value_name = "FORMAT", value_parser = PossibleValuesParser::new(OF_CHANGES.map(|(name, _)| name)))]
    format: Option<String>,

    /// Print an object for each event: exchange, routing key, message id, type and headers, and its body
    #[arg(short, long)]
    properties: bool,

    /// Read from this publication, which exists; unset, that of the configuration if it exists, or else one that is made for
    /// the time of the command
    #[arg(long, value_name = "NAME")]
    publication: Option<String>,

    /// Say more: -v is debug, -vv is trace
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// Runs until SIGTERM, SIGINT, the end of who reads the output, or a definite failure.
///
/// # Errors
/// Whatever keeps it from showing what is committed.
pub fn run(arguments: &TailArguments) -> Result<(), Definite> {
    let tables = Selection::parse(&arguments.table).map_err(|error| {
        let hint = error.hint();
        Definite::new(Kind::Usage, anyhow!(error).context("--table can't be used"), hint)
    })?;
    let all = ["*.*".to_owned()];
    let patterns = if arguments.table.is_empty() { &all[..] } else { &arguments.table };
    let (settings, given) = arguments.database.load(patterns)?;
    let of_file = (given == Given::File).then(|| settings.source.publication.clone());
    let publication = match (&arguments.publication, of_file) {
        (Some(name), _) => Publication::Existing(name.clone()),
        (None, Some(name)) => Publication::IfThere(name),
        (None, None) => Publication::Temporary,
    };
    let tables = Some(tables).filter(|tables| given == Given::File && !tables.is_empty());
    let mut settings = Overrides { tables, ..Overrides::default() }.apply(settings)?;
    if let Some((_, format)) = OF_CHANGES.iter().find(|(name, _)| Some(*name) == arguments.format.as_deref()) {
        settings.changes.format = *format;
    }
    settings.log.format = settings.log.format.or(Some(LogFormat::Text));
    match arguments.verbose {
        0 => "warn,lapin=off,pgsluice::tail=info",
        1 => "debug",
        2.. => "trace",
    }
    .clone_into(&mut settings.log.level);
    logging::start(&settings.log).map_err(cannot_start)?;

    let announce = arguments.announce();
    let ended = block_on(async {
        // Before anything else, so that no signal meets the default action.
        let shutdown = Shutdown::listen().context("signal handlers").map_err(cannot_start)?.requested();
        tail::run(settings, publication, announce, shutdown).await
    });
    match ended {
        // `pgsluice tail | head` has seen enough.
        Err(definite) if is_unread(&definite) => Ok(()),
        ended => ended,
    }
}

fn is_unread(definite: &Definite) -> bool {
    let mut causes = definite.error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    definite.kind == Kind::Process && causes.any(|error| error.kind() == ErrorKind::BrokenPipe)
}

impl TailArguments {
    fn announce(&self) -> Announce {
        let colours = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        match (colours, self.properties) {
            (false, false) => |event| print(&body(event)),
            (true, false) => |event| print(&paint::json(&body(event))),
            (false, true) => |event| print(&whole(event)?),
            (true, true) => |event| print(&paint::json(&whole(event)?)),
        }
    }
}

fn print(line: &str) -> std::io::Result<()> {
    let mut stdout = stdout().lock();
    stdout.write_all(line.as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// The body as JSON on one line, whatever it is.
fn body(event: &Event) -> Cow<'_, str> {
    if event.body.is_empty() {
        return Cow::Borrowed("null");
    }
    let Ok(text) = std::str::from_utf8(&event.body) else {
        return Cow::Owned(json!({"base64": BASE64_STANDARD.encode(&event.body)}).to_string());
    };
    if serde_json::from_str::<&RawValue>(text).is_err() {
        return Cow::Owned(Value::from(text).to_string());
    }
    // In JSON they are never part of a string.
    if text.contains(['\n', '\r']) { Cow::Owned(text.replace(['\n', '\r'], " ")) } else { Cow::Borrowed(text) }
}

/// An event with what the broker would be told.
#[derive(Serialize)]
struct Whole<'a> {
    exchange: &'a str,
    routing_key: &'a str,
    message_id: &'a str,
    #[serde(rename = "type")]
    event_type: &'a str,
    content_type: &'a str,
    headers: Map<String, Value>,
    /// As it is, every digit of it.
    body: Box<RawValue>,
}

fn whole(event: &Event) -> std::io::Result<String> {
    let header = |(name, value): (&str, Header<'_>)| {
        let value = match value {
            Header::Text(text) => Value::from(text),
            Header::Int(number) => Value::from(number),
            Header::Bool(value) => Value::from(value),
        };
        (name.to_owned(), value)
    };
    let whole = Whole {
        exchange: &event.exchange,
        routing_key: &event.routing_key,
        message_id: &event.message_id,
        event_type: &event.event_type,
        content_type: &event.content_type,
        headers: event.headers.all().iter().map(header).collect(),
        body: RawValue::from_string(body(event).into_owned())?,
    };
    Ok(serde_json::to_string(&whole)?)
}

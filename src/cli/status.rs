//! `pgsluice status`: how each pipeline is, from the pgsluice that runs, or from the database when none does.

mod text;

use std::io::{IsTerminal as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde::Serialize;
use serde_json::Value;

use super::run::Shutdown;
use super::{block_on, cannot_start, now_or_never};
use crate::checkpoint::configured::Configured;
use crate::config::{self, HttpSettings, Pipelines, Settings, Token};
use crate::failure::{Definite, Kind};
use crate::postgres::conninfo::Conninfo;
use crate::postgres::slots::{self, Slot};
use crate::postgres::sql;
use crate::telemetry::health::Health;
use crate::telemetry::http::client::{self, Endpoint, Trust};
use crate::telemetry::status::Status;

/// Between two looks.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// Whom to ask.
#[derive(Debug, clap::Args)]
pub struct StatusArguments {
    /// The configuration: asks the pgsluice that listens at its http.listen, and the database if none answers
    #[arg(short, long, value_name = "FILE", env = "PGSLUICE_CONFIG", required_unless_present_any = ["url", "database"])]
    config: Option<PathBuf>,

    /// Only this pipeline, where there are several
    #[arg(long, value_name = "NAME", conflicts_with = "database")]
    pipeline: Option<String>,

    /// Where a pgsluice listens, as in <http://127.0.0.1:9187>
    #[arg(long, value_name = "URL", conflicts_with = "database")]
    url: Option<String>,

    /// With --url: a file that holds the token alone
    #[arg(long, value_name = "FILE", requires = "url")]
    token_file: Option<PathBuf>,

    /// With --url https://…: a PEM file with the authority that signed its certificate, instead of those of the system
    #[arg(long, value_name = "FILE", requires = "url")]
    cacert: Option<PathBuf>,

    /// Ask this database about its slots, whatever runs
    #[arg(long, value_name = "URL")]
    database: Option<String>,

    /// With --database: only this slot
    #[arg(long, value_name = "NAME", requires = "database")]
    slot: Option<String>,

    /// Again every two seconds, until it is stopped
    #[arg(short, long)]
    watch: bool,

    /// Print a JSON object (with --watch one a line): what GET /status answers, or the slots
    #[arg(long)]
    json: bool,
}

/// What was found out.
enum Found {
    /// As the pgsluice that runs has said it; of several pipelines each.
    Running { document: Value, all: Vec<Status> },
    /// Nobody was asked, or nobody has answered.
    Database(Seen),
    /// The same of several pipelines, and what first kept one from being looked at.
    Databases { all: Vec<Seen>, failed: Option<Definite> },
}

impl Found {
    /// All of it was found out.
    fn whole(self) -> Result<(), Definite> {
        match self {
            Self::Running { .. } | Self::Database(_) | Self::Databases { failed: None, .. } => Ok(()),
            Self::Databases { failed: Some(definite), .. } => Err(definite),
        }
    }
}

/// What the database knows.
#[derive(Debug, Default, Serialize)]
struct Seen {
    /// The pipeline, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pipeline: Option<String>,
    /// Why nothing else is known, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Why nobody else was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_running: Option<String>,
    slots: Vec<Slot>,
    /// What is stored; none: nothing, or nobody said where.
    checkpoint: Option<Stored>,
}

#[derive(Debug, Serialize)]
struct Stored {
    lsn: String,
    position: Option<String>,
    timeline: u32,
    slot: String,
}

/// Prints it.
///
/// # Errors
/// Nobody answers, or the configuration can't be used.
pub fn run(arguments: &StatusArguments) -> Result<(), Definite> {
    let asked = Asked::of(arguments)?;
    block_on(async {
        if !arguments.watch {
            let found = asked.find().await?;
            print(&found, arguments.json);
            return found.whole();
        }
        let shutdown = Shutdown::listen().context("signal handlers").map_err(cannot_start)?;
        tokio::select! {
            () = shutdown.requested_once() => Ok(()),
            () = watch(&asked, arguments.json) => Ok(()),
        }
    })
}

async fn watch(asked: &Asked, json: bool) {
    let clears = std::io::stdout().is_terminal() && !json;
    loop {
        let found = asked.find().await;
        if clears {
            print!("\x1b[H\x1b[2J");
        }
        match found {
            Ok(found) => print(&found, json),
            Err(definite) => super::report::print(&definite),
        }
        let _ = std::io::stdout().flush();
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

fn print(found: &Found, json: bool) {
    let text = match found {
        Found::Running { document, .. } if json => format!("{document}\n"),
        Found::Running { all, .. } => all.iter().map(text::running).collect::<Vec<_>>().join("\n"),
        Found::Database(seen) if json => format!("{}\n", serde_json::to_string(seen).expect("it always serializes")),
        Found::Database(seen) => text::database(seen),
        Found::Databases { all, .. } if json => format!("{}\n", serde_json::json!({ "pipelines": all })),
        Found::Databases { all, .. } => all.iter().map(text::database).collect::<Vec<_>>().join("\n"),
    };
    print!("{text}");
}

/// Whom.
enum Asked {
    Instance { endpoint: Endpoint, pipeline: Option<String> },
    Database { conninfo: Box<Conninfo>, slot: Option<String> },
    Configured { pipelines: Pipelines, pipeline: Option<String> },
}

impl Asked {
    fn of(arguments: &StatusArguments) -> Result<Self, Definite> {
        let pipeline = arguments.pipeline.clone();
        if let Some(url) = &arguments.url {
            let token = arguments.token_file.as_ref().map(token).transpose()?;
            let trust = arguments.cacert.clone().map_or(Trust::System, Trust::Authority);
            let endpoint = Endpoint { url: url.trim_end_matches('/').to_owned(), token, trust };
            return Ok(Self::Instance { endpoint, pipeline });
        }
        if let Some(url) = &arguments.database {
            let conninfo = Conninfo::parse(url).map_err(|error| {
                Definite::new(
                    Kind::Usage,
                    anyhow!(error).context("--database can't be used"),
                    "a PostgreSQL connection string, as in postgres://app@db1/shop",
                )
            })?;
            return Ok(Self::Database { conninfo: Box::new(conninfo), slot: arguments.slot.clone() });
        }
        let file = arguments.config.as_ref().expect("clap asks for one of the three");
        let pipelines = config::load_all(file)?.only(pipeline.as_deref())?;
        Ok(Self::Configured { pipelines, pipeline })
    }

    async fn find(&self) -> Result<Found, Definite> {
        match self {
            Self::Instance { endpoint, pipeline } => instance(endpoint, pipeline.as_deref()).await,
            Self::Database { conninfo, slot } => {
                database(conninfo, slot.as_deref(), None, None).await.map(Found::Database)
            }
            Self::Configured { pipelines, pipeline } => {
                let why = match pipelines.all()[0].http.as_ref().map(endpoint) {
                    None => "http.listen is not set, so that nobody can be asked".to_owned(),
                    Some(endpoint) => match instance(&endpoint, pipeline.as_deref()).await {
                        Ok(found) => return Ok(found),
                        Err(definite) if definite.kind != Kind::Unreachable => return Err(definite),
                        Err(definite) => definite.to_string(),
                    },
                };
                configured(pipelines, why).await
            }
        }
    }
}

/// What the databases know, when nobody answers, and `why` nobody does.
async fn configured(pipelines: &Pipelines, why: String) -> Result<Found, Definite> {
    let look = async |settings: &Settings| {
        let source = &settings.source;
        database(&source.conninfo, Some(&source.slot), Some(settings), Some(why.clone())).await
    };
    if let [one] = pipelines.all() {
        return look(one).await.map(Found::Database);
    }
    let (mut all, mut failed) = (Vec::new(), None);
    for settings in pipelines.all() {
        let seen = look(settings).await.unwrap_or_else(|definite| {
            let error = Some(definite.to_string());
            failed.get_or_insert(definite.context(format!("pipeline {}", settings.name)));
            Seen { error, ..Seen::default() }
        });
        all.push(Seen { pipeline: Some(settings.name.clone()), ..seen });
    }
    Ok(Found::Databases { all, failed })
}

fn token(file: &PathBuf) -> Result<Token, Definite> {
    let text = std::fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()));
    text.map(|text| Token::new(text.trim_end().to_owned()))
        .map_err(|error| Definite::new(Kind::Usage, error, "--token-file names a file that holds the token alone"))
}

/// Where the configured one listens, from here.
fn endpoint(http: &HttpSettings) -> Endpoint {
    let address = match http.listen {
        SocketAddr::V4(listen) if listen.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, listen.port()).into(),
        SocketAddr::V6(listen) if listen.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, listen.port()).into(),
        listen => listen,
    };
    let (scheme, trust) = match &http.tls {
        None => ("http", Trust::System),
        Some(files) => ("https", Trust::Itself(files.certificate.clone())),
    };
    Endpoint { url: format!("{scheme}://{address}"), token: http.token.clone(), trust }
}

async fn instance(endpoint: &Endpoint, pipeline: Option<&str>) -> Result<Found, Definite> {
    let unreachable = |error| {
        let hint = "see that pgsluice runs and http.listen is this address; `--database URL` asks the database instead";
        Definite::new(Kind::Unreachable, error, hint)
    };
    let path = pipeline.map_or_else(|| "/status".to_owned(), |name| format!("/status?pipeline={name}"));
    let (code, body) = client::get(endpoint, &path).await.map_err(unreachable)?;
    if code != hyper::StatusCode::OK {
        let answer: Option<Value> = serde_json::from_slice(&body).ok();
        let why =
            answer.as_ref().and_then(|answer| answer["error"].as_str()).unwrap_or("no pgsluice that has a status");
        let error = anyhow!("{} answers {}: {why}", endpoint.url, code.as_u16());
        let hint = match code {
            hyper::StatusCode::UNAUTHORIZED => "give the token of its configuration by --token-file",
            hyper::StatusCode::NOT_FOUND if pipeline.is_some() => "without --pipeline all are shown",
            _ => "another server may listen there",
        };
        return Err(Definite::new(Kind::Usage, error, hint));
    }
    let read = || {
        let document: Value = serde_json::from_slice(&body)?;
        let all = match document.get("pipelines") {
            Some(several) => serde_json::from_value(several.clone())?,
            None => vec![serde_json::from_value(document.clone())?],
        };
        Ok::<_, serde_json::Error>(Found::Running { document, all })
    };
    read().map_err(|error| {
        let error = anyhow!(error).context(format!("{} answers what is no status", endpoint.url));
        Definite::new(Kind::Usage, error, "another version of pgsluice, or another server, listens there")
    })
}

async fn database(
    conninfo: &Conninfo,
    slot: Option<&str>,
    settings: Option<&Settings>,
    not_running: Option<String>,
) -> Result<Seen, Definite> {
    let look = async {
        let client = sql::connect(conninfo).await?;
        let is_meant =
            |found: &Slot| found.plugin.as_deref() == Some("pgoutput") && slot.is_none_or(|name| name == found.name);
        let slots = slots::list(&client).await?.into_iter().filter(is_meant).collect();
        let checkpoint = match settings {
            None => None,
            Some(settings) => Configured::new(settings, &Health::default()).current().await?,
        };
        let checkpoint = checkpoint.map(|checkpoint| Stored {
            lsn: checkpoint.flushed.to_string(),
            position: checkpoint.position.map(|position| position.to_string()),
            timeline: checkpoint.timeline,
            slot: checkpoint.slot,
        });
        Ok(Seen { not_running, slots, checkpoint, ..Seen::default() })
    };
    look.await.map_err(|failure| now_or_never(failure, "see that the database is up, and can be reached from here"))
}

//! `pgsluice check`: what a start would find and do, without doing it.

use std::time::Duration;

use anyhow::anyhow;
use serde_json::{Value, json};

use super::{Configuration, block_on};
use crate::checkpoint::configured::Configured;
use crate::config::Settings;
use crate::config::topology::{Bound, Topology};
use crate::failure::{Definite, Kind};
use crate::finding::Finding;
use crate::postgres::examine::{Examined, examine};
use crate::rabbit::steps::Step;
use crate::rabbit::survey::{Found, Survey, survey};
use crate::route::{exchanges_of, topology};
use crate::telemetry::health::Health;
use crate::telemetry::http::Findings;

/// What to check.
#[derive(Debug, clap::Args)]
pub struct CheckArguments {
    #[command(flatten)]
    configuration: Configuration,

    /// Print a JSON object a line: level (ok, warning, failure), part, message, hint, the exit code of a failure, and
    /// the pipeline, where there are several
    #[arg(long)]
    json: bool,
}

/// Prints a line for each finding.
///
/// # Errors
/// A configuration that can't be used; or else the number of failures, of the kind of the first.
pub fn run(arguments: &CheckArguments) -> Result<(), Definite> {
    let pipelines = arguments.configuration.load_all()?;
    let print = |name: Option<&str>, findings: Vec<Finding>, part: &str| -> Vec<Kind> {
        for finding in &findings {
            println!(
                "{}",
                if arguments.json { named(name, json(part, finding)).to_string() } else { text(name, part, finding) }
            );
        }
        findings.iter().filter_map(kind).collect()
    };
    let failures = block_on(async {
        let mut failures = Vec::new();
        for settings in pipelines.all() {
            let name = pipelines.is_list().then_some(settings.name.as_str());
            let store = Configured::new(settings, &Health::default());
            let Examined { findings, tables } = examine(settings, &store).await;
            failures.extend(print(name, findings, "postgresql"));
            failures.extend(print(name, broker(settings, &tables).await, "rabbitmq"));
        }
        Ok(failures)
    })?;
    match failures.first() {
        None => Ok(()),
        Some(kind) => {
            let error = match failures.len() {
                1 => anyhow!("1 check failed"),
                several => anyhow!("{several} checks failed"),
            };
            Err(Definite::new(*kind, error, ""))
        }
    }
}

/// Between two checks of a pgsluice that runs.
const EVERY: Duration = Duration::from_hours(1);

/// Checks what runs, for its page: once changes flow, and from time to time after that.
pub(super) async fn keep(settings: Settings, health: Health, found: Findings) {
    let store = Configured::new(&settings, &Health::default());
    loop {
        health.until_ready().await;
        let Examined { findings, tables } = examine(&settings, &store).await;
        let postgresql = findings.iter().map(|finding| json("postgresql", finding));
        let broker = broker(&settings, &tables).await;
        let rabbitmq = broker.iter().map(|finding| json("rabbitmq", finding));
        found.set(postgresql.chain(rabbitmq).collect());
        tokio::time::sleep(EVERY).await;
    }
}

fn kind(finding: &Finding) -> Option<Kind> {
    match finding {
        Finding::Failure(definite) => Some(definite.kind),
        Finding::Ok(_) | Finding::Warning { .. } => None,
    }
}

/// With the name of the pipeline, where there are several.
fn named(name: Option<&str>, mut finding: Value) -> Value {
    if let Some(name) = name {
        finding["pipeline"] = name.into();
    }
    finding
}

fn text(name: Option<&str>, part: &str, finding: &Finding) -> String {
    let (level, what, hint) = match finding {
        Finding::Ok(what) => ("ok", what.clone(), ""),
        Finding::Warning { what, hint } => ("warning", what.clone(), hint.as_str()),
        Finding::Failure(definite) => ("failure", definite.to_string(), definite.hint.as_str()),
    };
    let name = name.map(|name| format!("{name}: ")).unwrap_or_default();
    let line = format!("{level:<8} {name}{part}: {}", what.trim_end().replace('\n', " "));
    if hint.is_empty() { line } else { format!("{line}\n         hint: {}", hint.replace('\n', " ")) }
}

fn json(part: &str, finding: &Finding) -> Value {
    match finding {
        Finding::Ok(what) => json!({"level": "ok", "part": part, "message": what}),
        Finding::Warning { what, hint } => json!({"level": "warning", "part": part, "message": what, "hint": hint}),
        Finding::Failure(definite) => json!({
            "level": "failure", "part": part, "message": definite.to_string(), "hint": definite.hint,
            "code": definite.exit_code(),
        }),
    }
}

async fn broker(settings: &Settings, tables: &[(String, String)]) -> Vec<Finding> {
    let topology = topology(settings);
    // None is unknown: the configuration was resolved.
    let others = tables.iter().flat_map(|(schema, table)| exchanges_of(settings, schema, table).unwrap_or_default());
    let others = others.filter(|name| topology.exchange(name).is_none()).collect();
    let mut findings = match survey(&settings.rabbitmq, &settings.name, &topology, &others).await {
        Ok(Survey { peer, version, steps, missing }) => {
            let vhost = &settings.rabbitmq.uri.vhost;
            let reached = format!("RabbitMQ {version} at {peer} lets us into virtual host '{vhost}'");
            let found = steps.into_iter().map(|(step, found)| found_of(step, found));
            let missing = missing.into_iter().map(|exchange| {
                let what = format!("exchange '{exchange}' is not there, and changes of selected tables go to it");
                Finding::warning(what, "describe it in [[rabbitmq.exchanges]]: its name follows from a template, so that events would wait for it")
            });
            std::iter::once(Finding::Ok(reached)).chain(found).chain(missing).collect()
        }
        Err(failure) => vec![failure.into()],
    };
    findings.extend(risks(&topology));
    findings
}

fn found_of(step: Step<'_>, found: Found) -> Finding {
    let has = properties(step);
    match found {
        Found::There => Finding::Ok(match step {
            Step::Expect { .. } => format!("{step} is there"),
            Step::Exchange(_) | Step::Queue(_) | Step::Bind(_) => {
                format!("{step} is there; whether it is {has} shows only when it is declared")
            }
        }),
        Found::Absent => Finding::Ok(format!("{step} is not there: it will be declared, {has}")),
        Found::Unknown => Finding::Ok(format!("{step} will be declared, {has}, unless it is there")),
        Found::Refused(definite) => Finding::Failure(definite),
    }
}

/// With which it is declared.
fn properties(step: Step<'_>) -> String {
    let (kind, arguments) = match step {
        Step::Expect { .. } => return String::new(),
        Step::Exchange(exchange) => {
            let flags = [
                (!exchange.durable, "not durable"),
                (exchange.auto_delete, "auto-delete"),
                (exchange.internal, "internal"),
            ];
            let flags = flags.iter().filter(|(is, _)| *is).map(|(_, flag)| *flag);
            (std::iter::once(exchange.kind.as_str()).chain(flags).collect::<Vec<_>>().join(", "), &exchange.arguments)
        }
        Step::Queue(queue) => ("durable".to_owned(), &queue.arguments),
        Step::Bind(binding) => (format!("routing key '{}'", binding.routing_key), &binding.arguments),
    };
    let arguments: Vec<String> = arguments.iter().map(|(name, value)| format!("{name} = {}", json!(value))).collect();
    if arguments.is_empty() { kind } else { format!("{kind}, {}", arguments.join(", ")) }
}

/// What is declared as configured, and loses what was confirmed.
fn risks(topology: &Topology) -> Vec<Finding> {
    let exchanges = topology.exchanges.iter().flat_map(|exchange| {
        exchange
            .risks()
            .into_iter()
            .map(|(what, hint)| Finding::warning(format!("exchange '{}' {what}", exchange.name), hint))
    });
    let queues = topology.queues.iter().flat_map(|queue| {
        queue.risks().into_iter().map(|(what, hint)| Finding::warning(format!("queue '{}' {what}", queue.name), hint))
    });
    let unbound = topology.queues.iter().filter(|queue| {
        let is_bound = |to: &Bound| *to == Bound::Queue(queue.name.clone());
        !topology.bindings.iter().any(|binding| is_bound(&binding.to))
    });
    let unbound = unbound.map(|queue| {
        let hint = "add a [[rabbitmq.bindings]] for it, if nobody else binds it";
        Finding::warning(format!("queue '{}' is bound by no [[rabbitmq.bindings]]", queue.name), hint)
    });
    exchanges.chain(queues).chain(unbound).collect()
}

//! What of a topology is there, asked without declaring anything: for `pgsluice check`.
//!
//! AMQP looks for an exchange or a queue by its name alone: with which type and arguments it was declared it does not say, nor
//! what is bound. Each is asked for on a channel of its own, since the answer "no" closes it.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use anyhow::anyhow;

use super::handshake::{self, Plan};
use super::steps::{Item, Step, steps};
use super::topology::Lapin;
use crate::config::RabbitSettings;
use crate::config::topology::Topology;
use crate::failure::{Definite, Failure, Kind};

/// A broker that let us in, and what it has.
#[derive(Debug)]
pub struct Survey<'t> {
    /// `host:port` of the one that answered.
    pub peer: String,
    /// Of RabbitMQ.
    pub version: String,
    /// In the order in which they would be carried out.
    pub steps: Vec<(Step<'t>, Found)>,
    /// Of the other exchanges.
    pub missing: Vec<&'t str>,
}

/// What is known of one step.
#[derive(Debug)]
pub enum Found {
    /// It is there, under its name.
    There,
    /// It is not there, and would be declared.
    Absent,
    /// It is not there and would not be declared, or may not be used: the start would fail with this.
    Refused(Definite),
    /// A binding, which can't be looked for.
    Unknown,
}

/// Looks for all of `topology`, and for `others` that nobody declares, at the first host that answers.
///
/// # Errors
/// No host answers, or one refuses us.
pub async fn survey<'t>(
    settings: &RabbitSettings,
    name: &str,
    topology: &'t Topology,
    others: &'t BTreeSet<String>,
) -> Result<Survey<'t>, Failure> {
    let plan = Plan {
        uri: settings.uri.clone(),
        name: format!("{name} check"),
        topology: Topology::default(),
        declare: false,
        max_message_bytes: None,
        opened: AtomicBool::new(false),
    };
    let mut failures = Vec::new();
    for (host, port) in &plan.uri.hosts {
        match at_host(&plan, (host, *port), &steps(topology, settings.declare), others).await {
            Err(Failure::Transient(error)) => failures.push(format!("{:#}", error.context(format!("{host}:{port}")))),
            surveyed => return surveyed.map_err(|failure| failure.context(format!("RabbitMQ at {host}:{port}"))),
        }
    }
    Err(Failure::transient(anyhow!("no connection to RabbitMQ: {}", failures.join("; "))))
}

async fn at_host<'t>(
    plan: &Plan,
    (host, port): (&str, u16),
    steps: &[Step<'t>],
    others: &'t BTreeSet<String>,
) -> Result<Survey<'t>, Failure> {
    let reached = handshake::reach(plan, host, port).await?;
    let lapin = Lapin::connect(plan, host, port, reached.secure.as_ref()).await?;
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for step in steps {
        found.push((*step, look(&lapin, *step).await?));
    }
    for exchange in others {
        if !lapin.is_there(Item::Exchange(exchange)).await? {
            missing.push(exchange.as_str());
        }
    }
    lapin.close().await;
    Ok(Survey { peer: format!("{host}:{port}"), version: reached.version, steps: found, missing })
}

async fn look(lapin: &Lapin<'_>, step: Step<'_>) -> Result<Found, Failure> {
    let asked = match step {
        Step::Expect { .. } => lapin.carry_out(&lapin.channel().await?, step).await.map(|()| true),
        Step::Exchange(exchange) => lapin.is_there(Item::Exchange(&exchange.name)).await,
        Step::Queue(queue) => lapin.is_there(Item::Queue(&queue.name)).await,
        Step::Bind(_) => return Ok(Found::Unknown),
    };
    match asked {
        Ok(true) => Ok(Found::There),
        Ok(false) => Ok(Found::Absent),
        Err(Failure::Definite(definite)) if definite.kind == Kind::Broker => Ok(Found::Refused(definite)),
        Err(failure) => Err(failure),
    }
}

//! The exchanges that events go to: declared, or only looked for, whenever a channel opens.
//!
//! On the publishing connection itself, before the channel turns to confirm mode: same login, same TLS, same host,
//! and an exchange that was deleted under load is there again before anything is published again.

use amq_protocol::protocol::{AMQPClass, exchange};
use amq_protocol::types::{FieldTable, ShortString};

use super::handshake::{Link, Plan};
use super::refusal::{self, Stage};
use crate::failure::{Failure, Kind, within};

/// Declares every exchange of the plan, durable, or asks whether it is there.
pub(super) async fn declare(link: &mut Link, plan: &Plan) -> Result<(), Failure> {
    // The default exchange always exists and can't be declared.
    for exchange in plan.exchanges.iter().filter(|exchange| !exchange.is_empty()) {
        let doing = format!("declaring exchange '{exchange}'");
        within(plan.uri.connection_timeout, &doing, declare_one(link, plan, exchange)).await?;
    }
    Ok(())
}

async fn declare_one(link: &mut Link, plan: &Plan, exchange: &str) -> Result<(), Failure> {
    let name = |text: &str| {
        ShortString::try_new(text).map_err(|error| Failure::definite(Kind::Usage, error, "use a shorter name"))
    };
    link.send(AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
        exchange: name(exchange)?,
        kind: name(&plan.exchange_type)?,
        passive: !plan.declare,
        durable: true,
        auto_delete: false,
        internal: false,
        nowait: false,
        arguments: FieldTable::default(),
    })))
    .await?;
    match link.method().await? {
        AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(_)) => Ok(()),
        other => Err(refusal::unexpected(&other, Stage::Topology { exchange, declare: plan.declare }, &plan.uri)),
    }
}

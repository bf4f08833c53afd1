//! Every kind of event that the configuration can publish, from the plans that the router makes of the tables.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::anyhow;
use serde_json::Value;

use super::catalog::Catalog;
use super::event::{Address, Event, Parameter};
use super::types::Schemas;
use super::{messages, outbox, rows, rules, tableless};
use crate::config::Settings;
use crate::encode::values::Kinds;
use crate::failure::{Definite, Kind};
use crate::route::template::Template;
use crate::route::{Plan, Router};

/// The events, and the schemas that theirs refer to.
#[derive(Debug)]
pub struct Contract {
    /// By name.
    pub events: Vec<Event>,
    /// By name.
    pub components: BTreeMap<String, Value>,
}

/// All of them.
///
/// # Errors
/// A template can't be filled in; an outbox lacks a column.
pub fn all(settings: &Settings, catalog: &Catalog) -> Result<Contract, Definite> {
    let mut router = Router::new(settings);
    router.set_types(Arc::new(catalog.types.clone()));
    let kinds = Kinds { types: &catalog.types, numeric: settings.changes.numeric };
    let mut schemas = Schemas::new(kinds, &catalog.details);
    let mut events = messages::events(&settings.name, &settings.messages);
    events.extend(settings.outboxes.iter().flat_map(|outbox| tableless::events(&settings.name, outbox)));
    for table in &catalog.tables {
        router.learn(&table.relation)?;
        match router.plan(table.relation.oid) {
            Some(Plan::Table(plan)) => {
                if let Some(plan) = plan.changes() {
                    events.extend(rows::events(&mut schemas, &settings.name, plan, table));
                }
                for rule in plan.rules() {
                    let of_rule = settings.rules.iter().find(|settings| settings.name == rule.name);
                    events.extend(of_rule.and_then(|it| rules::event(&mut schemas, &settings.name, it, rule, table)));
                }
            }
            Some(Plan::Outbox(plan)) => {
                let settings_of =
                    settings.outboxes.iter().find(|it| it.is(&table.relation.schema, &table.relation.name));
                events
                    .extend(settings_of.map(|outbox| outbox::event(&mut schemas, &settings.name, outbox, plan, table)));
            }
            Some(Plan::Misfit(misfit)) => {
                let error = anyhow!("{misfit}").context(format!("the outbox {}", table.relation));
                return Err(Definite::new(Kind::Source, error, "name the table's own columns in the configuration"));
            }
            None => {}
        }
    }
    events.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(Contract { events, components: schemas.into_components() })
}

/// The template's text, with what its variables stand for.
pub(super) fn address(template: &Template, parameter: &dyn Fn(&str) -> Parameter) -> Address {
    let variables: Vec<&str> = template.variables().collect();
    let known: Vec<(&str, Parameter)> = variables.iter().map(|name| (*name, parameter(name))).collect();
    let mut text = String::new();
    if let Ok(bound) = template.bind(&known) {
        bound.render(&mut text, |parameter, text| text.extend(["{", &parameter.name, "}"]));
    }
    let mut parameters: Vec<Parameter> = known.into_iter().map(|(_, parameter)| parameter).collect();
    parameters.sort();
    parameters.dedup();
    Address { text, parameters }
}

//! How the changes of one table become bodies: what its format needs, made once for each version of the table.

use super::canal::CanalPlan;
use super::cloudevents::{Attributes, Incomplete, Wrapper};
use super::debezium::DebeziumPlan;
use super::json::{RowPlan, row_alone, row_event};
use super::message::Event;
use super::row::Key;
use super::values::Kinds;
use crate::change::Change;
use crate::config::ChangeFormat;
use crate::postgres::relation::Relation;

/// The plan of a format.
#[derive(Debug)]
pub enum RowFormat {
    /// Our own row event.
    Plain(RowPlan),
    /// The row alone.
    Raw(RowPlan),
    /// Around our own row event.
    CloudEvents(Wrapper, RowPlan, Key),
    /// Debezium's change event.
    Debezium(DebeziumPlan),
    /// Canal's flat message.
    Canal(CanalPlan),
}

impl RowFormat {
    /// The plan for a table of this database, by the pipeline of this name.
    #[must_use]
    pub fn new(format: ChangeFormat, name: &str, database: &str, relation: &Relation, kinds: Kinds<'_>) -> Self {
        let row = || RowPlan::new(relation, kinds);
        match format {
            ChangeFormat::Plain => Self::Plain(row()),
            ChangeFormat::Raw => Self::Raw(row()),
            ChangeFormat::CloudEvents(mode) => {
                Self::CloudEvents(Wrapper::new(mode, name, Some(relation)), row(), Key::of(relation))
            }
            ChangeFormat::Debezium { with_schema } => {
                Self::Debezium(DebeziumPlan::new(with_schema, name, database, relation, kinds.types))
            }
            ChangeFormat::Canal => Self::Canal(CanalPlan::new(relation, kinds.types)),
        }
    }

    /// Makes the body of a change, and what the format has beside it. `name` is the pipeline's.
    ///
    /// # Errors
    /// It can't be a CloudEvent.
    pub fn make(&self, event: &mut Event, name: &str, change: &Change<'_>) -> Result<(), Incomplete> {
        event.content_type.push_str("application/json");
        match self {
            Self::Plain(plan) => row_event(&mut event.body, plan, name, change),
            Self::Raw(plan) => row_alone(&mut event.body, plan, change.row),
            Self::CloudEvents(wrapper, plan, key) => {
                key.text(change.row, &mut event.subject);
                let attributes =
                    Attributes { time: Some(change.transaction.committed_at), position: Some(change.position) };
                wrapper.json(event, attributes, |out| row_event(out, plan, name, change))?;
            }
            Self::Debezium(plan) => plan.make(event, change),
            Self::Canal(plan) => plan.message(&mut event.body, change),
        }
        Ok(())
    }
}

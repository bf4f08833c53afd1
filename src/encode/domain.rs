//! The event of a rule: an envelope like that of a row event, around the data that the rule lets through.
//!
//! ```json
//! {"id":"shop:16/B374D848:3:OrderPaid","type":"OrderPaid","op":"update","schema":"public","table":"orders","schema_version":"055557a359c75ed7",
//!  "commit_lsn":"16/B374D848","ordinal":3,"xid":731,"committed_at":"2026-11-21T02:37:00.123456Z",
//!  "data":{"id":7,"total":"19.90"},"missing":[]}
//! ```
//!
//! | field | |
//! |---|---|
//! | `id` | that of the change, and the rule's name: the same at every re-delivery |
//! | `type` | the event's type |
//! | `data` | the row after the change, of a delete the row before it, as far as the rule lets it through; null for `truncate` |
//! | `missing` | names the fields that `data` lacks because PostgreSQL did not send them: a large value (TOAST) that an update left alone, or columns of a deleted row that are not of the replica identity |
//!
//! The others are those of [row events](super::json). [`data`] is apart from the envelope: other formats have others.

use super::Encoder;
use super::cloudevents::{Attributes, Incomplete, Wrapper};
use super::message::{Event, Header};
use super::ordering::OrderingKey;
use super::row::Key;
use super::text::{integer, json_string, list, lsn};
use super::time::rfc3339;
use super::values::{json_base64, json_value};
use crate::change::{Change, Old, Row, after, known};
use crate::postgres::pgoutput::{Value, Values};
use crate::route::domain::{DomainFormat, Field, Part, RuleError, RuleKey, RulePlan, Shown};
use crate::route::expression::Image;
use crate::route::template::Bound;

/// Why a change can't be the event of a rule.
#[derive(Debug, thiserror::Error)]
pub enum Unmade {
    /// An expression has no value.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// Its type is empty.
    #[error(transparent)]
    CloudEvent(#[from] Incomplete),
}

impl Encoder {
    /// A change as the event of a rule.
    ///
    /// # Errors
    /// It can't be made; then there is only what names it.
    pub fn domain(&self, event: &mut Event, plan: &RulePlan, change: &Change<'_>) -> Result<(), Unmade> {
        self.name_domain(event, plan, change);
        if !matches!(plan.format, DomainFormat::Row(_)) {
            event.content_type.push_str("application/json");
        }
        let made = match &plan.format {
            DomainFormat::Row(format) => format.make(event, &self.name, change).map_err(Unmade::CloudEvent),
            DomainFormat::Plain => plain(event, plan, change).map_err(Unmade::Rule),
            DomainFormat::Raw => data(&mut event.body, plan, change).map_err(Unmade::Rule),
            DomainFormat::CloudEvents(wrapper, key) => cloud_event(event, plan, change, wrapper, key),
        };
        if made.is_err() {
            event.body.clear();
        }
        made
    }

    /// What names the event of a rule, and where it goes.
    pub fn name_domain(&self, event: &mut Event, plan: &RulePlan, change: &Change<'_>) {
        self.start_change(event, change);
        event.message_id.extend([":", &plan.name]);
        event.origin.extend([" as ", &plan.name]);
        let mut event_type = std::mem::take(&mut event.event_type);
        render(&plan.event_type, change, "", &mut event_type);
        render(&plan.exchange, change, &event_type, &mut event.exchange);
        render(&plan.routing_key, change, &event_type, &mut event.routing_key);
        let mut scratch = std::mem::take(&mut event.subject);
        for (header, bound) in &plan.headers {
            scratch.clear();
            render(bound, change, &event_type, &mut scratch);
            if !scratch.is_empty() {
                event.headers.push(header, Header::Text(&scratch));
            }
        }
        event.ordering_key = match &plan.order {
            RuleKey::Row(key) => key.of(&change.row),
            RuleKey::Template(bound) => {
                scratch.clear();
                // Where a part of it is not known, so is what it belongs to.
                let is_known = render(bound, change, &event_type, &mut scratch);
                if is_known && !scratch.is_empty() { OrderingKey::text(&scratch) } else { OrderingKey::All }
            }
        };
        scratch.clear();
        (event.subject, event.event_type) = (scratch, event_type);
    }
}

/// Whether all its columns have a value; those that have none are empty.
fn render(bound: &Bound<Part>, change: &Change<'_>, event_type: &str, out: &mut String) -> bool {
    let mut is_known = true;
    bound.render(out, |part, out| match part {
        Part::Fixed(fixed) => out.push_str(fixed),
        Part::Op => out.push_str(change.row.op()),
        Part::Type => out.push_str(event_type),
        Part::Column { image, index, is_key } => {
            let value = match image {
                Image::Old => change.row.old_value(*index, *is_key),
                Image::New => change.row.new_value(*index, *is_key),
            };
            match value {
                Some(Value::Text(text)) => out.push_str(std::str::from_utf8(text).unwrap_or_default()),
                Some(Value::Null | Value::Unchanged | Value::Binary(_)) | None => is_known = false,
            }
        }
    });
    is_known
}

fn cloud_event(
    event: &mut Event,
    plan: &RulePlan,
    change: &Change<'_>,
    wrapper: &Wrapper,
    key: &Key,
) -> Result<(), Unmade> {
    key.text(change.row, &mut event.subject);
    let attributes = Attributes { time: Some(change.transaction.committed_at), position: Some(change.position) };
    let mut made = Ok(());
    wrapper.json(event, attributes, |out| made = data(out, plan, change))?;
    Ok(made?)
}

/// The body.
fn plain(event: &mut Event, plan: &RulePlan, change: &Change<'_>) -> Result<(), RuleError> {
    let Event { body: out, message_id, event_type, .. } = event;
    out.extend_from_slice(b"{\"id\":");
    json_string(out, message_id.as_bytes());
    out.extend_from_slice(b",\"type\":");
    json_string(out, event_type.as_bytes());
    out.extend_from_slice(b",\"op\":\"");
    out.extend_from_slice(change.row.op().as_bytes());
    out.extend_from_slice(b"\",");
    out.extend_from_slice(&plan.table);
    out.extend_from_slice(b",\"commit_lsn\":\"");
    lsn(out, change.position.commit_lsn);
    out.extend_from_slice(b"\",\"ordinal\":");
    integer(out, change.position.ordinal);
    out.extend_from_slice(b",\"xid\":");
    integer(out, change.transaction.xid);
    out.extend_from_slice(b",\"committed_at\":\"");
    rfc3339(out, change.transaction.committed_at);
    out.extend_from_slice(b"\",\"data\":");
    data(out, plan, change)?;
    out.extend_from_slice(b",\"missing\":");
    missing(out, plan, change);
    out.push(b'}');
    Ok(())
}

/// Appends what the rule lets through of a change: an object, or null.
///
/// # Errors
/// A computed field has no value.
pub fn data(out: &mut Vec<u8>, plan: &RulePlan, change: &Change<'_>) -> Result<(), RuleError> {
    let Some(row) = RowFields::of(plan, &change.row) else {
        out.extend_from_slice(b"null");
        return Ok(());
    };
    let mut separator = b'{';
    for (field, value) in row {
        if let Some(value) = value {
            out.push(std::mem::replace(&mut separator, b','));
            out.extend_from_slice(&field.label);
            show(out, field, value);
        }
    }
    if !plan.computed.is_empty() {
        let variables = plan.variables(change);
        for field in &plan.computed {
            out.push(std::mem::replace(&mut separator, b','));
            out.extend_from_slice(&field.label);
            field.json(&variables, out)?;
        }
    }
    if separator == b'{' {
        out.push(b'{');
    }
    out.push(b'}');
    Ok(())
}

/// Appends the names of the fields that `data` lacks.
pub fn missing(out: &mut Vec<u8>, plan: &RulePlan, change: &Change<'_>) {
    let fields = RowFields::of(plan, &change.row).into_iter().flatten();
    let names = fields.filter(|(_, value)| value.is_none()).map(|(field, _)| field.label.as_slice());
    list(out, names.map(|label| label.strip_suffix(b":").unwrap_or(label)));
}

fn show(out: &mut Vec<u8>, field: &Field, value: Value<'_>) {
    match (&field.shown, value) {
        (Shown::Mask(mask), _) => out.extend_from_slice(mask),
        (Shown::Value | Shown::Hash(_), Value::Null | Value::Unchanged) => out.extend_from_slice(b"null"),
        (Shown::Value, Value::Text(text)) => json_value(out, &field.kind, text),
        (Shown::Value, Value::Binary(bytes)) => json_base64(out, bytes),
        (Shown::Hash(key), Value::Text(bytes) | Value::Binary(bytes)) => {
            out.push(b'"');
            for byte in key.hash(bytes) {
                out.extend_from_slice(&[byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]));
            }
            out.push(b'"');
        }
    }
}

/// The fields of a row with their values, as far as they are known: the row after the change, of a delete the row before.
/// Walks over the tuples once.
struct RowFields<'a> {
    left: std::slice::Iter<'a, Field>,
    values: Values<'a>,
    old: Option<(Old<'a>, Values<'a>)>,
    is_delete: bool,
    /// The next column.
    column: usize,
}

impl<'a> RowFields<'a> {
    /// None: there is no row.
    fn of(plan: &'a RulePlan, row: &Row<'a>) -> Option<Self> {
        let (tuple, old, is_delete) = match *row {
            Row::Insert { new } => (new, None, false),
            Row::Update { old, new } => (new, old, false),
            Row::Delete { old } => (old.tuple(), Some(old), true),
            Row::Truncate { .. } => return None,
        };
        let old = old.map(|old| (old, old.tuple().iter()));
        Some(Self { left: plan.fields.iter(), values: tuple.iter(), old, is_delete, column: 0 })
    }
}

impl<'a> Iterator for RowFields<'a> {
    type Item = (&'a Field, Option<Value<'a>>);

    fn next(&mut self) -> Option<Self::Item> {
        let field = self.left.next()?;
        let skipped = field.index - self.column;
        self.column = field.index + 1;
        let value = self.values.nth(skipped)?;
        // Both go in step, so the old one moves whether it is needed or not.
        let before = self.old.as_mut().and_then(|(old, values)| known(*old, values.nth(skipped)?, field.is_key));
        Some((field, if self.is_delete { before } else { after(value, || before) }))
    }
}

#[cfg(test)]
mod tests;

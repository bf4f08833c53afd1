//! Whether a body is certainly too large, told from the row as it came: such an event is refused before it is encoded,
//! and costs no more memory than its frame.
//!
//! Invariant: what is refused here is larger than the limit once it is encoded. What is let through is judged again then.

use super::values::Kind;
use crate::change::{Change, Row};
use crate::encode::format::RowFormat;
use crate::encode::outbox::OutboxRow;
use crate::postgres::pgoutput::Value;
use crate::route::domain::{DomainFormat, Field, RulePlan, Shown};
use crate::route::messages::{Content, MessagesPlan};
use crate::route::outbox::OutboxPlan;
use crate::transaction::LogicalMessage;

/// How long the body of a row event is at the least, if that is more than `limit`. The row alone counts, as it is after
/// the change where there is an after.
#[must_use]
pub fn row_event_beyond(limit: usize, format: &RowFormat, change: &Change<'_>) -> Option<usize> {
    let row = match change.row {
        Row::Insert { new } | Row::Update { new, .. } => new,
        Row::Delete { old } => old.tuple(),
        Row::Truncate { .. } => return None,
    };
    let sum = || match format {
        RowFormat::Plain(plan) | RowFormat::Raw(plan) | RowFormat::CloudEvents(_, plan, _) => {
            row.iter().enumerate().map(|(column, value)| json_bytes_min(plan.kind(column), value)).sum()
        }
        RowFormat::Debezium(plan) => {
            let bytes = |(column, value)| match value {
                Value::Null | Value::Unchanged => 0,
                Value::Binary(bytes) => bytes.len(),
                Value::Text(text) => plan.kind(column).map_or(0, |kind| kind.bytes_min(text)),
            };
            row.iter().enumerate().map(bytes).sum()
        }
        RowFormat::Canal(plan) => row.iter().enumerate().map(|(column, value)| plan.bytes_min(column, value)).sum(),
    };
    // Nearly every row ends here, at no cost.
    (row.size() > limit).then(sum).filter(|bytes| *bytes > limit)
}

/// How long the body of a rule's event is at the least, if that is more than `limit`.
#[must_use]
pub fn rule_event_beyond(limit: usize, plan: &RulePlan, change: &Change<'_>) -> Option<usize> {
    if let DomainFormat::Row(format) = &plan.format {
        return row_event_beyond(limit, format, change);
    }
    let row = match change.row {
        Row::Insert { new } | Row::Update { new, .. } => new,
        Row::Delete { old } => old.tuple(),
        Row::Truncate { .. } => return None,
    };
    let shown = plan.fields.iter().filter(|field| matches!(field.shown, Shown::Value));
    let bytes = |field: &Field| row.get(field.index).map_or(0, |value| json_bytes_min(Some(&field.kind), value));
    (row.size() > limit).then(|| shown.map(bytes).sum()).filter(|bytes| *bytes > limit)
}

/// How long an outbox row's payload is at the least, if that is more than `limit`.
#[must_use]
pub fn payload_beyond(limit: usize, plan: &OutboxPlan, row: OutboxRow<'_>) -> Option<usize> {
    let bytes = match row.get(plan.payload) {
        // Two digits a byte.
        Value::Text(text) if matches!(row.kind(plan.payload, &plan.payload_kind), Kind::Bytea) => {
            text.len().saturating_sub(2) / 2
        }
        Value::Text(bytes) | Value::Binary(bytes) => bytes.len(),
        Value::Null | Value::Unchanged => 0,
    };
    (bytes > limit).then_some(bytes)
}

/// How long the event of a logical message is at the least.
#[must_use]
pub fn message_bytes_min(plan: &MessagesPlan, message: &LogicalMessage<'_>) -> usize {
    match plan.content {
        Content::Within => message.content.len().div_ceil(3) * 4,
        // As it is, escaped, or as Base64.
        Content::Alone | Content::Wrapped(_) => message.content.len(),
    }
}

fn json_bytes_min(kind: Option<&Kind>, value: Value<'_>) -> usize {
    match value {
        Value::Null | Value::Unchanged => 0,
        Value::Binary(bytes) => bytes.len(),
        // Escapes and quotes only add to it.
        Value::Text(text) if matches!(kind, Some(Kind::Text | Kind::Json)) => text.len(),
        // Two digits become a byte, and three of these four characters of Base64; an array or a composite has no less
        // around its elements in JSON, once their quotes and escapes, which may be nested, are not counted.
        Value::Text(text) => {
            // Lower bounds, which the JSON does not have.
            let bounds =
                if text.starts_with(b"[") { text.iter().position(|byte| *byte == b'=').unwrap_or(0) } else { 0 };
            text[bounds..].iter().filter(|byte| !matches!(byte, b'"' | b'\\')).count() / 3 * 2
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Old, Transaction};
    use crate::config::{ChangeFormat, OF_CHANGES};
    use crate::encode::message::Event;
    use crate::encode::values::{Kinds, Numeric};
    use crate::lsn::Lsn;
    use crate::postgres::pgoutput::{Message, decode, fixture};
    use crate::postgres::relation::Relation;
    use crate::postgres::types::Types;

    fn relation(types: &[u32]) -> Relation {
        let columns: Vec<_> = types.iter().map(|oid| (false, "c", *oid)).collect();
        let bytes = fixture::relation(1, "s", "t", b'f', &columns);
        let Ok(Message::Relation(relation)) = decode(&bytes) else { panic!("a relation") };
        relation
    }

    /// The least length that is told, and the real one.
    fn lengths(format: ChangeFormat, relation: &Relation, row: Row<'_>) -> (usize, usize) {
        let transaction = Transaction { commit_lsn: Lsn(1), committed_at: 0, xid: 1 };
        let kinds = Kinds { types: &Types::default(), numeric: Numeric::String };
        let position = crate::lsn::Position { commit_lsn: Lsn(1), ordinal: 0 };
        let change = Change { position, transaction, relation, row };
        let format = RowFormat::new(format, "shop", "db", relation, kinds);
        let mut event = Event { message_id: "1".to_owned(), event_type: "t".to_owned(), ..Event::default() };
        format.make(&mut event, "shop", &change).expect("has an id and a type");
        (row_event_beyond(0, &format, &change).unwrap_or_default(), event.body.len())
    }

    #[test]
    fn no_value_is_shorter_than_it_is_told_to_be() {
        let hex = [b"\\x".to_vec(), b"0f".repeat(3000)].concat();
        let values: [&[u8]; 15] = [
            b"[0:1]={t}",
            b"2026-11-21",
            b"{2026-11-21,NULL}",
            b"{{{{{{a}}}}}}",
            &[b'1'; 900],
            b"$1,234,567,890.00",
            b"",
            b"t",
            b"2026-11-21 02:37:00+00",
            &hex,
            br#"{"a\\\\\"b",NULL,t}"#,
            &[b'\\'; 900],
            &[0xFF; 900],
            br#"{"(1,\"a\\\\\"\"b\")"}"#,
            br#"[{"a":1}]"#,
        ];
        // bool, bytea, int8, text, json, _text, timestamptz, jsonb, _bytea, date, timestamp, varbit, money, _date
        let relation = relation(&[16, 17, 20, 25, 114, 1009, 1184, 3802, 1001, 1082, 1114, 1562, 790, 1182]);
        for value in values {
            let row = [Value::Text(value); 14];
            let (insert, delete) = (fixture::insert(1, &row), fixture::delete(1, b'O', &row));
            let Ok(Message::Insert { new, .. }) = decode(&insert) else { panic!("an insert") };
            let Ok(Message::Delete { old, .. }) = decode(&delete) else { panic!("a delete") };
            for row in [Row::Insert { new }, Row::Delete { old }, Row::Update { old: Some(Old::Full(new)), new }] {
                for (_, format) in OF_CHANGES {
                    let (told, real) = lengths(format, &relation, row);
                    assert!(told <= real, "{format:?}: {told} for {real}: {}", value.escape_ascii());
                }
            }
        }
    }

    #[test]
    fn a_large_value_is_told_to_be_large() {
        let (text, hex) = (vec![b'"'; 3000], [b"\\x".to_vec(), b"0f".repeat(1500)].concat());
        let array = [b"{".to_vec(), vec![b'a'; 3001], b"}".to_vec()].concat();
        for (oid, value, at_least) in [(25, &text, 3000), (3802, &text, 3000), (17, &hex, 1500), (1009, &array, 2000)] {
            let insert = fixture::insert(1, &[Value::Text(value)]);
            let Ok(Message::Insert { new, .. }) = decode(&insert) else { panic!("an insert") };
            for (_, format) in OF_CHANGES {
                let (told, _) = lengths(format, &relation(&[oid]), Row::Insert { new });
                assert!(told >= at_least, "{format:?} {oid}: {told}");
            }
        }
        let nothing = fixture::insert(1, &[Value::Null, Value::Unchanged]);
        let Ok(Message::Insert { new, .. }) = decode(&nothing) else { panic!("an insert") };
        for (_, format) in OF_CHANGES {
            assert_eq!(lengths(format, &relation(&[25, 25]), Row::Insert { new }).0, 0);
        }
    }
}

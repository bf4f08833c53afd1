//! Whether a body is certainly too large, told from the row as it came: such an event is refused before it is encoded,
//! and costs no more memory than its frame.
//!
//! Invariant: what is refused here is larger than the limit once it is encoded. What is let through is judged again then.

use super::values::Kind;
use crate::change::{Change, Row};
use crate::encode::json::RowPlan;
use crate::encode::outbox::OutboxRow;
use crate::postgres::pgoutput::Value;
use crate::route::outbox::OutboxPlan;

/// How long the body of a row event is at the least, if that is more than `limit`. The row alone counts, as it is after
/// the change where there is an after.
#[must_use]
pub fn row_event_beyond(limit: usize, plan: &RowPlan, change: &Change<'_>) -> Option<usize> {
    let row = match change.row {
        Row::Insert { new } | Row::Update { new, .. } => new,
        Row::Delete { old } => old.tuple(),
        Row::Truncate { .. } => return None,
    };
    let sum = || row.iter().enumerate().map(|(column, value)| json_bytes_min(plan.kind(column), value)).sum();
    // Nearly every row ends here, at no cost.
    (row.size() > limit).then(sum).filter(|bytes| *bytes > limit)
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
    use crate::encode::json::row_event;
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
    fn lengths(relation: &Relation, row: Row<'_>) -> (usize, usize) {
        let transaction = Transaction { commit_lsn: Lsn(1), committed_at: 0, xid: 1 };
        let kinds = Kinds { types: &Types::default(), numeric: Numeric::String };
        let position = crate::lsn::Position { commit_lsn: Lsn(1), ordinal: 0 };
        let (change, plan) = (Change { position, transaction, relation, row }, RowPlan::new(relation, kinds));
        let mut body = Vec::new();
        row_event(&mut body, &plan, "shop", &change);
        (row_event_beyond(0, &plan, &change).unwrap_or_default(), body.len())
    }

    #[test]
    fn no_value_is_shorter_than_it_is_told_to_be() {
        let hex = [b"\\x".to_vec(), b"0f".repeat(3000)].concat();
        let values: [&[u8]; 10] = [
            b"[0:1]={t}",
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
        // bool, bytea, int8, text, json, _text, timestamptz, jsonb, _bytea
        let relation = relation(&[16, 17, 20, 25, 114, 1009, 1184, 3802, 1001]);
        for value in values {
            let row = [Value::Text(value); 9];
            let (insert, delete) = (fixture::insert(1, &row), fixture::delete(1, b'O', &row));
            let Ok(Message::Insert { new, .. }) = decode(&insert) else { panic!("an insert") };
            let Ok(Message::Delete { old, .. }) = decode(&delete) else { panic!("a delete") };
            for row in [Row::Insert { new }, Row::Delete { old }, Row::Update { old: Some(Old::Full(new)), new }] {
                let (told, real) = lengths(&relation, row);
                assert!(told <= real, "{told} for {real}: {}", value.escape_ascii());
            }
        }
    }

    #[test]
    fn a_large_value_is_told_to_be_large() {
        let (text, hex) = (vec![b'"'; 3000], [b"\\x".to_vec(), b"0f".repeat(1500)].concat());
        for (oid, value, at_least) in [(25, &text, 3000), (3802, &text, 3000), (17, &hex, 2000), (1009, &hex, 2000)] {
            let insert = fixture::insert(1, &[Value::Text(value)]);
            let Ok(Message::Insert { new, .. }) = decode(&insert) else { panic!("an insert") };
            let (told, _) = lengths(&relation(&[oid]), Row::Insert { new });
            assert!(told >= at_least, "{oid}: {told}");
        }
        let nothing = fixture::insert(1, &[Value::Null, Value::Unchanged]);
        let Ok(Message::Insert { new, .. }) = decode(&nothing) else { panic!("an insert") };
        assert_eq!(lengths(&relation(&[25, 25]), Row::Insert { new }).0, 0);
    }
}

//! What every format needs of a row: its values, completed from the row before, and those that name it.

use super::text::json_string;
use crate::change::{Old, Row};
use crate::postgres::pgoutput::{Tuple, Value};
use crate::postgres::relation::{Relation, ReplicaIdentity};

/// The new row's values; those that an update left alone come from the old row, where it has them. `is_key` tells of a
/// column's index whether it is part of the replica identity.
pub(super) fn completed<'a>(
    old: Option<Old<'a>>,
    new: Tuple<'a>,
    is_key: impl Fn(usize) -> bool,
) -> impl Iterator<Item = Value<'a>> {
    let mut before = old.map(|old| (old, old.tuple().iter()));
    new.iter().enumerate().map(move |(index, value)| {
        // Both iterators go in step, so the old one moves whether it is needed or not.
        let known = before.as_mut().and_then(|(old, values)| values.next().filter(|_| is_known(*old, is_key(index))));
        match value {
            Value::Unchanged => known.unwrap_or(Value::Unchanged),
            Value::Null | Value::Text(_) | Value::Binary(_) => value,
        }
    })
}

/// Whether the old row's value of a column means anything: a key tuple has null for all but the key.
pub(super) fn is_known(old: Old<'_>, is_key: bool) -> bool {
    match old {
        Old::Full(_) => true,
        Old::Key(_) => is_key,
    }
}

/// The columns by which the replica identity names a row, as indexes; none where the whole row does, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(Vec<usize>);

impl Key {
    /// Of this table.
    #[must_use]
    pub fn of(relation: &Relation) -> Self {
        // With FULL the server marks every column as key, which says nothing.
        let names = relation.identity != ReplicaIdentity::Full;
        let columns = relation.columns.iter().enumerate().filter(|(_, column)| names && column.key);
        Self(columns.map(|(index, _)| index).collect())
    }

    /// Whether rows have no name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a column is part of it.
    pub(super) fn has(&self, column: usize) -> bool {
        self.0.contains(&column)
    }

    /// The columns' indexes, each with its value in the row as it is after the change, where there is an after; nothing for
    /// a truncate.
    pub fn values<'a>(&self, row: Row<'a>) -> impl Iterator<Item = (usize, Value<'a>)> {
        self.0.iter().filter_map(move |index| Some((*index, current(row, *index)?)))
    }

    /// Appends the values' texts: one as it is, several as a JSON array of strings. Nothing for a truncate.
    pub fn text(&self, row: Row<'_>, out: &mut String) {
        let texts = self.values(row).map(|(_, value)| match value {
            Value::Text(text) => std::str::from_utf8(text).unwrap_or_default(),
            Value::Null | Value::Unchanged | Value::Binary(_) => "",
        });
        if self.0.len() == 1 {
            return out.extend(texts);
        }
        let mut bytes = std::mem::take(out).into_bytes();
        for (index, text) in texts.enumerate() {
            bytes.push(if index == 0 { b'[' } else { b',' });
            json_string(&mut bytes, text.as_bytes());
        }
        if !bytes.is_empty() {
            bytes.push(b']');
        }
        *out = String::from_utf8(bytes).unwrap_or_default();
    }
}

/// A key column's value.
fn current(row: Row<'_>, column: usize) -> Option<Value<'_>> {
    match row {
        Row::Insert { new } => new.get(column),
        Row::Update { old, new } => match new.get(column)? {
            Value::Unchanged => old?.tuple().get(column),
            value @ (Value::Null | Value::Text(_) | Value::Binary(_)) => Some(value),
        },
        Row::Delete { old } => old.tuple().get(column),
        Row::Truncate { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::pgoutput::{Message, decode, fixture};

    fn relation(identity: u8, keys: &[bool]) -> Relation {
        let columns: Vec<_> = keys.iter().map(|key| (*key, "c", 25)).collect();
        let bytes = fixture::relation(1, "s", "t", identity, &columns);
        let Ok(Message::Relation(relation)) = decode(&bytes) else { panic!("a relation") };
        relation
    }

    fn text(keys: &[bool], row: Row<'_>) -> String {
        let mut out = String::new();
        Key::of(&relation(b'd', keys)).text(row, &mut out);
        out
    }

    #[test]
    fn one_value_is_its_text_and_several_are_an_array() {
        let values = [Value::Text(b"a"), Value::Text(b"b\"c"), Value::Null];
        let bytes = fixture::insert(1, &values);
        let Ok(Message::Insert { new, .. }) = decode(&bytes) else { panic!("an insert") };
        let row = Row::Insert { new };
        assert_eq!(text(&[false, true, false], row), "b\"c");
        assert_eq!(text(&[true, true, false], row), r#"["a","b\"c"]"#);
        assert_eq!(text(&[false, false, false], row), "");
        assert!(Key::of(&relation(b'f', &[true, true, true])).is_empty());
        assert_eq!(text(&[true, true, false], Row::Truncate { cascade: false, restart_identity: false }), "");
    }

    #[test]
    fn a_key_is_of_the_row_after_the_change() {
        let bytes = fixture::update(1, Some((b'K', &[Value::Text(b"1")])), &[Value::Text(b"2")]);
        let Ok(Message::Update { old, new, .. }) = decode(&bytes) else { panic!("an update") };
        assert_eq!(text(&[true], Row::Update { old, new }), "2");
        assert_eq!(text(&[true], Row::Delete { old: old.expect("the old key") }), "1");
        // A large one that the update left alone.
        let bytes = fixture::update(1, Some((b'K', &[Value::Text(b"1")])), &[Value::Unchanged]);
        let Ok(Message::Update { old, new, .. }) = decode(&bytes) else { panic!("an update") };
        assert_eq!(text(&[true], Row::Update { old, new }), "1");
    }
}

//! What the changes of a table have to stay in order with: the row that they are about, by its replica identity.
//!
//! Invariant: two changes of one row have one key, or one of them is for all: an update that moves the row to another
//! key, a truncate, and whatever the server does not tell the key of. Pure.

use crate::change::{Old, Row};
use crate::config::Ordering;
use crate::encode::ordering::{KeyHasher, OrderingKey};
use crate::postgres::pgoutput::{Tuple, Value};
use crate::postgres::relation::{Relation, ReplicaIdentity};

/// How to find it in a change of one relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowKey {
    /// Nothing has to stay in order.
    None,
    /// The table is one key: it has no other, or (`REPLICA IDENTITY FULL`) the stream does not tell which columns it is.
    Table(OrderingKey),
    /// The columns of the replica identity: their indexes, names and types. The table counts by its name, since that is all
    /// that consumers know of it: rows of one that was created again are not mixed with those of the one before.
    Columns(OrderingKey, Vec<(usize, String, u32)>),
}

impl RowKey {
    /// For a relation, as it is now.
    #[must_use]
    pub fn new(ordering: Ordering, relation: &Relation) -> Self {
        let table = OrderingKey::text(&relation.to_string());
        match (ordering, relation.identity) {
            (Ordering::None, _) => return Self::None,
            (Ordering::Key, ReplicaIdentity::Full | ReplicaIdentity::Nothing) => return Self::Table(table),
            (Ordering::Key, ReplicaIdentity::Default | ReplicaIdentity::Index) => {}
        }
        let columns = relation.columns.iter().enumerate().filter(|(_, column)| column.key);
        let columns: Vec<_> = columns.map(|(index, column)| (index, column.name.clone(), column.type_oid)).collect();
        if columns.is_empty() { Self::Table(table) } else { Self::Columns(table, columns) }
    }

    /// Of one change.
    #[must_use]
    pub fn of(&self, row: &Row<'_>) -> OrderingKey {
        let (table, columns) = match self {
            Self::None => return OrderingKey::Any,
            Self::Table(table) => return *table,
            Self::Columns(table, columns) => (*table, columns),
        };
        let key = |tuple: Tuple<'_>, before: Option<Tuple<'_>>| {
            let mut hasher = KeyHasher::of(table);
            for (column, ..) in columns {
                let value = match tuple.get(*column) {
                    // A large key that was not touched is told with the row as it was.
                    Some(Value::Unchanged) => before.and_then(|before| before.get(*column)),
                    value => value,
                };
                match value {
                    Some(Value::Text(bytes) | Value::Binary(bytes)) => hasher.push(bytes),
                    // No part of a key is null.
                    Some(Value::Null | Value::Unchanged) | None => return OrderingKey::All,
                }
            }
            hasher.finish()
        };
        match row {
            Row::Insert { new } | Row::Update { old: None, new } => key(*new, None),
            Row::Update { old: Some(Old::Key(old) | Old::Full(old)), new } => {
                let now = key(*new, Some(*old));
                if key(*old, None) == now { now } else { OrderingKey::All }
            }
            Row::Delete { old } => key(old.tuple(), None),
            Row::Truncate { .. } => OrderingKey::All,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::pgoutput::{Message, decode, fixture};

    fn relation(identity: u8) -> Relation {
        let bytes = fixture::relation(1, "s", "t", identity, &[(true, "id", 20), (false, "note", 25)]);
        let Ok(Message::Relation(relation)) = decode(&bytes) else { panic!("a relation") };
        relation
    }

    fn with_row<T>(values: [Value<'_>; 2], then: impl FnOnce(Tuple<'_>) -> T) -> T {
        let bytes = fixture::insert(1, &values);
        let Ok(Message::Insert { new, .. }) = decode(&bytes) else { panic!("an insert") };
        then(new)
    }

    #[test]
    fn changes_of_a_row_have_one_key_and_those_that_move_it_are_for_all() {
        let key = RowKey::new(Ordering::Key, &relation(b'd'));
        let (one, other, note) = (Value::Text(b"1"), Value::Text(b"2"), Value::Text(b"x"));
        let insert = with_row([one, note], |new| key.of(&Row::Insert { new }));
        assert!(matches!(insert, OrderingKey::One(_)));
        assert_ne!(insert, with_row([other, note], |new| key.of(&Row::Insert { new })));
        assert_eq!(insert, with_row([one, Value::Unchanged], |new| key.of(&Row::Update { old: None, new })));
        assert_eq!(insert, with_row([one, Value::Null], |old| key.of(&Row::Delete { old: Old::Key(old) })));
        with_row([one, Value::Null], |old| {
            let update = |values| with_row(values, |new| key.of(&Row::Update { old: Some(Old::Key(old)), new }));
            assert_eq!(update([one, note]), insert);
            assert_eq!(update([Value::Unchanged, note]), insert);
            assert_eq!(update([other, note]), OrderingKey::All);
        });
        // Whatever is not told is for all.
        let unknown = with_row([Value::Unchanged, note], |new| key.of(&Row::Update { old: None, new }));
        let null = with_row([Value::Null, note], |old| key.of(&Row::Delete { old: Old::Full(old) }));
        let truncate = key.of(&Row::Truncate { cascade: false, restart_identity: false });
        assert_eq!([unknown, null, truncate], [OrderingKey::All; 3]);
    }

    #[test]
    fn a_table_without_a_key_is_one_and_none_keeps_no_order() {
        for identity in [b'f', b'n'] {
            let key = RowKey::new(Ordering::Key, &relation(identity));
            let [first, second] =
                [b"1", b"2"].map(|id| with_row([Value::Text(id), Value::Null], |new| key.of(&Row::Insert { new })));
            assert_eq!(first, second);
        }
        let none = RowKey::new(Ordering::None, &relation(b'd'));
        assert_eq!(none.of(&Row::Truncate { cascade: false, restart_identity: false }), OrderingKey::Any);
    }
}

//! One change, and the router and the encoder that it meets.

use pgsluice::change::{Change, Row, Transaction};
use pgsluice::encode::{Delivery, Encoder};
use pgsluice::lsn::{Lsn, Position};
use pgsluice::postgres::pgoutput::{Message, decode};
use pgsluice::postgres::relation::Relation;
use pgsluice::route::Router;

use super::synthetic::settings;
use super::synthetic::tables::Table;

/// Where all is ready for one change.
pub(crate) struct Scene {
    pub(crate) router: Router,
    pub(crate) encoder: Encoder,
    relation: Relation,
    message: Vec<u8>,
}

impl Scene {
    /// Of the change that `message` is, under a configuration with these keys.
    pub(crate) fn new(keys: &str, relation: &[u8], message: Vec<u8>) -> Self {
        let Ok(Message::Relation(relation)) = decode(relation) else { panic!("a relation") };
        let mut router = Router::new(&settings(keys));
        router.learn(&relation).unwrap_or_else(|definite| panic!("{definite}"));
        Self { router, encoder: Encoder::new("shop", Delivery::First), relation, message }
    }

    /// An inserted row.
    pub(crate) fn insert(keys: &str, table: &Table) -> Self {
        Self::new(keys, &table.relation(), table.insert(7))
    }

    pub(crate) fn change(&self) -> Change<'_> {
        let row = match decode(&self.message) {
            Ok(Message::Insert { new, .. }) => Row::Insert { new },
            Ok(Message::Update { old, new, .. }) => Row::Update { old, new },
            message => panic!("{message:?}"),
        };
        let commit_lsn = Lsn(0x16_B374_D848);
        let transaction = Transaction { commit_lsn, committed_at: 848_284_620_123_456, xid: 731 };
        Change { position: Position { commit_lsn, ordinal: 3 }, transaction, relation: &self.relation, row }
    }

    /// Bytes of the change as it came.
    pub(crate) fn bytes(&self) -> usize {
        self.message.len()
    }
}

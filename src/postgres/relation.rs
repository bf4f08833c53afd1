//! A table as pgoutput describes it, ahead of the first row that needs it.
//!
//! Invariant: a relation is what the table was at that place of the WAL, not what the catalog says
//! now; a later Relation message replaces it. `pgoutput` makes it, `transaction` keeps it and lends
//! it to each change, `encode` builds a plan out of it.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::hash::{BuildHasherDefault, Hasher};

use sha2::{Digest as _, Sha256};

use super::types::Types;

/// A table, its replica identity, and the columns that its tuples carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// `pg_class.oid`; survives renames.
    pub oid: u32,
    /// The schema's name, unquoted; `pg_catalog` where the wire says nothing.
    pub schema: String,
    /// The table's name, unquoted.
    pub name: String,
    /// What the server sends of the row before a change.
    pub identity: ReplicaIdentity,
    /// The published columns, in the order of every tuple's values.
    pub columns: Vec<Column>,
}

impl Relation {
    /// The index of a column in every tuple of this relation.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// Names what the table's rows are made of: 16 hexadecimal digits, the same wherever and whenever its columns (their
    /// names, types, order, and which of them are the key) and its replica identity are the same.
    #[must_use]
    pub fn version(&self, types: &Types) -> String {
        let mut described = self.identity.name().to_owned();
        for Column { name, type_oid, type_modifier, key } in &self.columns {
            write!(described, "\n{name:?} {type_modifier} {key} ").expect("a String takes all text");
            types.signature(*type_oid, &mut described);
        }
        let mut digest = format!("{:x}", Sha256::digest(described));
        digest.truncate(16);
        digest
    }
}

/// `schema.table`, for messages.
impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// One published column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Unquoted.
    pub name: String,
    /// `pg_type.oid`. For a domain this is the domain's own; the stream does not say its base type.
    pub type_oid: u32,
    /// `pg_attribute.atttypmod`; -1 when the type has none, and for every domain.
    pub type_modifier: i32,
    /// Part of the replica identity. With `ReplicaIdentity::Full` every column is.
    pub key: bool,
}

/// `pg_class.relreplident`: what names a row in updates and deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// `d`: the primary key, if there is one.
    Default,
    /// `n`: nothing; updates and deletes of a published table fail at the server.
    Nothing,
    /// `f`: the whole row.
    Full,
    /// `i`: the columns of a chosen unique index.
    Index,
}

impl ReplicaIdentity {
    /// Its name in `ALTER TABLE … REPLICA IDENTITY`, in lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Nothing => "nothing",
            Self::Full => "full",
            Self::Index => "index",
        }
    }
}

/// A map by oid: one look-up per change, so it does not pay for a keyed hash. The server hands out
/// oids; nobody can aim at collisions.
pub type OidMap<T> = HashMap<u32, T, BuildHasherDefault<OidHasher>>;

/// Fibonacci hashing of one oid.
#[derive(Debug, Default, Clone, Copy)]
pub struct OidHasher(u64);

impl Hasher for OidHasher {
    fn write_u32(&mut self, oid: u32) {
        // 2^64 / φ, odd: spreads consecutive oids over both the low and the high bits, and the map uses both.
        self.0 = u64::from(oid).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write(&mut self, bytes: &[u8]) {
        // Not reached by u32 keys; correct for any other all the same.
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

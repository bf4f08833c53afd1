//! What `[[events]]` says, validated.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use super::RuleFormat;
use crate::route::expression::Expression;
use crate::route::select::Selection;
use crate::route::template::Template;

/// One `[[events]]`: changes of these tables that become events of the domain.
#[derive(Debug, Clone)]
pub struct RuleSettings {
    /// Where it is in the configuration: `events[1]`.
    pub key: String,
    /// Unique among the rules; the end of `message_id`.
    pub name: String,
    /// Of which tables.
    pub tables: Selection,
    /// Of which operations, by [`Row::op`](crate::change::Row::op).
    pub on: Vec<&'static str>,
    /// Of which changes; of all unless set.
    pub when: Option<Arc<Expression>>,
    /// The event's type. Variables: `{schema}`, `{table}`, `{op}`, `{new.…}`, `{old.…}`; `{name}` is already filled in.
    pub event_type: Template,
    /// `{name}.events` unless set; the same variables, and `{type}`.
    pub exchange: Template,
    /// `{type}` unless set; same variables.
    pub routing_key: Template,
    /// How its events look.
    pub format: RuleFormat,
    /// Events with the same one stay in order; by the row's key unless set; same variables.
    pub ordering_key: Option<Template>,
    /// More headers, by name; same variables.
    pub headers: Vec<(String, Template)>,
    /// What is in the event.
    pub data: DataSettings,
}

/// What is in the event of a rule.
#[derive(Debug, Clone)]
pub struct DataSettings {
    /// Which columns.
    pub columns: ColumnChoice,
    /// Columns that have another name as fields.
    pub rename: BTreeMap<String, String>,
    /// Fields that are computed.
    pub compute: Vec<(String, Arc<Expression>)>,
    /// Columns in whose place this text is.
    pub mask: BTreeMap<String, String>,
    /// Columns in whose place their keyed hash is.
    pub hash: Vec<String>,
    /// There is one if there are columns to hash.
    pub hash_key: Option<HashKey>,
}

impl DataSettings {
    /// Whether the whole row is let through, as it is.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let Self { columns, rename, compute, mask, hash, hash_key: _ } = self;
        *columns == ColumnChoice::AllBut(Vec::new())
            && rename.is_empty()
            && compute.is_empty()
            && mask.is_empty()
            && hash.is_empty()
    }
}

/// `data`: which columns are fields of the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnChoice {
    /// All but these.
    AllBut(Vec<String>),
    /// These.
    Only(Vec<String>),
}

/// The secret by which values are hashed. It is never shown.
#[derive(Clone)]
pub struct HashKey(Hmac<Sha256>);

impl HashKey {
    /// Of any length.
    ///
    /// # Panics
    /// Never: HMAC takes keys of any length.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC takes keys of any length"))
    }

    /// HMAC-SHA-256 (RFC 2104).
    #[must_use]
    pub fn hash(&self, value: &[u8]) -> [u8; 32] {
        self.0.clone().chain_update(value).finalize().into_bytes().into()
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(…)")
    }
}

impl ColumnChoice {
    /// Those that are named.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        let (Self::AllBut(columns) | Self::Only(columns)) = self;
        columns.iter().map(String::as_str)
    }

    /// Whether this column is a field.
    #[must_use]
    pub fn has(&self, column: &str) -> bool {
        match self {
            Self::AllBut(columns) => !columns.iter().any(|it| it == column),
            Self::Only(columns) => columns.iter().any(|it| it == column),
        }
    }
}

impl RuleSettings {
    /// All expressions, each with its key.
    pub fn expressions(&self) -> impl Iterator<Item = (String, &Arc<Expression>)> {
        let when = self.when.iter().map(|when| (format!("{}.when", self.key), when));
        let compute =
            self.data.compute.iter().map(|(field, computed)| (format!("{}.compute.{field}", self.key), computed));
        when.chain(compute)
    }

    /// The columns that `data` and its like name, each with its key.
    pub fn named_columns(&self) -> impl Iterator<Item = (String, &str)> {
        let DataSettings { columns, rename, compute: _, mask, hash, hash_key: _ } = &self.data;
        let named = columns.named().map(|column| ("data", column));
        let renamed = rename.keys().map(|column| ("rename", column.as_str()));
        let masked = mask.keys().map(|column| ("mask", column.as_str()));
        let hashed = hash.iter().map(|column| ("hash", column.as_str()));
        named.chain(renamed).chain(masked).chain(hashed).map(|(key, column)| (format!("{}.{key}", self.key), column))
    }
}

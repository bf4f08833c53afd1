//! What the values of a type are made of: elements, fields, the base type of a domain.
//!
//! The stream says no more of a column's type than its oid. Those of the built-in types are the same on every server
//! and are known here (`builtin`); of the others `catalog` reads what the server says now, when the stream first
//! names them. Invariant: a type of which nothing is known is a scalar, whose values are text.

mod builtin;
mod catalog;
pub(super) mod finder;

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use catalog::describe;

use super::relation::OidMap;

/// Types below are built in, and have the same oid everywhere (`FirstGenbkiObjectId`).
pub const FIRST_UNKNOWN: u32 = 10_000;

/// What a type is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// A text of its own.
    Scalar,
    /// Elements of one type, in any number of dimensions.
    Array {
        /// The elements' type.
        element: u32,
        /// What stands between two of them: `,`, and `;` for `box`.
        delimiter: u8,
    },
    /// Elements of one type between spaces (`int2vector`, `oidvector`).
    Vector {
        /// The elements' type.
        element: u32,
    },
    /// Values of another type, which a constraint may restrict.
    Domain {
        /// That type, which may be a domain, too.
        base: u32,
    },
    /// A row: names and types of the fields.
    Composite(Arc<[Field]>),
    /// Two bounds.
    Range {
        /// Their type.
        bound: u32,
    },
    /// Any number of ranges.
    Multirange {
        /// Their type.
        range: u32,
    },
    /// Pairs of texts (the extension `hstore`).
    Hstore,
    /// A text of its own, which binary transfer sends, too: enums, `citext`.
    Text,
    /// The same, with the number of the format's version before it: `ltree`.
    VersionedText,
}

/// A field of a composite type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Unquoted.
    pub name: String,
    /// `pg_type.oid`.
    pub type_oid: u32,
}

/// A type that is not built in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Its schema, unquoted.
    pub schema: String,
    /// Its name, unquoted.
    pub name: String,
    /// What it is made of.
    pub form: Form,
}

/// What is known of the types of one database.
#[derive(Debug, Clone, Default)]
pub struct Types {
    described: OidMap<Description>,
    outdated: Arc<AtomicBool>,
}

impl Types {
    /// These are known.
    #[must_use]
    pub fn of(described: impl IntoIterator<Item = (u32, Description)>) -> Self {
        Self { described: described.into_iter().collect(), outdated: Arc::default() }
    }

    /// The catalog no longer has the type, which `stands_for` has described as the stream does: a domain by its base
    /// type's name, any other type by its own.
    pub fn insert_dropped(&mut self, oid: u32, stands_for: (&str, &str)) {
        let (schema, name) = stands_for;
        let base = if schema == "pg_catalog" { builtin::by_name(name) } else { None };
        if let Entry::Vacant(entry) = self.described.entry(oid) {
            let form = base.map_or(Form::Scalar, |base| Form::Domain { base });
            entry.insert(Description { schema: schema.to_owned(), name: name.to_owned(), form });
        }
    }

    /// Whether it is built in or was described.
    #[must_use]
    pub fn knows(&self, oid: u32) -> bool {
        oid < FIRST_UNKNOWN || self.described.contains_key(&oid)
    }

    /// All that were described.
    pub fn described(&self) -> impl Iterator<Item = (u32, &Description)> {
        self.described.iter().map(|(oid, description)| (*oid, description))
    }

    /// Whether there is one among the described that can be altered.
    #[must_use]
    pub fn has_composites(&self) -> bool {
        self.described.values().any(|description| matches!(description.form, Form::Composite(_)))
    }

    /// What the type is made of.
    #[must_use]
    pub fn form(&self, oid: u32) -> Form {
        match self.described.get(&oid) {
            Some(description) => description.form.clone(),
            None => builtin::form(oid),
        }
    }

    /// Its name in `pg_type`, and for an array that of its elements with `[]`; its number, where it is not known.
    #[must_use]
    pub fn name(&self, oid: u32) -> String {
        match (self.form(oid), self.described.get(&oid)) {
            (Form::Array { element, .. }, _) => self.name(element) + "[]",
            (_, Some(description)) => description.name.clone(),
            (_, None) => builtin::name(oid).map_or_else(|| oid.to_string(), str::to_owned),
        }
    }

    /// The type without the domains around it.
    #[must_use]
    pub fn base(&self, oid: u32) -> u32 {
        let mut oid = oid;
        // The catalog knows no circles; should it be confused, a domain is good enough.
        for _ in 0..MAX_DEPTH {
            let Form::Domain { base } = self.form(oid) else { break };
            oid = base;
        }
        oid
    }

    /// What shapes the values of a type, the same on every server that has it: oids of built-in types, names of others,
    /// and what they are made of. A domain is what its base type is.
    pub fn signature(&self, oid: u32, out: &mut String) {
        self.sign(oid, out, 0);
    }

    fn sign(&self, oid: u32, out: &mut String, depth: usize) {
        use std::fmt::Write as _;
        let oid = self.base(oid);
        if oid < FIRST_UNKNOWN || depth > MAX_DEPTH {
            return write!(out, "{oid}").expect("a String takes all text");
        }
        let Some(Description { schema, name, form }) = self.described.get(&oid) else { return out.push('?') };
        match form {
            Form::Array { element, .. } | Form::Vector { element } => {
                self.sign(*element, out, depth + 1);
                out.push_str("[]");
            }
            Form::Composite(fields) => {
                for Field { name, type_oid } in fields.iter() {
                    write!(out, "({name:?}").expect("a String takes all text");
                    self.sign(*type_oid, out, depth + 1);
                    out.push(')');
                }
            }
            _ => {
                write!(out, "{schema:?}.{name:?}").expect("a String takes all text");
            }
        }
    }

    /// What a value tells of its type is not what is known of it: the type was altered since, or before.
    #[must_use]
    pub fn outdated(&self) -> &Arc<AtomicBool> {
        &self.outdated
    }

    /// Whether a value has told so.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.outdated.load(Ordering::Relaxed)
    }
}

/// Deeper types are possible, and are text.
pub const MAX_DEPTH: usize = 32;

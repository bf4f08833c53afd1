//! The JSON Schema of a value, by the [`Kind`] that the encoder has for its type: `docs/types.md`, line by line.
//!
//! The kind decides the form; what is known of the type beside it (a length, an enum's labels) narrows it.
//! Types that have a name of their own, and arrays, which hold themselves in their further dimensions, are schemas of
//! their own, to which the values refer.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::event::{Presence, free_key, nullable, object, text};
use crate::encode::values::{Kind, Kinds};
use crate::postgres::types::{Form, MAX_DEPTH, Types};

/// What the catalog knows of a type and the stream does not need.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detail {
    /// An enum's labels, in their order.
    pub labels: Vec<String>,
    /// A domain refuses null.
    pub not_null: bool,
    /// What a domain's base type is modified by (`typtypmod`); -1: by nothing.
    pub base_modifier: i32,
    /// What a domain's base type is, as SQL writes it.
    pub base_written: String,
    /// A composite's fields: what their types are modified by, and as SQL writes them.
    pub fields: Vec<(i32, String)>,
}

/// A type, as a column or a field has it.
#[derive(Debug, Clone, Copy)]
pub struct Typed<'a> {
    /// `pg_type.oid`
    pub oid: u32,
    /// `atttypmod`; -1: none.
    pub modifier: i32,
    /// As SQL writes it.
    pub written: &'a str,
}

/// Makes the schemas of values, and keeps those that others refer to.
#[derive(Debug)]
pub struct Schemas<'a> {
    kinds: Kinds<'a>,
    details: &'a BTreeMap<u32, Detail>,
    components: BTreeMap<String, Value>,
    /// Under which key each of them is, by what it describes.
    keys: BTreeMap<String, String>,
}

impl<'a> Schemas<'a> {
    /// For types of these kinds.
    #[must_use]
    pub fn new(kinds: Kinds<'a>, details: &'a BTreeMap<u32, Detail>) -> Self {
        Self { kinds, details, components: BTreeMap::new(), keys: BTreeMap::new() }
    }

    /// All types of the database that were asked for.
    #[must_use]
    pub fn types(&self) -> &'a Types {
        self.kinds.types
    }

    /// The schemas that others refer to, by name.
    #[must_use]
    pub fn into_components(self) -> BTreeMap<String, Value> {
        self.components
    }

    /// Keeps a schema, and refers to it.
    pub fn refer(&mut self, name: &str, make: impl FnOnce(&mut Self) -> Value) -> Value {
        if let Some(key) = self.keys.get(name) {
            return reference(key);
        }
        let key = free_key(name, |key| self.keys.values().any(|taken| taken == key));
        // One that refers to itself finds itself.
        self.keys.insert(name.to_owned(), key.clone());
        let schema = make(self);
        self.components.insert(key.clone(), schema);
        reference(&key)
    }

    /// The schema of a type's values that are not null.
    pub fn value(&mut self, typed: Typed<'a>) -> Value {
        let kind = self.kinds.of(typed.oid);
        self.of(&kind, typed)
    }

    /// The schema of the text of its values, as it goes into a header.
    pub fn text_of(&mut self, typed: Typed<'a>) -> Value {
        // Of other kinds, the JSON is not the text.
        match self.kinds.of(typed.oid) {
            Kind::Text => self.value(typed),
            Kind::Bool
            | Kind::Integer
            | Kind::Number
            | Kind::Json
            | Kind::Timestamp
            | Kind::TimestampTz
            | Kind::Bytea
            | Kind::Array(_)
            | Kind::Composite(_)
            | Kind::Hstore => text(),
        }
    }

    /// Whether a column of the type holds no nulls, although it might.
    #[must_use]
    pub fn refuses_null(&self, type_oid: u32) -> bool {
        let mut oid = type_oid;
        for _ in 0..MAX_DEPTH {
            let Form::Domain { base } = self.types().form(oid) else { break };
            if self.details.get(&oid).is_some_and(|detail| detail.not_null) {
                return true;
            }
            oid = base;
        }
        false
    }

    /// The labels, if its values are those of an enum.
    #[must_use]
    pub fn labels(&self, type_oid: u32) -> Option<&'a [String]> {
        let detail = self.details.get(&self.types().base(type_oid))?;
        Some(detail.labels.as_slice()).filter(|labels| !labels.is_empty())
    }

    fn of(&mut self, kind: &Kind, typed: Typed<'a>) -> Value {
        let typed = self.base(typed);
        match kind {
            Kind::Bool => json!({"type": "boolean"}),
            Kind::Integer => integer(typed.oid),
            Kind::Number => json!({"type": ["number", "string"], "pattern": "^(NaN|-?Infinity)$"}),
            Kind::Json => json!({}),
            Kind::Timestamp => json!({"type": "string", "pattern": timestamp("")}),
            // The format that everybody knows, and what is not in it.
            Kind::TimestampTz => json!({"type": "string", "pattern": timestamp("Z"), "anyOf": [
                {"format": "date-time"}, {"pattern": r"^-?infinity$|^\d{5,}-| BC$"}]}),
            Kind::Bytea => json!({"type": "string", "contentEncoding": "base64", "pattern": "^[A-Za-z0-9+/]*={0,2}$"}),
            Kind::Text => self.text(typed),
            Kind::Array(array) => self.array(array.element(), array.is_bare(), typed),
            Kind::Composite(composite) => {
                let kinds: Vec<Kind> = composite.kinds().cloned().collect();
                self.composite(&kinds, typed)
            }
            Kind::Hstore => json!({"type": "object", "additionalProperties": {"type": ["string", "null"]}}),
        }
    }

    /// The type without the domains around it, with what these say of it.
    fn base(&self, typed: Typed<'a>) -> Typed<'a> {
        let mut typed = typed;
        for _ in 0..MAX_DEPTH {
            let Form::Domain { base } = self.types().form(typed.oid) else { break };
            let Some(detail) = self.details.get(&typed.oid) else { break };
            typed = Typed { oid: base, modifier: detail.base_modifier, written: &detail.base_written };
        }
        typed
    }

    fn text(&mut self, typed: Typed<'a>) -> Value {
        if let Some(labels) = self.labels(typed.oid) {
            let schema = json!({"type": "string", "enum": labels});
            return self.refer(&format!("type.{}", typed.written), |_| schema);
        }
        scalar(typed)
    }

    /// Of as many dimensions as the value has, whatever the column says.
    fn array(&mut self, element: &Kind, is_bare: bool, typed: Typed<'a>) -> Value {
        let (Form::Array { element: oid, .. } | Form::Vector { element: oid }) = self.types().form(typed.oid) else {
            return json!({"type": "array"});
        };
        let written = typed.written.strip_suffix("[]").unwrap_or(typed.written);
        let of_element = Typed { oid, modifier: typed.modifier, written };
        if is_bare {
            let items = self.of(element, of_element);
            return json!({"type": "array", "items": items});
        }
        let name = format!("array.{written}");
        self.refer(&name, |it| {
            let items = it.of(element, of_element);
            let further = it.refer(&name, |_| json!({}));
            json!({"type": "array", "items": {"anyOf": [items, {"type": "null"}, further]}})
        })
    }

    /// Any field may be null.
    fn composite(&mut self, kinds: &[Kind], typed: Typed<'a>) -> Value {
        let Form::Composite(fields) = self.types().form(typed.oid) else { return json!({"type": "object"}) };
        let details = self.details.get(&typed.oid).map_or(&[][..], |detail| detail.fields.as_slice());
        self.refer(&format!("type.{}", typed.written), |it| {
            let fields = fields.iter().zip(kinds).enumerate().map(|(index, (field, kind))| {
                let (modifier, written) =
                    details.get(index).map_or((-1, ""), |(modifier, written)| (*modifier, written));
                let schema = it.of(kind, Typed { oid: field.type_oid, modifier, written });
                (field.name.clone(), nullable(schema), Presence::Always)
            });
            object(fields.collect::<Vec<_>>())
        })
    }
}

fn reference(key: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{key}")})
}

/// Limits as exact as JSON can say them.
fn integer(type_oid: u32) -> Value {
    let (minimum, maximum) = match type_oid {
        21 => (i64::from(i16::MIN), i64::from(i16::MAX)),
        23 => (i64::from(i32::MIN), i64::from(i32::MAX)),
        _ => (i64::MIN, i64::MAX),
    };
    json!({"type": "integer", "minimum": minimum, "maximum": maximum})
}

fn timestamp(zone: &str) -> String {
    format!(r"^(\d{{4,6}}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{{1,6}})?{zone}( BC)?|-?infinity)$")
}

/// A string, and what is known of it by its type (`src/include/catalog/pg_type.dat`).
fn scalar(typed: Typed<'_>) -> Value {
    const DURATION: &str = r"^(P(-?\d+Y)?(-?\d+M)?(-?\d+D)?(T(-?\d+H)?(-?\d+M)?(-?\d+(\.\d+)?S)?)?|-?infinity)$";
    const TIME: &str = r"\d\d:\d\d:\d\d(\.\d{1,6})?";
    // A modifier holds a length, and four for its header (`VARHDRSZ`); of bits, the length alone.
    let characters = (typed.modifier >= 4).then(|| typed.modifier - 4);
    let bits = (typed.modifier >= 0).then_some(typed.modifier);
    let mut schema = Map::from_iter([("type".to_owned(), Value::from("string"))]);
    let mut set = |keyword: &str, value: Value| _ = schema.insert(keyword.to_owned(), value);
    match typed.oid {
        // varchar
        1043 => {
            if let Some(most) = characters {
                set("maxLength", most.into());
            }
        }
        // bpchar: filled up with spaces
        1042 => {
            if let Some(length) = characters {
                set("minLength", length.into());
                set("maxLength", length.into());
            }
        }
        // numeric
        1700 => set("pattern", r"^(-?\d+(\.\d+)?|NaN|-?Infinity)$".into()),
        // oid, xid, cid, xid8
        26 | 28 | 29 | 5069 => set("pattern", r"^\d+$".into()),
        // date
        1082 => set("pattern", r"^(\d{4,7}-\d\d-\d\d( BC)?|-?infinity)$".into()),
        // time, timetz
        1083 => set("pattern", format!("^{TIME}$").into()),
        1266 => set("pattern", format!(r"^{TIME}[+-]\d\d(:\d\d){{0,2}}$").into()),
        // interval
        1186 => set("pattern", DURATION.into()),
        // uuid
        2950 => {
            set("format", "uuid".into());
            // Few readers check a format.
            set("pattern", "^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$".into());
        }
        // bit, varbit
        1560 => set("pattern", bits.map_or_else(|| "^[01]*$".to_owned(), |n| format!("^[01]{{{n}}}$")).into()),
        1562 => set("pattern", bits.map_or_else(|| "^[01]*$".to_owned(), |n| format!("^[01]{{0,{n}}}$")).into()),
        // macaddr, macaddr8
        829 => set("pattern", "^([0-9a-f]{2}:){5}[0-9a-f]{2}$".into()),
        774 => set("pattern", "^([0-9a-f]{2}:){7}[0-9a-f]{2}$".into()),
        // pg_lsn
        3220 => set("pattern", format!("^{}$", super::event::LSN).into()),
        _ => {}
    }
    Value::Object(schema)
}

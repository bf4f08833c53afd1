//! A schema with its references followed and its parts put together, as far as this module's neighbours write them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// What values a schema allows.
#[derive(Debug, Default)]
pub(super) struct Shape<'d> {
    /// Without `null`; none: anything.
    types: Option<BTreeSet<&'d str>>,
    pub(super) nullable: bool,
    /// What may not differ at all: `const`, `contentEncoding`, `format`, `pattern`.
    form: BTreeMap<&'static str, &'d Value>,
    /// What may become narrower.
    limits: BTreeMap<&'static str, i64>,
    pub(super) labels: Option<Vec<&'d Value>>,
    pub(super) fields: BTreeMap<&'d str, &'d Value>,
    pub(super) required: BTreeSet<&'d str>,
    pub(super) items: Option<&'d Value>,
    /// The fields that have no name.
    pub(super) others: Option<&'d Value>,
    /// More than one way.
    pub(super) choices: Vec<&'d Value>,
    /// As SQL writes the type, where it is a column's.
    sql: Option<&'d str>,
}

/// A limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facet {
    keyword: &'static str,
    is_upper: bool,
}

const FORM: [&str; 4] = ["const", "contentEncoding", "format", "pattern"];

/// The reference that a schema is, or is with a description, or with null beside it.
pub(super) fn reference(schema: &Value) -> Option<&str> {
    let parts = |keyword: &str| schema.get(keyword).and_then(Value::as_array).map(Vec::as_slice);
    match (parts("allOf"), parts("anyOf")) {
        (Some([only]), _) => reference(only),
        (_, Some([one, null])) if is_null(null) => reference(one),
        _ => schema.get("$ref").and_then(Value::as_str),
    }
}

fn is_null(schema: &Value) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("null")
}

/// What a reference leads to, or the value itself.
pub(super) fn resolved<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    let mut value = value;
    // A document that goes in circles is not worth more.
    for _ in 0..8 {
        let Some(reference) = value.get("$ref").and_then(Value::as_str) else { break };
        let Some(target) = reference.strip_prefix('#').and_then(|pointer| document.pointer(pointer)) else { break };
        value = target;
    }
    value
}

impl<'d> Shape<'d> {
    pub(super) fn of(document: &'d Value, schema: &'d Value) -> Self {
        let mut shape = Self::default();
        shape.add(document, schema, 0);
        if shape.types.is_none() && shape.form.is_empty() && shape.labels.is_none() && shape.choices.is_empty() {
            shape.nullable = true;
        }
        shape
    }

    fn add(&mut self, document: &'d Value, schema: &'d Value, depth: usize) {
        let Some(keywords) = resolved(document, schema).as_object() else { return };
        if depth > 8 {
            return;
        }
        self.sql = self.sql.or_else(|| keywords.get("x-postgres-type").and_then(Value::as_str));
        for part in list(keywords, "allOf") {
            self.add(document, part, depth + 1);
        }
        self.choose(document, list(keywords, "anyOf"), depth);
        match keywords.get("type") {
            Some(Value::String(one)) => self.add_types([one.as_str()]),
            Some(Value::Array(several)) => self.add_types(several.iter().filter_map(Value::as_str)),
            Some(_) | None => {}
        }
        if let Some(Value::Array(labels)) = keywords.get("enum") {
            self.nullable |= labels.contains(&Value::Null);
            self.labels = Some(labels.iter().filter(|label| !label.is_null()).collect());
        }
        self.form.extend(FORM.iter().filter_map(|keyword| Some((*keyword, keywords.get(*keyword)?))));
        self.limits.extend(Facet::ALL.iter().filter_map(|it| Some((it.keyword, keywords.get(it.keyword)?.as_i64()?))));
        if let Some(Value::Object(properties)) = keywords.get("properties") {
            self.fields.extend(properties.iter().map(|(name, schema)| (name.as_str(), schema)));
        }
        self.required.extend(list(keywords, "required").filter_map(Value::as_str));
        self.items = self.items.or_else(|| keywords.get("items"));
        self.others = self.others.or_else(|| keywords.get("additionalProperties"));
    }

    /// Null as one of two choices is what makes the other nullable.
    fn choose(&mut self, document: &'d Value, choices: impl Iterator<Item = &'d Value>, depth: usize) {
        let (null, others): (Vec<_>, Vec<_>) = choices.partition(|choice| is_null(choice));
        self.nullable |= !null.is_empty();
        match others.as_slice() {
            [only] => self.add(document, only, depth + 1),
            several => self.choices.extend(several),
        }
    }

    fn add_types(&mut self, types: impl IntoIterator<Item = &'d str>) {
        let known = self.types.get_or_insert_default();
        for kind in types {
            if kind == "null" { self.nullable = true } else { _ = known.insert(kind) }
        }
    }

    /// Whether its values are of the same form, whatever their limits.
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        self.types == other.types
            && self.form == other.form
            && self.choices.len() == other.choices.len()
            && self.labels.is_some() == other.labels.is_some()
    }

    /// For a person: the type in SQL, if that is what makes the difference, else what the schema says.
    pub(super) fn name(&self, other: &Self) -> String {
        if let Some(sql) = self.sql
            && self.sql != other.sql
        {
            return sql.to_owned();
        }
        let types = self.types.iter().flatten().copied().collect::<Vec<_>>().join(" or ");
        let form: Map<String, Value> =
            self.form.iter().map(|(keyword, value)| ((*keyword).to_owned(), (*value).clone())).collect();
        match (types.is_empty(), form.is_empty()) {
            (true, true) if self.types.is_none() => "any value".to_owned(),
            (true, true) => "null".to_owned(),
            (false, true) => types,
            (true, false) => json!(form).to_string(),
            (false, false) => format!("{types} {}", json!(form)),
        }
    }
}

fn list<'d>(keywords: &'d Map<String, Value>, keyword: &str) -> impl Iterator<Item = &'d Value> {
    keywords.get(keyword).and_then(Value::as_array).into_iter().flatten()
}

impl Facet {
    /// All that values of this module's neighbours have.
    pub(super) const ALL: [Self; 4] = [
        Self { keyword: "minimum", is_upper: false },
        Self { keyword: "maximum", is_upper: true },
        Self { keyword: "minLength", is_upper: false },
        Self { keyword: "maxLength", is_upper: true },
    ];

    /// What the limit was and is, if it leaves more room now.
    pub(super) fn widened(self, was: &Shape<'_>, is: &Shape<'_>) -> Option<(String, String)> {
        let before = *was.limits.get(self.keyword)?;
        let now = is.limits.get(self.keyword).copied();
        let is_wider = now.is_none_or(|now| if self.is_upper { now > before } else { now < before });
        let limit = |limit: Option<i64>| match limit {
            Some(limit) => format!("{} {limit}", self.keyword),
            None => format!("no {}", self.keyword),
        };
        is_wider.then(|| match (was.sql, is.sql) {
            (Some(was), Some(is)) if was != is => (was.to_owned(), is.to_owned()),
            _ => (limit(Some(before)), limit(now)),
        })
    }
}

//! The fields of a JSON object that a logical message holds, as the columns of an outbox row.
//!
//! A string is its text; a number, a boolean, an object or an array is its JSON as it was written; null, and a field that is
//! not there, are null. Of fields of the same name the last counts, as in PostgreSQL's `jsonb`.

use std::fmt;
use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::values::Kind;
use crate::postgres::pgoutput::Value;

/// What a large message has made larger than this is given back, in bytes.
const KEEP_BYTES: usize = 1 << 20;
static TEXT: Kind = Kind::Text;
static JSON: Kind = Kind::Json;

/// The fields that are used, in buffers that are used again.
#[derive(Debug, Default)]
pub struct Fields {
    text: String,
    /// By the field's place among the names; none: null.
    values: Vec<Option<Field>>,
}

#[derive(Debug, Clone)]
struct Field {
    text: Range<usize>,
    is_string: bool,
}

/// The content is not what an outbox takes. Says nothing of what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its content is no JSON object in UTF-8 (line {line}, column {column})")]
pub struct NoObject {
    line: usize,
    column: usize,
}

impl Fields {
    /// Reads the fields of these names; others are passed over.
    ///
    /// # Errors
    /// The content is no JSON object.
    pub fn read(&mut self, names: &[String], content: &[u8]) -> Result<(), NoObject> {
        self.text.clear();
        self.text.shrink_to(KEEP_BYTES);
        self.values.clear();
        self.values.resize(names.len(), None);
        let mut json = serde_json::Deserializer::from_slice(content);
        let read = Object { names, fields: self }.deserialize(&mut json).and_then(|()| json.end());
        read.map_err(|error| NoObject { line: error.line(), column: error.column() })
    }

    /// One field.
    pub(super) fn get(&self, field: usize) -> Value<'_> {
        match self.values.get(field) {
            Some(Some(Field { text, .. })) => Value::Text(&self.text.as_bytes()[text.clone()]),
            Some(None) | None => Value::Null,
        }
    }

    /// Whether it is text, or JSON.
    pub(super) fn kind(&self, field: usize) -> &'static Kind {
        match self.values.get(field) {
            Some(Some(Field { is_string: false, .. })) => &JSON,
            Some(Some(Field { is_string: true, .. }) | None) | None => &TEXT,
        }
    }

    fn put(&mut self, field: usize, json: &str) -> serde_json::Result<()> {
        self.values[field] = None;
        if json == "null" {
            return Ok(());
        }
        let start = self.text.len();
        let is_string = json.starts_with('"');
        if !is_string {
            self.text.push_str(json);
        } else if json.contains('\\') {
            self.text.push_str(&serde_json::from_str::<String>(json)?);
        } else {
            self.text.push_str(&json[1..json.len() - 1]);
        }
        self.values[field] = Some(Field { text: start..self.text.len(), is_string });
        Ok(())
    }
}

struct Object<'f> {
    names: &'f [String],
    fields: &'f mut Fields,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key_seed(Name(self.names))? {
            match field {
                Some(field) => {
                    let json = map.next_value::<&RawValue>()?;
                    self.fields.put(field, json.get()).map_err(A::Error::custom)?;
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Which of the names a key is.
struct Name<'f>(&'f [String]);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Option<usize>, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Option<usize>, E> {
        Ok(self.0.iter().position(|name| name == key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &[u8]) -> Result<Vec<Option<String>>, NoObject> {
        let names = ["a", "b", "größe \"q\""].map(str::to_owned);
        let mut fields = Fields::default();
        // What was there before is gone.
        fields.read(&names, br#"{"a":"before","b":{}}"#).expect("an object");
        fields.read(&names, content)?;
        let text = |field| match fields.get(field) {
            Value::Text(text) => {
                let kind = if matches!(fields.kind(field), Kind::Json) { "json " } else { "" };
                Some(format!("{kind}{}", String::from_utf8_lossy(text)))
            }
            Value::Null | Value::Unchanged | Value::Binary(_) => None,
        };
        Ok((0..3).map(text).collect())
    }

    #[test]
    fn a_field_is_its_text_or_its_json_as_it_was_written() {
        let all =
            |a: Option<&str>, b: Option<&str>, c: Option<&str>| Ok([a, b, c].map(|it| it.map(str::to_owned)).to_vec());
        assert_eq!(read(b"{}"), all(None, None, None));
        assert_eq!(
            read(r#" {"a": "x\n\"\u00fc😀\\" , "b":  {"c": [1.50, "y"]} , "größe \"q\"": 1e400 } "#.as_bytes()),
            all(Some("x\n\"ü😀\\"), Some(r#"json {"c": [1.50, "y"]}"#), Some("json 1e400"))
        );
        assert_eq!(read(br#"{"a":null,"b":"","other":{"a":1}}"#), all(None, Some(""), None));
        assert_eq!(
            read(br#"{"a":1,"a":true,"b":"x","b":null}"#),
            all(Some("json true"), None, None),
            "the last counts"
        );
    }

    #[test]
    fn what_is_no_object_is_refused_without_a_word_of_it() {
        let deep = [b"{\"a\":".repeat(100_000), b"1".to_vec()].concat();
        let contents: [&[u8]; 12] = [
            b"",
            b"secret",
            b"\"secret\"",
            b"[{}]",
            b"null",
            b"{\"a\":\"secret\"",
            b"{\"a\":secret}",
            b"{} {}",
            b"{\"a\":\"\xff\"}",
            b"{\"a\":\"\\ud800\"}",
            b"{\"a\":\"x\ny\"}",
            &deep,
        ];
        for content in contents {
            let error = read(content).expect_err("no object").to_string();
            assert!(error.starts_with("its content is no JSON object") && !error.contains("secret"), "{error}");
        }
    }
}

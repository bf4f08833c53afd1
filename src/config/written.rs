//! The configuration as the user wrote it: every key optional, no unknown key, no meaning yet.
//!
//! A value from the environment is always text, so numbers, booleans and lists are read from text too.
//! Text stays what it is: a password `01234` is never a number. `layers` fills this, `resolve` gives it
//! meaning; `docs/configuration.md` describes each key (a test compares the two).

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};

/// The whole file.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Written {
    pub(super) name: Option<String>,
    #[serde(deserialize_with = "number")]
    pub(super) shutdown_timeout_ms: Option<i64>,
    #[serde(deserialize_with = "number")]
    pub(super) standby_timeout_ms: Option<i64>,
    #[serde(deserialize_with = "flag")]
    pub(super) fail_fast: Option<bool>,
    pub(super) source: Source,
    pub(super) changes: Changes,
    #[serde(deserialize_with = "one_or_more")]
    pub(super) outbox: Vec<Outbox>,
    #[serde(deserialize_with = "one_or_more")]
    pub(super) events: Vec<Rule>,
    pub(super) hash: Hash,
    pub(super) messages: Messages,
    pub(super) rabbitmq: Rabbit,
    pub(super) checkpoint: Checkpoint,
    pub(super) replay: Replay,
    pub(super) http: Http,
    pub(super) otlp: Otlp,
    pub(super) log: Log,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Source {
    pub(super) url: Option<String>,
    pub(super) password: Option<String>,
    pub(super) password_file: Option<String>,
    #[serde(deserialize_with = "list")]
    pub(super) tables: Option<Vec<String>>,
    pub(super) slot: Option<String>,
    pub(super) publication: Option<String>,
    #[serde(deserialize_with = "flag")]
    pub(super) binary: Option<bool>,
    #[serde(deserialize_with = "number")]
    pub(super) report_every_ms: Option<i64>,
    #[serde(deserialize_with = "number")]
    pub(super) watch_every_ms: Option<i64>,
    #[serde(deserialize_with = "flag")]
    pub(super) streaming: Option<bool>,
    #[serde(deserialize_with = "number")]
    pub(super) streaming_memory_bytes: Option<i64>,
    pub(super) streaming_folder: Option<String>,
    pub(super) origin: Option<String>,
    #[serde(deserialize_with = "one_or_more")]
    pub(super) filters: Vec<Filter>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Filter {
    pub(super) table: Option<String>,
    #[serde(rename = "where")]
    pub(super) rows: Option<String>,
    #[serde(deserialize_with = "list")]
    pub(super) columns: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Changes {
    pub(super) exchange: Option<String>,
    pub(super) routing_key: Option<String>,
    pub(super) format: Option<String>,
    pub(super) key: Option<String>,
    pub(super) numeric: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Outbox {
    pub(super) table: Option<String>,
    pub(super) prefix: Option<String>,
    pub(super) exchange: Option<String>,
    pub(super) routing_key: Option<String>,
    pub(super) format: Option<String>,
    pub(super) key: Option<String>,
    pub(super) on_update: Option<String>,
    #[serde(deserialize_with = "flag")]
    pub(super) expand_json_payload: Option<bool>,
    #[serde(deserialize_with = "flag")]
    pub(super) tombstone_on_empty_payload: Option<bool>,
    pub(super) headers: Option<BTreeMap<String, String>>,
    pub(super) envelope: Option<BTreeMap<String, String>>,
    pub(super) columns: Columns,
    pub(super) properties: Properties,
    pub(super) route: Route,
    pub(super) cleanup: OutboxCleanup,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct OutboxCleanup {
    #[serde(deserialize_with = "flag")]
    pub(super) enabled: Option<bool>,
    #[serde(deserialize_with = "number")]
    pub(super) batch_rows: Option<i64>,
    #[serde(deserialize_with = "number")]
    pub(super) every_ms: Option<i64>,
    #[serde(deserialize_with = "number")]
    pub(super) drop_partitions_after_ms: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Columns {
    pub(super) id: Option<String>,
    pub(super) aggregate_type: Option<String>,
    pub(super) aggregate_id: Option<String>,
    #[serde(rename = "type")]
    pub(super) event_type: Option<String>,
    pub(super) payload: Option<String>,
    pub(super) timestamp: Option<String>,
    pub(super) schema_version: Option<String>,
    pub(super) trace_context: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Properties {
    pub(super) app_id: Option<String>,
    pub(super) content_encoding: Option<String>,
    pub(super) content_type: Option<String>,
    pub(super) correlation_id: Option<String>,
    pub(super) expiration: Option<String>,
    pub(super) priority: Option<String>,
    pub(super) reply_to: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Route {
    pub(super) column: Option<String>,
    pub(super) pattern: Option<String>,
    pub(super) replacement: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Rule {
    pub(super) name: Option<String>,
    #[serde(deserialize_with = "list")]
    pub(super) table: Option<Vec<String>>,
    #[serde(deserialize_with = "list")]
    pub(super) on: Option<Vec<String>>,
    pub(super) when: Option<String>,
    #[serde(rename = "type")]
    pub(super) event_type: Option<String>,
    pub(super) exchange: Option<String>,
    pub(super) routing_key: Option<String>,
    pub(super) format: Option<String>,
    pub(super) key: Option<String>,
    pub(super) headers: Option<BTreeMap<String, String>>,
    #[serde(deserialize_with = "list")]
    pub(super) data: Option<Vec<String>>,
    pub(super) rename: Option<BTreeMap<String, String>>,
    pub(super) compute: Option<BTreeMap<String, String>>,
    pub(super) mask: Option<BTreeMap<String, String>>,
    #[serde(deserialize_with = "list")]
    pub(super) hash: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Hash {
    pub(super) key: Option<String>,
    pub(super) key_file: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Messages {
    #[serde(deserialize_with = "list")]
    pub(super) prefixes: Option<Vec<String>>,
    pub(super) exchange: Option<String>,
    pub(super) routing_key: Option<String>,
    pub(super) format: Option<String>,
    pub(super) content_type: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Rabbit {
    pub(super) url: Option<String>,
    pub(super) password: Option<String>,
    pub(super) password_file: Option<String>,
    #[serde(deserialize_with = "flag")]
    pub(super) declare: Option<bool>,
    pub(super) exchange_type: Option<String>,
    #[serde(deserialize_with = "number")]
    pub(super) lanes: Option<i64>,
    #[serde(deserialize_with = "number")]
    pub(super) in_flight_events: Option<i64>,
    #[serde(deserialize_with = "number")]
    pub(super) in_flight_bytes: Option<i64>,
    #[serde(deserialize_with = "number")]
    pub(super) confirm_timeout_ms: Option<i64>,
    #[serde(deserialize_with = "number")]
    pub(super) max_message_bytes: Option<i64>,
    pub(super) unroutable: Policy,
    pub(super) poison: Policy,
    pub(super) parking: Parking,
    #[serde(deserialize_with = "one_or_more")]
    pub(super) exchanges: Vec<Exchange>,
    #[serde(deserialize_with = "one_or_more")]
    pub(super) queues: Vec<Queue>,
    #[serde(deserialize_with = "one_or_more")]
    pub(super) bindings: Vec<Binding>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Exchange {
    pub(super) name: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    #[serde(deserialize_with = "flag")]
    pub(super) durable: Option<bool>,
    #[serde(deserialize_with = "flag")]
    pub(super) auto_delete: Option<bool>,
    #[serde(deserialize_with = "flag")]
    pub(super) internal: Option<bool>,
    #[serde(rename = "alternate_exchange")]
    pub(super) alternate: Option<String>,
    pub(super) arguments: Option<toml::Table>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Queue {
    pub(super) name: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) dead_letter_exchange: Option<String>,
    pub(super) dead_letter_routing_key: Option<String>,
    pub(super) arguments: Option<toml::Table>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Binding {
    pub(super) exchange: Option<String>,
    pub(super) queue: Option<String>,
    pub(super) to_exchange: Option<String>,
    pub(super) routing_key: Option<String>,
    pub(super) arguments: Option<toml::Table>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Policy {
    pub(super) policy: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Parking {
    pub(super) exchange: Option<String>,
    pub(super) queue: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Checkpoint {
    pub(super) store: Option<String>,
    pub(super) path: Option<String>,
    pub(super) url: Option<String>,
    pub(super) password: Option<String>,
    pub(super) password_file: Option<String>,
    pub(super) table: Option<String>,
    #[serde(deserialize_with = "number")]
    pub(super) interval_ms: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Replay {
    #[serde(deserialize_with = "number")]
    pub(super) retain_bytes: Option<i64>,
    #[serde(deserialize_with = "number")]
    pub(super) retain_ms: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Http {
    pub(super) listen: Option<String>,
    pub(super) token: Option<String>,
    pub(super) token_file: Option<String>,
    pub(super) tls_certificate_file: Option<String>,
    pub(super) tls_key_file: Option<String>,
    #[serde(deserialize_with = "number")]
    pub(super) ready_lag_bytes: Option<i64>,
    #[serde(deserialize_with = "number")]
    pub(super) ready_lag_ms: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Otlp {
    pub(super) endpoint: Option<String>,
    pub(super) token: Option<String>,
    pub(super) token_file: Option<String>,
    pub(super) headers: Option<BTreeMap<String, String>>,
    pub(super) tls_ca_file: Option<String>,
    #[serde(deserialize_with = "number")]
    pub(super) timeout_ms: Option<i64>,
    #[serde(deserialize_with = "number")]
    pub(super) sample_per_million: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Log {
    pub(super) format: Option<String>,
    pub(super) level: Option<String>,
}

/// An integer, or text that is one.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    struct Number;
    impl Visitor<'_> for Number {
        type Value = i64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an integer")
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<i64, E> {
            Ok(value)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<i64, E> {
            text.trim().parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
        }
    }
    deserializer.deserialize_any(Number).map(Some)
}

/// A boolean, or text that is one.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    struct Flag;
    impl Visitor<'_> for Flag {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("true or false")
        }

        fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
            Ok(value)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
            text.trim().parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
        }
    }
    deserializer.deserialize_any(Flag).map(Some)
}

/// A list of texts, or one text with commas between them.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    struct List;
    impl<'de> Visitor<'de> for List {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of strings")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Vec<String>, E> {
            Ok(split_list(text))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<String>, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = items.next_element()? {
                list.push(item);
            }
            Ok(list)
        }
    }
    deserializer.deserialize_any(List).map(Some)
}

/// A section `[x]`, or several `[[x]]`.
fn one_or_more<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct Sections<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Sections<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("struct of sections")
        }

        fn visit_map<A: MapAccess<'de>>(self, section: A) -> Result<Vec<T>, A::Error> {
            T::deserialize(MapAccessDeserializer::new(section)).map(|section| vec![section])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut sections = Vec::new();
            while let Some(section) = items.next_element()? {
                sections.push(section);
            }
            Ok(sections)
        }
    }
    deserializer.deserialize_any(Sections(PhantomData))
}

/// Splits at commas outside double quotes, because a quoted table name may hold one.
fn split_list(text: &str) -> Vec<String> {
    let mut quoted = false;
    text.split(|character| {
        quoted ^= character == '"';
        character == ',' && !quoted
    })
    .map(|item| item.trim().to_owned())
    .filter(|item| !item.is_empty())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_in_one_text_splits_at_commas_outside_quotes() {
        assert_eq!(split_list(r#"public.*, !public."a,b" ,"#), ["public.*", r#"!public."a,b""#]);
        assert!(split_list(" ").is_empty());
    }
}

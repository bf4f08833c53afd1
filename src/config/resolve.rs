//! From what was written to settings that need no more checks.
//!
//! Every default and every range is here, and in `docs/configuration.md`. Nothing is asked of a server;
//! the only files read are those of the passwords.

mod events;
mod filters;
mod http;
mod otlp;
mod outbox;
mod topology;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::format::{OF_CHANGES, OF_OWN_DATA};
use super::layers::{Layers, Origins};
use super::written::{self, Written};
use super::{
    ChangesSettings, CheckpointSettings, DataFormat, LogFormat, LogSettings, MessagesSettings, Ordering, Origin,
    ParkingSettings, PoisonPolicy, RabbitSettings, Retain, Settings, SourceSettings, StoreSettings, Streaming,
    Unroutable,
};
use crate::encode::values::Numeric;
use crate::failure::Definite;
use crate::postgres::conninfo::Conninfo;
use crate::postgres::ident::{MAX_IDENTIFIER_BYTES, parse_qualified};
use crate::progress::Limits;
use crate::rabbit::uri::BrokerUri;
use crate::route::exchanges;
use crate::route::messages::Prefixes;
use crate::route::select::Selection;
use crate::route::template::Template;
use crate::telemetry::logging;

/// What changes' templates may use. The outbox's may use its columns, which only the server knows.
const CHANGES_VARIABLES: [(&str, ()); 3] = [("schema", ()), ("table", ()), ("op", ())];
/// AMQP 0-9-1 short strings.
const MAX_NAME_BYTES: usize = 255;
/// A day: no wait for a peer is longer.
const MAX_WAIT_MS: i64 = 86_400_000;
const NUMERIC: [(&str, Numeric); 2] = [("string", Numeric::String), ("number", Numeric::Number)];
const CONNECTION_STRING: &str =
    "a PostgreSQL connection string, as in url = \"postgres://app@db1/shop?sslmode=verify-full\"";
const MEBIBYTE: i64 = 1024 * 1024;
/// For large temporary files, by the Filesystem Hierarchy Standard; `/tmp` is often held in memory.
const STREAMING_FOLDER: &str = "/var/tmp";

/// Checks and completes everything.
pub(super) fn settings(layers: Layers) -> Result<Settings, Definite> {
    let Layers { written, origins } = layers;
    let Written {
        name,
        shutdown_timeout_ms,
        standby_timeout_ms,
        fail_fast,
        mut source,
        changes,
        outbox,
        events,
        hash,
        messages,
        rabbitmq,
        checkpoint,
        replay,
        http,
        otlp,
        log,
    } = written;
    let at = &origins;
    let name = required(at, "name", name, "a short name for this pipeline, as in name = \"shop\"; it names the slot")?;
    let name = slot_name(at, "name", name)?;
    let standby_timeout =
        standby_timeout_ms.map(|ms| millis(at, "standby_timeout_ms", Some(ms), ms, 1..=MAX_WAIT_MS)).transpose()?;
    let retain = self::retain(at, &replay)?;
    let filters = std::mem::take(&mut source.filters);
    let mut source = SourceSettings { standby_timeout, retain, ..self::source(at, source, &name)? };
    let outboxes = outbox::outboxes(at, outbox, &name)?;
    let messages = self::messages(at, messages, &name)?;
    let mut rules = events::rules(at, events, hash, &outboxes, &name)?;
    source.filters = filters::filters(at, filters, &source.tables, &outboxes, &rules)?;
    if source.tables.is_empty() && outboxes.is_empty() && rules.is_empty() && messages.prefixes.is_empty() {
        let hint = "write source.tables = [\"public.*\"] for the changes of tables, an [outbox] section, or both";
        return Err(at.wrong("source.tables", "is missing, and there is no [outbox]: nothing is selected", hint));
    }
    let checkpoint = self::checkpoint(at, checkpoint, &name, &source)?;
    if let StoreSettings::Postgres { schema, table, .. } = &checkpoint.store {
        // Each store of the checkpoint would be a change to publish, and to store.
        source.tables.exclude(schema, table);
        for rule in &mut rules {
            rule.tables.exclude(schema, table);
        }
    }
    let settings = Settings {
        changes: self::changes(at, changes, &name)?,
        rabbitmq: rabbit(at, rabbitmq, &name)?,
        checkpoint,
        shutdown_timeout: millis(at, "shutdown_timeout_ms", shutdown_timeout_ms, 30_000, 1..=MAX_WAIT_MS)?,
        fail_fast: fail_fast.unwrap_or(false),
        http: http::http(at, http)?,
        otlp: otlp::otlp(at, otlp)?,
        log: self::log(at, log)?,
        source,
        outboxes,
        rules,
        messages,
        name,
    };
    topology::destinations(at, &settings.rabbitmq.topology, &exchanges(&settings))?;
    Ok(settings)
}

fn source(at: &Origins, written: written::Source, name: &str) -> Result<SourceSettings, Definite> {
    let url = required(at, "source.url", written.url, CONNECTION_STRING)?;
    let mut conninfo = conninfo(at, "source.url", &url)?;
    if let Some(password) = password(at, "source", written.password, written.password_file)? {
        conninfo = conninfo.with_password(password);
    }
    let tables = Selection::parse(&written.tables.unwrap_or_default()).map_err(|error| {
        let hint = error.hint();
        at.wrong_because("source.tables", "holds a pattern that can't be used", error, hint)
    })?;
    let streaming = Streaming {
        memory_bytes: size(
            at,
            "source.streaming_memory_bytes",
            written.streaming_memory_bytes,
            64 * MEBIBYTE,
            65_536..=65_536 * MEBIBYTE,
            "bytes",
        )?,
        folder: at.folder().join(written.streaming_folder.as_deref().unwrap_or(STREAMING_FOLDER)),
    };
    let origins = [("any", Origin::Any), ("none", Origin::None)];
    let publication = written.publication.unwrap_or_else(|| name.to_owned());
    identifier(at, "source.publication", &publication)?;
    Ok(SourceSettings {
        conninfo,
        tables,
        filters: Vec::new(),
        slot: slot_name(at, "source.slot", written.slot.unwrap_or_else(|| name.to_owned()))?,
        publication,
        report_every: millis(at, "source.report_every_ms", written.report_every_ms, 10_000, 100..=MAX_WAIT_MS)?,
        watch_every: millis(at, "source.watch_every_ms", written.watch_every_ms, 10_000, 100..=MAX_WAIT_MS)?,
        standby_timeout: None,
        binary: written.binary.unwrap_or(false),
        retain: Retain::default(),
        streaming: written.streaming.unwrap_or(false).then_some(streaming),
        origin: one_of(at, "source.origin", written.origin, &origins)?.unwrap_or_default(),
    })
}

fn conninfo(at: &Origins, key: &str, url: &str) -> Result<Conninfo, Definite> {
    Conninfo::parse(url).map_err(|error| at.wrong_because(key, "can't be used", error, CONNECTION_STRING))
}

fn qualified(at: &Origins, key: &str, table: &str) -> Result<(String, String), Definite> {
    parse_qualified(table).map_err(|error| {
        let hint = error.hint();
        at.wrong_because(key, "can't be used", error, hint)
    })
}

fn changes(at: &Origins, written: written::Changes, name: &str) -> Result<ChangesSettings, Definite> {
    let template = |key, written: Option<String>, default| {
        let template = template(at, key, written.as_deref().unwrap_or(default), name)?;
        template.bind(&CHANGES_VARIABLES).map_err(|error| {
            at.wrong_because(key, "can't be used", error, "allowed: {name}, {schema}, {table}, {op}")
        })?;
        Ok(template)
    };
    let exchange = template("changes.exchange", written.exchange, "{name}.changes")?;
    Ok(ChangesSettings {
        exchange: not_default_exchange(at, "changes.exchange", exchange)?,
        routing_key: template("changes.routing_key", written.routing_key, "{schema}.{table}.{op}")?,
        format: one_of(at, "changes.format", written.format, &OF_CHANGES)?.unwrap_or_default(),
        numeric: one_of(at, "changes.numeric", written.numeric, &NUMERIC)?.unwrap_or_default(),
        ordering: one_of(at, "changes.key", written.key, &[("row", Ordering::Key), ("none", Ordering::None)])?
            .unwrap_or_default(),
    })
}

fn messages(at: &Origins, written: written::Messages, name: &str) -> Result<MessagesSettings, Definite> {
    let template = |key, written: Option<String>, default| {
        let template = template(at, key, written.as_deref().unwrap_or(default), name)?;
        template
            .bind(&[("prefix", ())])
            .map_err(|error| at.wrong_because(key, "can't be used", error, "allowed: {name}, {prefix}"))?;
        Ok(template)
    };
    let exchange = template("messages.exchange", written.exchange, "{name}.messages")?;
    let format = one_of(at, "messages.format", written.format, &OF_OWN_DATA)?.unwrap_or_default();
    if format == DataFormat::Plain && written.content_type.is_some() {
        let hint = "set messages.format, or remove the key: the event of format \"plain\" is JSON";
        return Err(at.wrong("messages.content_type", "has no meaning with messages.format = \"plain\"", hint));
    }
    let content_type = written.content_type.unwrap_or_else(|| "application/octet-stream".to_owned());
    if !(1..=MAX_NAME_BYTES).contains(&content_type.len()) {
        let hint = "allowed: 1 to 255 bytes, as in content_type = \"application/json\"";
        return Err(at.wrong("messages.content_type", "is no content type", hint));
    }
    Ok(MessagesSettings {
        prefixes: Prefixes::new(&written.prefixes.unwrap_or_default()),
        exchange: not_default_exchange(at, "messages.exchange", exchange)?,
        routing_key: template("messages.routing_key", written.routing_key, "{prefix}")?,
        format,
        content_type,
    })
}

fn rabbit(at: &Origins, written: written::Rabbit, name: &str) -> Result<RabbitSettings, Definite> {
    let hint = "an AMQP URL, as in url = \"amqps://app@mq1,mq2/shop\"";
    let url = required(at, "rabbitmq.url", written.url, hint)?;
    let mut uri =
        BrokerUri::parse(&url).map_err(|error| at.wrong_because("rabbitmq.url", "can't be used", error, hint))?;
    if let Some(password) = password(at, "rabbitmq", written.password, written.password_file)? {
        uri = uri.with_password(password);
    }
    let topology = topology::topology(at, written.exchanges, written.queues, written.bindings, name)?;
    let exchange_type = topology::exchange_type(at, "rabbitmq.exchange_type", written.exchange_type)?;
    let policies = [("wait", Unroutable::Wait), ("park", Unroutable::Park), ("discard", Unroutable::Discard)];
    let unroutable = one_of(at, "rabbitmq.unroutable.policy", written.unroutable.policy, &policies)?;
    let policies = [("wait", PoisonPolicy::Wait), ("park", PoisonPolicy::Park), ("stop", PoisonPolicy::Stop)];
    let poison = one_of(at, "rabbitmq.poison.policy", written.poison.policy, &policies)?;
    let max_message_bytes = written.max_message_bytes.map(|bytes| {
        // No RabbitMQ takes more than 512 MiB in one message.
        size(at, "rabbitmq.max_message_bytes", Some(bytes), bytes, 1_024..=512 * MEBIBYTE, "bytes")
    });
    let confirm_timeout =
        millis(at, "rabbitmq.confirm_timeout_ms", written.confirm_timeout_ms, 60_000, 1_000..=MAX_WAIT_MS)?;
    Ok(RabbitSettings {
        uri,
        declare: written.declare.unwrap_or(true),
        exchange_type,
        topology,
        in_flight: Limits {
            events: size(at, "rabbitmq.in_flight_events", written.in_flight_events, 1_000, 1..=1_000_000, "events")?,
            bytes: size(
                at,
                "rabbitmq.in_flight_bytes",
                written.in_flight_bytes,
                8 * MEBIBYTE,
                1_024..=4_096 * MEBIBYTE,
                "bytes",
            )?,
        },
        confirm_timeout,
        max_message_bytes: max_message_bytes.transpose()?,
        unroutable: unroutable.unwrap_or(Unroutable::Wait),
        poison: poison.unwrap_or_default(),
        parking: parking(at, written.parking, name)?,
        lanes: size(at, "rabbitmq.lanes", written.lanes, 1, 1..=64, "lanes")?,
    })
}

fn parking(at: &Origins, written: written::Parking, name: &str) -> Result<ParkingSettings, Definite> {
    let named = |key, text: String| match text.len() {
        0 => Err(at.wrong(key, "is empty", "leave the key out, or write a name")),
        1..=MAX_NAME_BYTES => Ok(text),
        _ => Err(at.wrong(key, "is longer than 255 bytes", "allowed: at most 255 bytes, by AMQP")),
    };
    let exchange = written.exchange.unwrap_or_else(|| format!("{name}.parked"));
    let queue = written.queue.unwrap_or_else(|| exchange.clone());
    Ok(ParkingSettings {
        exchange: named("rabbitmq.parking.exchange", exchange)?,
        queue: named("rabbitmq.parking.queue", queue)?,
    })
}

fn checkpoint(
    at: &Origins,
    written: written::Checkpoint,
    name: &str,
    source: &SourceSettings,
) -> Result<CheckpointSettings, Definite> {
    let written::Checkpoint { store, path, url, password, password_file, table, interval_ms } = written;
    let interval = millis(at, "checkpoint.interval_ms", interval_ms, 200, 10..=60_000)?;
    let is_table = one_of(at, "checkpoint.store", store, &[("file", false), ("postgres", true)])?.unwrap_or(false);
    let given = [
        ("path", path.is_some(), false),
        ("url", url.is_some(), true),
        ("password", password.is_some(), true),
        ("password_file", password_file.is_some(), true),
        ("table", table.is_some(), true),
    ];
    if let Some((key, ..)) = given.into_iter().find(|(_, is_given, of_table)| *is_given && *of_table != is_table) {
        let (is, other) = if is_table { ("postgres", "file") } else { ("file", "postgres") };
        let hint = format!("remove the key, or set checkpoint.store = \"{other}\"");
        return Err(at.wrong(
            &format!("checkpoint.{key}"),
            format!("has no meaning with checkpoint.store = \"{is}\""),
            hint,
        ));
    }
    if !is_table {
        let path = match path {
            Some(path) if path.is_empty() => {
                return Err(at.wrong("checkpoint.path", "is empty", "the folder for the checkpoint file"));
            }
            Some(path) => at.folder().join(path),
            None => PathBuf::from("/var/lib/pgsluice").join(name),
        };
        return Ok(CheckpointSettings { store: StoreSettings::File { path }, interval });
    }
    let mut conninfo = url.map_or_else(|| Ok(source.conninfo.clone()), |url| conninfo(at, "checkpoint.url", &url))?;
    if let Some(password) = self::password(at, "checkpoint", password, password_file)? {
        conninfo = conninfo.with_password(password);
    }
    let table = table.unwrap_or_else(|| "public.pgsluice_checkpoints".to_owned());
    let (schema, table) = qualified(at, "checkpoint.table", &table)?;
    Ok(CheckpointSettings { store: StoreSettings::Postgres { conninfo: Box::new(conninfo), schema, table }, interval })
}

fn retain(at: &Origins, written: &written::Replay) -> Result<Retain, Definite> {
    let (bytes, ms) = (written.retain_bytes, written.retain_ms);
    let bytes = bytes.map(|bytes| in_range(at, "replay.retain_bytes", Some(bytes), bytes, MEBIBYTE..=1 << 50, "bytes"));
    let age = ms.map(|ms| millis(at, "replay.retain_ms", Some(ms), ms, 1_000..=366 * MAX_WAIT_MS));
    Ok(Retain { bytes: bytes.transpose()?, age: age.transpose()? })
}

fn log(at: &Origins, written: written::Log) -> Result<LogSettings, Definite> {
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let format = one_of(at, "log.format", written.format, &formats)?;
    let level = written.level.unwrap_or_else(|| "info".to_owned());
    if logging::filter(&level).is_err() {
        let hint = "allowed: off, error, warn, info, debug, trace, or a filter as in \"warn,pgsluice::rabbit=debug\"";
        return Err(at.wrong("log.level", format!("is not a level: \"{level}\""), hint));
    }
    Ok(LogSettings { format, level })
}

/// The layer above wins; in one layer only one of the two may be given.
fn password(
    at: &Origins,
    section: &str,
    password: Option<String>,
    file: Option<String>,
) -> Result<Option<String>, Definite> {
    let [password_key, file_key] = ["password", "password_file"].map(|name| format!("{section}.{name}"));
    secret(at, &password_key, &file_key, password, file)
}

fn secret(
    at: &Origins,
    secret_key: &str,
    file_key: &str,
    secret: Option<String>,
    file: Option<String>,
) -> Result<Option<String>, Definite> {
    let word = secret_key.rsplit('.').next().unwrap_or(secret_key);
    let file = match (secret, file) {
        (None, None) => return Ok(None),
        (Some(secret), None) => return Ok(Some(secret)),
        (None, Some(file)) => file,
        (Some(secret), Some(file)) => {
            let (of_secret, of_file) = (at.rank(secret_key), at.rank(file_key));
            if of_secret == of_file {
                return Err(at.wrong(file_key, format!("is given beside {secret_key}"), "keep one of the two"));
            }
            if of_secret > of_file {
                return Ok(Some(secret));
            }
            file
        }
    };
    let path = at.folder().join(file);
    let text = std::fs::read_to_string(&path).map_err(|error| {
        let what = format!("can't be read: {}", path.display());
        let hint = format!("the file holds the {word} alone, in UTF-8, readable by the user that pgsluice runs as");
        at.wrong_because(file_key, &what, error, hint)
    })?;
    let secret = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if secret.is_empty() {
        let what = format!("names an empty file: {}", path.display());
        return Err(at.wrong(file_key, what, format!("write the {word} into the file, or remove the key")));
    }
    Ok(Some(secret.to_owned()))
}

fn required(at: &Origins, key: &str, written: Option<String>, hint: &str) -> Result<String, Definite> {
    match written {
        None => Err(at.wrong(key, "is missing", hint)),
        Some(text) if text.is_empty() => Err(at.wrong(key, "is empty", hint)),
        Some(text) => Ok(text),
    }
}

/// A slot's name may hold only these characters (PostgreSQL's `ReplicationSlotValidateName`).
fn slot_name(at: &Origins, key: &str, name: String) -> Result<String, Definite> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if (1..=MAX_IDENTIFIER_BYTES).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(name);
    }
    let hint = "allowed: 1 to 63 of a-z, 0-9 and _, because it names the replication slot";
    Err(at.wrong(key, format!("is no name for a slot: \"{name}\""), hint))
}

fn identifier(at: &Origins, key: &str, name: &str) -> Result<(), Definite> {
    if (1..=MAX_IDENTIFIER_BYTES).contains(&name.len()) && !name.contains('\0') {
        return Ok(());
    }
    let hint = "allowed: 1 to 63 bytes, written as the database has it, without quotes";
    Err(at.wrong(key, format!("is no name in PostgreSQL: \"{name}\""), hint))
}

fn template(at: &Origins, key: &str, text: &str, name: &str) -> Result<Template, Definite> {
    let template = Template::parse(text).map_err(|error| {
        let hint = "variables are written {name}; a literal brace is written twice: {{ or }}";
        at.wrong_because(key, "can't be used", error, hint)
    })?;
    let template = template.fill("name", name);
    if template.literal().is_some_and(|literal| literal.len() > MAX_NAME_BYTES) {
        return Err(at.wrong(key, "is longer than 255 bytes", "allowed: at most 255 bytes, by AMQP"));
    }
    Ok(template)
}

/// The default exchange has no name and can't be declared or bound.
fn not_default_exchange(at: &Origins, key: &str, template: Template) -> Result<Template, Definite> {
    if template.literal() == Some("") {
        return Err(at.wrong(key, "is empty", "name an exchange, as in \"domain.events\""));
    }
    Ok(template)
}

fn one_of<T: Copy>(
    at: &Origins,
    key: &str,
    written: Option<String>,
    allowed: &[(&str, T)],
) -> Result<Option<T>, Definite> {
    let Some(text) = written else { return Ok(None) };
    if let Some((_, value)) = allowed.iter().find(|(name, _)| *name == text) {
        return Ok(Some(*value));
    }
    let allowed: Vec<&str> = allowed.iter().map(|(name, _)| *name).collect();
    Err(at.wrong(key, format!("can't be \"{text}\""), format!("allowed: {}", allowed.join(", "))))
}

fn millis(
    at: &Origins,
    key: &str,
    written: Option<i64>,
    default: i64,
    range: RangeInclusive<i64>,
) -> Result<Duration, Definite> {
    in_range(at, key, written, default, range, "milliseconds").map(Duration::from_millis)
}

fn size(
    at: &Origins,
    key: &str,
    written: Option<i64>,
    default: i64,
    range: RangeInclusive<i64>,
    unit: &str,
) -> Result<usize, Definite> {
    in_range(at, key, written, default, range, unit)
}

fn in_range<T: TryFrom<i64>>(
    at: &Origins,
    key: &str,
    written: Option<i64>,
    default: i64,
    range: RangeInclusive<i64>,
    unit: &str,
) -> Result<T, Definite> {
    let number = written.unwrap_or(default);
    let value = if range.contains(&number) { T::try_from(number).ok() } else { None };
    value.ok_or_else(|| {
        let hint = format!("allowed: {} to {} {unit}", range.start(), range.end());
        at.wrong(key, format!("is out of range: {number}"), hint)
    })
}

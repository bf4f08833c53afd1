//! What the fuzz targets call, and, so that it needs no nightly toolchain, `tests/fuzz.rs` too.
//!
//! Each takes any bytes. It must not panic, and what it makes of them must be what it promises.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use pgsluice::change::Row;
use pgsluice::config::{self, ChangeFormat, CloudEvents, Settings};
use pgsluice::encode::format::RowFormat;
use pgsluice::encode::message::Event;
use pgsluice::encode::outbox::OutboxRow;
use pgsluice::encode::values::{Kind, Kinds, Numeric, json_value};
use pgsluice::encode::{Delivery, Encoder, size};
use pgsluice::postgres::binary::{self, Textual};
use pgsluice::postgres::pgoutput::streamed::{self, Control};
use pgsluice::postgres::pgoutput::{self, Tuple, Value};
use pgsluice::postgres::relation::{OidMap, Relation};
use pgsluice::postgres::types::{Description, Field, Form, Types};
use pgsluice::route::{Router, Verdict};
use pgsluice::transaction::{Assembler, Step};
use serde_json::value::RawValue;

/// One pgoutput message, decoded and read to its last value; and what stands around it in a transaction in progress.
pub(crate) fn message(data: &[u8]) {
    if let Ok(Some(Control::Commit { xid, commit })) = streamed::control(data) {
        assert!(pgoutput::decode(&streamed::begin_message(xid, &commit)).is_ok());
        assert!(pgoutput::decode(&streamed::commit_message(&commit)).is_ok());
    }
    let _ = streamed::subtransaction(data);
    assert!(streamed::tables(data).count() + usize::from(streamed::described(data).is_some()) <= data.len());
    let Ok(message) = pgoutput::decode(data) else { return };
    let mut seen = 0;
    let mut walk = |tuple: Tuple<'_>| {
        assert_eq!(tuple.iter().count(), tuple.len());
        for value in &tuple {
            if let Value::Text(bytes) | Value::Binary(bytes) = value {
                seen += bytes.len();
            }
        }
    };
    match message {
        pgoutput::Message::Insert { new, .. } => walk(new),
        pgoutput::Message::Update { old, new, .. } => {
            if let Some(old) = old {
                walk(old.tuple());
            }
            walk(new);
        }
        pgoutput::Message::Delete { old, .. } => walk(old.tuple()),
        pgoutput::Message::Truncate(truncate) => seen += truncate.relations().count(),
        _ => {}
    }
    assert!(seen <= data.len());
}

/// A stream of messages, each behind its length (32 bits, big endian), up to the first that makes no sense: whatever is
/// published of it is JSON, and no smaller than it was said to be before it was encoded. How many events there were.
pub(crate) fn stream(data: &[u8]) -> usize {
    let (mut assembler, mut events) = (Assembler::default(), 0);
    let mut formats: OidMap<Vec<RowFormat>> = OidMap::default();
    let mut router = Router::new(settings());
    router.set_types(Arc::clone(types()));
    let (encoder, mut event) = (Encoder::new("fuzz", Delivery::First), Event::default());
    let mut textual = Textual::default();
    textual.set_types(Arc::clone(types()));
    let mut rest = data;
    while let Some((length, after)) = rest.split_first_chunk()
        && let Some((frame, after)) = after.split_at_checked(u32::from_be_bytes(*length) as usize)
        && let Ok(message) = pgoutput::decode(frame)
    {
        rest = after;
        let taken = assembler.take(message, &mut |step| {
            match step {
                Step::Relation(relation) => {
                    let relation = untrusting(relation);
                    let kinds = Kinds { types: types(), numeric: Numeric::Number };
                    let all = [
                        ChangeFormat::Raw,
                        ChangeFormat::CloudEvents(CloudEvents::Structured),
                        ChangeFormat::Debezium { with_schema: true },
                        ChangeFormat::Canal,
                    ];
                    let all = all.map(|format| RowFormat::new(format, "fuzz", "fuzz", &relation, kinds));
                    formats.insert(relation.oid, all.into());
                    return router.learn(&relation).map(|_| ()).map_err(|_| ());
                }
                Step::Change(change) => {
                    let change = textual.change(&change).map_err(|_| ())?;
                    for verdict in router.verdicts(&change) {
                        match verdict {
                            Verdict::Change(plan, destination) => {
                                let told = size::row_event_beyond(0, &plan.format, &change).unwrap_or_default();
                                encoder.change(&mut event, plan, destination, &change).expect("has an id and a type");
                                assert!(told <= event.body.len(), "{told} told for {}", event.body.len());
                                is_json(&event.body);
                                for format in &formats[&change.relation.oid] {
                                    let told = size::row_event_beyond(0, format, &change).unwrap_or_default();
                                    event.body.clear();
                                    format.make(&mut event, "fuzz", &change).expect("has an id and a type");
                                    assert!(told <= event.body.len(), "{told} told for {}", event.body.len());
                                    is_json(&event.body);
                                }
                                events += 1;
                            }
                            Verdict::Outbox(plan, row) => {
                                let told = size::payload_beyond(0, plan, OutboxRow::Table(row)).unwrap_or_default();
                                encoder
                                    .outbox(&mut event, plan, &change, OutboxRow::Table(row))
                                    .expect("no property that may not fit");
                                assert!(told <= event.body.len(), "{told} told for {}", event.body.len());
                                events += 1;
                            }
                            Verdict::Rule(plan) => {
                                let told = size::rule_event_beyond(0, plan, &change).unwrap_or_default();
                                // A condition, or a computed field, may fail: it is an error then, and no event.
                                if plan.wants(&change).unwrap_or(false)
                                    && encoder.domain(&mut event, plan, &change).is_ok()
                                {
                                    assert!(told <= event.body.len(), "{told} told for {}", event.body.len());
                                    is_json(&event.body);
                                    events += 1;
                                }
                            }
                            Verdict::Misfit(_) | Verdict::RuleMisfit(_) | Verdict::Renamed => {}
                            Verdict::Skip(_) => assert!(!matches!(change.row, Row::Insert { .. })),
                        }
                    }
                }
                Step::Begin(_) | Step::Message(_) | Step::Commit { .. } => {}
            }
            Ok(())
        });
        if taken.is_err() {
            break;
        }
    }
    events
}

/// The text of a value, of the type that the first byte chooses.
pub(crate) fn value(data: &[u8]) {
    let Some((which, text)) = data.split_first() else { return };
    let kinds = kinds();
    let mut out = b"before".to_vec();
    json_value(&mut out, &kinds[usize::from(*which) % kinds.len()], text);
    is_json(out.strip_prefix(b"before").expect("appends"));
}

/// The binary form of a value, of the type that the first byte chooses: its text is of that type.
pub(crate) fn binary(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    let oids: Vec<u32> = OIDS.iter().copied().chain(DESCRIBED).collect();
    let oid = oids[usize::from(*which) % oids.len()];
    let mut text = Vec::new();
    if binary::text(&mut text, types(), oid, bytes).is_some() && !is_trusted(oid) {
        let mut out = Vec::new();
        json_value(&mut out, &Kinds { types: types(), numeric: Numeric::Number }.of(oid), &text);
        is_json(&out);
    }
}

fn is_json(bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).expect("JSON is UTF-8");
    serde_json::from_str::<&RawValue>(text).unwrap_or_else(|error| panic!("{error}: {text}"));
}

/// The values of `json` and `jsonb` are embedded as they came, because PostgreSQL has validated them; the fuzzer has not.
fn untrusting(relation: &Relation) -> Relation {
    let mut relation = relation.clone();
    for column in &mut relation.columns {
        if is_trusted(column.type_oid) {
            column.type_oid = 25;
        }
    }
    relation
}

fn is_trusted(type_oid: u32) -> bool {
    [114, 199, 3802, 3807].contains(&type_oid)
}

/// Built-in types and arrays of them.
const OIDS: &[u32] = &[
    16, 20, 21, 23, 26, 700, 701, 1700, 25, 17, 1082, 1083, 1114, 1184, 1186, 22, 30, 1000, 1001, 1005, 1007, 1009,
    1016, 1020, 1022, 1115, 1185, 1231, 27, 600, 601, 602, 603, 604, 628, 718, 650, 869, 774, 829, 790, 1266, 1560,
    1562, 2950, 2970, 3220, 3802, 3904, 3908, 4451, 4532, 5038, 3614, 3615,
];

fn kinds() -> &'static [Kind] {
    static KINDS: OnceLock<Vec<Kind>> = OnceLock::new();
    KINDS.get_or_init(|| {
        let oids = OIDS.iter().copied().filter(|oid| !is_trusted(*oid));
        let of = |numeric| {
            let kinds = Kinds { types: types(), numeric };
            DESCRIBED.chain(oids.clone()).map(move |oid| kinds.of(oid))
        };
        of(Numeric::String).chain(of(Numeric::Number)).collect()
    })
}

const DESCRIBED: std::ops::RangeInclusive<u32> = 20_000..=20_005;

/// A composite, an array of it, a domain over that, a composite of all of these, and two of `hstore`.
fn types() -> &'static Arc<Types> {
    static TYPES: OnceLock<Arc<Types>> = OnceLock::new();
    TYPES.get_or_init(|| {
        let fields = |fields: &[(&str, u32)]| {
            let field = |(name, type_oid): &(&str, u32)| Field { name: (*name).into(), type_oid: *type_oid };
            Form::Composite(fields.iter().map(field).collect())
        };
        let forms = [
            fields(&[("a", 23), ("b\"", 25), ("c", 1007), ("d", 17), ("e", 1184)]),
            Form::Array { element: 20_000, delimiter: b',' },
            Form::Domain { base: 20_001 },
            fields(&[("a", 20_000), ("b", 20_002), ("c", 20_004), ("d", 1700)]),
            Form::Hstore,
            Form::Array { element: 20_004, delimiter: b',' },
        ];
        let described = DESCRIBED
            .zip(forms)
            .map(|(oid, form)| (oid, Description { schema: "public".into(), name: format!("t{oid}"), form }));
        Arc::new(Types::of(described))
    })
}

fn settings() -> &'static Settings {
    static SETTINGS: OnceLock<Settings> = OnceLock::new();
    SETTINGS.get_or_init(|| {
        let file: PathBuf = std::env::temp_dir().join(format!("pgsluice-fuzz-{}.toml", std::process::id()));
        let text = "name = \"fuzz\"\n[source]\nurl = \"postgres://fuzz@localhost/fuzz\"\ntables = [\"*.*\"]\n\
                    [outbox]\ntable = \"public.outbox\"\n[[events]]\ntable = \"*.*\"\nname = \"all\"\ntype = \"{schema}.{op}\"\n\
                    when = \"op in ['insert', 'update', 'delete'] && (new != null || changed == [])\"\n\
                    compute = { 'of \"it\"' = \"[table, schema]\" }\n[rabbitmq]\nurl = \"amqp://localhost\"\n\
                    [checkpoint]\npath = \"unused\"\n";
        std::fs::write(&file, text).expect("write a configuration");
        let settings = config::load(&file).expect("is valid");
        let _ = std::fs::remove_file(&file);
        settings
    })
}

//! The events of logical messages: what `encode::logical` writes, one kind for each pattern of prefixes.

use serde_json::{Value, json};

use super::event::{
    Address, Event, LSN, Parameter, Presence, boolean, committed_at, constant, described, integer, nullable, object,
    pattern, position_headers, text,
};
use super::formats::{self, Attributes, Body};
use crate::config::{DataFormat, MessagesSettings};
use crate::encode::cloudevents::Wrapper;
use crate::postgres::ident::Glyph;
use crate::route::template::Template;

/// The events of `[messages]`.
pub(super) fn events(pipeline: &str, settings: &MessagesSettings) -> Vec<Event> {
    let wrapper = match settings.format {
        DataFormat::Plain | DataFormat::Raw => None,
        DataFormat::CloudEvents(mode) => Some(Wrapper::new(mode, pipeline, None)),
    };
    settings.prefixes.patterns().map(|prefix| event(pipeline, settings, wrapper.as_ref(), prefix)).collect()
}

/// Around the content, or the content alone.
fn body(settings: &MessagesSettings, own: Value, id: Value, wrapper: Option<&Wrapper>) -> Body {
    let content = Body {
        format: "raw",
        payload: json!({}),
        headers: Vec::new(),
        content_type: Some(settings.content_type.clone()),
    };
    match (settings.format, wrapper) {
        (DataFormat::Plain, _) => Body::json("plain", own),
        (DataFormat::CloudEvents(_), Some(wrapper)) => {
            let (time, sequence) = (Presence::Sometimes, Presence::Sometimes);
            let attributes = Attributes { id, event_type: text(), time, sequence, is_traced: false };
            formats::cloud_event(wrapper, attributes, content, formats::data(json!({})))
        }
        (DataFormat::Raw | DataFormat::CloudEvents(_), _) => content,
    }
}

fn event(pipeline: &str, settings: &MessagesSettings, wrapper: Option<&Wrapper>, prefix: &[Glyph]) -> Event {
    let written = written(prefix);
    let fixed = is_literal(prefix).then(|| written.clone());
    let prefix = match &fixed {
        Some(fixed) => constant(fixed.as_str()),
        None => pattern(&format!("^{}$", prefix.iter().map(|glyph| expression(*glyph)).collect::<String>())),
    };
    let content = json!({"type": "string", "contentEncoding": "base64", "pattern": "^[A-Za-z0-9+/]*={0,2}$"});
    let outside = Some("null outside of transactions");
    let id = || pattern(&format!("^{pipeline}:{LSN}:([0-9]+|message)$"));
    let fields = [
        ("id", id()),
        ("op", constant("message")),
        ("prefix", prefix.clone()),
        ("transactional", boolean()),
        ("lsn", described(pattern(&format!("^{LSN}$")), Some("where the message ends in the WAL"))),
        ("commit_lsn", described(nullable(pattern(&format!("^{LSN}$"))), outside)),
        ("ordinal", described(nullable(integer(0)), outside)),
        ("xid", described(nullable(integer(0)), outside)),
        ("committed_at", described(nullable(committed_at()), outside)),
        ("content", content),
    ];
    let body = body(settings, object(fields.map(|(name, schema)| (name, schema, Presence::Always))), id(), wrapper);
    Event {
        name: format!("message.{written}"),
        summary: format!("Logical message with the prefix {written}"),
        description: None,
        exchange: address(&settings.exchange, fixed.as_deref(), &written),
        routing_key: address(&settings.routing_key, fixed.as_deref(), &written),
        content_type: body.content_type,
        format: body.format,
        payload: body.payload,
        headers: object(position_headers(Presence::Sometimes).into_iter().chain(body.headers)),
        properties: object([
            ("message_id", id(), Presence::Always),
            ("type", text(), Presence::Always),
            ("app_id", constant(pipeline), Presence::Always),
            ("timestamp", described(integer(0), Some("commit time, seconds since 1970")), Presence::Sometimes),
        ]),
        schema_version: None,
    }
}

fn address(template: &Template, fixed: Option<&str>, written: &str) -> Address {
    if let Some(fixed) = fixed {
        let filled = template.clone().fill("prefix", fixed);
        return Address::fixed(filled.literal().unwrap_or_default());
    }
    let parameter = Parameter {
        name: "prefix".to_owned(),
        description: format!("the message's prefix: {written}"),
        values: Vec::new(),
    };
    super::events::address(template, &|_| parameter.clone())
}

/// Whether it has no wildcards.
pub(super) fn is_literal(prefix: &[Glyph]) -> bool {
    prefix.iter().all(|glyph| matches!(glyph, Glyph::Literal(_)))
}

/// As the configuration has it.
pub(super) fn written(prefix: &[Glyph]) -> String {
    let character = |glyph: &Glyph| match glyph {
        Glyph::Literal(character) => *character,
        Glyph::AnyOne => '?',
        Glyph::AnyMany => '*',
    };
    prefix.iter().map(character).collect()
}

/// As a regular expression that means the same in every dialect.
fn expression(glyph: Glyph) -> String {
    match glyph {
        Glyph::Literal(character) if r"^$\.*+?()[]{}|/".contains(character) => format!("\\{character}"),
        Glyph::Literal(character) => character.to_string(),
        Glyph::AnyOne => r"[\s\S]".to_owned(),
        Glyph::AnyMany => r"[\s\S]*".to_owned(),
    }
}

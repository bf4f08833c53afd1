//! Two documents, and what a consumer that was written against the older one can't take.
//!
//! The rule: every event of the newer contract must be one that the older allows, and nothing is taken away that somebody may
//! wait for: no event, no field, no label of an enum. So what joins is compatible (an event, a field), and what becomes narrower
//! (a column that is no longer null, a shorter text); what becomes wider is not, because it may not fit where a consumer puts it.
//! Descriptions don't count, and neither does a type of `PostgreSQL`'s whose values have the same JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::event::nothing;
use shape::{Facet, Shape};

mod shape;

/// One incompatible change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The event's name.
    pub event: String,
    /// Where in it: `payload.after.total`, `headers.tenant`, `exchange`; empty for the whole event.
    pub path: String,
    /// What happened there.
    pub change: Change,
    /// In the older document.
    pub was: String,
    /// In the newer one.
    pub is: String,
}

/// What can happen that a consumer can't take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// An event, or a field, is no longer there.
    Removed,
    /// It goes elsewhere.
    Moved,
    /// The body is in another format.
    Reformatted,
    /// Values of another form.
    Retyped,
    /// Values that were not possible before.
    Widened,
    /// A value that somebody may wait for.
    LabelRemoved,
    /// A value that nobody knows.
    LabelAdded,
    /// Was always there.
    Optional,
    /// Was never null.
    Nullable,
}

/// The older document is none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no AsyncAPI 3 document with channels and messages")]
pub struct NoContract;

/// What has become incompatible, by event and path.
///
/// # Errors
/// One of the two is no such document.
pub fn compare(old: &Value, new: &Value) -> Result<Vec<Finding>, NoContract> {
    let (before, after) = (published(old)?, published(new)?);
    let mut findings = Vec::new();
    for (name, was) in &before {
        let Some(is) = after.get(name) else {
            findings.push(Finding {
                event: name.clone(),
                path: String::new(),
                change: Change::Removed,
                was: "an event".to_owned(),
                is: String::new(),
            });
            continue;
        };
        let mut comparison = Comparison { event: name, old, new, findings: &mut findings, within: Vec::new() };
        comparison.event(was, is);
    }
    findings.sort();
    findings.dedup();
    Ok(findings)
}

/// An event, and where it goes.
struct Published<'d> {
    channel: &'d Value,
    message: &'d Value,
}

/// By name.
fn published(document: &Value) -> Result<BTreeMap<String, Published<'_>>, NoContract> {
    let version = document.get("asyncapi").and_then(Value::as_str).ok_or(NoContract)?;
    let channels = document.get("channels").and_then(Value::as_object).filter(|_| version.starts_with("3."));
    let mut published = BTreeMap::new();
    for channel in channels.ok_or(NoContract)?.values() {
        for (key, message) in channel.get("messages").and_then(Value::as_object).into_iter().flatten() {
            let message = shape::resolved(document, message);
            let name = message.get("name").and_then(Value::as_str).unwrap_or(key);
            published.insert(name.to_owned(), Published { channel, message });
        }
    }
    Ok(published)
}

struct Comparison<'d, 'f> {
    event: &'f str,
    old: &'d Value,
    new: &'d Value,
    findings: &'f mut Vec<Finding>,
    /// The references that are being followed: arrays refer to themselves.
    within: Vec<(&'d str, &'d str)>,
}

impl<'d> Comparison<'d, '_> {
    fn event(&mut self, was: &Published<'d>, is: &Published<'d>) {
        let places = [
            ("exchange", "/bindings/amqp/exchange/name", Change::Moved),
            ("exchange.type", "/bindings/amqp/exchange/type", Change::Moved),
            ("exchange.vhost", "/bindings/amqp/exchange/vhost", Change::Moved),
            ("routing_key", "/address", Change::Moved),
        ];
        for (path, pointer, change) in places {
            self.same(path, change, was.channel.pointer(pointer), is.channel.pointer(pointer));
        }
        self.same("format", Change::Reformatted, was.message.get("x-format"), is.message.get("x-format"));
        let content_type = [was, is].map(|it| it.message.get("contentType"));
        self.same("content_type", Change::Reformatted, content_type[0], content_type[1]);
        for (path, field) in [("payload", "payload"), ("headers", "headers"), ("properties", "x-amqp-properties")] {
            let [was, is] = [was, is].map(|it| it.message.get(field).unwrap_or(nothing()));
            self.schema(path, was, is);
        }
    }

    fn same(&mut self, path: &str, change: Change, was: Option<&Value>, is: Option<&Value>) {
        let text = |value: Option<&Value>| value.map_or_else(|| "not known".to_owned(), plain);
        if was != is {
            self.found(path, change, text(was), text(is));
        }
    }

    fn found(&mut self, path: &str, change: Change, was: String, is: String) {
        self.findings.push(Finding { event: self.event.to_owned(), path: path.to_owned(), change, was, is });
    }

    fn schema(&mut self, path: &str, was: &'d Value, is: &'d Value) {
        let references = (shape::reference(was), shape::reference(is));
        if let (Some(was), Some(is)) = references {
            if self.within.contains(&(was, is)) {
                return;
            }
            self.within.push((was, is));
        }
        self.shapes(path, &Shape::of(self.old, was), &Shape::of(self.new, is));
        if let (Some(_), Some(_)) = references {
            self.within.pop();
        }
    }

    fn shapes(&mut self, path: &str, was: &Shape<'d>, is: &Shape<'d>) {
        if !was.is_alike(is) {
            let (was, is) = (was.name(is), is.name(was));
            return self.found(path, Change::Retyped, was, is);
        }
        if is.nullable && !was.nullable {
            self.found(path, Change::Nullable, "not null".to_owned(), "may be null".to_owned());
        }
        if let Some((was, is)) = Facet::ALL.iter().find_map(|facet| facet.widened(was, is)) {
            self.found(path, Change::Widened, was, is);
        }
        self.labels(path, was, is);
        for (name, schema) in &was.fields {
            let path = format!("{path}.{name}");
            let Some(now) = is.fields.get(name) else {
                let was = Shape::of(self.old, schema);
                self.found(&path, Change::Removed, was.name(&Shape::default()), String::new());
                continue;
            };
            if was.required.contains(name) && !is.required.contains(name) {
                self.found(&path, Change::Optional, "always there".to_owned(), "may be missing".to_owned());
            }
            self.schema(&path, schema, now);
        }
        for (was, is) in was.choices.iter().zip(&is.choices) {
            self.schema(path, was, is);
        }
        for (step, was, is) in [("[]", was.items, is.items), (".*", was.others, is.others)] {
            if let (Some(was), Some(is)) = (was, is) {
                self.schema(&format!("{path}{step}"), was, is);
            }
        }
    }

    fn labels(&mut self, path: &str, was: &Shape<'d>, is: &Shape<'d>) {
        let (Some(before), Some(now)) = (&was.labels, &is.labels) else { return };
        let beyond = |these: &[&Value], those: &[&Value]| {
            let new: Vec<String> =
                these.iter().filter(|label| !those.contains(label)).map(|label| plain(label)).collect();
            new.join(", ")
        };
        for (change, more, fewer) in [(Change::LabelRemoved, before, now), (Change::LabelAdded, now, before)] {
            let difference = beyond(more, fewer);
            match change {
                _ if difference.is_empty() => {}
                Change::LabelRemoved => self.found(path, change, difference, String::new()),
                _ => self.found(path, change, String::new(), difference),
            }
        }
    }
}

/// A text as it is, anything else as JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `public.orders.update: payload.after.total: retyped: was numeric(10,2), is integer`
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { event, path, change, was, is } = self;
        write!(f, "{event}: ")?;
        if !path.is_empty() {
            write!(f, "{path}: ")?;
        }
        write!(f, "{change}")?;
        match (was.is_empty(), is.is_empty()) {
            (true, true) => Ok(()),
            (true, false) => write!(f, ": is {is}"),
            (false, true) => write!(f, ": was {was}"),
            (false, false) => write!(f, ": was {was}, is {is}"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Removed => "removed",
            Self::Moved => "moved",
            Self::Reformatted => "reformatted",
            Self::Retyped => "retyped",
            Self::Widened => "widened",
            Self::LabelRemoved => "label removed",
            Self::LabelAdded => "label added",
            Self::Optional => "optional",
            Self::Nullable => "nullable",
        })
    }
}

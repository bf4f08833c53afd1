//! Which logical messages are events, by their prefix, and where they go.

use crate::config::{DataFormat, MessagesSettings};
use crate::encode::cloudevents::Wrapper;
use crate::postgres::ident::Glyph;
use crate::route::select::matches;
use crate::route::template::Bound;

/// Patterns of prefixes: `*` is any number of characters, `?` any one.
#[derive(Debug, Clone, Default)]
pub struct Prefixes(Vec<Vec<Glyph>>);

impl Prefixes {
    /// Every text is a pattern.
    #[must_use]
    pub fn new(patterns: &[String]) -> Self {
        let glyph = |character| match character {
            '*' => Glyph::AnyMany,
            '?' => Glyph::AnyOne,
            character => Glyph::Literal(character),
        };
        Self(patterns.iter().map(|pattern| pattern.chars().map(glyph).collect()).collect())
    }

    /// The patterns, as they were given.
    pub fn patterns(&self) -> impl Iterator<Item = &[Glyph]> {
        self.0.iter().map(Vec::as_slice)
    }

    /// Whether no message is an event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether messages with this prefix are events.
    #[must_use]
    pub fn select(&self, prefix: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern, prefix))
    }
}

/// How logical messages become events.
#[derive(Debug)]
pub struct MessagesPlan {
    prefixes: Prefixes,
    exchange: Bound<()>,
    routing_key: Bound<()>,
    /// Where the content goes.
    pub content: Content,
    /// MIME type of the body; in a CloudEvent, of the content.
    pub content_type: String,
}

/// Where the content of a logical message goes.
#[derive(Debug)]
pub enum Content {
    /// Into our own event.
    Within,
    /// It is the body.
    Alone,
    /// Into a CloudEvent.
    Wrapped(Wrapper),
}

impl MessagesPlan {
    pub(super) fn new(name: &str, settings: &MessagesSettings) -> Self {
        let MessagesSettings { prefixes, exchange, routing_key, format, content_type } = settings;
        let [exchange, routing_key] = [exchange, routing_key]
            .map(|template| template.bind(&[("prefix", ())]).expect("the configuration has no other variable"));
        let (content, content_type) = match format {
            DataFormat::Plain => (Content::Within, "application/json"),
            DataFormat::Raw => (Content::Alone, content_type.as_str()),
            DataFormat::CloudEvents(mode) => (Content::Wrapped(Wrapper::new(*mode, name, None)), content_type.as_str()),
        };
        Self { prefixes: prefixes.clone(), exchange, routing_key, content, content_type: content_type.to_owned() }
    }

    pub(super) fn selects(&self, prefix: &str) -> bool {
        self.prefixes.select(prefix)
    }

    /// Where a message goes.
    pub fn render(&self, prefix: &str, exchange: &mut String, routing_key: &mut String) {
        for (template, out) in [(&self.exchange, exchange), (&self.routing_key, routing_key)] {
            out.clear();
            template.render(out, |(), out| out.push_str(prefix));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_select_whole_prefixes() {
        let prefixes = Prefixes::new(&["app.*".to_owned(), "\"x\"?".to_owned()]);
        for (prefix, expected) in
            [("app.", true), ("app.paid.x", true), ("app", false), ("my app.", false), ("\"x\"ü", true), ("", false)]
        {
            assert_eq!(prefixes.select(prefix), expected, "{prefix}");
        }
        assert!(!Prefixes::default().select("app.") && Prefixes::default().is_empty());
    }
}

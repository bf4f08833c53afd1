//! Templates for exchanges and routing keys: `{aggregatetype}.{type}`.
//!
//! Invariant: names are looked up once, when a template is bound to what is known (built-in variables, a
//! table's columns); rendering an event neither looks up a name nor allocates. `config` parses templates
//! and fills in what never changes; `route` binds and renders them.

/// Literal text and `{variables}`; `{{` and `}}` stand for braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    written: String,
    parts: Vec<Part<String>>,
}

/// A template whose variables were resolved to `T`s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound<T> {
    parts: Vec<Part<T>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part<T> {
    Literal(String),
    Variable(T),
}

/// The text is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `{type`
    #[error("the template `{0}` has a `{{` that is not closed")]
    Open(String),
    /// `type}`
    #[error("the template `{0}` has a `}}` that closes nothing")]
    Close(String),
    /// `{}`
    #[error("the template `{0}` has a variable without a name")]
    Empty(String),
}

/// A variable that nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the template `{template}` uses {{{variable}}}, which is none of {known}")]
pub struct UnknownVariable {
    /// The template as written.
    pub template: String,
    /// The variable's name.
    pub variable: String,
    /// What is allowed, as text: `{schema}, {table}`.
    pub known: String,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// A brace that does not match, or a variable without a name.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut template = Self { written: text.to_owned(), parts: Vec::new() };
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (literal, brace) = rest.split_at(at);
            template.push_literal(literal);
            rest = if let Some(rest) = brace.strip_prefix("{{") {
                template.push_literal("{");
                rest
            } else if let Some(rest) = brace.strip_prefix("}}") {
                template.push_literal("}");
                rest
            } else if let Some(opened) = brace.strip_prefix('{') {
                let (name, rest) = opened.split_once('}').ok_or_else(|| TemplateError::Open(text.to_owned()))?;
                if name.is_empty() {
                    return Err(TemplateError::Empty(text.to_owned()));
                }
                if name.contains('{') {
                    return Err(TemplateError::Open(text.to_owned()));
                }
                template.parts.push(Part::Variable(name.to_owned()));
                rest
            } else {
                return Err(TemplateError::Close(text.to_owned()));
            };
        }
        template.push_literal(rest);
        Ok(template)
    }

    /// A template that is this text, braces and all.
    #[must_use]
    pub fn fixed(text: &str) -> Self {
        let mut template = Self { written: text.to_owned(), parts: Vec::new() };
        template.push_literal(text);
        template
    }

    /// The text as the user wrote it.
    #[must_use]
    pub fn written(&self) -> &str {
        &self.written
    }

    /// The variables in their order, repeated as they are.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable(name) => Some(name.as_str()),
            Part::Literal(_) => None,
        })
    }

    /// The whole text, if there are no variables (any more): an exchange that can be declared at start.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Puts a value that never changes in the place of a variable.
    #[must_use]
    pub fn fill(self, variable: &str, value: &str) -> Self {
        let mut filled = Self { written: self.written, parts: Vec::with_capacity(self.parts.len()) };
        for part in self.parts {
            match part {
                Part::Literal(text) => filled.push_literal(&text),
                Part::Variable(name) if name == variable => filled.push_literal(value),
                Part::Variable(name) => filled.parts.push(Part::Variable(name)),
            }
        }
        filled
    }

    /// Resolves every variable, once, to what it stands for. The first of equal names in `known` counts.
    ///
    /// # Errors
    /// A variable that is not `known`.
    pub fn bind<T: Clone>(&self, known: &[(&str, T)]) -> Result<Bound<T>, UnknownVariable> {
        let resolve = |name: &str| {
            let (_, value) = known.iter().find(|(known, _)| *known == name).ok_or_else(|| UnknownVariable {
                template: self.written.clone(),
                variable: name.to_owned(),
                known: known.iter().map(|(name, _)| format!("{{{name}}}")).collect::<Vec<_>>().join(", "),
            })?;
            Ok(Part::Variable(value.clone()))
        };
        let parts = self.parts.iter().map(|part| match part {
            Part::Literal(text) => Ok(Part::Literal(text.clone())),
            Part::Variable(name) => resolve(name),
        });
        Ok(Bound { parts: parts.collect::<Result<_, _>>()? })
    }

    fn push_literal(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        if let Some(Part::Literal(last)) = self.parts.last_mut() {
            last.push_str(text);
        } else {
            self.parts.push(Part::Literal(text.to_owned()));
        }
    }
}

impl<T> Bound<T> {
    /// The variable that it is, with nothing around it.
    #[must_use]
    pub fn alone(&self) -> Option<&T> {
        match self.parts.as_slice() {
            [Part::Variable(variable)] => Some(variable),
            [] | [Part::Literal(_)] | [_, _, ..] => None,
        }
    }

    /// Appends the text to `out`; `write` appends the value of one variable.
    pub fn render(&self, out: &mut String, mut write: impl FnMut(&T, &mut String)) {
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Variable(variable) => write(variable, out),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> Template {
        Template::parse(text).expect("a valid template")
    }

    fn rendered(text: &str) -> String {
        let bound = template(text).bind(&[("a", 1), ("b", 2), ("größe", 3)]).expect("known variables");
        let mut out = String::new();
        bound.render(&mut out, |number, out| out.push_str(&number.to_string()));
        out
    }

    #[test]
    fn variables_and_literals_render_in_order() {
        assert_eq!(rendered("{a}.{b}"), "1.2");
        assert_eq!(rendered("x{a}{a}y{größe}"), "x11y3");
        assert_eq!(rendered("{{{a}}} }}{{"), "{1} }{");
        assert_eq!(rendered(""), "");
    }

    #[test]
    fn a_literal_is_known_before_any_event() {
        assert_eq!(template("domain.events").literal(), Some("domain.events"));
        assert_eq!(template("{{x}}").literal(), Some("{x}"));
        assert_eq!(template("").literal(), Some(""));
        assert_eq!(Template::fixed("{x}").literal(), Some("{x}"));
        assert_eq!(template("{name}.events").literal(), None);
        assert_eq!(template("{name}.events.{name}").fill("name", "shop").literal(), Some("shop.events.shop"));
        assert_eq!(template("{a}.{b}").fill("b", "x").variables().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn what_is_no_template_is_refused() {
        let error = |text: &str| Template::parse(text).expect_err("no template").to_string();
        assert_eq!(error("{type"), "the template `{type` has a `{` that is not closed");
        assert_eq!(error("{a{b}"), "the template `{a{b}` has a `{` that is not closed");
        assert_eq!(error("type}"), "the template `type}` has a `}` that closes nothing");
        assert_eq!(error("{}"), "the template `{}` has a variable without a name");
    }

    #[test]
    fn an_unknown_variable_is_named_with_what_is_allowed() {
        let error = template("{schema}.{tabel}").bind(&[("schema", ()), ("table", ())]).expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "the template `{schema}.{tabel}` uses {tabel}, which is none of {schema}, {table}"
        );
    }
}

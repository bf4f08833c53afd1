//! `[[events]]`, and `[hash]`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::format::OF_RULES;
use super::super::layers::Origins;
use super::super::written;
use super::super::{ColumnChoice, DataFormat, DataSettings, HashKey, OutboxSettings, RuleFormat, RuleSettings};
use super::outbox::headers;
use super::{identifier, not_default_exchange, one_of, secret, template};
use crate::failure::Definite;
use crate::route::domain::VARIABLES;
use crate::route::expression::Expression;
use crate::route::select::Selection;
use crate::route::template::Template;

const OPERATIONS: [&str; 4] = ["insert", "update", "delete", "truncate"];
/// Part of a `message_id`, which has 255 bytes for all of it.
const NAME_BYTES_MAX: usize = 100;
/// Shorter ones can be found by trying.
const HASH_KEY_BYTES_MIN: usize = 16;

/// What all rules have in common.
struct Common<'c> {
    at: &'c Origins,
    name: &'c str,
    outboxes: &'c [OutboxSettings],
    hash_key: Option<HashKey>,
}

pub(super) fn rules(
    at: &Origins,
    written: Vec<written::Rule>,
    hash: written::Hash,
    outboxes: &[OutboxSettings],
    name: &str,
) -> Result<Vec<RuleSettings>, Definite> {
    let common = Common { at, name, outboxes, hash_key: hash_key(at, hash)? };
    let key = |index: usize| if at.is_list("events") { format!("events[{index}]") } else { "events".to_owned() };
    let rules = written.into_iter().enumerate().map(|(index, written)| common.rule(key(index), written));
    let rules = rules.collect::<Result<Vec<_>, _>>()?;
    for (index, rule) in rules.iter().enumerate() {
        if rules[..index].iter().any(|other| other.name == rule.name) {
            let what = format!("is given twice: \"{}\"", rule.name);
            let hint = "it ends the message_id: set `name` for two rules of the same type";
            return Err(at.wrong(&format!("{}.name", rule.key), what, hint));
        }
    }
    Ok(rules)
}

fn hash_key(at: &Origins, written: written::Hash) -> Result<Option<HashKey>, Definite> {
    let Some(key) = secret(at, "hash.key", "hash.key_file", written.key, written.key_file)? else { return Ok(None) };
    if key.len() < HASH_KEY_BYTES_MIN {
        let hint =
            "allowed: at least 16 bytes, as `openssl rand -base64 32` makes them; whoever knows it can guess values";
        return Err(at.wrong("hash.key", "is too short", hint));
    }
    Ok(Some(HashKey::new(key.as_bytes())))
}

impl Common<'_> {
    fn rule(&self, key: String, written: written::Rule) -> Result<RuleSettings, Definite> {
        let sub = |name: &str| format!("{key}.{name}");
        let written::Rule {
            name,
            table,
            on,
            when,
            event_type,
            data,
            exchange,
            routing_key,
            format,
            key: ordering_key,
            headers,
            ..
        } = &written;
        let tables = self.tables(&sub("table"), table.as_deref().unwrap_or_default())?;
        let on = self.operations(&sub("on"), on.as_deref())?;
        let hint = "what happened, as in type = \"OrderPaid\"";
        let event_type = super::required(self.at, &sub("type"), event_type.clone(), hint)?;
        let event_type = self.template(&sub("type"), &event_type, false)?;
        let rule_name = self.rule_name(&sub("name"), name.as_deref(), &event_type)?;
        let exchange = self.template(&sub("exchange"), exchange.as_deref().unwrap_or("{name}.events"), true)?;
        let routing_key = self.template(&sub("routing_key"), routing_key.as_deref().unwrap_or("{type}"), true)?;
        let ordering_key = ordering_key.as_deref().map(|text| self.template(&sub("key"), text, true)).transpose()?;
        let format = one_of(self.at, &sub("format"), format.clone(), &OF_RULES)?;
        let format = format.unwrap_or(RuleFormat::Data(DataFormat::Plain));
        let when = when.as_deref().map(|text| self.expression(&sub("when"), text)).transpose()?;
        let headers = self::headers(self.at, &sub("headers"), headers.clone().unwrap_or_default(), None, self.name)?;
        for (header, template) in &headers {
            self.variables(&sub(&format!("headers.{header}")), template, true)?;
        }
        let columns = self.columns(&sub("data"), data.as_deref())?;
        // Where it is the same for all, it is known before the first event.
        let fill = |template: Template| match event_type.literal() {
            Some(literal) => template.fill("type", literal),
            None => template,
        };
        Ok(RuleSettings {
            name: rule_name,
            tables,
            on,
            when,
            exchange: not_default_exchange(self.at, &sub("exchange"), fill(exchange))?,
            routing_key: fill(routing_key),
            format,
            ordering_key: ordering_key.map(fill),
            headers: headers.into_iter().map(|(header, template)| (header, fill(template))).collect(),
            data: self.data(&key, columns, written, format)?,
            event_type,
            key,
        })
    }

    fn tables(&self, key: &str, patterns: &[String]) -> Result<Selection, Definite> {
        let tables = Selection::parse(patterns).map_err(|error| {
            let hint = error.hint();
            self.at.wrong_because(key, "holds a pattern that can't be used", error, hint)
        })?;
        if tables.is_empty() {
            return Err(self.at.wrong(key, "is missing", "the table, or a pattern, as in table = \"public.orders\""));
        }
        let mut outboxes = self.outboxes.iter().filter_map(OutboxSettings::table);
        if let Some(outbox) = outboxes.find(|outbox| tables.names(&outbox.schema, &outbox.table)) {
            let what = format!("names the outbox {}.{}", outbox.schema, outbox.table);
            return Err(self.at.wrong(key, what, "the rows of an outbox are events already: see [outbox]"));
        }
        Ok(tables)
    }

    fn operations(&self, key: &str, written: Option<&[String]>) -> Result<Vec<&'static str>, Definite> {
        let Some(written) = written else { return Ok(OPERATIONS[..3].to_vec()) };
        let operation = |written: &String| {
            OPERATIONS.into_iter().find(|operation| operation == written).ok_or_else(|| {
                self.at.wrong(key, format!("can't be \"{written}\""), format!("allowed: {}", OPERATIONS.join(", ")))
            })
        };
        let operations = written.iter().map(operation).collect::<Result<Vec<_>, _>>()?;
        if operations.is_empty() {
            return Err(self.at.wrong(key, "is empty", format!("allowed: {}", OPERATIONS.join(", "))));
        }
        Ok(operations)
    }

    fn rule_name(&self, key: &str, written: Option<&str>, event_type: &Template) -> Result<String, Definite> {
        let Some(name) = written.or_else(|| event_type.literal()) else {
            let hint = "the type has variables, so that it names no rule: write a short name, as in name = \"orders\"";
            return Err(self.at.wrong(key, "is missing", hint));
        };
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            let hint =
                format!("allowed: 1 to {NAME_BYTES_MAX} bytes, without control characters; it is the type unless set");
            return Err(self.at.wrong(key, "is no name of a rule", hint));
        }
        Ok(name.to_owned())
    }

    fn template(&self, key: &str, text: &str, has_type: bool) -> Result<Template, Definite> {
        let template = template(self.at, key, text, self.name)?;
        self.variables(key, &template, has_type)?;
        Ok(template)
    }

    /// Whether the table has the columns, only the server knows.
    fn variables(&self, key: &str, template: &Template, has_type: bool) -> Result<(), Definite> {
        let is_column = |variable: &str| variable.starts_with("new.") || variable.starts_with("old.");
        let is_known = |variable: &str| VARIABLES.contains(&variable) || variable == "type" && has_type;
        let Some(unknown) = template.variables().find(|variable| !is_column(variable) && !is_known(variable)) else {
            return Ok(());
        };
        let of_type = if has_type { ", {type}" } else { "" };
        let hint = format!("allowed: {{name}}, {{schema}}, {{table}}, {{op}}{of_type}, {{new.column}}, {{old.column}}");
        Err(self.at.wrong(key, format!("uses {{{unknown}}}, which is no variable"), hint))
    }

    fn expression(&self, key: &str, text: &str) -> Result<Arc<Expression>, Definite> {
        Expression::parse(text).map(Arc::new).map_err(|error| {
            let hint = error.hint();
            self.at.wrong_because(key, "can't be used", error, hint)
        })
    }

    /// `["*", "!secret"]`, or `["id", "total"]`.
    fn columns(&self, key: &str, written: Option<&[String]>) -> Result<ColumnChoice, Definite> {
        let Some(written) = written else { return Ok(ColumnChoice::AllBut(Vec::new())) };
        let has_all = written.iter().any(|item| item == "*");
        let hint = "allowed: columns, as in [\"id\", \"total\"]; or all but some, as in [\"*\", \"!secret\"]";
        let mut columns = Vec::new();
        for item in written.iter().filter(|item| *item != "*") {
            let excluded = item.strip_prefix('!');
            if excluded.is_some() != has_all {
                let what = if has_all { "holds \"*\" and a column" } else { "excludes, but does not hold \"*\"" };
                return Err(self.at.wrong(key, what, hint));
            }
            let column = excluded.unwrap_or(item);
            identifier(self.at, key, column)?;
            columns.push(column.to_owned());
        }
        Ok(if has_all { ColumnChoice::AllBut(columns) } else { ColumnChoice::Only(columns) })
    }

    fn data(
        &self,
        key: &str,
        columns: ColumnChoice,
        written: written::Rule,
        format: RuleFormat,
    ) -> Result<DataSettings, Definite> {
        let sub = |name: &str| format!("{key}.{name}");
        let compute = written.compute.unwrap_or_default().into_iter().map(|(field, text)| {
            let computed = self.expression(&sub(&format!("compute.{field}")), &text)?;
            Ok((field, computed))
        });
        let data = DataSettings {
            columns,
            rename: written.rename.unwrap_or_default(),
            compute: compute.collect::<Result<_, Definite>>()?,
            mask: written.mask.unwrap_or_default(),
            hash: written.hash.unwrap_or_default(),
            hash_key: self.hash_key.clone(),
        };
        if matches!(format, RuleFormat::Row(_)) && !data.is_whole() {
            let hint =
                "remove data, rename, compute, mask and hash, or choose plain, raw, cloudevents or cloudevents-binary";
            return Err(self.at.wrong(
                &sub("format"),
                "is one of whole rows, which the rule does not let through",
                hint,
            ));
        }
        let treated =
            [("rename", keys(&data.rename)), ("mask", keys(&data.mask)), ("hash", data.hash.iter().collect())];
        for (name, columns) in &treated {
            if let Some(column) = columns.iter().find(|column| !data.columns.has(column)) {
                let what = format!("names a column that `data` leaves out: \"{column}\"");
                return Err(self.at.wrong(&sub(name), what, "add it to `data`, or remove it here"));
            }
        }
        if let Some(column) = data.hash.iter().find(|column| data.mask.contains_key(*column)) {
            let what = format!("names a column that is masked: \"{column}\"");
            return Err(self.at.wrong(&sub("hash"), what, "keep it in one of the two"));
        }
        if data.hash_key.is_none() && !data.hash.is_empty() {
            let hint = "set PGSLUICE__HASH__KEY in the environment, or hash.key_file: whoever has the key can tell whose hash it is";
            return Err(self.at.wrong(&sub("hash"), "needs a key, and there is no hash.key", hint));
        }
        Ok(data)
    }
}

fn keys(map: &BTreeMap<String, String>) -> Vec<&String> {
    map.keys().collect()
}

//! The contracts of the services: what is committed is what they are, and what a consumer takes is in it.

use std::path::{Path, PathBuf};

use messaging::Migration;
use schemars::schema_for;
use serde_json::{Value, json};

use super::stage::Stage;
use crate::support::{done, pgsluice_command};

fn file(service: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/shop").join(service).join(name)
}

/// `UPDATE_SNAPSHOTS=1` writes it.
fn is_as_committed(file: &Path, text: &str) {
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some_and(|value| value == "1") {
        std::fs::write(file, text).expect("write the contract");
        return;
    }
    let committed = std::fs::read_to_string(file).unwrap_or_default();
    assert!(committed == text, "{} is not what it would be now: UPDATE_SNAPSHOTS=1 writes it\n{text}", file.display());
}

fn read(service: &str, name: &str) -> Value {
    let text = std::fs::read_to_string(file(service, name)).expect("the contract");
    serde_json::from_str(&text).expect("JSON")
}

async fn asyncapi_is_as_committed(service: &str, migrations: &[Migration]) {
    let stage = Stage::new(migrations).await;
    let (config, committed) = (file(service, "pgsluice.toml"), file(service, "asyncapi.json"));
    let (config, url) = (config.to_str().expect("text"), stage.database.url());
    let environment = [("PGSLUICE__SOURCE__URL", url.as_str())];
    let run = |more: &[&str]| pgsluice_command(&[&["schema", "--config", config], more].concat(), &environment);
    is_as_committed(&committed, &done(run(&[])).await);
    assert_eq!(done(run(&["--check", committed.to_str().expect("text")])).await, "compatible\n");
    // A change that a consumer can't take is found.
    stage.database.execute("ALTER TABLE outbox RENAME COLUMN payload TO content").await;
    let (code, log) = run(&["--check", committed.to_str().expect("text")]).wait(crate::support::SOON).await;
    assert!(code.is_some_and(|code| code != 0), "{log}");
}

#[tokio::test]
async fn the_documents_are_what_pgsluice_makes_of_the_tables() {
    asyncapi_is_as_committed("orders", orders::MIGRATIONS).await;
    asyncapi_is_as_committed("inventory", inventory::MIGRATIONS).await;
}

#[test]
fn the_payloads_are_what_the_services_write() {
    for (service, schemas) in [("orders", orders::events::schemas()), ("inventory", inventory::events::schemas())] {
        is_as_committed(&file(service, "events.json"), &format!("{schemas:#}\n"));
    }
}

/// Of an event in an outbox.
fn payload(service: &str, event_type: &str) -> Value {
    let schema = read(service, "events.json")[event_type].take();
    assert!(schema.is_object(), "{service} tells no {event_type}");
    schema
}

/// Of an event that a rule makes.
fn rule(service: &str, rule: &str) -> Value {
    let document = read(service, "asyncapi.json");
    let messages = document["components"]["messages"].as_object().expect("messages");
    let (_, message) = messages.iter().find(|(name, _)| name.contains(rule)).unwrap_or_else(|| panic!("no {rule}"));
    let mut schema = message["payload"].clone();
    schema["components"] = document["components"].clone();
    schema
}

/// Panics if a service told what is not in its contract; `name` is an event's type, or the rule that made it.
pub(super) fn allows(service: &str, name: &str, body: &Value) {
    let schema = if name.contains('-') { rule(service, name) } else { payload(service, name) };
    let validator = jsonschema::options().should_validate_formats(true).build(&schema).expect("a schema");
    let wrong: Vec<String> =
        validator.iter_errors(body).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(wrong.is_empty(), "{service} told a {name} that is none: {wrong:?} {body}");
}

#[test]
fn what_a_consumer_takes_is_in_the_contract_of_the_producer() {
    use inventory::events as of_inventory;
    use orders::events as of_orders;
    use view::base_data::{Key, Member, Product};
    use view::history::About;
    use view::order::{Cancelled, Placed};
    let taken = [
        (payload("orders", "OrderCreated"), json!(schema_for!(of_inventory::OrderCreated))),
        (payload("orders", "OrderConfirmed"), json!(schema_for!(of_inventory::OrderDecided))),
        (payload("orders", "OrderCancelled"), json!(schema_for!(of_inventory::OrderDecided))),
        (payload("inventory", "InventoryLocked"), json!(schema_for!(of_orders::InventoryLocked))),
        (payload("inventory", "LockFailed"), json!(schema_for!(of_orders::LockFailed))),
        (rule("orders", "member-for-inventory"), json!(schema_for!(of_inventory::MemberAddress))),
        (rule("orders", "member-deleted-for-inventory"), json!(schema_for!(of_inventory::MemberDeleted))),
        (rule("inventory", "product-for-orders"), json!(schema_for!(of_orders::ProductPrice))),
        // The view's.
        (payload("orders", "OrderCreated"), json!(schema_for!(Placed))),
        (payload("orders", "OrderCancelled"), json!(schema_for!(Cancelled))),
        (payload("orders", "OrderCreated"), json!(schema_for!(About))),
        (payload("orders", "OrderConfirmed"), json!(schema_for!(About))),
        (payload("orders", "OrderCancelled"), json!(schema_for!(About))),
        (payload("inventory", "InventoryLocked"), json!(schema_for!(About))),
        (payload("inventory", "LockFailed"), json!(schema_for!(About))),
        (payload("inventory", "InventoryReleased"), json!(schema_for!(About))),
        (rule("orders", "member-for-view"), json!(schema_for!(Member))),
        (rule("orders", "member-deleted-for-view"), json!(schema_for!(Key))),
        (rule("inventory", "product-for-view"), json!(schema_for!(Product))),
        (rule("inventory", "product-deleted-for-view"), json!(schema_for!(Key))),
    ];
    for (told, taken) in taken {
        let mut problems = Vec::new();
        compare(&Side::of(&told), &Side::of(&taken), "", &mut problems);
        assert!(problems.is_empty(), "{problems:#?}\ntold: {told:#}\ntaken: {taken:#}");
    }
}

#[test]
fn what_a_consumer_could_not_take_is_found() {
    let finds = |told: Value, expected: &str| {
        let taken = json!(schema_for!(inventory::events::OrderCreated));
        let mut problems = Vec::new();
        compare(&Side::of(&told), &Side::of(&taken), "", &mut problems);
        assert_eq!(problems, [expected]);
    };
    let told = payload("orders", "OrderCreated");
    let mut less = told.clone();
    less["required"] = json!(["lines"]);
    finds(less, "/order: may be missing");
    let mut other = told.clone();
    other["$defs"]["Line"]["properties"]["product"]["type"] = json!("string");
    finds(other, "/lines/[]/product: told [\"string\"], taken [\"integer\"]");
    let mut null = told;
    null["properties"]["lines"]["type"] = json!(["array", "null"]);
    finds(null, "/lines: told [\"array\", \"null\"], taken [\"array\"]");
}

/// A schema in its document.
struct Side<'a> {
    root: &'a Value,
    schema: &'a Value,
}

impl<'a> Side<'a> {
    fn of(root: &'a Value) -> Self {
        Side { root, schema: root }.resolved()
    }

    fn at(&self, schema: &'a Value) -> Self {
        Side { root: self.root, schema }.resolved()
    }

    fn resolved(mut self) -> Self {
        while let Some(reference) = self.schema["$ref"].as_str() {
            let pointer = reference.strip_prefix('#').expect("a reference within the document");
            self.schema = self.root.pointer(pointer).unwrap_or_else(|| panic!("{reference}"));
        }
        self
    }

    fn property(&self, name: &str) -> Option<Self> {
        Some(self.at(self.schema["properties"].get(name)?))
    }

    fn items(&self) -> Option<Self> {
        Some(self.at(self.schema.get("items")?))
    }

    fn required(&self) -> Vec<&'a str> {
        self.schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }

    fn types(&self) -> Vec<&'a str> {
        match &self.schema["type"] {
            Value::String(one) => vec![one],
            several => several.as_array().into_iter().flatten().filter_map(Value::as_str).collect(),
        }
    }
}

/// Whether whatever is told can be taken: every field that the consumer needs is always there, with a type that it takes.
fn compare(told: &Side<'_>, taken: &Side<'_>, path: &str, problems: &mut Vec<String>) {
    let (given, wanted) = (told.types(), taken.types());
    if given.is_empty() || given.iter().any(|one| !wanted.contains(one)) {
        problems.push(format!("{path}: told {given:?}, taken {wanted:?}"));
        return;
    }
    for name in taken.required() {
        let path = format!("{path}/{name}");
        match (told.property(name), taken.property(name)) {
            (Some(told), Some(taken)) => compare(&told, &taken, &path, problems),
            _ => problems.push(format!("{path}: is not told")),
        }
        if !told.required().contains(&name) {
            problems.push(format!("{path}: may be missing"));
        }
    }
    if let Some(taken) = taken.items() {
        match told.items() {
            Some(told) => compare(&told, &taken, &format!("{path}/[]"), problems),
            None => problems.push(format!("{path}: a list of anything")),
        }
    }
}

//! What `docs/contract.md` says is what happens.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::contract::{Contract, file};
use crate::support::{Database, lifetime, postgres};
use crate::values::{examples, setup};

const PAGE: &str = include_str!("../../docs/contract.md");

fn block(language: &str) -> &'static str {
    let fence = format!("```{language}\n");
    PAGE.split(&fence).nth(1).and_then(|rest| rest.split("```").next()).expect("a block")
}

/// In a shell, in the folder of the configuration.
fn shell(folder: &Path, command: &str) -> Output {
    let binary = Path::new(env!("CARGO_BIN_EXE_pgsluice")).parent().expect("a folder");
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").expect("a path"));
    let mut shell: Command = lifetime::command("sh");
    shell.args(["-c", command]).current_dir(folder).env("PATH", path).output().expect("run a shell")
}

fn config(database: &Database) -> PathBuf {
    file(&format!(
        "name = \"shop\"\n[source]\nurl = \"{}\"\ntables = [\"public.*\"]\n[rabbitmq]\nurl = \"amqp://app@mq1/shop\"\n",
        database.url()
    ))
}

/// And an object that is of none of the types is refused by all but those of JSON.
#[tokio::test]
async fn every_value_of_the_page_of_types_is_what_the_document_says_of_its_type() {
    let database = postgres().database().await;
    database.execute(&setup()).await;
    let examples = examples();
    for (n, (name, value, _)) in examples.iter().enumerate() {
        let create = match name {
            Some(name) => format!("CREATE TABLE t{n} (v {name})"),
            None => format!("CREATE TABLE t{n} AS SELECT {value} AS v WITH NO DATA"),
        };
        database.execute(&create).await;
    }
    let contract = Contract::of(&config(&database)).await;
    for (n, (name, value, expected)) in examples.iter().enumerate() {
        let expected: Value = serde_json::from_str(expected).expect("the page's JSON");
        let table = format!("public.t{n}");
        assert!(contract.has_row(&table, &json!({"v": expected})), "{name:?} {value}: {expected}");
        let is_json = name.is_some_and(|name| name.starts_with("json") && name != "jsonpath");
        assert!(is_json || !contract.has_row(&table, &json!({"v": {"another": [true]}})), "{name:?} {value}");
    }
}

#[tokio::test]
async fn its_commands_work_and_find_what_it_shows() {
    let database = postgres().database().await;
    let sql = "CREATE TYPE status AS ENUM ('open', 'paid');
        CREATE TABLE orders (id bigint PRIMARY KEY, status status NOT NULL, total numeric(10,2), note text)";
    database.execute(sql).await;
    let config = config(&database);
    let folder = config.parent().expect("a folder");
    std::fs::rename(&config, folder.join("shop.toml")).expect("the name that the page has");
    let [write, check] = block("sh").lines().collect::<Vec<_>>()[..] else { panic!("two commands") };
    let written = shell(folder, write);
    assert!(written.status.success() && written.stderr.is_empty(), "{written:?}");
    let checked = shell(folder, check);
    assert_eq!((checked.status.code(), checked.stdout.as_slice()), (Some(0), &b"compatible\n"[..]), "{checked:?}");
    let sql = "ALTER TABLE orders DROP note; ALTER TABLE orders ALTER total TYPE integer;
        CREATE TYPE fewer AS ENUM ('paid'); ALTER TABLE orders ALTER status TYPE fewer USING 'paid';
        DROP TYPE status; ALTER TYPE fewer RENAME TO status";
    database.execute(sql).await;
    let checked = shell(folder, check);
    let stdout = String::from_utf8(checked.stdout).expect("text");
    let inserts: Vec<&str> = stdout.lines().filter(|line| line.starts_with("public.orders.insert: ")).collect();
    assert_eq!((checked.status.code(), inserts), (Some(9), block("text").lines().collect()));
}

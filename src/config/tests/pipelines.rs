//! `[[pipelines]]`: what is laid over what, and what two of them can't share.

use std::ffi::OsString;
use std::path::Path;

use super::super::pipelines::{Pipelines, parse};
use super::super::reference::keys;
use super::super::schema::schema;
use super::{SMALLEST, checkpoint_path, error, loaded};
use crate::failure::Definite;
use crate::postgres::conninfo::Host;

const TWO: &str = r#"
[source]
tables = ["public.*"]
watch_every_ms = 500
[outbox]
table = "public.outbox"
[rabbitmq]
url = "amqp://mq1"
[log]
level = "warn"

[[pipelines]]
name = "shop"
[pipelines.source]
url = "postgres://app@db1/shop"

[[pipelines]]
name = "bill"
fail_fast = true
[pipelines.source]
url = "postgres://app@db1/bill"
watch_every_ms = 700
[[pipelines.outbox]]
table = "app.a"
[[pipelines.outbox]]
table = "app.b"
"#;

fn load(text: &str, variables: &[(&str, &str)]) -> Result<Pipelines, Definite> {
    let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    parse(Path::new("conf/two.toml"), text, variables)
}

fn two(text: &str, variables: &[(&str, &str)]) -> Pipelines {
    load(text, variables).unwrap_or_else(|error| panic!("{error} ({})", error.hint))
}

/// The error and its hint, below each other.
fn wrong(text: &str, variables: &[(&str, &str)]) -> String {
    let definite = load(text, variables).expect_err("a configuration that is wrong");
    assert_eq!(definite.exit_code(), 2);
    format!("{definite}\n{}", definite.hint)
}

#[test]
fn each_is_laid_over_the_top_level() {
    let pipelines = two(TWO, &[]);
    assert!(pipelines.is_list());
    let [shop, bill] = pipelines.all() else { panic!("two") };
    assert_eq!(
        (shop.name.as_str(), shop.source.slot.as_str(), shop.source.publication.as_str()),
        ("shop", "shop", "shop")
    );
    assert_eq!((bill.name.as_str(), bill.source.slot.as_str()), ("bill", "bill"));
    assert_eq!((shop.source.conninfo.dbname(), bill.source.conninfo.dbname()), ("shop", "bill"));
    // A key of a section replaces that key; a list replaces the section.
    assert_eq!((shop.source.watch_every.as_millis(), bill.source.watch_every.as_millis()), (500, 700));
    assert!(bill.source.tables.selects("public", "orders"));
    assert_eq!((shop.outboxes.len(), bill.outboxes.len()), (1, 2));
    assert_eq!((shop.fail_fast, bill.fail_fast), (false, true));
    assert_eq!((shop.log.level.as_str(), bill.log.level.as_str()), ("warn", "warn"));
    assert_eq!(shop.changes.exchange.literal(), Some("shop.changes"));
    assert_eq!(checkpoint_path(bill), Path::new("/var/lib/pgsluice/bill"));
    // As it was.
    assert_eq!(loaded(SMALLEST, &[]).name, "shop");
}

#[test]
fn one_is_found_by_its_name() {
    let names = |pipelines: Pipelines| {
        pipelines.all().iter().map(|settings| settings.name.clone()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(two(TWO, &[]).only(None).expect("all")), "shop bill");
    assert_eq!(names(two(TWO, &[]).only(Some("bill")).expect("one")), "bill");
    assert_eq!(two(TWO, &[]).one(Some("shop")).expect("one").name, "shop");
    let definite = two(TWO, &[]).one(None).expect_err("which");
    assert_eq!(definite.to_string(), "the configuration has several pipelines, and this is about one");
    assert_eq!(definite.hint, "say which by --pipeline: shop, bill");
    let definite = two(TWO, &[]).one(Some("x")).expect_err("none");
    assert_eq!(definite.to_string(), "the configuration has no pipeline \"x\"");
    assert_eq!(definite.hint, "there is: shop, bill");
    let alone = || two(SMALLEST, &[]);
    assert!(!alone().is_list());
    assert_eq!(alone().one(None).expect("one").name, alone().one(Some("shop")).expect("one").name);
    assert!(alone().one(Some("bill")).is_err());
}

#[test]
fn a_variable_is_of_the_top_or_of_one() {
    let password = |pipelines: &Pipelines, at: usize| {
        let conninfo = &pipelines.all()[at].source.conninfo;
        let host: &Host = &conninfo.hosts()[0];
        conninfo.password_for(host).map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned()).unwrap_or_default()
    };
    let variables = [
        ("PGSLUICE__SOURCE__PASSWORD", "of all"),
        ("PGSLUICE__PIPELINES__BILL__SOURCE__PASSWORD", "of bill"),
        ("PGSLUICE__SOURCE__WATCH_EVERY_MS", "600"),
        ("PGSLUICE__PIPELINES__SHOP__RABBITMQ__LANES", "3"),
    ];
    let both = two(TWO, &variables);
    assert_eq!((password(&both, 0).as_str(), password(&both, 1).as_str()), ("of all", "of bill"));
    let every_ms = |at: usize| both.all()[at].source.watch_every.as_millis();
    assert_eq!((every_ms(0), every_ms(1)), (600, 700), "a pipeline's own key wins over the top's variable");
    assert_eq!((both.all()[0].rabbitmq.lanes, both.all()[1].rabbitmq.lanes), (3, 1));
    // A name may begin as another does.
    let longer = TWO.replace("\"bill\"", "\"shop__source\"");
    let set = [("PGSLUICE__PIPELINES__SHOP__SOURCE__SOURCE__PASSWORD", "x")];
    assert_eq!(password(&two(&longer, &set), 1), "x");
    assert_eq!(
        wrong(TWO, &[("PGSLUICE__PIPELINES__SHIP__SOURCE__PASSWORD", "x")]),
        "PGSLUICE__PIPELINES__SHIP__SOURCE__PASSWORD: there is no such pipeline\n\
         after PGSLUICE__PIPELINES__ comes one of these in upper case, and __: shop, bill"
    );
    assert!(error(SMALLEST, &[("PGSLUICE__PIPELINES__SHOP__NAME", "x")]).contains("there are no [[pipelines]]"));
    assert_eq!(
        wrong(TWO, &[("PGSLUICE__PIPELINES__SHOP__SOURCE__URL__X", "x")]),
        "PGSLUICE__PIPELINES__SHOP__SOURCE__URL__X: a key can't be both a value and a section\n\
         remove the variable, or write the key in the file"
    );
}

#[test]
fn of_a_password_and_its_file_the_nearer_one_wins() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    std::fs::write(&file, "of the file\n").expect("write");
    let line = format!("password_file = \"{}\"\nurl = \"postgres://app@db1/bill\"", file.display());
    let text = TWO.replace("url = \"postgres://app@db1/bill\"", &line);
    let both = two(&text, &[("PGSLUICE__SOURCE__PASSWORD", "of all")]);
    let conninfo = &both.all()[1].source.conninfo;
    let password = conninfo.password_for(&conninfo.hosts()[0]).expect("a password");
    assert_eq!(password.as_bytes(), b"of the file");
    let text = text.replace("password_file", "password = \"x\"\npassword_file");
    let says = wrong(&text, &[]);
    assert!(says.contains(": pipelines[1].source.password_file is given beside source.password\n"), "{says}");
}

#[test]
fn errors_name_the_pipeline_and_the_place() {
    let at = |from: &str, to: &str| wrong(&TWO.replacen(from, to, 1), &[]);
    assert_eq!(
        at("url = \"postgres://app@db1/bill\"\n", ""),
        "conf/two.toml:17: pipelines[1].source.url is missing\n\
         a PostgreSQL connection string, as in url = \"postgres://app@db1/shop?sslmode=verify-full\""
    );
    assert!(
        at("watch_every_ms = 700", "watch_every_ms = 1")
            .starts_with("conf/two.toml:22: pipelines[1].source.watch_every_ms is out of range: 1\n")
    );
    // What is written at the top is named as it is there.
    assert!(
        at("watch_every_ms = 500", "watch_every_ms = 1")
            .starts_with("conf/two.toml:4: source.watch_every_ms is out of range: 1\n")
    );
    assert_eq!(
        at("watch_every_ms = 700", "wach_every_ms = 700").lines().next(),
        Some("conf/two.toml:22: pipelines[1].source.wach_every_ms is unknown")
    );
    assert!(at("watch_every_ms = 700", "wach_every_ms = 700").contains("known in [pipelines.source]: url, "));
    let unknown = at("fail_fast = true", "fial_fast = true");
    assert!(unknown.starts_with(
        "conf/two.toml:19: pipelines[1].fial_fast is unknown\ndid you mean fail_fast? known in [[pipelines]]: "
    ));
    assert!(!unknown.contains("log"), "{unknown}");
    assert_eq!(
        at("fail_fast = true", "log.level = \"debug\""),
        "conf/two.toml:19: pipelines[1].log is of the process, and not of a pipeline\n\
         write [log] at the top: all pipelines have it in common"
    );
    assert!(at("name = \"bill\"\n", "").starts_with("conf/two.toml:17: pipelines[1].name is missing\n"));
    assert!(
        at("[source]", "name = \"shop\"\n[source]")
            .starts_with("conf/two.toml:2: name has no meaning beside [[pipelines]]\n")
    );
    assert!(wrong(&format!("{SMALLEST}[[pipeline]]\nname = \"x\""), &[]).contains("did you mean pipelines? "));
    assert!(wrong("pipelines = []", &[]).starts_with("conf/two.toml:1: pipelines is empty\n"));
    assert!(
        wrong("[pipelines]\nname = \"x\"", &[]).starts_with("conf/two.toml:1: pipelines is not a list of sections\n")
    );
    assert!(wrong("pipelines = [1]", &[]).starts_with("conf/two.toml:1: pipelines[0] is not a section\n"));
    let variable = [("PGSLUICE__PIPELINES__BILL__RABBITMQ__LANES", "0")];
    assert!(
        wrong(TWO, &variable).starts_with(
            "PGSLUICE__PIPELINES__BILL__RABBITMQ__LANES: pipelines[1].rabbitmq.lanes is out of range: 0\n"
        )
    );
}

#[test]
fn what_only_one_can_have_is_not_shared() {
    let bill = |lines: &str| TWO.replacen("fail_fast = true", lines, 1);
    assert_eq!(
        wrong(&TWO.replace("\"bill\"", "\"shop\""), &[]),
        "conf/two.toml:18: pipelines[1].name is that of another pipeline: \"shop\"\ngive each a name of its own"
    );
    assert_eq!(
        wrong(
            &bill("source.slot = \"shop\"").replace(
                "[pipelines.source]\nurl = \"postgres://app@db1/bill\"\nwatch_every_ms = 700",
                "source.url = \"postgres://app@db1/bill\""
            ),
            &[]
        ),
        "conf/two.toml:19: pipelines[1].source.slot is that of pipeline \"shop\" too, on the same server: \"shop\"\n\
         a slot has one reader: leave the key out, or name another"
    );
    // Written once for both.
    let common = TWO.replacen("[source]\n", "[source]\nslot = \"x\"\n", 1);
    assert!(wrong(&common, &[]).starts_with("conf/two.toml:3: source.slot is that of pipeline \"shop\" too, "));
    // Servers of their own have slots of their own, and databases publications.
    two(&common.replace("db1/bill", "db2/bill"), &[]);
    let common = TWO.replacen("[source]\n", "[source]\npublication = \"x\"\n", 1);
    two(&common, &[]);
    let says = wrong(&common.replace("db1/bill", "db1/shop"), &[]);
    assert!(
        says.starts_with("conf/two.toml:3: source.publication is that of pipeline \"shop\" too, in the same database"),
        "{says}"
    );
    let common = format!("checkpoint.path = \"/data/x\"\n{TWO}");
    let says = wrong(&common, &[]);
    assert!(
        says.starts_with("conf/two.toml:1: checkpoint.path is the folder of pipeline \"shop\" too: /data/x\n"),
        "{says}"
    );
    // Rows of one table.
    two(&format!("checkpoint.store = \"postgres\"\n{TWO}"), &[]);
}

#[test]
fn the_schema_has_the_same_keys_for_a_pipeline_but_for_those_of_the_process() {
    let schema = schema();
    let item = &schema["properties"]["pipelines"]["items"];
    assert_eq!(item["required"], serde_json::json!(["name"]));
    for key in keys() {
        let first = key.key.split('.').next().expect("a name");
        let is_of_process = super::super::pipelines::OF_PROCESS.contains(&first);
        assert_eq!(item["properties"].get(first).is_none(), is_of_process, "{first}");
    }
}

//! `pgsluice slot`: what a slot costs, and dropping it.

use serde_json::Value;

use super::{done, refused, run};
use crate::support::{PostgresServer, Process, SOON, Scene, folder};

/// The objects that `slot list --json` prints.
async fn list(process: Process) -> Vec<Value> {
    done(process).await.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[tokio::test]
async fn slots_are_listed_with_what_they_hold_and_one_is_dropped_only_when_that_is_meant() {
    let server = PostgresServer::private(&[]);
    let scene = Scene::on(&server, crate::support::rabbitmq()).await;
    let file = folder("slot").join("pgsluice.toml");
    std::fs::write(&file, scene.config("")).expect("write the configuration");
    let (url, file) = (scene.database.url(), file.to_str().expect("text"));
    assert_eq!(done(run(&["slot", "list", "-d", &url])).await.lines().last(), Some("(none)"));

    let running = scene.run().await;
    let name = scene.database.name();
    scene.database.execute("SELECT pg_create_physical_replication_slot('standby', true)").await;
    let slots = list(run(&["slot", "list", "--json", "--config", file])).await;
    let [ours, other] = slots.as_slice() else { panic!("{slots:?}") };
    assert_eq!((&ours["name"], &ours["plugin"]), (&Value::from(name), &Value::from("pgoutput")));
    assert_eq!((&ours["wal_status"], &ours["temporary"]), (&Value::from("reserved"), &Value::from(false)));
    assert_eq!(ours["safe_bytes"], Value::Null, "the server sets no limit");
    assert!(ours["active_pid"].is_i64() && ours["retained_bytes"].is_u64(), "{ours}");
    assert_eq!([&ours["is_of_this_configuration"], &other["is_of_this_configuration"]], [true, false]);
    assert_eq!(
        (&other["name"], &other["plugin"], &other["database"]),
        (&Value::from("standby"), &Value::Null, &Value::Null)
    );
    let without = list(run(&["slot", "list", "--json", "--database", &url])).await;
    assert_eq!(without[0]["is_of_this_configuration"], Value::Null);
    let table = done(run(&["slot", "list", "--config", file])).await;
    let row = table.lines().find(|line| line.starts_with(name)).expect("ours");
    assert!(row.contains("PID ") && row.contains("of this configuration") && !row.contains("standby"), "{table}");

    let error = refused(run(&["slot", "drop", "--yes", "--config", file, name]), 3).await;
    assert!(error.contains("is in use by PID"), "{error}");
    let mut running = running;
    running.terminate();
    running.wait(SOON).await;
    let error = refused(run(&["slot", "drop", "--config", file, name]), 2).await;
    assert!(error.contains("can't be delivered once it is dropped") && error.contains("--yes"), "{error}");
    let error = refused(run(&["slot", "drop", "--yes", "-d", &url, "nobodys"]), 3).await;
    assert!(error.contains("\"nobodys\" does not exist") && error.contains(&format!("{name}, standby")), "{error}");
    assert_eq!(list(run(&["slot", "list", "--json", "-d", &url])).await.len(), 2, "nothing was dropped");

    let said = done(run(&["slot", "drop", "--yes", "--config", file, name])).await;
    assert!(said.starts_with(&format!("dropped {name}, which held ")) && said.contains("checkpoint reset"), "{said}");
    let left = list(run(&["slot", "list", "--json", "-d", &url])).await;
    assert_eq!(left.iter().map(|slot| &slot["name"]).collect::<Vec<_>>(), ["standby"]);
}

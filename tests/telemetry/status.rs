//! `pgsluice status`, from the instance and from the database.

use serde_json::Value;

use super::{config, free_port, streaming};
use crate::support::{SOON, Scene, Web, eventually, pgsluice_command};

async fn status(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = pgsluice_command(&[&["status"], arguments].concat(), &[]);
    let (code, stderr) = command.wait(SOON).await;
    (code, format!("{}{stderr}", command.stdout()))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test]
async fn it_asks_the_instance_and_then_the_database() {
    let scene = Scene::new().await;
    let http = format!("listen = \"{}\"\n", free_port());
    let mut process = streaming(&config(&scene, &http, "")).await;
    let web = Web::of(&process).await;
    scene.database.execute("INSERT INTO orders SELECT g, 'ann', g, 'new' FROM generate_series(1, 30) g").await;
    scene.vhost.consume("all", 30, SOON).await;
    eventually("all is settled", SOON, async || (web.status().await["events"]["settled"] == 30).then_some(())).await;
    web.becomes(&[]).await;
    eventually("the slot is looked at", SOON, async || web.status().await["slot"].is_object().then_some(())).await;
    let path = process.config_path();
    let file = path.to_str().expect("text");
    let (code, text) = status(&["--config", file]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("shop: flowing (pgsluice "), "{text}");
    for part in ["postgresql  streaming, slot ", "rabbitmq    flowing", "30 settled (", "30 confirmed, 0 parked"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (code, text) = status(&["--url", &format!("http://{}/", web.address), "--json"]).await;
    let document = json(&text);
    assert_eq!((code, &document["events"]["settled"], &document["state"]), (Some(0), &30.into(), &"flowing".into()));
    // The page of the documents describes all of it.
    let page = std::fs::read_to_string("docs/telemetry.md").expect("the page");
    let described = |path: &str| page.contains(&format!("| `{path}`"));
    let mut missing = Vec::new();
    for (name, value) in document.as_object().expect("an object") {
        let first = if let Value::Array(items) = value { items.first().unwrap_or(value) } else { value };
        match first.as_object().filter(|inner| !inner.is_empty()) {
            Some(inner) => {
                missing.extend(inner.keys().map(|key| format!("{name}.{key}")).filter(|path| !described(path)));
            }
            None if !described(name) => missing.push(name.clone()),
            None => {}
        }
    }
    assert_eq!(missing, Vec::<String>::new());

    scene.acknowledged().await;
    process.kill();
    scene.database.execute("INSERT INTO ledger (filler) SELECT repeat('x', 1500) FROM generate_series(1, 1000)").await;
    let (code, text) = status(&["--config", file, "--json"]).await;
    let document = json(&text);
    assert_eq!(code, Some(0));
    assert!(document["not_running"].as_str().is_some_and(|why| why.contains("can't ask")), "{text}");
    let slot = &document["slots"][0];
    assert_eq!((&slot["active_pid"], &slot["wal_status"]), (&Value::Null, &"reserved".into()));
    assert!(slot["lag_bytes"].as_u64().is_some_and(|bytes| bytes > 1_000_000), "{text}");
    let checkpoint = document["checkpoint"]["lsn"].as_str().expect("a stored one").parse::<pgsluice::lsn::Lsn>();
    let acknowledged = slot["confirmed_flush_lsn"].as_str().expect("an LSN").parse::<pgsluice::lsn::Lsn>();
    assert!(checkpoint.expect("an LSN") >= acknowledged.expect("an LSN"));
    let (code, text) = status(&["--database", &scene.database.url(), "--slot", scene.database.name()]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.starts_with(&format!("{}: nobody reads it\n", scene.database.name())) && text.contains("holds "),
        "{text}"
    );
    let (code, text) = status(&["--url", &format!("http://{}", web.address)]).await;
    assert!(code == Some(6) && text.contains("hint: see that pgsluice runs"), "{text}");
    assert_eq!(status(&[]).await.0, Some(2));
}

#[tokio::test]
async fn it_watches_until_it_is_stopped() {
    let scene = Scene::new().await;
    let process = streaming(&config(&scene, "", "")).await;
    let web = Web::of(&process).await;
    let mut watch =
        pgsluice_command(&["status", "--watch", "--json", "--url", &format!("http://{}", web.address)], &[]);
    eventually("it looks again", SOON, async || (watch.stdout().lines().count() >= 2).then_some(())).await;
    watch.terminate();
    assert_eq!(watch.wait(SOON).await.0, Some(0));
    assert!(watch.stdout().lines().all(|line| json(line)["name"] == "shop"));
}

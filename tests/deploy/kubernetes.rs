//! The manifest: by Kubernetes' own schemas, and by what its probes meet.

use serde_json::Value;

use super::{PORT, STOP_MAX_SECONDS, config, holds, read, shown, text, texts, valid, yaml};
use crate::support::{Process, SOON, Scene, Web, pgsluice_command};

const MANIFEST: &str = "deploy/kubernetes/pgsluice.yaml";

/// The object of this kind.
fn object(kind: &str) -> Value {
    let all = yaml(MANIFEST);
    let mut of_kind = all.into_iter().filter(|object| object["kind"] == kind);
    let object = of_kind.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(of_kind.next().is_none(), "one {kind}");
    object
}

fn container(deployment: &Value) -> &Value {
    &deployment["spec"]["template"]["spec"]["containers"][0]
}

/// What the pods have in their environment.
fn environment() -> Vec<(String, String)> {
    let (deployment, secret) = (object("Deployment"), object("Secret"));
    let container = container(&deployment);
    assert_eq!(container["envFrom"][0]["secretRef"]["name"], secret["metadata"]["name"]);
    let secrets = secret["stringData"].as_object().expect("secrets").iter();
    let secrets = secrets.map(|(name, value)| (name.clone(), value.as_str().expect("text").to_owned()));
    let plain = container["env"].as_array().expect("variables").iter();
    secrets.chain(plain.map(|it| (text(it, "/name").to_owned(), text(it, "/value").to_owned()))).collect()
}

#[test]
fn kubernetes_knows_every_field() {
    let schema: Value = serde_json::from_str(&read("tests/deploy/kubernetes-1.33.json")).expect("JSON");
    let objects = yaml(MANIFEST);
    for object in &objects {
        let kind = text(object, "/kind");
        let mut schema = schema.clone();
        assert!(schema["$defs"][kind].is_object(), "no schema for {kind}");
        schema["$ref"] = format!("#/$defs/{kind}").into();
        valid(object, &schema, kind);
        for required in ["/apiVersion", "/metadata/name"] {
            text(object, required);
        }
    }
    assert_eq!(objects.len(), 5);
}

#[test]
fn what_belongs_together_has_the_same_names() {
    let deployment = object("Deployment");
    let pod = &deployment["spec"]["template"];
    let labels = &pod["metadata"]["labels"];
    let container = container(&deployment);
    let monitor = yaml("deploy/kubernetes/podmonitor.yaml").remove(0);
    for (what, selector) in [
        ("the deployment", &deployment["spec"]["selector"]["matchLabels"]),
        ("the budget", &object("PodDisruptionBudget")["spec"]["selector"]["matchLabels"]),
        ("the service", &object("Service")["spec"]["selector"]),
        ("the spread", &pod["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"]),
        ("the monitor", &monitor["spec"]["selector"]["matchLabels"]),
    ] {
        assert_eq!(selector, labels, "{what}");
    }
    let port = &container["ports"][0];
    assert_eq!((text(port, "/name"), &port["containerPort"]), ("http", &PORT.into()));
    for (what, named) in [
        ("liveness", &container["livenessProbe"]["httpGet"]["port"]),
        ("readiness", &container["readinessProbe"]["httpGet"]["port"]),
        ("the service", &object("Service")["spec"]["ports"][0]["targetPort"]),
        ("the monitor", &monitor["spec"]["podMetricsEndpoints"][0]["port"]),
    ] {
        assert_eq!(named, "http", "{what}");
    }
    let volumes = pod["spec"]["volumes"].as_array().expect("volumes");
    for mount in container["volumeMounts"].as_array().expect("mounts") {
        assert!(volumes.iter().any(|volume| volume["name"] == mount["name"]), "{mount}");
    }
    assert_eq!(volumes[0]["configMap"]["name"], object("ConfigMap")["metadata"]["name"]);
    assert!(pod["spec"]["terminationGracePeriodSeconds"].as_u64() > Some(STOP_MAX_SECONDS));
    // Whose user it is, the image says too.
    let user = pod["spec"]["securityContext"]["runAsUser"].as_u64().expect("a user");
    assert!(read("deploy/container/Dockerfile").contains(&format!("USER {user}:{user}\n")));
    // One that waits for the other never ends: there are two, and one more while they are replaced.
    assert_eq!(deployment["spec"]["replicas"], 2);
    assert_eq!(deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
}

/// The configuration is as pgsluice takes it, with nothing on a disk; on servers of ours the first pod is active and the second
/// stands by; the probes find both as they should be, and plain `/readyz` would not.
#[tokio::test]
async fn both_pods_are_ready_by_their_probes() {
    let deployment = object("Deployment");
    let container = container(&deployment);
    let path = config(text(&object("ConfigMap"), "/data/pgsluice.toml"));
    let arguments = texts(&container["args"]);
    let mounted = format!("{}/pgsluice.toml", text(container, "/volumeMounts/0/mountPath"));
    assert_eq!(arguments, ["run", "--config", mounted.as_str()]);
    let environment = environment();
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let kept = shown(&path, &environment).await;
    assert_eq!(
        (holds(&kept, "checkpoint.store"), holds(&kept, "http.listen")),
        (&"postgres".into(), &format!("0.0.0.0:{PORT}").into())
    );
    assert_eq!(*holds(&kept, "source.streaming_folder"), text(container, "/volumeMounts/1/mountPath"));

    let scene = Scene::new().await;
    let (url, amqp) = (scene.database.url(), scene.vhost.url());
    let pod = || -> Process {
        let own = [
            ("PGSLUICE__SOURCE__URL", url.as_str()),
            ("PGSLUICE__SOURCE__SLOT", scene.database.name()),
            ("PGSLUICE__RABBITMQ__URL", &amqp),
            ("PGSLUICE__HTTP__LISTEN", "0.0.0.0:0"),
        ];
        pgsluice_command(&["run", "--config", path.to_str().expect("text")], &own)
    };
    let probe = |name: &str| text(container, &format!("/{name}/httpGet/path")).to_owned();
    let (live, ready) = (probe("livenessProbe"), probe("readinessProbe"));
    let active = pod();
    let web = Web::of(&active).await;
    web.becomes(&[]).await;
    assert_eq!((web.get(&live).await.code, web.get(&ready).await.code), (200, 200));
    let standby = pod();
    let web = Web::of(&standby).await;
    web.becomes(&["standby"]).await;
    assert_eq!((web.get(&live).await.code, web.get(&ready).await.code, web.get("/readyz").await.code), (200, 200, 503));
    // The rollout ends the active one.
    active.terminate();
    web.becomes(&[]).await;
    scene.database.execute("INSERT INTO orders VALUES (1, 'ann', 1, 'new')").await;
    scene.vhost.consume("all", 1, SOON).await;
}

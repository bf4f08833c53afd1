//! The image's recipe, and the shop that Compose starts. No container engine is asked for: the recipe is parsed, and what it and the
//! shop run is run here.

use std::path::Path;
use std::process::Command as Process;

use parse_dockerfile::{
    Command, Dockerfile, HealthcheckArguments, Instruction, JsonOrStringArray, Source, Spanned, Stage,
};
use regex::Regex;
use serde_json::Value;

use super::{PORT, STOP_MAX_SECONDS, config, holds, ran, read, shown, text, texts, valid, yaml};
use crate::support::{SOON, Web, folder, pgsluice_command, postgres, rabbitmq};

const DOCKERFILE: &str = "deploy/container/Dockerfile";

fn words(command: &Command<'_>) -> Vec<String> {
    match command {
        Command::Exec(words) => words.value.iter().map(|word| word.value.to_string()).collect(),
        Command::Shell(text) => panic!("the image has no shell: {}", text.value),
        other => panic!("{other:?}"),
    }
}

/// What the last stage says of what is run, as whom.
#[derive(Default)]
struct Image {
    entrypoint: Vec<String>,
    command: Vec<String>,
    health: Vec<String>,
    environment: Vec<(String, String)>,
    user: String,
    port: String,
    volume: String,
}

fn image(stage: &Stage<'_, '_>) -> Image {
    let mut image = Image::default();
    for instruction in stage.instructions {
        match instruction {
            Instruction::Entrypoint(it) => image.entrypoint = words(&it.arguments),
            Instruction::Cmd(it) => image.command = words(&it.arguments),
            Instruction::Healthcheck(it) => match &it.arguments {
                HealthcheckArguments::Cmd { arguments, .. } => image.health = words(arguments),
                other => panic!("{other:?}"),
            },
            Instruction::Env(it) => {
                let pairs = it.arguments.value.split_whitespace().filter(|word| *word != "\\");
                let pairs = pairs.map(|pair| pair.split_once('=').expect("name=value"));
                image.environment.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
            }
            Instruction::User(it) => image.user = it.arguments.value.to_string(),
            Instruction::Expose(it) => image.port = it.arguments[0].value.to_string(),
            Instruction::Volume(it) => {
                let (JsonOrStringArray::String(paths) | JsonOrStringArray::Json(Spanned { value: paths, .. })) =
                    &it.arguments;
                image.volume = paths[0].value.to_string();
            }
            Instruction::Copy(_) => {}
            other => panic!("{other:?}"),
        }
    }
    image
}

fn stages<'a, 'b>(dockerfile: &'b Dockerfile<'a>) -> (Stage<'a, 'b>, Stage<'a, 'b>) {
    let [build, last]: [Stage<'a, 'b>; 2] = dockerfile.stages().collect::<Vec<_>>().try_into().expect("two stages");
    (build, last)
}

/// What the build copies from the repository.
fn copied(build: &Stage<'_, '_>) -> Vec<String> {
    let copies = build.instructions.iter().filter_map(|instruction| match instruction {
        Instruction::Copy(copy) => Some(copy),
        _ => None,
    });
    let sources = copies.flat_map(|copy| copy.src.iter()).map(|source| match source {
        Source::Path(path) => path.value.to_string(),
        other => panic!("{other:?}"),
    });
    sources.collect()
}

#[test]
fn the_image_is_built_with_our_toolchain_for_the_c_library_that_it_has() {
    let text = read(DOCKERFILE);
    let dockerfile = parse_dockerfile::parse(&text).expect("a Dockerfile");
    let (build, last) = stages(&dockerfile);
    let toolchain: toml::Table = toml::from_str(&read("rust-toolchain.toml")).expect("TOML");
    let channel = toolchain["toolchain"]["channel"].as_str().expect("a version");
    assert_eq!(build.from.image.value, format!("docker.io/library/rust:{channel}-bookworm"));
    // Debian 12 is bookworm.
    assert_eq!(last.from.image.value, "gcr.io/distroless/cc-debian12:nonroot");
    // What that image has, beside libstdc++.
    let has =
        ["linux-vdso.so.1", "libgcc_s.so.1", "libm.so.6", "libc.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"];
    for library in ran("ldd", &[env!("CARGO_BIN_EXE_pgsluice")]).lines() {
        let path = library.split_whitespace().next().expect("a library");
        let name = Path::new(path).file_name().and_then(|name| name.to_str()).expect("a name");
        assert!(has.contains(&name), "{library}");
    }
}

/// Cargo finds in the context what it compiles, and the context holds nothing else.
#[test]
fn the_build_copies_what_the_program_is_made_of() {
    let text = read(DOCKERFILE);
    let dockerfile = parse_dockerfile::parse(&text).expect("a Dockerfile");
    let copied = copied(&stages(&dockerfile).0);
    let ignore = read(".dockerignore");
    let mut allowed: Vec<&str> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert!(ignore.lines().any(|line| line == "*"));
    allowed.sort_unstable();
    let mut needed: Vec<&str> = copied.iter().map(String::as_str).collect();
    needed.sort_unstable();
    assert_eq!(needed, allowed, "what .dockerignore lets through is what is copied");
    assert!(copied.iter().all(|path| Path::new(path).exists()), "{copied:?}");
    let manifest: toml::Table = toml::from_str(&read("Cargo.toml")).expect("TOML");
    for member in manifest["workspace"]["members"].as_array().expect("members") {
        let member = Path::new(member.as_str().expect("a path"));
        assert!(copied.iter().any(|path| member.starts_with(path)), "Cargo looks for {}", member.display());
    }
    let include = Regex::new(r#"include_(?:str|bytes)!\("([^"]+)"\)"#).expect("a pattern");
    let (mut folders, mut outside) = (vec![Path::new("src").to_owned()], 0);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let is_test = path.to_string_lossy().contains("tests");
            for include in include.captures_iter(&read(&path)).filter(|_| !is_test) {
                let file = path.with_file_name(&include[1]).canonicalize().expect("it compiles");
                let file = file.strip_prefix(env!("CARGO_MANIFEST_DIR")).expect("of this repository").to_owned();
                outside += usize::from(!file.starts_with("src"));
                assert!(
                    file.starts_with("src") || copied.iter().any(|path| Path::new(path) == file),
                    "{}",
                    file.display()
                );
            }
        }
    }
    assert!(outside > 0, "the configuration's reference is one");
}

#[tokio::test]
async fn the_image_runs_as_nobody_and_asks_itself_how_it_is() {
    let source = read(DOCKERFILE);
    let dockerfile = parse_dockerfile::parse(&source).expect("a Dockerfile");
    let image = image(&stages(&dockerfile).1);
    assert_eq!((image.user.as_str(), image.port.as_str()), ("65532:65532", PORT.to_string().as_str()));
    assert_eq!((image.entrypoint[0].as_str(), &image.command[..]), (image.health[0].as_str(), &["run".to_owned()][..]));
    assert_eq!(image.environment[0], ("PGSLUICE_CONFIG".to_owned(), "/etc/pgsluice/pgsluice.toml".to_owned()));
    let minimal = Path::new("config/minimal.toml");
    let variables: Vec<(&str, &str)> =
        image.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let shown = shown(minimal, &variables).await;
    assert_eq!(*holds(&shown, "http.listen"), format!("0.0.0.0:{PORT}"));
    let row = format!("| `checkpoint.path` | path | `{}/` + `name` |", image.volume);
    assert!(read("docs/configuration.md").contains(&row), "the default folder lies in the volume: {row}");

    // The same question, to one that runs on another port, and to none.
    let process = pgsluice_command(
        &["run", "--config", minimal.to_str().expect("text")],
        &[
            ("PGSLUICE__HTTP__LISTEN", "0.0.0.0:0"),
            ("PGSLUICE__SOURCE__URL", "postgres://app@127.0.0.1:1/none"),
            ("PGSLUICE__RABBITMQ__URL", "amqp://app@127.0.0.1:1"),
            ("PGSLUICE__CHECKPOINT__PATH", folder("container").to_str().expect("text")),
        ],
    );
    let port = Web::of(&process).await.address.rsplit_once(':').expect("a port").1.to_owned();
    let healthy = |port: &str| {
        let arguments = image.health[1..].iter().map(|word| word.replace(&PORT.to_string(), port));
        let variables = image.environment.iter().map(|(name, value)| (name, value));
        Process::new(env!("CARGO_BIN_EXE_pgsluice")).args(arguments).envs(variables).output().expect("runs")
    };
    let answered = healthy(&port);
    assert!(answered.status.success(), "with no server at all: {answered:?}");
    drop(process);
    assert_eq!(healthy(&port).status.code(), Some(6));
}

#[test]
fn the_compose_file_is_one() {
    let compose = yaml("deploy/compose.yaml").remove(0);
    let schema: Value = serde_json::from_str(&read("tests/deploy/compose-spec.json")).expect("JSON");
    valid(&compose, &schema, "deploy/compose.yaml");
    let services = compose["services"].as_object().expect("services");
    for (name, service) in services {
        for config in service["configs"].as_array().into_iter().flatten() {
            assert!(compose["configs"][text(config, "/source")].is_object(), "{name}: {config}");
        }
        for volume in texts(&service["volumes"]) {
            let volume = volume.split(':').next().expect("a name");
            assert!(compose["volumes"].as_object().expect("volumes").contains_key(volume), "{name}: {volume}");
        }
        for (other, wanted) in service["depends_on"].as_object().into_iter().flatten() {
            assert_eq!(wanted["condition"], "service_healthy");
            assert!(services[other]["healthcheck"]["test"].is_array(), "{other} has no health");
        }
    }
    let pgsluice = &services["pgsluice"];
    let context = Path::new("deploy").join(text(pgsluice, "/build/context"));
    assert!(context.join(text(pgsluice, "/build/dockerfile")).exists() && context.join(".dockerignore").exists());
    let patience = text(pgsluice, "/stop_grace_period").strip_suffix('s').and_then(|seconds| seconds.parse().ok());
    assert!(patience > Some(STOP_MAX_SECONDS));
    assert!(texts(&services["postgres"]["command"]).contains(&"wal_level=logical"));
    assert_eq!(texts(&pgsluice["ports"]), [format!("127.0.0.1:{PORT}:{PORT}")]);
}

/// Its database, its configuration and its first event, on servers of ours.
#[tokio::test]
async fn the_shop_of_the_compose_file_works() {
    let source = read("deploy/compose.yaml");
    let compose = yaml("deploy/compose.yaml").remove(0);
    let (database, vhost) = (postgres().database().await, rabbitmq().vhost());
    database.execute(text(&compose, "/configs/shop.sql/content")).await;
    let path = config(text(&compose, "/configs/pgsluice.toml/content"));
    let environment = compose["services"]["pgsluice"]["environment"].as_object().expect("variables");
    let own: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (name.as_str(), value.as_str().expect("text"))).collect();
    let kept = shown(&path, &own).await;
    assert_eq!(*holds(&kept, "source.url"), "postgres://shop@postgres/shop", "the service of that name");
    assert_eq!(*holds(&kept, "rabbitmq.url"), "amqp://shop@rabbitmq");
    let checkpoint = path.with_file_name("checkpoint");
    let (url, amqp) = (database.url(), vhost.url());
    let process = pgsluice_command(
        &["run", "--config", path.to_str().expect("text")],
        &[
            ("PGSLUICE__SOURCE__URL", &url),
            ("PGSLUICE__SOURCE__SLOT", database.name()),
            ("PGSLUICE__RABBITMQ__URL", &amqp),
            ("PGSLUICE__CHECKPOINT__PATH", checkpoint.to_str().expect("text")),
            ("PGSLUICE__HTTP__LISTEN", "127.0.0.1:0"),
        ],
    );
    Web::of(&process).await.becomes(&[]).await;
    // As the first lines say, within the shell's quotes.
    let insert = source.lines().find_map(|line| line.strip_prefix("#     \"")).expect("a statement");
    database.execute(&insert.trim_end_matches('"').replace("\\\"", "\"")).await;
    let event = vhost.consume("shop.all", 1, SOON).await.remove(0);
    assert_eq!((event.event_type.as_str(), event.text().as_str()), ("OrderPlaced", "{\"total\": 12}"));
}

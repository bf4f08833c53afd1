//! Values of hundreds of megabytes: what the broker can't take is refused before it costs more than its frame, what
//! PostgreSQL itself can't send ends the stream with a message, and memory comes back.

use std::sync::OnceLock;
use std::time::Duration;

use crate::bad_input::{ended, says, streaming};
use crate::support::{Process, RabbitServer, SOON, Scene, eventually, folder, pgsluice_under, postgres};

/// The server takes some seconds for each.
const LARGE: Duration = Duration::from_mins(2);

/// A row of `blobs` is published as well as one of the ledger.
const TABLES: (&str, &str) = ("source.tables", "public.ledger,public.blobs");

/// A broker that is low on memory blocks all who publish; the other tests have another one.
fn broker() -> &'static RabbitServer {
    static LARGE: OnceLock<RabbitServer> = OnceLock::new();
    LARGE.get_or_init(|| RabbitServer::private(&[("vm_memory_high_watermark.absolute", "2GB")]))
}

async fn scene() -> Scene {
    let scene = Scene::on(postgres(), broker()).await;
    let create = "CREATE TABLE blobs (id int PRIMARY KEY, data bytea); CREATE TABLE parts (data bytea, t text)";
    scene.database.execute(create).await;
    scene
}

/// pgsluice, with so much memory for its data and no more: with less, it would be aborted.
async fn streaming_within(scene: &Scene, mib: usize) -> Process {
    let path = folder("within").join("pgsluice.toml");
    std::fs::write(&path, scene.config("")).expect("write the configuration");
    let limit = format!("--data={}", mib << 20);
    let run = ["run", "--config", path.to_str().expect("text")];
    let process = pgsluice_under(
        &["prlimit", &limit, "--"],
        &run,
        &[("PGSLUICE__SOURCE__TABLES", TABLES.1), ("PGSLUICE__RABBITMQ__POISON__POLICY", "stop")],
    );
    process.wait_for_log("streaming from PostgreSQL", SOON).await;
    process
}

/// Waits for the end, for as long as a large row takes.
async fn stopped(process: &mut Process, code: i32) -> String {
    eventually("pgsluice ends", LARGE, async || (!process.runs()).then_some(())).await;
    ended(process, code).await
}

/// In the buffer's room is a power of two, 512 MiB, of which the frame takes 286. Encoded, it would take as much again.
#[tokio::test]
async fn a_row_of_300_mb_is_refused_at_the_cost_of_its_frame() {
    const MIB: usize = 700;
    for (insert, table, bytes_min) in [
        ("INSERT INTO ledger (filler) VALUES (repeat('x', 300000000))", "public.ledger", 300_000_000),
        // Two digits for each byte, of which Base64 makes two thirds.
        ("INSERT INTO blobs VALUES (1, decode(repeat('00', 150000000), 'hex'))", "public.blobs", 200_000_000),
        (
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) \
             VALUES ('a', '1', 't', to_jsonb(repeat('x', 200000000)))",
            "public.outbox",
            200_000_002,
        ),
    ] {
        let scene = scene().await;
        let mut process = streaming_within(&scene, MIB).await;
        scene.database.execute("INSERT INTO ledger (filler) VALUES ('before')").await;
        scene.database.execute(insert).await;
        let message = stopped(&mut process, 8).await;
        let what = format!("error: can't publish the insert of {table} at ");
        let told = message.split_once(" bytes long").expect(&message).0.rsplit_once(' ').expect(&message).1;
        let told: usize = told.parse().expect("a number");
        assert!((bytes_min - 10..bytes_min + 10).contains(&told), "{message}");
        says(&message, &[&what, "; the broker takes at most 134217728", "hint: raise max_message_size"]);
        // It can't pass the next time, and what is before it is not repeated.
        let mut again = streaming_within(&scene, MIB).await;
        assert_eq!(stopped(&mut again, 8).await, message);
        assert_eq!(scene.vhost.consume("all", 1, SOON).await[0].json()["after"]["filler"], "before");
        assert_eq!(scene.vhost.depth("all").await, 0);
    }
}

/// Of the process, in MiB: now (`VmRSS`) or at its peak (`VmHWM`).
fn memory(process: &Process, what: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid().as_raw_nonzero())).expect("procfs");
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':')).expect(what);
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") / 1024
}

#[tokio::test]
async fn memory_comes_back_after_a_large_event() {
    let scene = scene().await;
    let process = streaming(&scene, &[TABLES]).await;
    for insert in [
        "INSERT INTO ledger (filler) VALUES (repeat('x', 100000000))",
        "INSERT INTO blobs VALUES (1, decode(repeat('00', 90000000), 'hex'))",
    ] {
        scene.database.execute(insert).await;
        let event = &scene.vhost.consume("all", 1, LARGE).await[0];
        assert!(event.body.len() > 100_000_000);
        scene.acknowledged().await;
        eventually("the memory comes back", SOON, async || (memory(&process, "VmRSS") < 90).then_some(())).await;
    }
    // The frame, the body, and the body's frames for the broker, each with the rest of the buffer that was read.
    let peak = memory(&process, "VmHWM");
    assert!(peak < 480, "{peak} MiB");
}

/// PostgreSQL makes a row's message in memory of at most 1 GB.
#[tokio::test]
async fn a_row_that_postgresql_can_not_send_ends_the_stream_with_one_message() {
    for (part, insert, reason) in [
        (
            "INSERT INTO parts (data) VALUES (decode(repeat('00', 200000000), 'hex'))",
            "INSERT INTO blobs SELECT 1, data || data || data FROM parts",
            "invalid memory alloc request size 1200000003 (SQLSTATE XX000), at the change at ",
        ),
        (
            "ALTER TABLE blobs ADD a text, ADD b text; INSERT INTO parts (t) VALUES (repeat('x', 600000000))",
            "INSERT INTO blobs SELECT 1, NULL, t, t FROM parts",
            "(SQLSTATE 54000)",
        ),
    ] {
        let scene = scene().await;
        scene.database.execute(part).await;
        let mut process = streaming(&scene, &[TABLES]).await;
        scene.database.execute("INSERT INTO ledger (filler) VALUES ('before')").await;
        scene.database.execute(insert).await;
        let message = stopped(&mut process, 3).await;
        says(&message, &["error: can't read the changes that were committed after ", reason, ", at the change at "]);
        says(&message, &["hint: PostgreSQL can't send a row of 1 GB or more", "checkpoint set LSN --skip"]);
        assert_eq!(scene.vhost.consume("all", 1, SOON).await[0].json()["after"]["filler"], "before");
    }
}

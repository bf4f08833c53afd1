//! Every committed change is accounted for after a random script of faults, on real servers, under a mixed load.
//!
//! `FAULT_SECONDS` says for how long things go wrong (30), `FAULT_SEED` repeats a script. By hand, for hours:
//! `FAULT_SECONDS=7200 cargo test --locked --test main faults::random -- --nocapture`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapin::options::QueueDeleteOptions;
use lapin::types::AMQPValue;
use tokio::time::{Instant, timeout};

use super::collector::Collector;
use super::ledger::Ledger;
use super::load::{self, Load};
use super::runs::Runs;
use super::script::Script;
use super::watch::Watch;
use crate::bad_input::streaming;
use crate::support::{PostgresServer, Proxy, RabbitServer, Scene, eventually};

/// Some 15 MB are the program; the window of 1 MiB, the read buffer and what the allocator keeps come on top.
const MEMORY_MAX_KB: u64 = 64 * 1024;
/// For everything to be up again, and all that was committed to arrive. Steps of a login that is black-holed have
/// limits of up to a minute each.
const RECOVERY: Duration = Duration::from_mins(3);

fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_committed_change_is_accounted_for_after_a_random_script_of_faults() {
    let seed = from_environment("FAULT_SEED").unwrap_or_else(|| fastrand::u64(..));
    let seconds = from_environment("FAULT_SECONDS").unwrap_or(30);
    let run = format!("FAULT_SEED={seed} FAULT_SECONDS={seconds}");
    println!("{run}");

    let postgres = PostgresServer::private(&[("wal_sender_timeout", "2s"), ("logical_decoding_work_mem", "64kB")]);
    // The log of quorum queues is also held in memory, up to this.
    let rabbitmq = RabbitServer::private(&[("raft.wal_max_size_bytes", "32000000")]);
    let scene = Scene::on(&postgres, &rabbitmq).await;
    scene.database.execute(&load::tables()).await;
    keep_what_is_confirmed(&scene, &rabbitmq).await;
    let (to_postgres, to_rabbitmq) = (Proxy::to(postgres.port()).await, Proxy::to(rabbitmq.port()).await);
    let source = format!("{}?connect_timeout=2", scene.database.url_through(&to_postgres));
    let broker = format!("{}?heartbeat=1&connection_timeout=2", scene.vhost.url_through(&to_rabbitmq));
    let overrides = [
        ("source.url", source.as_str()),
        ("source.tables", "public.turns,public.plain,public.wide,public.scratch_*"),
        ("rabbitmq.url", &broker),
        ("rabbitmq.confirm_timeout_ms", "3000"),
        ("rabbitmq.in_flight_bytes", "1048576"),
        ("shutdown_timeout_ms", "2000"),
    ];
    let process = streaming(&scene, &overrides).await;
    scene.acknowledged().await;
    let mut pgsluice = Runs::new(process, Watch::start(&scene));

    let ledger = Arc::<Ledger>::default();
    let collector = Collector::start(&scene.vhost, "all", &ledger);
    let load = Load::start(&scene.database, &ledger, seed);
    let begin = Instant::now();
    let script = Script {
        postgres: Arc::new(postgres),
        rabbitmq: Arc::new(rabbitmq),
        to_postgres,
        to_rabbitmq,
        ledger: Arc::clone(&ledger),
        begin,
        end: begin + Duration::from_secs(seconds),
        happened: Mutex::default(),
    };
    script.play(&mut pgsluice, seed).await;
    load.stop().await;

    arrived(&ledger, &collector, &mut pgsluice).await;
    // On connections that were given up, nothing comes any more.
    let to_rabbitmq = &script.to_rabbitmq;
    eventually("old connections have ended", RECOVERY, async || (to_rabbitmq.open() == 1).then_some(())).await;
    load::mark_the_end(&scene.database, &ledger).await;
    arrived(&ledger, &collector, &mut pgsluice).await;
    scene.acknowledged().await;

    let (memory_max_kb, slots_seen) = pgsluice.end().await;
    let judgement = collector.arrivals().judge(&ledger.turns());
    println!("{judgement}; {} transactions undone", ledger.undone());
    println!("at most {memory_max_kb} kB of memory; the slot was looked at {slots_seen} times");
    for (fault, times) in script.tally().iter() {
        println!("{times:6} {fault}");
    }
    assert!(judgement.wrong.is_empty(), "{run}: {judgement}\n{}", judgement.wrong.join("\n"));
    assert!(memory_max_kb < MEMORY_MAX_KB, "{run}: {memory_max_kb} kB");
}

/// Waits until everything has come that was committed.
async fn arrived(ledger: &Ledger, collector: &Collector, pgsluice: &mut Runs) {
    let all_came = eventually("all come", RECOVERY * 2, async || {
        pgsluice.runs();
        assert!(collector.runs(), "what came makes no sense");
        (ledger.backlog() == 0).then_some(())
    });
    if timeout(RECOVERY, all_came).await.is_err() {
        let judgement = collector.arrivals().judge(&ledger.turns());
        panic!("not all came within {RECOVERY:?}: {judgement}\n{}", judgement.wrong.join("\n"));
    }
}

/// A quorum queue: others may lose what they have confirmed when the broker is killed. So does this one, as a whole, if that
/// happens within seconds after it was declared, unless its name is written to the disk.
async fn keep_what_is_confirmed(scene: &Scene, rabbitmq: &RabbitServer) {
    let channel = scene.vhost.channel().await;
    channel.queue_delete("all".into(), QueueDeleteOptions::default()).await.expect("delete a queue");
    scene.vhost.queue("all", &[("x-queue-type", AMQPValue::LongString("quorum".into()))]).await;
    for exchange in ["shop.changes", "shop.events"] {
        scene.vhost.bind("all", exchange, "#").await;
    }
    rabbitmq.rabbitmqctl(&["eval", "[ok = dets:sync(Table) || Table <- dets:all()]."]);
}

//! One contestant does one workload's work, once.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio_postgres::Client;

use crate::child::{CAPTURED, Job, Stream, Word};
use crate::contestant::{Contestant, Group, Reading};
use crate::pgsluice;
use crate::process::{Running, cpu_s};
use crate::slot::Slot;
use crate::stage::{PUBLICATION, QUEUE, SOON, Stage, server_program};
use crate::support::{Vhost, lifetime};
use crate::wire::postgres::Waiting;

/// A contestant that has not ended by then is stuck.
const DEADLINE: Duration = Duration::from_mins(10);
/// How long one may take to start.
const START: Duration = Duration::from_mins(1);
/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// And how often the queue.
const COUNT: Duration = Duration::from_millis(20);
/// The broker has nothing to do when it takes less than this of a core, for so long; it is waited for no longer than that.
const IDLE: f64 = 0.1;
const IDLE_FOR: Duration = Duration::from_millis(500);
const REST: Duration = Duration::from_secs(20);
/// pgsluice's default window.
const WINDOW: u64 = 1_000;
/// The mark that reads best (`docs/performance.md`).
const LOW_WATER: i32 = 64 * 1024;

/// What a run took.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Measured {
    pub(crate) events: u64,
    pub(crate) seconds: f64,
    /// The contestant's own, from the clock's start.
    pub(crate) cpu_s: f64,
    pub(crate) walsender_cpu_s: Option<f64>,
    pub(crate) broker_cpu_s: Option<f64>,
    pub(crate) peak_rss_kib: u64,
    /// Read from PostgreSQL.
    pub(crate) stream_bytes: Option<u64>,
    /// Sent to the broker, with AMQP's frames.
    pub(crate) message_bytes: Option<u64>,
}

impl Measured {
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn events_per_s(&self) -> f64 {
        self.events as f64 / self.seconds
    }

    /// So much of something for a million events.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn per_million(&self, amount: f64) -> f64 {
        amount * 1e6 / self.events as f64
    }
}

/// Runs it until so many events are done. What goes wrong is told, with what the contestant said last.
pub(crate) async fn measure(stage: &Stage<'_>, contestant: Contestant, events: u64) -> Result<Measured, String> {
    let vhost = match contestant.group() {
        Group::Source => None,
        Group::Queue(queue) => {
            // What the run before left to do is none of this one's.
            rest(stage.servers.broker_pid()).await;
            Some(stage.servers.vhost(queue).await)
        }
    };
    let slot = match contestant {
        Contestant::ReadyMade(_) => None,
        _ => Some(Slot::copy(&stage.client).await),
    };
    let run = Run { stage, contestant, events, vhost: vhost.as_ref(), slot: slot.as_ref() };
    let outcome = run.go(None).await;
    if let Some(slot) = slot {
        slot.discard(&stage.client).await;
    }
    if let Some(vhost) = vhost {
        stage.servers.remove(&vhost);
    }
    outcome
}

/// Until a process has nothing to do, or seems to go on for ever.
async fn rest(pid: i32) {
    let began = Instant::now();
    let mut before = cpu_s(pid);
    while began.elapsed() < REST {
        tokio::time::sleep(IDLE_FOR).await;
        let now = cpu_s(pid);
        if before.zip(now).is_none_or(|(before, now)| now - before < IDLE * IDLE_FOR.as_secs_f64()) {
            return;
        }
        before = now;
    }
}

/// Lets pgsluice make its first messages, for who publishes them ready-made.
pub(crate) async fn capture(stage: &Stage<'_>) -> Result<(), String> {
    let slot = Slot::copy(&stage.client).await;
    let events = stage.rows.min(2 * CAPTURED);
    let run = Run { stage, contestant: Contestant::Nothing, events, vhost: None, slot: Some(&slot) };
    let outcome = run.go(Some(stage.frames())).await;
    slot.discard(&stage.client).await;
    outcome.map(drop)
}

struct Run<'a> {
    stage: &'a Stage<'a>,
    contestant: Contestant,
    events: u64,
    vhost: Option<&'a Vhost>,
    slot: Option<&'a Slot>,
}

impl Run<'_> {
    async fn go(&self, capture: Option<PathBuf>) -> Result<Measured, String> {
        let broker = self.vhost.map(|_| self.stage.servers.broker_pid());
        let broker_before = broker.and_then(cpu_s);
        let mut running = self.start(capture).await;
        let failed = |what: &str, running: &Running| format!("{what}: {}", running.last_words());
        let (begin, walsender) = self.begin(&running).await?;
        // What the start took is no part of it: it is measured apart, and Java's takes seconds.
        let mut seen = Seen { start_cpu_s: running.usage().cpu_s, ..Seen::default() };
        let mut counted = Instant::now();
        let (end, events) = loop {
            seen.look(&running, walsender);
            match running.word() {
                Some((at, Word::Done { stream_bytes, message_bytes, .. })) => {
                    seen.stream_bytes = (stream_bytes > 0).then_some(stream_bytes);
                    seen.message_bytes = (message_bytes > 0).then_some(message_bytes);
                    if self.vhost.is_none() {
                        break (at, self.events);
                    }
                }
                Some((_, Word::Begin | Word::First)) => continue,
                None => {}
            }
            if running.has_ended() {
                let at = Instant::now();
                if running.is_success() && self.contestant == Contestant::PgRecvlogical {
                    break (at, self.events);
                }
                return Err(failed("it has ended", &running));
            }
            if let Some(vhost) = self.vhost.filter(|_| counted.elapsed() >= COUNT) {
                counted = Instant::now();
                let depth = u64::from(vhost.depth(QUEUE).await);
                if depth >= self.events {
                    break (Instant::now(), depth);
                }
            }
            if begin.elapsed() > DEADLINE {
                return Err(failed("it is not done after ten minutes", &running));
            }
            tokio::time::sleep(LOOK).await;
        };
        seen.look(&running, walsender);
        let broker_after = broker.and_then(cpu_s);
        match self.contestant {
            Contestant::Peer(_) => running.terminate(),
            _ => running.kill(),
        }
        Ok(Measured {
            events,
            seconds: (end - begin).as_secs_f64(),
            cpu_s: seen.cpu_s - seen.start_cpu_s,
            walsender_cpu_s: seen.walsender_cpu_s,
            broker_cpu_s: broker_before.zip(broker_after).map(|(before, after)| after - before),
            peak_rss_kib: seen.peak_rss_kib,
            stream_bytes: seen.stream_bytes,
            message_bytes: seen.message_bytes,
        })
    }

    /// When its work begins, and who sends to it.
    async fn begin(&self, running: &Running) -> Result<(Instant, Option<i32>), String> {
        let Some(slot) = self.slot else {
            let (at, _) = running.next_word(SOON)?;
            return Ok((at, None));
        };
        let (at, pid) = wait_for_walsender(slot, &self.stage.client, running).await?;
        Ok((at, Some(pid)))
    }

    async fn start(&self, capture: Option<PathBuf>) -> Running {
        let Stage { servers, database, .. } = self.stage;
        let (rows, name) = (self.events, database.name().to_owned());
        let slot = || self.slot.expect("it reads from a slot").name.clone();
        let vhost = || self.vhost.expect("it has a virtual host");
        match self.contestant {
            Contestant::Discard(reading) => {
                let (address, waiting) = match reading {
                    Reading::Eager => (servers.tcp(), Waiting::Eager),
                    Reading::LowWater => (servers.tcp(), Waiting::ForBytes(LOW_WATER)),
                    Reading::Naps => (servers.tcp(), Waiting::Naps),
                    Reading::Unix => (servers.unix(), Waiting::Eager),
                };
                Running::job(&Job::Discard { address, database: name, slot: slot(), rows, waiting })
            }
            Contestant::PgRecvlogical => Running::start(self.pg_recvlogical(&slot())),
            Contestant::Nothing => {
                let config = pgsluice::configure(self.stage, &slot(), pgsluice::NOWHERE);
                Running::job(&Job::Null { config, events: rows, capture })
            }
            Contestant::ReadyMade(_) => {
                let (address, frames) = (servers.amqp(vhost()), self.stage.frames());
                Running::job(&Job::ReadyMade { address, frames, events: rows, window: WINDOW, stream: None })
            }
            Contestant::Relay(_) => {
                let (address, frames) = (servers.amqp(vhost()), self.stage.frames());
                let stream = Some(Stream { address: servers.tcp(), database: name, slot: slot() });
                Running::job(&Job::ReadyMade { address, frames, events: rows, window: WINDOW, stream })
            }
            Contestant::Amqp(_) => {
                let config = pgsluice::configure(self.stage, &slot(), &vhost().url());
                Running::start(pgsluice::command(&config))
            }
            Contestant::Forward => {
                let (from, to) = (servers.tcp(), servers.amqp(vhost()));
                Running::job(&Job::Forward { from, database: name, slot: slot(), to })
            }
            Contestant::Peer(peer) => Running::start(peer.command(self.stage, &slot(), vhost()).await),
        }
    }

    fn pg_recvlogical(&self, slot: &str) -> std::process::Command {
        let mut command = lifetime::command(server_program("pg_recvlogical"));
        command.args(["--start", "--host=127.0.0.1", "--username=postgres", "--no-loop", "--fsync-interval=0"]);
        command.arg(format!("--port={}", self.stage.servers.postgres.port()));
        command.arg(format!("--dbname={}", self.stage.database.name()));
        command.arg(format!("--slot={slot}")).arg(format!("--endpos={}", self.stage.end_lsn));
        command.args(["--option=proto_version=1", "--file=/dev/null"]);
        command.arg(format!("--option=publication_names={PUBLICATION}"));
        command
    }
}

/// What was seen of the processes; what they have used only grows.
#[derive(Default)]
struct Seen {
    /// Of the contestant, before its work began.
    start_cpu_s: f64,
    cpu_s: f64,
    walsender_cpu_s: Option<f64>,
    peak_rss_kib: u64,
    stream_bytes: Option<u64>,
    message_bytes: Option<u64>,
}

impl Seen {
    fn look(&mut self, running: &Running, walsender: Option<i32>) {
        let usage = running.usage();
        self.cpu_s = self.cpu_s.max(usage.cpu_s);
        self.peak_rss_kib = self.peak_rss_kib.max(usage.peak_rss_kib);
        if let Some(cpu_s) = walsender.and_then(cpu_s) {
            self.walsender_cpu_s = Some(self.walsender_cpu_s.unwrap_or(0.0).max(cpu_s));
        }
    }
}

/// When its stream begins, and who sends it.
pub(crate) async fn wait_for_walsender(
    slot: &Slot,
    client: &Client,
    running: &Running,
) -> Result<(Instant, i32), String> {
    loop {
        let pid = slot.walsender(client).await;
        let at = Instant::now();
        if let Some(pid) = pid {
            return Ok((at, pid));
        }
        if running.has_ended() || running.started.elapsed() > START {
            return Err(format!("it does not read from its slot: {}", running.last_words()));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A contestant that reads from this slot and publishes to this virtual host.
pub(crate) async fn start(stage: &Stage<'_>, contestant: Contestant, slot: &Slot, vhost: &Vhost) -> Running {
    Run { stage, contestant, events: u64::MAX, vhost: Some(vhost), slot: Some(slot) }.start(None).await
}

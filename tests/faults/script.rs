//! A random script of faults: what happens to the networks, the servers and pgsluice, each on its own.
//!
//! The seed decides what happens and for how long; when the load and pgsluice are where, nobody decides. Each fault is
//! printed with its time, so that a failure can be read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use rustix::process::Signal;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::watch::Watch;
use crate::support::proxy::{Cut, Direction, Entrance, Flow};
use crate::support::{PostgresServer, Process, Proxy, RabbitServer, SOON};

/// Where the faults happen.
pub(super) struct Script {
    pub(super) postgres: Arc<PostgresServer>,
    pub(super) rabbitmq: Arc<RabbitServer>,
    pub(super) to_postgres: Proxy,
    pub(super) to_rabbitmq: Proxy,
    pub(super) begin: Instant,
    pub(super) end: Instant,
    pub(super) happened: Mutex<BTreeMap<String, u64>>,
}

impl Script {
    /// Everything that goes wrong until the end; then the networks are healed, the servers up, and pgsluice runs.
    pub(super) async fn play(&self, pgsluice: &mut Runs, watch: &Watch, seed: u64) {
        let random = |lane: u64| Rng::with_seed(seed ^ (lane << 32));
        tokio::join!(
            self.network("PostgreSQL", &self.to_postgres, random(1)),
            self.network("RabbitMQ", &self.to_rabbitmq, random(2)),
            self.servers(random(3)),
            self.process(pgsluice, watch, random(4)),
        );
        self.to_postgres.heal().await;
        self.to_rabbitmq.heal().await;
        self.note("all is well");
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    fn note(&self, what: &str) {
        println!("{:8.3} s  {what}", self.begin.elapsed().as_secs_f64());
    }

    /// A fault happens, for so long.
    fn happens(&self, place: &str, what: &str, lasts: Duration) {
        self.note(&format!("{place}: {what}, for {} ms", lasts.as_millis()));
        *self.tally().entry(format!("{place}: {what}")).or_default() += 1;
    }

    /// How often which fault has happened.
    pub(super) fn tally(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.happened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Between two faults; sometimes for so long that everything is up again.
    async fn calm(&self, random: &mut Rng) {
        let longest_ms = if random.u8(0..4) == 0 { 6_000 } else { 1_500 };
        let calm = Duration::from_millis(random.u64(50..longest_ms));
        sleep(calm.min(self.end.saturating_duration_since(Instant::now()))).await;
    }

    async fn network(&self, place: &str, proxy: &Proxy, mut random: Rng) {
        loop {
            self.calm(&mut random).await;
            if self.is_over() {
                return;
            }
            let lasts = Duration::from_millis(random.u64(50..7_000));
            let direction = Direction::BOTH[random.usize(..2)];
            let how = [Cut::Fin, Cut::Reset][random.usize(..2)];
            let entrance = [Entrance::Silent, Entrance::Refused, Entrance::Unreachable][random.usize(..3)];
            let bytes = random.usize(0..20_000);
            let happens = |what: &str| self.happens(place, what, lasts);
            match random.u8(0..10) {
                0 => {
                    happens(&format!("cut by {how:?}"));
                    proxy.cut(how);
                    continue;
                }
                1 => {
                    happens(&format!("{direction:?} cut in the middle by {how:?}"));
                    proxy.cut_after(direction, bytes, how);
                }
                9 => {
                    happens(&format!("half-open in the middle of {direction:?}"));
                    proxy.lose_after(direction, bytes);
                }
                2 => {
                    happens("stalled");
                    proxy.flow_both(Flow::Stalled);
                }
                3 => {
                    happens(&format!("{direction:?} stalled"));
                    proxy.flow(direction, Flow::Stalled);
                }
                4 => {
                    happens("slow");
                    proxy.flow_both(Flow::Slow);
                }
                5 => {
                    happens("open connections held");
                    proxy.hold();
                }
                6 => {
                    happens("half-open");
                    proxy.lose();
                    continue;
                }
                7 => {
                    happens(&format!("half-open and {entrance:?}"));
                    proxy.lose();
                    proxy.entrance(entrance).await;
                }
                _ => {
                    happens(&format!("cut by {how:?} and {entrance:?}"));
                    proxy.cut(how);
                    proxy.entrance(entrance).await;
                }
            }
            sleep(lasts).await;
            proxy.heal().await;
        }
    }

    async fn servers(&self, mut random: Rng) {
        loop {
            self.calm(&mut random).await;
            if self.is_over() {
                return;
            }
            let lasts = Duration::from_millis(random.u64(10..4_000));
            let (postgres, rabbitmq) = (&self.postgres, &self.rabbitmq);
            match random.u8(0..11) {
                0 | 1 => {
                    self.happens("PostgreSQL", "SIGKILL", lasts);
                    on(postgres, PostgresServer::kill).await;
                    sleep(lasts).await;
                    on(postgres, PostgresServer::start).await;
                }
                2 => {
                    self.happens("PostgreSQL", "shutdown", lasts);
                    on(postgres, PostgresServer::stop).await;
                    sleep(lasts).await;
                    on(postgres, PostgresServer::start).await;
                }
                3 => {
                    self.happens("PostgreSQL", "paused", lasts);
                    on(postgres, PostgresServer::pause).await;
                    sleep(lasts).await;
                    on(postgres, PostgresServer::resume).await;
                }
                4 | 5 => {
                    self.happens("PostgreSQL", "walsenders terminated", Duration::ZERO);
                    self.terminate_walsenders().await;
                }
                6 => {
                    self.happens("RabbitMQ", "SIGKILL", lasts);
                    on(rabbitmq, RabbitServer::kill).await;
                    sleep(lasts).await;
                    on(rabbitmq, RabbitServer::start).await;
                }
                7 => {
                    self.happens("RabbitMQ", "shutdown", lasts);
                    on(rabbitmq, RabbitServer::stop).await;
                    sleep(lasts).await;
                    on(rabbitmq, RabbitServer::start).await;
                }
                8 => {
                    self.happens("RabbitMQ", "paused", lasts);
                    on(rabbitmq, RabbitServer::pause).await;
                    sleep(lasts).await;
                    on(rabbitmq, RabbitServer::resume).await;
                }
                9 => {
                    self.happens("RabbitMQ", "connections closed", Duration::ZERO);
                    on(rabbitmq, RabbitServer::close_connections).await;
                }
                _ => {
                    self.happens("RabbitMQ", "memory alarm", lasts);
                    on(rabbitmq, |server| server.rabbitmqctl(&["set_vm_memory_high_watermark", "0.00001"])).await;
                    sleep(lasts).await;
                    let back = ["set_vm_memory_high_watermark", "absolute", "512MB"];
                    on(rabbitmq, move |server| server.rabbitmqctl(&back)).await;
                }
            }
            self.note("the server is well");
        }
    }

    async fn terminate_walsenders(&self) {
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres", self.postgres.port());
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("it is up");
        tokio::spawn(connection);
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_replication";
        client.query_one(sql, &[]).await.expect("terminate");
    }

    async fn process(&self, pgsluice: &mut Runs, watch: &Watch, mut random: Rng) {
        loop {
            self.calm(&mut random).await;
            self.calm(&mut random).await;
            pgsluice.still_runs();
            if self.is_over() {
                return;
            }
            let lasts = Duration::from_millis(random.u64(10..4_000));
            match random.u8(0..4) {
                0 | 1 => {
                    self.happens("pgsluice", "SIGKILL", Duration::ZERO);
                    pgsluice.restart();
                }
                2 => {
                    self.happens("pgsluice", "SIGTERM", Duration::ZERO);
                    pgsluice.terminate().await;
                    pgsluice.restart();
                }
                _ => {
                    self.happens("pgsluice", "paused", lasts);
                    pgsluice.process.signal(Signal::STOP);
                    sleep(lasts).await;
                    pgsluice.process.signal(Signal::CONT);
                }
            }
            watch.process(pgsluice.process.pid());
        }
    }
}

/// Runs what blocks on a thread of its own.
async fn on<S: Send + Sync + 'static, T: Send + 'static>(server: &Arc<S>, what: impl FnOnce(&S) -> T + Send + 'static) {
    let server = Arc::clone(server);
    spawn_blocking(move || what(&server)).await.expect("the server");
}

/// pgsluice, one process after the other.
pub(super) struct Runs {
    pub(super) process: Process,
    /// What those before have logged.
    past: Vec<String>,
}

impl Runs {
    pub(super) fn new(process: Process) -> Self {
        Self { process, past: Vec::new() }
    }

    fn restart(&mut self) {
        self.process.kill();
        self.past.push(self.process.stderr());
        self.process.restart();
    }

    /// It never ends by itself.
    pub(super) fn still_runs(&mut self) {
        assert!(self.process.runs(), "pgsluice has ended: {}", self.process.stderr());
    }

    /// Ends it, as asked.
    pub(super) async fn terminate(&mut self) {
        self.still_runs();
        self.process.terminate();
        let (code, log) = self.process.wait(SOON).await;
        // A signal that comes before it listens to any just ends it.
        assert!(code == Some(0) || (code.is_none() && log.is_empty()), "{code:?}: {log}");
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in &self.past {
                eprintln!("--- pgsluice wrote:\n{log}---");
            }
        }
    }
}

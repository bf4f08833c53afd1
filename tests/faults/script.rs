//! A random script of faults, each for some time: in the networks, in the servers, in pgsluice; side by side.
//!
//! The seed decides what happens, for how long, and after how many more deliveries; where the load and pgsluice are then,
//! nobody decides. Each fault is printed with its time, so that a failure can be read.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use rustix::process::Signal;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::ledger::Ledger;
use super::runs::Runs;
use crate::support::proxy::{Cut, Direction, Entrance, Flow};
use crate::support::{PostgresServer, Proxy, RabbitServer};

/// Where the faults happen.
pub(super) struct Script {
    pub(super) postgres: Arc<PostgresServer>,
    pub(super) rabbitmq: Arc<RabbitServer>,
    pub(super) to_postgres: Proxy,
    pub(super) to_rabbitmq: Proxy,
    pub(super) ledger: Arc<Ledger>,
    pub(super) begin: Instant,
    pub(super) end: Instant,
    pub(super) happened: Mutex<BTreeMap<String, u64>>,
}

/// What happens between pgsluice and a server.
#[derive(Debug, Clone, Copy)]
enum Network {
    Cut(Cut),
    CutInTheMiddleOf(Direction, Cut),
    CutAndThen(Cut, Entrance),
    Stalled,
    OneWay(Direction),
    Slow,
    Held,
    HalfOpen,
    HalfOpenInTheMiddleOf(Direction),
    HalfOpenAndThen(Entrance),
}

#[derive(Debug, Clone, Copy)]
enum Server {
    PostgresKilled,
    PostgresShutDown,
    PostgresPaused,
    WalsendersEnded,
    RabbitKilled,
    RabbitShutDown,
    RabbitPaused,
    ConnectionsClosed,
    MemoryAlarm,
}

#[derive(Debug, Clone, Copy)]
enum Pgsluice {
    Killed,
    Terminated,
    Paused,
}

/// One of several.
fn one<T: Copy, const N: usize>(random: &mut Rng, of: [T; N]) -> T {
    of[random.usize(..N)]
}

impl Script {
    /// Lets everything go wrong until the end; then the networks are healed, the servers are up, and pgsluice runs.
    pub(super) async fn play(&self, pgsluice: &mut Runs, seed: u64) {
        let random = |lane: u64| Rng::with_seed(seed ^ (lane << 32));
        tokio::join!(
            self.network("PostgreSQL", &self.to_postgres, random(1)),
            self.network("RabbitMQ", &self.to_rabbitmq, random(2)),
            self.servers(random(3)),
            self.pgsluice(pgsluice, random(4)),
        );
        self.note("all is well");
    }

    fn note(&self, what: &str) {
        println!("{:8.3} s  {what}", self.begin.elapsed().as_secs_f64());
    }

    /// How often which fault has happened.
    pub(super) fn tally(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.happened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until some more has come, so that the next fault meets a stream that flows; but not for long, so that it also
    /// meets other faults. False at the end of the script.
    async fn calm(&self, random: &mut Rng) -> bool {
        let enough = self.ledger.delivered() + random.u64(1..3_000);
        let until = Instant::now() + Duration::from_millis(random.u64(100..6_000));
        while Instant::now() < until.min(self.end) && self.ledger.delivered() < enough {
            sleep(Duration::from_millis(2)).await;
        }
        Instant::now() < self.end
    }

    /// A fault begins; for how long it lasts.
    fn begins(&self, place: &str, fault: impl Debug, random: &mut Rng) -> Duration {
        let longest_ms = one(random, [500, 2_000, 7_000]);
        let lasts = Duration::from_millis(random.u64(10..longest_ms));
        self.note(&format!("{place}: {fault:?} ({} ms)", lasts.as_millis()));
        *self.tally().entry(format!("{place}: {fault:?}")).or_default() += 1;
        lasts
    }

    async fn network(&self, place: &str, proxy: &Proxy, mut random: Rng) {
        while self.calm(&mut random).await {
            let fault = Network::random(&mut random);
            let lasts = self.begins(place, fault, &mut random);
            let bytes = random.usize(..20_000);
            match fault {
                Network::Cut(how) => proxy.cut(how),
                Network::CutInTheMiddleOf(direction, how) => proxy.cut_after(direction, bytes, how),
                Network::CutAndThen(how, entrance) => {
                    proxy.cut(how);
                    proxy.entrance(entrance).await;
                }
                Network::Stalled => proxy.flow_both(Flow::Stalled),
                Network::OneWay(direction) => proxy.flow(direction, Flow::Stalled),
                Network::Slow => proxy.flow_both(Flow::Slow),
                Network::Held => proxy.hold(),
                Network::HalfOpen => proxy.lose(),
                Network::HalfOpenInTheMiddleOf(direction) => proxy.lose_after(direction, bytes),
                Network::HalfOpenAndThen(entrance) => {
                    proxy.lose();
                    proxy.entrance(entrance).await;
                }
            }
            sleep(lasts).await;
            proxy.heal().await;
        }
    }

    async fn servers(&self, mut random: Rng) {
        let (postgres, rabbitmq) = (&self.postgres, &self.rabbitmq);
        while self.calm(&mut random).await {
            let fault = Server::random(&mut random);
            let lasts = self.begins("servers", fault, &mut random);
            match fault {
                Server::PostgresKilled => on(postgres, PostgresServer::kill).await,
                Server::PostgresShutDown => on(postgres, PostgresServer::stop).await,
                Server::PostgresPaused => on(postgres, PostgresServer::pause).await,
                Server::WalsendersEnded => self.end_walsenders().await,
                Server::RabbitKilled => on(rabbitmq, RabbitServer::kill).await,
                Server::RabbitShutDown => on(rabbitmq, RabbitServer::stop).await,
                Server::RabbitPaused => on(rabbitmq, RabbitServer::pause).await,
                Server::ConnectionsClosed => on(rabbitmq, RabbitServer::close_connections).await,
                Server::MemoryAlarm => on(rabbitmq, |server| watermark(server, &["0.00001"])).await,
            }
            sleep(lasts).await;
            match fault {
                Server::PostgresKilled | Server::PostgresShutDown => on(postgres, PostgresServer::start).await,
                Server::PostgresPaused => on(postgres, PostgresServer::resume).await,
                Server::RabbitKilled | Server::RabbitShutDown => on(rabbitmq, RabbitServer::start).await,
                Server::RabbitPaused => on(rabbitmq, RabbitServer::resume).await,
                Server::MemoryAlarm => on(rabbitmq, |server| watermark(server, &["absolute", "512MB"])).await,
                Server::WalsendersEnded | Server::ConnectionsClosed => {}
            }
            self.note("servers: well again");
        }
    }

    async fn end_walsenders(&self) {
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres", self.postgres.port());
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("it is up");
        tokio::spawn(connection);
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_replication";
        client.query_one(sql, &[]).await.expect("end the walsenders");
    }

    async fn pgsluice(&self, pgsluice: &mut Runs, mut random: Rng) {
        while self.calm(&mut random).await {
            pgsluice.runs();
            let fault = Pgsluice::random(&mut random);
            let lasts = self.begins("pgsluice", fault, &mut random);
            match fault {
                Pgsluice::Killed => pgsluice.restart(),
                Pgsluice::Terminated => {
                    pgsluice.terminate().await;
                    pgsluice.restart();
                }
                Pgsluice::Paused => {
                    pgsluice.signal(Signal::STOP);
                    sleep(lasts).await;
                    pgsluice.signal(Signal::CONT);
                }
            }
        }
    }
}

impl Network {
    fn random(random: &mut Rng) -> Self {
        let direction = one(random, Direction::BOTH);
        let how = one(random, [Cut::Fin, Cut::Reset]);
        let entrance = one(random, [Entrance::Silent, Entrance::Refused, Entrance::Unreachable]);
        let all = [
            Self::Cut(how),
            Self::CutInTheMiddleOf(direction, how),
            Self::CutAndThen(how, entrance),
            Self::Stalled,
            Self::OneWay(direction),
            Self::Slow,
            Self::Held,
            Self::HalfOpen,
            Self::HalfOpenInTheMiddleOf(direction),
            Self::HalfOpenAndThen(entrance),
        ];
        one(random, all)
    }
}

impl Server {
    fn random(random: &mut Rng) -> Self {
        let all = [
            Self::PostgresKilled,
            Self::PostgresShutDown,
            Self::PostgresPaused,
            Self::WalsendersEnded,
            Self::RabbitKilled,
            Self::RabbitShutDown,
            Self::RabbitPaused,
            Self::ConnectionsClosed,
            Self::MemoryAlarm,
        ];
        one(random, all)
    }
}

impl Pgsluice {
    fn random(random: &mut Rng) -> Self {
        one(random, [Self::Killed, Self::Killed, Self::Terminated, Self::Paused])
    }
}

/// Runs what blocks on a thread of its own.
async fn on<S: Send + Sync + 'static>(server: &Arc<S>, what: impl FnOnce(&S) + Send + 'static) {
    let server = Arc::clone(server);
    spawn_blocking(move || what(&server)).await.expect("the server");
}

/// Of the memory, beyond which the broker takes no messages.
fn watermark(server: &RabbitServer, mark: &[&str]) {
    server.rabbitmqctl(&[&["set_vm_memory_high_watermark"], mark].concat());
}

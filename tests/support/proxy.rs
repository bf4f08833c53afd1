//! A TCP proxy in front of a server, which does to connections what networks do: cuts, stalls, loses, slows.
//!
//! A stall is a partition: bytes wait, and arrive when it is over, unless their sender has reset the connection
//! meanwhile. What is lost is lost for good: both ends keep an open connection on which they never hear of each other
//! again, nor of each other's end.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::server::free_ports;

/// How much is forwarded at a time.
const CHUNK_BYTES: usize = 16 << 10;
/// How much a slow direction forwards at a time, and how often it does.
const SLOW: (usize, Duration) = (2 << 10, Duration::from_millis(10));

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From pgsluice to the server.
    Requests,
    /// From the server to pgsluice.
    Answers,
}

impl Direction {
    pub(crate) const BOTH: [Self; 2] = [Self::Requests, Self::Answers];
}

/// How bytes pass, in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// At once.
    Open,
    /// Not now.
    Stalled,
    /// Some 200 kB/s, with small pauses.
    Slow,
}

/// What becomes of new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entrance {
    /// They reach the server.
    Open,
    /// They are accepted, and never hear anything.
    Silent,
    /// `ECONNREFUSED`.
    Refused,
    /// Their SYN gets no answer.
    Unreachable,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// As by a peer that closes it.
    Fin,
    /// As by a peer that has crashed or knows nothing of it.
    Reset,
}

#[derive(Debug, Clone, Copy)]
struct Weather {
    entrance: Entrance,
    requests: Flow,
    answers: Flow,
    /// Connections with a lower number are stalled in both directions.
    held_below: u64,
    /// Connections with a lower number are black-holed for ever.
    lost_below: u64,
    /// Connections with a lower number are cut.
    cut_below: u64,
    how: Cut,
}

/// Between pgsluice and one server; ends with all its connections when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    weather: watch::Sender<Weather>,
    entrance: watch::Receiver<Entrance>,
    shared: Arc<Shared>,
    door: JoinHandle<()>,
}

/// What its connections have in common.
#[derive(Debug)]
struct Shared {
    target: u16,
    tally: Mutex<Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    accepted: u64,
    ended: u64,
    /// By direction.
    bytes: [u64; 2],
    /// What happens to the connection on which so many more bytes have passed.
    fuse: Option<(Direction, usize, Fate)>,
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    Cut(Cut),
    Lost,
}

impl Proxy {
    /// A proxy in front of a port on loopback. Its tasks live on the current runtime.
    pub(crate) async fn to(target: u16) -> Self {
        let weather = Weather {
            entrance: Entrance::Open,
            requests: Flow::Open,
            answers: Flow::Open,
            held_below: 0,
            lost_below: 0,
            cut_below: 0,
            how: Cut::Fin,
        };
        // Below the ephemeral ports, so that nobody takes it while connections are refused.
        let port = free_ports();
        let shared = Arc::new(Shared { target, tally: Mutex::default() });
        let (sender, receiver) = watch::channel(weather);
        let (effective, entrance) = watch::channel(Entrance::Refused);
        let door = tokio::spawn(keep_door(port, Arc::clone(&shared), receiver, effective));
        let this = Self { port, weather: sender, entrance, shared, door };
        this.entrance(Entrance::Open).await;
        this
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What becomes of new connections from now on.
    pub(crate) async fn entrance(&self, entrance: Entrance) {
        self.weather.send_modify(|weather| weather.entrance = entrance);
        let mut effective = self.entrance.clone();
        effective.wait_for(|now| *now == entrance).await.expect("the proxy runs");
    }

    /// How bytes pass in one direction, on the connections that are open and on new ones.
    pub(crate) fn flow(&self, direction: Direction, flow: Flow) {
        self.weather.send_modify(|weather| match direction {
            Direction::Requests => weather.requests = flow,
            Direction::Answers => weather.answers = flow,
        });
    }

    /// [`Self::flow`] in both.
    pub(crate) fn flow_both(&self, flow: Flow) {
        for direction in Direction::BOTH {
            self.flow(direction, flow);
        }
    }

    /// Everything that is open now is stalled, in both directions, until [`Self::heal`]. New connections are not.
    pub(crate) fn hold(&self) {
        let below = self.accepted();
        self.weather.send_modify(|weather| weather.held_below = below);
    }

    /// Everything that is open now is black-holed for ever, in both directions. New connections are not.
    pub(crate) fn lose(&self) {
        let below = self.accepted();
        self.weather.send_modify(|weather| weather.lost_below = below);
    }

    /// Cuts everything that is open now.
    pub(crate) fn cut(&self, how: Cut) {
        let below = self.accepted();
        self.weather.send_modify(|weather| (weather.cut_below, weather.how) = (below, how));
    }

    /// Cuts the connection on which the byte after so many more passes.
    pub(crate) fn cut_after(&self, direction: Direction, bytes: usize, how: Cut) {
        self.shared.tally().fuse = Some((direction, bytes, Fate::Cut(how)));
    }

    /// [`Self::lose`] for the connection on which the byte after so many more passes.
    pub(crate) fn lose_after(&self, direction: Direction, bytes: usize) {
        self.shared.tally().fuse = Some((direction, bytes, Fate::Lost));
    }

    /// Whether it has come to what [`Self::cut_after`] or [`Self::lose_after`] wait for.
    pub(crate) fn is_burnt(&self) -> bool {
        self.shared.tally().fuse.is_none()
    }

    /// All is well from now on; what is lost stays lost.
    pub(crate) async fn heal(&self) {
        self.shared.tally().fuse = None;
        self.weather.send_modify(|weather| {
            (weather.requests, weather.answers, weather.held_below) = (Flow::Open, Flow::Open, 0);
        });
        self.entrance(Entrance::Open).await;
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.shared.tally().accepted
    }

    /// Connections of which at least one end is open.
    pub(crate) fn open(&self) -> u64 {
        let tally = self.shared.tally();
        tally.accepted - tally.ended
    }

    /// Bytes that were forwarded so far.
    pub(crate) fn bytes(&self, direction: Direction) -> u64 {
        self.shared.tally().bytes[direction as usize]
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.door.abort();
    }
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tally {
    /// The number of a new connection.
    fn accept(&mut self) -> u64 {
        self.accepted += 1;
        self.accepted - 1
    }
}

impl Weather {
    fn flow(&self, direction: Direction, connection: u64) -> Flow {
        match direction {
            _ if connection < self.held_below => Flow::Stalled,
            Direction::Requests => self.requests,
            Direction::Answers => self.answers,
        }
    }
}

/// Accepts, or does not. Its connections end with it.
async fn keep_door(
    port: u16,
    shared: Arc<Shared>,
    mut weather: watch::Receiver<Weather>,
    effective: watch::Sender<Entrance>,
) {
    let mut connections = JoinSet::new();
    loop {
        let entrance = weather.borrow_and_update().entrance;
        let mut crowd = Vec::new();
        let listener = match entrance {
            Entrance::Open | Entrance::Silent => Some(listen(port, 1024).expect("listen again")),
            Entrance::Refused => None,
            Entrance::Unreachable => {
                // With nobody to accept, the first fills the queue, and Linux ignores the SYN of those that follow.
                let listener = listen(port, 0).expect("listen again");
                crowd.push(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("one is let in"));
                Some(listener)
            }
        };
        effective.send_replace(entrance);
        loop {
            let may_accept = matches!(entrance, Entrance::Open | Entrance::Silent);
            tokio::select! { biased;
                changed = weather.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if weather.borrow_and_update().entrance != entrance {
                        break;
                    }
                }
                client = accept(listener.as_ref()), if may_accept => {
                    let number = shared.tally().accept();
                    let lost = AtomicBool::new(entrance == Entrance::Silent);
                    let link = Link { number, lost, shared: Arc::clone(&shared), weather: weather.clone() };
                    connections.spawn(link.run(client));
                }
                Some(_) = connections.join_next() => shared.tally().ended += 1,
            }
        }
        drop(listener);
    }
}

fn listen(port: u16, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
    // Connections of the listener before may linger.
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(backlog)?;
    TcpListener::from_std(socket.into())
}

async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    match listener {
        Some(listener) => listener.accept().await.expect("accept").0,
        None => std::future::pending().await,
    }
}

/// One connection.
struct Link {
    number: u64,
    /// Apart from the others.
    lost: AtomicBool,
    shared: Arc<Shared>,
    weather: watch::Receiver<Weather>,
}

impl Link {
    async fn run(self, client: TcpStream) {
        let server = TcpStream::connect((Ipv4Addr::LOCALHOST, self.shared.target)).await;
        let Ok(server) = server else { return reset(&client) };
        for stream in [&client, &server] {
            stream.set_nodelay(true).expect("is a TCP socket");
        }
        let [client, server] = [client, server].map(|stream| Peer { stream, is_gone: AtomicBool::new(false) });
        let requests = self.forward(&client, &server, Direction::Requests);
        let answers = self.forward(&server, &client, Direction::Answers);
        match tokio::try_join!(requests, answers) {
            Ok(_) | Err(Cut::Fin) => {}
            Err(Cut::Reset) => [&client, &server].into_iter().for_each(|peer| reset(&peer.stream)),
        }
    }

    /// Forwards one direction until its sender has nothing more to say; the error ends both.
    async fn forward(&self, from: &Peer, to: &Peer, direction: Direction) -> Result<(), Cut> {
        let mut weather = self.weather.clone();
        let mut pump =
            Pump { from, to, direction, tally: &self.shared.tally, buffer: vec![0; CHUNK_BYTES], held: 0..0 };
        loop {
            let now = *weather.borrow_and_update();
            if self.number < now.cut_below {
                return Err(now.how);
            }
            let is_lost = || self.number < now.lost_below || self.lost.load(Ordering::Relaxed);
            let step = async {
                match now.flow(direction, self.number) {
                    _ if is_lost() => pump.swallow().await,
                    Flow::Open => pump.step(CHUNK_BYTES).await,
                    Flow::Slow => {
                        tokio::time::sleep(SLOW.1).await;
                        pump.step(SLOW.0).await
                    }
                    Flow::Stalled => std::future::pending().await,
                }
            };
            let stepped = tokio::select! { biased;
                changed = weather.changed() => changed.map(|()| Step::More).map_err(|_| Fate::Cut(Cut::Fin)),
                stepped = step => stepped,
            };
            match stepped {
                Ok(Step::More) => {}
                Err(Fate::Lost) => self.lost.store(true, Ordering::Relaxed),
                // The other end shall not know.
                Ok(Step::End) | Err(Fate::Cut(_)) if is_lost() => return Ok(()),
                Ok(Step::End) => {
                    let _ = SockRef::from(&to.stream).shutdown(Shutdown::Write);
                    return Ok(());
                }
                Err(Fate::Cut(how)) => return Err(how),
            }
        }
    }
}

/// Closes it without a goodbye, when it is dropped.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// One end of a connection.
struct Peer {
    stream: TcpStream,
    /// The system tells of a reset once, to whoever asks first.
    is_gone: AtomicBool,
}

/// One direction of a connection.
struct Pump<'a> {
    from: &'a Peer,
    to: &'a Peer,
    direction: Direction,
    tally: &'a Mutex<Tally>,
    buffer: Vec<u8>,
    /// Of the buffer: what is read and not written.
    held: Range<usize>,
}

enum Step {
    More,
    End,
}

impl Pump<'_> {
    /// Reads so much at most, or writes what was read. Cancel-safe.
    async fn step(&mut self, bytes_max: usize) -> Result<Step, Fate> {
        if self.held.is_empty() { self.read(bytes_max).await } else { self.write().await }
    }

    /// Reads what nobody will get. Cancel-safe.
    async fn swallow(&mut self) -> Result<Step, Fate> {
        self.held = 0..0;
        self.read(CHUNK_BYTES).await
    }

    async fn read(&mut self, bytes_max: usize) -> Result<Step, Fate> {
        let _ = self.from.stream.readable().await;
        self.not_reset()?;
        match self.from.stream.try_read(&mut self.buffer[..bytes_max]) {
            Ok(0) => Ok(Step::End),
            Ok(bytes) => {
                self.held = 0..bytes;
                Ok(Step::More)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Step::More),
            Err(_) => Err(Fate::Cut(Cut::Reset)),
        }
    }

    async fn write(&mut self) -> Result<Step, Fate> {
        let _ = self.to.stream.writable().await;
        self.not_reset()?;
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let fuse = tally.fuse.filter(|fuse| fuse.0 == self.direction);
        if let Some((_, 0, fate)) = fuse {
            tally.fuse = None;
            return Err(fate);
        }
        let until = fuse.map_or(self.held.end, |(_, left, _)| self.held.end.min(self.held.start + left));
        match self.to.stream.try_write(&self.buffer[self.held.start..until]) {
            Ok(bytes) => {
                self.held.start += bytes;
                tally.bytes[self.direction as usize] += bytes as u64;
                if let Some((direction, left, fate)) = fuse {
                    tally.fuse = Some((direction, left - bytes, fate));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Its own direction tells the other end, when that is not stalled.
            Err(_) => {
                self.held = 0..0;
                self.to.is_gone.store(true, Ordering::Relaxed);
            }
        }
        Ok(Step::More)
    }

    /// A sender that has reset the connection does not send again what had not arrived.
    fn not_reset(&self) -> Result<(), Fate> {
        if self.from.is_gone.load(Ordering::Relaxed) || !matches!(self.from.stream.take_error(), Ok(None)) {
            return Err(Fate::Cut(Cut::Reset));
        }
        Ok(())
    }
}

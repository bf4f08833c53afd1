//! A replication connection to PostgreSQL without login (the bench's own servers trust everybody) and without TLS.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::{BufMut as _, BytesMut};
use postgres_protocol::message::frontend;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket as AnySocket, Type};

use super::low_water;

/// One read takes so much at most, in bytes.
const BUFFER: usize = 512 * 1024;
/// How long a read waits for the low-water mark, and with what is below it.
const SHORT: Duration = Duration::from_millis(5);
/// How long one waits for anything at all.
const LONG: Duration = Duration::from_millis(200);
/// How often the server is told that we live.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Where a server listens.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Address {
    /// On 127.0.0.1.
    Tcp(u16),
    /// On the Unix socket of this path.
    Unix(PathBuf),
}

trait Socket: Read + Write + Send {}
impl<T: Read + Write + Send> Socket for T {}

/// How the reader waits for data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Waiting {
    /// For the first byte.
    Eager,
    /// Under load, for so many bytes.
    ForBytes(i32),
    /// For a while, after each read that brought little; with a receive buffer that is full before.
    Naps,
}

/// What pgsluice has found best over loopback (`src/postgres/replication/pace.rs`).
const NAP: Duration = Duration::from_millis(2);
const NAPS_LITTLE: usize = 16 << 10;
const NAPS_RECEIVE_BYTES: usize = 32 << 10;

/// A connection that has started.
pub(crate) struct Connection {
    socket: Box<dyn Socket>,
    setting: Setting,
    waiting: Waiting,
}

/// What of a socket is set while it is read from.
enum Setting {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Setting {
    fn timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_read_timeout(timeout),
            Self::Unix(socket) => socket.set_read_timeout(timeout),
        }
    }

    fn mark(&self, bytes: i32) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => low_water::set(&socket.as_fd(), bytes),
            Self::Unix(socket) => low_water::set(&socket.as_fd(), bytes),
        }
    }
}

impl Connection {
    /// Connects to a database as `postgres`; to a walsender, where it is said how to wait for what it sends.
    pub(crate) fn open(address: &Address, database: &str, replication: Option<Waiting>) -> io::Result<Self> {
        let (socket, setting): (Box<dyn Socket>, _) = match address {
            Address::Tcp(port) => {
                let socket = AnySocket::new(Domain::IPV4, Type::STREAM, None)?;
                if replication == Some(Waiting::Naps) {
                    socket.set_recv_buffer_size(NAPS_RECEIVE_BYTES)?;
                }
                socket.connect(&SocketAddr::from(([127, 0, 0, 1], *port)).into())?;
                let socket = TcpStream::from(socket);
                socket.set_nodelay(true)?;
                (Box::new(socket.try_clone()?), Setting::Tcp(socket))
            }
            Address::Unix(path) => {
                let socket = UnixStream::connect(path)?;
                (Box::new(socket.try_clone()?), Setting::Unix(socket))
            }
        };
        let waiting = replication.unwrap_or(Waiting::Eager);
        let mut this = Self { socket, setting, waiting };
        let mut hello = BytesMut::new();
        let parameters = [("user", "postgres"), ("database", database), ("application_name", "bench")];
        let replication = replication.map(|_| ("replication", "database"));
        frontend::startup_message(parameters.into_iter().chain(replication), &mut hello)?;
        this.socket.write_all(&hello)?;
        this.until(b'Z')?;
        Ok(this)
    }

    /// Runs statements, and returns when they are done.
    pub(crate) fn execute(&mut self, sql: &str) -> io::Result<()> {
        self.ask(sql)?;
        self.until(b'Z')
    }

    /// Starts a stream of pgoutput from where the slot is.
    pub(crate) fn start(mut self, slot: &str, publication: &str) -> io::Result<Reader> {
        let options = format!("proto_version '1', publication_names '\"{publication}\"'");
        self.ask(&format!("START_REPLICATION SLOT \"{slot}\" LOGICAL 0/0 ({options})"))?;
        self.until(b'W')?;
        Reader::new(self)
    }

    fn ask(&mut self, sql: &str) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        frontend::query(sql, &mut bytes)?;
        self.socket.write_all(&bytes)
    }

    /// Reads up to a message of this type.
    fn until(&mut self, wanted: u8) -> io::Result<()> {
        loop {
            let mut head = [0; 5];
            self.socket.read_exact(&mut head)?;
            let mut body = vec![0; length(&head).saturating_sub(4)];
            self.socket.read_exact(&mut body)?;
            match head[0] {
                b'E' => return Err(io::Error::other(String::from_utf8_lossy(&body).replace('\0', " "))),
                kind if kind == wanted => return Ok(()),
                _ => {}
            }
        }
    }
}

/// The length of a message, without its type byte.
fn length(head: &[u8]) -> usize {
    u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize
}

/// Reads a stream, and keeps the server content.
pub(crate) struct Reader {
    connection: Connection,
    /// The mark is raised now.
    is_raised: bool,
    buffer: Vec<u8>,
    filled: usize,
    received_lsn: u64,
    reported: Instant,
    /// All that was read, in bytes.
    pub(crate) bytes: u64,
    pub(crate) reads: u64,
}

impl Reader {
    fn new(connection: Connection) -> io::Result<Self> {
        connection.setting.timeout(Some(LONG))?;
        let buffer = vec![0; BUFFER];
        let reported = Instant::now();
        Ok(Self { connection, is_raised: false, buffer, filled: 0, received_lsn: 0, reported, bytes: 0, reads: 0 })
    }

    /// One read, and the pgoutput messages that it completes.
    pub(crate) fn read(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let read = match self.connection.socket.read(&mut self.buffer[self.filled..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => 0,
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        self.filled += read;
        self.bytes += read as u64;
        self.reads += u64::from(read > 0);
        self.adapt(read)?;
        let mut at = 0;
        let mut asked = false;
        while self.filled - at >= 5 {
            let whole = 1 + length(&self.buffer[at..]);
            if self.filled - at < whole {
                if whole > self.buffer.len() {
                    self.buffer.resize(whole, 0);
                }
                break;
            }
            let message = &self.buffer[at..at + whole];
            at += whole;
            match (message[0], message.get(5)) {
                // CopyData with XLogData: where it starts, where the server is, when; 8 bytes each.
                (b'd', Some(b'w')) => {
                    self.received_lsn = self.received_lsn.max(number(&message[6..]));
                    each(&message[30..]);
                }
                // A keepalive: where the server is, when, whether to answer.
                (b'd', Some(b'k')) => asked |= message.get(22) == Some(&1),
                (b'E', _) => {
                    return Err(io::Error::other(String::from_utf8_lossy(&message[5..]).replace('\0', " ")));
                }
                _ => {}
            }
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        if asked || self.reported.elapsed() >= REPORT_EVERY {
            self.report()?;
        }
        Ok(())
    }

    /// The mark is up while much comes, and down when a wait for it was in vain.
    fn adapt(&mut self, read: usize) -> io::Result<()> {
        let mark = match self.connection.waiting {
            Waiting::ForBytes(mark) => mark,
            Waiting::Naps if read < NAPS_LITTLE => {
                std::thread::sleep(NAP);
                return Ok(());
            }
            Waiting::Naps | Waiting::Eager => return Ok(()),
        };
        let raise = read > 0;
        if raise != self.is_raised {
            self.is_raised = raise;
            self.connection.setting.mark(if raise { mark } else { 1 })?;
            self.connection.setting.timeout(Some(if raise { SHORT } else { LONG }))?;
        }
        Ok(())
    }

    /// A standby status update that acknowledges nothing.
    fn report(&mut self) -> io::Result<()> {
        self.reported = Instant::now();
        let mut status = BytesMut::new();
        status.put_u8(b'd');
        status.put_u32(4 + 34);
        status.put_u8(b'r');
        status.put_u64(self.received_lsn);
        status.put_u64(0);
        status.put_u64(0);
        status.put_i64(0);
        status.put_u8(0);
        self.connection.socket.write_all(&status)
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Whether a pgoutput message is a row's change.
pub(crate) fn is_row(message: &[u8]) -> bool {
    matches!(message.first(), Some(b'I' | b'U' | b'D'))
}

/// The first column of an Insert's or Update's new tuple, as text (protocol: "Logical Replication Message Formats").
pub(crate) fn first_column(message: &[u8]) -> Option<&[u8]> {
    // Type, relation (4), 'N', columns (2), then 't', length (4), text.
    let tuple = message.strip_prefix(b"I")?.get(4..)?.strip_prefix(b"N")?.get(2..)?;
    let text = tuple.strip_prefix(b"t")?;
    text.get(4..4 + u32::from_be_bytes(*text.first_chunk()?) as usize)
}

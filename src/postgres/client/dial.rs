//! Which address to try next, and how to get to an agreed-upon stream of bytes there.
//!
//! Shared by [`super::Connection`] and [`crate::postgres::sql`], so that both find the same primary by the
//! same rules. The retries between encrypted and plain are libpq's ("SSL Mode Descriptions").

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use super::error::{Attempt, ClientError, ConnectError, ProtocolError};
use super::stream::Stream;
use super::{Purpose, verdict, within};
use crate::postgres::conninfo::{Address, Conninfo, Host, Negotiation, SslMode, TcpSettings};
use crate::postgres::tls::{Connector, TlsError, decided_by_tls};

/// The receive buffer of a stream from this machine, in bytes; Linux doubles it. It holds what comes during a nap only in part, so
/// that the rest is put together on the walsender's side ([`crate::postgres::replication`] reads in naps).
const LOOPBACK_RECEIVE_BYTES: u32 = 32 << 10;

#[derive(Debug, Clone)]
enum Endpoint {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    Never,
    IfOffered,
    Always,
}

/// One address to try in one way.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) host: Host,
    endpoint: Endpoint,
    encryption: Encryption,
    encrypted: bool,
    retry: bool,
}

/// Walks through hosts, their addresses, and the ways that `sslmode` allows; collects why each failed.
pub(crate) struct Search<'a> {
    conninfo: &'a Conninfo,
    connector: Option<Connector>,
    hosts: std::slice::Iter<'a, Host>,
    queue: VecDeque<Candidate>,
    attempts: Vec<Attempt>,
}

impl<'a> Search<'a> {
    /// # Errors
    /// Certificates that can't be used.
    pub(crate) fn new(conninfo: &'a Conninfo) -> Result<Self, TlsError> {
        let over_tcp = conninfo.hosts().iter().any(|host| host.socket().is_none());
        let connector = (over_tcp && conninfo.tls().mode != SslMode::Disable)
            .then(|| Connector::new(conninfo.tls()))
            .transpose()?;
        let hosts = conninfo.hosts().iter();
        Ok(Self { conninfo, connector, hosts, queue: VecDeque::new(), attempts: Vec::new() })
    }

    /// The next address to try; none when all are used up.
    pub(crate) async fn next(&mut self) -> Option<Candidate> {
        while self.queue.is_empty() {
            let host = self.hosts.next()?;
            match endpoints(host, self.conninfo).await {
                Ok(endpoints) => {
                    let encryption = first_way(host, self.conninfo.tls().mode);
                    self.queue.extend(endpoints.into_iter().map(|endpoint| Candidate {
                        host: host.clone(),
                        endpoint,
                        encryption,
                        encrypted: false,
                        retry: false,
                    }));
                }
                Err(error) => self.attempts.push(Attempt { host: host.to_string(), address: None, error }),
            }
        }
        self.queue.pop_front()
    }

    /// Connects, and encrypts as agreed.
    pub(crate) async fn dial(&self, candidate: &mut Candidate, purpose: Purpose) -> Result<Stream, ClientError> {
        let stream = match &candidate.endpoint {
            Endpoint::Unix(path) => return Ok(Stream::Unix(UnixStream::connect(path).await?)),
            Endpoint::Tcp(address) => connect(*address, purpose).await?,
        };
        tune(&stream, self.conninfo.tcp())?;
        match (&self.connector, candidate.encryption) {
            (None, _) | (_, Encryption::Never) => Ok(Stream::Tcp(stream)),
            (Some(connector), _) => {
                let stream = encrypt(connector, self.conninfo.tls().negotiation, candidate, stream).await?;
                candidate.encrypted = stream.is_encrypted();
                Ok(stream)
            }
        }
    }

    /// Notes a failure, and whether another way to the same address is allowed.
    pub(crate) fn failed(&mut self, candidate: Candidate, error: ClientError) {
        let error = match error {
            // A server that speaks TLS 1.3 refuses a client certificate only when the handshake is over for us.
            ClientError::Io(error) => match decided_by_tls(&error) {
                Some(decision) => ClientError::Tls(TlsError::Handshake(decision)),
                None => ClientError::Io(error),
            },
            error => error,
        };
        let refused = error.code().is_some_and(|code| code == "28000");
        let retry = match (self.conninfo.tls().mode, candidate.encryption) {
            (SslMode::Prefer, Encryption::IfOffered) if candidate.encrypted && refused => Some(Encryption::Never),
            (SslMode::Prefer, Encryption::IfOffered) if matches!(error, ClientError::Tls(_)) => Some(Encryption::Never),
            (SslMode::Allow, Encryption::Never) if refused => Some(Encryption::Always),
            _ => None,
        };
        // The server itself has spoken: its other addresses would say the same.
        if verdict::of(&error, Some(self.conninfo.user())).is_some() {
            self.queue.clear();
        }
        if let Some(encryption) = retry.filter(|_| !candidate.retry && candidate.host.socket().is_none()) {
            self.queue.push_front(Candidate { encryption, encrypted: false, retry: true, ..candidate.clone() });
        }
        let address = match candidate.endpoint {
            Endpoint::Tcp(address) => address.to_string(),
            Endpoint::Unix(path) => path.display().to_string(),
        };
        self.attempts.push(Attempt { host: candidate.host.to_string(), address: Some(address), error });
    }

    /// The error that names everybody.
    pub(crate) fn exhausted(self) -> ClientError {
        Box::new(ConnectError { user: self.conninfo.user().to_owned(), attempts: self.attempts }).into()
    }
}

fn first_way(host: &Host, mode: SslMode) -> Encryption {
    match mode {
        _ if host.socket().is_some() => Encryption::Never,
        SslMode::Disable | SslMode::Allow => Encryption::Never,
        SslMode::Prefer => Encryption::IfOffered,
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => Encryption::Always,
    }
}

async fn endpoints(host: &Host, conninfo: &Conninfo) -> Result<Vec<Endpoint>, ClientError> {
    if let Some(path) = host.socket() {
        return Ok(vec![Endpoint::Unix(path)]);
    }
    let name = match (&host.address, host.hostaddr) {
        (_, Some(address)) => return Ok(vec![Endpoint::Tcp(SocketAddr::new(address, host.port))]),
        (Address::Tcp(name), None) => name.as_str(),
        (Address::Unix(_), None) => return Ok(Vec::new()),
    };
    let lookup = async { Ok(tokio::net::lookup_host((name, host.port)).await?.collect::<Vec<_>>()) };
    let addresses = within(conninfo.connect_timeout(), "looking up the host", lookup).await?;
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address").into());
    }
    Ok(addresses.into_iter().map(Endpoint::Tcp).collect())
}

async fn connect(address: SocketAddr, purpose: Purpose) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if purpose == Purpose::Replication && address.ip().to_canonical().is_loopback() {
        // Now or never: the sender makes segments of half of the first window, and what does not fit into one that shrank
        // later waits for a probe, 200 ms.
        socket.set_recv_buffer_size(LOOPBACK_RECEIVE_BYTES)?;
    }
    socket.connect(address).await
}

fn tune(stream: &TcpStream, settings: &TcpSettings) -> Result<(), ClientError> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    if settings.keepalives {
        let keepalive =
            TcpKeepalive::new().with_time(settings.idle).with_interval(settings.interval).with_retries(settings.count);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    #[cfg(target_os = "linux")]
    if settings.user_timeout.is_some() {
        socket.set_tcp_user_timeout(settings.user_timeout)?;
    }
    Ok(())
}

/// Asks for TLS (section "SSL Session Encryption" of the manual) and shakes hands.
async fn encrypt(
    connector: &Connector,
    negotiation: Negotiation,
    candidate: &Candidate,
    mut stream: TcpStream,
) -> Result<Stream, ClientError> {
    if negotiation == Negotiation::Postgres {
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        stream.write_all(&request).await?;
        // One byte and no more: what follows an `S` is TLS, never plain text slipped in by somebody else.
        match (stream.read_u8().await?, candidate.encryption) {
            (b'S', _) => {}
            (b'N', Encryption::IfOffered) => return Ok(Stream::Tcp(stream)),
            (b'N', Encryption::Always | Encryption::Never) => return Err(TlsError::Unsupported.into()),
            // It has no process left, or is just ending. Its words are not read: nobody has proved whose they are.
            (b'E', _) => return Err(io::Error::other("the server answers the request for TLS with an error").into()),
            (other, _) => return Err(ProtocolError::NotPostgres(other).into()),
        }
    }
    Ok(Stream::Tls(Box::new(connector.handshake(&candidate.host, stream).await?)))
}

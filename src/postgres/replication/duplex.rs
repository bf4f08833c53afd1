//! An open connection with two ends: a thread that blocks in its reads, and a loop that never blocks in its writes.
//!
//! A socket is blocking or not for all who hold it. So this one blocks, and each write says that it does not want to. A TLS
//! session belongs to both ends, under a lock that nobody holds while the socket is waited for.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use rustls::ClientConnection;
use socket2::Socket;

use crate::postgres::client::stream::Stream;

/// One read from the socket brings at most so many encrypted bytes.
const ENCRYPTED_BYTES: usize = 256 << 10;

/// For what is not read for long; Linux gives twice of it, or of `net.core.rmem_max`.
const UNREAD_BYTES: usize = 1 << 20;

/// What both ends share.
#[derive(Debug)]
struct Shared {
    socket: Socket,
    /// None: not encrypted.
    session: Option<Mutex<ClientConnection>>,
}

/// Makes the two ends. Must be called within the runtime that the stream belongs to.
pub(super) fn split(stream: Stream) -> io::Result<(ReadEnd, WriteEnd)> {
    let (socket, session): (Socket, _) = match stream {
        Stream::Tcp(stream) => (stream.into_std()?.into(), None),
        Stream::Unix(stream) => (stream.into_std()?.into(), None),
        Stream::Tls(stream) => {
            let (stream, session) = stream.into_inner();
            (stream.into_std()?.into(), Some(Mutex::new(session)))
        }
    };
    socket.set_nonblocking(false)?;
    let encrypted = vec![0; if session.is_some() { ENCRYPTED_BYTES } else { 0 }];
    let shared = Arc::new(Shared { socket, session });
    Ok((ReadEnd { shared: Arc::clone(&shared), encrypted, from: 0, to: 0 }, WriteEnd { shared }))
}

/// The thread's.
#[derive(Debug)]
pub(super) struct ReadEnd {
    shared: Arc<Shared>,
    /// What was read, and not yet given to the session: from `from` to `to`.
    encrypted: Vec<u8>,
    from: usize,
    to: usize,
}

impl Shared {
    /// Whether it is TCP, and the server is on this machine.
    fn is_loopback(&self) -> bool {
        let server = self.socket.peer_addr().ok().and_then(|address| address.as_socket());
        server.is_some_and(|address| address.ip().to_canonical().is_loopback())
    }

    /// Whether something has arrived that nobody has read.
    fn has_more(&self) -> bool {
        let mut sockets = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut sockets, PollTimeout::ZERO) == Ok(1)
    }
}

impl ReadEnd {
    /// Whether it is TCP, and the server is on this machine.
    pub(super) fn is_loopback(&self) -> bool {
        self.shared.is_loopback()
    }

    /// Whether a read would not block. Of TLS nobody knows: what is there may be a part of a record.
    pub(super) fn has_more(&self) -> bool {
        self.shared.session.is_none() && self.shared.has_more()
    }

    /// Blocks until something is there; 0: the end.
    pub(super) fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let Some(session) = &self.shared.session else { return (&self.shared.socket).read(out) };
        loop {
            let filled = decrypt(&mut lock(session), &mut &self.encrypted[self.from..self.to], out);
            // Tells the server why, if it still listens.
            let (filled, left, is_over) =
                filled.inspect_err(|_| flush(&mut lock(session), &self.shared.socket).unwrap_or_default())?;
            self.from = self.to - left;
            if filled > 0 || is_over {
                return Ok(filled);
            }
            // An answer of the session to what it has read, such as a new key: else with the next write.
            flush(&mut lock(session), &self.shared.socket).ok();
            self.from = 0;
            self.to = 0;
            self.to = (&self.shared.socket).read(&mut self.encrypted)?;
            if self.to == 0 {
                return Ok(0);
            }
        }
    }
}

/// Gives `encrypted` to the session, and takes from it what it makes of it: how many bytes of `out` are filled, how many
/// of `encrypted` are left, and whether the server has ended the session.
fn decrypt(session: &mut ClientConnection, encrypted: &mut &[u8], out: &mut [u8]) -> io::Result<(usize, usize, bool)> {
    let mut filled = 0;
    loop {
        match session.reader().read(&mut out[filled..]) {
            Ok(0) => return Ok((filled, encrypted.len(), filled < out.len())),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if encrypted.is_empty() {
                    return Ok((filled, 0, false));
                }
                session.read_tls(encrypted)?;
                session.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The loop's. Dropping it ends the connection for both.
#[derive(Debug)]
pub(super) struct WriteEnd {
    shared: Arc<Shared>,
}

impl WriteEnd {
    /// Nobody has read for a while, as while the broker is away. Over loopback the small receive buffer (`client::dial`) can then
    /// be fuller than full. What else arrives Linux drops, and what confirms our reports with it: they would be sent again after
    /// longer and longer pauses, until the walsender has heard nothing of us for too long.
    pub(super) fn make_room(&self) -> io::Result<()> {
        if self.shared.is_loopback() && self.shared.has_more() {
            self.shared.socket.set_recv_buffer_size(UNREAD_BYTES)?;
        }
        Ok(())
    }

    /// Writes what the socket takes at once. `WouldBlock`: nothing.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.shared.session {
            None => NonBlocking(&self.shared.socket).write(bytes),
            Some(session) => {
                let session = &mut lock(session);
                // One at a time: the session takes any number, whether or not the socket does.
                flush(session, &self.shared.socket)?;
                session.writer().write(bytes)
            }
        }
    }

    /// All that was written is on its way. `WouldBlock`: not yet.
    pub(super) fn flush(&self) -> io::Result<()> {
        match &self.shared.session {
            None => Ok(()),
            Some(session) => flush(&mut lock(session), &self.shared.socket),
        }
    }
}

impl Drop for WriteEnd {
    fn drop(&mut self) {
        // Wakes the reader. It may be closed already.
        self.shared.socket.shutdown(Shutdown::Both).ok();
    }
}

fn flush(session: &mut ClientConnection, socket: &Socket) -> io::Result<()> {
    while session.wants_write() {
        session.write_tls(&mut NonBlocking(socket))?;
    }
    Ok(())
}

/// Nobody panics with it in hand; and if, then half a record would be sent, which the server refuses.
fn lock(session: &Mutex<ClientConnection>) -> MutexGuard<'_, ClientConnection> {
    session.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes that return `WouldBlock` where the socket would block.
struct NonBlocking<'a>(&'a Socket);

impl Write for NonBlocking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(self.0.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

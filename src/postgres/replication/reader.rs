//! The thread that reads a replication stream, ahead of the loop by what its few buffers hold.
//!
//! A thread, since how we read decides how fast the walsender can send: see [`super::pace`]. It ends when the connection
//! does, or when nobody wants to hear of it any more; and it waits while every buffer is on its way, so that whoever
//! does not take what was read holds up the server, and nothing piles up here.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::duplex::ReadEnd;
use super::inbox::{Arrival, Inbox};
use super::pace::{MUCH_BYTES, Pace};
use crate::postgres::client::ClientError;
use crate::postgres::client::wire::closed;

/// So many arrivals wait at most. Those that hold a buffer are fewer.
const ARRIVALS_MAX: usize = 16;
/// The depth of the reader's calls is small and known.
const STACK_BYTES: usize = 256 << 10;

/// What arrives, in its order. The last is an error.
#[derive(Debug)]
pub(super) struct Arrivals {
    arrivals: Receiver<Result<Arrival, ClientError>>,
    /// The server has sent something.
    pub(super) heard: Arc<AtomicBool>,
}

impl Arrivals {
    /// None: the thread has ended. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Result<Arrival, ClientError>> {
        self.arrivals.recv().await
    }

    /// Whether the server has sent anything since the last call, be it a part of a message.
    pub(super) fn has_heard(&self) -> bool {
        self.heard.swap(false, Ordering::Relaxed)
    }
}

/// Starts the thread. It begins with what was read beyond the start of the stream.
pub(super) fn start(end: ReadEnd, read_ahead: &BytesMut) -> io::Result<Arrivals> {
    let (arrived, arrivals) = channel(ARRIVALS_MAX);
    let heard = Arc::default();
    let reader = Reader {
        pace: Pace::new(Instant::now(), end.is_loopback()),
        end,
        inbox: Inbox::new(read_ahead),
        heard: Arc::clone(&heard),
        arrived,
    };
    thread::Builder::new().name("wal-reader".to_owned()).stack_size(STACK_BYTES).spawn(move || reader.run())?;
    Ok(Arrivals { arrivals, heard })
}

struct Reader {
    end: ReadEnd,
    inbox: Inbox,
    pace: Pace,
    heard: Arc<AtomicBool>,
    arrived: Sender<Result<Arrival, ClientError>>,
}

impl Reader {
    fn run(mut self) {
        let mut turn = self.hand_over();
        while turn.is_ok() {
            turn = self.turn();
        }
        if let Err(End::Failed(error)) = turn {
            self.arrived.blocking_send(Err(error)).ok();
        }
    }

    fn turn(&mut self) -> Result<(), End> {
        let filled = self.fill();
        // What came before an end, too: the server's last words are there.
        self.hand_over()?;
        if let Some(nap) = filled? {
            thread::sleep(nap);
        }
        Ok(())
    }

    /// All that is whole.
    fn hand_over(&mut self) -> Result<(), End> {
        while let Some(arrival) = self.inbox.take()? {
            self.arrived.blocking_send(Ok(arrival)).map_err(|_| End::Unheard)?;
        }
        Ok(())
    }

    /// What is there now, in one handful at most; blocks while that is nothing. Returns how long to nap after it.
    fn fill(&mut self) -> io::Result<Option<Duration>> {
        loop {
            let read = match self.end.read(self.inbox.room()) {
                Ok(0) => return Err(closed()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.inbox.filled(read);
            self.heard.store(true, Ordering::Relaxed);
            let nap = self.pace.nap(Instant::now(), read);
            if read < MUCH_BYTES || self.inbox.is_handful() || !self.end.has_more() {
                return Ok(nap);
            }
        }
    }
}

/// Why nothing more is read.
enum End {
    /// Nobody takes what arrives.
    Unheard,
    Failed(ClientError),
}

impl<E: Into<ClientError>> From<E> for End {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

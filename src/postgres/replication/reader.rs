//! The thread that reads a replication stream, ahead of the loop by what its few buffers hold.
//!
//! A thread, since how we read decides how fast the walsender can send: see [`super::pace`]. It ends when the connection
//! does, or when nobody wants to hear of it any more; and it waits while every buffer is on its way, so that whoever
//! does not take what was read holds up the server, and nothing piles up here.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use bytes::BytesMut;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::duplex::ReadEnd;
use super::inbox::{Arrival, Inbox};
use super::pace::Pace;
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
        loop {
            match self.hand_over().and_then(|()| Ok(self.fill()?)) {
                Ok(()) => {}
                Err(End::Unheard) => return,
                Err(End::Failed(error)) => {
                    self.arrived.blocking_send(Err(error)).ok();
                    return;
                }
            }
        }
    }

    /// All that is whole.
    fn hand_over(&mut self) -> Result<(), End> {
        while let Some(arrival) = self.inbox.take()? {
            self.arrived.blocking_send(Ok(arrival)).map_err(|_| End::Unheard)?;
        }
        Ok(())
    }

    /// What is there now; blocks while that is nothing.
    fn fill(&mut self) -> io::Result<()> {
        match self.end.read(self.inbox.room()) {
            Ok(0) => Err(closed()),
            Ok(read) => {
                self.inbox.filled(read);
                self.heard.store(true, Ordering::Relaxed);
                if let Some(nap) = self.pace.nap(Instant::now(), read) {
                    thread::sleep(nap);
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
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

//! The thread that reads a replication stream, ahead of the loop by what its few buffers hold.
//!
//! A thread, since how we read decides how fast the walsender can send: see [`super::pace`]. It ends when the connection
//! does, or when nobody wants to hear of it any more; and it waits while every buffer is on its way, so that whoever
//! does not take what was read holds up the server, and nothing piles up here.

use std::io;
use std::thread;
use std::time::Instant;

use bytes::BytesMut;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::duplex::ReadEnd;
use super::inbox::{Arrival, Inbox};
use super::pace::{NAP, Pace};
use crate::postgres::client::ClientError;
use crate::postgres::client::wire::closed;

/// So many arrivals wait at most. Those that hold a buffer are fewer.
const ARRIVALS_MAX: usize = 16;
/// The depth of the reader's calls is small and known.
const STACK_BYTES: usize = 256 << 10;

/// What arrives, in its order. The last is an error.
pub(super) type Arrivals = Receiver<Result<Arrival, ClientError>>;

/// Starts the thread. It begins with what was read beyond the start of the stream.
pub(super) fn start(end: ReadEnd, read_ahead: &BytesMut) -> io::Result<Arrivals> {
    let (arrived, arrivals) = channel(ARRIVALS_MAX);
    let inbox = Inbox::new(read_ahead);
    thread::Builder::new()
        .name("wal-reader".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || read(end, inbox, &arrived))?;
    Ok(arrivals)
}

fn read(mut end: ReadEnd, mut inbox: Inbox, arrived: &Sender<Result<Arrival, ClientError>>) {
    let mut pace = Pace::new(Instant::now());
    loop {
        let next = hand_over(&mut inbox, arrived).and_then(|()| Ok(fill(&mut end, &mut inbox, &mut pace)?));
        match next {
            Ok(()) => {}
            Err(End::Unheard) => return,
            Err(End::Failed(error)) => {
                arrived.blocking_send(Err(error)).ok();
                return;
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

/// All that is whole.
fn hand_over(inbox: &mut Inbox, arrived: &Sender<Result<Arrival, ClientError>>) -> Result<(), End> {
    while let Some(arrival) = inbox.take()? {
        arrived.blocking_send(Ok(arrival)).map_err(|_| End::Unheard)?;
    }
    Ok(())
}

/// What is there now; blocks while that is nothing.
fn fill(end: &mut ReadEnd, inbox: &mut Inbox, pace: &mut Pace) -> io::Result<()> {
    match end.read(inbox.room()) {
        Ok(0) => Err(closed()),
        Ok(read) => {
            inbox.filled(read);
            if pace.wants_nap(Instant::now(), read) {
                thread::sleep(NAP);
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        Err(error) => Err(error),
    }
}

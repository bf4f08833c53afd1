//! What arrives in the queue, and when: a blocking consumer in a thread of its own, so that nothing stands between the
//! socket and the clock.

use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::stage::QUEUE;
use crate::wire::amqp::{Address, Client, Said};
use crate::wire::postgres::first_column;

/// A consumer that takes everything.
pub(crate) struct Deliveries {
    socket: TcpStream,
    arrived: Arc<Mutex<Arrived>>,
    thread: JoinHandle<()>,
}

/// What has come.
#[derive(Debug, Default, Clone)]
pub(crate) struct Arrived {
    /// Each row's id, at its first arrival.
    pub(crate) at: Vec<Option<Instant>>,
    first: Option<Instant>,
    /// How many came that had come before.
    pub(crate) repeated: u64,
    pub(crate) count: u64,
    /// The highest id.
    pub(crate) highest: u64,
}

impl Deliveries {
    /// Begins to consume.
    pub(crate) fn start(address: &Address) -> Result<Self, String> {
        let mut client = Client::consumer(address, QUEUE).map_err(|error| error.to_string())?;
        let socket = client.socket.try_clone().map_err(|error| error.to_string())?;
        let arrived = Arc::new(Mutex::new(Arrived::default()));
        let thread = std::thread::spawn({
            let arrived = Arc::clone(&arrived);
            move || {
                let take = |body: &[u8]| {
                    let now = Instant::now();
                    arrived.lock().unwrap_or_else(PoisonError::into_inner).take(row_id(body), now);
                };
                while let Ok(()) = client.read(|said| match said {
                    Said::Body { bytes } => take(bytes),
                    Said::Ack { .. } => {}
                }) {}
            }
        });
        Ok(Self { socket, arrived, thread })
    }

    /// When the first message came.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.look(|arrived| arrived.first)
    }

    pub(crate) fn look<T>(&self, of: impl FnOnce(&Arrived) -> T) -> T {
        of(&self.arrived.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends, and gives all that came.
    pub(crate) fn finish(self) -> Arrived {
        let _ = self.socket.shutdown(Shutdown::Both);
        let _ = self.thread.join();
        std::mem::take(&mut *self.arrived.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Arrived {
    fn take(&mut self, id: Option<u64>, now: Instant) {
        self.first = self.first.or(Some(now));
        self.count += 1;
        let Some(id) = id else { return };
        self.highest = self.highest.max(id);
        let Ok(index) = usize::try_from(id) else { return };
        if index >= self.at.len() {
            self.at.resize(index + 1, None);
        }
        match &mut self.at[index] {
            Some(_) => self.repeated += 1,
            empty => *empty = Some(now),
        }
    }

    /// When this row came.
    pub(crate) fn of(&self, id: u64) -> Option<Instant> {
        usize::try_from(id).ok().and_then(|index| *self.at.get(index)?)
    }
}

/// The id of the row that a message is about: of pgoutput as it came, or of any JSON that has it as a number.
fn row_id(body: &[u8]) -> Option<u64> {
    const KEY: &[u8] = b"\"id\":";
    if let Some(text) = first_column(body) {
        return std::str::from_utf8(text).ok()?.parse().ok();
    }
    let mut values = body.windows(KEY.len()).enumerate().filter(|(_, window)| *window == KEY);
    values.find_map(|(at, _)| number(&body[at + KEY.len()..]))
}

fn number(text: &[u8]) -> Option<u64> {
    let digits = text.trim_ascii_start();
    let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&digits[..length]).ok()?.parse().ok()
}

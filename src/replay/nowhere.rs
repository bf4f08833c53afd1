//! The broker of a dry run, and of `pgsluice tail`: takes every event, and sends it nowhere.
//!
//! So that it goes all the way that a replay goes, framing included, without a connection to RabbitMQ.

use std::task::{Context, Poll};

use crate::broker::{Broker, Channel, Reply, Turn};
use crate::failure::Failure;

/// The largest frame that RabbitMQ agrees to unless it is told otherwise.
const FRAME_MAX: usize = 131_072;
/// Type, channel, size (AMQP 0-9-1, §4.2.3), and the end octet after the payload.
const FRAME_HEADER_BYTES: usize = 7;
const FRAME_END_BYTES: usize = 1;
/// The type of the frame that begins a message; others carry its properties and its body.
const METHOD: u8 = 1;

/// Opens channels to nowhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nowhere {
    /// Larger events are refused, as the broker would.
    pub(crate) max_message_bytes: usize,
}

/// Confirms what it is given.
#[derive(Debug)]
pub(crate) struct NowhereChannel {
    max_message_bytes: usize,
    published: u64,
    confirmed: u64,
}

impl Broker for Nowhere {
    type Channel = NowhereChannel;

    fn open(&self) -> impl Future<Output = Result<NowhereChannel, Failure>> + Send + 'static {
        let channel = NowhereChannel { max_message_bytes: self.max_message_bytes, published: 0, confirmed: 0 };
        async move { Ok(channel) }
    }
}

impl Channel for NowhereChannel {
    /// Without output and with nothing to confirm it waits for whoever publishes, who polls again.
    fn poll_turn(&mut self, _: &mut Context<'_>, output: [&[u8]; 2]) -> Poll<Result<Turn, Failure>> {
        if output.iter().any(|slice| !slice.is_empty()) {
            let output = output.concat();
            self.published += messages(&output);
            return Poll::Ready(Ok(Turn::Wrote(output.len())));
        }
        if self.confirmed == self.published {
            return Poll::Pending;
        }
        self.confirmed = self.published;
        Poll::Ready(Ok(Turn::Reply(Reply::Ack { tag: self.published, multiple: true })))
    }

    fn frame_max(&self) -> usize {
        FRAME_MAX
    }

    fn max_message_bytes(&self) -> usize {
        self.max_message_bytes
    }

    async fn close(self) {}
}

/// How many messages begin in these frames, which are whole.
fn messages(mut frames: &[u8]) -> u64 {
    let mut count = 0;
    while let Some((header, rest)) = frames.split_first_chunk::<FRAME_HEADER_BYTES>() {
        count += u64::from(header[0] == METHOD);
        let payload = u32::from_be_bytes([header[3], header[4], header[5], header[6]]) as usize;
        frames = rest.get(payload + FRAME_END_BYTES..).unwrap_or_default();
    }
    count
}

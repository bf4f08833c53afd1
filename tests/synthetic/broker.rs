//! A broker that takes all bytes, and confirms what is in them at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use pgsluice::broker::{Broker, Channel, Reply, Turn};
use pgsluice::failure::Failure;

/// A frame's type, channel and size (AMQP 0-9-1 §4.2.3).
const HEADER_BYTES: usize = 7;
const METHOD: u8 = 1;

/// How many messages were confirmed, of all channels.
#[derive(Clone, Default)]
pub(super) struct NullBroker(pub(super) Arc<AtomicU64>);

pub(super) struct NullChannel {
    confirmed: Arc<AtomicU64>,
    frames: Frames,
    /// Delivery tags: of the last message that was taken, and of the last that was confirmed.
    taken: u64,
    acked: u64,
}

impl Broker for NullBroker {
    type Channel = NullChannel;

    fn open(&self) -> impl Future<Output = Result<NullChannel, Failure>> + Send + 'static {
        let confirmed = Arc::clone(&self.0);
        std::future::ready(Ok(NullChannel { confirmed, frames: Frames::default(), taken: 0, acked: 0 }))
    }
}

impl Channel for NullChannel {
    fn poll_turn(&mut self, _: &mut Context<'_>, output: [&[u8]; 2]) -> Poll<Result<Turn, Failure>> {
        if self.acked < self.taken {
            self.confirmed.fetch_add(self.taken - self.acked, Ordering::Relaxed);
            self.acked = self.taken;
            return Poll::Ready(Ok(Turn::Reply(Reply::Ack { tag: self.taken, multiple: true })));
        }
        let bytes = output[0].len() + output[1].len();
        if bytes == 0 {
            // What comes to be sent comes with a poll.
            return Poll::Pending;
        }
        for slice in output {
            self.taken += self.frames.methods(slice);
        }
        Poll::Ready(Ok(Turn::Wrote(bytes)))
    }

    fn frame_max(&self) -> usize {
        128 << 10
    }

    fn max_message_bytes(&self) -> usize {
        16 << 20
    }

    async fn close(self) {}
}

/// Finds the frames in a stream of bytes, wherever it is cut.
#[derive(Default)]
struct Frames {
    header: [u8; HEADER_BYTES],
    /// Bytes of the header that are there.
    have: usize,
    /// Bytes of payload and end octet that are still to come.
    left: usize,
}

impl Frames {
    /// How many method frames begin here: each is a publish.
    fn methods(&mut self, mut bytes: &[u8]) -> u64 {
        let mut methods = 0;
        loop {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
            let wanted = (HEADER_BYTES - self.have).min(bytes.len());
            if wanted == 0 {
                return methods;
            }
            let (head, rest) = bytes.split_at(wanted);
            self.header[self.have..self.have + wanted].copy_from_slice(head);
            self.have += wanted;
            bytes = rest;
            if self.have == HEADER_BYTES {
                let [kind, _, _, size @ ..] = self.header;
                methods += u64::from(kind == METHOD);
                (self.have, self.left) = (0, u32::from_be_bytes(size) as usize + 1);
            }
        }
    }
}

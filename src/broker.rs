//! Where events go: the trait in front of RabbitMQ, and what crosses it.
//!
//! It sits below all book-keeping (`rabbit::lane`), at one confirmed channel, so that the simulation
//! of the tests exercises the same confirms, rewinds and windows as the real broker does.

use std::task::{Context, Poll};

use crate::failure::Failure;

/// Opens confirmed channels.
pub trait Broker {
    /// An open channel on a connection of its own.
    type Channel: Channel;

    /// Connects to one of the hosts, declares the topology, opens a channel in confirm mode.
    ///
    /// The future owns what it needs, so that it can be kept across turns of the loop.
    fn open(&self) -> impl Future<Output = Result<Self::Channel, Failure>> + Send + 'static;
}

/// One channel in confirm mode; delivery tags count its publishes from 1.
pub trait Channel: Send + 'static {
    /// Writes as much of `output` as the connection takes now, or returns what the broker says,
    /// whichever comes first; the writer never blocks the reader. `output` is always whole AMQP
    /// frames for channel 1 (its two slices are one sequence of bytes); it may be empty.
    /// Keeps heartbeats going. Whatever it waits for is kept in the channel, so that many can be polled in turn.
    fn poll_turn(&mut self, cx: &mut Context<'_>, output: [&[u8]; 2]) -> Poll<Result<Turn, Failure>>;

    /// The largest frame the broker takes, in bytes, frame header and end included.
    fn frame_max(&self) -> usize;

    /// The largest message body the broker takes, in bytes.
    fn max_message_bytes(&self) -> usize;

    /// Says goodbye (Connection.Close, waits briefly for the answer). Everything must be settled.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// What a turn brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// So many bytes of the output are on their way.
    Wrote(usize),
    /// The broker said something.
    Reply(Reply),
}

/// What the broker says on a live channel. A channel or connection that it closes is a `Failure`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Every routed queue accepted the message (or all up to it).
    Ack {
        /// Delivery tag.
        tag: u64,
        /// All unsettled up to the tag, inclusive.
        multiple: bool,
    },
    /// Some queue refused or lost the message (or all up to it).
    Nack {
        /// Delivery tag.
        tag: u64,
        /// All unsettled up to the tag, inclusive.
        multiple: bool,
    },
    /// No queue took it. Comes before the same message's ack, and carries no tag.
    Returned(Box<Returned>),
    /// `connection.blocked`: memory or disk alarm; confirms stop until `Unblocked`.
    Blocked(String),
    /// `connection.unblocked`.
    Unblocked,
}

/// A message that came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Returned {
    /// AMQP reply code, 312 for `NO_ROUTE`.
    pub code: u16,
    /// The broker's words.
    pub text: String,
    /// Where it was published to.
    pub exchange: String,
    /// With which routing key.
    pub routing_key: String,
    /// The property that names the event.
    pub message_id: String,
}

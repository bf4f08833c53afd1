//! Bytes from the broker → frames, and what of them concerns a publisher.
//!
//! The frame's envelope is checked by hand before anything is parsed: type, size against `frame_max`, end octet.
//! Methods go through `amq-protocol`, and only those that a server may send to a publisher, so that no peer
//! chooses which parser runs. A returned message's header and body are gathered here to find its
//! `message_id`. Pure: `channel` and `handshake` do the reading.

use amq_protocol::frame::{AMQPFrame, parse_frame};
use amq_protocol::protocol::basic::AMQPMethod as Basic;
use amq_protocol::protocol::connection::AMQPMethod as Connection;
use amq_protocol::protocol::{AMQPClass, basic};

use super::wire::{CHANNEL, FRAME_END, FRAME_OVERHEAD};
use crate::broker::{Reply, Returned};

/// What a peer may send before the size is negotiated (`frame-min-size`, §1.2 of the generated reference).
pub(super) const FRAME_MIN: usize = 4096;

/// How deep tables may nest; RabbitMQ's `server-properties` hold one in another. The parser recurses, and a frame of
/// 4096 bytes is enough to overflow its stack.
const NESTING: usize = 8;

/// The broker broke the protocol: nothing it says on this connection can be relied upon any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("AMQP protocol violation by the broker: {0}")]
pub struct ProtocolError(pub String);

fn violation(what: impl Into<String>) -> ProtocolError {
    ProtocolError(what.into())
}

/// One thing the broker said.
#[derive(Debug, PartialEq)]
pub(super) enum Incoming {
    /// An answer to publishing.
    Reply(Reply),
    /// Any other method that a server may send: the handshake's, and the closing ones.
    Method(u16, AMQPClass),
}

/// The bytes that came and were not looked at yet, and a return that is not complete yet.
#[derive(Debug)]
pub(super) struct Inbox {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    frame_max: usize,
    gathering: Gathering,
}

/// A `basic.return` is a method, a content header and body frames (§4.2.6).
#[derive(Debug)]
enum Gathering {
    Nothing,
    Header(Box<Returned>),
    Body(Box<Returned>, u64),
}

impl Inbox {
    /// Reads frames of at most `capacity` bytes, once allowed to.
    pub(super) fn new(capacity: usize) -> Self {
        let buffer = vec![0; capacity.max(FRAME_MIN)].into_boxed_slice();
        Self { buffer, start: 0, end: 0, frame_max: FRAME_MIN, gathering: Gathering::Nothing }
    }

    /// From now on frames may be that large; never above the capacity.
    pub(super) fn set_frame_max(&mut self, frame_max: usize) {
        self.frame_max = frame_max.min(self.buffer.len());
    }

    /// Where the next bytes go; never empty once `next` returned nothing.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.buffer[self.end..]
    }

    /// So many bytes came into the space.
    pub(super) fn filled(&mut self, bytes: usize) {
        self.end += bytes;
    }

    /// The next thing that is there in whole; heartbeats and the bodies of returns are passed over.
    pub(super) fn next(&mut self) -> Result<Option<Incoming>, ProtocolError> {
        loop {
            let bytes = &self.buffer[self.start..self.end];
            let Some(size) = frame_size(bytes, self.frame_max)? else { return Ok(None) };
            let frame = Frame::parse(&bytes[..size])?;
            self.start += size;
            if let Some(incoming) = self.take(frame)? {
                return Ok(Some(incoming));
            }
        }
    }

    fn take(&mut self, frame: Frame) -> Result<Option<Incoming>, ProtocolError> {
        match (std::mem::replace(&mut self.gathering, Gathering::Nothing), frame) {
            // Heartbeats of channel 0 may come between the frames of a content.
            (gathering, Frame::Heartbeat) => {
                self.gathering = gathering;
                Ok(None)
            }
            // So may what else concerns the connection as a whole.
            (gathering, Frame::Method(0, method)) => {
                self.gathering = gathering;
                Ok(Some(connection_method(method)))
            }
            (Gathering::Nothing, Frame::Method(CHANNEL, AMQPClass::Basic(Basic::Return(method)))) => {
                self.gathering = Gathering::Header(Box::new(begin_return(method)));
                Ok(None)
            }
            (Gathering::Nothing, Frame::Method(CHANNEL, method)) => Ok(Some(channel_method(method))),
            (Gathering::Header(mut returned), Frame::ContentHeader { message_id, body_size }) => {
                returned.message_id = message_id;
                Ok(self.gather(returned, body_size))
            }
            (Gathering::Body(returned, left), Frame::Body(bytes)) => {
                let left = left.checked_sub(bytes).ok_or_else(|| violation("a body longer than announced"))?;
                Ok(self.gather(returned, left))
            }
            (_, frame) => Err(violation(format!("unexpected {}", frame.name()))),
        }
    }

    fn gather(&mut self, returned: Box<Returned>, left: u64) -> Option<Incoming> {
        if left == 0 {
            return Some(Incoming::Reply(Reply::Returned(returned)));
        }
        self.gathering = Gathering::Body(returned, left);
        None
    }
}

/// The size of the frame at the front, envelope included; `None` while its header is incomplete, or the rest.
fn frame_size(bytes: &[u8], frame_max: usize) -> Result<Option<usize>, ProtocolError> {
    // A server that does not speak 0-9-1, or expects TLS, answers the greeting with its own (§4.2.2).
    if bytes.starts_with(b"AMQP") {
        return Err(violation("it does not speak AMQP 0-9-1"));
    }
    let Some(&kind) = bytes.first() else { return Ok(None) };
    if !matches!(kind, 1 | 2 | 3 | 8 | b'A') {
        return Err(violation(format!("frame type {kind}; is this an AMQP port?")));
    }
    let Some((header, _)) = bytes.split_first_chunk::<7>() else { return Ok(None) };
    let declared = u32::from_be_bytes([header[3], header[4], header[5], header[6]]);
    let size = usize::try_from(declared).ok().and_then(|size| size.checked_add(FRAME_OVERHEAD));
    let size = size.filter(|size| *size <= frame_max);
    let size = size.ok_or_else(|| violation(format!("a frame of {declared} bytes; agreed were {frame_max}")))?;
    match bytes.get(size - 1) {
        None => Ok(None),
        Some(&FRAME_END) => Ok(Some(size)),
        Some(_) => Err(violation("a frame without its end octet")),
    }
}

enum Frame {
    Heartbeat,
    Method(u16, AMQPClass),
    ContentHeader { message_id: String, body_size: u64 },
    Body(u64),
}

impl Frame {
    /// `bytes` is one frame whose envelope was checked.
    fn parse(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let channel = u16::from_be_bytes([bytes[1], bytes[2]]);
        let payload = &bytes[7..bytes.len() - 1];
        match (bytes[0], channel) {
            (8, 0) => Ok(Self::Heartbeat),
            (1, 0 | CHANNEL) => parse_method(bytes, channel, payload),
            (2, CHANNEL) => parse_content_header(payload).ok_or_else(|| violation("a broken content header")),
            (3, CHANNEL) => Ok(Self::Body(payload.len() as u64)),
            (kind, channel) => Err(violation(format!("a frame of type {kind} on channel {channel}"))),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Heartbeat => "heartbeat".into(),
            Self::Method(channel, method) => format!("method {} on channel {channel}", method_name(method)),
            Self::ContentHeader { .. } => "content header".into(),
            Self::Body(_) => "body".into(),
        }
    }
}

fn parse_method(frame: &[u8], channel: u16, payload: &[u8]) -> Result<Frame, ProtocolError> {
    let Some(([class0, class1, method0, method1], _)) = payload.split_first_chunk() else {
        return Err(violation("a method without its number"));
    };
    let id = (u16::from_be_bytes([*class0, *class1]), u16::from_be_bytes([*method0, *method1]));
    // What a server sends to a client that only publishes (§1.3 and §1.8 of the generated reference, and
    // RabbitMQ's extensions): of these, only connection.start holds a table.
    let expected = match id {
        (10, 10) => channel == 0 && payload.get(6..).is_some_and(|tables| nests_little(tables, NESTING)),
        (10, 20 | 30 | 41 | 50 | 51 | 60 | 61) => channel == 0,
        (20, 11 | 20 | 40 | 41) | (85, 11) | (60, 50 | 80 | 120) => channel != 0,
        _ => false,
    };
    if !expected {
        return Err(violation(format!("unexpected method {}.{} on channel {channel}", id.0, id.1)));
    }
    match parse_frame(frame) {
        Ok((_, AMQPFrame::Method(channel, method))) => Ok(Frame::Method(channel, method)),
        Ok(_) | Err(_) => Err(violation(format!("method {}.{} can't be read", id.0, id.1))),
    }
}

/// Whether the table or array at the front of `bytes` nests at most `depth` deep (§4.2.5.5). The parser checks the rest.
fn nests_little(bytes: &[u8], depth: usize) -> bool {
    let Some((size, rest)) = bytes.split_first_chunk() else { return true };
    let Some(table) = rest.get(..u32::from_be_bytes(*size) as usize) else { return true };
    depth > 0 && fields_nest_little(table, depth - 1).unwrap_or(false)
}

/// `None` when a field can't be told from the next one.
fn fields_nest_little(mut fields: &[u8], depth: usize) -> Option<bool> {
    while let Some((&name, rest)) = fields.split_first() {
        let (&kind, value) = rest.get(usize::from(name)..)?.split_first()?;
        let length = match kind {
            b'V' => 0,
            b't' | b'b' | b'B' => 1,
            b's' | b'U' | b'u' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'L' | b'l' | b'd' | b'T' => 8,
            b'S' | b'x' => 4 + u32::from_be_bytes(*value.first_chunk()?) as usize,
            b'F' => {
                if !nests_little(value, depth) {
                    return Some(false);
                }
                4 + u32::from_be_bytes(*value.first_chunk()?) as usize
            }
            // An array's values have no names; RabbitMQ sends none in `connection.start`.
            _ => return None,
        };
        fields = value.get(length..)?;
    }
    Some(true)
}

/// Finds the `message_id` (§4.2.6.1) without looking into the header table.
fn parse_content_header(payload: &[u8]) -> Option<Frame> {
    let (fixed, mut rest) = payload.split_first_chunk::<14>()?;
    let body_size = u64::from_be_bytes(fixed[4..12].try_into().ok()?);
    let flags = u16::from_be_bytes([fixed[12], fixed[13]]);
    let mut message_id = String::new();
    // content-type, content-encoding, headers, delivery-mode, priority, correlation-id, reply-to, expiration, message-id
    for bit in (7..=15).rev().filter(|bit| flags & 1 << bit != 0) {
        let length = match bit {
            13 => 4 + u32::from_be_bytes(*rest.first_chunk()?) as usize,
            11 | 12 => 1,
            _ => 1 + usize::from(*rest.first()?),
        };
        let (field, after) = rest.split_at_checked(length)?;
        if bit == 7 {
            message_id = String::from_utf8_lossy(&field[1..]).into_owned();
        }
        rest = after;
    }
    Some(Frame::ContentHeader { message_id, body_size })
}

fn begin_return(method: basic::Return) -> Returned {
    Returned {
        code: method.reply_code,
        text: method.reply_text.into(),
        exchange: method.exchange.into(),
        routing_key: method.routing_key.into(),
        message_id: String::new(),
    }
}

fn connection_method(method: AMQPClass) -> Incoming {
    match method {
        AMQPClass::Connection(Connection::Blocked(blocked)) => Incoming::Reply(Reply::Blocked(blocked.reason.into())),
        AMQPClass::Connection(Connection::Unblocked(_)) => Incoming::Reply(Reply::Unblocked),
        other => Incoming::Method(0, other),
    }
}

fn channel_method(method: AMQPClass) -> Incoming {
    match method {
        AMQPClass::Basic(Basic::Ack(ack)) => {
            Incoming::Reply(Reply::Ack { tag: ack.delivery_tag, multiple: ack.multiple })
        }
        AMQPClass::Basic(Basic::Nack(nack)) => {
            Incoming::Reply(Reply::Nack { tag: nack.delivery_tag, multiple: nack.multiple })
        }
        other => Incoming::Method(CHANNEL, other),
    }
}

/// Class and method, without the fields: they could be long, or secret.
pub(super) fn method_name(method: &AMQPClass) -> String {
    let debug = format!("{method:?}");
    debug.split([' ', '{']).next().unwrap_or_default().trim_end_matches('(').to_owned()
}

#[cfg(test)]
mod tests {
    use amq_protocol::frame::{AMQPContentHeader, WriteContext, gen_frame};
    use amq_protocol::protocol::basic::{AMQPProperties, Ack, Return};
    use proptest::prelude::*;

    use super::*;

    fn encode(frame: &AMQPFrame) -> Vec<u8> {
        let mut bytes = vec![0; 8192];
        let written = gen_frame(frame)(WriteContext::from(std::io::Cursor::new(bytes.as_mut_slice())));
        let length = usize::try_from(written.expect("room").position).expect("small");
        bytes.truncate(length);
        bytes
    }

    fn returned() -> Vec<u8> {
        let method =
            Return { reply_code: 312, reply_text: "NO_ROUTE".into(), exchange: "e".into(), routing_key: "k".into() };
        let mut headers = amq_protocol::types::FieldTable::default();
        headers.insert("lsn".into(), amq_protocol::types::AMQPValue::LongString("0/1".into()));
        let properties = AMQPProperties::default()
            .with_content_type("application/json".into())
            .with_headers(headers)
            .with_delivery_mode(2)
            .with_priority(1)
            .with_correlation_id("c".into())
            .with_message_id("m1".into())
            .with_app_id("a".into());
        let header = AMQPContentHeader { class_id: 60, body_size: 5, properties };
        [
            AMQPFrame::Method(CHANNEL, AMQPClass::Basic(Basic::Return(method))),
            AMQPFrame::Header(CHANNEL, header),
            AMQPFrame::Body(CHANNEL, b"hel".to_vec()),
            AMQPFrame::Heartbeat,
            AMQPFrame::Body(CHANNEL, b"lo".to_vec()),
        ]
        .iter()
        .flat_map(encode)
        .collect()
    }

    fn ack(tag: u64) -> Vec<u8> {
        let ack = Ack { delivery_tag: tag, multiple: true };
        encode(&AMQPFrame::Method(CHANNEL, AMQPClass::Basic(Basic::Ack(ack))))
    }

    /// Feeds in pieces of `step` bytes; what came out.
    fn feed(inbox: &mut Inbox, mut bytes: &[u8], step: usize) -> Result<Vec<Incoming>, ProtocolError> {
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let space = inbox.space();
            let taken = step.min(bytes.len()).min(space.len());
            assert!(taken > 0, "no room for a frame that is allowed");
            space[..taken].copy_from_slice(&bytes[..taken]);
            inbox.filled(taken);
            bytes = &bytes[taken..];
            while let Some(incoming) = inbox.next()? {
                out.push(incoming);
            }
        }
        Ok(out)
    }

    #[test]
    fn replies_come_out_whole_however_the_bytes_come_in() {
        let mut bytes = returned();
        for tag in 0..1000 {
            bytes.extend(ack(tag));
        }
        let whole = Returned {
            code: 312,
            text: "NO_ROUTE".into(),
            exchange: "e".into(),
            routing_key: "k".into(),
            message_id: "m1".into(),
        };
        for step in [1, 2, 7, 100, 4096, 100_000] {
            let out = feed(&mut Inbox::new(0), &bytes, step).expect("good frames");
            assert_eq!(out.len(), 1001, "{step}");
            assert_eq!(out[0], Incoming::Reply(Reply::Returned(Box::new(whole.clone()))));
            assert_eq!(out[1000], Incoming::Reply(Reply::Ack { tag: 999, multiple: true }));
        }
    }

    #[test]
    fn what_a_server_must_not_send_is_an_error() {
        let mut cut = returned();
        cut.truncate(cut.len() - 10 - 8 - 11);
        cut.extend(ack(1));
        let publish = basic::Publish::default();
        for bytes in [
            cut,
            encode(&AMQPFrame::Method(CHANNEL, AMQPClass::Basic(Basic::Publish(publish)))),
            encode(&AMQPFrame::Body(CHANNEL, vec![1])),
            encode(&AMQPFrame::Method(2, AMQPClass::Basic(Basic::Ack(Ack::default())))),
            vec![1, 0, 1, 0, 0, 0x10, 0],
            vec![9],
        ] {
            assert!(feed(&mut Inbox::new(0), &bytes, 4096).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn deep_tables_are_refused_before_they_are_parsed() {
        let mut table: Vec<u8> = Vec::new();
        for depth in 1..600_usize {
            let framed = [&u32::try_from(table.len()).expect("small").to_be_bytes(), table.as_slice()].concat();
            assert_eq!(nests_little(&framed, NESTING), depth <= NESTING, "{depth}");
            table = [b"\x00F".as_slice(), &framed].concat();
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), step in 1..50_usize) {
            let _ = feed(&mut Inbox::new(0), &bytes, step);
        }

        #[test]
        fn no_payload_makes_it_panic(
            kind in 1..4_u8,
            id in prop_oneof![
                Just([0, 10, 0, 10]), Just([0, 10, 0, 50]), Just([0, 60, 0, 50]), Just([0, 60, 0, 80]),
            ],
            rest in proptest::collection::vec(any::<u8>(), 0..200),
            channel in 0..2_u8,
        ) {
            let payload = [id.as_slice(), &rest].concat();
            let size = u32::try_from(payload.len()).expect("small").to_be_bytes();
            let frame = [&[kind, 0, channel], size.as_slice(), &payload, &[FRAME_END]].concat();
            let mut inbox = Inbox::new(0);
            let _ = feed(&mut inbox, &returned()[..30], 30);
            let _ = feed(&mut inbox, &frame, 4096);
        }
    }
}

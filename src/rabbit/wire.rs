//! The frames of one publish, appended to the outgoing bytes without an allocation. What is before the body goes there in one
//! piece: each piece costs a look at where the ring wraps.
//!
//! Written by hand, in the field order of AMQP 0-9-1 (sections named below); the tests read it back with
//! `amq-protocol`. Invariant: an error leaves the output as it was. `lane` calls this; `inbox` is the other direction.

use std::collections::VecDeque;

use crate::encode::message::{Message, Properties};

/// The only channel that is opened.
pub const CHANNEL: u16 = 1;
/// Type, channel and size before the payload, the end octet after it (§4.2.3).
pub const FRAME_OVERHEAD: usize = 8;
/// Frame types and end octet (§4.2.3).
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
pub(super) const FRAME_END: u8 = 0xCE;
/// Class `basic`, its method `publish` (§1.8.3.7 of the generated reference), the bit `mandatory`.
const BASIC: u16 = 60;
const PUBLISH: u16 = 40;
const MANDATORY: u8 = 1;
/// Flags of the properties that every event has (§4.2.6.1), highest bit first: content-type 15, headers 13, delivery-mode
/// 12, message-id 7, type 5, app-id 3.
const FLAGS: u16 = 1 << 15 | 1 << 13 | 1 << 12 | 1 << 7 | 1 << 5 | 1 << 3;
/// And of those that it may have.
const CONTENT_ENCODING: u16 = 1 << 14;
const PRIORITY: u16 = 1 << 11;
const CORRELATION_ID: u16 = 1 << 10;
const REPLY_TO: u16 = 1 << 9;
const EXPIRATION: u16 = 1 << 8;
const TIMESTAMP: u16 = 1 << 6;
const PERSISTENT: u8 = 2;
/// Where the exchange's length octet stands in the frames: after the frame header (7), class and method (4),
/// and the reserved short (2).
pub(super) const EXCHANGE_AT: usize = 13;

/// Why a message can't be framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// An AMQP short string holds at most 255 bytes (§4.2.5.3).
    #[error("the {field} is {bytes} bytes long; AMQP takes at most 255")]
    TooLong {
        /// Which field.
        field: &'static str,
        /// How long it is.
        bytes: usize,
    },
    /// All properties and headers must fit one frame (§4.2.6.1).
    #[error("properties and headers take {bytes} bytes; the broker takes at most {limit}")]
    HeaderTooLarge {
        /// Of the frame.
        bytes: usize,
        /// The negotiated `frame_max`.
        limit: usize,
    },
}

/// Where a framed publish holds what names it, and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Framed {
    /// All frames, in bytes.
    pub(super) bytes: usize,
    /// Offset of the `message_id`'s length octet.
    pub(super) message_id_at: usize,
}

/// Appends `basic.publish`, the content header and the body's frames; `frame_max` counts a whole frame. `head` is overwritten.
pub(super) fn publish(
    out: &mut VecDeque<u8>,
    head: &mut Vec<u8>,
    message: &Message<'_>,
    frame_max: usize,
) -> Result<Framed, FrameError> {
    let Message { exchange, routing_key, properties, body } = message;
    check("exchange name", exchange)?;
    check("routing key", routing_key)?;
    let payload = measure(properties)?;
    if payload + FRAME_OVERHEAD > frame_max {
        return Err(FrameError::HeaderTooLarge { bytes: payload + FRAME_OVERHEAD, limit: frame_max });
    }

    let start = out.len();
    head.clear();
    frame(head, METHOD, 2 + 2 + 2 + 1 + exchange.len() + 1 + routing_key.len() + 1);
    head.extend_from_slice(&BASIC.to_be_bytes());
    head.extend_from_slice(&PUBLISH.to_be_bytes());
    head.extend_from_slice(&[0, 0]);
    short_string(head, exchange);
    short_string(head, routing_key);
    head.extend_from_slice(&[MANDATORY, FRAME_END]);

    frame(head, HEADER, payload);
    head.extend_from_slice(&BASIC.to_be_bytes());
    head.extend_from_slice(&[0, 0]);
    head.extend_from_slice(&(body.len() as u64).to_be_bytes());
    let table = properties.headers.bytes();
    head.extend_from_slice(&flags(properties).to_be_bytes());
    short_string(head, properties.content_type);
    optional(head, properties.content_encoding);
    head.extend_from_slice(&size(table.len()).to_be_bytes());
    head.extend_from_slice(table);
    head.push(PERSISTENT);
    head.extend_from_slice(properties.priority.as_slice());
    optional(head, properties.correlation_id);
    optional(head, properties.reply_to);
    optional(head, properties.expiration);
    let message_id_at = head.len();
    short_string(head, properties.message_id);
    if let Some(timestamp_s) = properties.timestamp_s {
        head.extend_from_slice(&timestamp_s.to_be_bytes());
    }
    short_string(head, properties.event_type);
    short_string(head, properties.app_id);
    head.push(FRAME_END);

    for chunk in body.chunks((frame_max - FRAME_OVERHEAD).max(1)) {
        frame(head, BODY, chunk.len());
        out.extend(&*head);
        out.extend(chunk);
        head.clear();
        head.push(FRAME_END);
    }
    out.extend(&*head);
    Ok(Framed { bytes: out.len() - start, message_id_at })
}

fn flags(properties: &Properties<'_>) -> u16 {
    let optional = [
        (CONTENT_ENCODING, !properties.content_encoding.is_empty()),
        (PRIORITY, properties.priority.is_some()),
        (CORRELATION_ID, !properties.correlation_id.is_empty()),
        (REPLY_TO, !properties.reply_to.is_empty()),
        (EXPIRATION, !properties.expiration.is_empty()),
        (TIMESTAMP, properties.timestamp_s.is_some()),
    ];
    optional.into_iter().filter(|(_, is_there)| *is_there).fold(FLAGS, |flags, (flag, _)| flags | flag)
}

/// Checks every length; returns the size of the content header's payload.
fn measure(properties: &Properties<'_>) -> Result<usize, FrameError> {
    let Properties {
        content_type,
        content_encoding,
        headers,
        priority,
        correlation_id,
        reply_to,
        expiration,
        message_id,
        timestamp_s,
        event_type,
        app_id,
    } = properties;
    let required =
        [("content_type", content_type), ("message_id", message_id), ("type", event_type), ("app_id", app_id)];
    let optional = [
        ("content_encoding", content_encoding),
        ("correlation_id", correlation_id),
        ("reply_to", reply_to),
        ("expiration", expiration),
    ];
    // Class, weight, body size, flags; table size, delivery mode, priority, timestamp.
    let fixed = 2 + 2 + 8 + 2 + 4 + 1 + priority.map_or(0, |_| 1) + timestamp_s.map_or(0, |_| 8);
    let mut payload = fixed + headers.bytes().len();
    for (field, text) in required.into_iter().chain(optional.into_iter().filter(|(_, text)| !text.is_empty())) {
        check(field, text)?;
        payload += 1 + text.len();
    }
    Ok(payload)
}

fn check(field: &'static str, text: &str) -> Result<(), FrameError> {
    if text.len() > 255 { Err(FrameError::TooLong { field, bytes: text.len() }) } else { Ok(()) }
}

fn frame(out: &mut Vec<u8>, kind: u8, payload: usize) {
    out.push(kind);
    out.extend_from_slice(&CHANNEL.to_be_bytes());
    out.extend_from_slice(&size(payload).to_be_bytes());
}

/// Payloads and tables are bounded by `frame_max`, which crosses the wire as 32 bits.
fn size(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("bounded by frame_max")
}

fn short_string(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).expect("checked to be at most 255"));
    out.extend_from_slice(text.as_bytes());
}

/// One that is left out when it is empty.
fn optional(out: &mut Vec<u8>, text: &str) {
    if !text.is_empty() {
        short_string(out, text);
    }
}

#[cfg(test)]
mod tests {
    use amq_protocol::frame::{AMQPFrame, parse_frame};
    use amq_protocol::protocol::{AMQPClass, basic};
    use amq_protocol::types::AMQPValue;

    use super::*;
    use crate::encode::message::{Header, HeaderTable};

    fn headers() -> HeaderTable {
        [("lsn", Header::Text("16/B374D848")), ("ordinal", Header::Int(-3)), ("last", Header::Bool(true))]
            .into_iter()
            .collect()
    }

    fn properties(headers: &HeaderTable) -> Properties<'_> {
        Properties {
            message_id: "shop:16/B374D848:3",
            event_type: "OrderPaid",
            app_id: "shop",
            content_type: "application/json",
            timestamp_s: Some(1_700_000_000),
            headers: headers.all(),
            ..Default::default()
        }
    }

    fn message<'a>(properties: Properties<'a>, body: &'a [u8]) -> Message<'a> {
        Message { exchange: "domain.events", routing_key: "order.paid", properties, body }
    }

    fn read_back(out: &mut VecDeque<u8>) -> Vec<AMQPFrame> {
        let mut rest: &[u8] = out.make_contiguous();
        let mut frames = Vec::new();
        while !rest.is_empty() {
            let (after, frame) = parse_frame(rest).expect("a whole frame");
            frames.push(frame);
            rest = after;
        }
        frames
    }

    #[test]
    fn amq_protocol_reads_back_what_was_written() {
        let (mut out, table) = (VecDeque::new(), headers());
        let written = publish(&mut out, &mut Vec::new(), &message(properties(&table), b"hello"), 4096).expect("frames");
        assert_eq!(written.bytes, out.len());
        assert_eq!(out[EXCHANGE_AT] as usize, "domain.events".len());
        assert_eq!(out[written.message_id_at] as usize, "shop:16/B374D848:3".len());
        let frames = read_back(&mut out);
        let [AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Publish(method))), header, body] =
            frames.as_slice()
        else {
            panic!("{frames:?}")
        };
        assert_eq!((method.exchange.as_str(), method.routing_key.as_str()), ("domain.events", "order.paid"));
        assert!(method.mandatory && !method.immediate);
        let AMQPFrame::Header(1, header) = header else { panic!("{header:?}") };
        assert_eq!((header.class_id, header.body_size), (60, 5));
        let properties = &header.properties;
        assert_eq!(properties.content_type().as_ref().map(ToString::to_string), Some("application/json".into()));
        assert_eq!(properties.delivery_mode(), &Some(2));
        assert_eq!(properties.message_id().as_ref().map(ToString::to_string), Some("shop:16/B374D848:3".into()));
        assert_eq!(properties.timestamp(), &Some(1_700_000_000));
        assert_eq!(properties.kind().as_ref().map(ToString::to_string), Some("OrderPaid".into()));
        assert_eq!(properties.app_id().as_ref().map(ToString::to_string), Some("shop".into()));
        let headers = properties.headers().as_ref().expect("headers").inner();
        assert_eq!(headers["lsn"], AMQPValue::LongString("16/B374D848".into()));
        assert_eq!(headers["ordinal"], AMQPValue::LongLongInt(-3));
        assert_eq!(headers["last"], AMQPValue::Boolean(true));
        assert_eq!(headers.len(), 3);
        assert_eq!(body, &AMQPFrame::Body(1, b"hello".to_vec()));
    }

    /// Each is there or not, and none moves another.
    #[test]
    fn what_is_empty_is_left_out() {
        let table = headers();
        for there in 0..64_u8 {
            let is = |bit: u8| there & 1 << bit != 0;
            let text = |bit: u8, text: &'static str| if is(bit) { text } else { "" };
            let written = Properties {
                content_encoding: text(0, "gzip"),
                priority: is(1).then_some(7),
                correlation_id: text(2, "cause"),
                reply_to: text(3, "answers"),
                expiration: text(4, "60000"),
                timestamp_s: is(5).then_some(1_700_000_000),
                ..properties(&table)
            };
            let mut out = VecDeque::new();
            let place = publish(&mut out, &mut Vec::new(), &message(written, b""), 4096).expect("frames");
            assert_eq!(out[place.message_id_at] as usize, written.message_id.len());
            let frames = read_back(&mut out);
            let [_, AMQPFrame::Header(1, header)] = frames.as_slice() else { panic!("{frames:?}") };
            let read = &header.properties;
            let texts = [read.content_encoding(), read.correlation_id(), read.reply_to(), read.expiration()];
            let texts = texts.map(|text| text.as_ref().map_or("", |text| text.as_str()));
            let expected = [written.content_encoding, written.correlation_id, written.reply_to, written.expiration];
            assert_eq!(texts, expected);
            assert_eq!((read.priority(), read.timestamp()), (&written.priority, &written.timestamp_s));
            assert_eq!(read.kind().as_ref().map(ToString::to_string), Some("OrderPaid".into()));
            assert_eq!(read.app_id().as_ref().map(ToString::to_string), Some("shop".into()));
        }
    }

    #[test]
    fn a_body_is_split_so_that_each_frame_fits_and_an_empty_one_has_no_frame() {
        let frame_max = 512;
        for length in [0_usize, 1, 504, 505, 1008, 5000] {
            let body: Vec<u8> = (0..length).map(|index| u8::try_from(index % 251).expect("small")).collect();
            let mut out = VecDeque::new();
            publish(&mut out, &mut Vec::new(), &message(Properties::default(), &body), frame_max).expect("frames");
            let frames = read_back(&mut out);
            let mut gathered = Vec::new();
            for frame in &frames[2..] {
                let AMQPFrame::Body(1, bytes) = frame else { panic!("{frame:?}") };
                assert!(bytes.len() + FRAME_OVERHEAD <= frame_max && !bytes.is_empty());
                gathered.extend_from_slice(bytes);
            }
            assert_eq!(gathered, body);
            assert_eq!(frames.len() - 2, length.div_ceil(504));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_and_leaves_nothing_behind() {
        let long = "x".repeat(256);
        let properties = Properties::default();
        let good = message(properties, b"");
        let too_long = |field| Err(FrameError::TooLong { field, bytes: 256 });
        let mut out = VecDeque::from(vec![7]);
        let mut refused = |message: &Message<'_>| publish(&mut out, &mut Vec::new(), message, 4096);
        assert_eq!(refused(&Message { exchange: &long, ..good }), too_long("exchange name"));
        assert_eq!(refused(&Message { routing_key: &long, ..good }), too_long("routing key"));
        let with = |properties| Message { properties, ..good };
        assert_eq!(refused(&with(Properties { message_id: &long, ..properties })), too_long("message_id"));
        assert_eq!(refused(&with(Properties { event_type: &long, ..properties })), too_long("type"));
        assert_eq!(refused(&with(Properties { app_id: &long, ..properties })), too_long("app_id"));
        assert_eq!(refused(&with(Properties { content_type: &long, ..properties })), too_long("content_type"));
        assert_eq!(refused(&with(Properties { content_encoding: &long, ..properties })), too_long("content_encoding"));
        assert_eq!(refused(&with(Properties { correlation_id: &long, ..properties })), too_long("correlation_id"));
        assert_eq!(refused(&with(Properties { reply_to: &long, ..properties })), too_long("reply_to"));
        assert_eq!(refused(&with(Properties { expiration: &long, ..properties })), too_long("expiration"));
        let large = "x".repeat(5000);
        let table: HeaderTable = [("k", Header::Text(&large))].into_iter().collect();
        let error = refused(&with(Properties { headers: table.all(), ..properties })).expect_err("too large");
        assert!(matches!(error, FrameError::HeaderTooLarge { limit: 4096, .. }), "{error}");
        assert_eq!(out, [7]);
    }

    #[test]
    fn a_header_frame_fits_exactly_or_not_at_all() {
        let table = headers();
        let properties = properties(&table);
        let payload = measure(&properties).expect("fits");
        let fits =
            |frame_max| publish(&mut VecDeque::new(), &mut Vec::new(), &message(properties, b"x"), frame_max).is_ok();
        assert!(fits(payload + FRAME_OVERHEAD));
        assert!(!fits(payload + FRAME_OVERHEAD - 1));
    }
}

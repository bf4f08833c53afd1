//! The frames of one publish, appended to the outgoing bytes without an allocation.
//!
//! Written by hand, in the field order of AMQP 0-9-1 (sections named below); the tests read it back with
//! `amq-protocol`. Invariant: an error leaves the output as it was. `lane` calls this; `inbox` is the other direction.

use std::collections::VecDeque;

use crate::encode::message::{Header, Message, Properties};

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
/// Property flags (§4.2.6.1), highest bit first: content-type 15, headers 13, delivery-mode 12, message-id 7,
/// type 5, app-id 3; timestamp 6 if there is one.
const FLAGS: u16 = 1 << 15 | 1 << 13 | 1 << 12 | 1 << 7 | 1 << 5 | 1 << 3;
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

/// Appends `basic.publish`, the content header and the body's frames; `frame_max` counts a whole frame.
pub(super) fn publish(out: &mut VecDeque<u8>, message: &Message<'_>, frame_max: usize) -> Result<Framed, FrameError> {
    let Message { exchange, routing_key, properties, body } = message;
    check("exchange name", exchange)?;
    check("routing key", routing_key)?;
    let (table, payload) = measure(properties)?;
    if payload + FRAME_OVERHEAD > frame_max {
        return Err(FrameError::HeaderTooLarge { bytes: payload + FRAME_OVERHEAD, limit: frame_max });
    }

    let start = out.len();
    frame(out, METHOD, 2 + 2 + 2 + 1 + exchange.len() + 1 + routing_key.len() + 1);
    out.extend(&BASIC.to_be_bytes());
    out.extend(&PUBLISH.to_be_bytes());
    out.extend(&[0, 0]);
    short_string(out, exchange);
    short_string(out, routing_key);
    out.extend(&[MANDATORY, FRAME_END]);

    frame(out, HEADER, payload);
    out.extend(&BASIC.to_be_bytes());
    out.extend(&[0, 0]);
    out.extend(&(body.len() as u64).to_be_bytes());
    let timestamp = properties.timestamp_s;
    out.extend(&(FLAGS | timestamp.map_or(0, |_| TIMESTAMP)).to_be_bytes());
    short_string(out, properties.content_type);
    out.extend(&size(table).to_be_bytes());
    for (name, value) in properties.headers {
        header(out, name, *value);
    }
    out.extend(&[PERSISTENT]);
    let message_id_at = out.len() - start;
    short_string(out, properties.message_id);
    if let Some(timestamp_s) = timestamp {
        out.extend(&timestamp_s.to_be_bytes());
    }
    short_string(out, properties.event_type);
    short_string(out, properties.app_id);
    out.extend(&[FRAME_END]);

    for chunk in body.chunks((frame_max - FRAME_OVERHEAD).max(1)) {
        frame(out, BODY, chunk.len());
        out.extend(chunk);
        out.extend(&[FRAME_END]);
    }
    Ok(Framed { bytes: out.len() - start, message_id_at })
}

/// Checks every length; returns the header table's size and the content header's payload size.
fn measure(properties: &Properties<'_>) -> Result<(usize, usize), FrameError> {
    let Properties { message_id, event_type, app_id, content_type, timestamp_s, headers } = properties;
    let texts = [("content_type", content_type), ("message_id", message_id), ("type", event_type), ("app_id", app_id)];
    // Class, weight, body size, flags; table size, delivery mode, timestamp.
    let mut payload = 2 + 2 + 8 + 2 + 4 + 1 + timestamp_s.map_or(0, |_| 8);
    for (field, text) in texts {
        check(field, text)?;
        payload += 1 + text.len();
    }
    let mut table = 0;
    for (name, value) in *headers {
        check("name of a header", name)?;
        let value = match value {
            Header::Text(text) => 4 + text.len(),
            Header::Int(_) => 8,
        };
        table += 1 + name.len() + 1 + value;
    }
    Ok((table, payload + table))
}

fn check(field: &'static str, text: &str) -> Result<(), FrameError> {
    if text.len() > 255 { Err(FrameError::TooLong { field, bytes: text.len() }) } else { Ok(()) }
}

fn frame(out: &mut VecDeque<u8>, kind: u8, payload: usize) {
    out.extend(&[kind]);
    out.extend(&CHANNEL.to_be_bytes());
    out.extend(&size(payload).to_be_bytes());
}

/// Payloads and tables are bounded by `frame_max`, which crosses the wire as 32 bits.
fn size(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("bounded by frame_max")
}

fn short_string(out: &mut VecDeque<u8>, text: &str) {
    out.extend(&[u8::try_from(text.len()).expect("checked to be at most 255")]);
    out.extend(text.as_bytes());
}

/// One field of a table: name, type, value (§4.2.5.5; `S` and `l` as RabbitMQ reads them).
fn header(out: &mut VecDeque<u8>, name: &str, value: Header<'_>) {
    short_string(out, name);
    match value {
        Header::Text(text) => {
            out.extend(b"S");
            out.extend(&size(text.len()).to_be_bytes());
            out.extend(text.as_bytes());
        }
        Header::Int(number) => {
            out.extend(b"l");
            out.extend(&number.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use amq_protocol::frame::{AMQPFrame, parse_frame};
    use amq_protocol::protocol::{AMQPClass, basic};
    use amq_protocol::types::AMQPValue;

    use super::*;

    const PROPERTIES: Properties<'_> = Properties {
        message_id: "shop:16/B374D848:3",
        event_type: "OrderPaid",
        app_id: "shop",
        content_type: "application/json",
        timestamp_s: Some(1_700_000_000),
        headers: &[("lsn", Header::Text("16/B374D848")), ("ordinal", Header::Int(-3)), ("", Header::Text(""))],
    };

    fn message(body: &[u8]) -> Message<'_> {
        Message { exchange: "domain.events", routing_key: "order.paid", properties: PROPERTIES, body }
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
        let mut out = VecDeque::new();
        let written = publish(&mut out, &message(b"hello"), 4096).expect("frames");
        assert_eq!(written.bytes, out.len());
        assert_eq!(out[EXCHANGE_AT] as usize, "domain.events".len());
        assert_eq!(out[written.message_id_at] as usize, PROPERTIES.message_id.len());
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
        assert_eq!(headers.len(), 3);
        assert_eq!(body, &AMQPFrame::Body(1, b"hello".to_vec()));
    }

    #[test]
    fn without_a_timestamp_the_properties_around_it_are_the_same() {
        let properties = Properties { timestamp_s: None, ..PROPERTIES };
        let mut out = VecDeque::new();
        publish(&mut out, &Message { properties, ..message(b"") }, 4096).expect("frames");
        let frames = read_back(&mut out);
        let [_, AMQPFrame::Header(1, header)] = frames.as_slice() else { panic!("{frames:?}") };
        assert_eq!(header.properties.timestamp(), &None);
        assert_eq!(header.properties.kind().as_ref().map(ToString::to_string), Some("OrderPaid".into()));
    }

    #[test]
    fn a_body_is_split_so_that_each_frame_fits_and_an_empty_one_has_no_frame() {
        let frame_max = 512;
        for length in [0_usize, 1, 504, 505, 1008, 5000] {
            let body: Vec<u8> = (0..length).map(|index| u8::try_from(index % 251).expect("small")).collect();
            let mut out = VecDeque::new();
            publish(&mut out, &message(&body), frame_max).expect("frames");
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
        let good = message(b"");
        let too_long = |field| Err(FrameError::TooLong { field, bytes: 256 });
        let mut out = VecDeque::from(vec![7]);
        let mut refused = |message: &Message<'_>| publish(&mut out, message, 4096);
        assert_eq!(refused(&Message { exchange: &long, ..good }), too_long("exchange name"));
        assert_eq!(refused(&Message { routing_key: &long, ..good }), too_long("routing key"));
        let with = |properties| Message { properties, ..good };
        assert_eq!(refused(&with(Properties { message_id: &long, ..PROPERTIES })), too_long("message_id"));
        assert_eq!(refused(&with(Properties { event_type: &long, ..PROPERTIES })), too_long("type"));
        assert_eq!(refused(&with(Properties { app_id: &long, ..PROPERTIES })), too_long("app_id"));
        assert_eq!(refused(&with(Properties { content_type: &long, ..PROPERTIES })), too_long("content_type"));
        let headers = [(long.as_str(), Header::Int(1))];
        assert_eq!(refused(&with(Properties { headers: &headers, ..PROPERTIES })), too_long("name of a header"));
        let large = "x".repeat(5000);
        let headers = [("k", Header::Text(&large))];
        let error = refused(&with(Properties { headers: &headers, ..PROPERTIES })).expect_err("too large");
        assert!(matches!(error, FrameError::HeaderTooLarge { limit: 4096, .. }), "{error}");
        assert_eq!(out, [7]);
    }

    #[test]
    fn a_header_frame_fits_exactly_or_not_at_all() {
        let (_, payload) = measure(&PROPERTIES).expect("fits");
        assert!(publish(&mut VecDeque::new(), &message(b"x"), payload + FRAME_OVERHEAD).is_ok());
        assert!(publish(&mut VecDeque::new(), &message(b"x"), payload + FRAME_OVERHEAD - 1).is_err());
    }
}

//! An AMQP 0-9-1 connection with one channel: enough of it to publish ready-made frames with confirms, and to consume.

use std::io::{self, Cursor, ErrorKind, Read, Write};
use std::net::TcpStream;

use amq_protocol::frame::{AMQPFrame, WriteContext, gen_frame, parse_frame};
use amq_protocol::protocol::basic::{self, AMQPMethod as Basic};
use amq_protocol::protocol::connection::{self, AMQPMethod as Connection};
use amq_protocol::protocol::{AMQPClass, channel, confirm};
use amq_protocol::types::{AMQPValue, FieldTable};
use serde::{Deserialize, Serialize};

const CHANNEL: u16 = 1;
/// Frame types (§4.2.3).
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
/// Class and methods of `basic` (§1.8.3 of the generated reference).
const BASIC: u16 = 60;
const DELIVER: u16 = 60;
const ACK: u16 = 80;

/// Where a virtual host is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Address {
    pub(crate) port: u16,
    pub(crate) vhost: String,
}

/// A connection whose channel 1 is open.
pub(crate) struct Client {
    pub(crate) socket: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

/// What the broker says that a floor has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said<'a> {
    /// All up to this tag, or this one alone.
    Ack { tag: u64, multiple: bool },
    /// A piece of a message's body; the last of it.
    Body { bytes: &'a [u8] },
}

impl Client {
    /// Logs in as `guest`.
    pub(crate) fn open(address: &Address) -> io::Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", address.port))?;
        socket.set_nodelay(true)?;
        let mut this = Self { socket, buffer: vec![0; 1 << 18], filled: 0 };
        this.socket.write_all(b"AMQP\x00\x00\x09\x01")?;
        this.method()?; // connection.start
        let mut capabilities = FieldTable::default();
        for capability in ["publisher_confirms", "basic.nack"] {
            capabilities.insert(capability.into(), AMQPValue::Boolean(true));
        }
        let mut client_properties = FieldTable::default();
        client_properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
        this.send(AMQPClass::Connection(Connection::StartOk(connection::StartOk {
            client_properties,
            mechanism: "PLAIN".into(),
            response: "\0guest\0guest".into(),
            locale: "en_US".into(),
        })))?;
        let AMQPClass::Connection(Connection::Tune(tune)) = this.method()? else {
            return Err(io::Error::other("RabbitMQ refuses the login"));
        };
        // Without heartbeats: a floor has nothing to do while it is idle.
        let tune_ok = connection::TuneOk { channel_max: 1, frame_max: tune.frame_max, heartbeat: 0 };
        this.send(AMQPClass::Connection(Connection::TuneOk(tune_ok)))?;
        let virtual_host = address.vhost.as_str().into();
        this.call(AMQPClass::Connection(Connection::Open(connection::Open { virtual_host })))?;
        this.call(AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})))?;
        Ok(this)
    }

    /// [`Self::open`] with publisher confirms.
    pub(crate) fn publisher(address: &Address) -> io::Result<Self> {
        let mut this = Self::open(address)?;
        this.call(AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select { nowait: false })))?;
        Ok(this)
    }

    /// [`Self::open`] as a consumer that needs not ack.
    pub(crate) fn consumer(address: &Address, queue: &str) -> io::Result<Self> {
        let mut this = Self::open(address)?;
        this.call(AMQPClass::Basic(Basic::Consume(basic::Consume {
            queue: queue.into(),
            consumer_tag: "bench".into(),
            no_local: false,
            no_ack: true,
            exclusive: false,
            nowait: false,
            arguments: FieldTable::default(),
        })))?;
        Ok(this)
    }

    /// Waits for what the broker says, and hands over all that has come whole.
    pub(crate) fn read(&mut self, mut each: impl FnMut(Said<'_>)) -> io::Result<()> {
        while frame(&self.buffer[..self.filled], 0).is_none() {
            self.fill()?;
        }
        let mut at = 0;
        while let Some((kind, payload, next)) = frame(&self.buffer[..self.filled], at) {
            at = next;
            match kind {
                METHOD => match (class(payload), payload.get(4..)) {
                    ((BASIC, ACK), Some(arguments)) => {
                        let tag = arguments.first_chunk().map_or(0, |tag| u64::from_be_bytes(*tag));
                        each(Said::Ack { tag, multiple: arguments.get(8) == Some(&1) });
                    }
                    // Its header and body follow.
                    ((BASIC, DELIVER), _) => {}
                    (method, _) => return Err(io::Error::other(format!("RabbitMQ says {method:?}"))),
                },
                BODY => each(Said::Body { bytes: payload }),
                HEADER | HEARTBEAT => {}
                kind => return Err(io::Error::other(format!("a frame of type {kind}"))),
            }
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(())
    }

    /// One read of more.
    fn fill(&mut self) -> io::Result<()> {
        if self.filled == self.buffer.len() {
            self.buffer.resize(2 * self.filled, 0);
        }
        match self.socket.read(&mut self.buffer[self.filled..]) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                self.filled += read;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn send(&mut self, method: AMQPClass) -> io::Result<()> {
        let channel = if matches!(method, AMQPClass::Connection(_)) { 0 } else { CHANNEL };
        let frame = AMQPFrame::Method(channel, method);
        let mut bytes = [0; 4096];
        let written = gen_frame(&frame)(WriteContext::from(Cursor::new(bytes.as_mut_slice())));
        let length = usize::try_from(written.map_err(io::Error::other)?.position).map_err(io::Error::other)?;
        self.socket.write_all(&bytes[..length])
    }

    /// Sends a method and waits for its answer.
    fn call(&mut self, method: AMQPClass) -> io::Result<()> {
        self.send(method)?;
        match self.method()? {
            AMQPClass::Connection(Connection::Close(close)) => Err(io::Error::other(close.reply_text.to_string())),
            AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
                Err(io::Error::other(close.reply_text.to_string()))
            }
            _ => Ok(()),
        }
    }

    fn method(&mut self) -> io::Result<AMQPClass> {
        loop {
            if let Some((_, _, next)) = frame(&self.buffer[..self.filled], 0) {
                let parsed = parse_frame(&self.buffer[..next]).map(|(_, frame)| frame);
                let parsed = parsed.map_err(|error| io::Error::other(format!("{error:?}")))?;
                self.buffer.copy_within(next..self.filled, 0);
                self.filled -= next;
                match parsed {
                    AMQPFrame::Method(_, method) => return Ok(method),
                    _ => continue,
                }
            }
            self.fill()?;
        }
    }
}

/// The type and the payload of the frame that begins there, and where it ends; none if it is not whole yet.
pub(crate) fn frame(bytes: &[u8], at: usize) -> Option<(u8, &[u8], usize)> {
    let head = bytes.get(at..at + 7)?;
    let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    let payload = bytes.get(at + 7..at + 7 + length)?;
    // The end octet is of the frame too.
    (bytes.len() > at + 7 + length).then_some((head[0], payload, at + 7 + length + 1))
}

/// Whether a frame of this type begins a message.
pub(crate) fn is_method(kind: u8) -> bool {
    kind == METHOD
}

fn class(payload: &[u8]) -> (u16, u16) {
    let number = |at| payload.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |two| u16::from_be_bytes(*two));
    (number(0), number(2))
}

/// The frames of one persistent, mandatory message with nothing but an id.
pub(crate) fn publish(out: &mut Vec<u8>, exchange: &str, routing_key: &str, message_id: &[u8], body: &[u8]) {
    let short = |out: &mut Vec<u8>, text: &[u8]| {
        out.push(u8::try_from(text.len()).expect("a short string"));
        out.extend_from_slice(text);
    };
    let frame = |out: &mut Vec<u8>, kind: u8, fill: &dyn Fn(&mut Vec<u8>)| {
        out.push(kind);
        out.extend_from_slice(&CHANNEL.to_be_bytes());
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        fill(out);
        let length = u32::try_from(out.len() - start - 4).expect("a small frame");
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
        out.push(0xCE);
    };
    frame(out, METHOD, &|out| {
        out.extend_from_slice(&[0, 60, 0, 40, 0, 0]); // basic.publish
        short(out, exchange.as_bytes());
        short(out, routing_key.as_bytes());
        out.push(1); // mandatory
    });
    frame(out, HEADER, &|out| {
        out.extend_from_slice(&[0, 60, 0, 0]);
        out.extend_from_slice(&(body.len() as u64).to_be_bytes());
        out.extend_from_slice(&(1_u16 << 12 | 1 << 7).to_be_bytes()); // delivery-mode, message-id
        out.push(2);
        short(out, message_id);
    });
    frame(out, BODY, &|out| out.extend_from_slice(body));
}

//! What arrives on an AMQP connection: bytes → frames → messages, with a look at what every message must have.

use amq_protocol::frame::{AMQPFrame, parse_frame};
use amq_protocol::protocol::{AMQPClass, basic};
use amq_protocol::types::AMQPValue;

/// A message, as the broker has read it.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) message_id: String,
    pub(crate) position: String,
    pub(crate) committed_at_us: i64,
    /// Its number in its transaction, and whether it is the last.
    pub(crate) numbered: Option<(i64, bool)>,
    pub(crate) body: Vec<u8>,
    /// Of its frames.
    pub(crate) wire_bytes: usize,
    /// How much was written on the connection before it.
    pub(crate) begins_at: usize,
    /// As its header says; none before that has come.
    body_bytes: Option<usize>,
}

/// The bytes that were written on a connection.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    bytes: Vec<u8>,
    /// How many were read before these.
    read: usize,
    /// The message of which not all frames were read.
    partial: Option<Published>,
}

impl Reader {
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// How much was ever written.
    pub(crate) fn written(&self) -> usize {
        self.read + self.bytes.len()
    }

    /// How much was written, and not read.
    pub(crate) fn unread(&self) -> usize {
        self.bytes.len()
    }

    /// The last bytes are lost.
    pub(crate) fn lose(&mut self, bytes: usize) {
        self.bytes.truncate(self.bytes.len() - bytes);
    }

    /// The next message, if all of it is there.
    pub(crate) fn next(&mut self, frame_max: usize) -> Result<Option<Published>, String> {
        while let Some(header) = self.bytes.get(..7) {
            let payload = u32::from_be_bytes([header[3], header[4], header[5], header[6]]) as usize;
            let Some(bytes) = self.bytes.get(..payload + 8) else { break };
            if bytes.len() > frame_max {
                return Err(format!("a frame of {} bytes where {frame_max} are allowed", bytes.len()));
            }
            let (_, frame) = parse_frame(bytes).map_err(|error| format!("a frame can't be read: {error:?}"))?;
            let begins_at = self.read;
            self.bytes.drain(..payload + 8);
            self.read += payload + 8;
            let mut message = self.frame(frame, begins_at)?;
            message.wire_bytes += payload + 8;
            if message.body_bytes == Some(message.body.len()) {
                return Ok(Some(message));
            }
            self.partial = Some(message);
        }
        Ok(None)
    }

    /// The message that this frame belongs to.
    fn frame(&mut self, frame: AMQPFrame, begins_at: usize) -> Result<Published, String> {
        match (frame, self.partial.take()) {
            (AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Publish(publish))), None) => {
                if !publish.mandatory {
                    return Err("a publish is not mandatory".to_owned());
                }
                let (exchange, routing_key) = (publish.exchange.to_string(), publish.routing_key.to_string());
                Ok(Published { exchange, routing_key, begins_at, ..Published::default() })
            }
            (AMQPFrame::Header(1, header), Some(mut message)) if message.body_bytes.is_none() => {
                let properties = &header.properties;
                if *properties.delivery_mode() != Some(2) {
                    return Err("a message is not persistent".to_owned());
                }
                let headers = properties.headers().as_ref().ok_or("a message has no headers")?.inner();
                if let Some(AMQPValue::LongString(position)) = headers.get("position") {
                    message.position = position.to_string();
                }
                if let Some(AMQPValue::LongLongInt(committed_at_us)) = headers.get("committed_at_us") {
                    message.committed_at_us = *committed_at_us;
                }
                if let (Some(AMQPValue::LongLongInt(number)), Some(AMQPValue::Boolean(is_last))) =
                    (headers.get("transaction_number"), headers.get("transaction_last"))
                {
                    message.numbered = Some((*number, *is_last));
                }
                message.message_id = properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
                message.body_bytes = Some(usize::try_from(header.body_size).expect("small"));
                Ok(message)
            }
            (AMQPFrame::Body(1, bytes), Some(mut message)) if message.body_bytes.is_some() => {
                message.body.extend(bytes);
                Ok(message)
            }
            (frame, _) => Err(format!("a frame is out of place: {frame:?}")),
        }
    }
}

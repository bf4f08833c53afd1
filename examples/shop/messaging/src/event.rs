//! An event as it came off a queue.

use std::str::FromStr;

use anyhow::Context as _;
use lapin::BasicProperties;
use lapin::types::AMQPValue;
use serde::de::DeserializeOwned;

/// An event as it came off a queue.
#[derive(Debug, Clone)]
pub struct Event {
    /// The same whenever it is sent again.
    pub message_id: String,
    /// As `OrderCreated`.
    pub event_type: String,
    /// Where it is in the history of its database; none if it was sent from the outbox table.
    pub position: Option<Position>,
    /// Which aggregate it is about, if it is from an outbox.
    pub aggregate_id: Option<String>,
    /// How often it has failed here before.
    pub failures: u32,
    /// As it was written.
    pub body: Vec<u8>,
}

/// Where an event is in the history of the database that it came from. It rises with the commits, and is the same whenever the
/// event is sent again; so of two events about the same row, the one with the higher position is the later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Where in the write-ahead log the transaction was committed.
    pub lsn: u64,
    /// The change's number in the transaction.
    pub ordinal: u64,
}

/// How often a message has failed, in a header of our own: the broker's `x-death` is no longer ours to send since RabbitMQ 4.
pub(crate) const FAILURES: &str = "failures";

impl Event {
    /// The body, as what the consumer expects.
    ///
    /// # Errors
    /// When it is something else.
    pub fn payload<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_slice(&self.body).with_context(|| format!("the body of {}", self.event_type))
    }

    /// A message that has lost its id still has a body that somebody may want to see: its id is then empty.
    pub(crate) fn of(properties: &BasicProperties, body: &[u8]) -> Self {
        let text = |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string);
        let header = |name: &str| properties.headers().as_ref().and_then(|headers| headers.inner().get(name));
        let header_text = |name: &str| match header(name)? {
            AMQPValue::LongString(value) => Some(value.to_string()),
            AMQPValue::ShortString(value) => Some(value.to_string()),
            _ => None,
        };
        let failures = match header(FAILURES) {
            Some(AMQPValue::LongUInt(value)) => *value,
            _ => 0,
        };
        Self {
            message_id: text(properties.message_id()).unwrap_or_default(),
            event_type: text(properties.kind()).unwrap_or_default(),
            position: header_text("position").and_then(|position| position.parse().ok()),
            aggregate_id: header_text("aggregate_id"),
            failures,
            body: body.to_vec(),
        }
    }
}

impl Position {
    /// For two columns of type `bigint`, which compare as the position does: `(lsn, ordinal) < ($1, $2)`.
    #[must_use]
    pub fn columns(self) -> (i64, i64) {
        (self.lsn.cast_signed(), self.ordinal.cast_signed())
    }
}

impl FromStr for Position {
    type Err = anyhow::Error;

    /// `16/B374D848:3`
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let parts = text.split_once('/').and_then(|(high, rest)| Some((high, rest.split_once(':')?)));
        let (high, (low, ordinal)) = parts.context("a position is HIGH/LOW:ORDINAL")?;
        let half = |text| u32::from_str_radix(text, 16).context("half an LSN is 32 bits in hexadecimal digits");
        let lsn = u64::from(half(high)?) << 32 | u64::from(half(low)?);
        Ok(Self { lsn, ordinal: ordinal.parse().context("an ordinal is a number")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_in_the_order_of_commits() {
        let position = |text: &str| text.parse::<Position>().expect(text);
        assert_eq!(position("16/B374D848:3"), Position { lsn: 0x16_B374_D848, ordinal: 3 });
        assert!(position("2/0:0") > position("1/FFFFFFFF:9"));
        assert!(position("1/10:10") > position("1/10:9"));
        for wrong in ["", "1/2", "1:2", "x/1:1", "1/100000000:1", "1/1:"] {
            assert!(wrong.parse::<Position>().is_err(), "{wrong}");
        }
    }
}

//! The event in the frames of one publish: the way back of `wire`, for what is parked.
//!
//! Only ever given what `wire::publish` has written; so where it does not fit, that is a bug, and nothing is read.

use super::wire::{EXCHANGE_AT, FRAME_OVERHEAD};
use crate::encode::message::Event;

/// Before a frame's payload: type, channel, size.
const FRAME_HEADER: usize = 7;

/// Reads the event back. What it was made of, and its ordering key, are not in the frames.
pub(super) fn event(frames: &[u8]) -> Option<Event> {
    let mut event = Event::default();
    let mut method = Fields(frames.get(EXCHANGE_AT..)?);
    event.exchange = method.short()?;
    event.routing_key = method.short()?;
    let (_, rest) = payload(frames)?;
    let (header, mut rest) = payload(rest)?;
    // Class, weight, body size.
    let mut fields = Fields(header.get(2 + 2 + 8..)?);
    let flags = u16::from_be_bytes(fields.take()?);
    let has = |bit: u32| flags & 1 << bit != 0;
    let text = |fields: &mut Fields<'_>, bit| if has(bit) { fields.short() } else { Some(String::new()) };
    event.content_type = text(&mut fields, 15)?;
    event.content_encoding = text(&mut fields, 14)?;
    if has(13) {
        let length = u32::from_be_bytes(fields.take()?) as usize;
        event.headers.extend(fields.slice(length)?);
    }
    if has(12) {
        let _persistent: [u8; 1] = fields.take()?;
    }
    event.priority = if has(11) { Some(u8::from_be_bytes(fields.take()?)) } else { None };
    event.correlation_id = text(&mut fields, 10)?;
    event.reply_to = text(&mut fields, 9)?;
    event.expiration = text(&mut fields, 8)?;
    event.message_id = text(&mut fields, 7)?;
    event.timestamp_s = if has(6) { Some(u64::from_be_bytes(fields.take()?)) } else { None };
    event.event_type = text(&mut fields, 5)?;
    event.app_id = text(&mut fields, 3)?;
    while !rest.is_empty() {
        let (chunk, after) = payload(rest)?;
        event.body.extend_from_slice(chunk);
        rest = after;
    }
    Some(event)
}

/// Of the first frame; and the frames after it.
fn payload(frames: &[u8]) -> Option<(&[u8], &[u8])> {
    let size = frames.get(3..FRAME_HEADER)?.first_chunk()?;
    let size = u32::from_be_bytes(*size) as usize;
    Some((frames.get(FRAME_HEADER..FRAME_HEADER + size)?, frames.get(size + FRAME_OVERHEAD..)?))
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn slice(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn short(&mut self) -> Option<String> {
        let [length] = self.take()?;
        String::from_utf8(self.slice(usize::from(length))?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::encode::message::Header;
    use crate::rabbit::wire;

    #[test]
    fn what_was_framed_is_read_back() {
        for there in 0..64_u8 {
            let is = |bit: u8| there & 1 << bit != 0;
            let text = |bit: u8, text: &str| if is(bit) { text.to_owned() } else { String::new() };
            let mut event = Event {
                exchange: "domain.events".into(),
                routing_key: text(0, "order.paid"),
                content_type: "application/json".into(),
                content_encoding: text(1, "gzip"),
                priority: is(2).then_some(7),
                correlation_id: text(3, "cause"),
                reply_to: text(4, "answers"),
                expiration: text(5, "60000"),
                message_id: "shop:0/10:3".into(),
                timestamp_s: is(0).then_some(1_700_000_000),
                event_type: "OrderPaid".into(),
                app_id: "shop".into(),
                body: vec![7; usize::from(there) * 100],
                ..Event::default()
            };
            event.headers.push("position", Header::Text("0/10:3"));
            event.headers.push("last", Header::Bool(true));
            let mut out = VecDeque::new();
            wire::publish(&mut out, &mut Vec::new(), &event.message(), 512).expect("frames");
            let read = super::event(out.make_contiguous()).expect("is whole");
            assert_eq!(format!("{read:?}"), format!("{event:?}"));
            out.pop_back();
            assert!(super::event(out.make_contiguous()).is_none());
        }
    }
}

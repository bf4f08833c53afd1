//! What a parked message says beside the event that it is, and in the place of one that it can't carry.
//!
//! Headers `parked_…` beside the event's own. Invariant: everything here is cut to a bound, and tells no row's values beyond
//! what the error does. `rabbit::parking` publishes it, `cli::parked` sends it again.

use super::message::{Event, Header};
use super::text::json_string;
use crate::lsn::{Lsn, Position};

/// Why: `unroutable`, or a [`Poison`](crate::failure::Poison).
pub const REASON: &str = "parked_reason";
/// The error in words.
pub const ERROR: &str = "parked_error";
/// Where it was to go.
pub const EXCHANGE: &str = "parked_exchange";
/// Where it was to go.
pub const ROUTING_KEY: &str = "parked_routing_key";
/// Its position, where it has one.
pub const POSITION: &str = "parked_position";
/// When it was parked: microseconds since 1970.
pub const AT_US: &str = "parked_at_us";
/// How long the event was to live, in milliseconds: while it is parked it does not end.
pub const EXPIRATION: &str = "parked_expiration";
/// The body is not the event's: it describes the event, which has to be replayed.
pub const DESCRIBED: &str = "parked_described";
/// The event's own headers did not fit beside these.
pub const STRIPPED: &str = "parked_headers_left_out";
/// All of these begin so.
pub const PREFIX: &str = "parked_";
/// Of a message that was parked and sent again: microseconds since 1970.
pub const SENT_AT_US: &str = "unparked_at_us";
/// The reason of an event that no queue takes.
pub const UNROUTABLE: &str = "unroutable";

/// An error is cut to so many bytes.
const ERROR_BYTES_MAX: usize = 500;
/// A name is cut to so many; AMQP itself takes 255, so one that was cut is still too long.
const NAME_BYTES_MAX: usize = 300;
/// What AMQP takes of a property.
const PROPERTY_BYTES_MAX: usize = 255;

/// What the event was to be, and why it is not published as that.
#[derive(Debug, Clone, Copy)]
pub struct Parking<'a> {
    /// For [`REASON`].
    pub reason: &'static str,
    /// For [`ERROR`].
    pub error: &'a str,
    /// For [`AT_US`].
    pub at_us: i64,
}

/// Turns an event into what is parked of it: all but its exchange, which is `exchange` now. With `described`, its body can't
/// be carried.
pub fn park(event: &mut Event, parking: Parking<'_>, exchange: &str, described: bool) {
    let position = event.headers.all().text("position").map(str::to_owned);
    if described {
        describe(event, parking, position.as_deref());
        event.headers.push(DESCRIBED, Header::Bool(true));
    }
    event.headers.push(REASON, Header::Text(parking.reason));
    event.headers.push(ERROR, Header::Text(cut(parking.error, ERROR_BYTES_MAX)));
    event.headers.push(EXCHANGE, Header::Text(cut(&event.exchange, NAME_BYTES_MAX)));
    event.headers.push(ROUTING_KEY, Header::Text(cut(&event.routing_key, NAME_BYTES_MAX)));
    if let Some(position) = &position {
        event.headers.push(POSITION, Header::Text(position));
    }
    if !event.expiration.is_empty() {
        event.headers.push(EXPIRATION, Header::Text(&event.expiration));
        event.expiration.clear();
    }
    event.headers.push(AT_US, Header::Int(parking.at_us));
    exchange.clone_into(&mut event.exchange);
    let Event { routing_key, content_type, content_encoding, correlation_id, reply_to, .. } = event;
    for text in [routing_key, content_type, content_encoding, correlation_id, reply_to] {
        text.truncate(text.floor_char_boundary(PROPERTY_BYTES_MAX));
    }
    let Event { message_id, event_type, app_id, .. } = event;
    for text in [message_id, event_type, app_id] {
        text.truncate(text.floor_char_boundary(PROPERTY_BYTES_MAX));
    }
}

/// In which transaction the event is, where that is known.
#[must_use]
pub fn commit_lsn(event: &Event) -> Option<Lsn> {
    let headers = event.headers.all();
    let position: Position = headers.text("position").or_else(|| headers.text(POSITION))?.parse().ok()?;
    Some(position.commit_lsn)
}

/// Leaves out the event's own headers: with them, the message does not fit one frame.
pub fn strip(event: &mut Event) {
    let own = std::mem::take(&mut event.headers);
    own.all()
        .iter()
        .filter(|(name, _)| name.starts_with(PREFIX))
        .for_each(|(name, value)| event.headers.push(name, value));
    event.headers.push(STRIPPED, Header::Bool(true));
}

/// Whether that was done.
#[must_use]
pub fn is_stripped(event: &Event) -> bool {
    event.headers.all().iter().any(|(name, _)| name == STRIPPED)
}

/// The body of what is parked does not fit after all. Where its description does not fit either, there is none.
pub fn describe_parked(event: &mut Event) {
    if event.headers.all().iter().any(|(name, _)| name == DESCRIBED) {
        event.body.clear();
        return;
    }
    let headers = event.headers.clone();
    let error = headers.all().text(ERROR).unwrap_or_default();
    let position = headers.all().text(POSITION);
    // Whatever it was parked for, it is too large as well.
    describe(event, Parking { reason: "too_large", error, at_us: 0 }, position);
    event.headers.push(DESCRIBED, Header::Bool(true));
}

/// `{"parked":"too_large","error":…,"event":"insert of public.orders","id":…,"type":…,"position":…,"replay_from":…,"bytes":…}`
fn describe(event: &mut Event, parking: Parking<'_>, position: Option<&str>) {
    let bytes = event.body.len();
    event.body = Vec::new();
    let replay_from = position.and_then(|position| position.split(':').next());
    let fields = [
        ("parked", Some(parking.reason)),
        ("error", Some(cut(parking.error, ERROR_BYTES_MAX))),
        ("event", Some(event.origin.as_str())),
        ("id", Some(event.message_id.as_str())),
        ("type", Some(event.event_type.as_str())),
        ("position", position),
        ("replay_from", replay_from),
    ];
    let out = &mut event.body;
    out.push(b'{');
    for (name, value) in fields.into_iter().filter_map(|(name, value)| Some((name, value.filter(|it| !it.is_empty())?)))
    {
        json_string(out, name.as_bytes());
        out.push(b':');
        json_string(out, cut(value, ERROR_BYTES_MAX).as_bytes());
        out.push(b',');
    }
    // Of a body that was never made, the error tells what is known.
    if bytes > 0 {
        out.extend_from_slice(format!("\"bytes\":{bytes},").as_bytes());
    }
    out.pop();
    out.push(b'}');
    "application/json".clone_into(&mut event.content_type);
    event.content_encoding.clear();
}

fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        let mut event = Event {
            exchange: "e".repeat(400),
            routing_key: "k".repeat(400),
            event_type: "t".repeat(300),
            message_id: "shop:0/10:2".to_owned(),
            expiration: "soon".to_owned(),
            body: b"secret".to_vec(),
            ..Event::default()
        };
        event.headers.push("position", Header::Text("0/10:2"));
        event
    }

    #[test]
    fn it_keeps_what_the_event_is_and_says_why_within_bounds() {
        let mut event = event();
        let error = "ü".repeat(2_000);
        park(&mut event, Parking { reason: "name_too_long", error: &error, at_us: 7 }, "shop.parked", false);
        let headers = event.headers.all();
        assert_eq!((event.exchange.as_str(), &event.body[..]), ("shop.parked", &b"secret"[..]));
        assert_eq!((event.routing_key.len(), event.event_type.len(), event.expiration.as_str()), (255, 255, ""));
        assert_eq!((headers.text(REASON), headers.text(POSITION)), (Some("name_too_long"), Some("0/10:2")));
        assert_eq!(headers.text(EXPIRATION), Some("soon"));
        assert_eq!(headers.text(ERROR).map(str::len), Some(500));
        assert_eq!(headers.text(EXCHANGE).map(str::len), Some(300));
        assert_eq!(headers.text("position"), Some("0/10:2"));
        strip(&mut event);
        let headers = event.headers.all();
        assert_eq!((headers.text(REASON), headers.text("position")), (Some("name_too_long"), None));
    }

    #[test]
    fn what_it_can_not_carry_it_describes() {
        let mut event = event();
        "insert of public.orders".clone_into(&mut event.origin);
        park(&mut event, Parking { reason: "too_large", error: "it is", at_us: 7 }, "shop.parked", true);
        let body: serde_json::Value = serde_json::from_slice(&event.body).expect("JSON");
        assert_eq!(
            (&body["parked"], &body["bytes"], &body["replay_from"]),
            (&"too_large".into(), &6.into(), &"0/10".into())
        );
        assert_eq!((&body["event"], &body["error"]), (&"insert of public.orders".into(), &"it is".into()));
    }
}
